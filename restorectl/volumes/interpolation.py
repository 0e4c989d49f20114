"""Anisotropic stacks: the factor, the positions of observed planes, interpolation between them.

N planes at factor f become (N - 1) * f + 1: observed plane k is plane k * f of the result, and
nothing is extrapolated. Interpolators are taps: for each plane of the result a few observed planes
and their weights, so any part of a volume can be computed by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from restorectl.errors import InputError
from restorectl.images.header import Spacing

FACTORS = (2, 8)  # smallest and largest that is restored
UNEVEN = 0.1  # relative anisotropy left in the result from which it is worth a word


@dataclass(frozen=True)
class Taps:
    """planes[r] = sum over k of weight[r, k] * observed[index[r, k]]."""

    index: NDArray[np.intp]  # (R, K)
    weight: NDArray[np.float32]  # (R, K)


Interpolator = Callable[[NDArray[np.float64], int], Taps]  # (positions (R,), N observed) -> taps


def count(observed: int, factor: int) -> int:
    """Planes of the result."""
    return (observed - 1) * factor + 1


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
    """Cubic convolution (Keys 1981, a = -1/2), continued on a straight line at both ends."""
    first, s = _split(positions, observed)
    weight = np.stack(
        [
            ((-0.5 * s + 1) * s - 0.5) * s,
            (1.5 * s - 2.5) * s * s + 1,
            ((-1.5 * s + 2) * s + 0.5) * s,
            (0.5 * s - 0.5) * s * s,
        ],
        1,
    )
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
    """The observed plane before each position and the share of the way to the next."""
    held = np.clip(positions, 0, observed - 1)
    first = np.minimum(np.floor(held), max(observed - 2, 0)).astype(np.intp)
    return first, held - first


def taps(interpolate: Interpolator, observed: int, factor: int, start: int, stop: int) -> Taps:
    """Taps of planes start..stop of the result; beyond its last plane that one is held."""
    return interpolate(np.arange(start, stop) / factor, observed)


def apply(found: Taps, observed: NDArray[np.floating]) -> NDArray[np.float32]:
    """observed (N, ...) -> (R, ...) float32. A plane with one tap of weight 1 is that plane."""
    source = observed.astype(np.float32, copy=False)
    shape = (-1, *[1] * (source.ndim - 1))
    total = source[found.index[:, 0]] * found.weight[:, 0].reshape(shape)
    for k in range(1, found.index.shape[1]):
        used = np.flatnonzero(found.weight[:, k])
        total[used] += source[found.index[used, k]] * found.weight[used, k].reshape(shape)
    return total


def interpolated(
    observed: NDArray[np.floating], factor: int, interpolate: Interpolator
) -> NDArray[np.float32]:
    """observed (N, ...) -> ((N - 1) * factor + 1, ...) float32."""
    planes = len(observed)
    return apply(taps(interpolate, planes, factor, 0, count(planes, factor)), observed)


def is_observed(factor: int, start: int, stop: int, planes: int) -> NDArray[np.bool_]:
    """Which of the planes start..stop are observed, of `planes` of the result."""
    rows = np.arange(start, stop)
    return np.asarray((rows % factor == 0) & (rows < planes))


def factor_of(spacing: Spacing) -> tuple[int, str]:
    """Factor of a pixel size (z, y, x), and a remark if the result is not quite isotropic.

    1 means isotropic. Raises InputError for unknown spacings and factors out of range.
    """
    z, y, x = spacing
    if not (z and y and x):
        raise InputError(
            "does not record the spacing of its planes and pixels: use --spacing Z,Y,X or"
            " --factor N"
        )
    ratio = 2 * z / (y + x)
    factor = max(1, int(ratio + 0.5))
    if factor > FACTORS[1]:
        raise InputError(
            f"planes lie {ratio:.3g} pixels apart: {FACTORS[1]} at most can be restored; --factor"
            f" {FACTORS[1]} goes part of the way"
        )
    left = ratio / factor
    if abs(left - 1) <= UNEVEN:
        return factor, ""
    return factor, f"planes of the result are {left:.2f} pixels apart, not 1"


def smooth(planes: Sequence[NDArray[np.float32]], sigma: float = 0.5) -> NDArray[np.float32]:
    """The middle one of three planes (Y, X) after a 3x3x3 Gaussian (paper 003, section 5).

    sigma in pixels; borders are mirrored.
    """
    side = float(np.exp(-0.5 / sigma**2))
    outer, centre = np.float32(side / (1 + 2 * side)), np.float32(1 / (1 + 2 * side))
    total = centre * planes[1] + outer * (planes[0] + planes[2])
    for axis in (0, 1):
        wide = np.pad(total, [(int(a == axis),) * 2 for a in range(2)], mode="symmetric")
        line = np.moveaxis(wide, axis, 0)
        total = np.moveaxis(centre * line[1:-1] + outer * (line[:-2] + line[2:]), 0, axis)
    return np.asarray(total)
