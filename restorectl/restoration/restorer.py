"""A diffusion method with loaded weights that restores tiles, once or several times.

Shared by `restore`, `denoise` and `uncertainty`: a sampler goes from the noise level that a
calibrator finds to a clean image; several samples are reduced to one or more products.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from restorectl import catalog
from restorectl.engine.calibrators import FixedStep
from restorectl.engine.card import Card
from restorectl.engine.noise_field import NoiseField, Site
from restorectl.engine.orientations import ALL, run_turned
from restorectl.engine.runner import Runner, make_runner, pick_device
from restorectl.engine.samplers import (
    DDIM,
    Answers,
    Calibrator,
    Decided,
    Method,
    Problem,
    Sampler,
    first_shared,
)
from restorectl.errors import UsageError
from restorectl.images import tiles
from restorectl.images.header import Header, Plane
from restorectl.intensity.camera import Camera
from restorectl.intensity.photometry import keep_local_mean
from restorectl.jobs import SamplingJob, WeightsOptions
from restorectl.restoration import camera as cameras
from restorectl.restoration import level_map
from restorectl.weights.file import Weights, load

UNLIKELY = 8.0  # standard deviations of the noise
SCHEDULE = "rscd"  # schedule of the steps that are shown or given, unless another is named
Samples = Iterator[np.ndarray]  # each restoration (B, C, H, W) float32 in input units


@dataclass(frozen=True)
class Batch:
    """Tiles of one channel group in network units, with the conversion back."""

    x: np.ndarray  # (B, C_net, H, W) float32, about [-1, 1]
    sigma: np.ndarray  # (B,) float32, the model's noise level in the units of x
    sites: list[tuple[Plane, int, int]]  # first plane, row and column of each tile
    inverse: Callable[[np.ndarray], np.ndarray]  # (C_net, Y, X) -> (C, Y, X) in input units
    measured: np.ndarray  # (B, C, H, W) float32, the tiles in input units
    noise_std: Callable[[np.ndarray], np.ndarray]  # clean (C, Y, X) -> its noise, input units
    scale: np.ndarray  # (2, C) float32, input values that map to 0 and 255 in 8 bit
    light: np.ndarray  # (2, C, 1, 1) float32: input value without light, input units of a photon
    guide: np.ndarray | None = None  # (B, C_net, H, W) float32, another method's result
    floor: float | None = None  # the smallest value of the output; see `keep_local_mean`
    valid: np.ndarray | None = None  # (B, C, H, W) bool, measured pixels; None = all
    relative: np.ndarray | None = None  # (B, 1, H, W) float32, noise level of each pixel / image's
    same_scale: bool = True  # whether results are on the scale of the input

    def scaled(self, gain: np.ndarray) -> "Batch":
        """The batch with results `gain` (C,) times as large."""
        factor = gain.astype(np.float32)[:, None, None]
        return replace(
            self,
            inverse=lambda x: self.inverse(x) * factor,
            measured=self.measured * factor,
            noise_std=lambda clean: self.noise_std(clean / factor) * factor,
            scale=self.scale * factor[:, 0, 0],
            floor=None,
            same_scale=False,
        )

    def trusted(self, restored: np.ndarray) -> np.ndarray:
        """The measured pixels that noise can explain, unlike cosmic rays: (B, C, H, W) bool.

        The noise is that of the brighter of measured and restored value: of a single photon in the
        dark, too, that is as large as the photon.
        """
        brighter = np.maximum(self.measured, restored)
        limit = UNLIKELY * np.stack([self.noise_std(each) for each in brighter])
        likely = (np.abs(self.measured - restored) <= limit) | (limit <= 0)
        return np.asarray(likely if self.valid is None else likely & self.valid)


@dataclass(frozen=True)
class Reduction:
    """How the samples of a batch of tiles are combined into products: images, then maps."""

    products: int
    combine: Callable[[Samples, Batch], np.ndarray]  # -> (B, products, C, H, W) float32
    widths: tuple[int, ...] = ()  # products that are differences of values, not values
    images: int = 1  # products that are restored images


def _mean(samples: Samples, batch: Batch) -> np.ndarray:
    """Mean of the samples in input units (unbiased), with the local mean of the input."""
    total, count = np.zeros_like(batch.measured), 0
    for sample in samples:
        total += sample
        count += 1
    return _unbiased(total / np.float32(count), batch)[:, None]


def _unbiased(restored: np.ndarray, batch: Batch) -> np.ndarray:
    """(B, C, H, W) with the local mean of the input, if results are on its scale."""
    if not batch.same_scale:
        return restored
    return keep_local_mean(batch.measured, restored, batch.floor, batch.trusted(restored))


MEAN = Reduction(1, _mean)


def each_and_mean(count: int) -> Reduction:
    """The mean of so many samples, and every sample."""

    def combine(samples: Samples, batch: Batch) -> np.ndarray:
        found = list(samples)
        # those in several orientations are one sample
        together = len(found) // count
        each = [np.mean(found[k : k + together], 0) for k in range(0, len(found), together)]
        kept = [_unbiased(sample, batch) for sample in each]
        return np.stack([_mean(iter(found), batch)[:, 0], *kept], 1)

    return Reduction(1 + count, combine, images=1 + count)


PILOT = DDIM.sampler(None, 1)


@dataclass(frozen=True)
class Restorer:
    """One sampler with one network, starting at the noise level that a calibrator finds."""

    job: SamplingJob
    card: Card
    runner: Runner
    sampler: Sampler
    calibrator: Calibrator
    used: Mapping[str, Weights]  # by role
    level: str = "image"  # image: one level; map: a smooth map where the noise varies
    orientations: int = 1  # in which each sample is restored, 1 or 8; all of them are reduced
    context: str = "none"  # neighbours that help: none, auto, z, t, zt
    camera: Camera | None = None  # whose maps make pixels even
    reduction: Reduction = MEAN

    @property
    def calls_per_tile(self) -> int | None:
        """Network calls per tile; None = depends on the image."""
        each, samples = self.sampler.calls(self.job.steps), self.job.samples
        if each is None:
            return None
        shared = samples - 1 if self.sampler.alike else 0
        return (each * samples - shared) * self.orientations

    def grid(
        self, shape: tuple[int, int], core: int = tiles.CORE, halo: int = tiles.HALO
    ) -> tuple[tiles.Tile, ...]:
        """The tiles of a plane (Y, X), in sizes that fit the network."""
        stride = self.runner.denoiser().stride
        return tiles.tile_grid(shape, stride, core, halo, self.card.window)

    def dtype(self, header: Header) -> np.dtype[Any]:
        """Of the restored image: what the job asks for, else the weights, else the input's."""
        if self.job.dtype == "same":
            return np.dtype(self.card.output.dtype or header.dtype)
        return np.dtype(self.job.dtype)

    def gain(self, channels: Sequence[int]) -> np.ndarray | None:
        """By how much the results of channels (C,) are larger than the input; None = on its scale.

        Groups of channels that are restored together lie side by side.
        """
        known = self.card.output.gain
        return np.array([known[c % len(known)] for c in channels]) if known else None

    def converted(self, values: np.ndarray, channel: int) -> np.ndarray:
        """Input values in the units of the results."""
        scale = self.card.output
        if not scale.gain:
            return values
        k = channel % len(scale.gain)
        return np.asarray(values.astype(np.float64) * scale.gain[k] + scale.offset[k])

    def dtypes(self, header: Header) -> list[np.dtype[Any]]:
        """Of the restored image and of the maps: float64 where float32 cannot hold the values."""
        exact = np.float32 if np.can_cast(header.dtype, np.float32) else np.float64
        widths = self.reduction.widths
        first = self.reduction.images
        maps = [np.float32 if k in widths else exact for k in range(first, self.reduction.products)]
        return [self.dtype(header)] * first + [np.dtype(each) for each in maps]

    @property
    def weights_sha256(self) -> str:
        return " + ".join(w.sha256 for w in self.used.values())

    def decide(self, pilot: Batch) -> Decided:
        """Decide on sampled tiles what all tiles of a channel group share, such as `sigma`."""
        if pilot.sigma.max() <= 0 or self.job.strength == 0:
            return {"sigma": 0.0}
        problem = self._problem(pilot, pilot.sigma, 0)
        return self.runner.decide(self.sampler, problem, self.calibrator)

    def restore(self, batch: Batch, decided: Decided) -> np.ndarray:
        """Restore tiles: (B, products, C, H, W) float32 in input units."""
        known: Answers | None = [] if self.sampler.alike else None
        samples = (
            np.stack([batch.inverse(x) for x in self._x0(batch, decided, k, orientation, known)])
            for k in range(self.job.samples)
            for orientation in range(self.orientations)
        )
        return self.reduction.combine(samples, batch)

    def _x0(
        self, batch: Batch, decided: Decided, sample: int, orientation: int, known: Answers | None
    ) -> np.ndarray:
        """One restoration (B, C_net, H, W); with a level map, blended from several levels."""
        if decided["sigma"] <= 0:
            return batch.x
        if batch.relative is not None or "log_levels" not in decided:
            return self._at(1.0, batch, decided, sample, orientation, known)
        size = (batch.x.shape[2], batch.x.shape[3])
        maps = [level_map.at(decided, top, left, size) for _, top, left in batch.sites]
        x0 = np.zeros_like(batch.x)
        for factor, weights in level_map.ladder(maps):
            restored = self._at(factor, batch, decided, sample, orientation, known)
            x0 += np.stack(weights)[:, None] * restored
        return x0

    def _at(
        self,
        factor: float,
        batch: Batch,
        decided: Decided,
        sample: int,
        orientation: int,
        known: Answers | None,
    ) -> np.ndarray:
        """x0 (B, C_net, H, W), starting at `factor` times the image's noise level.

        known: first answers of the network, which samples share; None = they do not.
        """
        level = min(decided["sigma"] * factor, self.card.sigma_max)
        sigma = np.full(len(batch.x), level, np.float32)
        problem = self._problem(batch, sigma, sample)
        if known is not None:
            problem = replace(problem, denoise=first_shared(problem.denoise, known))
        return self.runner.sample(
            lambda part: run_turned(self.sampler, part, decided, orientation), problem
        )

    def pilot(self, x: np.ndarray, sigma: float, relative: np.ndarray | None) -> np.ndarray:
        """Tiles (B, H, W) restored in one call; relative: of the pixels' levels to sigma."""
        problem = self.runner.problem(
            x[:, None],
            np.full(len(x), min(sigma, self.card.sigma_max), np.float32),
            [],
            NoiseField(self.job.compute.seed),
            relative=None if relative is None else relative[:, None],
            steps=1,
        )
        return self.runner.sample(lambda part: PILOT.run(part, {}), problem)[:, 0]

    def _problem(self, batch: Batch, sigma: np.ndarray, sample: int) -> Problem:
        return self.runner.problem(
            batch.x,
            sigma,
            [Site(plane, top, left) for plane, top, left in batch.sites],
            NoiseField(self.job.compute.seed, sample),
            batch.guide,
            batch.relative,
            steps=self.job.steps,
            strength=self.job.strength,
            calibrator=self.calibrator,
            highest=self.card.sigma_max,
            joined=self.card.fusion,
        )


