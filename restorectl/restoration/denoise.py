"""`denoise`: restore images with a chosen method; several samples are averaged."""

from dataclasses import asdict, replace
from pathlib import Path, PurePath
from typing import Any

from restorectl import catalog
from restorectl.batch import inputs
from restorectl.batch.cluster import Made
from restorectl.batch.outcome import Outcome, Report
from restorectl.batch.run import run
from restorectl.engine.samplers import Method
from restorectl.errors import UsageError
from restorectl.jobs import DenoiseJob, Files, OwnTraining
from restorectl.restoration import fitting, preview
from restorectl.restoration.planes import Planes
from restorectl.restoration.restorer import each_and_mean, load_restorer


def denoise(job: DenoiseJob, report: Report) -> list[Outcome]:
    """Denoise all images of the job. Raises for errors that stop the run, reports the others."""
    _settings(job)
    if job.files.dask is not None and job.training.fit_on == "folder":
        raise UsageError(
            "`fit_on` folder: has no place with `dask`, where every worker would train the network"
            " again: train it once, by `restorectl train`"
        )
    return run(job.files, work(job), found(job, job.files), report, Made(work, job))


def found(job: DenoiseJob, files: Files) -> inputs.Inputs:
    """What the job works on, each image with its guide. Raises as `inputs.resolve`."""

    def naming(relative: PurePath) -> tuple[PurePath, ...]:
        names = (inputs.same_name if job.dtype == "same" else inputs.as_tiff)(relative)
        if place is not None:  # as `evaluate --average` reads them
            names += tuple(place / str(k + 1) / names[0] for k in range(job.samples))
        return (*names, inputs.preview_name(relative)) if job.preview else names

    place = None
    if job.keep_samples:
        place = inputs.side_folder("keep_samples", job.keep_samples, files.inputs)
    known = catalog.methods("denoise")
    if job.guide is not None and job.guide not in known and not Path(job.guide).is_dir():
        raise UsageError(f"`guide` {job.guide}: is not a folder, nor one of {', '.join(known)}")
    resolved = inputs.resolve(files, naming)
    if job.guide is None or job.guide in known:
        return resolved
    names = [PurePath(pair.name) for pair in resolved.pairs]
    guides = inputs.match_names(names, inputs.walk(Path(job.guide), None))
    guided = [
        replace(pair, guide=Path(job.guide) / guides.get(name, name))
        for pair, name in zip(resolved.pairs, names, strict=True)
    ]
    return replace(resolved, pairs=guided)


def work(job: DenoiseJob) -> Planes:
    """What the job does with each image. Raises UsageError, WeightsError."""
    first = None
    if job.guide in catalog.methods("denoise"):  # it makes the guide, as by a command of its own
        alone = replace(job, guide=None, method=job.guide, dtype="float32", weights=None)
        alone = replace(alone, preset="restorectl", settings={}, samples=1, steps=None)
        first = work(replace(alone, start_step=None, preview=False, keep_samples=None))
        job = replace(job, training=OwnTraining())
    method, settings = _settings(job)
    if job.start_step is not None and method.has("start"):
        settings, job = replace(settings, start=job.start_step), replace(job, start_step=None)
    own: dict[str, Any] = {"method": job.method, "settings": asdict(settings)}
    own["guide"] = bool(job.guide) if first is None else dict(first.own)
    level, trained, network = "auto" if method.maps else "image", None, None
    if method.recipe and job.weights is None:
        trained = fitting.make(job, method.recipe)
        if job.training.fit_on == "folder":
            trained.together = found(job, replace(job.files, shard=(1, 1))).pairs
        network, own["training"] = fitting.untrained(trained.recipe), trained.parameters()
    restorer = load_restorer(job, method, settings, level, job.orientations, network=network)
    if job.keep_samples is not None:
        restorer = replace(restorer, reduction=each_and_mean(job.samples))
    extras = (preview.writer(preview.RESTORED),) if job.preview else ()
    return Planes("denoise", restorer, own, extras, first, trained)


def _settings(job: DenoiseJob) -> tuple[Method, Any]:
    """The method, and the preset's settings with the job's own.

    Raises UsageError for a value that has no effect with the method.
    """
    method: Method = catalog.METHODS[job.method].load()
    settings = method.settings(job.preset, job.method, **job.settings)
    known = catalog.methods("denoise")
    trains = (bool(method.recipe) and job.weights is None) or job.guide in known
    rules = (
        (job.start_step is None or method.task == "prior", f"`start_step` {job.start_step}"),
        (job.steps is None or method.stepwise, f"`steps` {job.steps}"),
        (job.samples <= 1 or method.stepwise, f"`samples` {job.samples}"),
        (job.guide is None or method.guided, f"`guide` {job.guide}"),
        (trains or job.training == OwnTraining(), "training on the images themselves"),
        (job.keep_samples is None or method.stepwise, f"`keep_samples` {job.keep_samples}"),
    )
    for good, what in rules:
        if not good:
            raise UsageError(f"{what} has no effect with `method` {job.method}: leave it out")
    if job.samples < 1:
        raise UsageError(f"`samples` {job.samples}: must be at least 1")
    if method.task == "direct" and not method.recipe and job.weights is None:
        raise UsageError(
            f"`method` {job.method} needs `weights`: train them by the recipe care, for example"
        )
    return method, settings
