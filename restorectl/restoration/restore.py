"""`restore`: restore images with the diffusion prior, starting from their own noise level."""

from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from restorectl import catalog
from restorectl.batch import inputs
from restorectl.batch.cluster import Made
from restorectl.batch.outcome import Outcome, Report
from restorectl.batch.run import run
from restorectl.engine.samplers import Method
from restorectl.errors import UsageError
from restorectl.jobs import RestoreJob
from restorectl.restoration import preview, step_map
from restorectl.restoration.planes import Extra, Planes
from restorectl.restoration.restorer import SCHEDULE, load_restorer, refuse_beside_start_step


def restore(job: RestoreJob, report: Report) -> list[Outcome]:
    """Restore all images of the job. Raises for errors that stop the run, reports the others."""
    _settings(job)
    place = None
    if job.step_map:
        place = inputs.side_folder("step_map", job.step_map, job.files.inputs)

    def naming(relative: PurePath) -> tuple[PurePath, ...]:
        names = (inputs.same_name if job.dtype == "same" else inputs.as_tiff)(relative)
        names += () if place is None else (step_map.target(place, relative),)
        return (*names, inputs.preview_name(relative)) if job.preview else names

    found = inputs.resolve(job.files, naming)
    return run(job.files, work(job), found, report, Made(work, job))


def work(job: RestoreJob) -> Planes:
    """What the job does with each image. Raises UsageError, WeightsError."""
    method, settings = _settings(job)
    schedule = job.schedule or SCHEDULE
    level = job.level if method.maps else "image"
    restorer = load_restorer(job, method, settings, level, job.orientations, schedule)
    own = {
        "sampler": job.sampler,
        "loop": asdict(settings) or None,
        "step_map": step_map.parameters(schedule) if job.step_map else None,
    }
    extras: list[Extra] = []
    if job.step_map:
        workers = restorer.runner.workers
        counter = step_map.StepCounter(restorer.calibrator, schedule, workers)
        extras.append(step_map.writer(counter))
    if job.preview:
        extras.append(preview.writer(preview.RESTORED))
    return Planes("restore", restorer, own, tuple(extras))


def _settings(job: RestoreJob) -> tuple[Method, Any]:
    """The method, and the preset's settings with the job's own numbers.

    Raises UsageError for a value that has no effect with the sampler.
    """
    method: Method = catalog.METHODS[job.sampler].load()
    looped = method.has("every")  # the step-calibrated loop
    only_looped = {
        "preset": None if job.preset in method.presets else job.preset,
        "recalibrate": job.recalibrate,
        "rounds": job.rounds,
        # a step map and a starting step have a schedule with any sampler
        "schedule": None if job.step_map or job.start_step is not None else job.schedule,
    }
    never_looped = {"steps": job.steps, "level": None if job.level == "auto" else job.level}
    for name, value in (never_looped if looped else only_looped).items():
        if value is not None:
            other = "another `sampler`" if looped else "`sampler` rscd"
            raise UsageError(
                f"`{name}` {value} has no effect with `sampler` {job.sampler}: leave it out, or use"
                f" {other}"
            )
    if job.start_step is not None:
        measured = {
            "recalibrate": job.recalibrate or None,
            "rounds": job.rounds,
            "step_map": job.step_map,
            "level": "map" if job.level == "map" else None,
        }
        refuse_beside_start_step(measured)
    if not looped:
        return method, method.settings(job.preset, job.sampler)
    every = job.recalibrate if job.start_step is None else 0  # 0: without a calibrator
    numbers = {"every": every, "rounds": job.rounds, "schedule": job.schedule}
    given = {name: value for name, value in numbers.items() if value is not None}
    return method, method.settings(job.preset, job.sampler, **given)
