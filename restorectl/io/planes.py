"""Regions of many images on demand: decoded planes and open files, the latest ones held."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from restorectl.core.axes import Plane
from restorectl.core.crops import Crops
from restorectl.io.image import Image, open_image

OPEN_FILES = 32


@dataclass(frozen=True)
class Source:
    """One usable image. dark, low, high: smallest value and two percentiles of each channel."""

    path: Path
    name: str  # relative to the scanned folder
    axes: str | None  # the user's --axes
    shape: tuple[int, int, int, int, int]  # T, C, Z, Y, X
    dtype: str
    dark: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Part:
    """A rectangle of one plane, or of the same plane in several channels."""

    source: int  # position in the list of sources
    channels: tuple[int, ...]
    t: int
    z: int
    first: int  # rows first..last
    last: int
    left: int  # columns left..right
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.last - self.first, self.right - self.left


class Recent:
    """Decoded planes and open files, the least recently used dropped first. Not thread-safe."""

    def __init__(self, cache_bytes: int) -> None:
        self.room = cache_bytes
        self.planes: OrderedDict[tuple[Path, Plane], NDArray[np.generic]] = OrderedDict()
        self.files: OrderedDict[Path, Image] = OrderedDict()
        self.held = 0

    def regions(self, sources: Sequence[Source], wanted: Sequence[Part]) -> Crops:
        """The pixels of equally large parts, with the ranges of their channels."""
        pixels, bounds = [], []
        for part in wanted:
            source = sources[part.source]
            pixels.append([self._region(source, part, c) for c in part.channels])
            bounds.append([(source.dark[c], source.low[c], source.high[c]) for c in part.channels])
        ranges = np.array(bounds, np.float32)  # (B, C, 3)
        return Crops(np.array(pixels, np.float32), *(ranges[..., i] for i in range(3)))

    def _region(self, source: Source, part: Part, c: int) -> NDArray[np.generic]:
        """(H, W) in the image's dtype. Planes over a quarter of the cache are read in parts."""
        plane = (part.t, c, part.z)
        rows, cols = slice(part.first, part.last), slice(part.left, part.right)
        key = (source.path, plane)
        if key in self.planes:
            self.planes.move_to_end(key)
            return self.planes[key][rows, cols]
        nbytes = source.shape[3] * source.shape[4] * np.dtype(source.dtype).itemsize
        if nbytes > self.room // 4:
            return self._open(source).read(plane, rows, cols)
        self.planes[key] = self._open(source).read(plane)
        self.held += nbytes
        while self.held > self.room:
            self.held -= self.planes.popitem(last=False)[1].nbytes
        return self.planes[key][rows, cols]

    def _open(self, source: Source) -> Image:
        if source.path not in self.files:
            self.files[source.path] = open_image(source.path, axes=source.axes)
            if len(self.files) > OPEN_FILES:
                self.files.popitem(last=False)[1].close()
        self.files.move_to_end(source.path)
        return self.files[source.path]

    def close(self) -> None:
        """Close all files and drop all planes."""
        while self.files:
            self.files.popitem()[1].close()
        self.planes.clear()
        self.held = 0
