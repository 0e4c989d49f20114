"""How well an uncertainty map predicts the error: intervals, rank correlations, sparsification."""

import math

import numpy as np
from scipy.stats import rankdata

from restorectl.evaluation.metrics.metric import Array, UncertaintyMetric, UncertaintySet, Undefined

REMOVED = np.arange(20) / 20  # shares of the pixels taken away in a sparsification curve


def coverage(spread: UncertaintySet) -> float:
    """Share of pixels whose target lies in lower..upper, 0..1; ideally the nominal share."""
    return float(np.mean((spread.lower <= spread.target) & (spread.target <= spread.upper)))


def width(spread: UncertaintySet) -> float:
    """Mean upper - lower, grey levels."""
    return float(np.mean(spread.upper - spread.lower))


def interval_score(spread: UncertaintySet) -> float:
    """Width plus 2 / alpha times the misses (Gneiting and Raftery 2007, eq. 43), grey levels."""
    below = np.clip(spread.lower - spread.target, 0, None)
    above = np.clip(spread.target - spread.upper, 0, None)
    return width(spread) + 2 / (1 - spread.interval) * float(np.mean(below + above))


def spearman(spread: UncertaintySet) -> float:
    """Rank correlation of std and |mean - target|, -1..1."""
    return _correlation(
        rankdata(_varying(spread.std, "std")), rankdata(_varying(_error(spread), "error"))
    )


def partial_spearman(spread: UncertaintySet) -> float:
    """Partial rank correlation of std and |mean - target|, given the rank of the mean, -1..1.

    Bright pixels have more noise and more error; this measures what std predicts beyond brightness.
    """
    std, error = rankdata(_varying(spread.std, "std")), rankdata(_varying(_error(spread), "error"))
    mean = rankdata(_varying(spread.mean, "prediction"))
    both, one, two = _correlation(std, error), _correlation(std, mean), _correlation(error, mean)
    rest = (1 - one**2) * (1 - two**2)
    if rest <= 1e-12:
        raise Undefined("std or error is a function of the predicted intensity")
    return (both - one * two) / math.sqrt(rest)


def sparsification(spread: UncertaintySet) -> tuple[Array, Array]:
    """Mean |error| of the pixels left after the shares REMOVED are taken, over that of all pixels.

    Two curves (20,): taking the pixels of largest std first, and taking those of largest error
    first, the best order that any map can give (Ilg et al. 2018).
    """
    error = _error(spread)
    total = error.mean()
    if total == 0:
        raise Undefined("the prediction equals the target")
    return _curve(spread.std.ravel(), error) / total, _curve(error, error) / total


def ause(spread: UncertaintySet) -> float:
    """Area between the two sparsification curves; 0 if std orders the pixels by their error."""
    found, best = sparsification(spread)
    return float(np.trapezoid(found - best, REMOVED))


def _curve(key: Array, error: Array) -> Array:
    order = np.argsort(key, kind="stable")  # smallest first: what is left are the first ones
    sums = np.cumsum(error[order])
    left = np.maximum(1, np.rint((1 - REMOVED) * error.size).astype(np.int64))
    means: Array = sums[left - 1] / left
    return means


def _error(spread: UncertaintySet) -> Array:
    error: Array = np.abs(spread.mean - spread.target).ravel()
    return error


def _varying(values: Array, what: str) -> Array:
    if np.ptp(values) == 0:
        raise Undefined(f"the {what} is constant ({values.flat[0]:g})")
    return values.ravel()


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))


COVERAGE = UncertaintyMetric("coverage", "", coverage)
WIDTH = UncertaintyMetric("width", "lower", width)
INTERVAL_SCORE = UncertaintyMetric("interval-score", "lower", interval_score)
SPEARMAN = UncertaintyMetric("spearman", "higher", spearman)
PARTIAL_SPEARMAN = UncertaintyMetric("partial-spearman", "higher", partial_spearman)
AUSE = UncertaintyMetric("ause", "lower", ause)
