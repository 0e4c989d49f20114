"""`restorectl docs`: the documentation of this version, from the package: it needs no network."""

import difflib
from pathlib import Path

import typer

from restorectl.cli import options as opt
from restorectl.cli.options import argument
from restorectl.errors import UsageError

FOLDER = Path(__file__).resolve().parent.parent / "docs"


@opt.command
def docs(
    *, topic: str | None = argument(None, "What to read. Default: list all topics.", "TOPIC")
) -> None:
    """Read the documentation. Never uses the network.

    Example: restorectl docs error-bars
    """
    pages = {path.stem: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.md"))}
    if topic is None:
        for name, text in pages.items():
            typer.echo(f"{name:<14}{text.partition(chr(10))[0].removeprefix('# ')}")
        return
    if topic not in pages:
        near = difflib.get_close_matches(topic, pages, 1, 0)[0]
        raise UsageError(
            f"docs {topic}: no such topic; did you mean {near}? `restorectl docs` lists all"
        )
    from restorectl.cli.pages import shown

    typer.echo(shown(pages[topic]), nl=False)