def load_restorer(
    job: SamplingJob,
    method: Method,
    settings: Any,
    level: str = "image",
    orientations: int = 1,
    schedule: str = SCHEDULE,
    network: Weights | None = None,
) -> Restorer:
    """Load the models of a job; `schedule` is that of its `start_step`.

    network: not to be loaded, since the method trains it. Raises UsageError, WeightsError.
    """
    if job.steps is not None and job.steps < 1:
        raise UsageError(f"`steps` {job.steps}: must be at least 1")
    camera = cameras.load(job.noise)
    job = replace(job, noise=cameras.known(job.noise, camera))
    if orientations not in (1, ALL):
        raise UsageError(f"`orientations` {orientations}: must be 1 or {ALL}")
    if job.calibrator_weights is not None and not catalog.CALIBRATORS[job.calibrator].task:
        raise UsageError(
            f"`calibrator_weights` {job.calibrator_weights} has no effect with `calibrator`"
            f" {job.calibrator}: use `calibrator` network, or leave it out"
        )
    weights = network or load(job.weights or method.task, method.task, job.weights_from)
    method.check(settings, weights.card.sigma_max)
    runner = make_runner(weights.card, weights.tensors, job.compute)
    if job.start_step is None:
        calibrator, used = load_calibrator(
            job.calibrator,
            job.calibrator_weights or "calibrator",
            job.weights_from,
            job.compute.device,
        )
        for found in used.values():
            check_units(found.card, weights.card)
    else:
        default = SamplingJob(job.files)
        options = ("strength", "calibrator", "calibrator_weights")
        given = [name for name in options if getattr(job, name) != getattr(default, name)]
        refuse_beside_start_step({name: getattr(job, name) for name in given})
        calibrator, used = FixedStep(job.start_step, schedule, weights.card.sigma_max), {}
        level = "image"
    return Restorer(
        job,
        weights.card,
        runner,
        method.sampler(settings, job.samples),
        calibrator,
        ({method.task: weights} if network is None else {}) | used,
        level,
        orientations,
        _context(job, method, weights.card, runner),
        camera,
    )


