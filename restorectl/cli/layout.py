"""The layout of the help: names in a column, texts beside them, nothing wider than the terminal."""

import shutil
import textwrap
from collections.abc import Mapping
from typing import Any

WIDEST, COLUMN = 100, 24  # characters of a line, and of the names of options


def entry(names: str, text: str) -> str:
    """Names in a column of their own, and what they mean beside it."""
    width = _width() - COLUMN - 2
    lines = [line for part in text.split("\n") for line in _wrapped(part, width)] or [""]
    head = f"  {names}".ljust(COLUMN + 2)
    if len(head) > COLUMN + 2 or head[-1] != " ":
        return head.rstrip() + "\n" + textwrap.indent("\n".join(lines), " " * (COLUMN + 2)) + "\n"
    rest = "".join(f"\n{' ' * (COLUMN + 2)}{line}" for line in lines[1:])
    return f"{head}{lines[0]}{rest}\n"


def choices(rows: Mapping[str, str]) -> str:
    """One line for each choice, below the help of an option."""
    width = max(map(len, rows)) + 2
    return "".join(f"\n\t{name.ljust(width)}{text}" for name, text in rows.items())


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of words that are never broken; a line of `choices` goes on below its text."""
    hang = 0
    if text.startswith("\t"):
        text = text[1:]
        hang = len(text) - len(text.partition("  ")[2].lstrip())
    return textwrap.wrap(
        text,
        width,
        subsequent_indent=" " * hang,
        break_long_words=False,
        break_on_hyphens=False,
    )


def listed(rows: Mapping[str, Any]) -> str:
    return "".join(entry(name, text) for name, text in rows.items())


def paragraphs(text: str) -> str:
    parts = (" ".join(part.split()) for part in text.strip().split("\n\n"))
    return "".join("\n" + "\n".join(_wrapped(part, _width())) + "\n" for part in parts if part)


def heading(text: str) -> str:
    return f"\n{text}:\n"


def _width() -> int:
    return max(60, min(WIDEST, shutil.get_terminal_size((80, 24)).columns))
