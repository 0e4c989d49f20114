"""`restore`: denoise every plane from its own noise level with the diffusion prior."""

from dataclasses import asdict, replace
from pathlib import PurePath

from restorectl import catalog
from restorectl.batch import inputs
from restorectl.batch import run as run_batch
from restorectl.batch.outcome import Outcome, Report
from restorectl.engine import rscd
from restorectl.jobs import RestoreJob
from restorectl.restoration import step_map
from restorectl.restoration.planes import Planes
from restorectl.restoration.restoration import Setup, assemble


def run(job: RestoreJob, report: Report) -> list[Outcome]:
    """Restore all images of the job. Raises for what stops every file, reports the rest."""
    settings = _settings(job)
    place = step_map.folder(job)

    def naming(relative: PurePath) -> tuple[PurePath, ...]:
        names = inputs.same_name(relative)
        return names if place is None else (*names, step_map.target(place, relative))

    pairs, missing = inputs.resolve(job.files, naming)
    make, follows = catalog.SAMPLERS[job.sampler].load(), job.sampler == "rscd"
    ready = assemble(
        Setup(
            "restore",
            job.files,
            job.compute,
            job.noise,
            job.weights,
            make(settings) if follows else make(),
            steps=job.steps,
            strength=job.strength,
            calibrator=job.calibrator,
            calibrator_weights=job.calibrator_weights,
            level="image" if follows else job.level,
            own={
                "sampler": job.sampler,
                "loop": asdict(settings) if follows else None,
                "step_map": None if place is None else step_map.parameters(settings.schedule),
            },
            weights_from=job.weights_from,
        )
    )
    gauge = step_map.Gauge(ready.measure, settings.schedule)
    maps = None if place is None else step_map.writer(gauge, job.noise)
    work = Planes(ready.method, job.compute, job.noise, job.files.channels, maps)
    todo = run_batch.Run(job.files, work, ready.summary, ready.record)
    return run_batch.run(todo, pairs, missing, report)


def _settings(job: RestoreJob) -> rscd.Settings:
    settings = rscd.PRESETS[job.preset]
    if job.recalibrate is not None:
        settings = replace(settings, every=job.recalibrate)
    if job.schedule is not None:
        settings = replace(settings, schedule=job.schedule)
    return settings
