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

    def load(self) -> Any:
        """Import the row's attribute."""
        module, attribute = self.target.split(":")
        return getattr(import_module(f"restorectl.{module}"), attribute)


FORMATS: dict[str, Row] = {
    "tiff": Row(
        "io.tiff:FORMAT",
        "TIFF, BigTIFF, ImageJ hyperstack, OME-TIFF",
        (".tif", ".tiff", ".btf", ".tf8"),
    ),
    "png": Row("io.raster:PNG", "PNG, 8 or 16 bit, grey or RGB", (".png",)),
    "jpeg": Row("io.raster:JPEG", "JPEG, read only: results become PNG", (".jpg", ".jpeg")),
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
    "prior": Row("engine.objectives:prior", "denoise clean images at any level (Algorithm 3)"),
    "conditional": Row(
        "engine.objectives:conditional", "generate, given a noisy image (Algorithm 4)"
    ),
    "calibrator": Row(
        "engine.objectives:calibrator", "tell the noise level of an image (Algorithm 2)"
    ),
}

SAMPLERS: dict[str, Row] = {
    "ddim": Row("engine.samplers:ddim", "one or a few deterministic steps (Song et al. 2021)"),
    "dpmpp": Row("engine.samplers:dpmpp", "DPM-Solver++(2M), deterministic (Lu et al. 2022)"),
    "ancestral": Row(
        "engine.samplers:ancestral", "stochastic DDPM steps, a draw from the posterior"
    ),
    "rscd": Row(
        "engine.rscd:sampler",
        "step-calibrated diffusion: asks again and again how many steps are left (paper 000)",
    ),
}

CALIBRATORS: dict[str, Row] = {
    "analytic": Row("engine.calibration:analytic", "the level of the intensity model"),
    "network": Row("engine.calibration:network", "a trained calibrator network (paper 000)"),
    "nonparametric": Row(
        "engine.calibration:nonparametric", "eigenvalues of patches (Chen et al. 2015)"
    ),
}
