"""The tables of what can be chosen: one row a choice, one help line a row, resolved on use.

Help texts, option choices, README tables and contract tests come from the rows. Targets are
strings, so reading a table imports nothing; in FORMATS the order is the priority.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Row:
    """A named choice; `target` is "module:attribute" below the package."""

    target: str
    help: str
    suffixes: tuple[str, ...] = ()  # FORMATS only: file name endings, lower case
    commands: tuple[str, ...] = ()  # METHODS only: the commands that offer it
    task: str = ""  # CALIBRATORS only: the task of the weights that it needs
    kind: str = ""  # METRICS only: judges a paired plane, the uncertainty of a file, or a set

    def load(self) -> Any:
        """Import the row's attribute."""
        module, attribute = self.target.split(":")
        return getattr(import_module(f"restorectl.{module}"), attribute)


FORMATS: dict[str, Row] = {
    "tiff": Row(
        "images.tiff.write:FORMAT",
        "TIFF, BigTIFF, ImageJ hyperstack, OME-TIFF",
        (".tif", ".tiff", ".btf", ".tf8"),
    ),
    "png": Row("images.raster:PNG", "PNG, 8 or 16 bit, grey or RGB", (".png",)),
    "jpeg": Row("images.raster:JPEG", "JPEG, read only: results become PNG", (".jpg", ".jpeg")),
}

NETWORKS: dict[str, Row] = {
    "unet": Row(
        "engine.nets.unet:UNet", "magnitude-preserving U-Net without statistics over pixels"
    ),
    "edm2": Row(
        "engine.nets.edm2:EDM2", "paper 002: magnitude-preserving U-Net with attention, 64 M"
    ),
    "convnext": Row(
        "engine.nets.convnext:ConvNextUNet", "paper 000 (RSCD): ConvNeXt U-Net, 285 M parameters"
    ),
    "adm": Row("engine.nets.adm:ADM", "paper 003 (MSDSR): residual U-Net with attention, 274 M"),
    "baikal": Row(
        "engine.nets.adm:BAIKAL", "paper 004 (Baikal): the same with learned variance, 152 M"
    ),
    "inception": Row(
        "engine.nets.inception:Inception", "Inception-v3 features of the Frechet distance"
    ),
    "alexnet": Row("engine.nets.alexnet:LPIPS", "AlexNet with the linear heads of LPIPS"),
    "calibrator": Row(
        "engine.nets.calibrator:Calibrator", "compact residual network that tells the noise level"
    ),
}

OBJECTIVES: dict[str, Row] = {
    "prior": Row("training.objectives:prior", "denoise clean images at any level (Algorithm 3)"),
    "conditional": Row(
        "training.objectives:conditional", "generate, given a spoilt image or that of a pair"
    ),
    "conditional-baseline": Row(
        "training.objectives:baseline", "generate, given a noisy image (Algorithm 4)"
    ),
    "calibrator": Row(
        "training.objectives:calibrator", "tell the noise level of an image (Algorithm 2)"
    ),
    "slices": Row("training.objectives:slices", "fill in the hidden rows of an image (paper 003)"),
    "ms-unet": Row(
        "training.objectives:ms_unet", "the same in one step, without diffusion (paper 003)"
    ),
    "e2e-unet": Row("training.objectives:e2e_unet", "the plane between two neighbours (paper 003)"),
}

METHODS: dict[str, Row] = {
    "ddim": Row(
        "engine.samplers:DDIM",
        "one or a few deterministic steps (Song et al. 2021)",
        commands=("restore", "superres3d"),
    ),
    "dpmpp": Row(
        "engine.samplers:DPMPP",
        "DPM-Solver++(2M), deterministic (Lu et al. 2022)",
        commands=("restore", "superres3d"),
    ),
    "ancestral": Row(
        "engine.samplers:ANCESTRAL",
        "stochastic DDPM steps, a draw from the posterior",
        commands=("restore", "superres3d"),
    ),
    "rscd": Row(
        "engine.rscd:RSCD",
        "step-calibrated diffusion: asks again and again how many steps are left (paper 000)",
        commands=("restore",),
    ),
    "posterior": Row(
        "engine.posterior:POSTERIOR",
        "the default of `restore`; with --samples, the mean of draws from the posterior",
        commands=("denoise", "uncertainty"),
    ),
    "conditional": Row(
        "engine.conditional:CONDITIONAL",
        "conditional DDPM, from pure noise, given the image (papers 001, 002)",
        commands=("denoise", "uncertainty"),
    ),
    "forward-backward": Row(
        "engine.baikal:FORWARD_BACKWARD",
        "some noise on, then all of it off (paper 004)",
        commands=("denoise",),
    ),
    "mixing": Row(
        "engine.baikal:MIXING",
        "the same, drawn to the image after every step (paper 004)",
        commands=("denoise",),
    ),
    "repaint": Row(
        "engine.baikal:REPAINT",
        "mixing that takes each interval several times (paper 004)",
        commands=("denoise",),
    ),
}


