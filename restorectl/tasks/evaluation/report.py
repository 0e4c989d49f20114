"""The HTML report of a comparison: what it tells, in which order."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from restorectl import __version__
from restorectl.catalog import METRICS
from restorectl.core.metrics.compare import median_test, ranking, summary
from restorectl.io.atomic import replacing
from restorectl.io.html_page import number
from restorectl.io.html_report import ARROW, Cell, Column, Report, Table, render
from restorectl.io.html_svg import Group, role
from restorectl.io.image import read_provenance
from restorectl.tasks.evaluation import curves, examples, reliability
from restorectl.tasks.evaluation.comparison import Comparison

FITS = {
    "none": "as they are",
    "affine": "after a least-squares fit to the target",
    "percentile": "after their 0.1 and 99.9 percentiles were brought to the target's",
}
KINDS = 4  # different ways of making the predictions of one method that are told in full


def write(path: str, comparison: Comparison) -> None:
    """Write one self-contained HTML file; equal comparisons of equal images give equal bytes.

    Raises InputError for a scored image that can no longer be read, OutputError, DiskFullError.
    """
    document = render(report(comparison))
    with replacing(Path(path)) as part:
        part.write_text(document, "utf-8", newline="\n")


def report(comparison: Comparison) -> Report:
    """All that the page shows. Raises InputError."""
    roles = {method: role(i) for i, method in enumerate(comparison.methods)}
    columns = tuple(_column(comparison, metric, roles) for metric in comparison.metrics)
    metric, choices = examples.choose(comparison)
    shown = [examples.build(comparison, metric, choice, roles) for choice in choices]
    hidden = tuple(problem for _, problem in shown if problem)
    spread = reliability.measure(comparison, roles)
    notes = (
        ("Targets without a prediction", comparison.missing),
        ("Predictions without a target, not scored", comparison.extra),
        ("Not scored", comparison.failures),
        ("Warnings", (*comparison.warnings, *hidden)),
    )
    sets = _sets(comparison, roles)
    return Report(
        title="Evaluation of " + _listed(comparison.methods),
        facts=_facts(comparison),
        notes=tuple((heading, found) for heading, found in notes if found),
        summary=_summary(comparison, columns, roles),
        sets=sets,
        columns=columns,
        examples=tuple(example for example, _ in shown),
        ranked_by=f"{metric}, its mean over the methods" if metric else "",
        spread=spread.table,
        uncertainty=spread.charts,
        curves=curves.charts(comparison, roles),
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
    return Column(metric, label, row.help, comparison.better.get(metric, ""), tuple(groups))


def _summary(comparison: Comparison, columns: Sequence[Column], roles: Mapping[str, str]) -> Table:
    """Medians, with mean, range and Mood's median test against the best below them."""
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
