"""The options of each command as frozen dataclasses; values are checked where they are used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_SHIFT = 0.5  # px; images of a pair that are further apart are no pair


@dataclass(frozen=True)
class Files:
    """Input and output files, and how to handle them."""

    inputs: tuple[str, ...]
    output: str
    pattern: str | None = None  # glob that file names in a folder must match
    exclude: tuple[str, ...] = ()  # globs of names or relative paths in a folder to leave out
    files_from: str | None = None  # file with one path per line; "-" is standard input
    shard: tuple[int, int] = (1, 1)  # (I, N): process the I-th of N parts
    # address of a dask scheduler, or local:N, whose workers do the work; None = this process
    dask: str | None = None
    overwrite: bool = False  # also replace files that restorectl did not write
    keep_old: bool = False  # keep outputs of an earlier version whose pixels would differ today
    axes: str | None = None
    series: str | None = None  # which of several images in a file: number, name or "all"
    to: str | None = None  # format of the results in a folder: ome-zarr, ome-tiff; None = as input
    pyramid: bool = False  # write TIFF as tiles, with smaller copies of each plane
    # channels to restore by number or name, None = all; others are copied
    channels: tuple[int | str, ...] | None = None
    dry_run: bool = False
    manifest: str | None = None
    min_age: float = 0.0  # seconds since the last change that an input must have
    defer_for: float = 3600.0  # seconds after a change in which an incomplete input is deferred
    min_free: int = 0  # bytes to keep free on the output disk
    max_failures: int | None = None  # stop the run after this many failed files; None = never
    max_memory: int | None = None  # bytes that the run may use; None = what is free
    probe: bool = False  # with dry_run: time an excerpt to estimate the run time


@dataclass(frozen=True)
class Compute:
    """How to compute; device, precision, seed and compile can change pixels, the others cannot."""

    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None  # tiles and files processed at a time; None = the cores there are
    batch: int | None = None  # the most tiles in one call on a GPU; None = auto
    compile: bool = False  # compile the network first
    seed: int = 0


@dataclass(frozen=True)
class NoiseOptions:
    """The camera's noise model, in input units; None = estimate from the image."""

    kind: str = "auto"  # auto, gaussian, poisson-gaussian, none
    gain: float | None = None
    offset: float | None = None
    read_noise: float | None = None
    destripe: str = "auto"  # auto: remove offsets of rows and columns, periodic patterns; off
    invalid: str = "auto"  # pixels that are no measurements: auto, none, or their value
    hot_pixels: str = "auto"  # auto: repair hot and dead pixels, rows and columns; keep
    camera: str | None = None  # YAML file that `calibrate` made, in place of the numbers and maps
    offset_map: str | None = None  # TIFF, grey level of each pixel in the dark
    gain_map: str | None = None  # TIFF, grey levels per photo-electron of each pixel
    variance_map: str | None = None  # TIFF, variance of each pixel in the dark, grey levels^2
    camera_corner: tuple[int, int] = (0, 0)  # row and column of the maps where images begin
    excess_noise: float | None = None  # factor on the variance of light: 2 for EMCCD


@dataclass(frozen=True)
class WeightsOptions:
    """Where to find weights."""

    registry: str | None = None  # the user's weights.yaml, which overrides the packaged one
    offline: bool = False  # never download


@dataclass(frozen=True)
class SamplingJob:
    """Options common to restore, denoise and uncertainty."""

    files: Files
    compute: Compute = field(default_factory=Compute)
    noise: NoiseOptions = field(default_factory=NoiseOptions)
    weights: str | None = None  # None = the packaged ones for the method
    steps: int | None = None  # network calls; None = the method's default
    samples: int = 1  # restorations of each image
    strength: float = 1.0  # factor on the estimated noise level
    calibrator: str = "analytic"  # row of catalog.CALIBRATORS
    calibrator_weights: str | None = None  # of a calibrator that has some; None = calibrator
    weights_from: WeightsOptions = field(default_factory=WeightsOptions)
    dtype: str = "same"  # of the restored images: same as the input, or float32
    start_step: float | None = None  # diffusion step to start from, in place of a calibrator's
    context: str = "auto"  # neighbours to average with where they agree: auto, none, z, t, zt
    reach: int = 2  # neighbours on each side along z and t


@dataclass(frozen=True)
class RestoreJob(SamplingJob):
    sampler: str = "ddim"  # row of catalog.METHODS
    preset: str = "restorectl"  # settings of the rscd sampler
    recalibrate: int | None = None  # steps between calibrations, 0 = off; None = the preset's
    rounds: str | None = None  # of the rscd sampler: image, patch; None = the preset's
    schedule: str | None = None  # discrete schedule of the rscd sampler; None = the preset's
    step_map: str | None = None  # folder for maps of the diffusion steps at each place
    level: str = "auto"  # image: one noise level; map: a smooth map; auto: a map if it is needed
    orientations: int = 1  # 8: the mean over four rotations, each also mirrored
    preview: bool = False  # also write a picture of each image before and after


