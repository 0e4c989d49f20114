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
    sampler: str = option(
        "ddim",
        "Method of restoration.",
        choices=methods("restore"),
        often=True,
    ),
    steps: int | None = option(
        "auto",
        "Network calls per tile; the sampler rscd decides for itself.",
        parse=opt.automatic,
        metavar="auto|N",
    ),
    strength: float = opt.STRENGTH,
    start_step: float | None = opt.START_STEP,
    level: str = option(
        "auto",
        "Noise levels within an image.",
        choices={
            "auto": "a map if noise alone can be the reason",
            "image": "one noise level for the whole image",
            "map": "a smooth map of noise levels, if they differ by more than a third within the"
            " image; it can mistake fine texture for noise",
        },
    ),
    context: str = opt.context("auto"),
    reach: int = opt.REACH,
    orientations: int = opt.ORIENTATIONS,
    preset: str = option(
        "restorectl",
        "Settings.",
        panel=RSCD,
        choices={
            "restorectl": "our own",
            "paper": "Algorithm 1 as printed",
            "official": "as in the published code",
        },
    ),
    recalibrate: int | None = option(
        None,
        "Steps after which the noise level is measured again; 0: never. Default: as in the preset,"
        " 10.",
        panel=RSCD,
        min=0,
    ),
    rounds: str | None = option(
        None,
        "Where the noise level is measured again. Default: as in the preset, image.",
        panel=RSCD,
        choices={
            "image": "on sampled tiles, the same for the whole image, without seams",
            "patch": "on each tile, as in the paper",
        },
    ),
    schedule: str | None = option(
        None,
        "Noise schedule whose steps are taken. Default: as in the preset.",
        panel=RSCD,
        choices=opt.SCHEDULES,
    ),
    dtype: str = opt.DTYPE,
    calibrator: str = opt.CALIBRATOR,
    calibrator_weights: str | None = opt.CALIBRATOR_WEIGHTS,
    camera: opt.Camera,
    machine: opt.Machine,
    models: opt.Models,
    shared: opt.Shared,
    preview: bool = opt.PREVIEW,
    step_map: str | None = option(
        None,
        "Also write a map of the noise, in diffusion steps, to this folder: STEM_steps.tif, one"
        " pixel for 64 x 64 of the image.",
        panel=opt.OUTPUT,
        metavar="DIR",
    ),
) -> None:
    """Remove noise from images; their metadata stay the same.

    Examples:
        restorectl restore data/ -o restored/
        restorectl restore data/cells.tif -o cells.png --strength 0.8
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
        rounds=rounds,
        start_step=start_step,
        schedule=schedule,
        step_map=step_map,
        level=level,
        orientations=orientations,
        dtype=dtype,
        preview=preview,
        context=context,
        reach=reach,
    )
    with shared.reporting() as report:
        from restorectl.restoration.restore import restore as run

        run(job, report)
    raise typer.Exit(report.exit_code())
