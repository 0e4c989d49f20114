"""Photometric correction: a restoration keeps the local mean intensity of the input.

With an unbiased denoiser, the residual (input minus output) has no smooth part. A smooth part is a
bias: of the noise fit, of the inverse transform, or of a prior that removed a faint haze. It is
added back. Its average over some 1,800 pixels adds noise 40 times weaker than the input's.
"""

from functools import lru_cache

import numpy as np

SIGMA = 12.0  # px, of the Gaussian whose low-pass content is kept from the input
CELL = 4  # px, side of the cells in which residuals are averaged first
FAR = 1e-3  # weight of valid pixels below which the residual is not continued
REACH = 12  # cells; radius of the kernel, within the tile's halo


def keep_local_mean(
    measured: np.ndarray, restored: np.ndarray, valid: np.ndarray | None = None
) -> np.ndarray:
    """restored + lowpass(measured - restored): two (..., Y, X) float32 -> the same.

    valid: (..., Y, X) bool, pixels that are measured: others have no influence (normalised
    convolution); None = all. Sides are multiples of CELL.
    """
    rows, cols = measured.shape[-2:]
    down, across = _smoother(rows), _smoother(cols).T
    if valid is None or valid.all():
        smooth: np.ndarray = down @ _cells(measured - restored) @ across
        return np.asarray(restored + smooth)
    residual = np.where(valid, measured - restored, np.float32(0))
    weight = down @ _cells(valid.astype(np.float32)) @ across
    smooth = down @ _cells(residual) @ across / np.maximum(weight, np.float32(FAR))
    return np.asarray(restored + smooth, np.float32)


def _cells(values: np.ndarray) -> np.ndarray:
    """Means over cells, (..., Y, X) -> (..., Y / CELL, X / CELL)."""
    *outer, rows, cols = values.shape
    return np.asarray(values.reshape(*outer, rows // CELL, CELL, cols // CELL, CELL).mean((-3, -1)))


@lru_cache(maxsize=32)
def _smoother(length: int) -> np.ndarray:
    """(length, length / CELL) float32: Gaussian over cells, then linear interpolation to pixels."""
    cells = np.arange(length // CELL)
    distance = cells[:, None] - cells[None]
    kernel = np.exp(-0.5 * (distance * CELL / SIGMA) ** 2) * (np.abs(distance) <= REACH)
    kernel /= kernel.sum(1, keepdims=True)
    pixels = np.clip((np.arange(length) + 0.5) / CELL - 0.5, 0, len(cells) - 1)
    weights = np.maximum(0, 1 - np.abs(pixels[:, None] - cells[None]))
    return np.asarray(weights @ kernel, np.float32)
