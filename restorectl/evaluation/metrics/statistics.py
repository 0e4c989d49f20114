"""Statistics over the files of a comparison."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    n: int
    median: float
    mean: float
    low: float
    high: float


def summary(values: Sequence[float]) -> Summary:
    """At least one value; infinite ones are allowed."""
    found = sorted(values)
    middle = len(found) // 2
    median = found[middle] if len(found) % 2 else (found[middle - 1] + found[middle]) / 2
    return Summary(len(found), median, sum(found) / len(found), found[0], found[-1])


def median_test(a: Sequence[float], b: Sequence[float]) -> float:
    """p of Mood's median test of two samples, as paper 002 compares methods.

    Counts above the common median (equal ones are not above), chi-squared with Yates' correction
    and one degree of freedom. 1 where no value is above it, as when all are equal.
    """
    median = summary([*a, *b]).median
    above = [sum(value > median for value in sample) for sample in (a, b)]
    total, high = len(a) + len(b), sum(above)
    if high == 0:
        return 1.0
    statistic = 0.0
    for sample, count in zip((a, b), above, strict=True):
        for observed, share in ((count, high), (len(sample) - count, total - high)):
            expected = len(sample) * share / total
            away = abs(observed - expected)
            statistic += (away - min(0.5, away)) ** 2 / expected
    return math.erfc(math.sqrt(statistic / 2))


def ranking(medians: Mapping[str, float], better: str) -> list[str]:
    """Names from best to worst; empty where neither direction is better."""
    if not better:
        return []
    return sorted(medians, key=medians.__getitem__, reverse=better == "higher")


def ranks(values: np.ndarray) -> np.ndarray:
    """(N,) -> float64 ranks 0..N-1, equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((2 * ends - counts - 1) / 2)[inverse]
