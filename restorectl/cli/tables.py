"""The tables of `evaluate` on standard output: one per metric, or one in all for a single method.

Also the tables of downstream checks and preference studies; failures go to stderr.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from restorectl.catalog import METRICS
from restorectl.cli.progress import worded
from restorectl.errors import printable

if TYPE_CHECKING:
    from restorectl.evaluation.comparison import Comparison, Summary

ARROWS = {"higher": "higher is better", "lower": "lower is better", "": ""}
STYLES = {0: "bold", 1: "underline"}  # of the best and the second
MARKS = {0: "best", 1: "second"}


def show(comparison: "Comparison") -> None:
    """Print all scores, below the data range and the scale."""
    from restorectl.evaluation.comparison import summaries

    console = _console()
    found = summaries(comparison)
    if comparison.data_range:
        console.print(_ranges(comparison), highlight=False)
    if len(comparison.methods) == 1:
        _single(console, comparison, found)
    else:
        for metric in comparison.metrics:
            _compared(console, comparison, metric, found[metric])
            _tests(console, comparison, metric)
    if any(comparison.sets.values()):
        _sets(console, comparison)
    _depths(console, comparison)


def rows(title: str, header: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    """Print a plain table."""
    console = _console()
    table = _table(console, title, header)
    for line in lines:
        table.add_row(*(_shown(_text(cell)) for cell in line))
    console.print(table)


def _console() -> Console:
    console = Console(force_terminal=sys.stdout.isatty(), highlight=False)
    if not console.is_terminal:
        console.width = 1000  # programs read this: cut nothing
    return console


def _table(console: Console, title: str, header: Sequence[str]) -> Table:
    console.print()
    console.print(printable(title), markup=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    narrow = console.is_terminal  # break names before a bracket or a method
    for index, name in enumerate(header):
        if narrow:
            name = name.replace(" (", "\n(").replace("against ", "against\n")
        lines = map(_shown, name.split("\n"))
        table.add_column("\n".join(lines), justify="right" if index else "left", no_wrap=not narrow)
    return table


def _styled(console: Console, text: str, place: int, among: int) -> str:
    """Best bold, second underlined; plain off a terminal or if there is only one."""
    shown = _shown(text)
    if not console.is_terminal or among < 2 or place not in STYLES:
        return shown
    return f"[{STYLES[place]}]{shown}[/]"


def _shown(text: str) -> str:
    """Names of methods, files and labels as they are safe on a terminal."""
    return escape(printable(text))


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _ranges(comparison: "Comparison") -> str:
    low, high = (f"{f(comparison.data_range.values()):g}" for f in (min, max))
    project = "" if comparison.project == "none" else f" · projection: {comparison.project} over z"
    return f"data range: {low if low == high else f'{low} to {high}, of each target'}{project}"


def _about(metric: str, better: str) -> str:
    return " · ".join(text for text in (metric, _help(metric), ARROWS[better]) if text)


def _help(metric: str) -> str:
    return METRICS[metric].help if metric in METRICS else ""


def _header(comparison: "Comparison", metric: str) -> list[str]:
    """median, mean, ... with the scale in the name; uncertainty is never scaled."""
    scale = "none" if _calibrated(metric) else comparison.scale
    return ["n", *(f"{what} (scale {scale})" for what in ("median", "mean")), "min", "max"]


def _calibrated(metric: str) -> bool:
    return METRICS[metric].kind == "uncertainty"


def _numbers(each: "Summary") -> list[str]:
    return [str(each.n), *(_text(v) for v in (each.median, each.mean, each.low, each.high))]


def _single(
    console: Console, comparison: "Comparison", found: Mapping[str, Mapping[str, "Summary"]]
) -> None:
    (method,) = comparison.methods
    usable = [metric for metric in comparison.metrics if method in found[metric]]
    if not usable:
        return
    table = _table(console, method, ["metric", *_header(comparison, usable[0]), ""])
    table.columns[-1].justify = "left"
    for metric in usable:
        about = [_help(metric), ARROWS[comparison.better[metric]]]
        if _calibrated(metric) and comparison.scale != "none":
            about.append("not scaled")
        numbers = _numbers(found[metric][method])
        table.add_row(metric, *numbers, "; ".join(text for text in about if text))
    console.print(table)


def _compared(
    console: Console, comparison: "Comparison", metric: str, found: Mapping[str, "Summary"]
) -> None:
    """One row per method; p of the median test against the best, or the first if unranked."""
    from restorectl.evaluation.comparison import median_tests, ranking

    better = comparison.better[metric]
    order = ranking({method: each.median for method, each in found.items()}, better)
    values = median_tests(comparison, metric)
    versus = order[0] if order else next(iter(found), "")
    header = ["method", *_header(comparison, metric), f"p against {versus}", "rank"]
    table = _table(console, _about(metric, better), header)
    for method in comparison.methods:
        if method not in found:
            table.add_row(_shown(method), "0")
            continue
        place = order.index(method) if method in order else len(order)
        p = values.get((method, versus), values.get((versus, method)))
        name, median = (
            _styled(console, text, place, len(order))
            for text in (method, _text(found[method].median))
        )
        n, _, *others = _numbers(found[method])
        cells = [name, n, median, *others, "" if p is None else f"{p:.3g}"]
        table.add_row(*cells, MARKS.get(place, "") if order else "")
    console.print(table)


def _tests(console: Console, comparison: "Comparison", metric: str) -> None:
    """p of the median test between every two of three or more methods."""
    from restorectl.evaluation.comparison import median_tests

    values = median_tests(comparison, metric)
    names = list(dict.fromkeys(name for pair in values for name in pair))
    if len(names) < 3:
        return
    table = _table(console, f"{metric} · p of Mood's median test", ["", *names[1:]])
    for row in names[:-1]:
        cells = [values.get((row, column)) for column in names[1:]]
        table.add_row(escape(row), *("" if p is None else f"{p:.3g}" for p in cells))
    console.print(table)


def _sets(console: Console, comparison: "Comparison") -> None:
    """Distances of each method's images to the reference."""
    from restorectl.evaluation.comparison import ranking

    names = dict.fromkeys(name for found in comparison.sets.values() for name in found)
    title = "distance to --reference · lower is better"
    table = _table(console, title, ["method", *names])
    orders = {
        name: ranking({m: f[name] for m, f in comparison.sets.items() if name in f}, "lower")
        for name in names
    }
    for method, found in comparison.sets.items():
        cells = []
        for name in names:
            text = _text(found[name]) if name in found else ""
            place = orders[name].index(method) if name in found else len(STYLES)
            cells.append(_styled(console, text, place, len(orders[name])))
        table.add_row(_shown(method), *cells)
    console.print(table)


