"""Makes one anisotropic stack isotropic.

Pixels that are no measurements are filled in first, so that they do not spread into the planes in
between. For each time point and group of channels: choose the shares of network and interpolation;
then, direction by direction and chunk by chunk, read slices, fill in the planes between the
observed ones, and average the directions in float32. Finally all planes are written, observed ones
unchanged but for repaired hot pixels. A chunk is a few rows (XZ) or columns (YZ) of all planes, so
the whole stack need not be in memory.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import local
from typing import Any, ClassVar

import numpy as np

from restorectl import catalog
from restorectl.batch.inputs import Pair
from restorectl.batch.outcome import Outcome, Progress
from restorectl.batch.plan import Origin, Planned, Record, Share
from restorectl.engine import slices
from restorectl.engine.noise_field import NoiseField, Site
from restorectl.engine.runner import measuring
from restorectl.errors import InputError
from restorectl.files import atomic
from restorectl.images import tiles
from restorectl.images.blocks import sampled_pixels, varies
from restorectl.images.header import Header, Plane, Spacing
from restorectl.images.image import (
    Image,
    create_image,
    open_image,
    require_writable,
    to_dtype,
    verify_image,
)
from restorectl.images.masked import Masked, masked
from restorectl.images.near_zero import near_zero
from restorectl.images.regions import AT_LEAST
from restorectl.intensity.photometry import CELL, keep_local_mean
from restorectl.jobs import SuperresJob
from restorectl.volumes import interpolation
from restorectl.volumes.base import choose_mix
from restorectl.volumes.directions import (
    DIRECTIONS,
    HELD,
    XZ,
    NetworkMix,
    SliceDirection,
    SliceNetwork,
    Stack,
    StackUnits,
    fit_units,
)
from restorectl.volumes.preview import write_preview

CHUNK = 128 << 20  # bytes of a chunk of slices with its result
SHIFTED = 0.01  # shift of the mean by rounding, of a grey level or, if it is less, of the signal
CHANCE = 1.5  # grey levels; 4 standard deviations of the shift of one pixel without a cause
DITHERED = "values are finer than one grey level: dithered; `dtype` float32 writes them unrounded"
UNSURE = (
    "whether the model or interpolation is nearer to the truth is unsure, see mix in the"
    " manifest: compare with method cubic"
)


@dataclass(frozen=True)
class Made:
    """What the planes of a result are taken from."""

    volume: np.ndarray  # (T, C, Z, Y, X) float32 around zero, at a factor that the network knows
    factor: float  # planes of the result per observed plane
    known: Masked  # the image with invalid pixels filled in
    source: Image  # the same around 0
    coarse: frozenset[int]  # channels that are dithered


Filled = tuple[SliceDirection, slice, np.ndarray]  # some slices (C, D, Z, L) of the result
Fill = Callable[[Stack, StackUnits, int, NetworkMix], Iterator[Filled]]  # all slices of a stack


@dataclass(frozen=True)
class Task:
    """What all slices of a stack have in common, for a worker of a cluster."""

    path: Path
    series: str | None
    t: int
    channels: tuple[int, ...]
    units: StackUnits
    factor: int
    mix: NetworkMix
    clear: bool  # none of its planes has invalid pixels


@dataclass(frozen=True)
class Volumes:
    """The `Work` of `superres3d`; without a network it interpolates with `job.method`."""

    origin: Origin
    job: SuperresJob
    network: SliceNetwork | None
    unit: ClassVar[str] = "plane"  # what is made

    @property
    def at_once(self) -> int:
        """See `plan.Work`: slices of one stack are enough for all threads."""
        return 1

    @property
    def directions(self) -> tuple[SliceDirection, ...]:
        """Of the slices that are restored."""
        return DIRECTIONS[self.job.sweeps]

    def plan(self, image: Image, pair: Pair) -> Planned:
        factor, _ = self._factor(image)
        header = self.header(image)
        require_writable(pair.target, header.for_target(pair.target))
        chosen = header.chosen(self.job.files.channels, pair.source)
        stacks, (channels, observed, height, width) = self._stacks(image.header)
        planes = interpolation.count(observed, self._first(factor))
        size = 4 * stacks * channels * planes * height * width
        held = min(size, atomic.SPOOL_HELD) + min(5 * size, 2 * CHUNK)
        held += min(int(size / factor), HELD)
        if self.network is None or factor == 1:
            return Planned(0, 0, header.nbytes, held)
        self._require_fit(image, len(chosen))
        shape = (channels, planes, height, width)
        number = sum(
            len(self.network.tiles_of((planes, shape[d.along]))) * shape[d.across]
            for d in self.directions
        ) * stacks * (len(chosen) // self.network.card.channels)  # fmt: skip
        each = self.network.sampler.calls(self.network.steps)
        calls = None if each is None else each * self.network.samples * number
        areas = [
            t.shape[0] * t.shape[1] for t in self.network.tiles_of((planes, max(height, width)))
        ]
        runner = self.network.runner
        held += max(areas) * runner.tile_bytes * runner.workers.count
        pixels = (calls or number) * (sum(areas) // len(areas))
        return Planned(number, calls, header.nbytes, held, pixels)

    def write(
        self,
        image: Image,
        pair: Pair,
        parts: Sequence[Path],
        record: Record,
        outcome: Outcome,
        progress: Progress,
        share: Share | None = None,
    ) -> None:
        """See `plan.Work`. The workers of `share` restore slices, and this process writes."""
        network, fill = self.network, self._filled
        if share is not None:
            if network is None or network.card.objective == "e2e-unet" or self.unit != "plane":
                raise InputError(
                    f"{image.path}: with `method` {self.job.method} and this model, one process"
                    " makes it: leave out `dask`, or give it several"
                )
            fill = partial(self._filled_by, share, pair.series)
        output = self.header(image).for_target(pair.target, self.job.files.pyramid)
        place = pair.target.parent
        with create_image(parts[0], output, provenance=record) as writer:
            planned = self.plan(image, pair)
            progress.start(planned.calls, "tile calls", planned.pixels)
            for plane in self.planes(image, place, outcome, fill):
                writer.put(plane)
        verify_image(parts[0], output)
        if len(parts) > 1:
            write_preview(parts[1], image, parts[0], record)

    def planes(
        self, image: Image, folder: Path, outcome: Outcome, fill: Fill | None = None
    ) -> Iterator[np.ndarray]:
        """Yield the planes (Y, X) of the result, in the order of its `header`.

        folder: of what does not fit in memory. fill: restores slices; None = in this process.
        Raises InputError.
        """
        factor, remark = self._factor(image)
        header = self.header(image)
        outcome.details |= {"factor": factor, "shape_out": list(header.shape)}
        outcome.warnings += [remark] if remark else []
        if factor == 1:
            outcome.message = "already isotropic: copied"
        chosen = header.chosen(self.job.files.channels, image.path)
        channels = range(header.canonical_shape[1])
        known, source = self.cleaned(image)
        if factor == 1:
            yield from (image.read(p).astype(header.dtype, copy=False) for p in header.planes)
            coarse = frozenset[int]()
        else:
            self._require_fit(image, len(chosen))
            fill = fill or self._filled
            volume = self._restore_all(source, factor, chosen, folder, outcome, fill)
            coarse = frozenset(c for c in channels if is_coarse(source, c))
            made = Made(volume, factor, known, source, coarse)
            yield from (self._plane(made, plane, header.dtype) for plane in header.planes)
        if found := known.describe():
            outcome.details["invalid"] = found
            outcome.warnings += known.warnings()
        if coarse and header.dtype.kind != "f":
            outcome.warnings.append(DITHERED)

    def cleaned(self, image: Image) -> tuple[Masked, Image]:
        """The image that knows its invalid pixels, and the one to restore."""
        channels = range(image.header.canonical_shape[1])
        known = masked(image, channels, self.job.invalid, hot=self.job.hot_pixels == "auto")
        whitened = self.network is None or self.network.card.value_range == "whitened"
        return known, near_zero(known, channels) if whitened else known

    def _factor(self, image: Image) -> tuple[float, str]:
        """The factor, and a warning. Raises InputError if the stack cannot be made isotropic."""
        if self._stacks(image.header)[1][1] < 2:
            raise InputError(
                f"{image.path}: has one {self.unit} (axes {image.header.axes}), but several are"
                " needed: if another axis is the depth, use `axes`"
            )
        if self.job.factor is not None:
            return self.job.factor, ""
        try:
            return interpolation.factor_of(self._distances(image.header))
        except InputError as error:
            raise InputError(f"{image.path}: {error}") from error

    def _first(self, factor: float) -> float:
        """The factor of the volume that is made first, from which planes are interpolated.

        A network knows whole factors, that of E2E-UNet powers of two.
        """
        if self.network is None:
            return factor
        if self.network.card.objective == "e2e-unet":
            return float(2 ** math.ceil(math.log2(factor)))
        return math.ceil(factor)

    def _require_fit(self, image: Image, count: int) -> None:
        """Raises InputError if the network cannot restore `count` channels."""
        if self.network is None:
            return
        together = self.network.card.channels
        if count % together:
            raise InputError(
                f"{image.path}: these weights restore {together} channels jointly, the image has"
                f" {count}: choose them with `channels`"
            )

    def _distances(self, header: Header) -> Spacing:
        """Between planes, rows and columns, in micrometres."""
        return self.job.spacing or header.spacing

    def _stacks(self, header: Header) -> tuple[int, tuple[int, int, int, int]]:
        """How many stacks there are, and the shape (C, N, Y, X) of each."""
        times, *shape = header.canonical_shape
        return times, tuple(shape)  # type: ignore[return-value]

    def header(self, image: Image) -> Header:
        """Header of the result: more planes, closer together. Raises InputError."""
        (factor, _), header = self._factor(image), image.header
        if self.job.dtype != "same":
            header = header.with_dtype(self.job.dtype)
        if self.job.spacing is not None:
            header = header.with_spacing(self.job.spacing)
        return self._longer(header, factor)

    def _longer(self, header: Header, factor: float) -> Header:
        """The header with the planes of the result."""
        z = header.spacing[0]
        count = interpolation.count(header.canonical_shape[2], factor)
        return header.with_z(count, None if z is None else z / factor)

    def _opened(
        self, image: Image, volume: np.ndarray, folder: Path
    ) -> Iterator[tuple[str, Callable[[Sequence[int]], Stack], np.ndarray]]:
        """Yield each stack: its name, how to read channels, and where (C, Z, Y, X) it goes."""
        for t in range(len(volume)):
            name = f"@t{t}" if len(volume) > 1 else ""
            yield name, partial(Stack, image, t, folder=folder), volume[t]

    def _restore_all(
        self,
        image: Image,
        factor: float,
        chosen: Sequence[int],
        folder: Path,
        outcome: Outcome,
        fill: Fill,
    ) -> np.ndarray:
        """Restore all stacks: (T, C, Z, Y, X) float32 around zero, of which `_plane` takes."""
        network, first = self.network, self._first(factor)
        volume = atomic.spooled_zeros(self._longer(image.header, first).canonical_shape, folder)
        kind = self.job.method if network is None else "linear"
        groups: list[Sequence[int]] = []  # a group of constant channels is interpolated
        if network is not None:
            found = tiles.chunks(chosen, network.card.channels)
            groups = [group for group in found if any(varies(image, c) for c in group)]
        plain = [c for c in range(volume.shape[1]) if not any(c in group for group in groups)]
        left_out = [c for c in plain if c not in chosen]
        if network is not None and left_out:
            outcome.warnings.append(f"channels {left_out} were interpolated linearly")
        for _, stack_of, target in self._opened(image, volume, folder):
            for c in plain:
                _interpolate(stack_of((c,)), first, kind, target[c])
        if network is None:
            return volume
        for group in groups:
            units = fit_units(image, group, network.card)
            for which, stack_of, target in self._opened(image, volume, folder):
                stack = stack_of(group)
                if network.card.objective == "e2e-unet":
                    _restore_planewise(network, stack, units, int(first), target)
                    continue
                mix = self._restore(network, stack, units, int(first), target, fill)
                name = "+".join(map(str, group)) + which
                outcome.details.setdefault("mix", {})[name] = mix.details()
                if mix.unsure:
                    outcome.warnings.append(f"channel {name}: {UNSURE}")
        return volume

    def _restore(
        self,
        network: SliceNetwork,
        stack: Stack,
        units: StackUnits,
        factor: int,
        volume: np.ndarray,
        fill: Fill,
    ) -> NetworkMix:
        """Restore the channels of one stack together; returns the mix used.

        volume: (C, Z, Y, X) of all channels, zero in the stack's channels.
        """
        job = self.job
        with measuring():
            mix = choose_mix(network, units, stack, factor, job.anchor, job.strength)
        for direction, part, filled in fill(stack, units, factor, mix):  # in any order
            target = direction.slices(volume)  # (C, D, Z, L), a view
            filled = filled / np.float32(len(self.directions))
            for k, c in enumerate(stack.channels):
                target[c, part] += filled[k]
        return mix

    def _parts(
        self, stack: Stack, factor: int, at_least: int = 1
    ) -> Iterator[tuple[SliceDirection, slice]]:
        """The slices of each direction that are processed together."""
        each = -(-at_least // len(self.directions))
        return ((d, part) for d in self.directions for part in _chunks(stack, factor, d, each))

    def _filled(
        self, stack: Stack, units: StackUnits, factor: int, mix: NetworkMix
    ) -> Iterator[Filled]:
        """Restore the channels of one stack together, some slices after others."""
        assert self.network is not None
        for direction, part in self._parts(stack, factor):
            observed = stack.slices(direction, part)
            yield direction, part, self.network.fill(observed, units, factor, mix)

    def _filled_by(
        self,
        share: Share,
        series: str | None,
        stack: Stack,
        units: StackUnits,
        factor: int,
        mix: NetworkMix,
    ) -> Iterator[Filled]:
        """The same by the workers of a cluster, who read the slices themselves."""
        image, t = stack.image, stack.t
        planes = itertools.product((t,), stack.channels, range(stack.shape[1]))
        clear = not image.header.is_large and all(image.invalid(p) is None for p in planes)
        task = Task(image.path, series, t, stack.channels, units, factor, mix, clear)
        parts = self._parts(stack, factor, AT_LEAST * share.threads)
        return share.each(fill, ((task, *part) for part in parts))

    def _plane(self, made: Made, plane: Plane, dtype: np.dtype[Any]) -> np.ndarray:
        """One plane (Y, X) of the result."""
        t, c, z = plane
        before, after, share = interpolation.around(z, made.factor)
        if self.job.keep_observed and before == after:
            return made.known.repaired((t, c, before)).astype(dtype, copy=False)
        last = interpolation.count(made.source.header.canonical_shape[2], made.factor) - 1
        near = np.clip((z - 1, z, z + 1), 0, last) if self.job.smooth else [z]
        step, zero = made.factor / self._first(made.factor), made.source.zero(c)
        planes = between(made.volume[t, c], interpolation.positions(near, step))
        one = interpolation.smooth(planes) if self.job.smooth else planes[0]
        values = one.astype(np.float64) + zero
        if c not in made.coarse:
            result = to_dtype(values, dtype)
        else:
            pair = (made.source.read((t, c, k)) for k in (before, after))
            measured = next(pair) * (1 - share) + next(pair) * share + zero
            result = self._dithered(values, measured, made.source, plane, dtype)
        _keep_invalid(result, plane, made)
        return result

    def _dithered(
        self,
        values: np.ndarray,
        measured: np.ndarray,
        source: Image,
        plane: Plane,
        dtype: np.dtype[Any],
    ) -> np.ndarray:
        """A made plane (Y, X) of photon counts, which keeps the local means of interpolation.

        Square roots of few photons, in which the network works, do not have their mean, and values
        below the smallest number, which cubic interpolation gives, would be cut off.
        measured: linear interpolation of observed planes.
        """
        lowest = float(np.iinfo(source.header.dtype).min)
        if self.network is not None or values.min() < lowest:
            wanted = measured if self.network is not None else values
            height, width = values.shape
            edges = ((0, -height % CELL), (0, -width % CELL))
            wanted, padded = (np.pad(each, edges, mode="edge") for each in (wanted, values))
            values = keep_local_mean(wanted, padded, lowest)[:height, :width]
        field = NoiseField(self.job.compute.seed)
        return to_dtype(values, dtype, field.uniform(Site(plane, 0, 0), values.shape))


_held: Any = local()  # what each thread of a worker has open: work, image, known, source


def fill(work: Volumes, task: Task, direction: SliceDirection, part: slice) -> Filled:
    """Restore some slices, on a worker of a cluster."""
    if getattr(_held, "work", None) is not work:
        if getattr(_held, "work", None) is not None:
            _held.image.close()
        _held.work = None
        _held.image = open_image(task.path, axes=work.job.files.axes, series=task.series)
        _held.known, _held.source = work.cleaned(_held.image)
        _held.work = work
    if task.clear:  # regions can be read without looking at whole planes
        depths = range(_held.image.header.canonical_shape[2])
        clear = dict.fromkeys(itertools.product((task.t,), task.channels, depths), (0, 0))
        _held.known.counts.update(clear)
    assert work.network is not None
    with TemporaryDirectory() as folder:  # of slices that do not fit in memory
        stack = Stack(_held.source, task.t, task.channels, Path(folder), direction, part)
        observed = stack.slices(direction, part)
        filled = work.network.fill(observed, task.units, task.factor, task.mix)
    return direction, part, filled


def is_coarse(image: Image, channel: int) -> bool:
    """Whether rounding would shift the mean, as it does photon counts.

    The mean of two neighbouring pixels stands for a plane halfway between two others: half of its
    values lie between grey levels, and if there are few levels, most are rounded to one side.
    """
    if image.header.dtype.kind == "f" or not varies(image, channel):
        return False
    halves = [
        (block[:, 1:].astype(np.float64) + block[:, :-1]) / 2 + image.zero(channel)
        for block in sampled_pixels(image, channel)
    ]
    half = np.concatenate([each[np.isfinite(each)] for each in halves])
    if not half.size:
        return False
    shift = abs(float(np.mean(np.rint(half) - half)))
    limit = SHIFTED * min(1.0, float(half.mean() - half.min()))
    return bool(shift > limit + CHANCE / np.sqrt(half.size))


def between(planes: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Planes at positions (R,) in planes (N, ...), by cubic interpolation: (R, ...) float32."""
    taps = interpolation.cubic(positions, len(planes))
    return np.stack([
        sum((w * planes[k] for k, w in zip(index, weight, strict=True) if w), np.float32(0))
        for index, weight in zip(taps.index, taps.weight, strict=True)
    ])  # fmt: skip


