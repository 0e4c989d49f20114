"""Self-contained HTML pages, and what the report's page is made of: tables, box plots, pictures.

A page carries its style, its script and its data inside itself and forbids all requests by a
content security policy; pictures are data addresses. Texts are escaped, and equal data give equal
bytes.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from restorectl.evaluation.charts import Chart, Group, boxes, lines, number, text
from restorectl.images.pictures import data_uri

TEMPLATES = Path(__file__).parent.parent / "templates"
ARROW = {"higher": "↑", "lower": "↓", "": ""}
WORDS = {"higher": "; higher is better", "lower": "; lower is better", "": ""}


def template(name: str) -> str:
    """The text of a file of the package's templates."""
    return (TEMPLATES / name).read_text("utf-8")


def page(title: str, body: str, *, styles: Sequence[str], script: str, data: Any = None) -> str:
    """A whole document. `body` is HTML; `styles` and `script` name templates; `data` is for JSON.

    The script finds the data as the text of the element #data.
    """
    return Template(template("page.html")).substitute(
        title=text(title),
        style="\n".join(template(name) for name in ("common.css", *styles)),
        body=body,
        data=script_json(data),
        script=template(script),
    )


def script_json(data: Any) -> str:
    """JSON that cannot end a script element or open a comment, whatever its strings hold."""
    dumped = json.dumps(data, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return dumped.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", kind: str = ""
) -> str:
    """A table of HTML cells; the first cell of each row names it. Scrolls sideways if too wide."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    # Beside the table, not in it: a wide table would take its caption out of sight
    title = f'<p class="soft">{caption}</p>' if caption else ""
    return (
        f'{title}<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


@dataclass(frozen=True)
class Picture:
    title: str
    alt: str  # what it shows, in words
    png: bytes
    size: tuple[int, int]  # rows and columns of the picture in px
    line: tuple[int, int, int] | None = None  # row, first and last column of a profile


@dataclass(frozen=True)
class Strip:
    """Pictures side by side in one range of values, told by `range_text`."""

    pictures: tuple[Picture, ...]
    range_text: str
    ramp: str = ""  # "difference", "heat" or none


@dataclass(frozen=True)
class Example:
    title: str
    caption: str
    strips: tuple[Strip, ...]
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Column:
    """A metric: its values by method, each with the name of its file, in the order of the files."""

    name: str
    label: str  # with the fit and the unit, where there is one
    help: str  # what it is, in words
    better: str  # higher, lower or ""
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Cell:
    """A number of a summary; `best` of its column."""

    value: float | None
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A summary. Columns and rows are (name, colour role or ""); a row has a cell a column."""

    title: str
    corner: str  # what the rows are
    head: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]
    caption: str = ""


@dataclass(frozen=True)
class ReportPage:
    title: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, tuple[str, ...]], ...]  # heading and lines: what is missing or failed
    summary: Table
    sets: Table | None  # scores of whole sets of images
    columns: tuple[Column, ...]
    examples: tuple[Example, ...]
    ranked_by: str
    spread: Table | None  # of uncertainty sets
    uncertainty: tuple[Chart, ...]
    curves: tuple[Chart, ...]
    provenance: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]  # method, role, facts


def render_report(report: ReportPage) -> str:
    """The whole document; equal reports give equal text."""
    parts = [
        f"<h1>{text(report.title)}</h1>",
        '<ul class="facts">',
        *(f"<li>{text(name)} <b>{text(value)}</b></li>" for name, value in report.facts),
        "</ul>",
        *(_note(heading, found) for heading, found in report.notes),
        _summary(report.summary if report.columns else None),
        _summary(report.sets),
        _distributions(report.columns),
        _summary(report.spread),
        _charts("Uncertainty against error", report.uncertainty),
        _charts("Curves over all files", report.curves),
        *_examples(report),
        _files(report.columns),
        "<h2>Provenance</h2>",
        *(_provenance(*each) for each in report.provenance),
        "<footer>Made by restorectl evaluate. This file is complete in itself and loads nothing."
        "</footer>",
    ]
    body = f"<main>\n{chr(10).join(part for part in parts if part)}\n</main>\n{_DIALOG}"
    return page(report.title, body, styles=("report.css",), script="report.js")


_DIALOG = (
    '<dialog aria-label="Picture"><div class="bar"><span aria-live="polite"></span>'
    '<button type="button" class="back"><kbd>←</kbd> Previous</button>'
    '<button type="button" class="next">Next <kbd>→</kbd></button>'
    '<button type="button" class="close">Close <kbd>Esc</kbd></button></div>'
    '<div class="view"><img src="data:," alt=""></div></dialog>'
)


