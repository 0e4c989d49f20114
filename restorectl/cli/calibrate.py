"""`restorectl calibrate`: options -> job -> restoration; the table on stdout."""

import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from restorectl.catalog import CALIBRATORS
from restorectl.cli import options as opt
from restorectl.cli.options import option
from restorectl.cli.progress import reporting
from restorectl.cli.train import viewing
from restorectl.errors import UsageError, printable
from restorectl.jobs import CalibrateJob, Files, TrainJob

if TYPE_CHECKING:
    from restorectl.restoration.calibrate import ChannelRow, PreparedCalibration

FIT = "Training your own calibrator"
HEADER = (
    *("file", "channel", "windows", "sigma", "steps", "min", "max", "noise", "gain"),
    *("correlation", "warnings"),
)
SHORT = {
    "channel": "ch",
    "windows": "n",
    "correlation": "corr",
    "poisson-gaussian": "p-g",
    "gaussian": "g",
}


def all_or_count(option: str, text: str) -> int | None:
    """Parse `all` to None, or a positive whole number. Raises UsageError."""
    return None if text == "all" else opt.count(option, text, "all")


@opt.command
def calibrate(
    *,
    inputs: tuple[str, ...] = opt.INPUTS,
    method: str | None = option(
        None,
        "How noise is measured. Default: network with --weights or --fit, otherwise analytic.",
        choices=CALIBRATORS,
        often=True,
    ),
    weights: str | None = option(
        None,
        "Model of the method network. Default: calibrator.",
        "-w",
        metavar=opt.MODEL,
        complete=opt.model_names,
        often=True,
    ),
    schedule: str = option(
        "rscd", "Noise schedule whose steps are counted.", choices=opt.SCHEDULES
    ),
    prior: str | None = option(
        None,
        "Model that is to restore the images: noise is measured in its units, and of its channels"
        " together. Default: as the calibrator was trained, or prior.",
        metavar=opt.MODEL,
        complete=opt.model_names,
    ),
    cover: float = option(
        0.99,
        "Share of the windows for which T' has to be enough; 1: all, as in the paper of RSCD.",
        metavar="P",
        min=0.0,
        max=1.0,
    ),
    windows: int | None = option(
        "64",
        "Number of windows of 256 px measured in each channel, evenly spread.",
        parse=all_or_count,
        metavar="N|all",
    ),
    csv: str | None = option(
        None, "Write a table with one row per window.", panel=opt.OUTPUT, metavar="FILE", often=True
    ),
    plot: str | None = option(
        None,
        "Draw how many windows need how many steps, and T', the number of steps to train a prior"
        " for.",
        panel=opt.OUTPUT,
        metavar="FILE.png",
        often=True,
    ),
    fit: str | None = option(
        None,
        "First train a calibrator on the high-quality images in this folder, then measure with it.",
        panel=FIT,
        metavar="HQ_DIR",
    ),
    output: str | None = option(
        None, "Weights file that --fit writes.", "-o", panel=FIT, metavar="FILE.safetensors"
    ),
    overrides: tuple[str, ...] = option(
        (),
        "Change a value in the recipe of --fit, e.g. optimiser.steps=2000.",
        *("-s", "--set"),
        panel=FIT,
        metavar="KEY=VALUE",
    ),
    resume: bool = option(False, "Continue an interrupted --fit.", panel=FIT),
    camera: opt.Camera,
    axes: str | None = opt.AXES,
    series: str | None = opt.SERIES,
    channels: tuple[int | str, ...] | None = opt.CHANNELS,
    pattern: str | None = opt.PATTERN,
    exclude: tuple[str, ...] = opt.EXCLUDE,
    files_from: str | None = opt.FILES_FROM,
    models: opt.Models,
    device: str = opt.DEVICE,
    threads: int | None = opt.THREADS,
    json_lines: bool = opt.JSON,
    quiet: bool = opt.QUIET,
) -> None:
    """Measure how noisy images are, and how many diffusion steps that corresponds to.

    Examples:
        restorectl calibrate data/ --csv windows.csv
        restorectl calibrate data/ --fit clean/ -o cal.safetensors
    """
    if fit is None and (overrides or resume):
        raise UsageError("--set and --resume: work only together with --fit HQ_DIR")
    if (fit is None) != (output is None):
        raise UsageError("--fit HQ_DIR and -o FILE.safetensors go together")
    method = _method(method, weights, fit is not None)
    from restorectl.restoration import calibrate as task

    prepared = None
    if fit is None or inputs or files_from is not None:
        job = CalibrateJob(
            files=Files(
                inputs=inputs,
                output="",
                pattern=pattern,
                exclude=exclude,
                files_from=files_from,
                axes=axes,
                series=series,
                channels=channels,
            ),
            noise=camera,
            method=method,
            weights=output or weights or "calibrator",
            prior=prior,
            cover=cover,
            schedule=schedule,
            windows=windows,
            device=device,
            threads=threads,
            csv=csv,
            plot=plot,
            weights_from=models,
        )
        prepared = task.prepare(job)  # refuse invalid options before hours of training
    if fit is not None and output is not None:
        from restorectl.training.train import run

        training = TrainJob(
            recipe="calibrator",
            data=fit,
            output=output,
            overrides=overrides,
            resume=resume,
            device=device,
            axes=axes,
        )
        with viewing(quiet, json_lines=False) as view:  # stdout is for what is measured
            run(training, view)
    if prepared is not None:
        raise typer.Exit(_measure(prepared, json_lines, quiet))


