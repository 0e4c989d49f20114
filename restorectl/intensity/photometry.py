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
    measured: np.ndarray,
    restored: np.ndarray,
    floor: float | None = None,
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """restored + lowpass(measured - restored): two (..., Y, X) float32 -> the same.

    Sides are multiples of CELL. floor: the smallest value that the output can hold, where the
    restoration may be darker. Clipping that later would brighten dark regions; so it is clipped
    here, and where the local mean is then too high, the excess is taken away in proportion to the
    height above the floor: no value falls below. valid: (..., Y, X) bool, pixels that are measured
    and that noise can explain: others have no influence; None = all.
    """
    if floor is None:
        return np.asarray(restored + _lowpass(measured - restored, valid))
    height = np.maximum(restored - np.float32(floor), 0)
    wanted, have = _lowpass(measured - np.float32(floor), valid), _lowpass(height, valid)
    share = np.clip(wanted / np.maximum(have, np.float32(1e-12)), 0, 1)
    return np.asarray(height * share + np.maximum(wanted - have, 0) + np.float32(floor))


def _lowpass(values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Gaussian of the valid values: a normalised convolution."""
    if valid is None or valid.all():
        return _smoothed(values)
    weight = np.maximum(_smoothed(valid.astype(np.float32)), np.float32(FAR))
    return np.asarray(_smoothed(np.where(valid, values, np.float32(0))) / weight)


def _smoothed(values: np.ndarray) -> np.ndarray:
    *outer, rows, cols = values.shape
    cells = values.reshape(*outer, rows // CELL, CELL, cols // CELL, CELL).mean((-3, -1))
    return np.asarray(_smoother(rows) @ cells @ _smoother(cols).T)


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
