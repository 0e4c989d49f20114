"""`restorectl calibrate`: options -> job -> restoration; the table on stdout."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from restorectl.catalog import CALIBRATORS
from restorectl.cli import options as opt
from restorectl.cli.options import option
from restorectl.cli.progress import reporting
from restorectl.cli.train import viewing
from restorectl.errors import GateError, UsageError, printable
from restorectl.jobs import CalibrateJob, Files, TrainJob

if TYPE_CHECKING:
    from restorectl.restoration.calibrate import ChannelRow, PreparedCalibration

FIT = "Training your own calibrator"
CAMERA = "Measuring a camera: --camera DARK_DIR -o camera.yaml"
CAMERA_TEXT = {
    "offset": "grey level in the dark",
    "read_noise": "grey levels, standard deviation of a typical pixel in the dark",
    "gain": "grey levels per photo-electron",
    "excess_noise": "factor on the variance of light; 2: EMCCD",
    "hot_pixels": "pixels that will be repaired",
    "dark_frames": "",
    "flat_frames": "",
}
HEADER = (
    *("file", "channel", "windows", "sigma", "steps", "min", "max", "noise", "planes", "regions"),
    *("level", "photons", "gain", "offset", "read", "corr_y", "corr_x", "lines", "invalid"),
    *("belief", "warnings"),
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
    plot_noise: str | None = option(
        None,
        "Draw for each image and channel where its noise model comes from: variance and light, the"
        " answer of the prior, correlation of pixels, noise over the image, what would be removed.",
        panel=opt.OUTPUT,
        metavar="DIR",
    ),
    fit: str | None = option(
        None,
        "First train a calibrator on the high-quality images in this folder, then measure with it.",
        panel=FIT,
        metavar="HQ_DIR",
    ),
    output: str | None = option(
        None,
        "File that --fit (weights) or --camera (a camera) writes.",
        "-o",
        metavar="FILE.safetensors|camera.yaml",
    ),
    flat: str | None = option(
        None,
        "With --camera DARK_DIR: folder of evenly lit frames, or of images, to measure the gain.",
        panel=CAMERA,
        metavar="FLAT_DIR",
    ),
    compare: bool = option(
        False,
        "Compare two cameras, A.yaml B.yaml, or the noise of two images or folders; exit code 6 if"
        " they differ by more than --tolerance.",
        panel=CAMERA,
    ),
    tolerance: float = option(
        0.1,
        "How much the gain and the read noise may change, as a share; for the offset, a share of"
        " the light of 10 photons.",
        panel=CAMERA,
        min=0.0,
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
    measured = camera.camera is not None and os.path.isdir(camera.camera)
    if flat is not None and not measured:
        raise UsageError(f"--flat {flat}: works only together with --camera DARK_DIR")
    if camera.camera is not None and measured:
        raise typer.Exit(_camera(camera.camera, flat, output, inputs, axes, quiet, json_lines))
    if compare:
        raise typer.Exit(_compare(inputs, tolerance, device, json_lines, quiet))
    if (fit is None) != (output is None):
        raise UsageError(
            "--fit HQ_DIR and -o FILE.safetensors go together, or --camera DARK_DIR and"
            " -o camera.yaml"
        )
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
            plot_noise=plot_noise,
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


def _camera(
    dark: str,
    flat: str | None,
    output: str | None,
    inputs: Sequence[str],
    axes: str | None,
    quiet: bool,
    json_lines: bool,
) -> int:
    """Measure a camera, print what was found; returns the exit code."""
    if output is None or inputs:
        raise UsageError(
            f"--camera {dark}: measures the dark frames in this folder: use -o camera.yaml, and no"
            " inputs"
        )
    from restorectl.restoration.camera import measure

    with reporting(quiet=quiet, json_lines=json_lines) as report:
        found = asdict(measure(dark, flat, output, report, axes))
    if json_lines:
        sys.stdout.write(json.dumps(found) + "\n")
    elif not quiet:
        for name, text in CAMERA_TEXT.items():
            value = found[name]
            shown = "not known: add --flat FLAT_DIR" if value is None else f"{value:.5g}"
            sys.stdout.write(f"{name:<14}{shown:<10}{text if value is not None else ''}".rstrip())
            sys.stdout.write("\n")
    return 0


def _compare(
    pair: Sequence[str], tolerance: float, device: str, json_lines: bool, quiet: bool
) -> int:
    """Compare two detectors, print their numbers; returns 0, or 6 if they differ."""
    if len(pair) != 2:
        raise UsageError(f"--compare: compares two cameras or images, {len(pair)} are named")
    from restorectl.restoration.calibrate import detector
    from restorectl.restoration.camera import compared

    with reporting(quiet=quiet, json_lines=json_lines) as report:
        changes = compared(*(detector(path, device, report) for path in pair))
    rows: list[tuple[str, ...]] = [("quantity", "before", "after", "change", "")]
    changed = []
    for each in changes:
        over = each.change is not None and abs(each.change) > tolerance
        changed += [each.name] if over else []
        numbers = ("-" if n is None else f"{n:.5g}" for n in (each.before, each.after))
        share = "-" if each.change is None else f"{each.change:+.1%}"
        rows.append((each.name, *numbers, share, "changed" if over else ""))
    if json_lines:
        told = {"tolerance": tolerance, "changed": changed, "values": [*map(asdict, changes)]}
        sys.stdout.write(json.dumps(told) + "\n")
    elif not quiet:
        for row in rows:
            cells = "".join(f"{cell:>12}" for cell in row[1:4])
            sys.stdout.write(f"{row[0]:<12}{cells}  {row[4]}".rstrip() + "\n")
    if changed:
        raise GateError(
            f"the detector has changed by more than {tolerance:.0%}: {', '.join(changed)}: measure"
            " the camera again, or raise `tolerance`"
        )
    return 0


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
    relative = [region.relative for region in row.regions if region.relative is not None]
    regions = f"{min(relative):.2f}-{max(relative):.2f}" if relative else "-"
    photons = "-" if row.photons is None else f"{row.photons:.4g}"
    camera = (f"{row.gain:.4g}", f"{row.offset:.4g}", f"{row.read_noise:.3g}")
    shared = (f"{row.correlation_y:.2f}", f"{row.correlation_x:.2f}", f"{row.lines:.3g}")
    model = (row.noise, row.planes, regions, f"{row.level:.2f}", photons, *camera, *shared)
    told = (*model, str(row.invalid), f"{row.belief:.2f}")
    texts = (row.file, row.channel, *measured, *told, "; ".join(row.warnings) or "-")
    return tuple(map(printable, texts))
