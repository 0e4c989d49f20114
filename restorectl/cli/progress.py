"""Progress and results: bars on a terminal, otherwise one line per file; JSON on request.

Messages go to stderr, data (--json, the plan of --dry-run) to stdout.
"""

import json
import logging
import re
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

from restorectl.errors import LOG, RestorectlError, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from restorectl.batch.outcome import Outcome

MARK = {"done": "✓", "skipped": "=", "planned": "·", "deferred": "…", "failed": "✗"}
COLOUR = {
    "done": "green",
    "skipped": "dim",
    "planned": "cyan",
    "deferred": "yellow",
    "failed": "red",
}
# Fields of jobs and settings whose option has another name
OPTIONS = {
    "checkpoint_kind": "--as",
    "first": "--mix-weights",
    "kind": "--noise",
    "last": "--mix-weights",
    "output": "-o",
    "partner": "--input",
    "shared_noise": "--mix-noise",
    "start": "--start-step",
    "stop": "--mix-stop",
}
# Columns of the plan -> their values in an outcome's details
COLUMNS = {
    "tiles": "windows",
    "calls": "calls",
    "output": "bytes",
    "memory": "memory",
    "seconds": "seconds",
}
SIZES = ("output", "memory")


@dataclass
class Terminal:
    """Implements batch.outcome.Report."""

    console: "Console"
    quiet: bool
    json_lines: bool
    bars: "Progress | None"
    json_log: bool = False  # JSON lines on stderr in place of text
    plan: bool = False  # of --dry-run: a table of all files at the end
    outcomes: list["Outcome"] = field(default_factory=list)
    total: "TaskID | None" = None
    by_pixels: bool = False  # the bar of all files is as long as their pixels
    files: int = 0

    def begin(self, files: int) -> None:
        self.files = files
        if self.bars is not None:
            self.total = self.bars.add_task("files", total=files, done=f"0/{files} files")

    def planned(self, pixels: int) -> None:
        if self.bars is not None and self.total is not None and pixels:
            self.by_pixels = True
            self.bars.update(self.total, total=pixels, completed=0)

    def file(self, name: str, pixels: int = 0) -> "FileBar":
        return FileBar(self.bars, self.total, printable(name), pixels)

    def done(self, outcome: "Outcome") -> None:
        outcome.message = worded(outcome.message)  # here, so that the manifest has the same words
        outcome.warnings = [worded(text) for text in outcome.warnings]
        self.outcomes.append(outcome)
        if self.bars is not None and self.total is not None:
            counted = f"{len(self.outcomes)}/{max(self.files, len(self.outcomes))} files"
            self.bars.update(self.total, advance=not self.by_pixels, done=counted)
        if self.json_lines:
            data(json.dumps(asdict(outcome), sort_keys=True) + "\n")
        failed = outcome.status == "failed"
        if self.json_log:
            level = "error" if failed else "warning" if outcome.warnings else "info"
            if failed or not self.quiet:
                log("file", level, **asdict(outcome))
        elif failed or not (self.quiet or self.plan or outcome.status == "skipped"):
            self._line(outcome)

    def _line(self, outcome: "Outcome") -> None:
        text = f"[{len(self.outcomes)}/{max(self.files, len(self.outcomes))}] {outcome.status} "
        if outcome.status in ("failed", "deferred"):
            text += printable(outcome.message)
        else:
            arrow = f" -> {outcome.target}" if outcome.target else ""
            text += printable(outcome.source + arrow)
            text += (
                f" ({printable(outcome.message)})"
                if outcome.message
                else (f" ({outcome.seconds:.1f} s)")
            )
        for warning in outcome.warnings:
            text += f"\n    warning: {printable(warning)}"
        self.console.print(
            f"{MARK[outcome.status]} {text}" if self.console.is_terminal else text,
            style=COLOUR[outcome.status] if self.console.is_terminal else None,
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def note(self, text: str) -> None:
        """A message about the run as a whole."""
        if self.quiet:
            return
        text = worded(text)
        if self.json_log:
            log("note", "warning" if text.startswith("warning") else "info", message=text)
        else:
            self.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def summary(self) -> None:
        if self.plan and not self.json_lines and not self.quiet:
            data(plan_table(self.outcomes))
        counts = {s: sum(o.status == s for o in self.outcomes) for s in MARK}
        text = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
        if not text or self.quiet:
            return
        if counts["skipped"] == len(self.outcomes):
            text = f"nothing to do: {text}"
            if all(outcome.message == "up to date" for outcome in self.outcomes):
                text += ", every output is up to date"
        if self.plan and counts["planned"]:
            text += f": {totals(self.outcomes)}"
        if self.json_log:
            log("summary", "info", message=text, counts=counts, exit_code=self.exit_code())
        else:
            self.console.print(text, highlight=False, soft_wrap=True)

    def exit_code(self) -> int:
        return 3 if any(outcome.status == "failed" for outcome in self.outcomes) else 0


class FileBar:
    """Implements batch.outcome.Progress: the bar of one file, and its part in that of all files.

    Bars are as long as the pixels that the network reads in all calls, so the time that is left
    follows from the pixels; what is told is the number of calls.
    """

    def __init__(
        self, bars: "Progress | None", every: "TaskID | None", name: str, planned: int
    ) -> None:
        self.bars, self.every, self.planned = bars, every, planned
        self.count, self.most, self.unit, self.seen = 0, 0, "", 0
        self.lock = Lock()
        if bars is not None:
            self.bar = bars.add_task(name, total=None, done="measuring noise")

    def start(self, count: int | None, unit: str, pixels: int) -> None:
        self.most, self.unit = count or 0, unit
        if self.bars is not None:
            self.bars.update(self.bar, total=pixels if count else None, done=self._text())

    def advance(self, count: int, pixels: int) -> None:
        if self.bars is None or not count:
            return
        with self.lock:
            self.count += count
            self.most = max(self.most, self.count) if self.most else 0
            credit = min(pixels, self.planned - self.seen)
            self.seen += credit
        self.bars.update(self.bar, advance=pixels, done=self._text())
        if self.every is not None:
            self.bars.advance(self.every, credit)

    def close(self) -> None:
        if self.bars is not None:
            self.bars.remove_task(self.bar)
            if self.every is not None:  # what it did not need, or was not done
                self.bars.advance(self.every, self.planned - self.seen)

    def _text(self) -> str:
        return f"{self.count}/{self.most} {self.unit}" if self.most else f"{self.count} {self.unit}"


def data(text: str) -> None:
    """Write to stdout at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def log(event: str, level: str, **values: Any) -> None:
    """One JSON line on stderr."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    line = {"time": now, "level": level, "event": event, **values}
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()


def _is_json_log() -> bool:
    given = " ".join(sys.argv)
    return "--log-format json" in given or "--log-format=json" in given


class _Tracebacks(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        text = "".join(traceback.format_exception(*record.exc_info or ()))
        if _is_json_log():
            log("traceback", "debug", source=record.getMessage(), message=text)
        else:
            sys.stderr.write(text)


def show_tracebacks() -> None:
    """From now on print the traceback of each file that fails, as text or JSON."""
    LOG.setLevel(logging.DEBUG)
    LOG.addHandler(_Tracebacks())


def tell_end(message: str, exit_code: int) -> None:
    """Print the error that ends the program, as text or JSON as `--log-format` says."""
    message = worded(message)
    if _is_json_log():
        log("end", "error", message=message, exit_code=exit_code)
    else:
        sys.stderr.write(f"restorectl: {printable(message)}\n")


def worded(text: str) -> str:
    """Replace job fields in backticks by their command-line options."""
    return re.sub(r"`([a-z_]+)`", lambda m: OPTIONS.get(m[1], "--" + m[1].replace("_", "-")), text)


def plan_table(outcomes: Sequence["Outcome"]) -> str:
    """The plan of --dry-run as aligned columns; file names and messages come last.

    On a terminal, a line that is too long is given without the file that is to be written.
    """
    from restorectl.files.machine import readable

    timed = any(outcome.details.get("seconds") is not None for outcome in outcomes)
    columns = [name for name in COLUMNS if timed or name != "seconds"]
    lines: list[tuple[str, ...]] = [("status", "shape", "axes", "dtype", *columns, "file")]
    for outcome in outcomes:
        found = outcome.details
        shape = "x".join(map(str, found.get("shape", ()))) or "-"
        cells = [outcome.status, shape, found.get("axes", "-"), found.get("dtype", "-")]
        for name in columns:
            number = found.get(COLUMNS[name])
            shown = "-" if number is None else str(number)
            if name in SIZES and number is not None:
                shown = readable(number).replace(" ", "")
            cells.append(shown)
        lines.append((*cells, printable(outcome.source)))
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 4)]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    text = ""
    for number, line in enumerate(lines):
        left = (cell.ljust(width) for cell, width in zip(line[:4], widths[:4], strict=True))
        right = (cell.rjust(width) for cell, width in zip(line[4:-1], widths[4:], strict=True))
        row = "  ".join([*left, *right, line[-1]])
        if number:
            outcome = outcomes[number - 1]
            arrow = f" -> {printable(outcome.target)}" if outcome.target else ""
            row += arrow if len(row + arrow) <= limit else ""
            reason = outcome.message.removeprefix(f"{outcome.source}: ")
            row += f" ({printable(reason)})" if reason else ""
        text += row + "\n"
    return text


