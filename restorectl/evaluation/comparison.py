"""The result of `evaluate`: the scores, their statistics over the files, JSON, CSV and gates."""

import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, TextIO

from scipy import stats

import restorectl
from restorectl.catalog import METRICS
from restorectl.errors import UsageError, did_you_mean, spreadsheet_cell
from restorectl.files.atomic import replacing
from restorectl.images.image import is_image_name

STDOUT = "-"


@dataclass(frozen=True)
class FileScore:
    """The scores of one prediction of one method."""

    method: str
    name: str  # relative path of the target; the same for all methods
    values: Mapping[str, float]  # metric -> score, without undefined ones
    prediction: Path  # the image that was scored (STEM_mean of an uncertainty set)
    target: Path  # the prediction itself if there is nothing to compare with
    depths: tuple[Mapping[str, float], ...] = ()  # with `by` z: the scores of each z
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # sparsification


@dataclass(frozen=True)
class Comparison:
    """The result of an evaluation, which tables, reports and gates show."""

    methods: tuple[str, ...]  # in the order given
    metrics: tuple[str, ...]  # rows of catalog.METRICS with a score for each file
    better: Mapping[str, str]  # metric -> higher, lower; "" if neither is better
    scores: tuple[FileScore, ...]  # method by method, each in the order of the targets
    data_range: Mapping[str, float]  # file name -> grey levels from black to white
    scale: str  # none, affine, percentile: how predictions were fitted to their targets
    inputs: Path | None = None  # folder of the unrestored inputs
    missing: tuple[str, ...] = ()  # "METHOD: NAME", a target without prediction
    extra: tuple[str, ...] = ()  # "METHOD: NAME", a prediction without target
    warnings: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()  # a line for each file, or metric of one, without a score
    sets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # method -> FID, ...
    set_depths: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    axes: str | None = None  # `axes`, for reading the files again
    project: str = "none"  # none, max, mean over z before scoring

    @property
    def averaged(self) -> bool:
        """Whether the methods are means of the first 1, 2, 3 ... samples."""
        names = tuple(mean_of(i + 1) for i in range(len(self.methods)))
        return bool(names) and self.methods == names

    def column(self, method: str, metric: str) -> list[float]:
        """The scores of one method, in the order of the files."""
        return [s.values[metric] for s in self.scores if s.method == method and metric in s.values]


def mean_of(count: int) -> str:
    """The name under which the mean of `count` samples is scored."""
    return f"mean of {count}"


@dataclass(frozen=True)
class Summary:
    n: int
    median: float
    mean: float
    low: float
    high: float


def summary(values: Sequence[float]) -> Summary:
    """Statistics of at least one value; values may be infinite."""
    found = sorted(values)
    middle = len(found) // 2
    median = found[middle] if len(found) % 2 else (found[middle - 1] + found[middle]) / 2
    return Summary(len(found), median, sum(found) / len(found), found[0], found[-1])


def median_test(a: Sequence[float], b: Sequence[float]) -> float:
    """p of Mood's median test of two samples, as Osuna-Vargas et al. compare methods.

    Values equal to the common median count as not above it. 1 if no value is above it.
    """
    median = summary([*a, *b]).median
    if not any(value > median for value in (*a, *b)):
        return 1.0
    return float(stats.median_test(a, b).pvalue)


def ranking(medians: Mapping[str, float], better: str) -> list[str]:
    """Names from best to worst; empty if neither direction is better."""
    if not better:
        return []
    return sorted(medians, key=medians.__getitem__, reverse=better == "higher")


def summaries(comparison: Comparison) -> dict[str, dict[str, Summary]]:
    """Metric -> method -> summary over the files; methods without a score are left out."""
    found: dict[str, dict[str, Summary]] = {}
    for metric in comparison.metrics:
        columns = {m: comparison.column(m, metric) for m in comparison.methods}
        found[metric] = {m: summary(values) for m, values in columns.items() if values}
    return found


def median_tests(comparison: Comparison, metric: str) -> dict[tuple[str, str], float]:
    """p of Mood's median test for each pair of methods with scores."""
    columns = {m: comparison.column(m, metric) for m in comparison.methods}
    usable = [m for m, values in columns.items() if values]
    return {(a, b): median_test(columns[a], columns[b]) for a, b in combinations(usable, 2)}


