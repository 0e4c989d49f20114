"""`restorectl evaluate`: options -> job -> task; tables on stdout, gates as the exit code.

The options of `evaluate`; the metrics and their help come from the catalog.
"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from restorectl.catalog import METRICS
from restorectl.cli import options as opt
from restorectl.cli.progress import reporting, worded
from restorectl.errors import GateError, InputError, UsageError
from restorectl.jobs import EvaluateJob, WeightsOptions

Scale = StrEnum("Scale", ["none", "affine", "percentile"])
Project = StrEnum("Project", ["none", "max", "mean"])
By = StrEnum("By", ["z"])
SCORING, UNPAIRED, GATES = "Scoring", "Without pairs", "Quality gates"
STUDY, DOWNSTREAM = "Blind preference study", "Downstream checks"

Predictions = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PRED...",
        help="A folder for each method, or files; folders that `uncertainty` wrote are recognised.",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|FILE", help="The true images, matched by relative path (or its stem)."
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="a,b,c",
        help="What is computed, for each plane, then averaged over the planes of a file. Default:"
        " mae,nrmse,psnr,ssim,pearson, and what fits the other options. " + opt.choices(METRICS),
        rich_help_panel=SCORING,
    ),
]
DataRange = Annotated[
    float | None,
    typer.Option(
        help="Grey levels from black to white for PSNR, SSIM, LPIPS. Default: of each target, 255"
        " where it has 8 bits, else its largest minus its smallest value.",
        rich_help_panel=SCORING,
    ),
]
ScaleChoice = Annotated[
    Scale,
    typer.Option(
        help="Fit each channel of a prediction to its target first: affine, by least squares;"
        " percentile, the 0.1 and 99.9 percentiles.",
        rich_help_panel=SCORING,
    ),
]
ProjectChoice = Annotated[
    Project, typer.Option(help="Project stacks over z before scoring.", rich_help_panel=SCORING)
]
ByChoice = Annotated[
    By | None, typer.Option("--by", help="Also a score for each depth.", rich_help_panel=SCORING)
]
Average = Annotated[
    bool,
    typer.Option(
        "--average",
        help="PRED are folders of samples, or one folder of such folders: score the mean of the"
        " first 1, 2, 3 ...",
        rich_help_panel=SCORING,
    ),
]
Interval = Annotated[
    float,
    typer.Option(
        help="Nominal share of pixels in STEM_lower..STEM_upper.", rich_help_panel=SCORING
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(
        metavar="HQ_DIR",
        help="Images of high quality, of other fields, for the Frechet distances. Networks see each"
        " file from its 0.1 to its 99.9 percentile or, where it is given, from 0 to --data-range.",
        rich_help_panel=UNPAIRED,
    ),
]
Inception = Annotated[
    str,
    typer.Option(metavar="NAME|FILE", help="Weights for fid, slice-fid.", rich_help_panel=UNPAIRED),
]
Alexnet = Annotated[
    str, typer.Option(metavar="NAME|FILE", help="Weights for lpips.", rich_help_panel=SCORING)
]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE|-",
        help="Write every score in full precision; - takes the place of the tables.",
        rich_help_panel=opt.OUTPUT,
    ),
]
Csv = Annotated[
    str | None,
    typer.Option(
        "--csv", metavar="FILE|-", help="Write one row a prediction.", rich_help_panel=opt.OUTPUT
    ),
]
Report = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.html", help="Write a report with figures.", rich_help_panel=opt.OUTPUT
    ),
]
InputDir = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="DIR",
        help="The unrestored images, shown in reports and studies.",
        rich_help_panel=opt.OUTPUT,
    ),
]
FailUnder = Annotated[
    list[str] | None,
    typer.Option(
        metavar="METRIC=N",
        help="Exit 6 if the median of any method is under N, e.g. psnr=30. May be repeated.",
        rich_help_panel=GATES,
    ),
]
FailOver = Annotated[
    list[str] | None,
    typer.Option(
        metavar="METRIC=N", help="The same for over N, e.g. mae=5.", rich_help_panel=GATES
    ),
]
Preference = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.html",
        help="Write a page on which people choose between methods blindly; needs --input.",
        rich_help_panel=STUDY,
    ),
]
PreferenceResults = Annotated[
    bool,
    typer.Option(
        "--preference-results",
        help="PRED are the JSON files of such studies: show shares and agreement.",
        rich_help_panel=STUDY,
    ),
]
Segment = Annotated[
    bool,
    typer.Option(
        "--segment",
        help="Count objects in input, prediction and target.",
        rich_help_panel=DOWNSTREAM,
    ),
]
Classifier = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.pt2",
        help="An exported classifier: what it says before and after. Needs --labels and --trust.",
        rich_help_panel=DOWNSTREAM,
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(metavar="FILE.csv", help="name,label of each file.", rich_help_panel=DOWNSTREAM),
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="a,b",
        help="Names of the classifier's outputs in order. Default: the labels, sorted.",
        rich_help_panel=DOWNSTREAM,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="The classifier may run: it is a program.", rich_help_panel=DOWNSTREAM
    ),
]

if TYPE_CHECKING:
    from restorectl.evaluation.comparison import Comparison

STDOUT = "-"
FAILED = InputError.exit_code  # some files were not done


def evaluate(
    predictions: Predictions = None,
    target: Target = None,
    metrics: Metrics = None,
    data_range: DataRange = None,
    scale: ScaleChoice = Scale.none,
    project: ProjectChoice = Project.none,
    by: ByChoice = None,
    average: Average = False,
    interval: Interval = 0.9,
    alexnet: Alexnet = "alexnet-lpips",
    reference: Reference = None,
    inception: Inception = "inception-fid",
    fail_under: FailUnder = None,
    fail_over: FailOver = None,
    preference: Preference = None,
    preference_results: PreferenceResults = False,
    segment: Segment = False,
    classifier: Classifier = None,
    labels: Labels = None,
    classes: Classes = None,
    trust: Trust = False,
    axes: opt.Axes = None,
    pattern: opt.Pattern = None,
    json_target: Json = None,
    csv_target: Csv = None,
    report: Report = None,
    input_folder: InputDir = None,
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    registry: opt.Registry = None,
    offline: opt.Offline = False,
    quiet: opt.Quiet = False,
) -> None:
    """Score restored images against true ones, compare methods, gate on quality.

    Example: restorectl evaluate restored/ other/ --target clean/ --fail-under psnr=30
    """
    given = locals()
    if json_target == STDOUT and csv_target == STDOUT:
        raise UsageError("--json - and --csv -: only one can have standard output")
    if classifier is not None and labels is None:
        raise UsageError("--classifier: needs --labels FILE.csv")
    if preference_results:
        raise typer.Exit(_preference_results(predictions or [], json_target))
    if preference is not None:
        _study(preference, predictions or [], input_folder, seed)
        if target is None and reference is None and metrics is None:
            return
    raise typer.Exit(_score(given))


def _score(given: dict[str, Any]) -> int:
    """Score, show, write; returns the exit code. Raises GateError."""
    from restorectl.cli import tables
    from restorectl.cli.tables import failures
    from restorectl.evaluation import comparison as results
    from restorectl.evaluation.evaluate import prepare, run

    gates = results.gates(given["fail_under"] or (), given["fail_over"] or ())
    job = EvaluateJob(
        predictions=tuple(given["predictions"] or ()),
        target=given["target"],
        reference=given["reference"],
        metrics=tuple(m.strip() for m in (given["metrics"] or "").split(",") if m.strip()),
        gated=tuple(gate.metric for gate in gates),
        data_range=given["data_range"],
        scale=given["scale"].value,
        project=given["project"].value,
        by_z=given["by"] is not None,
        average=given["average"],
        interval=given["interval"],
        inputs=given["input_folder"],
        axes=given["axes"],
        pattern=given["pattern"],
        device=given["device"],
        networks={"inception-fid": given["inception"], "alexnet-lpips": given["alexnet"]},
        weights_from=WeightsOptions(given["registry"], given["offline"]),
    )
    for option in ("json_target", "csv_target", "report"):
        results.check_target(f"--{option.removesuffix('_target')}", given[option])
    _check_downstream(given)
    prepared = prepare(job)
    with reporting(quiet=given["quiet"], json_lines=False) as view:
        comparison = run(prepared, view)
        for warning in comparison.warnings if not given["quiet"] else ():
            view.note(f"warning: {warning}")
    missed = [worded(text) for text in results.unmet(comparison, gates)]
    if STDOUT not in (given["json_target"], given["csv_target"]):
        tables.show(comparison)
    found = _downstream(given, comparison)
    if given["json_target"] is not None:
        results.write_json(given["json_target"], results.as_dict(comparison, missed) | found)
    if given["csv_target"] is not None:
        results.write_csv(given["csv_target"], comparison)
    if given["report"] is not None:
        from restorectl.evaluation.report import write as write_report

        write_report(given["report"], comparison)
    if missed:
        raise GateError("; ".join(missed))
    failed = sum(failures(each) for each in found.values())
    return FAILED if failed else view.exit_code()


def _check_downstream(given: dict[str, Any]) -> None:
    """Raises UsageError for what would stop the checks after all files were scored."""
    if given["segment"]:
        from restorectl.evaluation.downstream import require_segmentation

        require_segmentation()
    if given["classifier"] is not None:
        from restorectl.evaluation.downstream import classified_by

        inputs = None if given["input_folder"] is None else Path(given["input_folder"])
        classified_by(given["classifier"], given["labels"], given["trust"], inputs)


def _downstream(given: dict[str, Any], comparison: "Comparison") -> dict[str, Any]:
    """What changes for who works on with the images; empty where not asked for."""
    from restorectl.cli import tables as checks

    found: dict[str, Any] = {}
    tables = STDOUT not in (given["json_target"], given["csv_target"])
    if given["segment"]:
        from restorectl.evaluation.downstream import segment

        found["segment"] = segment(comparison)
        if tables:
            checks.segmented(found["segment"])
    if given["classifier"] is not None:
        from restorectl.evaluation.downstream import confusion

        names = [name.strip() for name in (given["classes"] or "").split(",") if name.strip()]
        program, labels = given["classifier"], given["labels"]
        found["confusion"] = confusion(program, comparison, labels, given["trust"], names)
        if tables:
            checks.confused(found["confusion"])
    return found


def _study(path: str, predictions: list[str], inputs: str | None, seed: int) -> None:
    from restorectl.evaluation.comparison import check_target
    from restorectl.evaluation.study import study

    check_target("--preference", path)
    if inputs is None:
        raise UsageError("--preference: needs --input DIR, the unrestored images")
    study(path, predictions, inputs, seed)


def _preference_results(files: list[str], target: str | None) -> int:
    """Show or write what the answers say; returns the exit code."""
    from restorectl.cli import tables as checks
    from restorectl.evaluation.comparison import check_target, write_json
    from restorectl.evaluation.study import results

    check_target("--json", target)
    found = results(files)
    if target != STDOUT:
        checks.preferred(found)
    if target is not None:
        write_json(target, found)
    return FAILED if checks.failures(found) else 0
