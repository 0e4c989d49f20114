"""`restorectl evaluate`: options -> job -> evaluation; tables on stdout, gates as the exit code."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from restorectl.catalog import METRICS
from restorectl.cli import options as opt
from restorectl.cli.options import argument, option
from restorectl.cli.progress import data, reporting, worded
from restorectl.errors import (
    GateError,
    InputError,
    OutputError,
    RestorectlError,
    UsageError,
    printable,
)
from restorectl.jobs import EvaluateJob

if TYPE_CHECKING:
    from restorectl.evaluation.comparison import Comparison, Gate

SCORING, UNPAIRED, GATES = "Scoring", "Without pairs", "Quality gates"
STUDY, DOWNSTREAM = "Blind preference study", "Downstream checks"
STDOUT = "-"
FAILED = InputError.exit_code  # some files failed


@dataclass(frozen=True)
class Downstream:
    """Checks besides the scores: whether restoration changes the results of later analysis."""

    segment: bool = option(
        False,
        "Count the objects in input, prediction and, if given, target, and match them to the"
        " target's.",
        panel=DOWNSTREAM,
    )
    classifier: str | None = option(
        None,
        "Compare the answers of a classifier, an exported program, before and after restoration."
        " Needs --labels and --trust.",
        panel=DOWNSTREAM,
        metavar="FILE.pt2",
    )
    labels: str | None = option(
        None, "Table with name,label of each file.", panel=DOWNSTREAM, metavar="FILE.csv"
    )
    classes: tuple[str, ...] = option(
        (),
        "Names of the classifier's outputs, in order. Default: the labels in alphabetical order.",
        panel=DOWNSTREAM,
        parse=opt.names,
        metavar="a,b",
    )
    trust: bool = option(
        False,
        "Allow the classifier to run; it is a program.",
        panel=DOWNSTREAM,
    )

    def check(self, inputs: str | None) -> None:
        """Raises UsageError for errors that would otherwise appear only after the scoring."""
        from restorectl.evaluation import downstream

        if self.segment:
            downstream.require_segmentation()
        if self.classifier is not None and self.labels is not None:
            folder = None if inputs is None else Path(inputs)
            downstream.classified_by(self.classifier, self.labels, self.trust, folder)

    def results(self, comparison: "Comparison") -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Run each requested check; yields its key in the JSON and its result."""
        from restorectl.evaluation import downstream

        if self.segment:
            yield "segment", downstream.segment(comparison)
        if self.classifier is not None and self.labels is not None:
            yield (
                "confusion",
                downstream.confusion(
                    self.classifier, comparison, self.labels, self.trust, list(self.classes)
                ),
            )


@dataclass(frozen=True)
class Asked:
    """What a preference study asks, and whom."""

    pivot: str | None = option(
        None, "Compare all methods with this one only.", panel=STUDY, metavar="METHOD"
    )
    tasks: int | None = option(
        None,
        "Number of comparisons, drawn at random. Default: all.",
        panel=STUDY,
        min=1,
        metavar="N",
    )
    raters: int = option(
        1, "Write a page for each rater: FILE_1.html, FILE_2.html, ...", panel=STUDY, min=1
    )
    raters_per_task: int | None = option(
        None, "Raters of each comparison. Default: all.", panel=STUDY, min=1, metavar="N"
    )


@dataclass(frozen=True)
class Outputs:
    """Where the scores go."""

    json_lines: bool = option(
        False,
        "Print all scores in full precision as JSON, instead of the tables.",
        "--json",
        panel=opt.OUTPUT,
        often=True,
    )
    csv: str | None = option(
        None,
        "Write a table with one row per prediction; -: to standard output.",
        panel=opt.OUTPUT,
        metavar="FILE|-",
        often=True,
    )
    report: str | None = option(
        None, "Write a report with figures.", panel=opt.OUTPUT, metavar="FILE.html", often=True
    )

    @property
    def tables(self) -> bool:
        return not self.json_lines and self.csv != STDOUT


