"""Fits of predictions to their targets before they are scored; none is the default."""

from collections.abc import Callable

import numpy as np

from restorectl.core.metrics.metric import Array, Undefined

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
