"""`restorectl evaluate`: options -> job -> evaluation; tables on stdout, gates as the exit code."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from restorectl.catalog import METRICS
from restorectl.cli import options as opt
from restorectl.cli.options import argument, option
from restorectl.cli.progress import data, reporting, worded
from restorectl.errors import GateError, InputError, UsageError
from restorectl.jobs import EvaluateJob

if TYPE_CHECKING:
    from restorectl.evaluation.comparison import Comparison, Gate

SCORING, UNPAIRED, GATES = "Scoring", "Without pairs", "Quality gates"
STUDY, DOWNSTREAM = "Blind preference study", "Downstream checks"
STDOUT = "-"
FAILED = InputError.exit_code  # some files were not done


@dataclass(frozen=True)
class Downstream:
    """What is looked at besides the scores: what changes for who works on with the images."""

    segment: bool = option(
        False, "Count objects in input, prediction and target.", panel=DOWNSTREAM
    )
    classifier: str | None = option(
        None,
        "An exported classifier: what it says before and after. Needs --labels and --trust.",
        panel=DOWNSTREAM,
        metavar="FILE.pt2",
    )
    labels: str | None = option(
        None, "name,label of each file.", panel=DOWNSTREAM, metavar="FILE.csv"
    )
    classes: tuple[str, ...] = option(
        (),
        "Names of the classifier's outputs in order. Default: the labels, sorted.",
        panel=DOWNSTREAM,
        parse=opt.names,
        metavar="a,b",
    )
    trust: bool = option(False, "The classifier may run: it is a program.", panel=DOWNSTREAM)

    def check(self, inputs: str | None) -> None:
        """Raises UsageError for what would stop the checks after all files were scored."""
        from restorectl.evaluation import downstream

        if self.segment:
            downstream.require_segmentation()
        if self.classifier is not None and self.labels is not None:
            folder = None if inputs is None else Path(inputs)
            downstream.classified_by(self.classifier, self.labels, self.trust, folder)

    def results(self, comparison: "Comparison") -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Each check that was asked for, by its key in the JSON."""
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
class Outputs:
    """Where the scores go."""

    json_lines: bool = option(
        False,
        "Every score in full precision as JSON on stdout, in place of the tables.",
        "--json",
        panel=opt.OUTPUT,
    )
    csv: str | None = option(
        None, "Write one row a prediction.", panel=opt.OUTPUT, metavar="FILE|-"
    )
    report: str | None = option(
        None, "Write a report with figures.", panel=opt.OUTPUT, metavar="FILE.html"
    )

    @property
    def tables(self) -> bool:
        return not self.json_lines and self.csv != STDOUT


