"""Two exposures of one field on one scale: what training on pairs needs of their intensities."""

import numpy as np
from numpy.typing import NDArray

from restorectl.core.intensity import Intensity

BLOCK = 8  # px; means over blocks hardly know noise, blur or a shift of half a pixel
NODES = 4096


def match(clean: NDArray[np.floating], noisy: NDArray[np.floating]) -> tuple[float, float]:
    """(gain, offset) that bring `clean` to the scale of `noisy` with least squares.

    clean, noisy: (Y, X) of one shape, at least 8 px a side. (1, 0) where clean is constant.
    """
    height, width = (n // BLOCK * BLOCK for n in clean.shape)
    means = [
        np.asarray(plane[:height, :width], np.float64)
        .reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK)
        .mean((1, 3))
        .ravel()
        for plane in (clean, noisy)
    ]
    x, y = (m - m.mean() for m in means)
    spread = float(x @ x)
    if spread == 0:
        return 1.0, 0.0
    gain = float(x @ y) / spread
    return gain, float(means[1].mean() - gain * means[0].mean())


def target(clean: NDArray[np.floating], model: Intensity) -> NDArray[np.float32]:
    """Network units whose unbiased inverse is `clean`: what a perfect restoration would give.

    clean: any shape, input units of the noisy image that `model` was fitted on. For low counts this
    is not `model.forward`, since the mean of stabilised counts is not the stabilised mean.
    """
    values = np.asarray(clean, np.float64)
    low, high = -1.5, 1.5
    while model.inverse(np.array(low)) > values.min() and low > -1e6:
        low = 2 * low
    while model.inverse(np.array(high)) < values.max() and high < 1e6:
        high = 2 * high
    grid = np.linspace(low, high, NODES)
    known = np.asarray(model.inverse(grid), np.float64)
    return np.interp(values, known, grid).astype(np.float32)
