"""Reads training crops lazily from the images in a folder.

The crop at each position of a step's batch depends on (seed, step, position) only, so runs can be
resumed and divided among processes. Scanning leaves out unusable images with a warning; an image
that fails later stops the run.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path, PurePath
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from restorectl.batch.inputs import walk
from restorectl.errors import InputError, NoInputError, UsageError, blamed
from restorectl.images.blocks import sampled_pixels, spread
from restorectl.images.header import Plane
from restorectl.images.image import Image, open_image
from restorectl.images.recent import Recent

PERCENTILES = (0.5, 99.9)  # of a channel; mapped to -1 and +1
PER_BLOCK = 65536  # pixels per block for the percentiles
OPEN_FILES = 32
BYTES = 4  # of a pixel held on the device
WHOLE = 4  # images, of which one can be kept for validation


@dataclass(frozen=True, repr=False)
class TrainingImage:
    """A usable image. dark, low, high: minimum and two percentiles of each channel."""

    path: Path
    name: str  # relative to the scanned folder
    axes: str | None  # the user's `axes`
    shape: tuple[int, int, int, int, int]  # T, C, Z, Y, X
    dtype: str
    dark: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __repr__(self) -> str:
        """Text for fingerprints. Checkpoints hold these, so the text must never change."""
        values = {**vars(self), "path": Path()}
        return f"Source({', '.join(f'{name}={value!r}' for name, value in values.items())})"


@dataclass(frozen=True, repr=False)
class Region:
    """A rectangle of one plane, or of the same plane in several channels."""

    image: int  # index in the list of images
    channels: tuple[int, ...]
    t: int
    z: int
    first: int  # rows [first, last)
    last: int
    left: int  # columns [left, right)
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.last - self.first, self.right - self.left

    @property
    def area(self) -> tuple[slice, slice]:
        """Row and column slices in the plane."""
        return slice(self.first, self.last), slice(self.left, self.right)

    def __repr__(self) -> str:
        """Text for fingerprints, like TrainingImage's."""
        names = ("source", *list(vars(self))[1:])
        pairs = zip(names, vars(self).values(), strict=True)
        return f"Part({', '.join(f'{name}={value!r}' for name, value in pairs)})"


@dataclass(frozen=True)
class CropBatch:
    """Regions of equal size, in input units; all float32 and on one device.

    pixels: (B, C, H, W). ranges: (B, C, 3), minimum and two percentiles of each region's channel.
    For pairs, pixels and partner (the degraded image, (B, C, H, W) too) are already in network
    units.
    """

    pixels: Tensor
    ranges: Tensor
    partner: Tensor | None = None

    def binned(self, factor: int) -> "CropBatch":
        """Means over blocks of factor x factor pixels."""
        return replace(self, pixels=F.avg_pool2d(self.pixels, factor)) if factor > 1 else self


def joined(batches: Sequence[CropBatch], order: NDArray[np.int64]) -> CropBatch:
    """One batch of several; `order` says at which place of all each crop of the result is."""
    if len(batches) == 1:
        return batches[0]
    place = torch.from_numpy(order).to(batches[0].pixels.device, non_blocking=True)
    partners = [batch.partner for batch in batches if batch.partner is not None]
    return CropBatch(
        torch.cat([batch.pixels for batch in batches])[place],
        torch.cat([batch.ranges for batch in batches])[place],
        torch.cat(partners)[place] if partners else None,
    )


@dataclass(frozen=True)
class ScannedFolder:
    """The result of a scan: usable images, and a warning for each image that was left out."""

    images: tuple[TrainingImage, ...]
    warnings: tuple[str, ...]

    def fingerprint(self) -> str:
        """Changes when an image is added, removed or changed."""
        return fingerprint(repr(list(self.images)))


def fingerprint(text: str) -> str:
    """SHA-256 of a text that describes the training data: images, pairs, or regions."""
    return hashlib.sha256(text.encode()).hexdigest()


def scan(folder: Path, channels: int, axes: str | None = None) -> ScannedFolder:
    """The images below `folder`, sorted by name, with their intensity percentiles.

    channels: 1 uses every channel separately; N > 1 uses only images with N channels.
    Raises NoInputError if there are none.
    """
    if not folder.is_dir():
        raise NoInputError(f"{folder}: no such folder")
    images: list[TrainingImage] = []
    warnings: list[str] = []
    for name in walk(folder, None):
        try:
            images.append(_usable(folder / name, str(name), channels, axes))
        except Exception as error:
            warnings.append(f"left out: {blamed(folder / name, error)}")
    if not images:
        first = f"; {len(warnings)} left out, first: {warnings[0]}" if warnings else ""
        raise NoInputError(f"{folder}: no usable image{first}")
    return ScannedFolder(tuple(images), tuple(warnings))


