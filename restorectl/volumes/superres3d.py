"""`superres3d`: make anisotropic stacks isotropic, with models trained on 2D images only."""

from pathlib import PurePath
from typing import Any

from restorectl import catalog
from restorectl.batch import inputs
from restorectl.batch.cluster import Made
from restorectl.batch.outcome import Outcome, Report
from restorectl.batch.plan import Origin
from restorectl.batch.run import run
from restorectl.engine.runner import make_runner
from restorectl.engine.slices import PRESETS, along_schedule, is_drawn
from restorectl.errors import UsageError
from restorectl.jobs import SuperresJob
from restorectl.volumes import interpolation
from restorectl.volumes.directions import SliceNetwork
from restorectl.volumes.rows import Rows
from restorectl.volumes.volume import Volumes
from restorectl.weights import file
from restorectl.weights.file import Weights

PIXEL_STEPS = 50  # for networks that generate pixels from noise; MSDSR's code takes 200


def superres3d(job: SuperresJob, report: Report) -> list[Outcome]:
    """Restore all stacks of the job. Raises for errors that stop the run, reports the others."""
    _check(job)

    def naming(relative: PurePath) -> tuple[PurePath, ...]:
        (name,) = inputs.as_tiff(relative)
        return (name, inputs.preview_name(relative)) if job.preview else (name,)

    found = inputs.resolve(job.files, naming)
    return run(job.files, work(job), found, report, Made(work, job))


def work(job: SuperresJob) -> Volumes:
    """What the job does with each stack. Raises UsageError, WeightsError."""
    _check(job)
    network, used = None, {}
    if job.method == "diffusion":
        weights = file.load(job.weights, "slices", job.weights_from)
        if job.rows and weights.card.objective == "e2e-unet":
            raise UsageError("`rows`: e2e-unet makes planes: use other weights")
        network = _network(job, weights)
        used = {"slices": (weights.card.name, weights.sha256)}
    kind = Rows if job.rows else Volumes
    return kind(Origin("superres3d", _parameters(job, network), used), job, network)


def _check(job: SuperresJob) -> None:
    """Raises UsageError for invalid values."""
    highest = interpolation.FACTORS[1]
    rules = (
        (job.factor is None or 1 <= job.factor <= highest, f"`factor` {job.factor}",
         f"use auto or a number from 1 to {highest}"),
        (job.steps is None or job.steps >= 1, f"`steps` {job.steps}", "must be at least 1"),
        (job.samples >= 1, f"`samples` {job.samples}", "must be at least 1"),
        (job.preset in ("restorectl", *PRESETS), f"`preset` {job.preset}",
         f"use restorectl, {' or '.join(PRESETS)}"),
        (job.preset == "restorectl" or job.sampler == "ddim", f"`preset` {job.preset}",
         "has its own sampler: leave out `sampler`"),
        (job.strength is None or 0 <= job.strength <= 1, f"`strength` {job.strength}",
         "use auto or a number from 0 to 1"),
        (job.spacing is None or min(s or 0.0 for s in job.spacing) > 0, "`spacing`",
         "three numbers above 0"),
        (not job.rows or job.sweeps != "yz", "`sweeps` yz", "has no effect with `rows`"),
        (not job.rows or not job.preview, "`preview`", "shows stacks: leave it out with `rows`"),
        (not job.rows or not job.smooth, "`smooth`", "is for stacks: leave it out with `rows`"),
        (job.keep_observed or job.smooth, "`no_keep_observed`",
         "changes nothing without `smooth`, as recorded planes are exact: add it, or leave it out"),
    )  # fmt: skip
    for good, what, wanted in rules:
        if not good:
            raise UsageError(f"{what}: {wanted}")


def _network(job: SuperresJob, weights: Weights) -> SliceNetwork:
    drawn, steps = is_drawn(weights.card), job.steps or PRESETS.get(job.preset)
    if job.preset == "restorectl":
        sampler = catalog.METHODS[job.sampler].load().sampler(None, job.samples)
    elif not drawn:
        raise UsageError(
            f"`preset` {job.preset}: is for weights that make pixels from noise, as the recipe"
            f" msdsr-paper trains them, not for '{weights.card.name}'"
        )
    else:
        sampler = along_schedule(weights.card.schedule or "cosine", PRESETS[job.preset])
    return SliceNetwork(
        make_runner(weights.card, weights.tensors, job.compute),
        weights.card,
        sampler,
        catalog.SLICE_NOISE[job.slice_noise].load(),
        job.compute.seed,
        steps or (PIXEL_STEPS if drawn else None),
        job.samples,
    )


def _parameters(job: SuperresJob, network: SliceNetwork | None) -> dict[str, Any]:
    """All parameters that can change a pixel."""
    every = {
        "method": job.method,
        "factor": job.factor,
        "spacing": job.spacing,
        "keep_observed": job.keep_observed,
        "smooth": job.smooth,
        "preview": job.preview,
        "axes": job.files.axes,
        "invalid": job.invalid,
        "hot_pixels": job.hot_pixels,
        "dtype": job.dtype,
        "seed": job.compute.seed,
    }
    if job.files.series is not None:
        every["series"] = job.files.series
    if job.rows:
        every["rows"] = True
    if job.files.pyramid:
        every["pyramid"] = True
    if network is None:
        return every
    if job.compute.compile:
        every["compile"] = True
    return every | {
        "sweeps": job.sweeps,
        "anchor": job.anchor,
        "strength": job.strength,
        "preset": job.preset,
        "sampler": job.sampler,
        "steps": network.steps,
        "samples": job.samples,
        "slice_noise": job.slice_noise,
        "channels": job.files.channels,
        "precision": str(network.runner.dtype).removeprefix("torch."),
        "device": network.runner.device.type,
    }
