"""`restore`: denoise every plane from its own noise level with the diffusion prior."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from restorectl import catalog
from restorectl.core import level_map
from restorectl.core.card import Card
from restorectl.core.jobs import RestoreJob
from restorectl.core.provenance import record
from restorectl.engine import rscd
from restorectl.engine.calibration import by_window
from restorectl.engine.denoiser import build
from restorectl.engine.noise import NoiseField, Site
from restorectl.engine.runner import Runner, pick_device, pick_precision
from restorectl.engine.samplers import Calibrator, Problem, Sampler, Settings
from restorectl.errors import UsageError
from restorectl.tasks import inputs, models, pipeline, step_map
from restorectl.tasks.method import Batch
from restorectl.tasks.outcome import Outcome, Report


@dataclass(frozen=True)
class Restoration:
    """The Method of `restore`: one sampler, from the level that a calibrator finds."""

    runner: Runner
    sampler: Sampler
    settings: Settings
    calibrator: Callable[[Problem], Calibrator]
    steps: int | None
    strength: float
    field: NoiseField
    card: Card
    gauge: Callable[[np.ndarray], float] | None  # of single windows, where the level may vary

    @property
    def sigma_max(self) -> float:
        return self.card.sigma_max

    @property
    def stride(self) -> int:
        return self.runner.denoiser().stride

    def calls(self) -> int:
        return self.runner.calls

    def prepare(self, pilot: Batch) -> dict[str, Any]:
        if pilot.sigma.max() <= 0 or self.strength == 0:
            return {"sigma": 0.0}
        shared: dict[str, Any] = {}

        def run(problem: Problem) -> Any:
            levels = self.calibrator(problem)
            scaled = lambda x: levels(x) * self.strength  # noqa: E731
            shared.update(self.sampler.prepare(problem, scaled))
            return problem.x

        self._sample(run, pilot, pilot.sigma)
        return shared

    def __call__(self, batch: Batch, shared: dict[str, Any]) -> np.ndarray:
        if shared["sigma"] <= 0:
            return np.stack([batch.inverse(x) for x in batch.x])
        if "log_levels" not in shared:
            return np.stack([batch.inverse(x) for x in self._at(batch, shared, 1.0)])
        size = batch.x.shape[2:]
        maps = [level_map.at(shared, top, left, size) for _, top, left in batch.sites]
        x0 = np.zeros_like(batch.x)
        for factor, weights in level_map.ladder(maps):
            x0 += np.stack(weights)[:, None] * self._at(batch, shared, factor)
        return np.stack([batch.inverse(x) for x in x0])

    def _at(self, batch: Batch, shared: dict[str, Any], factor: float) -> np.ndarray:
        """x0 (B, C_net, H, W) from `factor` times the shared level."""
        level = min(shared["sigma"] * factor, self.sigma_max)
        sigma = np.full(len(batch.x), level, np.float32)
        return self._sample(lambda problem: self.sampler.run(problem, shared), batch, sigma)

    def _sample(self, run: Callable[[Problem], Any], batch: Batch, sigma: np.ndarray) -> np.ndarray:
        sites = [Site(plane, top, left) for plane, top, left in batch.sites]
        return self.runner.sample(
            lambda problem: run(replace(problem, steps=self.steps, settings=self.settings)),
            batch.x,
            sigma,
            sites,
            self.field,
        )


def run(job: RestoreJob, report: Report) -> list[Outcome]:
    """Restore all images of the job. Raises for what stops every file, reports the rest."""
    pairs, missing = inputs.resolve(job.files)
    if job.steps is not None and job.steps < 1:
        raise UsageError(f"--steps {job.steps}: must be at least 1")
    settings = _settings(job)
    weights = models.load(job.weights, "prior", job.weights_from)
    device = pick_device(job.compute.device)
    dtype = pick_precision(job.compute.precision, device)
    used = {"prior": weights}

    def calibrator_weights() -> tuple[Card, Mapping[str, Any]]:
        used["calibrator"] = models.load(job.calibrator_weights, "calibrator", job.weights_from)
        return used["calibrator"].card, used["calibrator"].tensors

    calibrator = catalog.CALIBRATORS[job.calibrator].load()(calibrator_weights, device)
    method = Restoration(
        Runner(lambda: build(weights.card, dict(weights.tensors)), device, dtype),
        catalog.SAMPLERS[job.sampler].load(),
        settings,
        calibrator,
        job.steps,
        job.strength,
        NoiseField(job.compute.seed),
        weights.card,
        by_window(calibrator) if job.level == "map" and job.sampler != "rscd" else None,
    )
    precision = str(dtype).removeprefix("torch.")
    parameters = _parameters(job, settings, precision, device.type)
    names = " + ".join(w.card.name for w in used.values())
    hashes = " + ".join(w.sha256 for w in used.values())

    def provenance(input_sha256: str) -> dict[str, Any]:
        return record(
            command="restore",
            parameters=parameters,
            weights=names,
            weights_sha256=hashes,
            input_sha256=input_sha256,
        )

    summary = {
        "command": "restore",
        "parameters": parameters,
        "weights": {role: {"name": w.card.name, "sha256": w.sha256} for role, w in used.items()},
    }
    gauge = step_map.Gauge(by_window(calibrator), settings.schedule)
    maps = step_map.into(job, gauge, pairs)
    plan = pipeline.Run(job.files, job.compute, job.noise, method, summary, provenance, maps)
    return pipeline.run(plan, pairs, missing, report)


def _settings(job: RestoreJob) -> Settings:
    settings = rscd.PRESETS[job.preset]
    if job.recalibrate is not None:
        settings = replace(settings, every=job.recalibrate)
    if job.schedule is not None:
        settings = replace(settings, schedule=job.schedule)
    return settings


def _parameters(job: RestoreJob, settings: Settings, precision: str, device: str) -> dict[str, Any]:
    """Everything that can change a pixel."""
    return {
        "sampler": job.sampler,
        "loop": asdict(settings) if job.sampler == "rscd" else None,
        "calibrator": job.calibrator,
        "level": job.level,
        "steps": job.steps,
        "strength": job.strength,
        "noise": asdict(job.noise),
        "seed": job.compute.seed,
        "precision": precision,
        "device": device,
        "axes": job.files.axes,
        "channels": job.files.channels,
    }
