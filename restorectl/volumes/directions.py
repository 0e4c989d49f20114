"""Slices of a stack in one direction, and their restoration by the network.

XZ slices are stacked along Y, YZ slices along X. Each slice crosses all planes, so that the network
gets an image with hidden rows. Arrays of slices are (C, D, N or Z, L): channels, slices, observed
planes (N) or planes of the result (Z), and the lateral axis in a slice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from restorectl import catalog
from restorectl.engine import slices as engine
from restorectl.engine.card import Card
from restorectl.engine.noise_field import FieldWeights, Site, SliceNoise
from restorectl.engine.runner import Runner
from restorectl.engine.samplers import Sampler
from restorectl.errors import InputError
from restorectl.files import atomic
from restorectl.images import tiles
from restorectl.images.blocks import sampled_pixels
from restorectl.images.image import ALL, Image
from restorectl.intensity import value_range
from restorectl.intensity.value_range import StackRange, fit_stack_range
from restorectl.volumes import interpolation

HELD = 256 << 20  # bytes; a stack up to this size is kept in memory, others on disk


@dataclass(frozen=True)
class SliceDirection:
    """How slices are cut from a volume (C, Z, Y, X)."""

    number: int  # selects the direction's own noise
    across: int  # axis along which the slices are stacked
    along: int  # lateral axis in a slice

    def area(self, part: slice) -> tuple[slice, slice]:
        """The rows and columns of some slices."""
        return (part, ALL) if self.across == 2 else (ALL, part)

    def slices(self, volume: np.ndarray) -> np.ndarray:
        """(C, Z, Y, X) -> (C, D, Z, L), a view."""
        return np.moveaxis(volume, self.across, 1)

    def volume(self, slices: np.ndarray) -> np.ndarray:
        """(C, D, Z, L) -> (C, Z, Y, X), a view."""
        return np.moveaxis(slices, 1, self.across)


XZ, YZ = SliceDirection(0, 2, 3), SliceDirection(1, 3, 2)
DIRECTIONS = {"both": (XZ, YZ), "xz": (XZ,), "yz": (YZ,)}  # keys: values of `sweeps`


@dataclass(frozen=True)
class StackSlices:
    """Consecutive slices of one direction, with their position, which determines their noise."""

    observed: np.ndarray  # (C, D, N, L) float32 in input units
    direction: SliceDirection
    first: int  # number of the first slice
    total: int  # number of slices in the stack
    t: int = 0
    channel: int = 0  # first channel


class Stack:
    """The observed planes of one time point and some channels of an open image, each read once.

    Kept pixels (`Image.kept`) are filled in from the planes before and after in which they are
    measured, else as the image fills them in. folder: for a file without a name, if they are large.
    direction, part: with only these slices. Raises InputError for NaN and infinity, DiskFullError,
    OutputError.
    """

    _first = 0  # slice that is held

    def __init__(
        self,
        image: Image,
        t: int,
        channels: Sequence[int],
        folder: Path,
        direction: SliceDirection | None = None,
        part: slice = ALL,
    ) -> None:
        self.image, self.t, self.channels = image, t, tuple(channels)
        self.shape = (len(self.channels), *image.header.canonical_shape[2:])  # (C, N, Y, X)
        held = list(self.shape)
        area = (ALL, ALL) if direction is None else direction.area(part)
        if direction is not None:
            held[direction.across] = part.stop - part.start
        self._first = part.start or 0
        self._pixels = atomic.spooled_zeros(tuple(held), folder, held=HELD)
        for c, pixels in zip(self.channels, self._pixels, strict=True):
            masks: list[np.ndarray | None] = []  # where pixels are kept; None = nowhere
            for z in range(len(pixels)):
                whole = image.header.is_large  # what is found in it depends on what is read
                pixels[z] = image.read((t, c, z))[area] if whole else image.read((t, c, z), *area)
                if not np.isfinite(pixels[z]).all():
                    raise InputError(f"{image.path}: contains NaN or infinity: replace them first")
                kept = image.kept((t, c, z))
                masks.append(None if kept is None else kept[0][area])
                if z > 0:
                    _fill_between(pixels, masks, z - 1)
                if z > 1:
                    masks[z - 2] = None  # not needed any more
            _fill_between(pixels, masks, len(pixels) - 1)

    def read(self, rows: slice = ALL, cols: slice = ALL) -> np.ndarray:
        """A region (C, N, h, w) float32, in the units of `Image.read`."""
        return self._pixels[:, :, rows, cols]

    def slices(self, direction: SliceDirection, part: slice) -> StackSlices:
        """Read the slices [part.start, part.stop)."""
        held = slice(part.start - self._first, part.stop - self._first)
        region = self.read(*direction.area(held))
        total = self.shape[direction.across]
        observed = direction.slices(region)
        return StackSlices(observed, direction, part.start, total, self.t, self.channels[0])


class RowStack(Stack):
    """The rows of one plane of an image, as planes of one row (C, N, 1, X)."""

    def __init__(self, image: Image, t: int, channels: Sequence[int], z: int) -> None:
        self.image, self.t, self.channels = image, t, tuple(channels)
        planes = np.stack([np.asarray(image.read((t, c, z)), np.float32) for c in channels])
        if not np.isfinite(planes).all():
            raise InputError(f"{image.path}: contains NaN or infinity: replace them first")
        self._pixels = planes[:, :, None]
        self.shape = self._pixels.shape


def _fill_between(pixels: np.ndarray, masks: Sequence[np.ndarray | None], z: int) -> None:
    """Fill the kept pixels of plane z (N, Y, X) with the mean of those next to it in z."""
    kept = masks[z]
    if kept is None:
        return
    total, count = np.zeros(kept.shape, np.float32), np.zeros(kept.shape, np.float32)
    for other in (z - 1, z + 1):
        if 0 <= other < len(pixels):
            beside = masks[other]
            measured = kept if beside is None else kept & ~beside
            total[measured] += pixels[other][measured]
            count[measured] += 1
    known = count > 0
    pixels[z][known] = total[known] / count[known]


@dataclass(frozen=True)
class StackUnits:
    """Converts input units (C, ...) to network units (C_net, ...) and back, for a whole stack."""

    card: Card  # its value range and channel recipe are used if `ranges` is empty
    ranges: tuple[StackRange, ...] = ()  # measured range of each channel

    def forward(self, values: np.ndarray) -> np.ndarray:
        if not self.ranges:
            return value_range.forward(values, self.card.value_range, self.card.recipe)
        return np.stack([r.forward(v) for r, v in zip(self.ranges, values, strict=True)])

    def inverse(self, x: np.ndarray) -> np.ndarray:
        if not self.ranges:
            return value_range.inverse(x, self.card.value_range, self.card.recipe)
        return np.stack([r.inverse(v) for r, v in zip(self.ranges, x, strict=True)])


def fit_units(image: Image, channels: Sequence[int], card: Card) -> StackUnits:
    """The card's fixed units, else measured ones. Raises InputError for NaN and infinity."""
    if card.value_range != "whitened":
        return StackUnits(card)
    ranges = []
    for c in channels:
        try:
            ranges.append(fit_stack_range(sampled_pixels(image, c)))
        except InputError as error:
            raise InputError(f"{image.path}: channel {c}: {error}") from error
    return StackUnits(card, tuple(ranges))


