"""Training crops, read lazily from the images below a folder.

Which crop stands at a position of a step's batch is a pure function of (seed, step, position), so
runs can be resumed and divided among processes. An image that cannot be used is left out and named
in a warning when the folder is scanned, never replaced by another; one that fails later stops the
run.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from restorectl.core import sampling_plan
from restorectl.core.axes import Plane
from restorectl.errors import InputError, NoInputError, UsageError
from restorectl.io.image import Image, is_image_name, open_image

PERCENTILES = (0.5, 99.9)  # of a channel: what becomes -1 and +1
OPEN_FILES = 32
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """One usable image. dark, low, high: smallest value and two percentiles of each channel."""

    path: Path
    name: str  # relative to the scanned folder
    shape: tuple[int, int, int, int, int]  # T, C, Z, Y, X
    dtype: str
    dark: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Folder:
    """What a scan found: usable images, and one line for each image that was left out."""

    sources: tuple[Source, ...]
    warnings: tuple[str, ...]

    def fingerprint(self) -> str:
        """Changes when an image is added, removed or changed."""
        text = repr([(s.name, s.shape, s.dtype, s.dark, s.low, s.high) for s in self.sources])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Pixels:
    """Crops in input units: pixels (B, C, H, W) float32, the others (B, C) float32."""

    pixels: Array
    dark: Array
    low: Array
    high: Array


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
        raise NoInputError(f"--data {folder}: no usable image there{first}")
    return Folder(tuple(sources), tuple(warnings))


def _images(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise NoInputError(f"--data {folder}: no such folder")
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
            parts = [image.read(*block).ravel() for block in sampling_plan.blocks(shape, c)]
            values = np.concatenate([part[:: max(1, len(part) // 65536)] for part in parts])
            if not np.isfinite(values).all():
                raise InputError(f"{path}: channel {c} holds NaN or infinity")
            low, high = np.percentile(values, PERCENTILES)
            if not high > low:
                raise InputError(f"{path}: channel {c} is constant")
            bounds.append((float(values.min()), float(low), float(high)))
        dark, low, high = zip(*bounds, strict=True)
        return Source(path, name, shape, str(image.header.dtype), dark, low, high)


class Recent:
    """Decoded planes and open files, the least recently used dropped first."""

    def __init__(self, cache_bytes: int) -> None:
        self.room = cache_bytes
        self.planes: OrderedDict[tuple[Path, Plane], NDArray[np.generic]] = OrderedDict()
        self.files: OrderedDict[Path, Image] = OrderedDict()
        self.held = 0

    def read(self, source: Source, plane: Plane, top: int, left: int, side: int) -> Array:
        """(side, side) float32. Planes of more than a quarter of the cache are read in parts."""
        key, rows, cols = (source.path, plane), slice(top, top + side), slice(left, left + side)
        if key in self.planes:
            self.planes.move_to_end(key)
            return self.planes[key][rows, cols].astype(np.float32)
        size = source.shape[3] * source.shape[4] * np.dtype(source.dtype).itemsize
        if size > self.room // 4:
            return self._open(source).read(plane, rows, cols).astype(np.float32)
        pixels = self._open(source).read(plane)
        self.planes[key] = pixels
        self.held += pixels.nbytes
        while self.held > self.room:
            self.held -= self.planes.popitem(last=False)[1].nbytes
        return pixels[rows, cols].astype(np.float32)

    def _open(self, source: Source) -> Image:
        if source.path not in self.files:
            self.files[source.path] = open_image(source.path)
            if len(self.files) > OPEN_FILES:
                self.files.popitem(last=False)[1].close()
        self.files.move_to_end(source.path)
        return self.files[source.path]

    def close(self) -> None:
        while self.files:
            self.files.popitem()[1].close()
        self.planes.clear()
        self.held = 0


@dataclass(frozen=True)
class Part:
    """Where crops may lie in one plane (or in all channels of it): rows first..last."""

    source: int
    channels: tuple[int, ...]
    t: int
    z: int
    first: int
    last: int
    width: int


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
                    found += [Part(index, g, t, z, first, last, width) for g in groups]
    return found


class Patches:
    """Random crops of a scanned folder."""

    def __init__(
        self, sources: Sequence[Source], regions: Sequence[Part], balance: float, recent: Recent
    ) -> None:
        self.sources, self.regions, self.recent = sources, list(regions), recent
        self.height = np.array([r.last - r.first for r in self.regions], np.int64)
        self.width = np.array([r.width for r in self.regions], np.int64)
        self.weight = (self.height * self.width).astype(np.float64) ** balance
        self._cumulative: dict[int, NDArray[np.float64]] = {}

    def fits(self, side: int) -> bool:
        """Whether any crop of this size can be cut."""
        return bool(((self.height >= side) & (self.width >= side)).any())

    def batch(
        self, seed: int, step: int, start: int, count: int, side: int, binning: int = 1
    ) -> Pixels:
        """The crops at positions start..start + count of a step's batch, (side, side) pixels each.

        binning: pixels are means of so many image pixels squared.
        """
        side *= binning
        which, tops, lefts = self._places(seed, step, start, count, side)
        pixels = []
        for i, top, left in zip(which.tolist(), tops.tolist(), lefts.tolist(), strict=True):
            part = self.regions[i]
            source = self.sources[part.source]
            pixels.append(
                [
                    self.recent.read(source, (part.t, c, part.z), part.first + top, left, side)
                    for c in part.channels
                ]
            )
        bounds = [
            np.array(
                [
                    [
                        getattr(self.sources[self.regions[i].source], key)[c]
                        for c in self.regions[i].channels
                    ]
                    for i in which.tolist()
                ],
                np.float32,
            )
            for key in ("dark", "low", "high")
        ]
        stack = np.array(pixels, np.float32)
        if binning > 1:
            small = (*stack.shape[:2], side // binning, binning, side // binning, binning)
            stack = stack.reshape(small).mean((3, 5))
        return Pixels(stack, *bounds)

    def _places(
        self, seed: int, step: int, start: int, count: int, side: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(region, row, column) of each crop."""
        positions = np.arange(start, start + count, dtype=np.uint64)
        which = np.searchsorted(
            self._table(side), random(seed, step, positions, 0), side="right"
        ).astype(np.int64)
        tops = random(seed, step, positions, 1) * (self.height[which] - side + 1)
        lefts = random(seed, step, positions, 2) * (self.width[which] - side + 1)
        return which, tops.astype(np.int64), lefts.astype(np.int64)

    def _table(self, side: int) -> NDArray[np.float64]:
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
