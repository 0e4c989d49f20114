"""The one way of an image through the tool; commands differ only by their Method.

open -> canonical planes -> intensity model (fitted on a sample) -> windows -> method -> cores in
input units -> clip, round, cast -> atomic write with metadata and provenance -> outcome.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from restorectl.core import intensity, sampling_plan, tiling
from restorectl.core.axes import Header
from restorectl.core.cast import to_dtype
from restorectl.core.photometry import keep_local_mean
from restorectl.core.jobs import Compute, Files, NoiseOptions
from restorectl.core.provenance import content_hash, matches
from restorectl.errors import DiskFullError, InputError, OutputError, RestorectlError
from restorectl.io.atomic import replacing, sweep
from restorectl.io.image import (
    Image,
    create_image,
    open_image,
    read_provenance,
    verify_image,
)
from restorectl.tasks import manifest
from restorectl.tasks.inputs import Missing, Pair, make_folder
from restorectl.tasks.outcome import Outcome, Report

PLANE_PIXELS = 4 << 20  # planes are collected up to this many pixels, to fill batches

Plane = tuple[int, int, int]


@dataclass(frozen=True)
class Batch:
    """Windows of one channel, in network units, and the way back."""

    x: np.ndarray  # (B, 1, H, W) float32, about [-1, 1]
    sigma: np.ndarray  # (B,) float32, noise level in the units of x
    sites: list[tuple[Plane, int, int]]  # plane, row and column of each window's first pixel
    inverse: Callable[[np.ndarray], np.ndarray]  # network units -> input units


class Method(Protocol):
    """What one command does to a batch of windows."""

    @property
    def stride(self) -> int:
        """Window sizes are multiples of this."""
        ...

    @property
    def sigma_max(self) -> float:
        """The largest noise level it can be told, in network units."""
        ...

    def __call__(self, batch: Batch) -> np.ndarray:
        """(B, H, W) float32 in input units."""
        ...

    def calls(self) -> int:
        """Network calls so far, counted in windows."""
        ...


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
        _, channels, _, height, width = header.canonical_shape
        outcome.details.update(axes=header.axes, shape=list(header.shape), dtype=str(header.dtype))
        chosen = _chosen(job.files.channels, channels, pair.source)
        if job.files.dry_run:
            outcome.status = "planned"
            windows = tiling.plan((height, width), job.method.stride)
            outcome.details["windows"] = len(windows) * len(header.planes) * len(chosen) // channels
            return
        report.file(pair.name, len(header.planes) * height * width)
        models = _fit(job, image, chosen)
        _describe(outcome, models, job.method.sigma_max)
        make_folder(pair.target.parent)
        planes = restored_planes(job, image, models, report.advance)
        with replacing(pair.target) as part:
            create_image(part, output_header(header, pair.target), planes, provenance=expected)
            verify_image(part, output_header(header, pair.target))


def _describe(
    outcome: Outcome, models: Mapping[int, intensity.Intensity], sigma_max: float
) -> None:
    outcome.details["noise"] = {str(c): model.describe() for c, model in models.items()}
    for c, model in models.items():
        where = f"channel {c}: " if len(models) > 1 else ""
        outcome.warnings += [where + text for text in model.noise.warnings]
        if model.sigma > sigma_max:
            outcome.warnings.append(
                f"{where}noise level {model.sigma:.2f} is above what the weights were trained on"
                f" ({sigma_max:.2f}): less is removed"
            )


def output_header(header: Header, target: Path) -> Header:
    """The header of the output: the input's, in the format of the target's suffix."""
    return header.for_target(target)


def _chosen(wanted: tuple[int, ...] | None, channels: int, source: Path) -> tuple[int, ...]:
    if wanted is None:
        return tuple(range(channels))
    wrong = [c for c in wanted if not 0 <= c < channels]
    if wrong:
        raise InputError(
            f"{source}: --channels {wrong[0]}: the image has channels 0..{channels - 1}"
        )
    return wanted


def _fit(job: Run, image: Image, channels: Sequence[int]) -> dict[int, intensity.Intensity]:
    """One intensity model a channel, from blocks spread over its planes."""
    models = {}
    noise = job.noise
    for c in channels:
        blocks = [
            image.read(plane, rows, cols).astype(np.float32)
            for plane, rows, cols in sampling_plan.blocks(image.header.canonical_shape, c)
        ]
        try:
            models[c] = intensity.fit(
                blocks,
                noise=noise.kind,
                gain=noise.gain,
                offset=noise.offset,
                read_noise=noise.read_noise,
            )
        except InputError as error:
            raise InputError(f"{image.path}: channel {c}: {error}") from error
    return models


def restored_planes(
    job: Run,
    image: Image,
    models: Mapping[int, intensity.Intensity],
    advance: Callable[[int], None],
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
            if plane[1] not in models:
                done[plane] = pixels[plane]
                advance(height * width)
                continue
            for window in windows:
                groups[plane[1], window.shape].append((plane, window))
        for (channel, shape), group in groups.items():
            for part in tiling.chunks(group, _together(job.compute, shape)):
                for (plane, window), answer in zip(
                    part, _answers(job, models[channel], pixels, part), strict=True
                ):
                    done[plane][window.core] = to_dtype(window.crop(answer), header.dtype)
                    advance(window.crop(answer).size)
        yield from (done[plane] for plane in planes)


def _together(compute: Compute, shape: tuple[int, int]) -> int:
    """How many windows are held at once: bounded by --tile's area and by --batch."""
    area = (compute.tile or 1024) ** 2 // (shape[0] * shape[1])
    return max(1, min(area, compute.batch or 64))


def _answers(
    job: Run,
    model: intensity.Intensity,
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
    sigma = np.full(len(part), min(model.sigma, job.method.sigma_max), np.float32)
    sites = [(plane, window.rows[0], window.cols[0]) for plane, window in part]
    x = np.stack([model.forward(raw) for raw in measured])[:, None]
    answers = job.method(Batch(x, sigma, sites, model.inverse))
    return [keep_local_mean(*both) for both in zip(measured, answers, strict=True)]
