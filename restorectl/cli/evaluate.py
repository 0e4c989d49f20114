"""`restorectl evaluate`: options -> job -> task; tables on stdout, gates as the exit code."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from restorectl.cli import evaluate_options as own
from restorectl.cli import options as opt
from restorectl.cli.report import reporting
from restorectl.core.jobs import WeightsOptions
from restorectl.errors import GateError, InputError, UsageError

if TYPE_CHECKING:
    from restorectl.tasks.evaluation.comparison import Comparison

STDOUT = "-"
FAILED = InputError.exit_code  # some files were not done


def evaluate(
    predictions: own.Predictions = None,
    target: own.Target = None,
    metrics: own.Metrics = None,
    data_range: own.DataRange = None,
    scale: own.ScaleChoice = own.Scale.none,
    project: own.ProjectChoice = own.Project.none,
    by: own.ByChoice = None,
    average: own.Average = False,
    interval: own.Interval = 0.9,
    alexnet: own.Alexnet = "alexnet-lpips",
    reference: own.Reference = None,
    inception: own.Inception = "inception-fid",
    fail_under: own.FailUnder = None,
    fail_over: own.FailOver = None,
    preference: own.Preference = None,
    preference_results: own.PreferenceResults = False,
    segment: own.Segment = False,
    classifier: own.Classifier = None,
    labels: own.Labels = None,
    classes: own.Classes = None,
    trust: own.Trust = False,
    axes: opt.Axes = None,
    pattern: opt.Pattern = None,
    json_target: own.Json = None,
    csv_target: own.Csv = None,
    report: own.Report = None,
    input_folder: own.InputDir = None,
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
    from restorectl.cli import evaluate_tables as tables
    from restorectl.cli.evaluate_checks import failures
    from restorectl.tasks.evaluate import run
    from restorectl.tasks.evaluation import write
    from restorectl.tasks.evaluation.plan import EvaluateJob, plan

    gates = write.gates(given["fail_under"] or (), given["fail_over"] or ())
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
        write.check_target(f"--{option.removesuffix('_target')}", given[option])
    _check_downstream(given)
    ready = plan(job)
    with reporting(quiet=given["quiet"], json_lines=False) as view:
        comparison = run(ready, view)
        for warning in comparison.warnings if not given["quiet"] else ():
            view.note(f"warning: {warning}")
    missed = write.unmet(comparison, gates)
    if STDOUT not in (given["json_target"], given["csv_target"]):
        tables.show(comparison)
    found = _downstream(given, comparison)
    if given["json_target"] is not None:
        write.write_json(given["json_target"], write.as_dict(comparison, missed) | found)
    if given["csv_target"] is not None:
        write.write_csv(given["csv_target"], comparison)
    if given["report"] is not None:
        from restorectl.tasks.evaluation.report import write as write_report

        write_report(given["report"], comparison)
    if missed:
        raise GateError("; ".join(missed))
    failed = sum(failures(each) for each in found.values())
    return FAILED if failed else view.exit_code()


def _check_downstream(given: dict[str, Any]) -> None:
    """Raises UsageError for what would stop the checks after all files were scored."""
    if given["segment"]:
        from restorectl.tasks.evaluation.segmentation import require

        require()
    if given["classifier"] is not None:
        from restorectl.tasks.evaluation.downstream import classified_by

        inputs = None if given["input_folder"] is None else Path(given["input_folder"])
        classified_by(given["classifier"], given["labels"], given["trust"], inputs)


def _downstream(given: dict[str, Any], comparison: "Comparison") -> dict[str, Any]:
    """What changes for who works on with the images; empty where not asked for."""
    from restorectl.cli import evaluate_checks as checks

    found: dict[str, Any] = {}
    tables = STDOUT not in (given["json_target"], given["csv_target"])
    if given["segment"]:
        from restorectl.tasks.evaluation.downstream import segment

        found["segment"] = segment(comparison)
        if tables:
            checks.segmented(found["segment"])
    if given["classifier"] is not None:
        from restorectl.tasks.evaluation.downstream import confusion

        names = [name.strip() for name in (given["classes"] or "").split(",") if name.strip()]
        program, labels = given["classifier"], given["labels"]
        found["confusion"] = confusion(program, comparison, labels, given["trust"], names)
        if tables:
            checks.confused(found["confusion"])
    return found


def _study(path: str, predictions: list[str], inputs: str | None, seed: int) -> None:
    from restorectl.tasks.evaluation.preference import study
    from restorectl.tasks.evaluation.write import check_target

    check_target("--preference", path)
    if inputs is None:
        raise UsageError("--preference: needs --input DIR, the unrestored images")
    study(path, predictions, inputs, seed)


def _preference_results(files: list[str], target: str | None) -> int:
    """Show or write what the answers say; returns the exit code."""
    from restorectl.cli import evaluate_checks as checks
    from restorectl.tasks.evaluation.preference import results
    from restorectl.tasks.evaluation.write import check_target, write_json

    check_target("--json", target)
    found = results(files)
    if target != STDOUT:
        checks.preferred(found)
    if target is not None:
        write_json(target, found)
    return FAILED if checks.failures(found) else 0
