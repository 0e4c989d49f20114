"""The outcome of each input, reported during a run and written to its manifest.

The command line implements `Report`.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from restorectl import __version__
from restorectl.engine.schedule import schedule
from restorectl.errors import ClusterError, DiskFullError, IncompleteError, RestorectlError, blamed
from restorectl.files.atomic import replacing

# pending: not reached before the run stopped; deferred: still being written, left for a later run
STATUSES = ("done", "skipped", "planned", "deferred", "failed", "pending")
STOPS = (DiskFullError, ClusterError)  # end the run: every other file would fail, too


@dataclass
class Outcome:
    """One line of a manifest."""

    source: str
    target: str
    status: str  # one of STATUSES
    seconds: float = 0.0
    calls: int = 0  # network calls, one per tile
    message: str = ""
    warnings: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)  # path -> sha256 of its content
    traceback: str = ""  # of a bug

    @classmethod
    def failed(cls, source: str | PathLike[str], message: str) -> "Outcome":
        return cls(str(source), "", "failed", message=message)

    def fail(self, error: RestorectlError) -> None:
        text = str(error)
        self.status = "failed"
        self.message = text if self.source in text else f"{self.source}: {text}"
        self.traceback = getattr(error, "traceback", "")


@contextmanager
def turn(outcome: Outcome, growing: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """The turn of one file: whatever goes wrong in it is written into its outcome.

    An incomplete file that is still `growing` is deferred. Raises only what stops the run: STOPS,
    and what is no Exception: interruptions.
    """
    try:
        yield
    except Exception as error:
        outcome.fail(blamed(outcome.source, error))
        if isinstance(error, IncompleteError) and growing():
            outcome.status = "deferred"
            outcome.message += "; left for a later run, or use `defer_for` 0 to count it as failed"
        if isinstance(error, STOPS):
            raise


class Progress(Protocol):
    """Receives the progress of one file, from several threads."""

    def start(self, count: int | None, unit: str, pixels: int) -> None:
        """The file has been measured; so many units and pixels lie ahead. None = unknown."""
        ...

    def advance(self, count: int, pixels: int) -> None: ...
    def close(self) -> None: ...


class Report(Protocol):
    """Receives the progress of a run."""

    def begin(self, files: int) -> None: ...
    def planned(self, pixels: int) -> None:
        """The pixels of all files, counted as their `Progress` will count them."""
        ...

    def file(self, name: str, pixels: int = 0) -> Progress:
        """The turn of a file begins; pixels: its part of those that were planned."""
        ...

    def done(self, outcome: Outcome) -> None: ...
    def note(self, text: str) -> None: ...


@dataclass
class Silent:
    """A Report that prints nothing and keeps what it was told."""

    outcomes: list[Outcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0  # how many the run announced

    def begin(self, files: int) -> None:
        self.files = files

    def planned(self, pixels: int) -> None: ...
    def file(self, name: str, pixels: int = 0) -> "Silent":
        return self

    def start(self, count: int | None, unit: str, pixels: int) -> None: ...
    def advance(self, count: int, pixels: int) -> None: ...
    def close(self) -> None: ...

    def done(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def note(self, text: str) -> None:
        self.notes.append(text)


# ---- the manifest ------------------------------------------------------------------------------
SCHEDULE = "rscd"  # schedule of the predicted steps


def write_manifest(
    path: str,
    run: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    warnings: Sequence[str] = (),
    stop: BaseException | None = None,
) -> None:
    """Write the manifest as JSON. Raises OutputError, DiskFullError.

    run: command, parameters, weights, device. stop: the exception that ended the run early. The
    file is ASCII; names that are not UTF-8 appear as escapes.
    """
    content = {
        "tool": "restorectl",
        "version": __version__,
        **run,
        "arguments": sys.argv[1:],
        "stopped": None if stop is None else f"{type(stop).__name__}: {stop}",
        "counts": {s: sum(o.status == s for o in outcomes) for s in STATUSES},
        "warnings": list(warnings),
        "files": [asdict(o) | {"predicted_steps": predicted_steps(o)} for o in outcomes],
    }
    with replacing(Path(path)) as part:
        part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")


def predicted_steps(outcome: Outcome) -> dict[str, float]:
    """The noise level found in each channel, as steps of RSCD's schedule."""
    table, found = schedule(SCHEDULE), outcome.details.get("method")
    levels = {
        channel: shared["sigma"]
        for channel, shared in (found.items() if isinstance(found, Mapping) else ())
        if isinstance(shared, Mapping) and "sigma" in shared
    }
    return {channel: round(float(table.step(level)), 2) for channel, level in levels.items()}
