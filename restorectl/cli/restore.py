"""`restorectl restore`: options -> job -> task -> exit code."""

from typing import Annotated

import typer

from restorectl.catalog import CALIBRATORS, SAMPLERS
from restorectl.cli import options as opt
from restorectl.cli.report import reporting
from restorectl.core.jobs import NoiseOptions, RestoreJob

NOISE, RSCD = "Noise of the camera", "Step-calibrated diffusion (--sampler rscd)"

SamplerChoice = Annotated[opt.Sampler, typer.Option(help=opt.choices(SAMPLERS))]
Steps = Annotated[
    str,
    typer.Option(metavar="auto|N", help="Network calls for each window; rscd counts its own."),
]
Strength = Annotated[
    float, typer.Option(min=0.0, max=10.0, help="Factor on the noise level that is removed.")
]
CalibratorChoice = Annotated[
    opt.Calibrator,
    typer.Option(help="What decides the level to start from. " + opt.choices(CALIBRATORS)),
]
CalibratorWeights = Annotated[
    str, typer.Option(metavar="NAME|FILE", help="Weights of the network calibrator.")
]
PresetChoice = Annotated[
    opt.Preset,
    typer.Option(
        help="paper: Algorithm 1 as printed · official: the published code's loop.",
        rich_help_panel=RSCD,
    ),
]
Recalibrate = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Steps between two calibrations, 0 = calibrate once. Default: the preset's, 10.",
        rich_help_panel=RSCD,
    ),
]
NoiseChoice = Annotated[
    opt.Noise,
    typer.Option(
        help="auto estimates the noise from the image; none removes nothing.",
        rich_help_panel=NOISE,
    ),
]
Gain = Annotated[
    float | None, typer.Option(help="Grey levels for each photo-electron.", rich_help_panel=NOISE)
]
Offset = Annotated[
    float | None, typer.Option(help="Grey level without light.", rich_help_panel=NOISE)
]
ReadNoise = Annotated[
    float | None,
    typer.Option(help="Standard deviation without light, grey levels.", rich_help_panel=NOISE),
]


def restore(
    output: opt.Output,
    inputs: opt.Inputs = None,
    weights: opt.Weights = "prior",
    sampler: SamplerChoice = opt.Sampler("ddim"),
    steps: Steps = "auto",
    strength: Strength = 1.0,
    calibrator: CalibratorChoice = opt.Calibrator("analytic"),
    calibrator_weights: CalibratorWeights = "calibrator",
    preset: PresetChoice = opt.Preset.restorectl,
    recalibrate: Recalibrate = None,
    noise: NoiseChoice = opt.Noise.auto,
    gain: Gain = None,
    offset: Offset = None,
    read_noise: ReadNoise = None,
    axes: opt.Axes = None,
    channels: opt.Channels = None,
    pattern: opt.Pattern = None,
    files_from: opt.FilesFrom = None,
    shard: opt.Shard = "1/1",
    overwrite: opt.Overwrite = False,
    device: opt.Device = "auto",
    precision: opt.PrecisionOption = opt.Precision.auto,
    tile: opt.Tile = "auto",
    batch: opt.Batch = "auto",
    seed: opt.Seed = 0,
    dry_run: opt.DryRun = False,
    json_lines: opt.Json = False,
    quiet: opt.Quiet = False,
    manifest: opt.Manifest = None,
) -> None:
    """Restore images: remove the noise that the image model finds, keep dtype and metadata.

    Example: restorectl restore data/ -o restored/
    """
    job = RestoreJob(
        opt.files(locals()),
        opt.compute(device, precision, tile, batch, seed),
        NoiseOptions(noise.value, gain, offset, read_noise),
        weights,
        sampler.value,
        opt.automatic("--steps", steps),
        strength,
        calibrator.value,
        calibrator_weights,
        preset.value,
        recalibrate,
    )
    with reporting(quiet=quiet, json_lines=json_lines) as report:
        from restorectl.tasks.restore import run

        run(job, report)
    raise typer.Exit(report.exit_code())
