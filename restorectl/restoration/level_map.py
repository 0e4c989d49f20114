"""Level map: a smooth map of the noise level, for images whose noise varies from place to place.

Noise levels measured in cells of a plane (see `evidence`), relative to the image's level, are
interpolated in the logarithm. A denoiser takes one level per tile, so tiles are restored at several
levels of a fixed ladder and blended pixel by pixel: the result depends on the map alone and has no
seams.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import ndimage

from restorectl.engine.samplers import Decided
from restorectl.intensity.whitening import Intensity
from restorectl.restoration.evidence import CELL, Denoise, Witness

PARTS = 4  # most tiles along an axis
TILE, LARGEST = 256, 512  # px, sides of the tiles
RAISED = 1.4  # told level relative to the image's: above the noise nearly everywhere
TRUSTED = 3.0  # levels are limited to this factor around the image's
SMOOTH = 0.7  # cells, of the Gaussian that evens out the scatter of single cells
RUNG = 0.5 * np.log(2)  # log sigma between two levels of the ladder


def measured(
    read: Callable[[slice, slice], np.ndarray],
    plane: tuple[int, int],
    model: Intensity,
    denoise: Denoise,
    *,
    sure: bool | None,
) -> Decided:
    """Entries of `Decided` with the map of a plane of this size (Y, X); empty if it is even.

    read: gives regions of the plane, float32 in input units. sure: also empty if fine texture may
    be the reason, see `Witness.cells`; None: never empty.
    """
    starts, sides = [], []
    for length in plane:
        parts = max(1, min(PARTS, length // TILE))
        side = min(length // parts, LARGEST) // CELL * CELL
        starts.append([round((k + 0.5) * length / parts - side / 2) for k in range(parts)])
        sides.append(side)
    if min(sides) == 0:
        return {}
    tiles = np.stack(
        [
            model.forward(read(slice(top, top + sides[0]), slice(left, left + sides[1])))
            for top in starts[0]
            for left in starts[1]
        ]
    )
    numbers = np.random.default_rng(0).standard_normal(tiles.shape, np.float32)
    level = model.noise.level
    found = Witness(tiles, numbers, model, denoise).cells(RAISED * level, sure=sure)
    if found is None:
        return {}
    shape = len(starts[0]), len(starts[1]), *found.shape[1:]
    grid = found.reshape(shape).transpose(0, 2, 1, 3)
    most = np.inf if sure is None else np.log(TRUSTED)
    logs = np.clip(np.log(grid / level), -most, most)
    logs = logs.reshape(shape[0] * shape[2], shape[1] * shape[3])
    logs = ndimage.gaussian_filter(logs, SMOOTH, mode="nearest")
    rows, cols = (
        [start + (k + 0.5) * CELL for start in each for k in range(side // CELL)]
        for each, side in zip(starts, sides, strict=True)
    )
    return {"rows": rows, "cols": cols, "log_levels": np.round(logs, 4).tolist()}


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
