"""`denoise`: the methods of papers 001, 002 and 004, and means over several restorations."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from restorectl import catalog
from restorectl.batch import inputs
from restorectl.batch import run as run_batch
from restorectl.batch.inputs import Pair
from restorectl.batch.outcome import Outcome, Report
from restorectl.engine import mixing
from restorectl.engine.methods import Program
from restorectl.errors import UsageError
from restorectl.jobs import Compute, Files, NoiseOptions, WeightsOptions
from restorectl.restoration.planes import Planes
from restorectl.restoration.restoration import Setup, assemble


@dataclass(frozen=True)
class DenoiseJob:
    files: Files
    compute: Compute = field(default_factory=Compute)
    noise: NoiseOptions = field(default_factory=NoiseOptions)
    method: str = "posterior"  # row of catalog.DENOISERS
    weights: str | None = None  # None = the embedded ones of the method's kind
    preset: str = "restorectl"
    settings: Mapping[str, Any] = field(default_factory=dict)  # given ones, over the preset's
    steps: int | None = None
    samples: int = 1
    strength: float = 1.0
    calibrator: str = "analytic"
    calibrator_weights: str = "calibrator"
    guide: str | None = None  # folder of another method's predictions, named like the inputs
    weights_from: WeightsOptions = field(default_factory=WeightsOptions)


def run(job: DenoiseJob, report: Report) -> list[Outcome]:
    """Denoise all images of the job. Raises for what stops every file, reports the rest."""
    program: Program = catalog.DENOISERS[job.method].load()
    settings = chosen(program, job.method, job.preset, job.settings)
    if job.samples < 1:
        raise UsageError(f"--samples {job.samples}: must be at least 1")
    if job.guide is not None and job.method == "posterior":
        raise UsageError("--guide has no effect with --method posterior: choose another method")
    pairs, missing = inputs.resolve(job.files)
    ready = assemble(
        Setup(
            "denoise",
            job.files,
            job.compute,
            job.noise,
            job.weights or program.task,
            program.make(settings, job.samples),
            task=program.task,
            steps=job.steps,
            strength=job.strength,
            samples=job.samples,
            calibrator=job.calibrator,
            calibrator_weights=job.calibrator_weights,
            own={"method": job.method, "settings": asdict(settings), "guide": bool(job.guide)},
            weights_from=job.weights_from,
        )
    )
    if isinstance(settings, mixing.Settings):
        mixing.check(settings, ready.method.sigma_max)
    work = Planes(ready.method, job.compute, job.noise, job.files.channels)
    todo = run_batch.Run(job.files, work, ready.summary, ready.record)
    return run_batch.run(todo, [_guided(pair, job.guide) for pair in pairs], missing, report)


def chosen(program: Program, method: str, preset: str, given: Mapping[str, Any]) -> Any:
    """The settings of a method. Raises UsageError for an option that it does not have."""
    if preset not in program.presets:
        raise UsageError(f"--preset {preset}: method {method} has {', '.join(program.presets)}")
    settings = program.presets[preset]
    known = {each.name for each in fields(settings)}
    wrong = [name for name in given if name not in known]
    if wrong:
        raise UsageError(f"{OPTIONS[wrong[0]]} has no effect with --method {method}: leave it away")
    return replace(settings, **given)


OPTIONS = {  # fields of the methods' settings, as the command line calls them
    "start": "--start-step",
    "ahead": "--ahead",
    "eta": "--eta",
    "mix": "--mix",
    "first": "--mix-weights",
    "last": "--mix-weights",
    "stop": "--mix-stop",
    "shared_noise": "--mix-noise",
    "interval": "--interval",
    "repeats": "--repeats",
    "renoise": "--renoise",
    "variance": "--variance",
}


def _guided(pair: Pair, guide: str | None) -> Pair:
    if guide is None:
        return pair
    if not Path(guide).is_dir():
        raise UsageError(f"--guide {guide}: is no folder")
    return replace(pair, guide=Path(guide) / pair.name)
