"""The HTML report of a comparison, from the summary to how the predictions were made.

Charts over all files show scores against depth and against the number of averaged samples and, for
methods with uncertainty sets, the error against the predicted deviation.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from restorectl import __version__
from restorectl.catalog import METRICS
from restorectl.evaluation import examples
from restorectl.evaluation.charts import Chart, Group, Series, number, role
from restorectl.evaluation.comparison import (
    Comparison,
    median_test,
    ranking,
    summary,
)
from restorectl.evaluation.pages import Cell, Column, ReportPage, Table, write_page
from restorectl.evaluation.read import volume
from restorectl.images.image import read_provenance

ARROW = {"higher": "↑", "lower": "↓", "": ""}
PIXELS = 2_000_000  # sampled from all files of a method for the error against the deviation
BINS = 20  # of that comparison
FITS = {
    "none": "as they are",
    "affine": "after a least-squares fit to the target",
    "percentile": "after their 0.1 and 99.9 percentiles were brought to the target's",
}
KINDS = 4  # if a method's predictions were made in more ways, the rarer ones are only counted


def write(path: str, comparison: Comparison) -> None:
    """Write one self-contained HTML file; equal comparisons of equal images give equal bytes.

    Raises InputError for a scored image that can no longer be read, OutputError, DiskFullError.
    """
    write_page(path, "report.html", report=report(comparison), data=None)


def report(comparison: Comparison) -> ReportPage:
    """The content of the page. Raises InputError."""
    roles = {method: role(i) for i, method in enumerate(comparison.methods)}
    columns = tuple(_column(comparison, metric, roles) for metric in comparison.metrics)
    metric, choices = examples.choose(comparison)
    shown = [examples.build(comparison, metric, choice, roles) for choice in choices]
    spread = uncertainty_summary(comparison, roles)
    hidden = [line for _, lines in shown for line in lines] + spread.problems
    notes = (
        ("Targets without a prediction", comparison.missing),
        ("Predictions without a target, not scored", comparison.extra),
        ("Not scored", comparison.failures),
        ("Warnings", tuple(dict.fromkeys((*comparison.warnings, *hidden)))),
    )
    files = [
        (s.name, s.method, roles[s.method], tuple(map(s.values.get, comparison.metrics)))
        for s in comparison.scores
        if s.values
    ]
    return ReportPage(
        title="Evaluation of " + _listed(comparison.methods),
        facts=_facts(comparison),
        notes=tuple((heading, found) for heading, found in notes if found),
        summary=_summary(comparison, columns, roles) if columns else None,
        sets=_sets(comparison, roles),
        columns=columns,
        examples=tuple(example for example, _ in shown),
        ranked_by=f"{metric}, its mean over the methods" if metric else "",
        spread=spread.table,
        uncertainty=spread.charts,
        curves=charts(comparison, roles),
        files=tuple(sorted(files, key=lambda row: row[:3])),
        provenance=tuple(
            (method, roles[method], _provenance(comparison, method))
            for method in comparison.methods
        ),
    )


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    if len(names) > 4:
        return f"{len(names)} methods"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _facts(comparison: Comparison) -> tuple[tuple[str, str], ...]:
    files = {score.name for score in comparison.scores}
    facts = [("Files", str(len(files))), ("Predictions", FITS[comparison.scale])]
    ranges = sorted(comparison.data_range.values())
    if ranges:
        ends = number(ranges[0]), number(ranges[-1])
        told = ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}, by file"
        facts.append(("Data range", told))
    if comparison.project != "none":
        facts.append(("Projection over z", comparison.project))
    return (*facts, ("restorectl", __version__))


def _column(comparison: Comparison, metric: str, roles: Mapping[str, str]) -> Column:
    groups = []
    for method in comparison.methods:
        mine = [s for s in comparison.scores if s.method == method and metric in s.values]
        values = np.array([s.values[metric] for s in mine], np.float64)
        groups.append(Group(method, roles[method], values, tuple(s.name for s in mine)))
    fit = "" if comparison.scale == "none" else f" ({comparison.scale})"
    row = METRICS[metric]
    unit = row.load().unit
    label = f"{metric}{fit}{f' in {unit}' if unit else ''}"
    return Column(label, row.help, comparison.better.get(metric, ""), tuple(groups))


def _summary(comparison: Comparison, columns: Sequence[Column], roles: Mapping[str, str]) -> Table:
    """Medians, and below them mean, range and Mood's median test against the best method."""
    rows = []
    for column in columns:
        cells = tuple(_cell(column, i) for i in range(len(comparison.methods)))
        rows.append((f"{column.label} {ARROW[column.better]}", "", cells))
    counts = [sum(s.method == method for s in comparison.scores) for method in comparison.methods]
    rows.append(("files", "", tuple(Cell(count) for count in counts)))
    head = tuple((method, roles[method]) for method in comparison.methods)
    several = " p: Mood's median test against the best (★)." if len(head) > 1 else ""
    caption = f"Median over the files; below it the mean, and the smallest to the largest.{several}"
    return Table("Summary", "Metric", head, tuple(rows), caption)


