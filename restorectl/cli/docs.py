"""`restorectl docs`: the documentation of this version, from the package: it needs no network."""

from pathlib import Path

import typer

from restorectl.cli import options as opt
from restorectl.cli.options import argument
from restorectl.errors import UsageError, did_you_mean

FOLDER = Path(__file__).resolve().parent.parent / "docs"


def topics() -> list[str]:
    """Names of the pages."""
    return sorted(path.stem for path in FOLDER.glob("*.md"))


@opt.command
def docs(
    *,
    topic: str | None = argument(
        None, "What to read. Default: list all topics.", "[TOPIC]", complete=topics
    ),
) -> None:
    """Read the documentation. Never uses the network.

    Examples:
        restorectl docs
        restorectl docs error-bars
    """
    pages = {path.stem: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.md"))}
    if topic is None:
        for name, text in pages.items():
            typer.echo(f"{name:<14}{text.partition(chr(10))[0].removeprefix('# ')}")
        return
    if topic not in pages:
        raise UsageError(
            f"docs {topic}: no such topic: `restorectl docs` lists all{did_you_mean(topic, pages)}"
        )
    from restorectl.cli.pages import shown

    typer.echo(shown(pages[topic]), nl=False)
