"""Which planes of a channel have the same noise.

A stack's noise can rise with depth, and gain compensation, bleach correction or a changed exposure
multiply it plane by plane; then one model for all planes fits none of them. The model of all planes
whitens a block of each plane, so that only a plane's deviation from it is left, as one number.
"""

import numpy as np
from scipy import ndimage
from scipy.cluster import hierarchy

from restorectl.errors import InputError
from restorectl.images.blocks import middle
from restorectl.images.header import Plane
from restorectl.images.image import Image
from restorectl.intensity.noise import estimate, nonparametric_level
from restorectl.intensity.whitening import Intensity

SIDE = 256  # px, side of the block in the middle of a plane that is measured
SCATTER = 0.02  # of log levels of blocks of SIDE px: at most 0.025 on stacks of even noise
AGREE = 0.12  # planes whose levels all lie within 12 % agree
# Otherwise a group's levels lie within 5 %: told 14 % too little, a plane lost 6 dB.
FINE = 0.05
CONFIRMED = 5.0  # the eigenvalues' deviation counts up to this multiple of the block estimate's
CORRELATED = -0.5  # log ratio of the two levels below which noise is correlated: multiple 1
AROUND = 5  # planes of the running median
ODD = 0.12  # a plane that differs from its neighbours by less is smoothed
ROUNDING = 0.01  # of log levels


def alike(image: Image, channel: int, model: Intensity) -> np.ndarray:
    """Number of each plane's group, (T, Z) int: planes of a group have the same noise.

    model: of all planes. Depends on the pixels alone; a block of each plane is read.
    """
    times, _, depth, height, width = image.header.canonical_shape
    found = np.zeros((times, depth))
    if model.sigma <= 0 or found.size == 1:
        return found.astype(int)
    rows, cols = (middle(slice(0, length), SIDE) for length in (height, width))
    planes = [(t, channel, z) for t in range(times) for z in range(depth)]
    levels = np.array([_levels(image, plane, rows, cols, model) for plane in planes])
    pixels = (rows.stop - rows.start) * (cols.stop - cols.start)
    scatter = SCATTER * SIDE / np.sqrt(pixels)
    return grouped(_deviation(levels).reshape(times, depth), scatter)


def grouped(levels: np.ndarray, scatter: float) -> np.ndarray:
    """Number of each plane's group, (T, Z) int, from log noise levels (T, Z) with this scatter.

    A plane without a level (NaN) is like the nearest one that has one.
    """
    known = np.flatnonzero(np.isfinite(levels))
    if len(known) < 2:
        return np.zeros(levels.shape, int)
    nearest = np.rint(np.interp(np.arange(levels.size), known, np.arange(len(known)))).astype(int)
    smooth = _smooth(levels.ravel()[known][nearest].reshape(levels.shape), scatter)
    if np.ptp(smooth) <= max(AGREE, 2.5 * scatter):
        return np.zeros(levels.shape, int)
    values, place = np.unique(np.round(smooth / ROUNDING), return_inverse=True)
    tree = hierarchy.linkage(values[:, None] * ROUNDING, "complete")
    return np.asarray(hierarchy.fcluster(tree, FINE, "distance")[place].reshape(levels.shape))


def _levels(
    image: Image, plane: Plane, rows: slice, cols: slice, model: Intensity
) -> tuple[float, float]:
    """Log noise level of a whitened block by blocks with flat neighbours, and by eigenvalues.

    NaN for a plane that says nothing about its noise, such as a blank one.
    """
    raw = image.read(plane, rows, cols)
    try:
        x = model.forward(raw)
        noise = estimate([x], kind="gaussian")
    except InputError:
        return np.nan, np.nan
    levels = noise.read_noise * noise.level, nonparametric_level(x) if min(x.shape) >= 32 else 0.0
    if not min(levels) > 0:
        return np.nan, np.nan
    return float(np.log(levels[0])), float(np.log(levels[1]))


def _deviation(levels: np.ndarray) -> np.ndarray:
    """Log noise level relative to the typical plane, (n, 2) of two estimators -> (n,).

    Eigenvalues are precise and hardly respond to texture. For correlated noise they are too low by
    a factor that follows its spectrum, so a deviation needs the other estimator's consent.
    """
    middle = np.nanmedian(levels, axis=0) if np.isfinite(levels).any() else np.zeros(2)
    blocks, eigen = (levels - middle).T
    multiple = 1.0 if middle[1] - middle[0] < CORRELATED else CONFIRMED
    limit = np.where(np.sign(blocks) == np.sign(eigen), multiple * np.abs(blocks), 0.0)
    return np.asarray(np.clip(eigen, -limit, limit))


def _smooth(deviation: np.ndarray, scatter: float) -> np.ndarray:
    """Running median along z, or t if there is one z, except where a plane differs from it."""
    size = (1, AROUND) if deviation.shape[1] > 1 else (AROUND, 1)
    middle = ndimage.median_filter(deviation, size, mode="nearest")
    return np.where(np.abs(deviation - middle) < max(ODD, 4 * scatter), middle, deviation)
