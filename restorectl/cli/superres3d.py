"""`restorectl superres3d`: options -> job -> volumes -> exit code."""

from dataclasses import replace

import typer

from restorectl.catalog import INTERPOLATIONS, SLICE_NOISE, methods
from restorectl.cli import options as opt
from restorectl.cli.options import option
from restorectl.errors import UsageError
from restorectl.jobs import SuperresJob

STACK, MODEL = "The stack", "The model"
SAMPLERS = methods("superres3d")


def spacing_numbers(option: str, text: str) -> tuple[float, float, float]:
    """Parse micrometres in z, y and x. Raises UsageError."""
    found = [opt.number(option, part, float, {"above": 0}) for part in text.split(",")]
    if len(found) != 3:
        raise UsageError(f"{option} {text}: use three numbers, Z,Y,X, such as 1,0.25,0.25")
    return found[0], found[1], found[2]


def planes(option: str, text: str) -> float | None:
    """Parse `auto` to None, or a factor. Raises UsageError."""
    if text == "auto":
        return None
    factor = opt.number(option, text, float, {"min": 1, "max": 8})
    return int(factor) if factor == int(factor) else factor


@opt.command
def superres3d(
    *,
    output: str = opt.RESULTS,
    inputs: tuple[str, ...] = opt.INPUTS,
    weights: str = opt.weights_option("slices"),
    method: str = option(
        "diffusion",
        "How the planes between are made.",
        choices={"diffusion": "with a model"}
        | {name: row.help for name, row in INTERPOLATIONS.items()},
        often=True,
    ),
    factor: float | None = option(
        "auto",
        "Planes of the result per recorded plane, up to 8. auto: the whole number that makes the"
        " spacing most nearly isotropic; with others, such as 2.5, fewer planes are recorded ones.",
        panel=STACK,
        parse=planes,
        metavar="auto|N",
        often=True,
    ),
    spacing: tuple[float, float, float] | None = option(
        None,
        "Micrometres between planes, rows and columns, if the file does not record them.",
        panel=STACK,
        parse=spacing_numbers,
        metavar="Z,Y,X",
        often=True,
    ),
    rows: bool = option(
        False,
        "Make rows between the recorded rows of each plane, in place of planes: for images of which"
        " every second, third, ... row was recorded.",
        panel=STACK,
    ),
    keep_observed: bool = option(
        True,
        "Leave recorded planes exactly as they are (except repaired hot pixels), also with"
        " --smooth.",
        "--keep-observed/--no-keep-observed",
        panel=STACK,
    ),
    smooth: bool = option(
        False,
        "Smooth the result with a 3x3x3 Gaussian of 0.5 px (MSDSR; helps at factor 8).",
        panel=STACK,
    ),
    invalid: str = replace(opt.INVALID, panel=STACK),
    hot_pixels: str = replace(opt.HOT_PIXELS, panel=STACK),
    dtype: str = opt.DTYPE,
    sweeps: str = option(
        "both",
        "Slices to restore: XZ, YZ, or both, averaged.",
        panel=MODEL,
        choices=("both", "xz", "yz"),
    ),
    anchor: str = option(
        "auto",
        "Interpolation that the model corrects. auto: the one that is nearer to the truth on"
        " lateral lines of the stack that stand in for axial ones.",
        panel=MODEL,
        choices=("auto", "linear", "cubic"),
    ),
    strength: float | None = option(
        "auto",
        "Share of the model in the result; the rest is interpolation. auto: the share that is"
        " nearest to the truth in the same test, or 1 with --anchor linear.",
        panel=MODEL,
        parse=opt.auto_or_number,
        metavar="auto|0..1",
    ),
    sampler: str = option("ddim", "Steps of the model.", panel=MODEL, choices=SAMPLERS),
    preset: str = option(
        "restorectl",
        "For models that make pixels from noise: paper takes the 1000 random steps of MSDSR,"
        " official the 200 of its code.",
        panel=MODEL,
        choices=("restorectl", "paper", "official"),
    ),
    steps: int | None = option(
        "auto",
        "Network calls per slice: 1 gives the best estimate, 8 or more give full detail.",
        panel=MODEL,
        parse=opt.automatic,
        metavar="auto|N",
    ),
    samples: int = option(1, "Number of restorations to average.", panel=MODEL, min=1),
    slice_noise: str = option(
        "shared",
        "Random numbers in neighbouring slices.",
        panel=MODEL,
        choices=SLICE_NOISE,
    ),
    machine: opt.Machine,
    models: opt.Models,
    shared: opt.Shared,
    preview: bool = option(
        False,
        "Also write STEM_preview.png: XY, XZ and YZ views before and after, with scale bars.",
        panel=opt.OUTPUT,
    ),
) -> None:
    """Make stacks isotropic: restore the planes between the recorded ones.

    N planes become (N - 1) * factor + 1, and the file records the new spacing.

    Examples:
        restorectl superres3d stacks/ -o isotropic/ --spacing 1,0.25,0.25
        restorectl superres3d stacks/stack.tif -o smooth.tif --factor 2 --method cubic
    """
    job = SuperresJob(
        files=shared.files(inputs, output),
        compute=machine,
        weights=weights,
        method=method,
        factor=factor,
        spacing=spacing,
        rows=rows,
        sweeps=sweeps,
        anchor=anchor,
        strength=strength,
        sampler=sampler,
        preset=preset,
        steps=steps,
        samples=samples,
        slice_noise=slice_noise,
        keep_observed=keep_observed,
        smooth=smooth,
        invalid=invalid,
        hot_pixels=hot_pixels,
        dtype=dtype,
        preview=preview,
        weights_from=models,
    )
    with shared.reporting() as report:
        from restorectl.volumes.superres3d import superres3d as run

        run(job, report)
    raise typer.Exit(report.exit_code())
