"""`restore`: restore images with the diffusion prior, starting from their own noise level."""

from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from restorectl import catalog
from restorectl.batch import inputs
from restorectl.batch.outcome import Outcome, Report
from restorectl.batch.run import run
from restorectl.engine.samplers import Method
from restorectl.errors import UsageError
from restorectl.jobs import RestoreJob
from restorectl.restoration import step_map
from restorectl.restoration.planes import Planes
from restorectl.restoration.restorer import load_restorer

SCHEDULE = "rscd"  # schedule whose steps a step map shows by default


def restore(job: RestoreJob, report: Report) -> list[Outcome]:
    """Restore all images of the job. Raises for errors that stop the run, reports the others."""
    method: Method = catalog.METHODS[job.sampler].load()
    settings = _settings(job, method)
    place = step_map.folder(job.step_map, job.files.inputs) if job.step_map else None
    schedule = job.schedule or SCHEDULE

    def naming(relative: PurePath) -> tuple[PurePath, ...]:
        names = (inputs.same_name if job.dtype == "same" else inputs.as_tiff)(relative)
        return names if place is None else (*names, step_map.target(place, relative))

    found = inputs.resolve(job.files, naming)
    restorer = load_restorer(job, method, settings, job.level, job.orientations)
    own = {
        "sampler": job.sampler,
        "loop": asdict(settings) or None,
        "step_map": None if place is None else step_map.parameters(schedule),
    }
    extra = None
    if place is not None:
        extra = step_map.writer(step_map.StepCounter(restorer.calibrator, schedule), job.noise)
    return run(job.files, Planes("restore", restorer, own, extra), found, report)


def _settings(job: RestoreJob, method: Method) -> Any:
    """The preset's settings with the job's own numbers.

    Raises UsageError for a value that only the step-calibrated loop uses, with another sampler, and
    for a map of noise levels with that loop.
    """
    if job.level == "map" and not method.maps:
        raise UsageError(
            f"`level` map has no effect with `sampler` {job.sampler}: leave it out, or use another"
            " `sampler`"
        )
    for name, value in {
        "preset": None if job.preset in method.presets else job.preset,
        "recalibrate": job.recalibrate,
        "schedule": None if job.step_map else job.schedule,  # a step map has a schedule too
    }.items():
        if value is not None and not method.has("every"):
            raise UsageError(
                f"`{name}` {value} has no effect with `sampler` {job.sampler}: leave it out, or"
                " use `sampler` rscd"
            )
    numbers = {"every": job.recalibrate, "schedule": job.schedule}
    given = {k: v for k, v in numbers.items() if v is not None and method.has(k)}
    return method.settings(job.preset, job.sampler, **given)
