"""`restorectl uncertainty`: options -> job -> restoration -> exit code."""

import sys

import typer

from restorectl.cli import options as opt
from restorectl.cli.options import option
from restorectl.jobs import UncertaintyJob

BARS = "Error bars"


@opt.command
def uncertainty(
    *,
    output: str = option(
        ...,
        "Folder, created if needed, for the maps STEM_mean.tif, _std, _entropy, _lower, _upper,"
        " _trust and STEM_overview.png; with --calibrate, a YAML file.",
        "-o",
        metavar="OUT",
        often=True,
    ),
    inputs: tuple[str, ...] = opt.INPUTS,
    source: str = option(
        "posterior",
        "Where restorations come from.",
        choices={
            "posterior": "random samples of the model prior, given the image",
            "conditional": "random samples of the conditional DDPM",
        },
    ),
    weights: str | None = opt.OWN_WEIGHTS,
    samples: int = option(15, "Restorations per image, at least 2.", min=2, often=True),
    steps: int | None = option(
        "auto", "Network calls per restoration; auto: 10.", parse=opt.automatic, metavar="auto|N"
    ),
    variance: str = option(
        "analytic",
        "For posterior: variance of the noise in each step. analytic includes the uncertainty of"
        " the clean image; without it, few steps give too little spread.",
        choices=opt.VARIANCES,
    ),
    interval: float = option(
        0.9,
        "Share of pixels whose true value should lie inside.",
        panel=BARS,
        metavar="P",
        parse=opt.share,
        often=True,
    ),
    calibration: str = option(
        "auto",
        "How much to widen the error bars, as measured by --calibrate; auto: the file that comes"
        " with the model or, where it does not fit an image, self: measured on each image itself.",
        panel=BARS,
        metavar="auto|self|none|FILE.yaml",
    ),
    calibrate: str | None = option(
        None,
        "Instead of maps, write a calibration to OUT. DIR: measured with the true images in this"
        " folder, which are named like the inputs; self: on the noisy images alone; repeats: on"
        " exposures of the same field, which are in one folder.",
        panel=BARS,
        metavar="DIR|self|repeats",
    ),
    scale: str = option(
        "none",
        "With --calibrate: how true images are first fitted to the restorations; affine if"
        " exposures differ in gain or offset.",
        panel=BARS,
        choices=("none", "affine"),
    ),
    context: str = opt.context("auto"),
    reach: int = opt.REACH,
    calibrator: str = opt.CALIBRATOR,
    calibrator_weights: str | None = opt.CALIBRATOR_WEIGHTS,
    camera: opt.Camera,
    machine: opt.Machine,
    models: opt.Models,
    shared: opt.Shared,
) -> None:
    """Restore each image many times: write the mean, the spread, and error bars for each pixel.

    Examples:
        restorectl uncertainty data/ -o maps/ --samples 15
        restorectl uncertainty data/ -o mine.yaml --calibrate self
    """
    job = UncertaintyJob(
        files=shared.files(inputs, output),
        compute=machine,
        noise=camera,
        weights=weights,
        steps=steps,
        samples=samples,
        calibrator=calibrator,
        calibrator_weights=calibrator_weights,
        weights_from=models,
        source=source,
        variance=variance,
        interval=interval,
        calibration=calibration,
        context=context,
        reach=reach,
    )
    with shared.reporting() as report:
        from restorectl.restoration import error_bars
        from restorectl.restoration.uncertainty import uncertainty as run

        if calibrate is None:
            run(job, report)
        else:
            sys.stdout.write(error_bars.table(error_bars.calibrate(job, calibrate, scale, report)))
    raise typer.Exit(report.exit_code())