@dataclass(frozen=True)
class OwnTraining:
    """How methods that train a network on the images themselves do it."""

    train_steps: int | None = None  # None = the recipe's
    minutes: float | None = None  # upper limit for each network; None = none
    fit_on: str = "image"  # a network for each image, or one for the folder: image, folder
    cache: str | None = None  # folder that keeps networks; None = none is kept
    mask: str = "auto"  # lines that n2v hides: auto, none, rows, columns, cross


@dataclass(frozen=True)
class DenoiseJob(SamplingJob):
    method: str = "posterior"  # row of catalog.METHODS
    preset: str = "restorectl"
    settings: Mapping[str, Any] = field(default_factory=dict)  # override the preset's
    orientations: int = 1  # 8: the mean over four rotations, each also mirrored
    preview: bool = False  # also write a picture of each image before and after
    # folder of another method's results (for noise2noise: of second exposures), named like the
    # inputs, or a row of catalog.METHODS that makes them first
    guide: str | None = None
    keep_samples: str | None = None  # folder for every restoration, in DIR/1, DIR/2, ...
    training: OwnTraining = field(default_factory=OwnTraining)


@dataclass(frozen=True)
class UncertaintyJob(SamplingJob):
    samples: int = 15
    source: str = "posterior"  # row of catalog.METHODS
    variance: str = "analytic"  # variance of the posterior's steps: analytic, ancestral
    interval: float = 0.9  # wanted share of pixels whose truth lies inside
    calibration: str = "auto"  # auto, self, none, or a YAML file


@dataclass(frozen=True)
class CalibrateJob:
    files: Files  # output is not used
    noise: NoiseOptions = field(default_factory=NoiseOptions)
    method: str = "analytic"  # row of catalog.CALIBRATORS
    weights: str = "calibrator"  # for method network
    prior: str | None = None  # measure in its units; None = the calibrator's, or the packaged one's
    cover: float = 0.99  # share of the windows for which T' has to be enough; 1 = the maximum
    schedule: str = "rscd"  # discrete schedule that steps refer to
    windows: int | None = 64  # calibration windows per channel, evenly spread; None = all
    device: str = "auto"
    threads: int | None = None  # windows measured at a time; None = the cores there are
    csv: str | None = None
    plot: str | None = None
    plot_noise: str | None = None  # folder of pictures, one for each image and channel
    weights_from: WeightsOptions = field(default_factory=WeightsOptions)


@dataclass(frozen=True)
class SuperresJob:
    files: Files
    compute: Compute = field(default_factory=Compute)
    weights: str = "slices"
    method: str = "diffusion"  # diffusion, or a row of catalog.INTERPOLATIONS
    factor: float | None = None  # planes of the result per input plane; None = from the spacing
    rows: bool = False  # make rows of each plane, not planes of a stack
    spacing: tuple[float | None, float | None, float | None] | None = None  # z, y, x; micrometres
    sweeps: str = "both"  # slice directions: both, xz, yz
    anchor: str = "auto"  # base interpolation: auto, linear, cubic
    strength: float | None = None  # share of the network, 0..1; None = measured on the stack
    preset: str = "restorectl"  # or MSDSR's sampler: paper, official
    sampler: str = "ddim"
    steps: int | None = None
    samples: int = 1
    slice_noise: str = "shared"  # row of catalog.SLICE_NOISE
    keep_observed: bool = True
    smooth: bool = False
    invalid: str = "auto"  # pixels that are no measurements: auto, none, or their value
    hot_pixels: str = "auto"  # auto: repair hot and dead pixels, rows and columns; keep
    dtype: str = "same"  # of the result: same as the input, or float32
    preview: bool = False
    weights_from: WeightsOptions = field(default_factory=WeightsOptions)


@dataclass(frozen=True)
class TrainJob:
    recipe: str  # packaged name, or path
    data: str
    output: str
    overrides: tuple[str, ...] = ()  # key=value
    resume: bool = False
    init: str | None = None  # initial weights; None = the recipe's
    device: str = "auto"
    axes: str | None = None
    select_hq: str | None = None  # folder of patches of the wanted quality
    partner: str | None = None  # folder of the degraded images of pairs; `data` has the clean ones
    register: str | None = None  # align clean images with their partners: rigid or affine
    max_shift: float = MAX_SHIFT  # px between the images of a pair
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
    scale_to: str | None = None  # folder whose mean and standard deviation predictions are given
    register: str | None = None  # align predictions with their targets: rigid, affine
    project: str = "none"  # none, max, mean over z
    by_z: bool = False
    average: bool = False  # predictions are samples: score the mean of the first N
    interval: float = 0.9  # nominal coverage of lower..upper
    inputs: str | None = None  # folder of the unrestored images, for reports
    checks: bool = False  # downstream checks follow: list every file, also without a metric of it
    axes: str | None = None
    pattern: str | None = None
    device: str = "auto"
    networks: Mapping[str, str] = field(default_factory=dict)  # weights in place of the usual
    weights_from: WeightsOptions = field(default_factory=WeightsOptions)