def _cell(column: Column, i: int) -> Cell:
    values = [group.values.tolist() for group in column.groups]
    if not values[i]:
        return Cell(None)
    medians = {str(k): summary(v).median for k, v in enumerate(values) if v}
    order = ranking(medians, column.better) if len(medians) > 1 else []
    found = summary(values[i])
    note = f"{number(found.mean)} · {number(found.low)} to {number(found.high)}"
    best = bool(order) and medians[str(i)] == medians[order[0]]
    if order and not best:
        note += f" · p {_p(median_test(values[i], values[int(order[0])]))}"
    return Cell(found.median, note, best)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _sets(comparison: Comparison, roles: Mapping[str, str]) -> Table | None:
    """Scores of whole sets, such as FID: lower is better."""
    names = list(dict.fromkeys(k for found in comparison.sets.values() for k in found))
    if not names:
        return None
    rows = []
    for name in names:
        values = [comparison.sets.get(method, {}).get(name) for method in comparison.methods]
        known = [value for value in values if value is not None]
        least = min(known) if len(known) > 1 else None
        cells = tuple(Cell(value, best=value is not None and value == least) for value in values)
        rows.append((f"{name} ↓", "", cells))
    head = tuple((method, roles[method]) for method in comparison.methods)
    return Table("Scores of whole sets of images", "Distance", head, tuple(rows))


def _provenance(comparison: Comparison, method: str) -> tuple[tuple[str, str], ...]:
    """How the predictions of a method were made, as the images themselves record it."""
    kinds: Counter[str] = Counter()
    unknown = 0
    for score in comparison.scores:
        if score.method != method:
            continue
        made = read_provenance(score.prediction)
        if made is None:
            unknown += 1
        else:
            kinds[json.dumps({k: v for k, v in made.items() if k != "input"}, sort_keys=True)] += 1
    facts: list[tuple[str, str]] = []
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    for kind, count in ordered[:KINDS]:
        made = json.loads(kind)
        facts.append(("files", str(count)))
        facts.append(("made by", f"{made.get('tool')} {made.get('version')} {made.get('command')}"))
        facts += [(key, _told(made[key])) for key in ("weights", "parameters") if key in made]
    if len(ordered) > KINDS:
        rest = sum(count for _, count in ordered[KINDS:])
        facts.append(("files", f"{rest}, made in {len(ordered) - KINDS} further ways"))
    if unknown:
        facts.append(("files", f"{unknown} without a record of how they were made"))
    return tuple(facts)


def _told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_told(value[key])}" for key in sorted(value))
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class UncertaintySummary:
    """Empty if no folder has uncertainty sets."""

    table: Table | None
    charts: tuple[Chart, ...]
    problems: list[str]  # a line for each set that cannot be used


@dataclass(frozen=True)
class _SampledSet:
    std: np.ndarray  # (n,) sampled pixels
    error: np.ndarray
    inside: int  # number of target pixels within lower..upper
    pixels: int  # number of target pixels
    nominal: float | None  # the coverage that lower..upper was made for