def methods(command: str) -> dict[str, Row]:
    """The rows of METHODS that a command offers."""
    return {name: row for name, row in METHODS.items() if command in row.commands}


CALIBRATORS: dict[str, Row] = {
    "analytic": Row("engine.calibrators:Analytic", "the level of the intensity model"),
    "network": Row(
        "engine.calibrators:Network",
        "a trained calibrator network (paper 000)",
        task="calibrator",
    ),
    "nonparametric": Row(
        "engine.calibrators:Nonparametric", "eigenvalues of patches (Chen et al. 2015)"
    ),
}

INTERPOLATIONS: dict[str, Row] = {
    "nearest": Row("volumes.interpolation:nearest", "the nearest plane"),
    "linear": Row("volumes.interpolation:linear", "straight lines between planes"),
    "cubic": Row(
        "volumes.interpolation:cubic", "cubic convolution through four planes (Keys 1981)"
    ),
}

SLICE_NOISE: dict[str, Row] = {
    "shared": Row("engine.noise_field:shared", "every slice draws the same numbers"),
    "slerp": Row("engine.noise_field:slerp", "they turn slowly from slice to slice (ISCS)"),
    "independent": Row("engine.noise_field:independent", "every slice its own (paper 003)"),
}

METRICS: dict[str, Row] = {
    "mae": Row("evaluation.metrics.paired:MAE", "mean absolute error", kind="paired"),
    "mse": Row("evaluation.metrics.paired:MSE", "mean squared error", kind="paired"),
    "rmse": Row("evaluation.metrics.paired:RMSE", "root mean squared error", kind="paired"),
    "nrmse": Row(
        "evaluation.metrics.paired:NRMSE", "RMSE over the target's mean (paper 002)", kind="paired"
    ),
    "nrmse-range": Row(
        "evaluation.metrics.paired:NRMSE_RANGE", "RMSE over the target's max - min", kind="paired"
    ),
    "nrmse-norm": Row(
        "evaluation.metrics.paired:NRMSE_NORM",
        "RMSE over the target's root mean square",
        kind="paired",
    ),
    "psnr": Row("evaluation.metrics.paired:PSNR", "peak signal-to-noise ratio, dB", kind="paired"),
    "ssim": Row(
        "evaluation.metrics.paired:SSIM",
        "structural similarity, Gaussian window",
        kind="paired",
    ),
    "ms-ssim": Row(
        "evaluation.metrics.paired:MS_SSIM",
        "the same on five scales, from 176 px",
        kind="paired",
    ),
    "pearson": Row("evaluation.metrics.paired:PEARSON", "correlation of the pixels", kind="paired"),
    "lpips": Row(
        "evaluation.metrics.features:LPIPS",
        "perceptual distance; needs --alexnet weights",
        kind="paired",
    ),
    "resolution": Row(
        "evaluation.metrics.decorrelation:RESOLUTION",
        "of the prediction, px, by decorrelation analysis",
        kind="paired",
    ),
    "resolution-ratio": Row(
        "evaluation.metrics.decorrelation:RESOLUTION_RATIO",
        "the same over the target's (paper 002)",
        kind="paired",
    ),
    "coverage": Row(
        "evaluation.metrics.uncertainty:COVERAGE",
        "share of targets in lower..upper",
        kind="uncertainty",
    ),
    "width": Row(
        "evaluation.metrics.uncertainty:WIDTH", "mean width of lower..upper", kind="uncertainty"
    ),
    "interval-score": Row(
        "evaluation.metrics.uncertainty:INTERVAL_SCORE",
        "width and misses in one (Gneiting, Raftery 2007)",
        kind="uncertainty",
    ),
    "spearman": Row(
        "evaluation.metrics.uncertainty:SPEARMAN",
        "rank correlation of std and error",
        kind="uncertainty",
    ),
    "partial-spearman": Row(
        "evaluation.metrics.uncertainty:PARTIAL_SPEARMAN",
        "the same with the intensity held fixed",
        kind="uncertainty",
    ),
    "ause": Row(
        "evaluation.metrics.uncertainty:AUSE",
        "area between sparsification curve and oracle",
        kind="uncertainty",
    ),
    "fid": Row(
        "evaluation.metrics.features:FID",
        "Frechet inception distance to --reference; needs --inception",
        kind="set",
    ),
    "slice-fid": Row(
        "evaluation.metrics.features:SLICE_FID",
        "mean FID of XY, XZ and YZ slices of volumes (paper 003)",
        kind="set",
    ),
    "frechet-prior": Row(
        "evaluation.metrics.features:FRECHET_PRIOR",
        "Frechet distance in features of the embedded prior",
        kind="set",
    ),
}
