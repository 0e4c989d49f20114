"""A page of the documentation on a terminal. Only `restorectl docs` loads this: it takes time."""

import re
import sys
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, TableElement
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

WIDTH = 80  # of a line that is read easily, and of a small terminal
THEME = Theme(
    {"markdown.h1": "bold", "markdown.h2": "bold", "markdown.code": "cyan"}
)  # legible on dark and light terminals
FEW = 3  # so many columns can be narrowed by breaking lines in their cells


def shown(page: str) -> str:
    """Markdown as the terminal shows it; as plain text of WIDTH columns if there is none."""
    console = Console(force_terminal=sys.stdout.isatty(), highlight=False, theme=THEME)
    if not console.is_terminal:
        console.width = WIDTH
    text = re.sub(r"<!--.*?-->\n?", "", page).replace("<br>", " · ")
    with console.capture() as told:
        console.print(Page(text, hyperlinks=False), width=min(WIDTH, console.width), crop=False)
    return re.sub(r" +$", "", told.get(), flags=re.M)


class _Heading(Heading):
    """At the left and underlined, so that it is seen without colours."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.text
        yield Text(("=" if self.tag == "h1" else "-") * self.text.cell_len)


class _Commands(CodeBlock):
    """Lines are never broken: what is copied from the screen can be run."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in str(self.text).rstrip().splitlines():
            yield Text(f"    {line}", "markdown.code", no_wrap=True, overflow="ignore")


class _Table(TableElement):
    """Never cut: where the columns do not fit the screen, each row becomes a paragraph."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [getattr(self.header, "row", None), *getattr(self.body, "rows", ())]
        header, *rows = [[cell.content for cell in line.cells] for line in lines if line]
        columns = list(zip(header, *rows, strict=True))
        low = [max(len(word) for cell in each for word in cell.plain.split()) for each in columns]
        high = [max(len(cell) for cell in each) for each in columns]
        gaps = 2 * (len(columns) - 1)
        broken, unbroken = sum(low) + gaps, sum(high) + gaps
        few = len(columns) <= FEW
        width = min(unbroken, options.max_width if few else console.width)
        if width < (broken if few else unbroken):
            yield from _paragraphs(header, rows)
            return
        table = Table(box=None, pad_edge=False, header_style="markdown.table.header")
        for title, least, most in zip(header, low, high, strict=True):  # all give up the same share
            share = (width - broken) / max(1, unbroken - broken)
            table.add_column(title, width=least + int(share * (most - least)))
        for row in rows:
            table.add_row(*row)
        yield from console.render(table, options.update(width=width))


def _paragraphs(header: list[Text], rows: list[list[Text]]) -> Iterator[Text]:
    for row in rows:
        row[0].stylize("bold")
        pairs = zip(header, row, strict=True)
        cells = [Text.assemble((f"{title}: ", "dim"), cell) for title, cell in pairs if cell]
        yield Text(" · ").join(cells)
        yield Text()


class Page(Markdown):
    elements = Markdown.elements | {
        "heading_open": _Heading,
        "fence": _Commands,
        "code_block": _Commands,
        "table_open": _Table,
    }
