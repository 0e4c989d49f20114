"""`restore`: denoise every plane from its own noise level with the diffusion prior."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from restorectl import catalog
from restorectl.core.jobs import RestoreJob
from restorectl.core.provenance import record
from restorectl.engine.denoiser import build
from restorectl.engine.noise import NoiseField, Site
from restorectl.engine.runner import Runner, pick_device, pick_precision
from restorectl.engine.samplers import Problem
from restorectl.errors import UsageError, WeightsError
from restorectl.io import weights as weights_io
from restorectl.tasks import inputs, pipeline
from restorectl.tasks.outcome import Outcome, Report


@dataclass(frozen=True)
class Restoration:
    """The Method of `restore`: one sampler, from the level of the intensity model."""

    runner: Runner
    sampler: Callable[[Problem], Any]
    steps: int | None
    strength: float
    seed: int
    sigma_max: float

    @property
    def stride(self) -> int:
        return self.runner.denoiser().stride

    def calls(self) -> int:
        return self.runner.calls

    def __call__(self, batch: pipeline.Batch) -> np.ndarray:
        sigma = np.minimum(batch.sigma * np.float32(self.strength), np.float32(self.sigma_max))
        if sigma.max() <= 0:
            return batch.inverse(batch.x[:, 0])
        sites = [Site(plane, top, left) for plane, top, left in batch.sites]
        x0 = self.runner.sample(
            self.sampler, batch.x, sigma, sites, NoiseField(self.seed), self.steps
        )
        return batch.inverse(x0[:, 0])


def run(job: RestoreJob, report: Report) -> list[Outcome]:
    """Restore all images of the job. Raises for what stops every file, reports the rest."""
    pairs, missing = inputs.resolve(job.files)
    if job.steps is not None and job.steps < 1:
        raise UsageError(f"--steps {job.steps}: must be at least 1")
    if job.sampler not in catalog.SAMPLERS:
        raise UsageError(f"--sampler {job.sampler}: choose one of {', '.join(catalog.SAMPLERS)}")
    weights = weights_io.load(job.weights)
    if weights.card.task != "prior" or weights.card.channels != 1:
        raise WeightsError(
            f"weights '{job.weights}' are for {weights.card.task} with {weights.card.channels}"
            " channels; restore needs a one-channel prior"
        )
    device = pick_device(job.compute.device)
    dtype = pick_precision(job.compute.precision, device)
    method = Restoration(
        Runner(lambda: build(weights.card, dict(weights.tensors)), device, dtype),
        catalog.SAMPLERS[job.sampler].load(),
        job.steps,
        job.strength,
        job.compute.seed,
        weights.card.sigma_max,
    )
    parameters = {
        "sampler": job.sampler,
        "steps": job.steps,
        "strength": job.strength,
        "noise": asdict(job.noise),
        "seed": job.compute.seed,
        "precision": str(dtype).removeprefix("torch."),
        "device": device.type,
        "axes": job.files.axes,
        "channels": job.files.channels,
    }

    def provenance(input_sha256: str) -> dict[str, Any]:
        return record(
            command="restore",
            parameters=parameters,
            weights=weights.card.name,
            weights_sha256=weights.sha256,
            input_sha256=input_sha256,
        )

    summary = {
        "command": "restore",
        "parameters": parameters,
        "weights": {"name": weights.card.name, "sha256": weights.sha256},
    }
    run = pipeline.Run(job.files, job.compute, job.noise, method, summary, provenance)
    return pipeline.run(run, pairs, missing, report)
