"""The choices that users have, as tables: one row per choice, with its help line.

Help texts, option choices, tables of the documentation and contract tests come from the rows.
Targets are strings, imported on use, so reading a table imports nothing. FORMATS is in order of
priority.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Row:
    """A named choice; `target` is "module:attribute" inside the package."""

    target: str
    help: str
    suffixes: tuple[str, ...] = ()  # FORMATS only: file name endings, lower case
    result: str = ""  # FORMATS only: ending of results where they cannot have the input's
    lost: str = ""  # FORMATS only: what results do not have of an input
    is_folder: bool = False  # FORMATS only: whether an image is a folder
    commands: tuple[str, ...] = ()  # METHODS only: commands that offer it
    task: str = ""  # CALIBRATORS: task of the weights it needs; NETWORKS: of its weights, if one
    kind: str = ""  # METRICS only: paired (planes), uncertainty (of a file) or set (of images)

    def load(self) -> Any:
        """Import the row's attribute."""
        module, attribute = self.target.split(":")
        return getattr(import_module(f"restorectl.{module}"), attribute)


_MAKERS = "metadata other than pixel size, channel names and the time between frames"
_ZARR = f"nothing in OME-Zarr; in TIFF, labels, tables and {_MAKERS}, and OME-XML"
FORMATS: dict[str, Row] = {
    "tiff": Row(
        "images.tiff.write:FORMAT",
        "TIFF, BigTIFF, ImageJ hyperstack, OME-TIFF, NDTiff",
        (".tif", ".tiff", ".btf", ".tf8"),
        lost=f"nothing in TIFF; in OME-Zarr, {_MAKERS}, and OME-XML",
    ),
    "lsm": Row(
        "images.tiff.write:INPUT_ONLY",
        "Zeiss LSM, MetaMorph STK, Aperio SVS, PerkinElmer QPTIFF and others that are TIFF, input"
        " only: results are TIFF",
        (".lsm", ".stk", ".svs", ".qptiff", ".tf2"),
        result=".tif",
        lost="private tags of the maker",
    ),
    "png": Row("images.raster:PNG", "PNG, 8 or 16 bit, grey or RGB", (".png",)),
    "jpeg": Row(
        "images.raster:JPEG",
        "JPEG, input only: results are PNG",
        (".jpg", ".jpeg"),
        result=".png",
    ),
    "ome-zarr": Row(
        "images.zarr.write:FOLDER",
        "OME-Zarr 0.4 and 0.5 in a folder, also plates",
        (".zarr",),
        lost=_ZARR,
        is_folder=True,
    ),
    "ome-zarr-zip": Row(
        "images.zarr.write:ZIP",
        "OME-Zarr 0.4 and 0.5 in a zip file",
        (".zarr.zip", ".ozx"),
        lost=_ZARR,
    ),
    "czi": Row(
        "images.makers.czi:FORMAT", "Zeiss CZI, input only", (".czi",), result=".tif", lost=_MAKERS
    ),
    "nd2": Row(
        "images.makers.nd2:FORMAT", "Nikon ND2, input only", (".nd2",), result=".tif", lost=_MAKERS
    ),
    "lif": Row(
        "images.makers.lif:FORMAT", "Leica LIF, input only", (".lif",), result=".tif", lost=_MAKERS
    ),
    "hdf5": Row(
        "images.makers.hdf5:FORMAT",
        "Imaris IMS and other HDF5, input only",
        (".ims", ".h5", ".hdf5"),
        result=".tif",
        lost="attributes and other data sets",
    ),
}

NETWORKS: dict[str, Row] = {
    "unet": Row(
        "engine.nets.unet:UNet", "magnitude-preserving U-Net without statistics over pixels"
    ),
    "edm2": Row(
        "engine.nets.edm2:EDM2", "DDPM microscopy: magnitude-preserving U-Net, 64 M parameters"
    ),
    "convnext": Row(
        "engine.nets.convnext:ConvNextUNet", "RSCD: ConvNeXt U-Net with attention, 285 M parameters"
    ),
    "adm": Row("engine.nets.adm:ADM", "MSDSR: residual U-Net with attention, 274 M parameters"),
    "baikal": Row(
        "engine.nets.adm:BAIKAL", "Baikal: the same with learned variance, 152 M parameters"
    ),
    "unet-rcan": Row(
        "engine.nets.rcan:UNetRCAN", "UNet-RCAN: U-Net, then residual channel attention"
    ),
    "inception": Row(
        "engine.nets.inception:Inception", "Inception-v3 features of the Frechet distance"
    ),
    "alexnet": Row("engine.nets.alexnet:LPIPS", "AlexNet with the linear heads of LPIPS"),
    "calibrator": Row(
        "engine.nets.calibrator:Calibrator",
        "small residual network that predicts the noise level",
        task="calibrator",
    ),
    "resnet50": Row(
        "engine.nets.resnet:ResNetCalibrator",
        "RSCD: ResNet-50 that predicts the step, 24 M parameters",
        task="calibrator",
    ),
}