def _keep_invalid(result: np.ndarray, plane: Plane, made: Made) -> None:
    """Put the value of the nearest observed plane where both planes around are no measurements."""
    t, c, z = plane
    before, after, share = interpolation.around(z, made.factor)
    around = [made.known.kept((t, c, k)) for k in {before, after}]
    masks = [kept[0] for kept in around if kept is not None]
    if len(masks) == len(around):
        both = np.logical_and.reduce(masks)
        nearest = after if share >= 0.5 else before
        result[both] = made.known.source.read((t, c, nearest))[both]


def _chunks(
    stack: Stack, factor: float, direction: SliceDirection, at_least: int = 1
) -> Iterator[slice]:
    """Yield ranges of slices that are processed together, at least so many."""
    channels, planes = stack.shape[:2]
    across, along = stack.shape[direction.across], stack.shape[direction.along]
    each = channels * (planes + 4 * interpolation.count(planes, factor)) * along * 4  # bytes
    step = max(1, min(CHUNK // each, across // at_least))
    for start in range(0, across, step):
        yield slice(start, min(start + step, across))


def _interpolate(stack: Stack, factor: float, kind: str, volume: np.ndarray) -> None:
    """Interpolate one channel into volume (Z, Y, X), chunk by chunk."""
    interpolator = catalog.INTERPOLATIONS[kind].load()
    for part in _chunks(stack, factor, XZ):
        volume[:, part] = interpolation.interpolated(stack.read(part)[0], factor, interpolator)


def _restore_planewise(
    network: SliceNetwork,
    stack: Stack,
    units: StackUnits,
    factor: int,
    volume: np.ndarray,
) -> None:
    """E2E-UNet: predict planes between neighbours, by tiles in (Y, X), into (C, Z, Y, X)."""
    for tile in network.tiles_of((stack.shape[2], stack.shape[3])):
        observed = stack.read(*tile.read)
        padded = np.stack([[tile.pad(plane) for plane in channel] for channel in observed])
        made = slices.between(network.runner, units.forward(padded).swapaxes(0, 1), factor)
        cores = tile.crop(units.inverse(made.swapaxes(0, 1)))
        for k, c in enumerate(stack.channels):
            volume[c][(slice(None), *tile.core)] = cores[k]