@opt.command
def evaluate(
    *,
    predictions: tuple[str, ...] = argument(
        (),
        "A folder for each method, or files; folders that `uncertainty` wrote are recognised.",
        "PRED...",
    ),
    target: str | None = option(
        None, "The true images, matched by relative path (or its stem).", metavar="DIR|FILE"
    ),
    metrics: tuple[str, ...] | None = option(
        None,
        "What is computed, for each plane, then averaged over the planes of a file. Default:"
        " mae,nrmse,psnr,ssim,pearson, and what fits the other options. " + opt.explained(METRICS),
        panel=SCORING,
        parse=opt.names,
        metavar="a,b,c",
    ),
    data_range: float | None = option(
        None,
        "Grey levels from black to white for PSNR, SSIM, LPIPS. Default: of each target, 255 where"
        " it has 8 bits, else its largest minus its smallest value.",
        panel=SCORING,
    ),
    scale: str = option(
        "none",
        "Fit each channel of a prediction to its target first: affine, by least squares;"
        " percentile, the 0.1 and 99.9 percentiles.",
        panel=SCORING,
        choices=("none", "affine", "percentile"),
    ),
    project: str = option(
        "none",
        "Project stacks over z before scoring.",
        panel=SCORING,
        choices=("none", "max", "mean"),
    ),
    by: str | None = option(None, "Also a score for each depth.", panel=SCORING, choices=("z",)),
    average: bool = option(
        False,
        "PRED are folders of samples, or one folder of such folders: score the mean of the first"
        " 1, 2, 3 ...",
        panel=SCORING,
    ),
    interval: float = option(
        0.9, "Nominal share of pixels in STEM_lower..STEM_upper.", panel=SCORING
    ),
    alexnet: str = option(
        "alexnet-lpips", "Weights for lpips.", panel=SCORING, metavar="NAME|FILE"
    ),
    reference: str | None = option(
        None,
        "Images of high quality, of other fields, for the Frechet distances. Networks see each"
        " file from its 0.1 to its 99.9 percentile or, where it is given, from 0 to --data-range.",
        panel=UNPAIRED,
        metavar="HQ_DIR",
    ),
    inception: str = option(
        "inception-fid", "Weights for fid, slice-fid.", panel=UNPAIRED, metavar="NAME|FILE"
    ),
    fail_under: tuple[str, ...] = option(
        (),
        "Exit 6 if the median of any method is under N, e.g. psnr=30. May be repeated.",
        panel=GATES,
        metavar="METRIC=N",
    ),
    fail_over: tuple[str, ...] = option(
        (), "The same for over N, e.g. mae=5.", panel=GATES, metavar="METRIC=N"
    ),
    preference: str | None = option(
        None,
        "Write a page on which people choose between methods blindly; needs --input.",
        panel=STUDY,
        metavar="FILE.html",
    ),
    preference_results: bool = option(
        False, "PRED are the JSON files of such studies: show shares and agreement.", panel=STUDY
    ),
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
    ),
    device: str = opt.DEVICE,
    seed: int = opt.SEED,
    models: opt.Models,
    quiet: bool = opt.QUIET,
) -> None:
    """Score restored images against true ones, compare methods, gate on quality.

    Example: restorectl evaluate restored/ other/ --target clean/ --fail-under psnr=30
    """
    if outputs.json_lines and outputs.csv == STDOUT:
        raise UsageError("--json and --csv -: only one can have standard output")
    if checks.classifier is not None and checks.labels is None:
        raise UsageError("--classifier: needs --labels FILE.csv")
    if preference_results:
        raise typer.Exit(_preference_results(predictions, outputs.json_lines))
    if preference is not None:
        _study(preference, predictions, inputs, seed)
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
        project=project,
        by_z=by is not None,
        average=average,
        interval=interval,
        inputs=inputs,
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
    """Score, show, write; returns the exit code. Raises GateError."""
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
    if outputs.tables:
        tables.show(comparison)
    found = {}
    for name, each in checks.results(comparison):
        found[name] = each
        if outputs.tables:
            tables.CHECKS[name](each)
    missed = [worded(text) for text in results.unmet(comparison, limits)]
    if outputs.json_lines:
        data(results.as_json(results.as_dict(comparison, missed) | found))
    if outputs.csv is not None:
        results.write_csv(outputs.csv, comparison)
    if outputs.report is not None:
        from restorectl.evaluation.report import write as write_report

        write_report(outputs.report, comparison)
    if missed:
        raise GateError("; ".join(missed))
    failed = sum(tables.failures(each) for each in found.values())
    return FAILED if failed else view.exit_code()


def _study(path: str, predictions: Sequence[str], inputs: str | None, seed: int) -> None:
    from restorectl.evaluation.comparison import check_target
    from restorectl.evaluation.study import study

    check_target("--preference", path)
    if inputs is None:
        raise UsageError("--preference: needs --input DIR, the unrestored images")
    study(path, predictions, inputs, seed)


def _preference_results(files: Sequence[str], as_json: bool) -> int:
    """Show what the answers say; returns the exit code."""
    from restorectl.cli import tables
    from restorectl.evaluation import comparison, study

    found = study.results(files)
    if as_json:
        data(comparison.as_json(found))
    else:
        tables.preferred(found)
    return FAILED if tables.failures(found) else 0
