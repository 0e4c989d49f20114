"""The way of one anisotropic stack to an isotropic one: sweeps in chunks, nothing whole in memory.

Every slice holds all planes of its own, so a chunk is a few rows (XZ) or columns (YZ) of every
plane. Results gather in float32; observed planes come back as they are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from restorectl import catalog
from restorectl.batch.inputs import Pair
from restorectl.batch.outcome import Outcome, Report
from restorectl.batch.plan import Origin, Planned, Record
from restorectl.engine import slices
from restorectl.errors import InputError
from restorectl.files import atomic
from restorectl.images import tiles
from restorectl.images.header import Header, Spacing
from restorectl.images.image import Image, to_dtype, verify_image, write_image
from restorectl.volumes import interpolation, preview
from restorectl.volumes.base import Found, decide
from restorectl.volumes.directions import SWEEPS, Mix, Network, Sweep
from restorectl.volumes.stack import Stack, Units, units

CHUNK = 128 << 20  # bytes of a chunk of slices, its result included
WINDOW_BYTES = 700  # held for each pixel of the window that the network works on, about


@dataclass(frozen=True)
class Options:
    """What was asked for, besides the network."""

    factor: int | None = None  # None = from the spacing
    spacing: Spacing | None = None  # instead of the file's
    sweeps: str = "both"  # key of SWEEPS
    anchor: str = "auto"
    strength: float | None = None
    chosen: tuple[int, ...] | None = None  # channels
    keep_observed: bool = True
    smooth: bool = False


@dataclass(frozen=True)
class Volumes:
    """The Work of `superres3d`; without a network it interpolates by `method`."""

    origin: Origin
    options: Options
    network: Network | None
    method: str = "diffusion"  # or a row of catalog.INTERPOLATIONS

    def calls(self) -> int:
        return 0 if self.network is None else self.network.runner.calls

    def plan(self, image: Image, pair: Pair) -> Planned:
        factor, _ = self._factor(image)
        header = self._header(image, factor)
        times, count, planes, height, width = header.canonical_shape
        chosen = header.chosen(self.options.chosen, pair.source)
        voxels = times * count * planes * height * width
        held = min(voxels * 4, atomic.SPOOL_HELD) + 2 * CHUNK
        if self.network is None or factor == 1:
            return Planned(0, 0, header.nbytes, held)
        windows = sum(
            len(self.network.windows((planes, length))) * across
            for name, length, across in (("xz", width, height), ("yz", height, width))
            if name in SWEEPS[self.options.sweeps]
        ) * times * (len(chosen) // self.network.card.channels)  # fmt: skip
        each = self.network.sampler.calls(self.network.steps)
        calls = None if each is None else each * self.network.samples * windows
        largest = max(planes, 8) * max(height, width)
        return Planned(windows, calls, header.nbytes, held + largest * WINDOW_BYTES)

    def write(
        self,
        image: Image,
        pair: Pair,
        parts: Sequence[Path],
        record: Record,
        outcome: Outcome,
        report: Report,
    ) -> None:
        factor, remark = self._factor(image)
        header = self._header(image, factor)
        outcome.details |= {"factor": factor, "shape_out": list(header.shape)}
        outcome.warnings += [remark] if remark else []
        if factor == 1:
            outcome.message = "isotropic already: copied"
        times, count, planes, height, width = header.canonical_shape
        chosen = header.chosen(self.options.chosen, pair.source)
        directions = 1 if self.network is None else len(SWEEPS[self.options.sweeps])
        report.file(pair.name, times * count * planes * height * width * directions)
        made = atomic.spooled_zeros(
            header.canonical_shape if factor > 1 else (0,), pair.target.parent
        )
        if factor > 1:
            self._restore(image, factor, chosen, made, outcome, report)
        output = header.for_target(pair.target)
        write_image(parts[0], output, self._planes(image, output, factor, made), provenance=record)
        verify_image(parts[0], output)
        if len(parts) > 1:
            preview.write(parts[1], image, parts[0], record)

    def _factor(self, image: Image) -> tuple[int, str]:
        """Raises InputError for what cannot be made isotropic."""
        planes = image.header.canonical_shape[2]
        if planes < 2:
            raise InputError(
                f"{image.path}: has one plane (axes {image.header.axes}): there is nothing between"
                " planes to restore; if other axes are its depth, say so with --axes"
            )
        if self.options.factor is not None:
            return self.options.factor, ""
        try:
            return interpolation.factor_of(self.options.spacing or image.header.spacing)
        except InputError as error:
            raise InputError(f"{image.path}: {error}") from error

    def _header(self, image: Image, factor: int) -> Header:
        """Of the result: more planes, closer together."""
        header = image.header
        if self.options.spacing is not None:
            header = header.with_spacing(self.options.spacing)
        z = header.spacing[0]
        count = interpolation.count(header.canonical_shape[2], factor)
        return header.with_z(count, None if z is None else z / factor)

    def _restore(
        self,
        image: Image,
        factor: int,
        chosen: tuple[int, ...],
        made: np.ndarray,
        outcome: Outcome,
        report: Report,
    ) -> None:
        """All stacks of the image into made (T, C, Z, Y, X)."""
        others = [c for c in range(made.shape[1]) if c not in chosen]
        if self.network is None:
            others = list(range(made.shape[1]))
        elif others:
            outcome.warnings.append(f"channels {others} were interpolated on straight lines")
        for t in range(len(made)):
            for c in others:
                kind = self.method if self.network is None else "linear"
                _interpolate(Stack(image, t, (c,)), factor, kind, made[t, c], report.advance)
            if self.network is None:
                continue
            together = self.network.card.channels
            if len(chosen) % together:
                raise InputError(
                    f"{image.path}: these weights restore {together} channels jointly, the image"
                    f" has {len(chosen)}: choose them with --channels"
                )
            for group in tiles.chunks(chosen, together):
                stack = Stack(image, t, group)
                scale = units(image, group, self.network.card)
                self._group(self.network, stack, scale, factor, made, outcome, report)

    def _group(
        self,
        network: Network,
        stack: Stack,
        scale: Units,
        factor: int,
        made: np.ndarray,
        outcome: Outcome,
        report: Report,
    ) -> None:
        """One stack of channels that are restored together."""
        target = made[stack.t]
        if network.card.objective == "e2e-unet":
            _planewise(network, stack, scale, factor, target, report.advance)
            return
        directions = SWEEPS[self.options.sweeps]
        mix, found = decide(
            network, scale, stack, factor, directions, self.options.anchor, self.options.strength
        )
        name = "+".join(map(str, stack.channels)) + (f"@t{stack.t}" if len(made) > 1 else "")
        outcome.details.setdefault("mix", {})[name] = _described(mix, found)
        for number, axis in ((0, 2), (1, 3)):
            if ("xz", "yz")[number] not in directions:
                continue
            across = (stack.height, stack.width)[number]
            plane = (stack.t, stack.channels[0])
            sweep = Sweep(network, scale, factor, across, number, plane)
            for part in _chunks(stack, factor, number):
                observed = stack.read(
                    *((part, slice(None)) if number == 0 else (slice(None), part))
                )
                filled = sweep.fill(np.moveaxis(observed, axis, 1), part.start, mix)
                filled /= len(directions)
                place = (slice(None),) * axis + (part,)
                for k, c in enumerate(stack.channels):
                    target[c][place[1:]] += np.moveaxis(filled[k], 0, axis - 1)
                report.advance(filled.size)

    def _planes(
        self, image: Image, header: Header, factor: int, made: np.ndarray
    ) -> Iterator[np.ndarray]:
        """The planes of the result, in the file's order and dtype."""
        for t, c, z in header.planes:
            if z % factor == 0 and (self.options.keep_observed or factor == 1):
                yield image.read((t, c, z // factor))
                continue
            plane = made[t, c, z]
            if self.options.smooth:
                last = made.shape[2] - 1
                plane = interpolation.smooth(
                    [made[t, c, min(max(k, 0), last)] for k in range(z - 1, z + 2)]
                )
            yield to_dtype(plane, header.dtype)


def _described(mix: Mix, found: Found | None) -> dict[str, Any]:
    told: dict[str, Any] = {"anchor": mix.anchor, "share": mix.share}
    if found is not None:
        told |= {"cubic_over_linear_db": found.cubic_over_linear, "measured_share": found.share}
    return told


def _chunks(stack: Stack, factor: int, number: int) -> Iterator[slice]:
    """Rows (number 0) or columns of a stack that are worked on together."""
    across, along = (stack.height, stack.width)[:: 1 if number == 0 else -1]
    planes = stack.planes + 4 * interpolation.count(stack.planes, factor)
    step = max(1, CHUNK // (len(stack.channels) * planes * along * 4))
    for start in range(0, across, step):
        yield slice(start, min(start + step, across))


def _interpolate(
    stack: Stack, factor: int, kind: str, target: np.ndarray, advance: Callable[[int], None]
) -> None:
    """One channel into target (Z, Y, X), by rows."""
    interpolate = catalog.INTERPOLATIONS[kind].load()
    for part in _chunks(stack, factor, 0):
        target[:, part] = interpolation.interpolated(stack.read(part)[0], factor, interpolate)
        advance(target[:, part].size)


def _planewise(
    network: Network,
    stack: Stack,
    scale: Units,
    factor: int,
    target: np.ndarray,
    advance: Callable[[int], None],
) -> None:
    """E2E-UNet: the plane between two neighbours, window by window of (Y, X)."""
    if factor & (factor - 1):
        raise InputError(
            f"{stack.image.path}: factor {factor}: e2e-unet halves distances, use 2, 4 or 8"
        )
    for window in network.windows((stack.height, stack.width)):
        observed = stack.read(*window.read)
        padded = np.stack([[window.pad(plane) for plane in channel] for channel in observed])
        made = slices.between(network.runner, scale.forward(padded).swapaxes(0, 1), factor)
        cores = window.crop(scale.inverse(made.swapaxes(0, 1)))
        for k, c in enumerate(stack.channels):
            target[c][(slice(None), *window.core)] = cores[k]
        advance(cores.size)
