"""Finds the pixels of a plane that are no measurements, and fills them in.

Kept as they are: NaN and infinity; constant areas with a sharp edge, such as the border after a
rotation, a mask or a scale bar; saturated areas. Repaired: hot and dead pixels, rows and columns.

A dark background of zeros (a camera clipped at 0, photon counting) is measured, though constant in
places. It gives itself away: zeros go on beyond the connected area, single photons lie in it, or
the signal rises from zero as slowly as the microscope blurs. At the edge of a mask the signal is at
once as high as farther away, and farther from the constant than noise reaches.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from restorectl.intensity.quantile import quantile

Bools = NDArray[np.bool_]

RUN = 24  # px, equal pixels in a row or column that may be a dead one
LEAST = 25  # px of a constant area
EDGE = 2  # px, distance to which the edge of an area reaches
BAND = 5  # px, distance to which its neighbourhood reaches
SIDE = np.ones((3, 3), bool)
BEYOND = 0.05  # share of the neighbourhood that has the constant's value
RISE = 0.6  # signal at the edge / in the neighbourhood; 0.5 and less for a blurred edge
JUMP = 3.0  # difference between constant and edge, in standard deviations and in grey levels
NARROW = 0.1  # pixels of the neighbourhood / of the edge; about 1.5 at a straight edge
HOLE = 6  # px: single photons in a dark background make smaller holes,
HOLES = (3, 2e-5)  # at least this many, and this share of its area
STRAY = 0.02  # pixels above a ceiling, such as hot ones / at it
LEVELS, PILE = 5, 4.0  # grey levels below a ceiling; pixels at it / on the mean one of these
ALONG = 0.98  # share of a dead line that has its value
SEVERAL = 200  # most areas of one value that are looked at, largest first
VALUES = 30  # most values of constant areas, most frequent first
BINS = 32  # of the medians around a pixel, to compare hot and dead pixels with their like
OUTLYING = 4.0  # times the 99 % quantile of the deviations in a bin
FAR = 8.0  # times the distance of the outer percentiles, 1 and 10 or 90 and 99
VISIBLE = 0.2  # of the distance of the percentiles 1 and 99: a smaller deviation does no harm
BLUR = 0.15  # of a pixel's excess in the four next to it: less than a point's, blurred by 0.6 px
RADIUS = 3  # px, distance at which nothing is left of a blurred point
FOLD = 16  # px, depth of the valid pixels that are mirrored into an area


@dataclass(frozen=True)
class Invalid:
    """Invalid pixels of a plane, (Y, X) bool each. kept: stay as they are; repaired: restored."""

    kept: Bools
    repaired: Bools

    @property
    def any(self) -> Bools:
        return self.kept | self.repaired


def find(plane: np.ndarray, which: str | float = "auto", *, hot: bool = True) -> Invalid:
    """The invalid pixels of a whole plane (Y, X), any real dtype.

    which: auto; a value, which then is the only invalid one, with NaN and infinity; or none. hot:
    look for hot and dead pixels, rows and columns, unless the plane holds NaN that counts as
    measured. All pixels of a plane without two different numbers are kept.
    """
    if plane.dtype == np.float16:  # no filter of scipy takes it
        plane = plane.astype(np.float32)
    kept = ~np.isfinite(plane)
    numbers = plane[~kept]
    repaired = np.zeros_like(kept)
    if which == "none" and kept.any():
        return Invalid(repaired, repaired)
    if not numbers.size or numbers.min() == numbers.max():
        return Invalid(np.ones_like(kept), repaired)
    if isinstance(which, float):
        kept |= plane == which
    if which == "auto" or hot:
        found, lines = _constant_areas(np.where(kept, numbers.min(), plane), kept)
        if which == "auto":
            kept |= found
        if hot:
            repaired |= lines
    if hot and not (kept | repaired).all():
        repaired |= _hot(plane, kept | repaired)
    return Invalid(kept, repaired & ~kept)


# ---- constant areas ------------------------------------------------------------------------------
def _constant_areas(plane: np.ndarray, unknown: Bools) -> tuple[Bools, Bools]:
    """Masked or saturated areas, and dead or hot lines."""
    lines = _lines(plane, unknown) | _lines(plane.T, unknown.T).T
    kept, unknown = np.zeros_like(unknown), unknown | lines
    core = _flat(plane, (3, 3)) | _flat(plane, (RUN, 1)) | _flat(plane, (1, RUN))
    core &= ~unknown
    values, counts = np.unique(plane[core], return_counts=True)
    tops = _ceilings(plane, values, unknown) if plane.dtype.kind in "iu" else set()
    for value in values[np.argsort(-counts, kind="stable")[:VALUES]]:
        equal = (plane == value) & ~unknown
        number, _ = ndimage.label(equal, SIDE)
        sizes = np.bincount(number.ravel())
        large = np.unique(number[core & equal])
        large = large[sizes[large] >= LEAST]
        large = large[np.argsort(-sizes[large], kind="stable")[:SEVERAL]]
        boxes = ndimage.find_objects(number)
        found = []
        for k in large:
            box = _around(boxes[k - 1], plane.shape)
            if int(value) in tops or _is_mask(plane[box], number[box] == k, unknown[box]):
                found.append(k)
        kept |= np.isin(number, found)
        rest = plane[~kept & ~unknown & ~equal]
        if found and rest.size and _is_beyond(float(value), rest):
            kept |= equal
    return kept, lines


def _ceilings(plane: np.ndarray, values: np.ndarray, unknown: Bools) -> set[int]:
    """Where values are saturated: the dtype's end, and where those of flat areas pile up and end.

    The latter is the camera's (12 bits in a file of 16). At the brightest spot of an image that is
    not cut off, grey levels have about equally many pixels; at a ceiling, many more than below it.
    """
    found = {int(np.iinfo(plane.dtype).max)}
    numbers = plane[~unknown]
    if values.size and values[-1] > numbers.min():
        top = int(values[-1])
        at, above = int((numbers == top).sum()), int((numbers > top).sum())
        below = int(((numbers < top) & (numbers >= max(top - LEVELS, int(numbers.min())))).sum())
        if above <= STRAY * at and at > PILE * below / LEVELS:
            found.add(top)
    return found


def _lines(plane: np.ndarray, unknown: Bools) -> Bools:
    """Dead or hot columns: constant from end to end, 1 or 2 px wide, not at the border."""
    found = np.zeros_like(unknown)
    middle = np.median(plane, axis=0)
    constant = np.mean((plane == middle) | unknown, axis=0) >= ALONG
    number, _ = ndimage.label(constant)
    for (cols,) in ndimage.find_objects(number):
        inside = cols.start > 0 and cols.stop < plane.shape[1]
        if inside and cols.stop - cols.start <= 2 and plane.shape[0] >= RUN:
            box = slice(max(0, cols.start - BAND), cols.stop + BAND)
            line = np.zeros_like(unknown)
            line[:, cols] = ~unknown[:, cols]
            if line.any() and _is_mask(plane[:, box], line[:, box], (unknown | constant)[:, box]):
                found |= line
    return found


def _is_beyond(value: float, rest: np.ndarray) -> bool:
    """Whether a value lies clearly outside those of the other pixels."""
    low, high = (float(v) for v in np.percentile(rest, (0.1, 99.9)))
    reach = max(3.0, 0.1 * (high - low)) if rest.dtype.kind in "iu" else 0.1 * (high - low)
    return value < low - reach or value > high + reach


def _flat(plane: np.ndarray, size: tuple[int, int]) -> Bools:
    """Centres of windows of equal pixels."""
    lowest = ndimage.minimum_filter(plane, size, mode="nearest")
    return np.asarray(lowest == ndimage.maximum_filter(plane, size, mode="nearest"))


def _around(box: tuple[slice, slice], shape: tuple[int, ...]) -> tuple[slice, slice]:
    rows, cols = (
        slice(max(0, side.start - BAND - 1), min(length, side.stop + BAND + 1))
        for side, length in zip(box, shape, strict=True)
    )
    return rows, cols


def _is_mask(plane: np.ndarray, area: Bools, unknown: Bools) -> bool:
    """Whether a constant area has the sharp edge of a mask, see above."""
    distance = ndimage.distance_transform_edt(~area)
    others = ~area & ~unknown
    edge = others & (distance <= EDGE)
    band = others & (distance > EDGE) & (distance <= BAND)
    if not edge.any():
        return True
    holes = np.bincount(ndimage.label(others)[0].ravel())[1:]
    if (holes <= HOLE).sum() >= max(HOLES[0], HOLES[1] * area.sum()):
        return False
    if band.sum() < NARROW * edge.sum():
        band = edge
    value = float(np.median(plane[area]))
    near, far = (plane[part].astype(np.float64) - value for part in (edge, band))
    sign = 1.0 if np.median(near) >= 0 else -1.0
    near, far = sign * near, sign * far
    steps = np.abs(np.diff(plane.astype(np.float64), axis=1))[others[:, 1:] & others[:, :-1]]
    noise = float(np.median(steps)) * 1.4826 / np.sqrt(2) if steps.size else 0.0
    unit = 1.0 if plane.dtype.kind in "iu" else 0.0
    jump = float(np.median(near))
    beyond = float(np.mean(far == 0))
    rises = jump >= RISE * float(np.median(far))
    return bool(rises and beyond <= BEYOND and jump > JUMP * max(noise, unit))


# ---- hot and dead pixels -------------------------------------------------------------------------
def _hot(plane: np.ndarray, known: Bools) -> Bools:
    """Single pixels that differ from all neighbours by more than noise and blurred points do."""
    numbers = fill(plane, known)
    ring = SIDE.copy()
    ring[1, 1] = False
    middle = ndimage.median_filter(numbers, footprint=ring, mode="mirror")
    found = np.zeros_like(known)
    spread = np.quantile(numbers, (0.01, 0.1, 0.9, 0.99))
    far = {1.0: spread[3] - spread[2], -1.0: spread[1] - spread[0]}
    unit = 1.0 if plane.dtype.kind in "iu" else 0.0
    edges = np.unique(np.quantile(middle, np.linspace(0, 1, BINS + 1)[1:-1]))
    place = np.searchsorted(edges, middle)
    for sign in (1.0, -1.0):
        excess = sign * (numbers - middle)
        limit = np.zeros(len(edges) + 1)
        for k in range(len(limit)):
            usual = excess[(place == k) & (excess > 0) & ~known]
            limit[k] = OUTLYING * quantile(usual, 0.99) + 3 * unit if usual.size else np.inf
        end = spread[3] if sign > 0 else spread[0]
        beyond = sign * (numbers - end) > FAR * far[sign] + 3 * unit
        limit = np.maximum(limit, VISIBLE * (spread[3] - spread[0]))
        found |= (excess > limit[place]) | (beyond & (far[sign] > 0))
    found &= ~known
    found[found] = _are_single(numbers, *np.nonzero(found))
    return found


def _are_single(numbers: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> Bools:
    """Whether the neighbours have less of each pixel's excess than those of a blurred point."""
    padded = np.pad(numbers, RADIUS, mode="symmetric")
    side = np.arange(2 * RADIUS + 1)
    patch = padded[rows[:, None, None] + side[:, None], cols[:, None, None] + side]
    outside = np.maximum.outer(abs(side - RADIUS), abs(side - RADIUS)) == RADIUS
    base = np.median(patch[:, outside], axis=1)
    next_to = np.add.outer(abs(side - RADIUS), abs(side - RADIUS)) == 1
    around = np.median(patch[:, next_to], axis=1)
    excess = numbers[rows, cols] - base
    return np.asarray(np.sign(excess) * (around - base) < BLUR * abs(excess))