@opt.command
def evaluate(
    *,
    predictions: tuple[str, ...] = argument(
        (),
        "One folder per method, or files. Folders written by `uncertainty` are recognised.",
        "PRED...",
    ),
    target: str | None = option(
        None,
        "The true images, matched by relative path, with or without the suffix.",
        metavar="DIR|FILE",
        often=True,
    ),
    metrics: tuple[str, ...] | None = option(
        None,
        "Scores to compute, for each plane, then averaged over the planes of a file. Default:"
        " mae,nrmse,psnr,ssim,pearson, and those that belong to the other options.",
        panel=SCORING,
        choices=METRICS,
        parse=opt.names,
        metavar="a,b,c",
        often=True,
    ),
    data_range: float | None = option(
        None,
        "Grey levels from black to white for PSNR, SSIM and LPIPS. Default: 255 for targets of 8"
        " bits, otherwise the largest minus the smallest value of each target.",
        panel=SCORING,
        above=0,
    ),
    scale: str = option(
        "none",
        "First fit each channel of a prediction to its target.",
        panel=SCORING,
        choices={
            "none": "score it as it is",
            "affine": "by least squares",
            "percentile": "by the 0.1 and 99.9 percentiles",
        },
    ),
    scale_to: str | None = option(
        None,
        "First give each channel of a prediction the mean and standard deviation of the images in"
        " this folder, such as the targets of the training.",
        panel=SCORING,
        metavar="DIR",
    ),
    register: str | None = option(
        None,
        "First align each prediction with its target, and score the area that both show.",
        panel=SCORING,
        metavar="rigid|affine",
    ),
    project: str = option(
        "none",
        "Project stacks over z before scoring.",
        panel=SCORING,
        choices=("none", "max", "mean"),
    ),
    by: str | None = option(None, "Also score each depth.", panel=SCORING, choices=("z",)),
    average: bool = option(
        False,
        "PRED are folders of samples, or one folder of such folders: score the mean of the first 1,"
        " 2, 3, ... samples.",
        panel=SCORING,
    ),
    repeats: bool = option(
        False,
        "PRED are folders that `uncertainty` wrote for repeated exposures of one field: count"
        " features that one restoration shows within its error bars and no other does; with --input"
        " DIR, the noisy exposures, also for BM3D, if bm3d is installed.",
        panel=UNPAIRED,
    ),
    interval: float = option(
        0.9,
        "Share of pixels that should lie within STEM_lower..STEM_upper.",
        panel=SCORING,
        metavar="P",
        parse=opt.share,
    ),
    alexnet: str = option("alexnet-lpips", "Model for lpips.", panel=SCORING, metavar="NAME|FILE"),
    reference: str | None = option(
        None,
        "High-quality images of other fields, for the Frechet distances. Networks see each file"
        " scaled from its 0.1 to its 99.9 percentile or, if given, from 0 to --data-range.",
        panel=UNPAIRED,
        metavar="HQ_DIR",
        often=True,
    ),
    inception: str = option(
        "inception-fid", "Model for fid and slice-fid.", panel=UNPAIRED, metavar="NAME|FILE"
    ),
    fail_under: tuple[str, ...] = option(
        (),
        "Exit with code 6 if the median of any method is below N, e.g. psnr=30. Can be repeated.",
        panel=GATES,
        metavar="METRIC=N",
        often=True,
    ),
    fail_over: tuple[str, ...] = option(
        (), "The same for medians above N, e.g. mae=5.", panel=GATES, metavar="METRIC=N"
    ),
    preference: str | None = option(
        None,
        "Write a web page on which people compare the methods blindly; needs --input.",
        panel=STUDY,
        metavar="FILE.html",
        often=True,
    ),
    wording: str = option(
        "general",
        "What the page of --preference asks: general; clinical, as in the study of RSCD; or a YAML"
        " file with your own words (keys: title, introduction, better, hallucination,"
        " explanation).",
        panel=STUDY,
        metavar="NAME|FILE.yaml",
        complete=lambda: ("general", "clinical"),
    ),
    preference_results: bool = option(
        False,
        "PRED are answers saved from such pages (JSON): show preferences and agreement.",
        panel=STUDY,
    ),
    asked: Asked,
    checks: Downstream,
    axes: str | None = opt.AXES,
    pattern: str | None = opt.PATTERN,
    outputs: Outputs,
    inputs: str | None = option(
        None,
        "The unrestored images, shown in reports and studies.",
        "--input",
        panel=opt.OUTPUT,
        metavar="DIR",
        often=True,
    ),
    device: str = opt.DEVICE,
    seed: int = opt.SEED,
    models: opt.Models,
    quiet: bool = opt.QUIET,
) -> None:
    """Compare restored images with true ones: scores, tests between methods, quality gates.

    Examples:
        restorectl evaluate restored/ other/ --target clean/ --fail-under psnr=10
        restorectl evaluate restored/ --target clean/ --input data/ --report a.html
    """
    if outputs.json_lines and outputs.csv == STDOUT:
        raise UsageError("--json and --csv -: only one of them can write to standard output")
    if checks.classifier is not None and checks.labels is None:
        raise UsageError("--classifier: needs --labels FILE.csv")
    if preference_results:
        raise typer.Exit(_preference_results(predictions, outputs.json_lines, quiet))
    if repeats and (target or reference or metrics or outputs.csv or outputs.report):
        raise UsageError(
            "--repeats: prints a table, or --json; it goes with --input and --axes only"
        )
    if repeats:
        raise typer.Exit(_repeats(predictions, inputs, axes, outputs.json_lines, quiet))
    if wording != "general" and preference is None:
        raise UsageError(f"--wording {wording}: works only together with --preference")
    asks = any((asked.pivot, asked.tasks, asked.raters > 1, asked.raters_per_task))
    if asks and preference is None:
        raise UsageError("--pivot, --tasks and --raters: work only together with --preference")
    if preference is not None:
        if inputs is None:
            raise UsageError("--preference: needs --input DIR, the unrestored images")
        from restorectl.evaluation.study import StudyPlan, study

        plan = StudyPlan(asked.pivot, asked.tasks, asked.raters, asked.raters_per_task)
        study(preference, predictions, inputs, seed, axes, pattern, wording, plan)
        if target is None and reference is None and metrics is None:
            return
    from restorectl.evaluation.comparison import gates

    limits = gates(fail_under, fail_over)
    job = EvaluateJob(
        predictions=predictions,
        target=target,
        reference=reference,
        metrics=metrics or (),
        gated=tuple(limit.metric for limit in limits),
        data_range=data_range,
        scale=scale,
        scale_to=scale_to,
        register=register,
        project=project,
        by_z=by is not None,
        average=average,
        interval=interval,
        inputs=inputs,
        checks=checks.segment or checks.classifier is not None,
        axes=axes,
        pattern=pattern,
        device=device,
        networks={"inception-fid": inception, "alexnet-lpips": alexnet},
        weights_from=models,
    )
    raise typer.Exit(_score(job, limits, outputs, checks, quiet))


