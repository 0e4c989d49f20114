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
from restorectl.tasks.method import Batch, Channel, Method
from restorectl.tasks.outcome import Outcome, Report

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
    if pair.target.exists():
        recorded = read_provenance(pair.target)
        if recorded is not None and matches(recorded, expected):
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
            windows = tiling.plan((height, width), job.method.stride)
            outcome.details["windows"] = len(windows) * len(header.planes) * len(chosen) // count
            return
        report.file(pair.name, len(header.planes) * height * width)
        prepared = channels.prepare(image, chosen, job.noise, job.method)
        channels.describe(outcome, prepared, job.method.sigma_max)
        make_folder(pair.target.parent)
        planes = restored_planes(job, image, prepared, report.advance)
        output = header.for_target(pair.target)
        with replacing(pair.target) as part:
            create_image(part, output, planes, provenance=expected)
            verify_image(part, output)


def restored_planes(
    job: Run, image: Image, prepared: Mapping[int, Channel], advance: Callable[[int], None]
) -> Iterator[np.ndarray]:
    """The planes (Y, X) of the output, in the file's order and dtype; memory stays flat."""
    header = image.header
    height, width = header.canonical_shape[3:]
    windows = tiling.plan((height, width), job.method.stride)
    together = max(1, PLANE_PIXELS // (height * width))
    for planes in tiling.chunks(header.planes, together):
        pixels = {plane: image.read(plane) for plane in planes}
        done = {plane: np.empty_like(pixels[plane]) for plane in planes}
        groups = defaultdict(list)
        for plane in planes:
            if plane[1] not in prepared:
                done[plane] = pixels[plane]
                advance(height * width)
                continue
            for window in windows:
                groups[plane[1], window.shape].append((plane, window))
        for (channel, shape), group in groups.items():
            for part in tiling.chunks(group, _together(job.compute, shape)):
                answers = _answers(job, prepared[channel], pixels, part)
                for (plane, window), answer in zip(part, answers, strict=True):
                    done[plane][window.core] = to_dtype(window.crop(answer), header.dtype)
                    advance(window.crop(answer).size)
        yield from (done[plane] for plane in planes)


def _together(compute: Compute, shape: tuple[int, int]) -> int:
    """How many windows are held at once: bounded by --tile's area and by --batch."""
    area = (compute.tile or 1024) ** 2 // (shape[0] * shape[1])
    return max(1, min(area, compute.batch or 64))


def _answers(
    job: Run,
    channel: Channel,
    pixels: Mapping[Plane, np.ndarray],
    part: Sequence[tuple[Plane, tiling.Window]],
) -> list[np.ndarray]:
    """Each window's answer, (H, W) float32 in input units."""
    measured = []
    for plane, window in part:
        raw = pixels[plane][window.read]
        if raw.dtype.kind == "f" and not np.isfinite(raw).all():
            raise InputError(f"plane t,c,z = {plane} holds NaN or infinity: mend or mask it first")
        measured.append(window.pad(raw.astype(np.float32)))
    x = np.stack([channel.model.forward(raw) for raw in measured])[:, None]
    sigma = np.full(len(part), channel.model.sigma, np.float32)
    sites = [(plane, window.rows[0], window.cols[0]) for plane, window in part]
    answers = job.method(Batch(x, sigma, sites, channel.model.inverse), channel.shared)
    return [keep_local_mean(*both) for both in zip(measured, answers, strict=True)]
