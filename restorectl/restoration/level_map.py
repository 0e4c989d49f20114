"""Where the noise of one image varies: a smooth map of its level, and levels to restore at.

Levels of windows on a coarse grid, relative to the image's, are interpolated in the logarithm. A
denoiser is told one level for a window, so windows are restored at levels of a fixed ladder and
the answers blended pixel by pixel: the result depends on the map alone, and no seam can appear.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

PARTS = 8  # the grid has at most so many places a side
LEAST = 256  # px between places
VARIES = 1.5  # largest level / smallest: less is the scatter of the estimate (up to 1.4 on FMD)
TRUSTED = 3.0  # a place further than this factor from the median is taken for the median
RUNG = 0.5 * np.log(2)  # between levels of the ladder, in log sigma

Shared = dict[str, Any]


def places(length: int) -> list[float]:
    """Centres of the grid's places along an axis of `length` px."""
    count = max(1, min(PARTS, length // LEAST))
    return [(k + 0.5) * length / count for k in range(count)]


def fit(levels: np.ndarray, image_level: float) -> np.ndarray | None:
    """levels (planes, rows, cols) of windows, 0 = unknown -> log of level / image_level.

    Returns (rows, cols) float64, or None where one level serves the whole image.
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


def at(shared: Shared, top: int, left: int, shape: tuple[int, int]) -> np.ndarray:
    """The map on a window's pixels: (H, W) float32 log of level / image level, interpolated."""
    rows = np.clip(np.arange(top, top + shape[0]) + 0.5, 0, None)
    cols = np.clip(np.arange(left, left + shape[1]) + 0.5, 0, None)
    table = np.array(shared["log_levels"])
    across = np.array([np.interp(cols, shared["cols"], row) for row in table])
    down = np.array([np.interp(rows, shared["rows"], column) for column in across.T])
    return np.asarray(down.T, np.float32)


def ladder(maps: Sequence[np.ndarray]) -> Iterator[tuple[float, list[np.ndarray]]]:
    """(factor on the image's level, weight (H, W) of each window) for every rung in use."""
    low = int(np.floor(min(m.min() for m in maps) / RUNG))
    high = int(np.ceil(max(m.max() for m in maps) / RUNG))
    for k in range(low, high + 1):
        weights = [np.maximum(0, 1 - np.abs(m / np.float32(RUNG) - k)) for m in maps]
        if any(weight.any() for weight in weights):
            yield float(np.exp(k * RUNG)), weights
