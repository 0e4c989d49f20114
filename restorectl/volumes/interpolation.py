"""Anisotropic stacks: factor, positions of observed planes, and interpolation between them.

N planes at factor f become (N - 1) * f + 1: observed plane k is plane k * f of the result; there is
no extrapolation. If f is no whole number, only some observed planes are planes of the result, such
as every second one at 2.5. An interpolation gives a few observed planes and their weights for each
plane of the result, so that any part of a volume can be computed alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from restorectl.errors import InputError
from restorectl.images.header import Spacing
from restorectl.images.interpolate import cubic_weights

FACTORS = (2, 8)  # smallest and largest factor
NEAR = 1e-6  # planes; a position this near to an observed plane is that plane
UNEVEN = 0.1  # relative anisotropy of the result above which there is a warning


@dataclass(frozen=True)
class Taps:
    """planes[r] = sum over k of weight[r, k] * observed[index[r, k]]."""

    index: NDArray[np.intp]  # (R, K)
    weight: NDArray[np.float32]  # (R, K)


# (positions (R,) in observed planes, N observed planes) -> Taps; rows of catalog.INTERPOLATIONS
Interpolator = Callable[[NDArray[np.float64], int], Taps]


def count(observed: int, factor: float) -> int:
    """Number of planes of the result."""
    return int((observed - 1) * factor + NEAR) + 1


def positions(planes: ArrayLike, factor: float) -> NDArray[np.float64]:
    """Where planes of the result lie, in observed planes."""
    found = np.asarray(planes) / factor
    whole = np.rint(found)
    return np.where(np.abs(found - whole) < NEAR, whole, found)


def around(plane: int, factor: float) -> tuple[int, int, float]:
    """The observed planes before and after a plane of the result, and the share of the later one;
    they are the same if the plane itself is observed."""
    position = float(positions(plane, factor))
    return math.floor(position), math.ceil(position), position % 1


def nearest(positions: NDArray[np.float64], observed: int) -> Taps:
    """The nearest observed plane; halfway between two, the later one."""
    index = np.clip(np.floor(positions + 0.5), 0, observed - 1).astype(np.intp)[:, None]
    return Taps(index, np.ones(index.shape, np.float32))


def linear(positions: NDArray[np.float64], observed: int) -> Taps:
    """The weighted mean of the planes before and after."""
    first, share = _split(positions, observed)
    index = np.stack([first, np.minimum(first + 1, observed - 1)], 1)
    return Taps(index, np.stack([1 - share, share], 1).astype(np.float32))


def cubic(positions: NDArray[np.float64], observed: int) -> Taps:
    """Cubic convolution (Keys 1981, a = -1/2), extended linearly at both ends."""
    first, s = _split(positions, observed)
    weight = cubic_weights(s)
    before, after = first == 0, first + 2 > observed - 1
    # plane -1 is 2 p(0) - p(1), plane N is 2 p(N - 1) - p(N - 2)
    for where, outer, near, far in ((before, 0, 1, 2), (after, 3, 2, 1)):
        weight[where, near] += 2 * weight[where, outer]
        weight[where, far] -= weight[where, outer]
        weight[where, outer] = 0
    index = np.clip(first[:, None] + np.arange(-1, 3), 0, observed - 1)
    return Taps(index, weight.astype(np.float32))


def _split(
    positions: NDArray[np.float64], observed: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The observed plane before each position, and the fraction of the way to the next."""
    held = np.clip(positions, 0, observed - 1)
    first = np.minimum(np.floor(held), max(observed - 2, 0)).astype(np.intp)
    return first, held - first


def interpolated(
    observed: NDArray[np.floating],
    factor: float,
    interpolator: Interpolator,
    start: int = 0,
    stop: int | None = None,
) -> NDArray[np.float32]:
    """Planes [start, stop) of the result, by default all: (N, ...) -> (stop - start, ...) float32.

    Planes beyond the last repeat it. Observed planes are unchanged.
    """
    source = observed.astype(np.float32, copy=False)
    stop = count(len(source), factor) if stop is None else stop
    taps = interpolator(positions(np.arange(start, stop), factor), len(source))
    shape = (-1, *[1] * (source.ndim - 1))
    total = source[taps.index[:, 0]] * taps.weight[:, 0].reshape(shape)
    for k in range(1, taps.index.shape[1]):
        used = np.flatnonzero(taps.weight[:, k])
        total[used] += source[taps.index[used, k]] * taps.weight[used, k].reshape(shape)
    return total


def is_observed(factor: int, start: int, stop: int, planes: int) -> NDArray[np.bool_]:
    """Which of the planes [start, stop) of the result, which has `planes` in all, are observed."""
    rows = np.arange(start, stop)
    return np.asarray((rows % factor == 0) & (rows < planes))


def factor_of(spacing: Spacing) -> tuple[int, str]:
    """The factor for a pixel size (z, y, x), and a warning if the result is not quite isotropic.

    Factor 1 means isotropic. Raises InputError for unknown spacings and factors out of range.
    """
    z, y, x = spacing
    if not (z and y and x):
        raise InputError(
            "has no recorded spacing of planes and pixels: use `spacing` Z,Y,X or `factor` N"
        )
    ratio = 2 * z / (y + x)
    factor = max(1, int(ratio + 0.5))
    if factor > FACTORS[1]:
        raise InputError(
            f"planes are {ratio:.3g} pixels apart: {FACTORS[1]} at most. Use `factor`"
            f" {FACTORS[1]} for part of the way"
        )
    left = ratio / factor
    if abs(left - 1) <= UNEVEN:
        return factor, ""
    told = f"planes of the result are {left:.2f} pixels apart, not 1"
    if ratio > 1:
        told += f": for that use `factor` {ratio:.3g}, which keeps fewer recorded planes"
    return factor, told


def smooth(planes: NDArray[np.float32], sigma: float = 0.5) -> NDArray[np.float32]:
    """The middle one of three planes (3, Y, X) after a 3x3x3 Gaussian (MSDSR, section 5).

    sigma in pixels; borders are mirrored.
    """
    middle = gaussian_filter1d(planes, sigma, axis=0, radius=1)[1]
    return np.asarray(gaussian_filter(middle, sigma, radius=1))
