"""`restorectl info`: what the files are, as a table or JSON."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import typer

from restorectl.cli import options as opt
from restorectl.cli import tables
from restorectl.cli.progress import worded


@opt.command
def info(
    *,
    inputs: tuple[str, ...] = opt.INPUTS,
    axes: str | None = opt.AXES,
    pattern: str | None = opt.PATTERN,
    json_lines: bool = opt.JSON,
) -> None:
    """Show what is in image files, and what results would lose.

    Examples:
        restorectl info data/cells.tif
        restorectl info data --json
    """
    from restorectl.batch.info import describe

    failed, rows = False, []
    notes: dict[str, None] = {}
    for each in describe([Path(text) for text in inputs], pattern, axes):
        failed = failed or bool(each.error)
        if json_lines:
            typer.echo(json.dumps(asdict(each)))
        elif each.error:
            print(worded(each.error), file=sys.stderr)
        else:
            sizes = " ".join(f"{axis} {size:.4g}" for axis, size in each.spacing_um.items())
            shape = "x".join(map(str, each.shape))
            time = "" if each.interval_s is None else f"{each.interval_s:.4g}"
            names = ", ".join(each.channels)
            seen = (each.series, each.format, each.axes, shape, each.dtype, sizes, time, names)
            rows.append([each.file, *seen])
            notes |= {f"{each.file}: {text}": None for text in each.warnings}
            if each.lost:
                notes[f"{each.format}: results lose {each.lost}"] = None
    if rows:
        header = ("file", "series", "format", "axes", "shape", "type", "pixel size, um")
        tables.rows("", (*header, "interval, s", "channels"), rows)
    for note in notes:
        typer.echo(note)
    raise typer.Exit(3 if failed else 0)
