"""What a command was asked to do, as frozen values; checked where they are used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Files:
    """Which files, and where to."""

    inputs: tuple[str, ...]
    output: str
    pattern: str | None = None  # which names a folder contributes
    files_from: str | None = None  # a file with one path a line; "-" is standard input
    shard: tuple[int, int] = (1, 1)  # (I, N): this run takes the I-th of N parts
    overwrite: bool = False  # also replace files that are not ours
    axes: str | None = None
    channels: tuple[int, ...] | None = None  # None = all; others are copied unchanged
    dry_run: bool = False
    manifest: str | None = None
    min_age: float = 0.0  # seconds since its last change before an input is taken
    defer_for: float = 3600.0  # seconds for which an incomplete input is left for a later run
    min_free: int = 0  # bytes that stay free on the disk of the outputs
    max_failures: int | None = None  # files that may fail before the run stops; None = all
    probe: bool = False  # with dry_run: time one window, to say how long the run takes


@dataclass(frozen=True)
class Compute:
    """How to compute; of these only seed and precision can change a pixel."""

    device: str = "auto"
    precision: str = "auto"
    tile: int | None = None  # px, None = auto: side of the area of windows held at once
    batch: int | None = None  # None = auto: windows in one network call
    seed: int = 0


@dataclass(frozen=True)
class NoiseOptions:
    """The noise of the camera, in input units; None = estimate it from the image."""

    kind: str = "auto"  # auto, gaussian, poisson-gaussian, none
    gain: float | None = None
    offset: float | None = None
    read_noise: float | None = None


@dataclass(frozen=True)
class WeightsOptions:
    """Where models are looked up, and whether the network may be used for them."""

    registry: str | None = None  # a weights.yaml of the user's, over the package's
    offline: bool = False


@dataclass(frozen=True)
class SamplingJob:
    """What restore, denoise and uncertainty are told alike."""

    files: Files
    compute: Compute = field(default_factory=Compute)
    noise: NoiseOptions = field(default_factory=NoiseOptions)
    weights: str | None = None  # None = the embedded ones of the method's kind
    steps: int | None = None  # network calls; None = the method's default
    samples: int = 1  # restorations of each image
    strength: float = 1.0  # factor on the noise level that the network is told
    calibrator: str = "analytic"  # row of catalog.CALIBRATORS
    calibrator_weights: str = "calibrator"
    weights_from: WeightsOptions = field(default_factory=WeightsOptions)


@dataclass(frozen=True)
class RestoreJob(SamplingJob):
    sampler: str = "ddim"  # row of catalog.METHODS
    preset: str = "restorectl"  # of the rscd sampler's loop
    recalibrate: int | None = None  # steps between calibrations, 0 = off; None = the preset's
    schedule: str | None = None  # whose single steps are taken; None = the preset's
    step_map: str | None = None  # folder of images that show the steps that were left where
    level: str = "image"  # image: one level; map: a smooth map where the noise varies


@dataclass(frozen=True)
class DenoiseJob(SamplingJob):
    method: str = "posterior"  # row of catalog.METHODS
    preset: str = "restorectl"
    settings: Mapping[str, Any] = field(default_factory=dict)  # given ones, over the preset's
    guide: str | None = None  # folder of another method's predictions, named like the inputs


@dataclass(frozen=True)
class UncertaintyJob(SamplingJob):
    samples: int = 15
    source: str = "posterior"  # row of catalog.METHODS
    variance: str = "analytic"  # of the posterior's steps: analytic, ancestral
    interval: float = 0.9  # share of the pixels whose truth lies inside
    calibration: str = "auto"  # auto, none, or a YAML file


@dataclass(frozen=True)
class CalibrateJob:
    files: Files  # its output is not used
    noise: NoiseOptions = field(default_factory=NoiseOptions)
    method: str = "analytic"  # row of catalog.CALIBRATORS
    weights: str = "calibrator"  # of the network method
    schedule: str = "rscd"  # what counts the steps
    windows: int | None = 64  # measured of each channel, evenly spread; None = all
    device: str = "auto"
    csv: str | None = None
    plot: str | None = None
    weights_from: WeightsOptions = field(default_factory=WeightsOptions)


@dataclass(frozen=True)
class SuperresJob:
    files: Files
    compute: Compute = field(default_factory=Compute)
    weights: str = "slices"
    method: str = "diffusion"  # or a row of catalog.INTERPOLATIONS
    factor: int | None = None  # None = from the spacing
    spacing: tuple[float | None, float | None, float | None] | None = None  # z, y, x; micrometres
    sweeps: str = "both"  # both, xz, yz
    anchor: str = "auto"  # auto, linear, cubic
    strength: float | None = None  # share of the network's answer; None = measured on the stack
    sampler: str = "ddim"
    steps: int | None = None
    samples: int = 1
    slice_noise: str = "shared"  # row of catalog.SLICE_NOISE
    keep_observed: bool = True
    smooth: bool = False
    preview: bool = False
    weights_from: WeightsOptions = field(default_factory=WeightsOptions)


@dataclass(frozen=True)
class TrainJob:
    recipe: str  # bundled name or path
    data: str
    output: str
    overrides: tuple[str, ...] = ()  # key=value
    resume: bool = False
    init: str | None = None  # weights to start from; None = as the recipe says
    device: str = "auto"
    axes: str | None = None
    select_hq: str | None = None  # folder of patches of the quality that is wanted
    partner: str | None = None  # folder of the worse images of pairs; data holds the clean ones
    register: str | None = None  # align the clean images with them: rigid or affine
    weights_from: WeightsOptions = field(default_factory=WeightsOptions)


@dataclass(frozen=True)
class EvaluateJob:
    predictions: tuple[str, ...]
    target: str | None = None
    reference: str | None = None  # folder of images of high quality
    metrics: tuple[str, ...] = ()  # rows of catalog.METRICS; empty = the default
    gated: tuple[str, ...] = ()  # metrics that gates need besides
    data_range: float | None = None  # None: of the target
    scale: str = "none"  # none, affine, percentile: fit of a prediction to its target
    project: str = "none"  # none, max, mean over z
    by_z: bool = False
    average: bool = False  # predictions are samples: score the mean of the first N
    interval: float = 0.9  # nominal coverage of lower..upper
    inputs: str | None = None  # folder of the unrestored images, for reports
    axes: str | None = None
    pattern: str | None = None
    device: str = "auto"
    networks: Mapping[str, str] = field(default_factory=dict)  # weights in place of the usual
    weights_from: WeightsOptions = field(default_factory=WeightsOptions)