def uncertainty_summary(comparison: Comparison, roles: Mapping[str, str]) -> UncertaintySummary:
    """Coverage, and the error in bins of predicted deviation, of each method with uncertainty sets.

    All numbers are in the units of the predictions, before any fit. Raises InputError for a target
    that can no longer be read.
    """
    rows, series = [], []
    problems: list[str] = []
    whole = comparison.project == "none" and not comparison.averaged
    for method in comparison.methods if whole else ():
        mine = [s for s in comparison.scores if s.method == method and s.target != s.prediction]
        found = []
        for score in mine:
            maps, problem = examples.shown_uncertainty(score, comparison)
            problems += problem
            if maps is not None:
                target = volume(score.target, comparison.axes)
                found.append(_sampled_set(score.prediction, maps, target, PIXELS // len(mine)))
        if not found:
            continue
        std, error = (np.concatenate([getattr(f, k) for f in found]) for k in ("std", "error"))
        predicted, actual = reliability(std, error, BINS)
        series.append(Series(method, roles[method], predicted, actual, points=True))
        rows.append((method, roles[method], _cells(found, std, error)))
    if not rows:
        return UncertaintySummary(None, _sparsification(comparison, roles), problems)
    top = max(float(s.x.max()) for s in series)
    guide = Series("equal", "guide", np.array([0.0, top]), np.array([0.0, top]))
    chart = Chart(
        f"Error in {BINS} bins of predicted deviation",
        "predicted deviation (root mean square of the bin)",
        "error (root mean square)",
        (*series, guide),
    )
    names = ("files", "coverage", "asked for", "predicted deviation", "error", "error / deviation")
    head = tuple((name, "") for name in names)
    caption = (
        "Coverage: share of the target's pixels within lower..upper. Root mean squares over pixels."
    )
    table = Table("Uncertainty", "Method", head, tuple(rows), caption)
    return UncertaintySummary(table, (chart, *_sparsification(comparison, roles)), problems)


def reliability(std: np.ndarray, error: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Compare the predicted deviation with the error, in `bins` equally full bins of std.

    std, error: (n,), std >= 0, equal units. Returns, for each bin that is not empty, the root mean
    square of std and of error: a calibrated spread gives equal numbers (Levi et al. 2022).
    """
    order = np.argsort(std, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    predicted, actual = (
        np.array([np.sqrt(np.mean(values[part] ** 2)) for part in parts]) for values in (std, error)
    )
    return predicted, actual


def _cells(found: list[_SampledSet], std: np.ndarray, error: np.ndarray) -> tuple[Cell, ...]:
    coverage = sum(file.inside for file in found) / sum(file.pixels for file in found)
    asked = {file.nominal for file in found}
    nominal = asked.pop() if len(asked) == 1 else None
    rms = [float(np.sqrt(np.mean(values**2))) for values in (std, error)]
    ratio = rms[1] / rms[0] if rms[0] else None
    values = (len(found), coverage, nominal, *rms, ratio)
    return tuple(Cell(value) for value in values)


def _sampled_set(
    mean: Path, maps: Mapping[str, np.ndarray], target: np.ndarray, most: int
) -> _SampledSet:
    # Every n-th pixel; n is odd, so that the sample has no period in step with the rows
    stride = -(-target.size // max(1, most)) | 1
    known = ~np.isnan(maps["std"])  # copied pixels have no error bars
    std, error = (each[known][::stride] for each in (maps["std"], maps["mean"] - target))
    inside = int(np.sum((maps["lower"] <= target) & (target <= maps["upper"])))
    asked = ((read_provenance(mean) or {}).get("parameters") or {}).get("interval")
    nominal = float(asked) if isinstance(asked, int | float) else None
    return _SampledSet(std, error, inside, int(known.sum()), nominal)


def _sparsification(comparison: Comparison, roles: Mapping[str, str]) -> tuple[Chart, ...]:
    """Sparsification curves averaged over the files, if the comparison has any."""
    series = []
    for method in comparison.methods:
        curves: dict[str, list[tuple[float, ...]]] = {}
        for score in comparison.scores:
            if score.method == method:
                for name, curve in score.curves.items():
                    curves.setdefault(name, []).append(curve)
        for name, found in curves.items():
            y = np.mean(found, axis=0)
            x = np.arange(len(y)) / len(y)
            kind = roles[method] if name == next(iter(curves)) else "guide"
            series.append(Series(f"{method}: {name}", kind, x, y))
    if not series:
        return ()
    return (
        Chart(
            "Sparsification, mean over the files",
            "share of pixels taken away, the most uncertain first",
            "mean error of the rest, relative",
            tuple(series),
        ),
    )


def charts(comparison: Comparison, roles: Mapping[str, str]) -> tuple[Chart, ...]:
    """The charts over all files that have a finite number."""
    drawn = (*_depths(comparison, roles), *_set_charts(comparison, roles), *_averages(comparison))
    return tuple(chart for chart in drawn if any(np.isfinite(s.y).any() for s in chart.series))


def _depths(comparison: Comparison, roles: Mapping[str, str]) -> Iterator[Chart]:
    """Each metric by plane, the mean over the files (RSCD, Figure 9)."""
    for metric in comparison.metrics:
        series = []
        for method in comparison.methods:
            mine = [s.depths for s in comparison.scores if s.method == method and s.depths]
            deepest = max((len(found) for found in mine), default=0)
            values = [
                [f[z][metric] for f in mine if z < len(f) and metric in f[z]]
                for z in range(deepest)
            ]
            y = [float(np.mean(found)) if found else np.nan for found in values]
            series.append(_series(method, roles[method], y))
        yield Chart(f"{metric} by depth, mean over the files", "plane z", metric, tuple(series))


def _set_charts(comparison: Comparison, roles: Mapping[str, str]) -> Iterator[Chart]:
    """Frechet distances by plane."""
    names = dict.fromkeys(name for found in comparison.set_depths.values() for name in found)
    for name in names:
        series = [
            _series(method, roles[method], list(comparison.set_depths[method][name]))
            for method in comparison.methods
            if name in comparison.set_depths.get(method, {})
        ]
        yield Chart(f"{name} by depth", "plane z", name, tuple(series))


def _averages(comparison: Comparison) -> Iterator[Chart]:
    """Each metric against the number of samples in the mean."""
    for metric in comparison.metrics if comparison.averaged else ():
        columns = [comparison.column(method, metric) for method in comparison.methods]
        y = [float(np.mean(column)) if column else np.nan for column in columns]
        series = _series("mean over the files", "m0", y, first=1)
        yield Chart(f"{metric} of the mean of N samples", "samples N", metric, (series,))


def _series(name: str, role: str, y: list[float], first: int = 0) -> Series:
    x = np.arange(first, first + len(y), dtype=np.float64)
    return Series(name, role, x, np.array(y, np.float64), points=True)
