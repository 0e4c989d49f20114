"""`restorectl superres3d`: options -> job -> task -> exit code."""

from collections.abc import Mapping
from enum import StrEnum
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from restorectl.catalog import INTERPOLATIONS, SLICE_NOISE, methods
from restorectl.cli import options as opt
from restorectl.cli.options import MACHINE, SHARED, Machine, Shared, expanded
from restorectl.cli.progress import reporting
from restorectl.errors import UsageError
from restorectl.jobs import SuperresJob

STACK, MODEL = "The stack", "The model"

Method = StrEnum("Method", ["diffusion", *INTERPOLATIONS])  # type: ignore[misc]
FEW = methods("superres3d")
Few = StrEnum("Few", list(FEW))  # type: ignore[misc]
SliceNoise = StrEnum("SliceNoise", list(SLICE_NOISE))  # type: ignore[misc]
DIFFUSION, DDIM, ONE = Method("diffusion"), Few("ddim"), SliceNoise("shared")
Sweeps = StrEnum("Sweeps", ["both", "xz", "yz"])
Anchor = StrEnum("Anchor", ["auto", "linear", "cubic"])

Factor = Annotated[
    str,
    typer.Option(
        metavar="auto|N",
        help="Planes for each observed one, 2 to 8. auto: what makes the file's spacing isotropic.",
        rich_help_panel=STACK,
    ),
]
Spacing = Annotated[
    str | None,
    typer.Option(
        metavar="Z,Y,X",
        help="Micrometres between planes, rows and columns, where the file does not say.",
        rich_help_panel=STACK,
    ),
]
KeepObserved = Annotated[
    bool,
    typer.Option(
        "--keep-observed/--no-keep-observed",
        help="Observed planes come back bit by bit, also under --smooth.",
        rich_help_panel=STACK,
    ),
]
Smooth = Annotated[
    bool,
    typer.Option(
        "--smooth",
        help="3x3x3 Gaussian of 0.5 px at the end (paper 003; helps at factor 8).",
        rich_help_panel=STACK,
    ),
]
MethodChoice = Annotated[
    Method,
    typer.Option(help="diffusion, or plain interpolation: " + opt.choices(INTERPOLATIONS)),
]
SweepsChoice = Annotated[
    Sweeps,
    typer.Option(help="Slices that are restored: XZ and YZ averaged, or one of them.",
                 rich_help_panel=MODEL),
]  # fmt: skip
AnchorChoice = Annotated[
    Anchor,
    typer.Option(
        help="Interpolation that the model adds to. auto leaves out observed planes and takes the"
        " one that predicts them better.",
        rich_help_panel=MODEL,
    ),
]
Strength = Annotated[
    str,
    typer.Option(
        metavar="auto|0..1",
        help="Share of the model in the result, the rest is cubic interpolation. auto: what"
        " predicts left-out planes best; 1 with --anchor linear.",
        rich_help_panel=MODEL,
    ),
]
SamplerChoice = Annotated[Few, typer.Option(help=opt.choices(FEW), rich_help_panel=MODEL)]
Steps = Annotated[
    str,
    typer.Option(
        metavar="auto|N",
        help="Network calls for each slice: 1 is the best estimate, 8 and more draw full detail.",
        rich_help_panel=MODEL,
    ),
]
Samples = Annotated[
    int,
    typer.Option(min=1, help="Restorations that are averaged.", rich_help_panel=MODEL),
]
NoiseChoice = Annotated[
    SliceNoise,
    typer.Option(
        help="Random numbers of neighbouring slices. " + opt.choices(SLICE_NOISE),
        rich_help_panel=MODEL,
    ),
]
Preview = Annotated[
    bool,
    typer.Option(
        "--preview",
        help="Also write STEM_preview.png: XY, XZ and YZ before and after.",
        rich_help_panel=opt.OUTPUT,
    ),
]


@expanded
def superres3d(
    output: opt.Output,
    inputs: opt.Inputs = None,
    weights: opt.Weights = "slices",
    method: MethodChoice = DIFFUSION,
    factor: Factor = "auto",
    spacing: Spacing = None,
    keep_observed: KeepObserved = True,
    smooth: Smooth = False,
    sweeps: SweepsChoice = Sweeps.both,
    anchor: AnchorChoice = Anchor.auto,
    strength: Strength = "auto",
    sampler: SamplerChoice = DDIM,
    steps: Steps = "auto",
    samples: Samples = 1,
    slice_noise: NoiseChoice = ONE,
    machine: Machine = MACHINE,
    shared: Shared = SHARED,
    preview: Preview = False,
) -> None:
    """Make stacks isotropic: restore the planes between the observed ones.

    N planes at factor f become (N - 1) f + 1, with the new spacing in the file.

    Example: restorectl superres3d stacks/ -o isotropic/ --spacing 1,0.25,0.25
    """
    job = _job(locals())
    with reporting(**shared.view()) as report:
        from restorectl.volumes.superres3d import superres3d as run

        run(job, report)
    raise typer.Exit(report.exit_code())


def _job(given: Mapping[str, Any]) -> SuperresJob:
    """The job from the command's options; `given` holds them by name."""
    g = SimpleNamespace(**given)
    return SuperresJob(
        opt.files(given),
        g.machine.compute(),
        g.weights,
        g.method.value,
        opt.automatic("--factor", g.factor),
        _spacing(g.spacing),
        g.sweeps.value,
        g.anchor.value,
        None if g.strength == "auto" else _number("--strength", g.strength),
        g.sampler.value,
        opt.automatic("--steps", g.steps),
        g.samples,
        g.slice_noise.value,
        g.keep_observed,
        g.smooth,
        g.preview,
        g.machine.weights_from(),
    )


def _spacing(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    z, y, x = [*(_number("--spacing", part) for part in text.split(",")), *[0.0] * 3][:3]
    if text.count(",") != 2:
        raise UsageError(f"--spacing {text}: use three numbers, Z,Y,X, such as 1,0.25,0.25")
    return z, y, x


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{option} {text}: not a number") from error
