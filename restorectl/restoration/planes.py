"""The way of one image through a network, plane by plane and window by window.

canonical planes -> what each channel shares (fitted on a sample) -> windows -> method -> clip,
round, cast -> atomic write of every product with metadata and provenance.

What one command does to windows: the one thing that differs between inference commands.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.batch.inputs import Pair
from restorectl.batch.outcome import Outcome, Report
from restorectl.batch.run import Planned, Record
from restorectl.errors import InputError
from restorectl.files.atomic import replacing
from restorectl.images import tiles
from restorectl.images.header import Header, Plane
from restorectl.images.image import Image, create_image, open_image, to_dtype, verify_image
from restorectl.jobs import Compute, NoiseOptions
from restorectl.restoration import channels
from restorectl.restoration.channels import Batch, Group, Method

PLANE_PIXELS = 4 << 20  # planes are collected up to this many pixels, to fill batches
WINDOW_BYTES = 1000  # held for each pixel of the window that the network works on, about
AROUND_BYTES = 16  # held for each pixel of a plane by what goes before and after, about

Pixels = Mapping[Plane, np.ndarray]  # (Y, X) of each plane
# (image, groups of channels, the products' files, this file, provenance): writes the last target,
# and returns what it found for the outcome's details and warnings
Extra = Callable[[Image, Sequence[Group], Sequence[Path], Path, Record], "Found"]


@dataclass(frozen=True)
class Found:
    """What making a further file told of an image."""

    details: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planes:
    """The Work of the commands that restore planes: `method.products` images for each input."""

    method: Method
    compute: Compute
    noise: NoiseOptions
    chosen: tuple[int, ...] | None = None  # channels; None = all
    extra: Extra | None = None  # makes the pair's last target

    def calls(self) -> int:
        return self.method.calls()

    def plan(self, image: Image, pair: Pair) -> Planned:
        header = image.header
        _, count, _, height, width = header.canonical_shape
        worked_on = header.chosen(self.chosen, pair.source)
        windows = self.windows((height, width))
        units = len(windows) * len(header.planes) * len(worked_on) // count
        units //= min(self.method.card.channels, len(worked_on))
        calls, largest = self.method.calls_per_window, max(w.shape[0] * w.shape[1] for w in windows)
        outputs = self._headers(header, pair)
        together = min(len(windows), _together(self.compute, windows[0].shape))
        held = sum(max(PLANE_PIXELS, height * width) * h.dtype.itemsize for h in outputs) * 2
        held += height * width * AROUND_BYTES
        return Planned(
            units,
            None if calls is None else calls * units,
            sum(h.nbytes for h in outputs),
            held + largest * WINDOW_BYTES + together * largest * 4 * (2 + len(outputs)),
        )

    def write(
        self, image: Image, pair: Pair, record: Record, outcome: Outcome, report: Report
    ) -> None:
        header = image.header
        height, width = header.canonical_shape[3:]
        chosen = header.chosen(self.chosen, pair.source)
        report.file(pair.name, len(header.planes) * height * width)
        with ExitStack() as stack:
            guide = stack.enter_context(_guide(pair.guide, header)) if pair.guide else None
            groups = channels.prepare(image, chosen, self.noise, self.method)
            channels.describe(outcome, groups, self.method.sigma_max)
            headers = self._headers(header, pair)
            parts = [stack.enter_context(replacing(target)) for target in pair.targets]
            with ExitStack() as files:
                writers = [
                    files.enter_context(create_image(part, made, provenance=record))
                    for part, made in zip(parts, headers, strict=False)
                ]
                for products in restored_planes(self, image, groups, report.advance, guide):
                    for writer, plane in zip(writers, products, strict=True):
                        writer.put(plane)
            for part, made in zip(parts, headers, strict=False):
                verify_image(part, made)
            if self.extra is not None:
                found = self.extra(image, groups, parts[:-1], parts[-1], record)
                outcome.details |= found.details
                outcome.warnings += found.warnings

    def windows(self, shape: tuple[int, int]) -> tuple[tiles.Window, ...]:
        return tiles.plan(shape, self.method.stride, window=self.method.card.window)

    def _headers(self, header: Header, pair: Pair) -> list[Header]:
        """Of each product: the first is an image like the input, the others float32 maps of it."""
        kinds = [header, *[header.with_dtype(np.float32)] * (self.method.products - 1)]
        return [k.for_target(target) for k, target in zip(kinds, pair.targets, strict=False)]


def _guide(path: Path, header: Header) -> Image:
    """A second image of the same planes. Raises InputError for one of another shape."""
    guide = open_image(path)
    if guide.header.canonical_shape != header.canonical_shape:
        found, wanted = guide.header.canonical_shape, header.canonical_shape
        guide.close()
        raise InputError(f"{path}: has shape {found} (t, c, z, y, x), its image has {wanted}")
    return guide


def restored_planes(
    job: Planes,
    image: Image,
    groups: Sequence[Group],
    advance: Callable[[int], None],
    guide: Image | None = None,
) -> Iterator[tuple[np.ndarray, ...]]:
    """The planes (Y, X) of every product, in the file's order; memory stays flat.

    Where a joint model finds its channels far apart in the file, the later one's planes wait.
    """
    header = image.header
    height, width = header.canonical_shape[3:]
    member = {c: group for group in groups for c in group.channels}
    ready: dict[Plane, tuple[np.ndarray, ...]] = {}
    for planes in tiles.chunks(header.planes, max(1, PLANE_PIXELS // (height * width))):
        units: list[tuple[Group, int, int]] = []
        for t, c, z in planes:
            if c not in member:  # copied; of what was not measured nothing is known
                unknown = np.full((height, width), np.nan, np.float32)
                ready[t, c, z] = (image.read((t, c, z)), *[unknown] * (job.method.products - 1))
                advance(height * width)
            elif (t, c, z) not in ready and (member[c], t, z) not in units:
                units.append((member[c], t, z))
        _restore(job, image, guide, units, ready, advance)
        yield from (ready.pop(plane) for plane in planes)


def _restore(
    job: Planes,
    image: Image,
    guide: Image | None,
    units: Sequence[tuple[Group, int, int]],
    ready: dict[Plane, tuple[np.ndarray, ...]],
    advance: Callable[[int], None],
) -> None:
    """All planes of the units (group, t, z) into `ready`, window by window."""
    header = image.header
    windows = job.windows(header.canonical_shape[3:])
    batches = defaultdict(list)
    pixels: dict[Plane, np.ndarray] = {}
    hints: dict[Plane, np.ndarray] = {}
    for number, (group, t, z) in enumerate(units):
        for c in group.channels:
            plane = (t, c, z)
            pixels[plane] = image.read(plane)
            if guide is not None:
                hints[plane] = guide.read(plane)
            maps = [np.empty(pixels[plane].shape, np.float32) for _ in range(job.method.products)]
            ready[plane] = (np.empty_like(pixels[plane]), *maps[1:])
        for window in windows:
            batches[group.channels, window.shape].append((number, window))
    for (_, shape), batch in batches.items():
        for part in tiles.chunks(batch, _together(job.compute, shape)):
            group = units[part[0][0]][0]
            places = [([(t, c, z) for c in group.channels], w)
                      for (_, t, z), w in ((units[n], w) for n, w in part)]  # fmt: skip
            answers = _answers(job.method, group, pixels, hints, places)
            for (planes, window), products in zip(places, answers, strict=True):
                cores = window.crop(products)  # (products, C, h, w)
                for plane, values in zip(planes, cores.swapaxes(0, 1), strict=True):
                    for target, core in zip(ready[plane], values, strict=True):
                        target[window.core] = to_dtype(core, target.dtype)
                advance(cores[0].size)


def _together(compute: Compute, shape: tuple[int, int]) -> int:
    """How many windows are held at once: bounded by --tile's area and by --batch."""
    area = (compute.tile or 1024) ** 2 // (shape[0] * shape[1])
    return max(1, min(area, compute.batch or 64))