def _method(method: str | None, weights: str | None, fitted: bool) -> str:
    """How noise is measured. Raises UsageError for options that cannot be combined."""
    if fitted and weights is not None:
        raise UsageError("--fit makes its own weights: leave out --weights")
    if not fitted and weights is None:
        return method or "analytic"
    if method not in (None, "network"):
        raise UsageError(f"--method {method} uses no weights: leave out --weights and --fit")
    return "network"


def _measure(prepared: "PreparedCalibration", json_lines: bool, quiet: bool) -> int:
    """Measure, print the table and T'; returns the exit code."""
    from restorectl.restoration.calibrate import run

    with reporting(quiet=quiet, json_lines=json_lines) as report:
        summary = run(prepared, report)
    if not json_lines and not quiet and summary.rows:
        sys.stdout.write(table(summary.rows))
        sys.stdout.flush()
    if not quiet and summary.t_max is not None:
        share = 100 * prepared.job.cover
        report.note(
            f"T' = {summary.t_max}: {share:.4g}% of the {summary.windows} windows need"
            f" at most {summary.t_max} steps of the schedule {prepared.job.schedule}"
        )
    return report.exit_code()


def table(rows: Sequence["ChannelRow"]) -> str:
    """Aligned columns for people, awk and sort; warnings, the one free text, come last.

    On a terminal that is too narrow, headings and noise models are short, and warnings stand below.
    """
    lines = [HEADER, *(_cells(row) for row in rows)]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    text = _aligned(lines, below=False)
    if max(map(len, text.splitlines())) <= limit:
        return text
    return _aligned([tuple(SHORT.get(cell, cell) for cell in line) for line in lines], below=True)


def _aligned(lines: Sequence[tuple[str, ...]], below: bool) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER) - 1)]
    text = ""
    for line in lines:
        numbers = zip(line[2:-1], widths[2:], strict=True)
        cells = [line[0].ljust(widths[0]), line[1].ljust(widths[1])]
        cells += [cell.rjust(width) for cell, width in numbers]
        text += "  ".join([*cells, "" if below else line[-1]]).rstrip() + "\n"
        if below and line[-1] not in ("-", HEADER[-1]):
            text += f"    {line[-1]}\n"
    return text


def _cells(row: "ChannelRow") -> tuple[str, ...]:
    steps = (f"{value:.1f}" for value in (row.steps, row.steps_min, row.steps_max))
    measured = (str(row.windows), f"{row.sigma:.4f}", *steps)
    model = (row.noise, f"{row.gain:.4g}", f"{row.correlation:.2f}")
    texts = (row.file, row.channel, *measured, *model, "; ".join(row.warnings) or "-")
    return tuple(map(printable, texts))