# ---- filling -------------------------------------------------------------------------------------
def fill(plane: np.ndarray, invalid: Bools) -> np.ndarray:
    """The plane (Y, X) as float32, float64 from 32 bits on, with invalid pixels filled in.

    Thin parts get the mean of the valid pixels around, areas the mirrored pixels beyond their edge,
    so that noise and texture go on as beyond the border of an image.
    """
    wide = plane.dtype.itemsize > (4 if plane.dtype.kind == "f" else 2)
    out = np.where(invalid, 0, plane).astype(np.float64 if wide else np.float32)
    if not invalid.any() or invalid.all():
        return out
    distance, nearest = ndimage.distance_transform_edt(invalid, return_indices=True)
    rows, cols = np.nonzero(invalid)
    deep = distance[rows, cols]
    near_row, near_col = nearest[0][rows, cols], nearest[1][rows, cols]
    folded = FOLD - np.abs(FOLD - deep % (2 * FOLD))  # 0 to FOLD and back
    row = np.rint(near_row + (near_row - rows) * folded / deep).astype(int)
    col = np.rint(near_col + (near_col - cols) * folded / deep).astype(int)
    inside = (row >= 0) & (row < plane.shape[0]) & (col >= 0) & (col < plane.shape[1])
    row, col = np.where(inside, row, near_row), np.where(inside, col, near_col)
    usable = ~invalid[row, col]
    row, col = np.where(usable, row, near_row), np.where(usable, col, near_col)
    mirrored = out[row, col]
    valid = ~invalid
    weight = ndimage.gaussian_filter(valid.astype(np.float32), 1.0, truncate=3.0, mode="mirror")
    smooth = ndimage.gaussian_filter(out, 1.0, truncate=3.0, mode="mirror")
    thin = ~ndimage.binary_opening(invalid, SIDE)[rows, cols]
    mean = smooth[rows, cols] / np.maximum(weight[rows, cols], 1e-6)
    out[rows, cols] = np.where(thin & (weight[rows, cols] > 1e-3), mean, mirrored)
    return out
