"""`uncertainty`: many restorations of one image; their mean, their spread, and error bars."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from restorectl.core import coverage as bars
from restorectl.core import spread
from restorectl.core.coverage import Calibration
from restorectl.core.jobs import Compute, Files, NoiseOptions, WeightsOptions
from restorectl.core.photometry import keep_local_mean
from restorectl.engine import denoisers
from restorectl.errors import UsageError, WeightsError
from restorectl.io import error_bars
from restorectl.tasks import batch, inputs
from restorectl.tasks.map_overview import PRODUCTS, overview
from restorectl.tasks.method import Batch
from restorectl.tasks.outcome import Outcome, Report
from restorectl.tasks.planes import Planes
from restorectl.tasks.restoration import Assembled, Reduction, Samples, Setup, Shared, assemble
from restorectl.tasks.step_map import stem

SOURCES = {"posterior": denoisers.posterior, "conditional": denoisers.conditional}


@dataclass(frozen=True)
class UncertaintyJob:
    files: Files
    compute: Compute = field(default_factory=Compute)
    noise: NoiseOptions = field(default_factory=NoiseOptions)
    source: str = "posterior"  # key of SOURCES
    weights: str | None = None  # None = the embedded ones of the source's kind
    samples: int = 15
    steps: int | None = None
    variance: str = "analytic"  # of the posterior's steps: analytic, ancestral
    interval: float = 0.9  # share of the pixels whose truth lies inside
    calibration: str = "auto"  # auto, none, or a YAML file
    calibrator: str = "analytic"
    calibrator_weights: str = "calibrator"
    weights_from: WeightsOptions = field(default_factory=WeightsOptions)


def run(job: UncertaintyJob, report: Report) -> list[Outcome]:
    """Write all maps of all images. Raises for what stops every file, reports the rest."""
    check(job)
    pairs, missing = inputs.resolve(job.files, targets, folder_only=True)
    ready = prepared(job)
    calibration = _calibration(job, ready, report)
    own = {**sampling(job), "interval": job.interval, "calibration": _named(calibration)}
    ready = reduced(ready, _error_bars(job, calibration), own)
    work = Planes(ready.method, job.compute, job.noise, job.files.channels, overview)
    return batch.run(
        batch.Run(job.files, work, ready.summary, ready.record), pairs, missing, report
    )


def targets(relative: PurePath) -> tuple[PurePath, ...]:
    """The files that one image becomes."""
    name = stem(relative)
    maps = [relative.with_name(f"{name}_{product}.tif") for product in PRODUCTS]
    return (*maps, relative.with_name(f"{name}_overview.png"))


def prepared(job: UncertaintyJob) -> Assembled:
    """The models and the sampler of a job; what becomes of the samples is still open."""
    program = SOURCES[job.source]
    settings = program.presets["restorectl"]
    if job.source == "posterior":
        settings = replace(settings, variance=job.variance, single=False)
    return assemble(
        Setup(
            "uncertainty",
            job.files,
            job.compute,
            job.noise,
            job.weights or program.task,
            program.make(settings, job.samples),
            task=program.task,
            steps=job.steps,
            samples=job.samples,
            calibrator=job.calibrator,
            calibrator_weights=job.calibrator_weights,
            weights_from=job.weights_from,
        )
    )


def reduced(ready: Assembled, reduction: Reduction, own: Mapping[str, Any]) -> Assembled:
    """The same with what becomes of the samples, and the parameters that decide it."""
    method = replace(ready.method, reduction=reduction)
    return replace(ready, method=method, setup=replace(ready.setup, own=own))


def sampling(job: UncertaintyJob) -> dict[str, Any]:
    """What the spread of the samples depends on, beside the weights."""
    variance = job.variance if job.source == "posterior" else "ancestral"
    return {"source": job.source, "steps": job.steps, "variance": variance}


def check(job: UncertaintyJob) -> None:
    """Raises UsageError for numbers that cannot be meant."""
    if job.samples < 2:
        raise UsageError(f"--samples {job.samples}: a spread needs at least 2")
    if not 0 < job.interval < 1:
        raise UsageError(f"--interval {job.interval:g}: must lie between 0 and 1, e.g. 0.9")


def uncalibrated(job: UncertaintyJob) -> Reduction:
    """The maps with intervals as wide as the samples alone say."""
    return _error_bars(job, None)


def _error_bars(job: UncertaintyJob, calibration: Calibration | None) -> Reduction:
    """Mean, std, entropy, lower and upper of a batch of windows."""

    def combine(samples: Samples, batch: Batch, shared: Shared) -> np.ndarray:
        low, high = batch.scale[..., None, None]  # (C, 1, 1) each
        found = spread.gather(samples, low, high)
        mean = keep_local_mean(batch.measured, found.mean)
        if calibration is None:
            half = bars.uncalibrated(found.std, found.count, job.interval)
        else:
            noise = np.stack([batch.noise_std(each) for each in mean])
            half = calibration.half_width(found.std, mean, noise, job.interval)
        maps = (mean, found.std, found.entropy, mean - half, mean + half)
        return np.stack(maps, axis=1).astype(np.float32)

    return Reduction(len(PRODUCTS), combine)


def _calibration(job: UncertaintyJob, ready: Assembled, report: Report) -> Calibration | None:
    """The calibration that applies. Raises WeightsError for one of other weights or sampling."""
    if job.calibration == "none":
        return None
    wanted = sampling(job)
    if job.calibration != "auto":
        given = error_bars.read(Path(job.calibration))
        if given.weights_sha256 != ready.weights_sha256:
            raise WeightsError(
                f"--calibration {job.calibration}: was made for other weights"
                f" ({given.weights_sha256[:12]}, here {ready.weights_sha256[:12]}): make one with"
                " --calibrate, or use --calibration none"
            )
        if dict(given.sampling) != wanted:
            raise UsageError(
                f"--calibration {job.calibration}: was made with {_text(given.sampling)}, not"
                f" {_text(wanted)}: make another with --calibrate"
            )
        return given
    for each in error_bars.packaged():
        if each.weights_sha256 == ready.weights_sha256 and dict(each.sampling) == wanted:
            return each
    report.note(
        "warning: no calibration is known for these weights and this way of sampling: intervals"
        " are those of the samples alone, mostly too narrow; make one with --calibrate"
    )
    return None


def _text(sampling: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sampling.items())


def _named(calibration: Calibration | None) -> Any:
    return None if calibration is None else bars.plain(calibration)
