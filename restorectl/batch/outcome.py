"""What became of one input, and where progress goes; the command line implements Report."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from restorectl.errors import RestorectlError

# pending: not reached before the run stopped; deferred: still being written, left for a later run
STATUSES = ("done", "skipped", "planned", "deferred", "failed", "pending")


@dataclass
class Outcome:
    """One line of a manifest or of --json."""

    source: str
    target: str
    status: str  # one of STATUSES
    seconds: float = 0.0
    calls: int = 0  # network calls, counted in windows
    message: str = ""
    warnings: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)  # path -> sha256 of what was written

    def fail(self, error: RestorectlError) -> None:
        self.status, self.message = "failed", str(error)


class Report(Protocol):
    """Progress of a run."""

    def begin(self, files: int) -> None: ...
    def file(self, name: str, pixels: int) -> None: ...
    def advance(self, pixels: int) -> None: ...
    def done(self, outcome: Outcome) -> None: ...
    def note(self, text: str) -> None: ...
