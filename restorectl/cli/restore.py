"""`restorectl restore`: options -> job -> task -> exit code."""

from typing import Annotated

import typer

from restorectl.catalog import methods
from restorectl.cli import options as opt
from restorectl.cli.options import (
    CAMERA,
    MACHINE,
    SHARED,
    Camera,
    Machine,
    Shared,
    Strength,
    expanded,
)
from restorectl.cli.progress import reporting
from restorectl.jobs import RestoreJob

RSCD = "Step-calibrated diffusion (--sampler rscd)"

SamplerChoice = Annotated[opt.Sampler, typer.Option(help=opt.choices(methods("restore")))]
Steps = Annotated[
    str,
    typer.Option(metavar="auto|N", help="Network calls for each window; rscd counts its own."),
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
ScheduleChoice = Annotated[
    opt.Schedule | None,
    typer.Option(help="Whose single steps are taken. Default: the preset's.", rich_help_panel=RSCD),
]
LevelChoice = Annotated[
    opt.Level,
    typer.Option(
        help="image: one noise level for the whole image · map: a smooth map of levels, where they"
        " differ by more than half over the image; fine texture can be taken for noise."
    ),
]
StepMap = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Also write STEM_steps.tif there: the steps of diffusion that were left, by place.",
        rich_help_panel=opt.OUTPUT,
    ),
]


@expanded
def restore(
    output: opt.Output,
    inputs: opt.Inputs = None,
    weights: opt.Weights = "prior",
    sampler: SamplerChoice = opt.Sampler("ddim"),
    steps: Steps = "auto",
    strength: Strength = 1.0,
    level: LevelChoice = opt.Level.image,
    preset: PresetChoice = opt.Preset.restorectl,
    recalibrate: Recalibrate = None,
    schedule: ScheduleChoice = None,
    camera: Camera = CAMERA,
    machine: Machine = MACHINE,
    shared: Shared = SHARED,
    step_map: StepMap = None,
) -> None:
    """Restore images: remove the noise that the image model finds, keep dtype and metadata.

    Example: restorectl restore data/ -o restored/
    """
    job = RestoreJob(
        files=opt.files(locals()),
        compute=machine.compute(),
        noise=camera.noise_options(),
        weights=weights,
        steps=opt.automatic("--steps", steps),
        strength=strength,
        calibrator=camera.calibrator.value,
        calibrator_weights=camera.calibrator_weights,
        weights_from=machine.weights_from(),
        sampler=sampler.value,
        preset=preset.value,
        recalibrate=recalibrate,
        schedule=None if schedule is None else schedule.value,
        step_map=step_map,
        level=level.value,
    )
    with reporting(**shared.view()) as report:
        from restorectl.restoration.restore import restore as run

        run(job, report)
    raise typer.Exit(report.exit_code())
