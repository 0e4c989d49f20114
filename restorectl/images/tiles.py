"""How a plane is cut into tiles: which pixels the network sees, and which of them it answers for.

A tile is a core and a halo around it; only the image's borders are padded. The grid depends on the
plane's size alone, so grouping tiles by any `tile` or `batch` leaves the results alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TypeVar

import numpy as np

CORE = 512  # px
HALO = 64  # px; beyond it a tile's answer is the whole image's within 0.3 grey levels of 255
OVERLAP = 4  # tiles of a fixed size share a quarter of their side

T = TypeVar("T")
Span = tuple[int, int]  # (start, stop) along one axis, px


@dataclass(frozen=True)
class Tile:
    """Half-open pixel ranges in one plane."""

    rows: Span  # read: core and halo, cut at the image's borders
    cols: Span
    core_rows: Span  # written
    core_cols: Span
    shape: tuple[int, int]  # of the network's input: the read size, padded to the stride

    @property
    def read(self) -> tuple[slice, slice]:
        return slice(*self.rows), slice(*self.cols)

    @property
    def core(self) -> tuple[slice, slice]:
        return slice(*self.core_rows), slice(*self.core_cols)

    def pad(self, pixels: np.ndarray) -> np.ndarray:
        """The read pixels (h, w), mirrored beyond the last row and column up to `shape`."""
        height, width = pixels.shape
        extra = (0, self.shape[0] - height), (0, self.shape[1] - width)
        return pixels if extra == ((0, 0), (0, 0)) else np.pad(pixels, extra, mode="symmetric")

    def crop(self, answer: np.ndarray) -> np.ndarray:
        """The core of the network's answer (..., H, W) in `shape`."""
        top, left = self.core_rows[0] - self.rows[0], self.core_cols[0] - self.cols[0]
        height = self.core_rows[1] - self.core_rows[0]
        width = self.core_cols[1] - self.core_cols[0]
        return answer[..., top : top + height, left : left + width]


def tile_grid(
    shape: tuple[int, int], stride: int, core: int = CORE, halo: int = HALO, window: int = 0
) -> tuple[Tile, ...]:
    """The tiles of a plane (Y, X) for a network whose inputs are multiples of `stride` px.

    `window` is the only input size that the network takes, if it has one: core and halo do not
    count then.
    """
    if window:
        return fixed_tile_grid(shape, window, window // OVERLAP)
    rows, cols = (_axis_with_halo(length, stride, core, halo) for length in shape)
    return _crossed(rows, cols)


def fixed_tile_grid(shape: tuple[int, int], window: int, overlap: int) -> tuple[Tile, ...]:
    """The tiles of a plane (Y, X) for a network that runs at `window` px only.

    Every tile reads exactly `window` px: the last of an axis moves inwards, and only planes smaller
    than it are padded. Neighbours share at least `overlap` px and meet in the middle.
    """
    rows, cols = (_axis_of_fixed_size(length, window, overlap) for length in shape)
    return _crossed(rows, cols)


def _crossed(
    rows: Sequence[tuple[Span, Span, int]], cols: Sequence[tuple[Span, Span, int]]
) -> tuple[Tile, ...]:
    return tuple(
        Tile(y_read, x_read, y_core, x_core, (y_size, x_size))
        for y_read, y_core, y_size in rows
        for x_read, x_core, x_size in cols
    )


def _axis_with_halo(length: int, stride: int, core: int, halo: int) -> list[tuple[Span, Span, int]]:
    """(read, core, padded size) of each tile along one axis.

    A remainder shorter than half a core joins the last tile: small edge tiles cost a halo each.
    """
    core, halo = (-(-n // stride) * stride for n in (core, halo))
    count = max(1, (length + core // 2 - 1) // core)
    parts = []
    for k in range(count):
        start, stop = k * core, length if k == count - 1 else (k + 1) * core
        read = max(start - halo, 0), min(stop + halo, length)
        parts.append((read, (start, stop), -(-(read[1] - read[0]) // stride) * stride))
    return parts


def _axis_of_fixed_size(length: int, window: int, overlap: int) -> list[tuple[Span, Span, int]]:
    """(read, core, padded size) of each tile along one axis."""
    if not 0 <= overlap < window:
        raise ValueError(f"overlap {overlap} does not fit windows of {window} px")
    step, last = window - overlap, max(length - window, 0)
    starts = [*range(0, last, step), last]
    edges = [(a + window + b) // 2 for a, b in pairwise(starts)]
    cores = pairwise([0, *edges, length])
    return [
        ((a, min(a + window, length)), core, window) for a, core in zip(starts, cores, strict=True)
    ]


def chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of at most `size` items."""
    source = iter(items)
    while part := list(islice(source, max(1, size))):
        yield part