def _usable(path: Path, name: str, channels: int, axes: str | None) -> TrainingImage:
    """Measure an image. Raises InputError if training cannot use it."""
    with open_image(path, axes=axes) as image:
        shape = image.header.canonical_shape
        if channels > 1 and shape[1] != channels:
            raise InputError(f"{path}: has {shape[1]} channels, the recipe needs {channels}")
        bounds = []
        for c in range(shape[1]):
            blocks = [block.ravel() for block in sampled_pixels(image, c)]
            values = np.concatenate([b[:: max(1, len(b) // PER_BLOCK)] for b in blocks])
            if not np.isfinite(values).all():
                raise InputError(f"{path}: channel {c} contains NaN or infinity")
            low, high = np.percentile(values, PERCENTILES)
            if not high > low:
                raise InputError(f"{path}: channel {c} is constant")
            bounds.append((float(values.min()), float(low), float(high)))
        dark, low, high = zip(*bounds, strict=True)
        return TrainingImage(path, name, axes, shape, str(image.header.dtype), dark, low, high)


def split(
    reader: "RegionReader", channels: int, fraction: float, crop: int, by: str = "rows"
) -> tuple[list[Region], list[Region]]:
    """The training and the validation regions of every plane.

    by rows: in planes of at least four times `crop` rows, the last `fraction` of the rows, at least
    `crop`, is for validation: the same rows in all planes of an image, so that z-stacks do not
    leak; if no plane has as many, and there are WHOLE images or more, by images. by images: that
    share of the images, each with all its noisy versions. by fields: that share of the folders.
    Raises UsageError for a single image or folder.
    """
    images, scenes = reader.images, reader.scenes
    training, validation = [], []
    rows = fraction > 0 and by == "rows"
    for index, image in enumerate(images):
        times, n, depth, height, width = image.shape
        kept = max(crop, round(height * fraction)) if rows and height >= 4 * crop else 0
        groups = [tuple(range(n))] if channels > 1 else [(c,) for c in range(n)]
        for t, z, group in product(range(times), range(depth - reader.planes + 1), groups):
            plane = Region(index, group, t, z, 0, height, 0, width)
            if kept < height:
                training.append(replace(plane, last=height - kept))
            if kept:
                validation.append(replace(plane, first=height - kept))
    if by == "fields":
        scenes = [str(PurePath(scene).parent) for scene in scenes]
    if not training and not validation:
        raise UsageError(
            f"no stack has {reader.planes} planes, of which the middle one is learnt: if another"
            " axis is the depth, use `axes`"
        )
    names = list(dict.fromkeys(scenes))
    if fraction and by != "rows" and len(names) < 2:
        raise UsageError(f"validation.by={by}: there is only one: use validation.by=rows")
    if fraction and not validation and (by != "rows" or len(names) >= WHOLE):
        held = {names[k] for k in spread(len(names), max(1, round(len(names) * fraction)))}
        validation = [region for region in training if scenes[region.image] in held]
        training = [region for region in training if scenes[region.image] not in held]
    return training, validation


class RegionReader(Protocol):
    """Cuts regions out of its images."""

    images: Sequence[TrainingImage]
    scenes: Sequence[str]  # what each image shows: the relative name of the clean image
    planes: int  # consecutive ones that are read together, from a region's z on

    def read(self, regions: Sequence[Region]) -> CropBatch: ...
    def close(self) -> None: ...


class ImageReader:
    """Reads regions of images in input units; caches planes and open files. Not thread-safe."""

    def __init__(self, images: Sequence[TrainingImage], cache_bytes: int, planes: int = 1) -> None:
        self.images, self.cache, self.planes = images, Recent(cache_bytes), planes
        self.scenes: Sequence[str] = [image.name for image in images]
        self.files: OrderedDict[int, Image] = OrderedDict()

    def read(self, regions: Sequence[Region]) -> CropBatch:
        """Read regions of equal size, with the intensity ranges of their channels.

        Of several planes, all channels of the first come first.
        """
        pixels, bounds = [], []
        for region in regions:
            image, several = self.images[region.image], range(self.planes)
            planes = [replace(region, z=region.z + k) for k in several]
            pixels.append([self._pixels(plane, c) for plane in planes for c in region.channels])
            ends = [(image.dark[c], image.low[c], image.high[c]) for c in region.channels]
            bounds.append(ends * self.planes)
        return CropBatch(
            torch.from_numpy(np.array(pixels, np.float32)),
            torch.tensor(bounds, dtype=torch.float32),
        )

    def _pixels(self, region: Region, c: int) -> NDArray[np.generic]:
        """Pixels (H, W) in the image's dtype. Planes over 1/4 of the cache are read in parts."""
        image, plane = self.images[region.image], (region.t, c, region.z)
        if image.shape[3] * image.shape[4] * np.dtype(image.dtype).itemsize > self.cache.room // 4:
            return self._open(region.image).read(plane, *region.area)
        pixels = self.cache.get((region.image, plane), partial(self._plane, region.image, plane))
        return pixels[region.area]

    def _plane(self, index: int, plane: Plane) -> NDArray[np.generic]:
        return self._open(index).read(plane)

    def _open(self, index: int) -> Image:
        if index not in self.files:
            image = self.images[index]
            self.files[index] = open_image(image.path, axes=image.axes)
            if len(self.files) > OPEN_FILES:
                self.files.popitem(last=False)[1].close()
        self.files.move_to_end(index)
        return self.files[index]

    def close(self) -> None:
        """Close all files and drop all planes."""
        while self.files:
            self.files.popitem()[1].close()
        self.cache.clear()


class HeldRegions:
    """All regions, decoded and on one device, where the crops of a batch are cut in one step."""

    def __init__(
        self, reader: RegionReader, regions: Sequence[Region], device: torch.device
    ) -> None:
        planes: list[Tensor] = []
        partners: list[Tensor] = []
        ranges, rows, start = [], [], 0
        for region in regions:
            one = reader.read([region])
            planes.append(one.pixels.flatten())
            partners += [] if one.partner is None else [one.partner.flatten()]
            ranges.append(one.ranges)
            rows.append((start, region.size[0] * region.size[1], region.size[1]))
            start += len(planes[-1])
        self.channels = len(regions[0].channels) * reader.planes
        self.pixels = torch.cat(planes).to(device)
        self.partner = torch.cat(partners).to(device) if partners else None
        self.ranges = torch.cat(ranges).to(device)
        self.layout = np.array(rows, np.int64)  # first pixel, pixels of a channel, and of a row

    def cut(
        self,
        which: NDArray[np.int64],
        top: NDArray[np.int64],
        left: NDArray[np.int64],
        length: int,
    ) -> CropBatch:
        """Crops of (length, length) px at these corners (B,) in these regions (B,)."""
        first, plane, row = self.layout[which].T
        where = np.stack([first + top * row + left, plane, row, which])
        device = self.pixels.device
        corner, plane, row, chosen = torch.from_numpy(where).to(device, non_blocking=True)
        side = torch.arange(length, device=device)
        at = corner[:, None] + torch.arange(self.channels, device=device) * plane[:, None]
        at = at[:, :, None, None] + side[:, None] * row[:, None, None, None] + side
        partner = None if self.partner is None else self.partner[at]
        return CropBatch(self.pixels[at], self.ranges[chosen], partner)


class CropSampler:
    """Random crops of regions; a region is chosen with probability ~ area ** balance."""

    def __init__(self, reader: RegionReader, regions: Sequence[Region], balance: float) -> None:
        self.reader, self.regions = reader, list(regions)
        self.held: HeldRegions | None = None
        sizes = np.array([r.size for r in self.regions], np.int64).reshape(-1, 2)
        self.height, self.width = sizes.T
        self.weight = sizes.prod(1).astype(np.float64) ** balance
        self._cumulative: dict[int, NDArray[np.float64]] = {}

    def hold(self, device: torch.device, room: int) -> None:
        """Keep all regions on the device if they take at most `room` bytes; the crops are equal."""
        planes = sum(r.size[0] * r.size[1] * len(r.channels) for r in self.regions)
        if 0 < planes * self.reader.planes * BYTES <= room:
            self.held = HeldRegions(self.reader, self.regions, device)

    def fits(self, side: int) -> bool:
        """Whether any crop of this size can be cut."""
        return bool(((self.height >= side) & (self.width >= side)).any())

    def batch(
        self,
        seed: int,
        step: int,
        start: int,
        count: int,
        side: int,
        binning: Sequence[int] = (1,),
    ) -> CropBatch:
        """The crops [start, start + count) of a step's batch, (side, side) pixels each.

        binning: image pixels averaged per side, one is chosen for each crop among those for which
        a region is large enough. Raises UsageError if there is none.
        """
        positions = np.arange(start, start + count, dtype=np.uint64)
        factors = [b for b in binning if self.fits(side * b)] or list(binning)
        chosen = np.array(factors)[
            (random(seed, step, positions, 4) * len(factors)).astype(np.int64)
        ]
        parts, order = [], []
        for factor in sorted(set(factors)):
            members = np.flatnonzero(chosen == factor)
            if len(members):
                crops = self._cut(seed, step, positions[members], side * factor)
                parts.append(crops.binned(factor))
                order.append(members)
        return joined(parts, np.concatenate(order).argsort())

    def _cut(self, seed: int, step: int, positions: NDArray[np.uint64], length: int) -> CropBatch:
        table = self._probabilities(length)
        which = np.searchsorted(table, random(seed, step, positions, 0), side="right")
        down = random(seed, step, positions, 1) * (self.height[which] - length + 1)
        across = random(seed, step, positions, 2) * (self.width[which] - length + 1)
        top, left = down.astype(np.int64), across.astype(np.int64)
        if self.held is not None:
            return self.held.cut(which, top, left, length)
        crops = []
        for i, y, x in zip(which.tolist(), top.tolist(), left.tolist(), strict=True):
            region = self.regions[i]
            y, x = region.first + y, region.left + x
            crops.append(replace(region, first=y, last=y + length, left=x, right=x + length))
        return self.reader.read(crops)

    def _probabilities(self, side: int) -> NDArray[np.float64]:
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
    """Uniform numbers in [0, 1) that depend on (seed, step, position, stream) only: SplitMix64."""
    key = hashlib.blake2b(repr((seed, step, stream)).encode(), digest_size=8).digest()
    with np.errstate(over="ignore"):
        z = positions * np.uint64(0x9E3779B97F4A7C15) + np.uint64(int.from_bytes(key, "little"))
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
