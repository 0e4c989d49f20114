"""`restorectl calibrate`: options -> job -> task; the table on stdout."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from restorectl.catalog import CALIBRATORS
from restorectl.cli import options as opt
from restorectl.cli.progress import reporting
from restorectl.cli.train import viewing
from restorectl.errors import UsageError
from restorectl.jobs import CalibrateJob, Files, NoiseOptions, TrainJob, WeightsOptions

if TYPE_CHECKING:
    from restorectl.restoration.calibrate import Plan, Row

FIT = "A calibrator of your own"
HEADER = (
    *("file", "channel", "windows", "sigma", "steps", "min", "max", "noise", "gain"),
    *("correlation", "warnings"),
)

Method = Annotated[
    opt.Calibrator | None,
    typer.Option(
        help="What measures. "
        + opt.choices(CALIBRATORS)
        + ". Default: network with --weights or --fit, else analytic."
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "-w",
        "--weights",
        metavar="NAME|FILE|hf://...",
        help="Weights of the network. Default: calibrator.",
    ),
]
ScheduleChoice = Annotated[opt.Schedule, typer.Option(help="The diffusion whose steps count.")]
Windows = Annotated[
    str,
    typer.Option(
        metavar="N|all", help="Windows of 256 px measured of each channel, evenly spread."
    ),
]
Csv = Annotated[
    str | None,
    typer.Option(
        "--csv", metavar="FILE", help="Write one row a window.", rich_help_panel=opt.OUTPUT
    ),
]
Plot = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.png",
        help="Draw how often each number of steps is needed, and the T' to train a prior for.",
        rich_help_panel=opt.OUTPUT,
    ),
]
Fit = Annotated[
    str | None,
    typer.Option(
        metavar="HQ_DIR",
        help="First train a calibrator on these images of high quality; then measure with it.",
        rich_help_panel=FIT,
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE.safetensors",
        help="Where --fit writes its weights.",
        rich_help_panel=FIT,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "-s",
        "--set",
        metavar="KEY=VALUE",
        help="Change the recipe of --fit, e.g. optimiser.steps=2000.",
        rich_help_panel=FIT,
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with an interrupted --fit.", rich_help_panel=FIT),
]


@dataclass(frozen=True)
class Training:
    """What --fit and its options ask for."""

    data: str | None
    output: str | None
    overrides: tuple[str, ...]
    resume: bool
    device: str
    axes: str | None

    def run(self, quiet: bool) -> None:
        """Train; raises what `train` raises."""
        from restorectl.training.train import run

        assert self.data is not None
        assert self.output is not None  # `_method` has seen to it
        job = TrainJob(
            "calibrator",
            self.data,
            self.output,
            self.overrides,
            self.resume,
            device=self.device,
            axes=self.axes,
        )
        with viewing(quiet, json_lines=False) as view:  # stdout is for what is measured
            run(job, view)


def calibrate(
    inputs: opt.Inputs = None,
    method: Method = None,
    weights: Weights = None,
    schedule: ScheduleChoice = opt.Schedule.rscd,
    windows: Windows = "64",
    csv: Csv = None,
    plot: Plot = None,
    fit: Fit = None,
    output: Output = None,
    overrides: Overrides = None,
    resume: Resume = False,
    noise: opt.NoiseChoice = opt.Noise.auto,
    gain: opt.Gain = None,
    offset: opt.Offset = None,
    read_noise: opt.ReadNoise = None,
    axes: opt.Axes = None,
    channels: opt.Channels = None,
    pattern: opt.Pattern = None,
    files_from: opt.FilesFrom = None,
    registry: opt.Registry = None,
    offline: opt.Offline = False,
    device: opt.Device = "auto",
    json_lines: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Tell how noisy images are, and how many steps of diffusion that is.

    Example: restorectl calibrate data/ --csv windows.csv
    """
    training = Training(fit, output, tuple(overrides or ()), resume, device, axes)
    chosen, used = _method(method, weights, training)
    numbers = opt.channel_numbers(channels)
    count = _count(windows)
    from restorectl.restoration import calibrate as task

    plan = None
    if fit is None or inputs or files_from is not None:
        files = Files(tuple(inputs or ()), "", pattern, files_from, axes=axes, channels=numbers)
        camera = NoiseOptions(noise.value, gain, offset, read_noise)
        job = CalibrateJob(
            files,
            camera,
            chosen,
            used,
            schedule.value,
            count,
            device,
            csv,
            plot,
            WeightsOptions(registry, offline),
        )
        plan = task.plan(job)  # what cannot be done is refused before hours of training
    if fit is not None:
        training.run(quiet)
    if plan is not None:
        raise typer.Exit(_measure(plan, json_lines, quiet))


def _measure(plan: "Plan", json_lines: bool, quiet: bool) -> int:
    """Measure, print the table and T'; returns the exit code."""
    from restorectl.restoration.calibrate import COVERED, run

    with reporting(quiet=quiet, json_lines=json_lines) as report:
        summary = run(plan, report)
    if not json_lines and not quiet and summary.rows:
        sys.stdout.write(table(summary.rows))
        sys.stdout.flush()
    if not quiet and summary.t_max is not None:
        report.note(
            f"T' = {summary.t_max}: {COVERED:.0%} of {summary.windows} windows need no more steps"
            f" of the schedule {plan.job.schedule}"
        )
    return report.exit_code()


def _method(
    method: opt.Calibrator | None, weights: str | None, training: Training
) -> tuple[str, str]:
    """(method, weights). Raises UsageError for options that do not go together."""
    fitted = training.data is not None
    chosen = method.value if method is not None else "analytic"
    if method is None and (fitted or weights is not None):
        chosen = "network"
    if fitted != (training.output is not None):
        raise UsageError("--fit HQ_DIR and -o FILE.safetensors go together")
    if not fitted and (training.overrides or training.resume):
        raise UsageError("--set and --resume belong to --fit HQ_DIR")
    if fitted and weights is not None:
        raise UsageError("--fit makes the weights that are used: leave --weights out")
    if chosen != "network" and (fitted or weights is not None):
        raise UsageError(f"--method {chosen} has no weights: leave out --weights and --fit")
    return chosen, training.output or weights or "calibrator"


def _count(windows: str) -> int | None:
    """--windows as a number; None = all. Raises UsageError."""
    if windows == "all":
        return None
    if not windows.isdecimal() or int(windows) < 1:
        raise UsageError(f"--windows {windows}: use all or a whole number of at least 1")
    return int(windows)


def table(rows: Sequence["Row"]) -> str:
    """Aligned columns for people, awk and sort; warnings, the one free text, come last."""
    lines = [HEADER, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER) - 1)]
    text = ""
    for line in lines:
        numbers = zip(line[2:-1], widths[2:], strict=True)
        cells = [line[0].ljust(widths[0]), line[1].ljust(widths[1])]
        cells += [cell.rjust(width) for cell, width in numbers]
        text += "  ".join([*cells, line[-1]]).rstrip() + "\n"
    return text


def _cells(row: "Row") -> tuple[str, ...]:
    steps = (f"{value:.1f}" for value in (row.steps, row.steps_min, row.steps_max))
    measured = (str(row.windows), f"{row.sigma:.4f}", *steps)
    model = (row.noise, f"{row.gain:.4g}", f"{row.correlation:.2f}")
    return (row.file, row.channel, *measured, *model, "; ".join(row.warnings) or "-")
