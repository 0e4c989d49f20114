"""Training crops, read lazily from the images below a folder.

Which crop stands at a position of a step's batch is a pure function of (seed, step, position), so
runs can be resumed and divided among processes. An image that cannot be used is left out and named
in a warning when the folder is scanned, never replaced by another; one that fails later stops the
run.

Regions of many images on demand: decoded planes and open files, the latest ones held.

Training crops on their way from the images to the engine.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from restorectl.errors import InputError, NoInputError, UsageError
from restorectl.images.blocks import sampled
from restorectl.images.header import Plane
from restorectl.images.image import Image, is_image_name, open_image


@dataclass(frozen=True)
class Crops:
    """Regions of images in input units.

    pixels: (B, C, H, W) float32. dark, low, high: (B, C) float32, the smallest value and two
    robust percentiles of the channel that each region was cut from. Of pairs, pixels and partner
    (the worse image, likewise (B, C, H, W)) are in network units already.
    """

    pixels: NDArray[np.float32]
    dark: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    partner: NDArray[np.float32] | None = None


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


PERCENTILES = (0.5, 99.9)  # of a channel: what becomes -1 and +1
PER_BLOCK = 65536  # pixels of each block that the percentiles are taken of


@dataclass(frozen=True)
class Folder:
    """What a scan found: usable images, and one line for each image that was left out."""

    sources: tuple[Source, ...]
    warnings: tuple[str, ...]

    def fingerprint(self) -> str:
        """Changes when an image is added, removed or changed."""
        text = repr([replace(source, path=Path()) for source in self.sources])
        return hashlib.sha256(text.encode()).hexdigest()


def scan(folder: Path, channels: int, axes: str | None = None) -> Folder:
    """The images below `folder`, sorted by name, with their intensity percentiles.

    channels: 1 takes every channel by itself; more takes only images with exactly that many.
    Raises NoInputError if none can be used.
    """
    sources: list[Source] = []
    warnings: list[str] = []
    for path in _images(folder):
        try:
            sources.append(_source(path, str(path.relative_to(folder)), channels, axes))
        except InputError as error:
            warnings.append(f"left out: {error}")
    if not sources:
        first = f"; {len(warnings)} left out, first: {warnings[0]}" if warnings else ""
        raise NoInputError(f"{folder}: no usable image there{first}")
    return Folder(tuple(sources), tuple(warnings))


def _images(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise NoInputError(f"{folder}: no such folder")
    found = []
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(base, name) for name in names if not name.startswith(".")]
    yield from sorted(path for path in found if is_image_name(path))


def _source(path: Path, name: str, channels: int, axes: str | None) -> Source:
    """Raises InputError for an image that training cannot use."""
    with open_image(path, axes=axes) as image:
        shape = image.header.canonical_shape
        if channels > 1 and shape[1] != channels:
            raise InputError(f"{path}: has {shape[1]} channels, the recipe takes {channels}")
        bounds = []
        for c in range(shape[1]):
            blocks = [image.read(*block).ravel() for block in sampled(shape, c)]
            values = np.concatenate([b[:: max(1, len(b) // PER_BLOCK)] for b in blocks])
            if not np.isfinite(values).all():
                raise InputError(f"{path}: channel {c} holds NaN or infinity")
            low, high = np.percentile(values, PERCENTILES)
            if not high > low:
                raise InputError(f"{path}: channel {c} is constant")
            bounds.append((float(values.min()), float(low), float(high)))
        dark, low, high = zip(*bounds, strict=True)
        return Source(path, name, axes, shape, str(image.header.dtype), dark, low, high)


def parts(
    sources: Sequence[Source], channels: int, fraction: float, crop: int, validation: bool
) -> list[Part]:
    """The training or the validation rows of every plane.

    The last `fraction` of the rows, at least `crop`, is kept for validation in planes of at least
    four times `crop` rows: the same rows in all planes of an image, so a z-stack does not leak.
    """
    found = []
    for index, source in enumerate(sources):
        times, n, depth, height, width = source.shape
        kept = max(crop, round(height * fraction)) if fraction and height >= 4 * crop else 0
        first, last = (height - kept, height) if validation else (0, height - kept)
        groups = [tuple(range(n))] if channels > 1 else [(c,) for c in range(n)]
        if first < last:
            for t in range(times):
                for z in range(depth):
                    found += [Part(index, g, t, z, first, last, 0, width) for g in groups]
    return found


class Reader(Protocol):
    """Cuts parts out of images."""

    def regions(self, sources: Sequence[Source], wanted: Sequence[Part]) -> Crops: ...
    def close(self) -> None: ...


class Patches:
    """Random crops of parts of images; a part is chosen with probability ~ area ** balance."""

    def __init__(
        self, sources: Sequence[Source], regions: Sequence[Part], balance: float, reader: Reader
    ) -> None:
        self.sources, self.regions, self.reader = sources, list(regions), reader
        sizes = np.array([r.size for r in self.regions], np.int64).reshape(-1, 2)
        self.height, self.width = sizes.T
        self.weight = sizes.prod(1).astype(np.float64) ** balance
        self._cumulative: dict[int, NDArray[np.float64]] = {}

    def fits(self, side: int) -> bool:
        """Whether any crop of this size can be cut."""
        return bool(((self.height >= side) & (self.width >= side)).any())

    def batch(
        self, seed: int, step: int, start: int, count: int, side: int, binning: int = 1
    ) -> Crops:
        """The crops at positions start..start + count of a step's batch, (side, side) pixels each.

        binning: pixels are means of so many image pixels squared.
        """
        crops = self._places(seed, step, start, count, side * binning)
        raw = self.reader.regions(self.sources, crops)
        if binning == 1:
            return raw
        blocks = (*raw.pixels.shape[:2], side, binning, side, binning)
        return replace(raw, pixels=raw.pixels.reshape(blocks).mean((3, 5)))

    def _places(self, seed: int, step: int, start: int, count: int, side: int) -> list[Part]:
        """Where each crop is cut."""
        positions = np.arange(start, start + count, dtype=np.uint64)
        table = self._table(side)
        which = np.searchsorted(table, random(seed, step, positions, 0), side="right")
        down = random(seed, step, positions, 1) * (self.height[which] - side + 1)
        across = random(seed, step, positions, 2) * (self.width[which] - side + 1)
        places = []
        for i, y, x in zip(which.tolist(), down.tolist(), across.tolist(), strict=True):
            r = self.regions[i]
            top, left = r.first + int(y), r.left + int(x)
            places.append(Part(r.source, r.channels, r.t, r.z, top, top + side, left, left + side))
        return places

    def _table(self, side: int) -> NDArray[np.float64]:
        """Cumulative probabilities of the regions that are large enough."""
        if side not in self._cumulative:
            weight = np.where((self.height >= side) & (self.width >= side), self.weight, 0.0)
            if not weight.any():
                raise UsageError(
                    f"no image is large enough for crops of {side} px: lower data.crop"
                )
            table = np.cumsum(weight / weight.sum())
            table[np.flatnonzero(weight)[-1] :] = 1.0  # rounding must not reach past the last
            self._cumulative[side] = table
        return self._cumulative[side]


def random(seed: int, step: int, positions: NDArray[np.uint64], stream: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), each a function of (seed, step, position, stream): SplitMix64."""
    key = hashlib.blake2b(repr((seed, step, stream)).encode(), digest_size=8).digest()
    with np.errstate(over="ignore"):
        z = positions * np.uint64(0x9E3779B97F4A7C15) + np.uint64(int.from_bytes(key, "little"))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
