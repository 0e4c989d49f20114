"""The comparison as JSON and CSV, and the gates that a script waits for."""

import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, TextIO

import restorectl
from restorectl.catalog import METRICS
from restorectl.errors import UsageError
from restorectl.evaluation.metrics.statistics import Summary, median_test, summary
from restorectl.evaluation.read import Comparison, FileScore
from restorectl.files.atomic import replacing
from restorectl.images.image import is_image_name

STDOUT = "-"


@dataclass(frozen=True)
class Gate:
    """A limit for the median over the files, or for a distance of all of them."""

    metric: str
    limit: float
    lowest: bool  # the score must not be under the limit; else not over it

    def __str__(self) -> str:
        return f"--fail-{'under' if self.lowest else 'over'} {self.metric}={self.limit:g}"


def gates(under: Sequence[str], over: Sequence[str]) -> tuple[Gate, ...]:
    """From texts such as psnr=30. Raises UsageError."""
    found = []
    for texts, lowest in ((under, True), (over, False)):
        for text in texts:
            name, _, number = text.partition("=")
            option = f"--fail-{'under' if lowest else 'over'} {text}"
            if name not in METRICS:
                raise UsageError(f"{option}: use METRIC=NUMBER with one of {', '.join(METRICS)}")
            try:
                limit = float(number)
            except ValueError as error:
                raise UsageError(f"{option}: '{number}' is no number") from error
            if math.isnan(limit):
                raise UsageError(f"{option}: '{number}' is no limit")
            found.append(Gate(name, limit, lowest))
    return tuple(found)


def unmet(comparison: Comparison, wanted: Sequence[Gate]) -> list[str]:
    """A line for each method that misses a gate; a method without a score misses it."""
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


def summaries(comparison: Comparison) -> dict[str, dict[str, Summary]]:
    """Metric -> method -> summary over the files; methods without a score are left out."""
    found: dict[str, dict[str, Summary]] = {}
    for metric in comparison.metrics:
        columns = {m: comparison.column(m, metric) for m in comparison.methods}
        found[metric] = {m: summary(values) for m, values in columns.items() if values}
    return found


def tests(comparison: Comparison, metric: str) -> dict[tuple[str, str], float]:
    """p of Mood's median test for each two methods with scores."""
    columns = {m: comparison.column(m, metric) for m in comparison.methods}
    usable = [m for m, values in columns.items() if values]
    return {(a, b): median_test(columns[a], columns[b]) for a, b in combinations(usable, 2)}


def depths(comparison: Comparison) -> dict[str, dict[str, list[float | None]]]:
    """Metric -> method -> median over the files at each z; None where no file has a score."""
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


def check_target(option: str, target: str | None) -> None:
    """Refuse before any work what cannot be written. Raises UsageError."""
    if target is None or target == STDOUT:
        return
    if is_image_name(target):
        raise UsageError(f"{option} {target}: is the name of an image: choose another")
    if not Path(target).parent.is_dir():
        raise UsageError(f"{option} {target}: its folder does not exist: make it first")


def as_dict(comparison: Comparison, missed: Sequence[str]) -> dict[str, Any]:
    """All numbers in full precision; infinite ones as the text "inf", which JSON has no number for.

    A metric that is undefined for a file is not among its values, and `failures` says why.
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
            metric: [{"a": a, "b": b, "p": p} for (a, b), p in tests(comparison, metric).items()]
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


def write_json(target: str, document: Mapping[str, Any]) -> None:
    """To a file or, for "-", to standard output. Raises OutputError."""
    with _opened(target) as file:
        json.dump(document, file, indent=1, allow_nan=False)
        file.write("\n")


def write_csv(target: str, comparison: Comparison) -> None:
    """A row a prediction and, of --by z, a row a depth. Raises OutputError."""
    with _opened(target) as file:
        writer = csv.writer(file, lineterminator="\n")
        metrics = comparison.metrics
        writer.writerow(["method", "name", "z", "prediction", "target", "data_range", *metrics])
        for score in comparison.scores:
            places = str(score.prediction), str(score.target)
            largest = comparison.data_range.get(score.name, "")
            for z, values in (("", score.values), *enumerate(score.depths)):
                numbers = [values.get(metric, "") for metric in metrics]
                writer.writerow([score.method, score.name, z, *places, largest, *numbers])


@contextmanager
def _opened(target: str) -> Iterator[TextIO]:
    """Standard output, or a text file that appears at its path when it is complete."""
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