OBJECTIVES: dict[str, Row] = {
    "prior": Row("training.objectives:prior", "denoise images at any noise level (Algorithm 3)"),
    "conditional": Row(
        "training.objectives:conditional", "generate the clean image, given the degraded one"
    ),
    "conditional-baseline": Row(
        "training.objectives:baseline", "the same for noisy images (RSCD, Algorithm 4)"
    ),
    "calibrator": Row(
        "training.objectives:calibrator", "predict the noise level of an image (RSCD, Algorithm 2)"
    ),
    "slices": Row("training.objectives:slices", "fill in the hidden rows of an image (MSDSR)"),
    "ms-unet": Row(
        "training.objectives:ms_unet", "the same in one step, without diffusion (MSDSR)"
    ),
    "e2e-unet": Row("training.objectives:e2e_unet", "predict the plane between two (MSDSR)"),
    "care": Row("training.regression:care", "map a noisy image to its clean pair (CARE)"),
    "unet-synthetic": Row(
        "training.regression:care", "map an image with simulated noise to the clean one"
    ),
    "unet-rcan": Row(
        "training.regression:unet_rcan", "the same as care by UNet-RCAN, edges count too"
    ),
    "pix2pix": Row(
        "training.adversarial:pix2pix", "the same as care against a discriminator (pix2pix)"
    ),
    "cyclegan": Row(
        "training.adversarial:cyclegan", "map noisy images to the look of unpaired clean ones"
    ),
    "n2v": Row("training.regression:n2v", "predict hidden pixels of noisy images (Noise2Void)"),
    "noise2noise": Row("training.regression:noise2noise", "map one noisy exposure to another"),
    "dip": Row("training.regression:care", "map random noise to a noisy image (Deep Image Prior)"),
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
        "random DDPM steps: draws one sample of the posterior",
        commands=("restore", "superres3d"),
    ),
    "rscd": Row(
        "engine.rscd:RSCD",
        "step-calibrated diffusion: estimates again and again how many steps are left (RSCD)",
        commands=("restore",),
    ),
    "posterior": Row(
        "engine.posterior:POSTERIOR",
        "as `restore` does by default; with --samples, the mean of random restorations",
        commands=("denoise", "uncertainty"),
    ),
    "conditional": Row(
        "engine.conditional:CONDITIONAL",
        "conditional DDPM: generates the image from noise, guided by the input (DDPM microscopy)",
        commands=("denoise", "uncertainty"),
    ),
    "forward-backward": Row(
        "engine.baikal:FORWARD_BACKWARD",
        "adds some noise, then removes all of it (Baikal)",
        commands=("denoise",),
    ),
    "mixing": Row(
        "engine.baikal:MIXING",
        "as forward-backward, but mixes in the noised input after every step (Baikal)",
        commands=("denoise",),
    ),
    "repaint": Row(
        "engine.baikal:REPAINT",
        "as mixing, but repeats each interval of steps (Baikal)",
        commands=("denoise",),
    ),
    "n2v": Row(
        "engine.direct:N2V",
        "Noise2Void: a network trained on your noisy images to predict hidden pixels",
        commands=("denoise",),
    ),
    "noise2noise": Row(
        "engine.direct:NOISE2NOISE",
        "a network trained to predict one exposure from another: neighbouring frames, or --guide",
        commands=("denoise",),
    ),
    "dip": Row(
        "engine.direct:DIP",
        "Deep Image Prior: a network that makes the image from random noise, stopped early",
        commands=("denoise",),
    ),
    "care": Row(
        "engine.direct:TRAINED",
        "one call of a network trained by `train` with care, unet-synthetic, unet-rcan, pix2pix or"
        " cyclegan; needs --weights",
        commands=("denoise",),
    ),
    "median": Row("engine.classical:MEDIAN", "median of 3, 5 or 7 px", commands=("denoise",)),
    "gaussian": Row("engine.classical:GAUSSIAN", "Gaussian filter", commands=("denoise",)),
    "nl-means": Row(
        "engine.classical:NL_MEANS",
        "non-local means (Buades et al. 2011); extra `classical`",
        commands=("denoise",),
    ),
    "wavelet": Row(
        "engine.classical:WAVELET",
        "wavelet shrinkage (Chang et al. 2000); extra `classical`",
        commands=("denoise",),
    ),
    "tv": Row(
        "engine.classical:TV",
        "total variation (Chambolle 2004); extra `classical`",
        commands=("denoise",),
    ),
}


def methods(command: str) -> dict[str, Row]:
    """The rows of METHODS that a command offers."""
    return {name: row for name, row in METHODS.items() if command in row.commands}


CALIBRATORS: dict[str, Row] = {
    "analytic": Row(
        "engine.calibrators:AnalyticCalibrator", "from the noise model fitted to the image"
    ),
    "network": Row(
        "engine.calibrators:NetworkCalibrator",
        "with a trained network (RSCD)",
        task="calibrator",
    ),
    "nonparametric": Row(
        "engine.calibrators:NonparametricCalibrator",
        "from the eigenvalues of image patches (Chen et al. 2015)",
    ),
}

