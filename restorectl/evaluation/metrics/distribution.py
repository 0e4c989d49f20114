"""Frechet distance between the features of two sets of images (Heusel et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from restorectl.evaluation.metrics.metric import Array, Undefined


@dataclass(frozen=True)
class Moments:
    """Count, mean (D,) and scatter (D, D), all float64, of features seen so far."""

    count: int
    mean: Array
    scatter: Array  # sum of (f - mean)(f - mean)ᵀ

    @property
    def covariance(self) -> Array:
        """(D, D), unbiased. Raises Undefined for fewer than 2 samples."""
        if self.count < 2:
            raise Undefined(f"{self.count} image gives no covariance: use at least 2")
        return self.scatter / (self.count - 1)

    @cached_property
    def root(self) -> Array:
        """(D, rank): the covariance is this times its transpose. Kept: a reference serves often."""
        values, vectors = np.linalg.eigh(self.covariance)
        kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
        factor: Array = vectors[:, kept] * np.sqrt(values[kept])
        return factor

    def joined(self, features: Array) -> Moments:
        """With further features (N, D); Chan's update, exact however they are divided."""
        more = len(features)
        mean = features.mean(0)
        apart = mean - self.mean
        total = self.count + more
        centred = features - mean
        scatter = self.scatter + centred.T @ centred
        scatter += np.outer(apart, apart) * (self.count * more / total)
        return Moments(total, self.mean + apart * (more / total), scatter)


def nothing(dimensions: int) -> Moments:
    """The moments of no samples."""
    return Moments(0, np.zeros(dimensions), np.zeros((dimensions, dimensions)))


def frechet(a: Moments, b: Moments) -> float:
    """|mean a - mean b|² + tr(A + B - 2 (A B)^½), at least 0.

    With B = R Rᵀ, (A B)^½ has the trace of (Rᵀ A R)^½, which is symmetric: eigenvalues in float64
    and no complex square root. Raises Undefined for fewer than 2 samples.
    """
    first, second = a.covariance, b.covariance
    middle = np.linalg.eigvalsh(b.root.T @ first @ b.root)
    cross = float(np.sqrt(np.clip(middle, 0, None)).sum())
    apart = float(np.sum((a.mean - b.mean) ** 2))
    return max(apart + float(np.trace(first) + np.trace(second)) - 2 * cross, 0.0)
