"""`restorectl uncertainty`: options -> job -> task -> exit code."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from restorectl.cli import options as opt
from restorectl.cli.options import (
    CAMERA,
    MACHINE,
    SHARED,
    Camera,
    Machine,
    OwnWeights,
    Shared,
    Variance,
    expanded,
)
from restorectl.cli.progress import reporting
from restorectl.jobs import UncertaintyJob

Source = StrEnum("Source", ["posterior", "conditional"])
Scale = StrEnum("Scale", ["none", "affine"])

BARS = "Error bars"

Folder = Annotated[
    str,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="Folder (made if needed) of the maps STEM_mean.tif, _std, _entropy, _lower, _upper"
        " and STEM_overview.png; with --calibrate, a YAML file.",
    ),
]
SourceChoice = Annotated[
    Source,
    typer.Option(
        help="posterior: draws from the unconditional prior, given the image · conditional: the"
        " conditional DDPM."
    ),
]
Samples = Annotated[int, typer.Option(metavar="N", help="Restorations of each image, 2 or more.")]
Steps = Annotated[
    str, typer.Option(metavar="auto|N", help="Network calls of one sample; auto: 10.")
]
VarianceChoice = Annotated[
    Variance,
    typer.Option(
        help="posterior: of the noise in each step; analytic adds what x0 is uncertain by, without"
        " which few steps have too little spread."
    ),
]
Interval = Annotated[
    float,
    typer.Option(
        metavar="P", help="Share of pixels whose true value lies inside.", rich_help_panel=BARS
    ),
]
Calibration = Annotated[
    str,
    typer.Option(
        metavar="auto|none|FILE.yaml",
        help="How much wider than the samples the truth lies; auto: what comes with the weights.",
        rich_help_panel=BARS,
    ),
]
Calibrate = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Do not write maps: measure the error on images named like the inputs in this"
        " folder, their truth, and write a calibration to OUT.",
        rich_help_panel=BARS,
    ),
]
ScaleChoice = Annotated[
    Scale,
    typer.Option(
        help="With --calibrate, how the truth is first fitted to the restoration; affine where"
        " exposures differ in gain or offset.",
        rich_help_panel=BARS,
    ),
]


@expanded
def uncertainty(
    output: Folder,
    inputs: opt.Inputs = None,
    source: SourceChoice = Source.posterior,
    weights: OwnWeights = None,
    samples: Samples = 15,
    steps: Steps = "auto",
    variance: VarianceChoice = Variance.analytic,
    interval: Interval = 0.9,
    calibration: Calibration = "auto",
    calibrate: Calibrate = None,
    scale: ScaleChoice = Scale.none,
    camera: Camera = CAMERA,
    machine: Machine = MACHINE,
    shared: Shared = SHARED,
) -> None:
    """Restore each image many times: the mean, how far the restorations differ, and error bars.

    Example: restorectl uncertainty data/ -o maps/ --samples 15
    """
    job = UncertaintyJob(
        files=opt.files(locals()),
        compute=machine.compute(),
        noise=camera.noise_options(),
        weights=weights,
        steps=opt.automatic("--steps", steps),
        samples=samples,
        calibrator=camera.calibrator.value,
        calibrator_weights=camera.calibrator_weights,
        weights_from=machine.weights_from(),
        source=source.value,
        variance=variance.value,
        interval=interval,
        calibration=calibration,
    )
    with reporting(**shared.view()) as report:
        from restorectl.restoration import error_bars
        from restorectl.restoration.uncertainty import uncertainty as run

        if calibrate is None:
            run(job, report)
        else:
            found = error_bars.calibrate(job, calibrate, scale.value, report)
            sys.stdout.write(error_bars.table(found))
    raise typer.Exit(report.exit_code())