def _depths(console: Console, comparison: "Comparison") -> None:
    """Median over the files at each depth z."""
    from restorectl.evaluation.comparison import depths

    for metric, columns in depths(comparison).items():
        title = f"{_about(metric, comparison.better[metric])} · median by depth"
        scale = f" (scale {comparison.scale})" if metric in comparison.metrics else ""
        table = _table(console, title, ["z", *(f"{method}{scale}" for method in columns)])
        for z in range(max(map(len, columns.values()))):
            cells = [column[z] if z < len(column) else None for column in columns.values()]
            table.add_row(str(z), *("" if value is None else _text(value) for value in cells))
        console.print(table)


KINDS = ("input", "prediction", "target")
COUNTED = ("objects", "area", "median_area", "matched", "precision", "recall", "f1", "iou")
OUTCOMES = ("correct", "wrong", "undecided")


def segmented(found: Mapping[str, Any]) -> None:
    """Print the objects in input, prediction and, if there is one, target, of all files."""
    lines = [
        [method, kind, *(_cell(kinds[kind].get(name)) for name in COUNTED)]
        for method, kinds in found["methods"].items()
        for kind in KINDS
        if kind in kinds
    ]
    paired = any("target" in kinds for kinds in found["methods"].values())
    title = "objects, matched to the target's" if paired else "objects"
    rows(title, ["method", "image", *COUNTED], lines)


def confused(found: Mapping[str, Any]) -> None:
    """Print the classes before and after restoration, and how outcomes change."""
    classes = found["classes"]
    for method, each in found["methods"].items():
        lines = [
            [label, when, *each[when]["confusion"][index]]
            for index, label in enumerate(found["labels"])
            for when in ("before", "after", "target")
            if when in each
        ]
        rows(f"{method} · classes of {each['files']} files", ["label", "image", *classes], lines)
        changes = [[name, *each["changes"][index]] for index, name in enumerate(OUTCOMES)]
        rows(f"{method} · from before to after", ["before", *OUTCOMES], changes)


CHECKS = {"segment": segmented, "confusion": confused}  # by their keys in the JSON


def invented(found: Mapping[str, Any]) -> None:
    """Print how many features only one of several restorations of a field shows."""
    lines = [
        [method, each["exposures"], each["features"], f"{each['per_megapixel']:.3g}"]
        for method, each in found["methods"].items()
    ]
    header = ["method", "exposures", "features", "per megapixel"]
    rows("features that one restoration shows and no other", header, lines)


def preferred(found: Mapping[str, Any]) -> None:
    """Print preferences with 95 % intervals, and the agreement of raters."""
    lines = [
        [
            *(method, each["comparisons"], each["undecided"]),
            *(_share(each["share"], each["interval"])),
            *(_share(each["hallucination_rate"], each["hallucination_interval"])),
        ]
        for method, each in found["methods"].items()
    ]
    header = ["method", "compared", "undecided", "preferred", "95 %", "hallucinated", "95 %"]
    rows(f"study {found['study']} · {len(found['raters'])} raters", header, lines)
    pairs = [
        [
            " over ".join(pair["methods"]),
            *(pair["comparisons"], pair["undecided"]),
            *_share(pair["share"], pair["interval"]),
        ]
        for pair in found["pairs"]
    ]
    rows("pairs of methods", ["methods", "compared", "undecided", "preferred", "95 %"], pairs)
    agreement = list(_agreement(found["agreement"]))
    if agreement:
        rows("agreement", ["question", "raters", "tasks", "percent", "kappa"], agreement)


def failures(found: Mapping[str, Any]) -> int:
    """Print failures to stderr; returns their number."""
    for line in found["failures"]:
        sys.stderr.write(f"restorectl: {printable(worded(line))}\n")
    return len(found["failures"])


def _agreement(found: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    for question, each in found.items():
        for pair in each["pairs"]:
            kappa = _cell(pair["kappa"])
            names = " and ".join(pair["raters"])
            yield [question, names, str(pair["tasks"]), f"{pair['percent']:.1%}", kappa]


def _share(share: float | None, interval: Sequence[float] | None) -> tuple[str, str]:
    if share is None or interval is None:
        return "-", "-"
    return f"{share:.1%}", f"{interval[0]:.1%} to {interval[1]:.1%}"


def _cell(value: Any) -> Any:
    return "-" if value is None else value
