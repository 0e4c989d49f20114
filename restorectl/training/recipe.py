"""Training recipes: YAML files with every parameter, read strictly into frozen dataclasses.

Unknown keys are errors: a misspelt key that silently disables a feature costs days. Overrides
`-s section.key=value` go through the same checks.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from restorectl.catalog import NETWORKS
from restorectl.errors import UsageError, did_you_mean
from restorectl.files import strict
from restorectl.intensity.value_range import RANGES

PACKAGED = Path(__file__).resolve().parent.parent / "recipes"
REPLACED = {  # old names of packaged recipes
    "calibrator-paper": "calibrator-resnet50",
    "slices-paper": "msdsr-paper",
    "prior-linear": "baikal; RSCD's ablation is rscd-paper with -s levels.schedule=linear",
}


@dataclass(frozen=True)
class NetworkChoice:
    """The network; an empty name means that of the initial weights."""

    name: str = ""  # row of catalog.NETWORKS
    config: Mapping[str, Any] = field(default_factory=dict)  # the network's own arguments


@dataclass(frozen=True)
class Levels:
    """Noise levels of the training images, standard deviations on clean images in [-1, 1].

    With a schedule: a step t, uniform in 1..max_step (RSCD, Algorithms 2 and 3); `conditional`
    takes any level between t and t - 1 (DDPM microscopy), limited to [min, max]. Without a
    schedule: log sigma is normal(mean, std), limited to [min, max].
    """

    schedule: str = ""  # row of engine.schedule.SCHEDULES
    max_step: int = 0  # T' of RSCD; 0 = all steps of the schedule
    mean: float = -1.6
    std: float = 1.2
    min: float = 0.002
    max: float = 3.0


@dataclass(frozen=True)
class Noise:
    """Noise that a calibrator learns to measure, and that `prior` without a schedule removes;
    `conditional` uses its correlation for Gaussian noise; the others use white noise."""

    target: Literal["low-frequency", "std"] = "low-frequency"
    correlated: float = 0.7  # share of samples whose noise is correlated between pixels
    mixed: float = 0.5  # share of these with additional white noise
    reach: tuple[float, ...] = (0.3, 1.2)  # px, extent of correlation kernels
    region: float = 0.5  # share of samples with a second level in or around a rectangle
    clip: float = 0.0  # share of samples with clipped dark pixels, as in a detector
    counts: float = 0.0  # `prior`: share of samples with counted photons
    photons: tuple[float, ...] = (0.5, 10.0)  # mean of these samples, log-uniform
    jitter: float = 0.0  # `prior`: std of the error of the log level that the network is told


@dataclass(frozen=True)
class Degradation:
    """How clean images without pairs are degraded; pairs use only `fusion` and `filter`."""

    # noise std, log-uniform; half the clean range is 1; empty = train on pairs only
    level: tuple[float, ...] = (0.02, 0.6)
    fusion: bool = False  # fuse input and state by their noise levels
    poisson: float = 0.5  # share with counted photons and read noise; the others Gaussian
    read: tuple[float, ...] = (0.0, 0.5, 2.0)  # photons rms, one is chosen
    blur: float = 0.0  # share blurred before the noise
    blur_sigma: tuple[float, ...] = (0.5, 2.0)  # px
    binning: float = 0.0  # share with coarser pixels, interpolated back after the noise
    factors: tuple[int, ...] = (2,)  # px per side, one is chosen
    filter: float = 0.0  # share whose input is smoothed after the noise (DDPM microscopy)
    filter_sigma: tuple[float, ...] = (0.5, 3.0)  # px


@dataclass(frozen=True)
class Slices:
    """Which rows `slices` and `ms-unet` hide, and what `slices` predicts."""

    # residual: of a base interpolation; pixels: as in MSDSR
    target: Literal["residual", "pixels"] = "residual"
    anchors: tuple[str, ...] = ("linear", "cubic")  # base interpolations, chosen at random
    factors: tuple[int, ...] = (2, 8)  # range of n: every n-th row is observed
    rows: tuple[int, ...] = ()  # range of the number of random rows; empty = by `factors`
    grids: float = 0.7  # share with evenly spaced rows, as at inference; others at random


@dataclass(frozen=True)
class Blind:
    """Which pixels `n2v` hides, and what it puts in their place."""

    share: float = 0.02  # of the pixels, one in each square cell
    replace: Literal["median", "random"] = "median"  # of neighbours: N2V2; one of them: N2V
    around: int = 5  # px, how far neighbours are
    # lines of pixels that share noise and are hidden too; auto: by the correlation of the noise
    mask: Literal["auto", "none", "rows", "columns", "cross"] = "auto"
    reach: int = 4  # px, of a line to both sides


@dataclass(frozen=True)
class Adversary:
    """Discriminators of `pix2pix` and `cyclegan`, and what restorations must keep to."""

    channels: int = 64  # of a discriminator's first layer
    loss: Literal["cross-entropy", "squares"] = "cross-entropy"
    # of the error to the pair (pix2pix), or to the image after a way there and back (cyclegan)
    weight: float = 100.0
    identity: float = 0.0  # cyclegan: of the change of clean images, relative to `weight`


@dataclass(frozen=True)
class CropOptions:
    """Crops of the training images, and their random variation."""

    crop: tuple[int, ...] = (64,)  # px; one is chosen for each micro-batch
    binning: tuple[int, ...] = (1,)  # image pixels averaged per side; one for each micro-batch
    channels: int = 1  # 1: every channel of an image is a plane of its own
    balance: float = 0.5  # a plane is chosen with probability ~ area ** balance
    # of pairs, and so of results; target: on the scale of the clean images, which is learnt
    scale: Literal["input", "target"] = "input"
    range: str = "whitened"  # or a fixed one of intensity.value_range, without gamma and gain
    gamma: tuple[float, ...] = (0.4, 0.65)  # exponent of intensity; 0.5 = square-root domain
    gain: tuple[float, ...] = (0.5, 1.1)  # factor on images in [-1, 1]
    offset: tuple[float, ...] = (-0.2, 0.2)
    flips: bool = True  # random mirroring and rotation by multiples of 90 degrees
    phantoms: float = 0.0  # share of crops with drawn, noise-free structures, see phantoms.py
    cache_mb: int = 1024  # decoded planes held in memory


@dataclass(frozen=True)
class Optimiser:
    steps: int = 10_000
    minutes: float = 0.0  # above 0: `steps` is set after the warm-up so that it ends in this time
    batch: int = 1024  # crops per step, over all processes
    micro_batch: int = 64  # crops per network call; gradients are accumulated
    lr: float = 2e-3
    warmup: int = 200  # steps of linear warm-up
    decay: Literal["cosine", "linear"] = "cosine"  # linear: in the second half only
    final_lr: float = 0.01  # share of lr at the end of the decay
    momentum: float = 0.9  # decay of the mean gradient (the first beta of Adam)
    clip: float = 1.0  # largest gradient norm; 0 = no clipping
    ema: float = 0.9995  # decay of the averaged weights that are released
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False  # torch.compile: slow start, faster steps


@dataclass(frozen=True)
class Validation:
    fraction: float = 0.05  # share that is not used in training
    # of the rows of large planes, the last ones; of images, with all noisy versions; of folders
    by: Literal["rows", "images", "fields"] = "rows"
    crop: int = 64
    crops: int = 256
    every: int = 500  # steps; 0 = never
    keep: str = "last"  # weights to release: last, or best in validation
    sampled: int = 0  # `conditional`: steps of the restorations that are compared; 0 = one call


@dataclass(frozen=True)
class SelectOptions:
    """The classifier of `select_hq`."""

    patch: int = 128  # px; patches are scored as a whole, crops are cut inside them
    threshold: float = 0.5  # lowest score of patches to keep
    steps: int = 300
    batch: int = 32  # half of them positive
    lr: float = 1e-3


@dataclass(frozen=True)
class Recipe:
    objective: str  # row of catalog.OBJECTIVES
    task: str  # task of the weights: prior, calibrator, conditional, slices
    network: NetworkChoice = field(default_factory=NetworkChoice)
    parametrisation: str = "edm"  # edm, eps, x0, v
    sigma_data: float = 0.5
    time: str = "log-sigma"  # form of the noise level as network input
    loss: Literal["l2", "l1", "huber"] = "l2"  # of the network's raw output
    init: str = ""  # initial weights; the job's `init` overrides it
    levels: Levels = field(default_factory=Levels)
    noise: Noise = field(default_factory=Noise)
    degradation: Degradation = field(default_factory=Degradation)
    slices: Slices = field(default_factory=Slices)
    blind: Blind = field(default_factory=Blind)
    adversary: Adversary = field(default_factory=Adversary)
    data: CropOptions = field(default_factory=CropOptions)
    optimiser: Optimiser = field(default_factory=Optimiser)
    validation: Validation = field(default_factory=Validation)
    select: SelectOptions = field(default_factory=SelectOptions)
    checkpoint_minutes: float = 5.0
    seed: int = 0
    licence: str = "MIT"


def bundled() -> list[str]:
    """Names of the packaged recipes."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a packaged recipe or a YAML file, with `key.sub=value` overrides.

    Raises UsageError with the wrong key and the most similar valid one.
    """
    if name in REPLACED and not Path(name).exists():
        raise UsageError(f"recipe '{name}': is now {REPLACED[name]}")
    path = PACKAGED / f"{name}.yaml" if name in bundled() else Path(name)
    if not os.path.exists(path):
        raise UsageError(
            f"recipe '{name}': no such file, and bundled recipes are:"
            f" {', '.join(bundled())}{did_you_mean(name, bundled())}"
        )
    raw = strict.read_yaml(path, f"recipe {path}", UsageError)
    if not isinstance(raw, dict):
        raise UsageError(f"recipe {path}: not a mapping of keys to values")
    for text in overrides:
        strict.override(raw, text)
    return parse(raw, f"recipe {path}")


def parse(raw: Mapping[str, Any], where: str) -> Recipe:
    """Build a recipe from plain values. Raises UsageError for unknown or missing keys, wrong types
    and values out of range."""
    recipe: Recipe = strict.build(Recipe, raw, where)
    _check(recipe, where)
    return recipe


SHARES = (
    *("optimiser.final_lr", "noise.correlated", "noise.mixed", "noise.region", "noise.clip"),
    *("degradation.poisson", "degradation.blur", "degradation.binning", "degradation.filter"),
    *("slices.grids", "noise.counts", "data.phantoms"),
)


def _check(recipe: Recipe, where: str) -> None:
    """Raises UsageError for invalid values."""
    o, d, v, s = recipe.optimiser, recipe.data, recipe.validation, recipe.select
    noise, worse, rows = recipe.noise, recipe.degradation, recipe.slices
    if recipe.network.name not in ("", *NETWORKS):
        near = did_you_mean(recipe.network.name, NETWORKS)
        raise UsageError(
            f"{where}: 'network.name' {recipe.network.name} is unknown, known are:"
            f" {', '.join(NETWORKS)}{near}"
        )
    rules = (
        (o.steps >= 1, "optimiser.steps", "at least 1"),
        (o.batch >= 1, "optimiser.batch", "at least 1"),
        (o.micro_batch >= 1 and o.batch % o.micro_batch == 0, "optimiser.micro_batch",
         f"a divisor of optimiser.batch, {o.batch}"),
        (o.lr > 0, "optimiser.lr", "above 0"),
        (o.warmup >= 0, "optimiser.warmup", "at least 0"),
        (o.minutes == 0 or (o.minutes > 0 and o.warmup >= 2), "optimiser.minutes",
         "0, or above 0 with optimiser.warmup from 2, in which the time of a step is measured"),
        (0 <= o.ema < 1, "optimiser.ema", "in [0, 1)"),
        (0 <= o.momentum < 1, "optimiser.momentum", "in [0, 1)"),
        (recipe.adversary.channels >= 1, "adversary.channels", "at least 1"),
        (min(recipe.adversary.weight, recipe.adversary.identity) >= 0, "adversary",
         "a weight and an identity of 0 or more"),
        (bool(d.crop) and min(d.crop) >= 16, "data.crop", "sizes of at least 16 px"),
        (bool(d.binning) and min(d.binning) >= 1, "data.binning", "factors of at least 1"),
        (d.channels >= 1, "data.channels", "at least 1"),
        (d.range in RANGES, "data.range", " or ".join(RANGES)),
        (d.cache_mb >= 1, "data.cache_mb", "at least 1"),
        (_rises(d.gamma), "data.gamma", "a range: [low, high]"),
        (_rises(d.gain), "data.gain", "a range: [low, high]"),
        (_rises(d.offset), "data.offset", "a range: [low, high]"),
        (_rises(noise.reach, above=0), "noise.reach", "a range: [low, high]"),
        (_rises(noise.photons, above=0), "noise.photons", "a range above 0: [low, high]"),
        (noise.jitter >= 0, "noise.jitter", "at least 0"),
        (d.phantoms == 0 or d.range == "whitened", "data.phantoms",
         "0 unless data.range is whitened"),
        *((0 <= attrgetter(key)(recipe) <= 1, key, "between 0 and 1") for key in SHARES),
        (0 < recipe.levels.min <= recipe.levels.max, "levels.min", "above 0, up to levels.max"),
        (recipe.levels.max_step >= 0, "levels.max_step", "at least 0"),
        (0 <= v.fraction < 1 and v.every >= 0 and v.crops >= 1, "validation",
         "a fraction in [0, 1), every >= 0 and crops >= 1"),
        (v.keep == "last" or (v.keep == "best" and v.every > 0 and v.fraction > 0),
         "validation.keep", "last, or best with validation.every and validation.fraction above 0"),
        (v.crop >= 16, "validation.crop", "at least 16 px"),
        (v.sampled == 0 or (v.sampled > 0 and recipe.objective == "conditional"),
         "validation.sampled", "0, or steps with the objective conditional"),
        (not worse.level or _rises(worse.level, above=0), "degradation.level",
         "a range above 0: [low, high]"),
        (_rises(worse.blur_sigma, above=0), "degradation.blur_sigma",
         "a range above 0: [low, high]"),
        (_rises(worse.filter_sigma, above=0), "degradation.filter_sigma",
         "a range above 0: [low, high]"),
        (bool(worse.read) and min(worse.read) >= 0, "degradation.read", "photons, 0 or more"),
        (bool(worse.factors) and min(worse.factors) >= 2, "degradation.factors",
         "factors of at least 2"),
        (bool(rows.anchors) and set(rows.anchors) <= {"linear", "cubic"}, "slices.anchors",
         "linear, cubic or both"),
        (0 < recipe.blind.share <= 0.25, "blind.share", "above 0, at most 0.25"),
        (recipe.blind.around >= 1 and recipe.blind.reach >= 1, "blind",
         "around and reach from 1 px"),
        (_rises(rows.factors, above=1), "slices.factors", "a range from 2: [low, high]"),
        (not rows.rows or (_rises(rows.rows, above=1) and rows.rows[1] < min(d.crop)),
         "slices.rows", "empty, or a range from 2 to less than data.crop: [low, high]"),
        (s.patch >= 32 and 0 <= s.threshold <= 1 and s.steps >= 1 and s.batch >= 2 and s.lr > 0,
         "select", "a patch from 32 px, a threshold in [0, 1], steps >= 1, batch >= 2, lr > 0"),
    )  # fmt: skip
    for good, key, wanted in rules:
        if not good:
            raise UsageError(f"{where}: '{key}' must be {wanted}")


def _rises(span: tuple[float, ...], above: float = -math.inf) -> bool:
    """Whether these are a low and a higher value, both above a limit."""
    return len(span) == 2 and above < span[0] <= span[1]


def plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON and YAML values, from which `parse` builds an equal recipe."""
    result: dict[str, Any] = _plain(dataclasses.asdict(recipe))
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
