"""Self-contained HTML pages from the package's templates, and what the report's page shows.

A page carries its style, script, data and pictures inside itself, and its content security policy
forbids it to load anything. Jinja escapes every text; equal data give equal bytes.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from restorectl.evaluation import charts
from restorectl.evaluation.charts import Chart, Group, number
from restorectl.files.atomic import replacing
from restorectl.images.pictures import data_uri


def plain(text: str) -> str:
    """A message with job fields as plain words, for readers of a page: `axes` becomes axes."""
    return re.sub("`([a-z_]+)`", r"\1", text)


TEMPLATES = Environment(
    loader=PackageLoader("restorectl"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.globals["charts"] = charts
TEMPLATES.filters |= {"data_uri": data_uri, "number": number, "plain": plain, "px": "{:.1f}".format}
TEMPLATES.policies["json.dumps_kwargs"] = {"allow_nan": False, "sort_keys": True}


def write_page(path: str, template: str, **values: Any) -> None:
    """Fill a template and write the page; the page's script finds `data` as JSON in #data.

    Bytes of file names that are no text become "?". Raises OutputError, DiskFullError.
    """
    document = TEMPLATES.get_template(template).render(values)
    with replacing(Path(path)) as part:
        part.write_text(document, "utf-8", "replace", "\n")


@dataclass(frozen=True)
class Picture:
    title: str
    alt: str  # what it shows, in words
    png: bytes
    size: tuple[int, int]  # rows and columns of the picture in px
    line: tuple[int, int, int] | None = None  # row, first and last column of a profile


@dataclass(frozen=True)
class Strip:
    """Pictures side by side with the same black and white, which `range_text` names."""

    pictures: tuple[Picture, ...]
    range_text: str
    ramp: str = ""  # the colour scale: "difference", "heat", or none for grey


@dataclass(frozen=True)
class Example:
    title: str
    caption: str
    strips: tuple[Strip, ...]
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Column:
    """A metric and its values by method."""

    label: str  # its name, with the fit and the unit, where there is one
    help: str  # what it is, in words
    better: str  # higher, lower or ""
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Cell:
    """A number of a summary; `best` marks the best of its row or column."""

    value: float | None
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A summary. Columns and rows are (name, colour role or ""); a row has one cell per column."""

    title: str
    corner: str  # heading of the column of row names
    head: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]
    caption: str = ""


@dataclass(frozen=True)
class ReportPage:
    title: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, tuple[str, ...]], ...]  # heading and lines: what is missing or failed
    summary: Table | None
    sets: Table | None  # scores of whole sets of images
    columns: tuple[Column, ...]
    examples: tuple[Example, ...]
    ranked_by: str
    spread: Table | None  # of uncertainty sets
    uncertainty: tuple[Chart, ...]
    curves: tuple[Chart, ...]
    files: tuple[tuple[str, str, str, tuple[float | None, ...]], ...]  # file, method, role, scores
    provenance: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...]  # method, role, facts
