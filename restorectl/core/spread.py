"""Statistics over repeated restorations of the same pixels, and intervals predicted from them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Spread:
    """What N samples (N, ...) say of each pixel, float32 in their units."""

    count: int
    mean: np.ndarray
    std: np.ndarray  # over the population, ddof = 0 (paper 002, eq. 15)
    entropy: np.ndarray  # nats, of the samples as 8-bit values (paper 002, eq. 16)


def gather(samples: Iterable[np.ndarray], low: np.ndarray, high: np.ndarray) -> Spread:
    """Statistics of a stream of samples (...) float32; one of them is held, and all as 8 bit.

    low, high: what 8-bit values call 0 and 255; they broadcast against a sample.
    """
    count, eight = 0, []
    for sample in samples:
        count += 1
        if count == 1:
            mean, squares = sample.astype(np.float64), np.zeros(sample.shape)
        else:  # Welford 1962
            step = sample - mean
            mean += step / count
            squares += step * (sample - mean)
        scaled = (sample - low) * (255.0 / (high - low))
        eight.append(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
    std = np.sqrt(squares / count)
    return Spread(count, mean.astype(np.float32), std.astype(np.float32), entropy(np.stack(eight)))


def entropy(values: np.ndarray) -> np.ndarray:
    """Of the N values at each pixel, (N, ...) integers -> (...) float32 in [0, ln N].

    -sum p ln p over the distinct values, p their shares (paper 002, eq. 16).
    """
    count = len(values)
    ordered = np.sort(values, axis=0)
    run = np.ones(values.shape[1:])
    total = np.zeros(values.shape[1:])  # of r ln r over runs of equal values
    for k in range(1, count):
        ends = ordered[k] != ordered[k - 1]
        total += np.where(ends, run * np.log(run), 0.0)
        run = np.where(ends, 1.0, run + 1)
    total += run * np.log(run)
    return np.maximum(math.log(count) - total / count, 0.0).astype(np.float32)


def prediction_factor(count: int, coverage: float) -> float:
    """Half-width of the interval for one more draw, in sample standard deviations (ddof = 0).

    t * sqrt(1 + 1/N) for a normal law, with N - 1 degrees of freedom: quantiles of few samples
    cannot reach far, 15 of them not even 90 %.
    """
    t = student_quantile((1 + coverage) / 2, count - 1)
    return t * math.sqrt((1 + 1 / count) * count / (count - 1))


@lru_cache(maxsize=64)
def student_quantile(p: float, degrees: int) -> float:
    """The p-quantile of Student's t, 0.5 <= p < 1, by bisection of its distribution function."""
    low, high = 0.0, 1.0
    while _student_cdf(high, degrees) < p:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, degrees) < p else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, degrees: int) -> float:
    """P(T <= t) for t >= 0: the finite series of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    theta = math.atan(t / math.sqrt(degrees))
    cosine, odd = math.cos(theta), degrees % 2
    term, total = (cosine, cosine) if odd else (1.0, 1.0)
    if degrees == 1:
        total = 0.0
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    inside = math.sin(theta) * total
    return 0.5 + ((theta + inside) / math.pi if odd else inside / 2)
