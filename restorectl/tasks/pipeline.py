"""The one way of an image through the tool; commands differ only by their Method.

open -> canonical planes -> what each channel shares (fitted on a sample) -> windows -> method ->
local mean kept -> clip, round, cast -> atomic write with metadata and provenance -> outcome.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from restorectl.core import tiling
from restorectl.core.axes import Plane
from restorectl.core.cast import to_dtype
from restorectl.core.jobs import Compute, Files, NoiseOptions
from restorectl.core.photometry import keep_local_mean
from restorectl.core.provenance import content_hash, matches
from restorectl.errors import DiskFullError, InputError, OutputError, RestorectlError
from restorectl.io.atomic import replacing, sweep
from restorectl.io.image import Image, create_image, open_image, read_provenance, verify_image
from restorectl.tasks import channels, manifest
from restorectl.tasks.inputs import Missing, Pair, make_folder
from restorectl.tasks.method import Batch, Group, Method
from restorectl.tasks.outcome import Outcome, Report
from restorectl.tasks.step_map import StepMaps

PLANE_PIXELS = 4 << 20  # planes are collected up to this many pixels, to fill batches


@dataclass(frozen=True)
class Run:
    """Everything that is the same for all files of one command."""

    files: Files
    compute: Compute
    noise: NoiseOptions
    method: Method
    summary: Mapping[str, Any]  # command, parameters, weights, device: heads the manifest
    provenance: Callable[[str], dict[str, Any]]  # input sha256 -> what the output records
    maps: StepMaps | None = None  # also written for each image


def run(
    job: Run, pairs: Sequence[Pair], missing: Sequence[Missing], report: Report
) -> list[Outcome]:
    """Restore every pair; one bad file never stops the others, a full disk stops all.

    The manifest is written in any case, also after a failure or an interruption.
    """
    outcomes: list[Outcome] = []

    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        report.done(outcome)

    try:
        report.begin(len(pairs) + len(missing))
        for item in missing:
            note(Outcome(str(item.source), "", "failed", message=str(item.error)))
        for folder in sorted({pair.target.parent for pair in pairs}):
            if not job.files.dry_run and folder.is_dir():
                sweep(folder)
        for pair in pairs:
            _attempt(job, pair, report, note)
    finally:
        if job.files.manifest is not None:
            manifest.write(job.files.manifest, job.summary, outcomes)
    return outcomes


def _attempt(job: Run, pair: Pair, report: Report, note: Callable[[Outcome], None]) -> None:
    """One pair, its outcome noted whatever happens to it; only a full disk goes on upwards."""
    start, before = time.monotonic(), job.method.calls()
    outcome = Outcome(str(pair.source), str(pair.target), "done")
    try:
        _one(job, pair, outcome, report)
    except DiskFullError as error:
        outcome.fail(error)
        note(outcome)
        raise
    except RestorectlError as error:
        outcome.fail(error)
    except MemoryError:
        outcome.fail(InputError(f"{pair.source}: does not fit the memory of this machine"))
    outcome.seconds = time.monotonic() - start
    outcome.calls = job.method.calls() - before
    note(outcome)


def _one(job: Run, pair: Pair, outcome: Outcome, report: Report) -> None:
    try:
        expected = job.provenance(content_hash(pair.source))
    except OSError as error:
        raise InputError(f"{pair.source}: cannot be read ({error.strerror})") from error
    mapped = job.maps is None or job.maps.is_current(pair, expected)
    if pair.target.exists():
        recorded = read_provenance(pair.target)
        if recorded is not None and matches(recorded, expected) and mapped:
            outcome.status, outcome.message = "skipped", "up to date"
            return
        if recorded is None and not job.files.overwrite:
            raise OutputError(f"{pair.target}: exists and is not ours: move it or use --overwrite")
    with open_image(pair.source, axes=job.files.axes) as image:
        header = image.header
        _, count, _, height, width = header.canonical_shape
        outcome.details.update(axes=header.axes, shape=list(header.shape), dtype=str(header.dtype))
        chosen = channels.chosen(job.files.channels, count, pair.source)
        if job.files.dry_run:
            outcome.status = "planned"
            windows = _windows(job, (height, width))
            outcome.details["windows"] = len(windows) * len(header.planes) * len(chosen) // count
            return
        report.file(pair.name, len(header.planes) * height * width)
        prepared = channels.prepare(image, chosen, job.noise, job.method)
        channels.describe(outcome, prepared, job.method.sigma_max)
        if job.maps is not None:
            outcome.details["step_map"] = str(job.maps.write(image, pair, chosen, expected))
        make_folder(pair.target.parent)
        planes = restored_planes(job, image, prepared, report.advance)
        output = header.for_target(pair.target)
        with replacing(pair.target) as part:
            create_image(part, output, planes, provenance=expected)
            verify_image(part, output)


def restored_planes(
    job: Run, image: Image, groups: Sequence[Group], advance: Callable[[int], None]
) -> Iterator[np.ndarray]:
    """The planes (Y, X) of the output, in the file's order and dtype; memory stays flat.

    Where a joint model finds its channels far apart in the file, the later one's planes wait.
    """
    header = image.header
    height, width = header.canonical_shape[3:]
    member = {c: group for group in groups for c in group.channels}
    ready: dict[Plane, np.ndarray] = {}
    for planes in tiling.chunks(header.planes, max(1, PLANE_PIXELS // (height * width))):
        units: list[tuple[Group, int, int]] = []
        for t, c, z in planes:
            if c not in member:
                ready[t, c, z] = image.read((t, c, z))
                advance(height * width)
            elif (t, c, z) not in ready and (member[c], t, z) not in units:
                units.append((member[c], t, z))
        _restore(job, image, units, ready, advance)
        yield from (ready.pop(plane) for plane in planes)


def _restore(
    job: Run,
    image: Image,
    units: Sequence[tuple[Group, int, int]],
    ready: dict[Plane, np.ndarray],
    advance: Callable[[int], None],
) -> None:
    """All planes of the units (group, t, z) into `ready`, window by window."""
    header = image.header
    windows = _windows(job, header.canonical_shape[3:])
    batches = defaultdict(list)
    pixels: dict[Plane, np.ndarray] = {}
    for number, (group, t, z) in enumerate(units):
        for c in group.channels:
            pixels[t, c, z] = image.read((t, c, z))
            ready[t, c, z] = np.empty_like(pixels[t, c, z])
        for window in windows:
            batches[group.channels, window.shape].append((number, window))
    for (_, shape), batch in batches.items():
        for part in tiling.chunks(batch, _together(job.compute, shape)):
            group = units[part[0][0]][0]
            places = [([(t, c, z) for c in group.channels], w)
                      for (_, t, z), w in ((units[n], w) for n, w in part)]  # fmt: skip
            for (planes, window), answer in zip(
                places, _answers(job, group, pixels, places), strict=True
            ):
                for plane, restored in zip(planes, window.crop(answer), strict=True):
                    ready[plane][window.core] = to_dtype(restored, header.dtype)
                    advance(restored.size)


def _windows(job: Run, shape: tuple[int, int]) -> tuple[tiling.Window, ...]:
    return tiling.plan(shape, job.method.stride, window=job.method.card.window)


def _together(compute: Compute, shape: tuple[int, int]) -> int:
    """How many windows are held at once: bounded by --tile's area and by --batch."""
    area = (compute.tile or 1024) ** 2 // (shape[0] * shape[1])
    return max(1, min(area, compute.batch or 64))


def _answers(
    job: Run,
    group: Group,
    pixels: Mapping[Plane, np.ndarray],
    places: Sequence[tuple[list[Plane], tiling.Window]],
) -> list[np.ndarray]:
    """Each window's answer, (C, H, W) float32 in input units."""
    measured = []
    for planes, window in places:
        raw = np.stack([pixels[plane][window.read] for plane in planes]).astype(np.float32)
        if not np.isfinite(raw).all():
            raise InputError(f"plane t,c,z = {planes[0]} holds NaN or infinity: mend it first")
        measured.append(np.stack([window.pad(plane) for plane in raw]))
    x = np.stack([group.model.forward(raw) for raw in measured])  # (B, C_net, H, W) float32
    sigma = np.full(len(x), group.model.sigma, np.float32)
    sites = [(planes[0], window.rows[0], window.cols[0]) for planes, window in places]
    answers = job.method(Batch(x, sigma, sites, group.model.inverse), group.shared)
    return [keep_local_mean(*both) for both in zip(measured, answers, strict=True)]
