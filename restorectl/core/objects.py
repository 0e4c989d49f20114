"""Counts and compares labelled objects; labels are integer arrays with 0 for the background."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.integer]
OVERLAP = 0.5  # IoU from which two objects are one: above it a match is unique


@dataclass(frozen=True)
class Match:
    """Objects of one image against those of the target."""

    objects: int
    targets: int
    matched: int
    iou: float  # sum over the matches

    def __add__(self, other: "Match") -> "Match":
        return Match(
            self.objects + other.objects,
            self.targets + other.targets,
            self.matched + other.matched,
            self.iou + other.iou,
        )

    @property
    def precision(self) -> float | None:
        """Share of the objects that the target has too, 0..1; None without objects."""
        return self.matched / self.objects if self.objects else None

    @property
    def recall(self) -> float | None:
        """Share of the target's objects that were found, 0..1; None without targets."""
        return self.matched / self.targets if self.targets else None

    @property
    def f1(self) -> float | None:
        """2 matched / (objects + targets), 0..1; None where neither has an object."""
        total = self.objects + self.targets
        return 2 * self.matched / total if total else None

    @property
    def mean_iou(self) -> float | None:
        """Mean intersection over union of the matches, 0.5..1; None without one."""
        return self.iou / self.matched if self.matched else None


def areas(labels: Labels) -> NDArray[np.int64]:
    """Pixels of each object, in the order of their labels; (n,)."""
    counts = np.bincount(labels.ravel())[1:].astype(np.int64)
    return counts[counts > 0]


def without_small(labels: Labels, least: int) -> Labels:
    """The same labels without objects of fewer than `least` pixels."""
    counts = np.bincount(labels.ravel())
    kept = counts >= least
    kept[0] = False
    return np.where(kept[labels], labels, 0)


def match(labels: Labels, target: Labels) -> Match:
    """Objects of two label images of one shape that overlap with an IoU above OVERLAP.

    An IoU above one half cannot be had by two objects at once, so no assignment is needed
    (Kirillov et al. 2019, section 4.1).
    """
    ours, theirs = np.bincount(labels.ravel()), np.bincount(target.ravel())
    both = (labels > 0) & (target > 0)
    pairs, shared = np.unique(
        np.stack([labels[both], target[both]]).astype(np.int64), axis=1, return_counts=True
    )
    iou = shared / (ours[pairs[0]] + theirs[pairs[1]] - shared)
    good = iou > OVERLAP
    counts = int(np.count_nonzero(ours[1:])), int(np.count_nonzero(theirs[1:]))
    return Match(*counts, int(good.sum()), float(iou[good].sum()))
