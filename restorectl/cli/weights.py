"""`restorectl weights`: lists, downloads, verifies, locates, imports and exports models."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn
from rich.table import Table

from restorectl.cli import options as opt
from restorectl.cli.options import argument, option
from restorectl.cli.progress import worded
from restorectl.errors import WeightsError

if TYPE_CHECKING:
    from restorectl.weights.registry import ModelRow, ModelStatus

app = typer.Typer(
    help="List, download, verify, locate, import and export models.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

IMPORTS = ("rscd", "msdsr", "inception-fid", "alexnet-lpips")  # rows of weights.published.PUBLISHED
NAMES = argument((), "Names of models, files or hf:// addresses.", "NAME...")
NAME = argument(..., "Name of a model, a file or an hf:// address.", "NAME")
JSON = option(False, "Print one line of JSON per model on standard output.", "--json")


@app.command("list")
@opt.command
def show(*, models: opt.Models, json_lines: bool = JSON) -> None:
    """List the models by name, and whether they are on this machine. Never uses the network."""
    from restorectl.weights.registry import listed

    (_json if json_lines else _table)(listed(models))


@app.command()
@opt.command
def pull(
    *,
    names: tuple[str, ...] = NAMES,
    every: bool = option(False, "All models of the registry.", "--all"),
    models: opt.Models,
    json_lines: bool = JSON,
    quiet: bool = opt.QUIET,
) -> None:
    """Download models into the cache, and verify them.

    Example, on a machine with internet: restorectl weights pull --all
    """
    from restorectl.weights.registry import pull as run

    with _bars(quiet) as bars:
        _finish(run(names, every, models, bars), json_lines)


@app.command()
@opt.command
def verify(*, names: tuple[str, ...] = NAMES, models: opt.Models, json_lines: bool = JSON) -> None:
    """Check the models on this machine; exit code 5 if one differs from the registry.

    Never uses the network.
    """
    from restorectl.weights.registry import verify as run

    _finish(run(names, models), json_lines)


@app.command()
@opt.command
def path(*, name: str = NAME, models: opt.Models) -> None:
    """Print the path of a model on this machine, for scripts. Never uses the network."""
    from restorectl.weights.registry import locate

    typer.echo(str(locate(name, models)))


@app.command()
@opt.command
def export(
    *,
    name: str = NAME,
    hub: Path = option(..., "Folder to write, new or empty.", metavar="DIR"),
    models: opt.Models,
    quiet: bool = opt.QUIET,
) -> None:
    """Write a folder to upload to a hub: weights, model card and registry entry."""
    from restorectl.weights.export import export as run

    with _bars(quiet) as bars:
        written = run(name, hub, models, bars)
    for each in written:
        typer.echo(str(each))


@app.command("import")
@opt.command
def take(
    *,
    files: tuple[Path, ...] = argument(
        ..., "Published checkpoint; alexnet-lpips takes two files.", "FILE..."
    ),
    kind: str = option(..., f"Kind of checkpoint: {', '.join(IMPORTS)}.", "--as", metavar="KIND"),
    output: Path = option(..., "Weights file to write.", "-o", metavar="OUT.safetensors"),
    overwrite: bool = option(False, "Replace an existing output."),
    json_lines: bool = JSON,
) -> None:
    """Convert a published checkpoint to a weights file. Code in it is never run.

    Example: restorectl weights import d17986ac.ckpt --as msdsr -o msdsr.safetensors
    """
    from restorectl.weights.published import import_checkpoint

    done = import_checkpoint(files, kind, output, overwrite)
    if json_lines:
        sys.stdout.write(json.dumps(asdict(done)) + "\n")
    else:
        typer.echo(
            f"{done.path}  {done.kind}  {done.parameters / 1e6:.2f} M parameters in"
            f" {done.tensors} tensors ({done.ignored} others ignored)"
        )


def _finish(results: Iterable["ModelStatus"], lines: bool) -> None:
    """Print each result at once; raise at the end if one is wrong."""
    wrong = []
    for result in results:
        if lines:
            _json([result])
        else:
            typer.echo(
                "  ".join(part for part in (result.name, result.status, result.path) if part)
            )
        if result.error:
            wrong.append(result.error)
    for error in wrong[:-1]:
        sys.stderr.write(f"restorectl: {worded(str(error))}\n")
    if wrong:
        raise WeightsError(wrong[-1])


def _json(rows: Iterable["ModelRow | ModelStatus"]) -> None:
    for row in rows:
        sys.stdout.write(json.dumps(asdict(row)) + "\n")
    sys.stdout.flush()


def _table(rows: list["ModelRow"]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "task", "size", "licence", "where"):
        table.add_column(column, justify="right" if column == "size" else "left", no_wrap=True)
    for row in rows:
        table.add_row(row.name, row.task, f"{row.bytes / 1e6:.1f} MB", row.licence, row.where)
    console = Console(force_terminal=sys.stdout.isatty(), highlight=False)
    if not console.is_terminal:
        console.width = 1000  # nothing is cut where it is read by programs
    console.print(table, markup=False)


class _Bar:
    """Implements weights.hub.TransferProgress, with one bar per file."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.task: TaskID | None = None

    def begin(self, name: str, total: int | None) -> None:
        self.task = self.bars.add_task(name, total=total)

    def advance(self, size: int) -> None:
        if self.task is not None:
            self.bars.advance(self.task, size)


@contextmanager
def _bars(quiet: bool) -> Iterator[_Bar | None]:
    """Bars on a terminal, nothing elsewhere."""
    console = Console(stderr=True, force_terminal=sys.stderr.isatty())
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console) as bars:
        yield _Bar(bars)
