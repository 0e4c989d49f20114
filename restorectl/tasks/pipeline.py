"""The one way of an image through the tool; commands differ only by their Method.

open -> canonical planes -> intensity model (fitted on a sample) -> windows -> method -> cores in
input units -> clip, round, cast -> atomic write with metadata and provenance -> outcome.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from restorectl.core import intensity, sampling_plan, tiling
from restorectl.core.axes import Header
from restorectl.core.cast import to_dtype
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
from restorectl.tasks.inputs import Missing, Pair, make_folder

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

    stride: int  # window sizes are multiples of this
    sigma_max: float  # largest noise level it can be told

    def __call__(self, batch: Batch) -> np.ndarray:
        """(B, H, W) float32 in input units."""
        ...

    def calls(self) -> int:
        """Network calls so far, counted in windows."""
        ...


@dataclass
class Outcome:
    """What became of one input."""

    source: str
    target: str
    status: str  # done, skipped, planned, failed
    seconds: float = 0.0
    calls: int = 0
    message: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    exit_code: int = 0


class Report(Protocol):
    """Where progress goes; the command line implements it."""

    def begin(self, files: int) -> None: ...
    def file(self, name: str, pixels: int) -> None: ...
    def advance(self, pixels: int) -> None: ...
    def done(self, outcome: Outcome) -> None: ...


@dataclass(frozen=True)
class Run:
    """Everything that is the same for all files of one command."""

    files: Files
    compute: Compute
    noise: NoiseOptions
    method: Method
    parameters: Mapping[str, Any]  # recorded in provenance; equal parameters give equal pixels
    provenance: Callable[[str], dict[str, Any]]  # input sha256 -> the record


def run(job: Run, pairs: Sequence[Pair], missing: Sequence[Missing], report: Report) -> list[Outcome]:
    """Restore every pair; one bad file never stops the others, a full disk stops all."""
    report.begin(len(pairs) + len(missing))
    outcomes: list[Outcome] = []

    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        report.done(outcome)

    for item in missing:
        note(_failure(Outcome(str(item.source), "", "failed"), item.error))
    for folder in sorted({pair.target.parent for pair in pairs}):
        if not job.files.dry_run and folder.is_dir():
            sweep(folder)
    for pair in pairs:
        start, before = time.monotonic(), job.method.calls()
        outcome = Outcome(str(pair.source), str(pair.target), "done")
        try:
            _one(job, pair, outcome, report)
        except RestorectlError as error:
            _failure(outcome, error)
            if isinstance(error, DiskFullError):
                note(outcome)
                raise
        except MemoryError:
            _failure(outcome, InputError(f"{pair.source}: does not fit the memory of this machine"))
        outcome.seconds = time.monotonic() - start
        outcome.calls = job.method.calls() - before
        note(outcome)
    return outcomes


def _failure(outcome: Outcome, error: RestorectlError) -> Outcome:
    outcome.status, outcome.message, outcome.exit_code = "failed", str(error), error.exit_code
    return outcome


def _one(job: Run, pair: Pair, outcome: Outcome, report: Report) -> None:
    expected = job.provenance(content_hash(pair.source))
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
        outcome.details["noise"] = {str(c): model.describe() for c, model in models.items()}
        make_folder(pair.target.parent)
        planes = restored_planes(job, image, models, report.advance)
        with replacing(pair.target) as part:
            create_image(part, output_header(header, pair.target), planes, provenance=expected)
            verify_image(part, output_header(header, pair.target))


def output_header(header: Header, target: Path) -> Header:
    """The header of the output: the input's, in the format of the target's suffix."""
    return header.for_target(target)


def _chosen(wanted: tuple[int, ...] | None, channels: int, source: Path) -> tuple[int, ...]:
    if wanted is None:
        return tuple(range(channels))
    wrong = [c for c in wanted if not 0 <= c < channels]
    if wrong:
        raise InputError(f"{source}: --channels {wrong[0]}: the image has channels 0..{channels - 1}")
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
    """The planes (Y, X) of the output in the file's order and dtype; memory does not grow with them."""
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
) -> np.ndarray:
    """(B, H, W) float32 in input units for one batch of windows."""
    inputs = []
    for plane, window in part:
        raw = pixels[plane][window.read]
        if raw.dtype.kind == "f" and not np.isfinite(raw).all():
            raise InputError(f"plane t,c,z = {plane} holds NaN or infinity: mend or mask it first")
        inputs.append(window.pad(model.forward(raw.astype(np.float32))))
    sigma = np.full(len(part), min(model.sigma, job.method.sigma_max), np.float32)
    sites = [(plane, window.rows[0], window.cols[0]) for plane, window in part]
    return job.method(Batch(np.stack(inputs)[:, None], sigma, sites, model.inverse))