@dataclass(frozen=True)
class NetworkMix:
    """Shares of network and interpolation in the result, with what a test of the stack showed."""

    base: str = "linear"  # base interpolation of the network's residuals
    share: float = 1.0  # of the network; the rest is interpolation
    cubic: float = 1.0  # share of cubic in the interpolation; the rest is linear
    cubic_over_linear: float | None = None  # dB; None = not tested
    unsure: bool = False

    def details(self) -> dict[str, str | float | None]:
        """The mix as JSON values."""
        told: dict[str, str | float | None] = {
            "anchor": self.base,
            "model": self.share,
            "cubic": round((1 - self.share) * self.cubic, 3),
            "linear": round((1 - self.share) * (1 - self.cubic), 3),
        }
        if self.cubic_over_linear is not None:
            told["cubic_over_linear_db"] = self.cubic_over_linear
        if self.unsure:
            told["unsure"] = True
        return told


@dataclass(frozen=True)
class SliceNetwork:
    """A slice network and how it is sampled."""

    runner: Runner
    card: Card
    sampler: Sampler
    noise: FieldWeights  # how neighbouring slices share noise
    seed: int = 0
    steps: int | None = None  # network calls; None = the sampler's default
    samples: int = 1  # number of samples to average

    @property
    def stride(self) -> int:
        return self.runner.denoiser().stride

    def tiles_of(self, shape: tuple[int, int]) -> tuple[tiles.Tile, ...]:
        """The tiles of a slice (Z, L)."""
        return tiles.tile_grid(shape, self.stride, window=self.card.window)

    def fill(
        self, slices: StackSlices, units: StackUnits, factor: int, mix: NetworkMix
    ) -> np.ndarray:
        """Fill in planes between observed ones: (C, D, (N - 1) * factor + 1, L) float32.

        Returns the mean of all samples, mixed with interpolation, in input units.
        """
        count, length = slices.observed.shape[2:]
        planes = interpolation.count(count, factor)
        filled = _interpolated(slices.observed, "cubic", factor, 0, planes)
        if mix.cubic < 1:
            linear = _interpolated(slices.observed, "linear", factor, 0, planes)
            filled = linear + np.float32(mix.cubic) * (filled - linear)
        if mix.share == 0:
            return filled
        for tile in self.tiles_of((planes, length)):
            answer = tile.crop(self._answer(slices, units, factor, mix.base, tile))
            core = filled[:, :, tile.core[0], tile.core[1]]
            core += np.float32(mix.share) * (answer - core)
        return filled

    def _answer(
        self, slices: StackSlices, units: StackUnits, factor: int, base: str, tile: tiles.Tile
    ) -> np.ndarray:
        """The network's result for one tile of every slice: (C, D, h, w) float32, input units."""
        (top, _), (height, width) = tile.rows, tile.shape
        seen = slices.observed[..., slice(*tile.cols)]
        seen = np.pad(seen, [(0, 0)] * 3 + [(0, width - seen.shape[3])], mode="symmetric")
        start = _interpolated(seen, base, factor, top, top + height)
        x = units.forward(start)  # (C_net, D, h, w)
        planes = interpolation.count(slices.observed.shape[2], factor)
        rows = interpolation.is_observed(factor, top, top + height, planes)
        made = np.empty_like(start)

        def restore(some: list[int]) -> None:
            part = slice(some[0], some[-1] + 1)
            sites = [
                Site((slices.t, slices.channel, slices.first + d), top, tile.cols[0]) for d in some
            ]
            samples = []
            for k in range(self.samples):
                number = slices.direction.number
                noise = SliceNoise(self.seed, k, self.noise, slices.total, number)
                samples.append(units.inverse(self._sample(x[:, part], rows, base, sites, noise)))
            mean = np.mean(samples, axis=0)
            # as a difference, so that information lost in the conversion of units is kept
            made[:, part] = start[:, part] + mean - units.inverse(x[:, part])

        together = self.runner.together(tile.shape)
        self.runner.workers.each(restore, tiles.chunks(range(x.shape[1]), together))
        return made

    def _sample(
        self, x: np.ndarray, rows: np.ndarray, base: str, sites: list[Site], noise: SliceNoise
    ) -> np.ndarray:
        """Restore x (C_net, D, h, w) in network units once; `rows` (h,) marks observed rows."""
        batch = np.ascontiguousarray(x.swapaxes(0, 1))  # (D, C_net, h, w)
        observed = np.zeros((len(batch), 1, *batch.shape[2:]), np.float32)
        observed[:, :, rows] = 1
        sigma = np.ones(len(batch), np.float32)
        problem = self.runner.problem(batch, sigma, sites, noise, observed, steps=self.steps)
        model = self.runner.denoiser()
        made = self.runner.sample(lambda p: engine.run(p, self.sampler, model, base), problem)
        return made.swapaxes(0, 1)


def _interpolated(
    observed: np.ndarray, kind: str, factor: int, start: int, stop: int
) -> np.ndarray:
    """Interpolate planes [start, stop): (C, D, N, L) -> (C, D, stop - start, L) float32."""
    interpolator = catalog.INTERPOLATIONS[kind].load()
    planes = np.moveaxis(observed, 2, 0)
    return np.moveaxis(interpolation.interpolated(planes, factor, interpolator, start, stop), 0, 2)
