"""Makes one anisotropic stack isotropic.

Pixels that are no measurements are filled in first, so that they do not spread into the planes in
between. For each time point and group of channels: choose the shares of network and interpolation;
then, direction by direction and chunk by chunk, read slices, fill in the planes between the
observed ones, and average the directions in float32. Finally all planes are written, observed ones
unchanged but for repaired hot pixels. A chunk is a few rows (XZ) or columns (YZ) of all planes, so
the whole stack need not be in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from restorectl import catalog
from restorectl.batch.inputs import Pair
from restorectl.batch.outcome import Outcome, Progress
from restorectl.batch.plan import Origin, Planned, Record
from restorectl.engine import slices
from restorectl.engine.noise_field import NoiseField, Site
from restorectl.engine.runner import measuring
from restorectl.errors import InputError
from restorectl.files import atomic
from restorectl.images import tiles
from restorectl.images.blocks import sampled_pixels, varies
from restorectl.images.header import Header, Plane
from restorectl.images.image import (
    Image,
    create_image,
    require_writable,
    to_dtype,
    verify_image,
)
from restorectl.images.masked import Masked, masked
from restorectl.images.near_zero import near_zero
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
    "whether the model or interpolation is nearer to the truth is unsure, see `mix` in the"
    " manifest: compare with method cubic"
)


@dataclass(frozen=True)
class Volumes:
    """The `Work` of `superres3d`; without a network it interpolates with `job.method`."""

    origin: Origin
    job: SuperresJob
    network: SliceNetwork | None

    @property
    def at_once(self) -> int:
        """See `plan.Work`: slices of one stack are enough for all threads."""
        return 1

    def plan(self, image: Image, pair: Pair) -> Planned:
        factor, _ = self._factor(image)
        header = self.header(image)
        require_writable(pair.target, header.for_target(pair.target))
        times, count, planes, height, width = header.canonical_shape
        chosen = header.chosen(self.job.files.channels, pair.source)
        voxels = times * count * planes * height * width
        size = voxels * 4
        held = min(size, atomic.SPOOL_HELD) + min(size // factor, HELD) + min(5 * size, 2 * CHUNK)
        if self.network is None or factor == 1:
            return Planned(0, 0, header.nbytes, held)
        self._require_fit(image, factor, len(chosen))
        shape = (count, planes, height, width)
        number = sum(
            len(self.network.tiles_of((planes, shape[d.along]))) * shape[d.across]
            for d in DIRECTIONS[self.job.sweeps]
        ) * times * (len(chosen) // self.network.card.channels)  # fmt: skip
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
    ) -> None:
        output = self.header(image).for_target(pair.target, self.job.files.pyramid)
        place = pair.target.parent
        with create_image(parts[0], output, provenance=record) as writer:
            planned = self.plan(image, pair)
            progress.start(planned.calls, "tile calls", planned.pixels)
            for plane in self.planes(image, place, outcome):
                writer.put(plane)
        verify_image(parts[0], output)
        if len(parts) > 1:
            write_preview(parts[1], image, parts[0], record)

    def planes(self, image: Image, folder: Path, outcome: Outcome) -> Iterator[np.ndarray]:
        """Yield the planes (Y, X) of the result, in the order of its `header`.

        folder: of what does not fit in memory. Raises InputError.
        """
        factor, remark = self._factor(image)
        header = self.header(image)
        outcome.details |= {"factor": factor, "shape_out": list(header.shape)}
        outcome.warnings += [remark] if remark else []
        if factor == 1:
            outcome.message = "already isotropic: copied"
        shape = header.canonical_shape
        chosen = header.chosen(self.job.files.channels, image.path)
        self._require_fit(image, factor, len(chosen))
        channels = range(shape[1])
        known = masked(image, channels, self.job.invalid, hot=self.job.hot_pixels == "auto")
        whitened = self.network is None or self.network.card.value_range == "whitened"
        source = near_zero(known, channels) if whitened else known
        volume = atomic.spooled_zeros(shape if factor > 1 else (0,), folder)
        if factor > 1:
            self._restore_all(source, factor, chosen, volume, folder, outcome)
        coarse = {c for c in channels if factor > 1 and is_coarse(source, c)}
        for plane in header.planes:
            if factor == 1:
                yield image.read(plane).astype(header.dtype, copy=False)
            elif self.job.keep_observed and plane[2] % factor == 0:
                observed = known.repaired((*plane[:2], plane[2] // factor))
                yield observed.astype(header.dtype, copy=False)
            else:
                values = self._values(volume, plane) + source.zero(plane[1])
                if plane[1] in coarse:
                    made = self._dithered(source, values, plane, factor, header.dtype)
                else:
                    made = to_dtype(values, header.dtype)
                _keep_invalid(made, plane, factor, known)
                yield made
        if found := known.describe():
            outcome.details["invalid"] = found
            outcome.warnings += known.warnings()
        if coarse and header.dtype.kind != "f":
            outcome.warnings.append(DITHERED)

    def _factor(self, image: Image) -> tuple[int, str]:
        """The factor, and a warning. Raises InputError if the stack cannot be made isotropic."""
        if image.header.canonical_shape[2] < 2:
            raise InputError(
                f"{image.path}: has one plane (axes {image.header.axes}), but a stack is needed: if"
                " another axis is its depth, use `axes`"
            )
        if self.job.factor is not None:
            return self.job.factor, ""
        try:
            return interpolation.factor_of(self.job.spacing or image.header.spacing)
        except InputError as error:
            raise InputError(f"{image.path}: {error}") from error

    def _require_fit(self, image: Image, factor: int, count: int) -> None:
        """Raises InputError if the network cannot restore `count` channels, or this factor."""
        if self.network is None or factor == 1:
            return
        together = self.network.card.channels
        if count % together:
            raise InputError(
                f"{image.path}: these weights restore {together} channels jointly, the image has"
                f" {count}: choose them with `channels`"
            )
        if self.network.card.objective == "e2e-unet" and factor & (factor - 1):
            raise InputError(f"{image.path}: factor {factor}: e2e-unet needs factor 2, 4 or 8")

    def header(self, image: Image) -> Header:
        """Header of the result: more planes, closer together. Raises InputError."""
        (factor, _), header = self._factor(image), image.header
        if self.job.dtype != "same":
            header = header.with_dtype(self.job.dtype)
        if self.job.spacing is not None:
            header = header.with_spacing(self.job.spacing)
        z = header.spacing[0]
        count = interpolation.count(header.canonical_shape[2], factor)
        return header.with_z(count, None if z is None else z / factor)

    def _restore_all(
        self,
        image: Image,
        factor: int,
        chosen: Sequence[int],
        volume: np.ndarray,
        folder: Path,
        outcome: Outcome,
    ) -> None:
        """Restore all time points and channels into volume (T, C, Z, Y, X) of float32 zeros."""
        network = self.network
        kind = self.job.method if network is None else "linear"
        groups: list[Sequence[int]] = []  # a group of constant channels is interpolated
        if network is not None:
            found = tiles.chunks(chosen, network.card.channels)
            groups = [group for group in found if any(varies(image, c) for c in group)]
        plain = [c for c in range(volume.shape[1]) if not any(c in group for group in groups)]
        left_out = [c for c in plain if c not in chosen]
        if network is not None and left_out:
            outcome.warnings.append(f"channels {left_out} were interpolated linearly")
        for t in range(len(volume)):
            for c in plain:
                stack = Stack(image, t, (c,), folder)
                _interpolate(stack, factor, kind, volume[t, c])
        if network is None:
            return
        for group in groups:
            units = fit_units(image, group, network.card)
            for t in range(len(volume)):
                stack = Stack(image, t, group, folder)
                if network.card.objective == "e2e-unet":
                    _restore_planewise(network, stack, units, factor, volume[t])
                    continue
                mix = self._restore(network, stack, units, factor, volume[t])
                name = "+".join(map(str, group)) + (f"@t{t}" if len(volume) > 1 else "")
                outcome.details.setdefault("mix", {})[name] = mix.details()
                if mix.unsure:
                    outcome.warnings.append(f"channel {name}: {UNSURE}")

    def _restore(
        self,
        network: SliceNetwork,
        stack: Stack,
        units: StackUnits,
        factor: int,
        volume: np.ndarray,
    ) -> NetworkMix:
        """Restore the channels of one stack together; returns the mix used.

        volume: (C, Z, Y, X) of all channels, zero in the stack's channels.
        """
        job, directions = self.job, DIRECTIONS[self.job.sweeps]
        with measuring():
            mix = choose_mix(network, units, stack, factor, job.anchor, job.strength)
        for direction in directions:
            target = direction.slices(volume)  # (C, D, Z, L), a view
            for part in _chunks(stack, factor, direction):
                observed = stack.slices(direction, part)
                filled = network.fill(observed, units, factor, mix)  # (C, D, Z, L)
                filled /= len(directions)
                for k, c in enumerate(stack.channels):
                    target[c, part] += filled[k]
        return mix

    def _values(self, volume: np.ndarray, plane: Plane) -> np.ndarray:
        """One plane (Y, X) of the result, float64, around the image's zero."""
        t, c, z = plane
        if not self.job.smooth:
            return np.asarray(volume[t, c, z], np.float64)
        last = volume.shape[2] - 1
        three = [volume[t, c, min(max(k, 0), last)] for k in (z - 1, z, z + 1)]
        return interpolation.smooth(three).astype(np.float64)

    def _dithered(
        self, source: Image, values: np.ndarray, plane: Plane, factor: int, dtype: np.dtype[Any]
    ) -> np.ndarray:
        """A made plane of photon counts, which keeps the local means of interpolation.

        Square roots of few photons, in which the network works, do not have their mean, and values
        below the smallest number, which cubic interpolation gives, would be cut off.
        """
        t, c, z = plane
        lowest, measured = float(np.iinfo(source.header.dtype).min), values
        if self.network is not None:
            share = z % factor / factor
            before, after = (source.read((t, c, k)) for k in (z // factor, -(-z // factor)))
            measured = before * (1 - share) + after * share + source.zero(c)
        if self.network is not None or values.min() < lowest:
            height, width = values.shape
            edges = ((0, -height % CELL), (0, -width % CELL))
            measured, padded = (np.pad(each, edges, mode="edge") for each in (measured, values))
            values = keep_local_mean(measured, padded, lowest)[:height, :width]
        field = NoiseField(self.job.compute.seed)
        return to_dtype(values, dtype, field.uniform(Site(plane, 0, 0), values.shape))


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


def _keep_invalid(made: np.ndarray, plane: Plane, factor: int, known: Masked) -> None:
    """Put the value of the nearest observed plane where both planes around are no measurements."""
    t, c, z = plane
    around = [known.kept((t, c, k)) for k in {z // factor, -(-z // factor)}]
    masks = [kept[0] for kept in around if kept is not None]
    if len(masks) == len(around):
        both = np.logical_and.reduce(masks)
        made[both] = known.source.read((t, c, int(z / factor + 0.5)))[both]


def _chunks(stack: Stack, factor: int, direction: SliceDirection) -> Iterator[slice]:
    """Yield ranges of slices that are processed together."""
    channels, planes = stack.shape[:2]
    across, along = stack.shape[direction.across], stack.shape[direction.along]
    each = channels * (planes + 4 * interpolation.count(planes, factor)) * along * 4  # bytes
    step = max(1, CHUNK // each)
    for start in range(0, across, step):
        yield slice(start, min(start + step, across))


def _interpolate(stack: Stack, factor: int, kind: str, volume: np.ndarray) -> None:
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
