"""`denoise`: restore images with a chosen method; several samples are averaged."""

from dataclasses import asdict, replace
from pathlib import Path, PurePath
from typing import Any

from restorectl import catalog
from restorectl.batch import inputs
from restorectl.batch.outcome import Outcome, Report
from restorectl.batch.run import run
from restorectl.engine.samplers import Method
from restorectl.errors import UsageError
from restorectl.jobs import DenoiseJob
from restorectl.restoration import preview
from restorectl.restoration.planes import Planes
from restorectl.restoration.restorer import load_restorer


def denoise(job: DenoiseJob, report: Report) -> list[Outcome]:
    """Denoise all images of the job. Raises for errors that stop the run, reports the others."""
    _settings(job)

    def naming(relative: PurePath) -> tuple[PurePath, ...]:
        names = (inputs.same_name if job.dtype == "same" else inputs.as_tiff)(relative)
        return (*names, inputs.preview_name(relative)) if job.preview else names

    found = inputs.resolve(job.files, naming)
    if job.guide is not None:
        if not Path(job.guide).is_dir():
            raise UsageError(f"`guide` {job.guide}: is not a folder")
        names = [PurePath(pair.name) for pair in found.pairs]
        guides = inputs.match_names(names, inputs.walk(Path(job.guide), None))
        guided = [
            replace(pair, guide=Path(job.guide) / guides.get(name, name))
            for pair, name in zip(found.pairs, names, strict=True)
        ]
        found = replace(found, pairs=guided)
    return run(job.files, work(job), found, report)


def work(job: DenoiseJob) -> Planes:
    """What the job does with each image. Raises UsageError, WeightsError."""
    method, settings = _settings(job)
    if job.start_step is not None and method.has("start"):
        settings, job = replace(settings, start=job.start_step), replace(job, start_step=None)
    own = {"method": job.method, "settings": asdict(settings), "guide": bool(job.guide)}
    level = "auto" if method.maps else "image"
    restorer = load_restorer(job, method, settings, level, job.orientations)
    extras = (preview.writer(preview.RESTORED),) if job.preview else ()
    return Planes("denoise", restorer, own, extras)


def _settings(job: DenoiseJob) -> tuple[Method, Any]:
    """The method, and the preset's settings with the job's own.

    Raises UsageError for a value that has no effect with the method.
    """
    method: Method = catalog.METHODS[job.method].load()
    settings = method.settings(job.preset, job.method, **job.settings)
    if job.start_step is not None and method.task != "prior":
        raise UsageError(f"`start_step` has no effect with `method` {job.method}: leave it out")
    if job.samples < 1:
        raise UsageError(f"`samples` {job.samples}: must be at least 1")
    if job.guide is not None and not method.guided:
        raise UsageError(f"`guide` has no effect with `method` {job.method}: choose another")
    return method, settings
