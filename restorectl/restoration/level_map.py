"""Level map: a smooth map of the noise level, for images whose noise varies from place to place.

Noise levels measured on a coarse grid, relative to the image's level, are interpolated in the
logarithm. A denoiser takes one level per tile, so tiles are restored at several levels of a fixed
ladder and blended pixel by pixel: the result depends on the map alone and has no seams.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from restorectl.engine.samplers import Decided

PARTS = 8  # most places of the grid per axis
LEAST = 256  # px, smallest distance of places
VARIES = 1.5  # largest / smallest level: a lower ratio is estimation scatter (to 1.4 on FMD)
TRUSTED = 3.0  # a level off the median by more than this factor is replaced by the median
RUNG = 0.5 * np.log(2)  # log sigma between two levels of the ladder


def places(length: int) -> list[float]:
    """Centres (px) of the grid's places along an axis of `length` px."""
    count = max(1, min(PARTS, length // LEAST))
    return [(k + 0.5) * length / count for k in range(count)]


def fit(levels: np.ndarray, image_level: float) -> np.ndarray | None:
    """Noise levels (planes, rows, cols), 0 = unknown -> log of level / image_level.

    Returns (rows, cols) float64, or None if one level fits the whole image.
    """
    known = np.where(levels > 0, levels, np.nan)
    if not np.isfinite(known).any():
        return None
    middle = np.nanmedian(known)
    logs = np.log(np.where(np.isfinite(known), known, middle) / middle)
    relative = np.median(logs, axis=0)
    relative[np.abs(relative) > np.log(TRUSTED)] = 0.0
    if relative.max() - relative.min() < np.log(VARIES):
        return None
    return np.asarray(relative + np.log(middle / image_level))


def at(decided: Decided, top: int, left: int, shape: tuple[int, int]) -> np.ndarray:
    """The map at a tile's pixels: log of level / image level, interpolated, (H, W) float32."""
    rows = np.clip(np.arange(top, top + shape[0]) + 0.5, 0, None)
    cols = np.clip(np.arange(left, left + shape[1]) + 0.5, 0, None)
    table = np.array(decided["log_levels"])
    across = np.array([np.interp(cols, decided["cols"], row) for row in table])
    down = np.array([np.interp(rows, decided["rows"], column) for column in across.T])
    return np.asarray(down.T, np.float32)


def ladder(maps: Sequence[np.ndarray]) -> Iterator[tuple[float, list[np.ndarray]]]:
    """Yield (factor on the image's level, weights (H, W) of each tile) for every rung in use."""
    low = int(np.floor(min(m.min() for m in maps) / RUNG))
    high = int(np.ceil(max(m.max() for m in maps) / RUNG))
    for k in range(low, high + 1):
        weights = [np.maximum(0, 1 - np.abs(m / np.float32(RUNG) - k)) for m in maps]
        if any(weight.any() for weight in weights):
            yield float(np.exp(k * RUNG)), weights
