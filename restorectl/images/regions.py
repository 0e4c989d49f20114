"""Regions of an image that several processes restore and write, in any order.

A region is whole blocks of the output (chunks, shards or rows), so that no two processes write one
block, and the bytes are those that one process would have written.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.images import tiles
from restorectl.images.header import Header, Plane
from restorectl.images.tiles import Block, Span, Tile

AT_LEAST = 4  # regions of an image, for each thread of a cluster
SIDE = 1024  # px; regions of a plane are at least so high and wide, if the plane is
PLANES = 4 << 20  # px of the planes of a region; of larger planes it has one


@dataclass(frozen=True)
class Region:
    """Some planes, and the rows and columns of each."""

    planes: tuple[Plane, ...]  # with all others of their slabs
    rows: Span
    cols: Span

    @property
    def area(self) -> tuple[slice, slice]:
        return slice(*self.rows), slice(*self.cols)

    def bands(self, grid: Sequence[Tile], *, in_blocks: bool) -> list[list[Block]]:
        """What of `tiles.bands` it needs; of a plane in one block, some tiles as a block."""
        if not in_blocks:
            return [[Block(tuple(tile for tile in grid if self._meets(tile.core)))]]
        bands = tiles.bands(grid, in_blocks=True)
        found = ([block for block in band if self._meets(block.core)] for band in bands)
        return [band for band in found if band]

    def _meets(self, core: tuple[slice, slice]) -> bool:
        return all(
            span.start < stop and start < span.stop
            for span, (start, stop) in zip(core, (self.rows, self.cols), strict=True)
        )


class Divided(ABC):
    """An image that several processes write."""

    path: Path
    sides: tuple[int, int]  # px: rows and columns of a block, which begin at multiples of them

    @abstractmethod
    def slab(self, plane: Plane) -> Plane:
        """Where the block of a plane is along T, C and Z: the same for all planes of a block."""

    @abstractmethod
    def begin(self, provenance: Any) -> None:
        """Write all but the pixels; what an interrupted run left, made the same way, stays."""

    @abstractmethod
    def has(self, region: Region) -> bool:
        """Whether a region was there when the writing began."""

    @abstractmethod
    def put(self, region: Region, pixels: np.ndarray) -> None:
        """Write a region of the planes of one slab, (planes, rows, columns)."""

    @abstractmethod
    def finish(self, provenance: Any) -> None:
        """Write what depends on all pixels."""


def regions(
    header: Header,
    output: Divided,
    grid: Sequence[Tile],
    *,
    at_least: int,
    whole: bool,
    joint: bool,
) -> Iterator[Region]:
    """Divide an image into at least so many regions, if it has as many.

    grid: tiles of a plane. whole: planes are not divided, since they need their neighbours: then
    many consecutive planes are together. joint: so are all channels.
    """
    slabs: dict[tuple[int, ...], list[Plane]] = {}
    for plane in header.planes:
        t, c, z = output.slab(plane)
        slabs.setdefault((t, z) if joint else (t, c, z), []).append(plane)
    height, width = header.canonical_shape[3:]
    each = max(len(slabs) // at_least, 1)
    if not whole:
        each = min(each, max(1, PLANES // (height * width)))
    rows, cols = [(0, height)], [(0, width)]
    if not whole and len(slabs) < at_least:
        bands = tiles.bands(grid, in_blocks=header.is_large)
        parts = grid if not header.is_large else [block for band in bands for block in band]
        rows, cols = (
            _spans(length, side, {part.core[k].start for part in parts}, exact=header.is_large)
            for k, (length, side) in enumerate(zip((height, width), output.sides, strict=True))
        )
    for some in tiles.chunks(list(slabs.values()), each):
        planes = tuple(plane for slab in some for plane in slab)
        for row in rows:
            for col in cols:
                yield Region(planes, row, col)


def _spans(length: int, side: int, cores: Collection[int], *, exact: bool) -> list[Span]:
    """Cut an axis between blocks of the output and, where that is possible, between cores.

    exact: only there.
    """
    borders = range(0, length, side)
    both = [start for start in borders if start in cores] if side > 1 else sorted(cores)
    cuts = [0]
    for start in both if exact or len(both) > 1 else borders:
        if start - cuts[-1] >= SIDE and length - start >= SIDE // 2:
            cuts.append(start)
    return list(pairwise([*cuts, length]))
