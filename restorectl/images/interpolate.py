"""Cubic interpolation between pixels or planes."""

import numpy as np
from numpy.typing import NDArray


def cubic_weights(s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (..., 4) of the samples at -1, 0, 1 and 2 for positions s (...) in 0..1.

    Cubic convolution with a = -1/2 (Keys 1981), the same as Catmull and Rom's spline (1974).
    """
    weights = [
        ((2 - s) * s - 1) * s / 2,
        ((3 * s - 5) * s * s + 2) / 2,
        ((4 - 3 * s) * s + 1) * s / 2,
        (s - 1) * s * s / 2,
    ]
    return np.moveaxis(np.stack(weights), 0, -1)  # each weight contiguous