def _note(heading: str, found: Sequence[str]) -> str:
    items = "".join(f"<li>{text(line)}</li>" for line in found)
    return f'<div class="note" role="note"><b>{text(heading)}</b><ul>{items}</ul></div>'


def _summary(summary: Table | None) -> str:
    if summary is None:
        return ""
    rows = []
    for name, role, cells in summary.rows:
        shown = [_name(name, role)]
        for cell in cells:
            value = "–" if cell.value is None else number(cell.value)
            value = f'<span class="best">{value}</span>' if cell.best else value
            shown.append(value + (f"<small>{text(cell.note)}</small>" if cell.note else ""))
        rows.append(shown)
    head = [text(summary.corner), *(_name(*each) for each in summary.head)]
    return f"<h2>{text(summary.title)}</h2>{table(head, rows, text(summary.caption))}"


def _name(name: str, role: str) -> str:
    """A name with the swatch of its colour, where it has one."""
    if not role:
        return text(name)
    return f'<span class="swatch {role}" aria-hidden="true"></span>{text(name)}'


def _distributions(columns: Sequence[Column]) -> str:
    if not columns:
        return ""
    return (
        '<h2>Distributions over the files</h2><p class="soft">Boxes: quartiles and median;'
        " whiskers: the last value within 1.5 times the box; dots: files. Point at a dot for its"
        f' name.</p><div class="charts">{"".join(map(_boxes, columns))}</div>'
    )


def _boxes(column: Column) -> str:
    groups = [group for group in column.groups if len(group.values)]
    return boxes(column.label, f"{column.help}{WORDS[column.better]}.", groups)


def _charts(heading: str, charts: Sequence[Chart]) -> str:
    if not charts:
        return ""
    return f'<h2>{text(heading)}</h2><div class="charts">{"".join(map(lines, charts))}</div>'


def _examples(report: ReportPage) -> list[str]:
    if not report.examples:
        return []
    parts = [
        "<h2>Examples</h2>",
        f'<p class="soft">Chosen by {text(report.ranked_by)}. Click a picture to enlarge it; the'
        " arrow keys then flip through the row in place.</p>",
    ]
    for example in report.examples:
        parts.append(f'<section class="example"><h3>{text(example.title)}</h3>')
        parts.append(f'<p class="soft">{text(example.caption)}</p>')
        parts += map(_strip, example.strips)
        parts.append(f'<div class="charts">{"".join(map(lines, example.charts))}</div></section>')
    return parts


def _strip(strip: Strip) -> str:
    ramp = f'<span class="ramp {strip.ramp}" aria-hidden="true"></span> ' if strip.ramp else ""
    pictures = "".join(map(_picture, strip.pictures))
    caption = f"<figcaption>{ramp}{text(strip.range_text)}</figcaption>"
    return f'{caption}<div class="strip">{pictures}</div>'


def _picture(picture: Picture) -> str:
    rows, cols = picture.size
    over = ""
    if picture.line is not None:
        row, first, last = picture.line
        y = row + 0.5
        over = (
            f'<svg viewBox="0 0 {cols} {rows}" preserveAspectRatio="none" aria-hidden="true">'
            f'<line x1="{first}" y1="{y}" x2="{last + 1}" y2="{y}"/></svg>'
        )
    return (
        f'<figure><button type="button" class="zoom"><img src="{data_uri(picture.png)}"'
        f' alt="{text(picture.alt)}" width="{cols}" height="{rows}">{over}</button>'
        f"<figcaption><b>{text(picture.title)}</b></figcaption></figure>"
    )


def _files(columns: Sequence[Column]) -> str:
    if not columns:
        return ""
    scores: dict[tuple[str, str, str], dict[str, float]] = {}
    for column in columns:
        for group in column.groups:
            for name, value in zip(group.names, group.values, strict=True):
                scores.setdefault((name, group.name, group.role), {})[column.name] = float(value)
    rows = []
    for (name, method, role), found in sorted(scores.items(), key=lambda item: item[0]):
        cells = [_value(found.get(column.name)) for column in columns]
        rows.append([text(name), _name(method, role), *cells])
    head = ["File", "Method", *(text(c.label) + " " + ARROW[c.better] for c in columns)]
    shown = table(head, rows, "Click a heading to sort.", "sortable")
    return f"<h2>All files</h2><details><summary>{len(rows)} scores</summary>{shown}</details>"


def _value(value: float | None) -> str:
    return "–" if value is None else number(value)


def _provenance(method: str, role: str, facts: Sequence[tuple[str, str]]) -> str:
    rows = [(text(name), f"<code>{text(value)}</code>") for name, value in facts]
    return f"<h3>{_name(method, role)}</h3>" + table(["", ""], rows, kind="left")
