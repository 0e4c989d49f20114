"""`restorectl restore`: options -> job -> restoration -> exit code."""

import typer

from restorectl.catalog import methods
from restorectl.cli import options as opt
from restorectl.cli.options import option
from restorectl.jobs import RestoreJob

RSCD = "Step-calibrated diffusion (--sampler rscd)"


@opt.command
def restore(
    *,
    output: str = opt.RESULTS,
    inputs: tuple[str, ...] = opt.INPUTS,
    weights: str = opt.weights_option("prior"),
    sampler: str = option("ddim", opt.explained(methods("restore")), choices=methods("restore")),
    steps: int | None = option(
        "auto",
        "Network calls for each window; rscd counts its own.",
        parse=opt.automatic,
        metavar="auto|N",
    ),
    strength: float = opt.STRENGTH,
    level: str = option(
        "image",
        "image: one noise level for the whole image · map: a smooth map of levels, where they"
        " differ by more than half over the image; fine texture can be taken for noise.",
        choices=("image", "map"),
    ),
    preset: str = option(
        "restorectl",
        "paper: Algorithm 1 as printed · official: the published code's loop.",
        panel=RSCD,
        choices=("restorectl", "paper", "official"),
    ),
    recalibrate: int | None = option(
        None,
        "Steps between two calibrations, 0 = calibrate once. Default: the preset's, 10.",
        panel=RSCD,
        min=0,
    ),
    schedule: str | None = option(
        None,
        "Whose single steps are taken. Default: the preset's.",
        panel=RSCD,
        choices=opt.SCHEDULES,
    ),
    calibrator: str = opt.CALIBRATOR,
    calibrator_weights: str = opt.CALIBRATOR_WEIGHTS,
    camera: opt.Camera,
    machine: opt.Machine,
    models: opt.Models,
    shared: opt.Shared,
    step_map: str | None = option(
        None,
        "Also write STEM_steps.tif there: the steps of diffusion that were left, by place.",
        panel=opt.OUTPUT,
        metavar="DIR",
    ),
) -> None:
    """Restore images: remove the noise that the image model finds, keep dtype and metadata.

    Example: restorectl restore data/ -o restored/
    """
    job = RestoreJob(
        files=shared.files(inputs, output),
        compute=machine,
        noise=camera,
        weights=weights,
        steps=steps,
        strength=strength,
        calibrator=calibrator,
        calibrator_weights=calibrator_weights,
        weights_from=models,
        sampler=sampler,
        preset=preset,
        recalibrate=recalibrate,
        schedule=schedule,
        step_map=step_map,
        level=level,
    )
    with shared.reporting() as report:
        from restorectl.restoration.restore import restore as run

        run(job, report)
    raise typer.Exit(report.exit_code())
