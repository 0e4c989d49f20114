"""The three kinds of metric in catalog.METRICS, and how a prediction is fitted to its target.

A paired metric compares a plane with its target, an uncertainty metric judges the uncertainty set
of a file, a set metric compares all images of a method with images of high quality. For paired
metrics each channel of a prediction can first be fitted to its target; by default it is not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]  # float64 unless said otherwise
Compute = Callable[[Array, Array, float], float]  # prediction, target (Y, X) float64, data range
Features = Callable[[Array], Array]  # planes (P, Y, X) float64 in [0, 1] -> (P, D) float64


class Undefined(ValueError):
    """A metric has no value here; the message says why and what to do."""


@dataclass(frozen=True)
class MetricNetwork:
    """The weights that a metric needs; `make` takes (card, tensors, device)."""

    weights: str  # default name in the registry
    option: str  # job field that names other weights; empty for embedded weights
    task: str  # that their card must state
    make: Callable[..., Any]


def mean(values: Sequence[float]) -> float:
    """The usual way to combine the planes of a file."""
    return sum(values) / len(values)


@dataclass(frozen=True)
class PairedMetric:
    """Compares one plane with its target. `compute` raises Undefined if there is no value."""

    name: str
    better: str  # higher, lower; "" if neither is
    compute: Compute | None  # None: `network.make` gives it
    unit: str = ""
    alone: bool = False  # the target is not used
    network: MetricNetwork | None = None
    combine: Callable[[Sequence[float]], float] = mean  # the values of the planes of a file
    unscaled: bool = False  # tells exact planes from others, so predictions must not be fitted
    sized: bool = False  # in px; the file's pixel size makes nm of it


@dataclass(frozen=True)
class UncertaintySet:
    """An uncertainty set and its target: arrays of one shape, float64, input units."""

    mean: Array
    std: Array
    lower: Array
    upper: Array
    target: Array
    interval: float  # nominal coverage of lower..upper


@dataclass(frozen=True)
class UncertaintyMetric:
    """Judges the uncertainty of one file."""

    name: str
    better: str
    compute: Callable[[UncertaintySet], float]
    unit: str = ""


@dataclass(frozen=True)
class SetMetric:
    """Compares all images of a method with images of high quality that need not be pairs."""

    name: str
    network: MetricNetwork  # makes Features
    better: str = "lower"
    unit: str = ""
    slices: bool = False  # compares slices of volumes along all three directions
    colour: bool = False  # in the equalised colours of stimulated Raman histology


LOW, HIGH = 0.1, 99.9  # percentiles that the percentile fit makes equal


def affine(prediction: Array, target: Array) -> tuple[float, float]:
    """Least-squares (gain, offset) with gain * prediction + offset near target.

    Raises Undefined for a constant prediction.
    """
    centred = prediction - prediction.mean()
    spread = float(np.sum(centred * centred))
    if np.ptp(prediction) == 0 or spread == 0:
        raise Undefined("`scale` affine: the prediction is constant")
    gain = float(np.sum(centred * (target - target.mean()))) / spread
    return gain, float(target.mean() - gain * prediction.mean())


def percentile(prediction: Array, target: Array) -> tuple[float, float]:
    """(gain, offset) that bring the prediction's 0.1 and 99.9 percentiles to the target's.

    Raises Undefined if the two percentiles of the prediction are equal.
    """
    low, high = np.percentile(prediction, (LOW, HIGH))
    bottom, top = np.percentile(target, (LOW, HIGH))
    if not high > low:
        raise Undefined("`scale` percentile: nearly all pixels of the prediction are equal")
    gain = float((top - bottom) / (high - low))
    return gain, float(bottom - gain * low)


def none(prediction: Array, target: Array) -> tuple[float, float]:
    """(1, 0): no fit."""
    return 1.0, 0.0


SCALES: dict[str, Callable[[Array, Array], tuple[float, float]]] = {
    "none": none,
    "affine": affine,
    "percentile": percentile,
}
