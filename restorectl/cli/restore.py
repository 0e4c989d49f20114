"""`restorectl restore`: options -> job -> task -> exit code."""

from typing import Annotated

import typer

from restorectl.catalog import CALIBRATORS, SAMPLERS
from restorectl.cli import options as opt
from restorectl.cli.report import reporting
from restorectl.core.jobs import NoiseOptions, RestoreJob

NOISE, RSCD = "Noise of the camera", "Step-calibrated diffusion (--sampler rscd)"
CALIBRATOR_HELP = " · ".join(f"{name}: {row.help}" for name, row in CALIBRATORS.items())
SAMPLER_HELP = " · ".join(f"{name}: {row.help}" for name, row in SAMPLERS.items())


def restore(
    output: opt.Output,
    inputs: opt.Inputs = None,
    weights: opt.Weights = "prior",
    sampler: Annotated[opt.Sampler, typer.Option(help=SAMPLER_HELP)] = opt.Sampler("ddim"),
    steps: Annotated[
        str, typer.Option(metavar="auto|N", help="Network calls for each window.")
    ] = "auto",
    strength: Annotated[
        float,
        typer.Option(min=0.0, max=10.0, help="Factor on the noise level that is to be removed."),
    ] = 1.0,
    calibrator: Annotated[
        opt.Calibrator,
        typer.Option(help="What decides the level to start from. " + CALIBRATOR_HELP),
    ] = opt.Calibrator("analytic"),
    calibrator_weights: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Weights of the network calibrator.")
    ] = "calibrator",
    preset: Annotated[
        opt.Preset,
        typer.Option(
            help="Loop of the rscd sampler. paper: Algorithm 1 as printed · official: the"
            " published code's.",
            rich_help_panel=RSCD,
        ),
    ] = opt.Preset.restorectl,
    recalibrate: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Steps of the rscd sampler between two calibrations; 0 = calibrate once."
            " Default: the preset's (10).",
            rich_help_panel=RSCD,
        ),
    ] = None,
    noise: Annotated[
        opt.Noise,
        typer.Option(
            help="auto estimates the noise from the image; none removes nothing.",
            rich_help_panel=NOISE,
        ),
    ] = opt.Noise.auto,
    gain: Annotated[
        float | None,
        typer.Option(help="Grey levels for each photo-electron.", rich_help_panel=NOISE),
    ] = None,
    offset: Annotated[
        float | None, typer.Option(help="Grey level without light.", rich_help_panel=NOISE)
    ] = None,
    read_noise: Annotated[
        float | None,
        typer.Option(help="Standard deviation without light, grey levels.", rich_help_panel=NOISE),
    ] = None,
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
        files=opt.files(
            inputs,
            output,
            pattern=pattern,
            files_from=files_from,
            shard=shard,
            overwrite=overwrite,
            axes=axes,
            channels=channels,
            dry_run=dry_run,
            manifest=manifest,
        ),
        compute=opt.compute(device, precision, tile, batch, seed),
        noise=NoiseOptions(noise.value, gain, offset, read_noise),
        weights=weights,
        sampler=sampler.value,
        steps=opt.automatic("--steps", steps),
        strength=strength,
        calibrator=calibrator.value,
        calibrator_weights=calibrator_weights,
        preset=preset.value,
        recalibrate=recalibrate,
    )
    with reporting(quiet=quiet, json_lines=json_lines) as report:
        from restorectl.tasks.restore import run

        run(job, report)
    raise typer.Exit(report.exit_code())