def _answers(
    method: Method,
    group: Group,
    pixels: Pixels,
    hints: Pixels,
    places: Sequence[tuple[list[Plane], tiles.Window]],
) -> np.ndarray:
    """(B, products, C, H, W) float32 in input units."""
    measured = np.stack([_cut(pixels, *place) for place in places])  # (B, C, H, W) float32
    forward = group.model.forward
    return method(
        Batch(
            np.stack([forward(raw) for raw in measured]),  # (B, C_net, H, W) float32
            np.full(len(measured), group.model.sigma, np.float32),
            [(planes[0], window.rows[0], window.cols[0]) for planes, window in places],
            group.model.inverse,
            measured,
            group.model.noise_std,
            group.scale,
            np.stack([forward(_cut(hints, *place)) for place in places]) if hints else None,
        ),
        group.shared,
    )


def _cut(pixels: Pixels, planes: Sequence[Plane], window: tiles.Window) -> np.ndarray:
    """(C, H, W) float32 of one window. Raises InputError for NaN and infinity."""
    raw = np.stack([pixels[plane][window.read] for plane in planes]).astype(np.float32)
    if not np.isfinite(raw).all():
        raise InputError(f"plane t,c,z = {planes[0]} holds NaN or infinity: mend it first")
    return np.stack([window.pad(plane) for plane in raw])
