"""`restorectl uncertainty`: options -> job -> restoration -> exit code."""

import sys

import typer

from restorectl.catalog import methods
from restorectl.cli import options as opt
from restorectl.cli.options import option
from restorectl.jobs import UncertaintyJob

BARS = "Error bars"


@opt.command
def uncertainty(
    *,
    output: str = option(
        ...,
        "Folder (made if needed) of the maps STEM_mean.tif, _std, _entropy, _lower, _upper and"
        " STEM_overview.png; with --calibrate, a YAML file.",
        "-o",
        metavar="OUT",
    ),
    inputs: tuple[str, ...] = opt.INPUTS,
    source: str = option(
        "posterior",
        "posterior: draws from the unconditional prior, given the image · conditional: the"
        " conditional DDPM.",
        choices=methods("uncertainty"),
    ),
    weights: str | None = opt.OWN_WEIGHTS,
    samples: int = option(15, "Restorations of each image, 2 or more.", metavar="N"),
    steps: int | None = option(
        "auto", "Network calls of one sample; auto: 10.", parse=opt.automatic, metavar="auto|N"
    ),
    variance: str = option(
        "analytic",
        "posterior: of the noise in each step; analytic adds what x0 is uncertain by, without"
        " which few steps have too little spread.",
        choices=opt.VARIANCES,
    ),
    interval: float = option(
        0.9, "Share of pixels whose true value lies inside.", panel=BARS, metavar="P"
    ),
    calibration: str = option(
        "auto",
        "How much wider than the samples the truth lies; auto: what comes with the weights.",
        panel=BARS,
        metavar="auto|none|FILE.yaml",
    ),
    calibrate: str | None = option(
        None,
        "Do not write maps: measure the error on images named like the inputs in this folder,"
        " their truth, and write a calibration to OUT.",
        panel=BARS,
        metavar="DIR",
    ),
    scale: str = option(
        "none",
        "With --calibrate, how the truth is first fitted to the restoration; affine where"
        " exposures differ in gain or offset.",
        panel=BARS,
        choices=("none", "affine"),
    ),
    calibrator: str = opt.CALIBRATOR,
    calibrator_weights: str = opt.CALIBRATOR_WEIGHTS,
    camera: opt.Camera,
    machine: opt.Machine,
    models: opt.Models,
    shared: opt.Shared,
) -> None:
    """Restore each image many times: the mean, how far the restorations differ, and error bars.

    Example: restorectl uncertainty data/ -o maps/ --samples 15
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
    )
    with shared.reporting() as report:
        from restorectl.restoration import error_bars
        from restorectl.restoration.uncertainty import uncertainty as run

        if calibrate is None:
            run(job, report)
        else:
            sys.stdout.write(error_bars.table(error_bars.calibrate(job, calibrate, scale, report)))
    raise typer.Exit(report.exit_code())