def totals(outcomes: Sequence["Outcome"]) -> str:
    """The work for all planned files together."""
    from restorectl.files.machine import readable

    planned = [outcome.details for outcome in outcomes if outcome.status == "planned"]
    windows, size = (sum(each[name] for each in planned) for name in ("windows", "bytes"))
    calls, seconds = ([each.get(name) for each in planned] for name in ("calls", "seconds"))
    known = [n for n in calls if n is not None]
    text = f"{windows} tiles, {sum(known)} network calls"
    text += (
        f", {len(calls) - len(known)} files decide during the run"
        if len(known) < len(calls)
        else ""
    )
    text += f", {readable(size)} of outputs"
    text += f", peak memory {readable(max(each['memory'] for each in planned))}"
    if None in seconds:
        return text
    return f"{text}, {sum(n for n in seconds if n is not None):.0f} s"


@contextmanager
def reporting(
    *, quiet: bool, json_lines: bool, json_log: bool = False, plan: bool = False
) -> Iterator[Terminal]:
    """Shows one run; prints the summary at its end."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, force_terminal=sys.stderr.isatty())
    bars = None
    if console.is_terminal and not (quiet or json_log):
        bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[done]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
    report = Terminal(console, quiet, json_lines, bars, json_log, plan)
    try:
        with nullcontext() if bars is None else bars:
            yield report
    except RestorectlError:  # it stopped: the plan or what was done until then
        if report.outcomes:
            report.summary()
        raise
    report.summary()