def refuse_beside_start_step(values: Mapping[str, Any]) -> None:
    """Raises UsageError for the first value that is not None: such a job measures nothing."""
    for name, value in values.items():
        if value is not None:
            raise UsageError(
                f"`{name}` {value} has no effect with `start_step`, which measures nothing: leave"
                " one of them out"
            )


def check_units(calibrator: Card, card: Card) -> None:
    """Raises UsageError for a calibrator that cannot judge what a network sees.

    A level relative to the image (log-sigma) holds in any value range, a step does not.
    """
    counts = calibrator.config.get("output") == "step"
    for name in ("channels", "value_range"):
        own, other = getattr(calibrator, name), getattr(card, name)
        if own != other and (own > 1 if name == "channels" else counts):
            raise UsageError(
                f"`calibrator_weights` {calibrator.name}: has {name} {own}, these weights"
                f" {other}: use a calibrator that was trained for them"
            )


def _context(job: SamplingJob, method: Method, card: Card, runner: Runner) -> str:
    """The job's context; `auto` is `none` where the method or the network cannot use neighbours."""
    if job.reach < 1:
        raise UsageError(f"`reach` {job.reach}: must be at least 1")
    one = card.value_range == "whitened" and card.channels == 1 and not card.window
    known = job.start_step is not None  # not the level of the noise that is left by averaging
    if one and not known and method.relative and runner.denoiser().everywhere:
        return job.context
    if job.context not in ("auto", "none"):
        raise UsageError(
            f"`context` {job.context}: this method, or these weights, cannot use neighbours: leave"
            " it out, or use those that `restorectl restore` takes by itself"
        )
    return "none"


def load_calibrator(
    name: str, weights: str, options: WeightsOptions, device: str
) -> tuple[Calibrator, dict[str, Weights]]:
    """A row of catalog.CALIBRATORS and its weights, by role. Raises UsageError, WeightsError."""
    row, where = catalog.CALIBRATORS[name], pick_device(device)
    if not row.task:
        return row.load()(), {}
    found = load(weights, row.task, options)
    return row.load()(found.card, found.tensors, where), {row.task: found}