def depths(comparison: Comparison) -> dict[str, dict[str, list[float | None]]]:
    """Metric -> method -> median over the files at each z; None if no file has a score there."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for metric in comparison.metrics:
        for method in comparison.methods:
            scores = [s.depths for s in comparison.scores if s.method == method]
            columns = [
                [each[z][metric] for each in scores if z < len(each) and metric in each[z]]
                for z in range(max(map(len, scores), default=0))
            ]
            if any(columns):
                medians = [summary(column).median if column else None for column in columns]
                found.setdefault(metric, {})[method] = medians
    for method, sets in comparison.set_depths.items():
        for metric, values in sets.items():
            found.setdefault(metric, {})[method] = list(values)
    return found


@dataclass(frozen=True)
class Gate:
    """A limit for the median over the files, or for a distance of whole sets of images."""

    metric: str
    limit: float
    lowest: bool  # the score must not be under the limit; else not over it

    def __str__(self) -> str:
        return f"`fail_{'under' if self.lowest else 'over'}` {self.metric}={self.limit:g}"


def gates(under: Sequence[str], over: Sequence[str]) -> tuple[Gate, ...]:
    """Gates from texts such as psnr=30. Raises UsageError."""
    found = []
    for texts, lowest in ((under, True), (over, False)):
        for text in texts:
            name, _, number = text.partition("=")
            given = f"`fail_{'under' if lowest else 'over'}` {text}"
            if name not in METRICS:
                raise UsageError(
                    f"{given}: use METRIC=NUMBER with one of {', '.join(METRICS)}"
                    f"{did_you_mean(name, METRICS)}"
                )
            try:
                limit = float(number)
            except ValueError as error:
                raise UsageError(f"{given}: '{number}' is not a number") from error
            if math.isnan(limit):
                raise UsageError(f"{given}: '{number}' cannot be a limit")
            found.append(Gate(name, limit, lowest))
    return tuple(found)


def unmet(comparison: Comparison, wanted: Sequence[Gate]) -> list[str]:
    """A line for each method that does not meet a gate, or has no score for it."""
    lines = []
    for gate in wanted:
        for method in comparison.methods:
            values = comparison.column(method, gate.metric)
            single = comparison.sets.get(method, {}).get(gate.metric)
            score = summary(values).median if values else single
            if score is None:
                lines.append(f"{gate}: {method} has no score")
            elif score < gate.limit if gate.lowest else score > gate.limit:
                lines.append(f"{gate}: {method} has {score:.6g}")
    return lines


def check_target(option: str, target: str | None) -> None:
    """Check before any work that a file can be written there. Raises UsageError."""
    if target is None or target == STDOUT:
        return
    if is_image_name(target):
        raise UsageError(f"{option} {target}: is the name of an image: choose another name")
    if not Path(target).parent.is_dir():
        raise UsageError(f"{option} {target}: its folder does not exist: make it first")


def as_dict(comparison: Comparison, missed: Sequence[str]) -> dict[str, Any]:
    """All numbers in full precision; infinity becomes the text "inf", as JSON has no number for it.

    A file has no value for a metric that is undefined there; `failures` says why.
    """
    found = summaries(comparison)
    document = {
        "version": restorectl.__version__,
        "methods": comparison.methods,
        "metrics": {name: {"better": better} for name, better in comparison.better.items()},
        "scale": comparison.scale,
        "project": comparison.project,
        "data_range": comparison.data_range,
        "files": [_file(score) for score in comparison.scores],
        "summary": {
            metric: {method: asdict(each) for method, each in methods.items()}
            for metric, methods in found.items()
        },
        "median_tests": {
            metric: [
                {"a": a, "b": b, "p": p} for (a, b), p in median_tests(comparison, metric).items()
            ]
            for metric in comparison.metrics
        },
        "sets": comparison.sets,
        "depths": depths(comparison),
        "missing": comparison.missing,
        "extra": comparison.extra,
        "failures": comparison.failures,
        "warnings": comparison.warnings,
        "unmet": missed,
    }
    return {key: _plain(value) for key, value in document.items()}


def as_json(document: Mapping[str, Any]) -> str:
    """JSON text with a line break at its end."""
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def write_csv(target: str, comparison: Comparison) -> None:
    """One row per prediction and, with `by` z, one per depth. Raises OutputError, DiskFullError."""
    with _opened(target) as file:
        writer = csv.writer(file, lineterminator="\n")
        metrics = comparison.metrics
        writer.writerow(["method", "name", "z", "prediction", "target", "data_range", *metrics])
        for score in comparison.scores:
            places = [spreadsheet_cell(path) for path in (score.prediction, score.target)]
            largest = comparison.data_range.get(score.name, "")
            for z, values in (("", score.values), *enumerate(score.depths)):
                numbers = [values.get(metric, "") for metric in metrics]
                names = spreadsheet_cell(score.method), spreadsheet_cell(score.name)
                writer.writerow([*names, z, *places, largest, *numbers])


@contextmanager
def _opened(target: str) -> Iterator[TextIO]:
    """Standard output, or a text file that appears at its path once complete."""
    if target == STDOUT:
        yield sys.stdout
        return
    with replacing(Path(target)) as part, part.open("w", newline="", encoding="utf-8") as file:
        yield file


def _file(score: FileScore) -> dict[str, Any]:
    found: dict[str, Any] = {
        "method": score.method,
        "name": score.name,
        "prediction": str(score.prediction),
        "target": str(score.target),
        "values": score.values,
    }
    if score.depths:
        found["depths"] = score.depths
    if score.curves:
        found["curves"] = score.curves
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