def _score(
    job: EvaluateJob, limits: Sequence["Gate"], outputs: Outputs, checks: Downstream, quiet: bool
) -> int:
    """Score the images and write all results; returns the exit code. Raises GateError."""
    from restorectl.cli import tables
    from restorectl.evaluation import comparison as results
    from restorectl.evaluation.evaluate import prepare, run

    results.check_target("--csv", outputs.csv)
    results.check_target("--report", outputs.report)
    checks.check(job.inputs)
    prepared = prepare(job)
    with reporting(quiet=quiet, json_lines=False) as view:
        comparison = run(prepared, view)
        for warning in comparison.warnings:
            view.note(f"warning: {warning}")
    shown = outputs.tables and not quiet
    if shown:
        tables.show(comparison)
    found = {}
    for name, each in checks.results(comparison):
        found[name] = each
        if shown:
            tables.CHECKS[name](each)
    missed = [worded(text) for text in results.unmet(comparison, limits)]
    if outputs.json_lines:
        data(results.as_json(results.as_dict(comparison, missed) | found))
    problems: list[RestorectlError] = []
    for target, write in ((outputs.csv, results.write_csv), (outputs.report, _write_report)):
        try:  # an output that cannot be written keeps no other from being written
            if target is not None:
                write(target, comparison)
        except OutputError as error:
            problems.append(error)
    if missed:
        problems.append(GateError("; ".join(missed)))
    failed = sum(tables.failures(each) for each in found.values())
    for problem in problems[1:]:
        sys.stderr.write(f"restorectl: {printable(worded(str(problem)))}\n")
    if problems:
        raise problems[0]
    return FAILED if failed else view.exit_code()


def _write_report(path: str, comparison: "Comparison") -> None:
    from restorectl.evaluation.report import write

    write(path, comparison)


def _repeats(
    folders: Sequence[str], inputs: str | None, axes: str | None, as_json: bool, quiet: bool
) -> int:
    """Show how many features were invented; returns the exit code."""
    from restorectl.cli import tables
    from restorectl.evaluation import comparison
    from restorectl.evaluation.invented import invented

    found = invented(folders, inputs, axes)
    if as_json:
        data(comparison.as_json(found))
    elif not quiet:
        tables.invented(found)
    return 0


def _preference_results(files: Sequence[str], as_json: bool, quiet: bool) -> int:
    """Show the results of a study; returns the exit code."""
    from restorectl.cli import tables
    from restorectl.evaluation import comparison, study

    found = study.results(files)
    if as_json:
        data(comparison.as_json(found))
    elif not quiet:
        tables.preferred(found)
    return FAILED if tables.failures(found) else 0
