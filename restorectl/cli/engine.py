"""The options of every command that runs a model, declared once and taken as one."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from restorectl.catalog import CALIBRATORS
from restorectl.cli import options as opt
from restorectl.core.jobs import Compute, NoiseOptions, WeightsOptions

Variance = StrEnum("Variance", ["analytic", "ancestral"])

Strength = Annotated[
    float, typer.Option(min=0.0, max=10.0, help="Factor on the noise level that is removed.")
]
OwnWeights = Annotated[
    str | None,
    typer.Option(
        "-w",
        "--weights",
        metavar="NAME|FILE|hf://...",
        help="Model: its name, a file, or hf://org/name[@revision]/file.safetensors. Default: the"
        " embedded one, `conditional` for what is called so, else `prior`.",
    ),
]
CalibratorChoice = Annotated[
    opt.Calibrator,
    typer.Option(help="What decides the level to start from. " + opt.choices(CALIBRATORS)),
]
CalibratorWeights = Annotated[
    str, typer.Option(metavar="NAME|FILE|hf://...", help="Weights of the network calibrator.")
]


@dataclass(frozen=True)
class Machine:
    """Where and how to compute, and where models come from; see `shared.expanded`."""

    device: opt.Device = "auto"
    precision: opt.PrecisionOption = opt.Precision.auto
    tile: opt.Tile = "auto"
    batch: opt.Batch = "auto"
    seed: opt.Seed = 0
    registry: opt.Registry = None
    offline: opt.Offline = False

    def compute(self) -> Compute:
        return opt.compute(self.device, self.precision, self.tile, self.batch, self.seed)

    def weights_from(self) -> WeightsOptions:
        return WeightsOptions(self.registry, self.offline)


@dataclass(frozen=True)
class Camera:
    """The noise of the image, and what measures its level; see `shared.expanded`."""

    calibrator: CalibratorChoice = opt.Calibrator("analytic")
    calibrator_weights: CalibratorWeights = "calibrator"
    noise: opt.NoiseChoice = opt.Noise.auto
    gain: opt.Gain = None
    offset: opt.Offset = None
    read_noise: opt.ReadNoise = None

    def noise_options(self) -> NoiseOptions:
        return NoiseOptions(self.noise.value, self.gain, self.offset, self.read_noise)


MACHINE, CAMERA = Machine(), Camera()
