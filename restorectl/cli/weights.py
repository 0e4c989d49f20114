"""`restorectl weights`: lists, downloads, verifies, locates, imports and exports models."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from restorectl.cli import options as opt
from restorectl.cli.commands import Command, Commands
from restorectl.cli.options import argument, option
from restorectl.cli.progress import worded
from restorectl.errors import WeightsError, printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from restorectl.weights.registry import ModelRow, ModelStatus

weights = typer.Typer(
    cls=Commands,
    help="List, download, verify, locate, import and export models.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# rows of weights.published.PUBLISHED
IMPORTS = ("rscd", "rscd-calibrator", "msdsr", "inception-fid", "alexnet-lpips")
NAMES = argument(
    (), "Names of models, files or hf:// addresses.", "NAME...", complete=opt.model_names
)
NAME = argument(
    ..., "Name of a model, a file or an hf:// address.", "NAME", complete=opt.model_names
)
JSON = option(False, "Print one line of JSON per model on standard output.", "--json")


@weights.command("list", cls=Command)
@opt.command
def show(*, models: opt.Models, json_lines: bool = JSON) -> None:
    """List the models by name, and whether they are on this machine. Never uses the network.

    Examples:
        restorectl weights list
        restorectl weights list --json
    """
    from restorectl.weights.registry import listed

    (_json if json_lines else _table)(listed(models))


@weights.command(cls=Command)
@opt.command
def pull(
    *,
    names: tuple[str, ...] = NAMES,
    every: bool = option(False, "All models of the registry.", "--all", often=True),
    models: opt.Models,
    json_lines: bool = JSON,
    quiet: bool = opt.QUIET,
) -> None:
    """Download models into the cache, and verify them.

    Examples:
        restorectl weights pull prior slices
        restorectl weights pull --all
    """
    from restorectl.weights.registry import pull as run

    with _bars(quiet) as bars:
        _finish(run(names, every, models, bars), json_lines)


@weights.command(cls=Command)
@opt.command
def verify(*, names: tuple[str, ...] = NAMES, models: opt.Models, json_lines: bool = JSON) -> None:
    """Check the models on this machine; exit code 5 if one differs from the registry.

    Never uses the network.

    Examples:
        restorectl weights verify
        restorectl weights verify prior --json
    """
    from restorectl.weights.registry import verify as run

    _finish(run(names, models), json_lines)


@weights.command(cls=Command)
@opt.command
def path(*, name: str = NAME, models: opt.Models, json_lines: bool = JSON) -> None:
    """Print the path of a model on this machine, for scripts. Never uses the network.

    Examples:
        restorectl weights path prior
        restorectl weights path prior --json
    """
    from restorectl.weights.registry import locate

    _paths([locate(name, models)], json_lines)


@weights.command(cls=Command)
@opt.command
def export(
    *,
    name: str = NAME,
    hub: Path = option(..., "Folder to write, new or empty.", metavar="DIR", often=True),
    models: opt.Models,
    json_lines: bool = JSON,
    quiet: bool = opt.QUIET,
) -> None:
    """Write a folder to upload to a hub: weights, model card and registry entry.

    Examples:
        restorectl weights export prior --hub upload/
        restorectl weights export slices --hub upload2/ --json
    """
    from restorectl.weights.export import export as run

    with _bars(quiet) as bars:
        written = run(name, hub, models, bars)
    _paths(written, json_lines)


@weights.command("import", cls=Command)
@opt.command
def take(
    *,
    files: tuple[Path, ...] = argument(
        ..., "Published checkpoint; alexnet-lpips takes two files.", "FILE..."
    ),
    kind: str = option(..., "Kind of checkpoint.", "--as", choices=IMPORTS, often=True),
    output: Path = option(
        ..., "Weights file to write.", "-o", metavar="OUT.safetensors", often=True
    ),
    overwrite: bool = option(False, "Replace an existing output."),
    json_lines: bool = JSON,
) -> None:
    """Convert a published checkpoint to a weights file. Code in it is never run.

    Examples:
        restorectl weights import d17986ac.ckpt --as msdsr -o msdsr.safetensors
        restorectl weights import alex.pth lin.pth --as alexnet-lpips -o lpips.safetensors
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
            parts = (result.name, result.status, result.path)
            typer.echo(printable("  ".join(part for part in parts if part)))
        if result.error:
            wrong.append(result.error)
    for error in wrong[:-1]:
        sys.stderr.write(f"restorectl: {printable(worded(str(error)))}\n")
    if wrong:
        raise WeightsError(wrong[-1])


def _json(rows: Iterable["ModelRow | ModelStatus"]) -> None:
    for row in rows:
        sys.stdout.write(json.dumps(asdict(row)) + "\n")
    sys.stdout.flush()


def _paths(paths: Iterable[Path], lines: bool) -> None:
    for path in paths:  # for scripts: as it is
        typer.echo(json.dumps({"path": str(path)}) if lines else str(path))


def _table(rows: list["ModelRow"]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "task", "size", "licence", "where"):
        table.add_column(column, justify="right" if column == "size" else "left", no_wrap=True)
    for row in rows:
        size = f"{row.bytes / 1e6:.1f} MB"
        table.add_row(row.name, printable(row.task), size, printable(row.licence), row.where)
    console = Console(force_terminal=sys.stdout.isatty(), highlight=False)
    if not console.is_terminal:
        console.width = 1000  # nothing is cut where it is read by programs
    console.print(table, markup=False)


class _Bar:
    """Implements weights.hub.TransferProgress, with one bar per file."""

    def __init__(self, bars: "Progress") -> None:
        self.bars = bars
        self.task: TaskID | None = None

    def begin(self, name: str, total: int | None) -> None:
        self.task = self.bars.add_task(printable(name), total=total)

    def advance(self, size: int) -> None:
        if self.task is not None:
            self.bars.advance(self.task, size)


@contextmanager
def _bars(quiet: bool) -> Iterator[_Bar | None]:
    """Bars on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    console = Console(stderr=True, force_terminal=sys.stderr.isatty())
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console) as bars:
        yield _Bar(bars)
