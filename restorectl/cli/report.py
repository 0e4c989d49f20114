"""Progress and results: rich bars on a terminal, a plain line a file elsewhere, JSON on stdout."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from restorectl.tasks.outcome import Outcome

MARK = {"done": "✓", "skipped": "=", "planned": "·", "failed": "✗"}
COLOUR = {"done": "green", "skipped": "dim", "planned": "cyan", "failed": "red"}


@dataclass
class Terminal:
    """Implements tasks.outcome.Report; messages go to stderr, data to stdout."""

    console: Console
    quiet: bool
    json_lines: bool
    bars: Progress | None
    outcomes: list["Outcome"] = field(default_factory=list)
    total: TaskID | None = None
    current: TaskID | None = None
    files: int = 0

    def begin(self, files: int) -> None:
        self.files = files
        if self.bars is not None:
            self.total = self.bars.add_task("files", total=files)

    def file(self, name: str, pixels: int) -> None:
        if self.bars is not None:
            self.current = self.bars.add_task(escape(name), total=pixels)

    def advance(self, pixels: int) -> None:
        if self.bars is not None and self.current is not None:
            self.bars.advance(self.current, pixels)

    def done(self, outcome: "Outcome") -> None:
        self.outcomes.append(outcome)
        if self.bars is not None:
            if self.current is not None:
                self.bars.remove_task(self.current)
                self.current = None
            if self.total is not None:
                self.bars.advance(self.total)
        if self.json_lines:
            sys.stdout.write(json.dumps(asdict(outcome), sort_keys=True) + "\n")
            sys.stdout.flush()
        if not self.quiet or outcome.status == "failed":
            self._line(outcome)

    def _line(self, outcome: "Outcome") -> None:
        text = f"[{len(self.outcomes)}/{self.files}] {outcome.status} "
        if outcome.status == "failed":
            text += outcome.message
        else:
            text += f"{outcome.source} -> {outcome.target}" if outcome.target else outcome.source
            text += f" ({outcome.message})" if outcome.message else f" ({outcome.seconds:.1f} s)"
        for warning in outcome.warnings:
            text += f"\n    warning: {warning}"
        self.console.print(
            f"{MARK[outcome.status]} {text}" if self.console.is_terminal else text,
            style=COLOUR[outcome.status] if self.console.is_terminal else None,
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def note(self, text: str) -> None:
        """A message that belongs to no file."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def summary(self) -> None:
        counts = {s: sum(o.status == s for o in self.outcomes) for s in MARK}
        text = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
        if text and not self.quiet:
            self.console.print(text, highlight=False)

    def exit_code(self) -> int:
        return 3 if any(outcome.status == "failed" for outcome in self.outcomes) else 0


@contextmanager
def reporting(*, quiet: bool, json_lines: bool) -> Iterator[Terminal]:
    """A report for one run; the summary is printed when all files were gone through."""
    console = Console(stderr=True, force_terminal=sys.stderr.isatty())
    bars = None
    if console.is_terminal and not quiet:
        bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
    report = Terminal(console, quiet, json_lines, bars)
    if bars is None:
        yield report
    else:
        with bars:
            yield report
    report.summary()
