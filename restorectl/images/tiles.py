"""Cuts a plane into tiles: the pixels that the network reads, and the core that is kept.

A tile is a core with a halo around it; padding is added only at the image's borders. The grid
depends on the plane's size alone, so `batch` does not change results.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, pairwise
from typing import TypeVar

import numpy as np

CORE = 512  # px, side of the core
HALO = 64  # px; a core differs from the whole image's result by at most 0.3 of 255 grey levels
OVERLAP = 4  # tiles of a fixed size overlap by 1/4 of their side
BLOCK = 512, 8192  # px, rows and columns of a block of a large plane

T = TypeVar("T")
Span = tuple[int, int]  # (start, stop) along one axis, px


@dataclass(frozen=True)
class Tile:
    """Half-open pixel ranges in one plane."""

    rows: Span  # read: core with halo, cut at the image's borders
    cols: Span
    core_rows: Span  # written
    core_cols: Span
    shape: tuple[int, int]  # network input: the read size, padded to a multiple of the stride

    @property
    def read(self) -> tuple[slice, slice]:
        return slice(*self.rows), slice(*self.cols)

    @property
    def core(self) -> tuple[slice, slice]:
        return slice(*self.core_rows), slice(*self.core_cols)

    def seen_from(self, top: int, left: int) -> "Tile":
        """The same tile where this pixel of the plane is the first of an array."""
        rows, core_rows = (tuple(n - top for n in span) for span in (self.rows, self.core_rows))
        cols, core_cols = (tuple(n - left for n in span) for span in (self.cols, self.core_cols))
        return Tile(rows, cols, core_rows, core_cols, self.shape)  # type: ignore[arg-type]

    def pad(self, pixels: np.ndarray) -> np.ndarray:
        """The read pixels (h, w), mirrored beyond the last row and column up to `shape`."""
        height, width = pixels.shape
        extra = (0, self.shape[0] - height), (0, self.shape[1] - width)
        return pixels if extra == ((0, 0), (0, 0)) else np.pad(pixels, extra, mode="symmetric")

    def crop(self, answer: np.ndarray) -> np.ndarray:
        """The core of the network's output (..., H, W), whose size is `shape`."""
        top, left = self.core_rows[0] - self.rows[0], self.core_cols[0] - self.cols[0]
        height = self.core_rows[1] - self.core_rows[0]
        width = self.core_cols[1] - self.core_cols[0]
        return answer[..., top : top + height, left : left + width]


@dataclass(frozen=True)
class Block:
    """Tiles that are read together: all of a plane, or a rectangle of them."""

    tiles: tuple[Tile, ...]

    @property
    def read(self) -> tuple[slice, slice]:
        """What its tiles read."""
        first, last = self.tiles[0], self.tiles[-1]
        return slice(first.rows[0], last.rows[1]), slice(first.cols[0], last.cols[1])

    @property
    def core(self) -> tuple[slice, slice]:
        """What its tiles write."""
        first, last = self.tiles[0], self.tiles[-1]
        rows = slice(first.core_rows[0], last.core_rows[1])
        return rows, slice(first.core_cols[0], last.core_cols[1])

    @property
    def core_in_read(self) -> tuple[slice, slice]:
        """The core, in an array of what its tiles read."""
        rows, cols = (
            slice(core.start - read.start, core.stop - read.start)
            for core, read in zip(self.core, self.read, strict=True)
        )
        return rows, cols


def bands(grid: Sequence[Tile], *, in_blocks: bool) -> list[list[Block]]:
    """The blocks of a plane, one below the other in bands; one band of one block for all tiles.

    in_blocks: of about the size BLOCK. Depends on the grid alone.
    """
    if not in_blocks:
        return [[Block(tuple(grid))]]
    rows = [list(row) for _, row in groupby(grid, lambda tile: tile.core_rows)]
    tall, wide = grid[0].core_rows[1], grid[0].core_cols[1]
    found = []
    for some in chunks(rows, BLOCK[0] // tall):
        columns = chunks(list(zip(*some, strict=True)), BLOCK[1] // wide)  # tiles below each other
        found.append(
            [
                Block(tuple(tile for row in zip(*part, strict=True) for tile in row))
                for part in columns
            ]
        )
    return found


def tile_grid(
    shape: tuple[int, int], stride: int, core: int = CORE, halo: int = HALO, window: int = 0
) -> tuple[Tile, ...]:
    """The tiles of a plane (Y, X) for a network whose inputs are multiples of `stride` px.

    window: the network's fixed input size in px, if it has one; then core and halo are ignored.
    """
    if window:
        return fixed_tile_grid(shape, window, window // OVERLAP)
    rows, cols = (_axis_with_halo(length, stride, core, halo) for length in shape)
    return _crossed(rows, cols)


def fixed_tile_grid(shape: tuple[int, int], window: int, overlap: int) -> tuple[Tile, ...]:
    """The tiles of a plane (Y, X) for a network with the fixed input size `window` px.

    Every tile reads exactly `window` px: the last one of an axis moves inwards, and only smaller
    planes are padded. Neighbours overlap by at least `overlap` px, and their cores meet halfway.
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

    A remainder shorter than half a core joins the last tile, to save a halo.
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