INTERPOLATIONS: dict[str, Row] = {
    "nearest": Row("volumes.interpolation:nearest", "copies the nearest plane"),
    "linear": Row("volumes.interpolation:linear", "linear between two planes"),
    "cubic": Row(
        "volumes.interpolation:cubic", "cubic convolution through four planes (Keys 1981)"
    ),
}

SLICE_NOISE: dict[str, Row] = {
    "shared": Row("engine.noise_field:shared", "the same noise in every slice"),
    "slerp": Row("engine.noise_field:slerp", "noise that changes slowly across slices (ISCS)"),
    "independent": Row("engine.noise_field:independent", "different noise in every slice (MSDSR)"),
}

METRICS: dict[str, Row] = {
    "mae": Row("evaluation.metrics.paired:MAE", "mean absolute error", kind="paired"),
    "mse": Row("evaluation.metrics.paired:MSE", "mean squared error", kind="paired"),
    "rmse": Row("evaluation.metrics.paired:RMSE", "root mean squared error", kind="paired"),
    "nrmse": Row("evaluation.metrics.paired:NRMSE", "RMSE over the target's mean", kind="paired"),
    "nrmse-range": Row(
        "evaluation.metrics.paired:NRMSE_RANGE", "RMSE over the target's max - min", kind="paired"
    ),
    "nrmse-norm": Row(
        "evaluation.metrics.paired:NRMSE_NORM",
        "RMSE over the target's root mean square",
        kind="paired",
    ),
    "psnr": Row("evaluation.metrics.paired:PSNR", "peak signal-to-noise ratio, dB", kind="paired"),
    "psnr-volume": Row(
        "evaluation.metrics.paired:PSNR_VOLUME",
        "PSNR of all planes as one volume, dB; finite if some planes are exact",
        kind="paired",
    ),
    "psnr-made": Row(
        "evaluation.metrics.paired:PSNR_MADE",
        "the same of the planes that differ from the target: those superres3d made",
        kind="paired",
    ),
    "ssim": Row(
        "evaluation.metrics.paired:SSIM",
        "structural similarity, Gaussian window",
        kind="paired",
    ),
    "ms-ssim": Row(
        "evaluation.metrics.paired:MS_SSIM",
        "SSIM on five scales, from 176 px",
        kind="paired",
    ),
    "pearson": Row("evaluation.metrics.paired:PEARSON", "correlation of the pixels", kind="paired"),
    "lpips": Row(
        "evaluation.metrics.features:LPIPS",
        "perceptual distance; needs weights, see --alexnet",
        kind="paired",
    ),
    "resolution": Row(
        "evaluation.metrics.decorrelation:RESOLUTION",
        "resolution of the prediction, px, by decorrelation analysis",
        kind="paired",
    ),
    "resolution-nm": Row(
        "evaluation.metrics.decorrelation:RESOLUTION_NM",
        "the same in nm, from the pixel size in the file",
        kind="paired",
    ),
    "resolution-ratio": Row(
        "evaluation.metrics.decorrelation:RESOLUTION_RATIO",
        "resolution of the prediction over that of the target (DDPM microscopy)",
        kind="paired",
    ),
    "coverage": Row(
        "evaluation.metrics.uncertainty:COVERAGE",
        "share of target pixels within lower..upper",
        kind="uncertainty",
    ),
    "width": Row(
        "evaluation.metrics.uncertainty:WIDTH", "mean width of lower..upper", kind="uncertainty"
    ),
    "interval-score": Row(
        "evaluation.metrics.uncertainty:INTERVAL_SCORE",
        "width of lower..upper plus a penalty for misses (Gneiting, Raftery 2007)",
        kind="uncertainty",
    ),
    "spearman": Row(
        "evaluation.metrics.uncertainty:SPEARMAN",
        "rank correlation of standard deviation and error",
        kind="uncertainty",
    ),
    "partial-spearman": Row(
        "evaluation.metrics.uncertainty:PARTIAL_SPEARMAN",
        "the same at equal intensity",
        kind="uncertainty",
    ),
    "ause": Row(
        "evaluation.metrics.uncertainty:AUSE",
        "area between the sparsification curve and the ideal one",
        kind="uncertainty",
    ),
    "fid": Row(
        "evaluation.metrics.features:FID",
        "Frechet inception distance to --reference; needs weights, see --inception",
        kind="set",
    ),
    "slice-fid": Row(
        "evaluation.metrics.features:SLICE_FID",
        "mean FID of XY, XZ and YZ slices of volumes (MSDSR)",
        kind="set",
    ),
    "slice-fid-colour": Row(
        "evaluation.metrics.features:SLICE_FID_COLOUR",
        "the same in equalised colours of SRH, from 2 or 3 channels (MSDSR's code)",
        kind="set",
    ),
    "frechet-prior": Row(
        "evaluation.metrics.features:FRECHET_PRIOR",
        "Frechet distance in features of the packaged prior",
        kind="set",
    ),
}
