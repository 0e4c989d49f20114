"""All files of one command: what is done, skipped or refused, decided and told in one place.

What happens inside one image is a `Work`; the ways through an image are `planes` and `volume`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from restorectl.core.jobs import Files
from restorectl.core.provenance import content_hash, matches
from restorectl.errors import DiskFullError, InputError, OutputError, RestorectlError
from restorectl.io.atomic import sweep
from restorectl.io.image import Image, open_image, read_provenance
from restorectl.tasks import manifest
from restorectl.tasks.inputs import Missing, Pair, make_folder
from restorectl.tasks.outcome import Outcome, Report

Record = Mapping[str, Any]  # core.provenance.record of an output


@dataclass(frozen=True)
class Planned:
    """What one image will take; known from its header alone."""

    windows: int
    calls: int | None  # network calls, counted in windows; None = decided while it runs
    bytes: int  # of all outputs, uncompressed
    memory: int  # bytes held at the peak, beyond the program itself


class Work(Protocol):
    """What a command does with one open image."""

    def plan(self, image: Image, pair: Pair) -> Planned:
        """Raises InputError for an image that the command cannot take. Reads no pixels."""
        ...

    def write(
        self, image: Image, pair: Pair, record: Record, outcome: Outcome, report: Report
    ) -> None:
        """Make every target of the pair, each complete or not at all, and carrying `record`."""
        ...

    def calls(self) -> int:
        """Network calls so far, counted in windows."""
        ...


@dataclass(frozen=True)
class Run:
    """Everything that is the same for all files of one command."""

    files: Files
    work: Work
    summary: Mapping[str, Any]  # command, parameters, weights, device: heads the manifest
    record: Callable[[str | Mapping[str, str]], dict[str, Any]]  # input sha256 -> provenance


def run(
    job: Run, pairs: Sequence[Pair], missing: Sequence[Missing], report: Report
) -> list[Outcome]:
    """Work through every pair; one bad file never stops the others, a full disk stops all.

    The manifest is written in any case, also after a failure or an interruption.
    """
    outcomes: list[Outcome] = []

    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        report.done(outcome)

    try:
        report.begin(len(pairs) + len(missing))
        for item in missing:
            note(Outcome(str(item.source), "", "failed", message=str(item.error)))
        for folder in sorted({target.parent for pair in pairs for target in pair.targets}):
            if not job.files.dry_run and folder.is_dir():
                sweep(folder)
        for pair in pairs:
            _attempt(job, pair, report, note)
    finally:
        if job.files.manifest is not None:
            manifest.write(job.files.manifest, job.summary, outcomes)
    return outcomes


def _attempt(job: Run, pair: Pair, report: Report, note: Callable[[Outcome], None]) -> None:
    """One pair, its outcome noted whatever happens to it; only a full disk goes on upwards."""
    start, before = time.monotonic(), job.work.calls()
    outcome = Outcome(str(pair.source), str(pair.target), "done")
    try:
        _one(job, pair, outcome, report)
    except DiskFullError as error:
        outcome.fail(error)
        note(outcome)
        raise
    except RestorectlError as error:
        outcome.fail(error)
    except MemoryError:
        outcome.fail(InputError(f"{pair.source}: does not fit the memory of this machine"))
    outcome.seconds = time.monotonic() - start
    outcome.calls = job.work.calls() - before
    note(outcome)


def _one(job: Run, pair: Pair, outcome: Outcome, report: Report) -> None:
    record = job.record(_hashes(pair))
    if _finished(pair, record, job.files.overwrite):
        outcome.status, outcome.message = "skipped", "up to date"
        return
    with open_image(pair.source, axes=job.files.axes) as image:
        header = image.header
        outcome.details.update(axes=header.axes, shape=list(header.shape), dtype=str(header.dtype))
        planned = job.work.plan(image, pair)
        if job.files.dry_run:
            outcome.status = "planned"
            outcome.details |= asdict(planned)
            return
        for target in pair.targets:
            make_folder(target.parent)
        job.work.write(image, pair, record, outcome, report)


def _hashes(pair: Pair) -> str | dict[str, str]:
    """Content hash of the input, by role where there are two."""
    if pair.guide is None:
        return _hash(pair.source)
    return {"image": _hash(pair.source), "guide": _hash(pair.guide)}


def _hash(path: Path) -> str:
    try:
        return content_hash(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _finished(pair: Pair, record: Record, overwrite: bool) -> bool:
    """Whether every target is there as `record` makes it.

    Raises OutputError for a file in the way that is not ours.
    """
    current = True
    for target in pair.targets:
        recorded = read_provenance(target) if target.exists() else None
        if target.exists() and recorded is None and not overwrite:
            raise OutputError(f"{target}: exists and is not ours: move it or use --overwrite")
        current = current and matches(recorded, record)
    return current
