"""Restoring windows by a sampler, once or many times: what `restore`, `denoise` and `uncertainty`
have in common, and how their models are put together.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from restorectl import catalog
from restorectl.engine.calibrators import by_window
from restorectl.engine.card import Card
from restorectl.engine.denoiser import build
from restorectl.engine.noise_field import NoiseField, Site
from restorectl.engine.runner import Runner, pick_device, pick_precision
from restorectl.engine.samplers import Calibrator, Problem, Sampler
from restorectl.errors import UsageError
from restorectl.files.provenance import record
from restorectl.intensity.photometry import keep_local_mean
from restorectl.jobs import Compute, Files, NoiseOptions, WeightsOptions
from restorectl.restoration import level_map
from restorectl.restoration.channels import Batch
from restorectl.weights import file
from restorectl.weights.file import Weights

Shared = dict[str, Any]
Samples = Iterator[np.ndarray]  # (B, C, H, W) float32 in input units, one restoration after another


@dataclass(frozen=True)
class Reduction:
    """What becomes of the samples of a batch of windows."""

    products: int
    combine: Callable[[Samples, Batch, Shared], np.ndarray]  # -> (B, products, C, H, W) float32


def _mean(samples: Samples, batch: Batch, shared: Shared) -> np.ndarray:
    """Their mean in input units, where averaging is unbiased, with the measured local mean."""
    total, count = np.zeros_like(batch.measured), 0
    for sample in samples:
        total += sample
        count += 1
    return keep_local_mean(batch.measured, total / np.float32(count))[:, None]


MEAN = Reduction(1, _mean)


@dataclass(frozen=True)
class Restoration:
    """The Method of these commands: one sampler, from the level that a calibrator finds."""

    runner: Runner
    sampler: Sampler
    calibrator: Callable[[Problem], Calibrator]
    card: Card
    seed: int = 0
    steps: int | None = None
    strength: float = 1.0
    samples: int = 1
    reduction: Reduction = MEAN
    gauge: Callable[[np.ndarray], float] | None = None  # of windows, where the level may vary

    @property
    def products(self) -> int:
        return self.reduction.products

    @property
    def calls_per_window(self) -> int | None:
        each = self.sampler.calls(self.steps)
        return None if each is None else each * self.samples

    @property
    def sigma_max(self) -> float:
        return self.card.sigma_max

    @property
    def stride(self) -> int:
        return self.runner.denoiser().stride

    def calls(self) -> int:
        return self.runner.calls

    def prepare(self, pilot: Batch) -> Shared:
        if pilot.sigma.max() <= 0 or self.strength == 0:
            return {"sigma": 0.0}
        shared: Shared = {}

        def run(problem: Problem) -> Any:
            levels = self.calibrator(problem)
            scaled = lambda x: levels(x) * self.strength  # noqa: E731
            shared.update(self.sampler.prepare(problem, scaled))
            return problem.x

        self._sample(run, pilot, pilot.sigma, 0)
        return shared

    def __call__(self, batch: Batch, shared: Shared) -> np.ndarray:
        return self.reduction.combine(self._samples(batch, shared), batch, shared)

    def _samples(self, batch: Batch, shared: Shared) -> Samples:
        for k in range(self.samples):
            x0 = self._restored(batch, shared, k)
            yield np.stack([batch.inverse(x) for x in x0])

    def _restored(self, batch: Batch, shared: Shared, sample: int) -> np.ndarray:
        """x0 (B, C_net, H, W)."""
        if shared["sigma"] <= 0:
            return batch.x
        if "log_levels" not in shared:
            return self._at(batch, shared, 1.0, sample)
        size = batch.x.shape[2:]
        maps = [level_map.at(shared, top, left, size) for _, top, left in batch.sites]
        x0 = np.zeros_like(batch.x)
        for factor, weights in level_map.ladder(maps):
            x0 += np.stack(weights)[:, None] * self._at(batch, shared, factor, sample)
        return x0

    def _at(self, batch: Batch, shared: Shared, factor: float, sample: int) -> np.ndarray:
        """x0 (B, C_net, H, W) from `factor` times the shared level."""
        level = min(shared["sigma"] * factor, self.sigma_max)
        sigma = np.full(len(batch.x), level, np.float32)
        return self._sample(lambda problem: self.sampler.run(problem, shared), batch, sigma, sample)

    def _sample(
        self, run: Callable[[Problem], Any], batch: Batch, sigma: np.ndarray, sample: int
    ) -> np.ndarray:
        sites = [Site(plane, top, left) for plane, top, left in batch.sites]
        return self.runner.sample(
            lambda problem: run(replace(problem, steps=self.steps, joined=self.card.fusion)),
            batch.x,
            sigma,
            sites,
            NoiseField(self.seed, sample),
            batch.guide,
        )


@dataclass(frozen=True)
class Setup:
    """What the commands of this kind are told alike."""

    command: str
    files: Files
    compute: Compute
    noise: NoiseOptions
    weights: str
    sampler: Sampler
    task: str = "prior"  # what the weights must be for
    steps: int | None = None
    strength: float = 1.0
    samples: int = 1
    calibrator: str = "analytic"  # row of catalog.CALIBRATORS
    calibrator_weights: str = "calibrator"
    level: str = "image"
    own: Mapping[str, Any] = field(default_factory=dict)  # further parameters that change pixels
    weights_from: WeightsOptions = field(default_factory=WeightsOptions)


@dataclass(frozen=True)
class Assembled:
    """A method that is ready, and how its outputs are described."""

    setup: Setup
    method: Restoration
    measure: Callable[[np.ndarray], float]  # the calibrator's level of one window
    used: Mapping[str, Weights]  # by role

    @property
    def weights_sha256(self) -> str:
        return " + ".join(w.sha256 for w in self.used.values())

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything that can change a pixel."""
        setup, runner = self.setup, self.method.runner
        return {
            **setup.own,
            "steps": setup.steps,
            "strength": setup.strength,
            "samples": setup.samples,
            "calibrator": setup.calibrator,
            "level": setup.level,
            "noise": asdict(setup.noise),
            "seed": setup.compute.seed,
            "precision": str(runner.dtype).removeprefix("torch."),
            "device": runner.device.type,
            "axes": setup.files.axes,
            "channels": setup.files.channels,
        }

    @property
    def summary(self) -> dict[str, Any]:
        """What heads the manifest."""
        used = {role: {"name": w.card.name, "sha256": w.sha256} for role, w in self.used.items()}
        return {
            "command": self.setup.command,
            "parameters": self.parameters,
            "weights": used,
            "device": str(self.method.runner.device),
        }

    def record(self, input_sha256: str | Mapping[str, str]) -> dict[str, Any]:
        """The provenance of an output."""
        return record(
            command=self.setup.command,
            parameters=self.parameters,
            weights=" + ".join(w.card.name for w in self.used.values()),
            weights_sha256=self.weights_sha256,
            input_sha256=input_sha256,
        )


def assemble(setup: Setup) -> Assembled:
    """Load the models. Raises UsageError and WeightsError, before any image is opened."""
    if setup.steps is not None and setup.steps < 1:
        raise UsageError(f"--steps {setup.steps}: must be at least 1")
    weights = file.load_for(setup.weights, setup.task, setup.weights_from)
    device = pick_device(setup.compute.device)
    dtype = pick_precision(setup.compute.precision, device)
    used = {setup.task: weights}

    def calibrator_weights() -> tuple[Card, Mapping[str, Any]]:
        found = file.load_for(setup.calibrator_weights, "calibrator", setup.weights_from)
        used["calibrator"] = found
        return found.card, found.tensors

    calibrator = catalog.CALIBRATORS[setup.calibrator].load()(calibrator_weights, device)
    measure = by_window(calibrator)
    method = Restoration(
        Runner(lambda: build(weights.card, dict(weights.tensors)), device, dtype),
        setup.sampler,
        calibrator,
        weights.card,
        setup.compute.seed,
        setup.steps,
        setup.strength,
        setup.samples,
        gauge=measure if setup.level == "map" else None,
    )
    return Assembled(setup, method, measure, used)
