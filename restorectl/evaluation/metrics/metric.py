"""What a row of catalog.METRICS loads to: three kinds of metric, as frozen values.

Fits of predictions to their targets before they are scored; none is the default.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]  # float64 unless said otherwise
Compute = Callable[[Array, Array, float], float]  # prediction, target (Y, X) float64, data range
Features = Callable[[Array], Array]  # planes (P, Y, X) float64 in [0, 1] -> (P, D) float64


class Undefined(ValueError):
    """A metric has no value here; the message says why and what to do."""


@dataclass(frozen=True)
class Network:
    """The weights that a metric needs; `make` takes (card, tensors, device)."""

    weights: str  # name in the registry, unless the user gives another
    option: str  # with which the user does; empty for embedded weights
    task: str  # of their card
    make: Callable[..., Any]


@dataclass(frozen=True)
class Metric:
    """Compares one plane with its target. `compute` raises Undefined where there is no value."""

    name: str
    better: str  # higher, lower; "" where neither is
    compute: Compute | None  # None: `network.make` gives it
    unit: str = ""
    alone: bool = False  # the target is not looked at
    network: Network | None = None


@dataclass(frozen=True)
class Spread:
    """An uncertainty set and its target: arrays of one shape, float64, input units."""

    mean: Array
    std: Array
    lower: Array
    upper: Array
    target: Array
    interval: float  # nominal coverage of lower..upper


@dataclass(frozen=True)
class Calibration:
    """Judges the uncertainty of one file."""

    name: str
    better: str
    compute: Callable[[Spread], float]
    unit: str = ""


@dataclass(frozen=True)
class Distribution:
    """Compares all images of a method with a folder of good ones, without pairs."""

    name: str
    network: Network  # makes Features
    better: str = "lower"
    unit: str = ""
    slices: bool = False  # of volumes along all three directions


LOW, HIGH = 0.1, 99.9  # percentiles that are brought together


def affine(prediction: Array, target: Array) -> tuple[float, float]:
    """Least-squares (gain, offset) with gain * prediction + offset near target.

    Raises Undefined for a constant prediction, which has no such fit.
    """
    centred = prediction - prediction.mean()
    spread = float(np.sum(centred * centred))
    if np.ptp(prediction) == 0 or spread == 0:
        raise Undefined("--scale affine: the prediction is constant")
    gain = float(np.sum(centred * (target - target.mean()))) / spread
    return gain, float(target.mean() - gain * prediction.mean())


def percentile(prediction: Array, target: Array) -> tuple[float, float]:
    """(gain, offset) that bring the 0.1 and 99.9 percentiles of the prediction to the target's."""
    low, high = np.percentile(prediction, (LOW, HIGH))
    bottom, top = np.percentile(target, (LOW, HIGH))
    if not high > low:
        raise Undefined("--scale percentile: nearly all pixels of the prediction are equal")
    gain = float((top - bottom) / (high - low))
    return gain, float(bottom - gain * low)


def none(prediction: Array, target: Array) -> tuple[float, float]:
    """(1, 0): as they are."""
    return 1.0, 0.0


SCALES: dict[str, Callable[[Array, Array], tuple[float, float]]] = {
    "none": none,
    "affine": affine,
    "percentile": percentile,
}
