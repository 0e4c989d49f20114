"""All files of one command: planned, locked, worked through and told in one place.

What happens inside one image is a `Work`: `restoration.planes` and `volumes` have one each.
"""

import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType

from restorectl.batch import plan
from restorectl.batch.inputs import Missing, Pair, make_folder
from restorectl.batch.outcome import Outcome, Report, write_manifest
from restorectl.batch.plan import Item, Work
from restorectl.errors import BusyError, DiskFullError, InputError, OutputError, RestorectlError
from restorectl.files import lock, machine
from restorectl.files.atomic import replacing, sweep
from restorectl.images.header import Header, Plane
from restorectl.images.image import ALL, Array, Image, format_of, open_image
from restorectl.jobs import Files

PROBE_SIDE = 256  # px, of the piece that is timed
_COMMAND_LETTERS = 300  # of the command line in the lock file; thousands of names may be in it


def run(
    files: Files, work: Work, pairs: Sequence[Pair], missing: Sequence[Missing], report: Report
) -> list[Outcome]:
    """Work through every pair; one bad file never stops the others, a full disk stops all.

    The plan is complete before work starts. The manifest is written in any case, also after a
    failure or an interruption; what was not reached is `pending` in it.

    Raises BusyError if another run holds the output folder, DiskFullError, OutputError.
    """
    outcomes = [Outcome(str(m.source), "", "failed", message=str(m.error)) for m in missing]
    outcomes += [Outcome(str(pair.source), str(pair.target), "pending") for pair in pairs]
    report.begin(len(outcomes))
    for outcome in outcomes[: len(missing)]:
        report.done(outcome)
    if files.dry_run:
        return outcomes[: len(missing)] + _preview(files, work, pairs, report)
    warnings: list[str] = []
    with ExitStack() as stack:
        try:
            _lock(stack, files, pairs, warnings, report)
            _all(files, work, pairs, outcomes, len(missing), report)
        except BusyError:
            raise  # a manifest of that name may be the other run's
        except BaseException as stop:
            for folder in _folders(files, pairs):  # it may have fallen between making a temporary
                sweep(folder, own=True)  # file and guarding it
            _conclude(files, work, outcomes, warnings, report, stop)
            raise
        _conclude(files, work, outcomes, warnings, report, None)
    return outcomes


def _lock(
    stack: ExitStack, files: Files, pairs: Sequence[Pair], warnings: list[str], report: Report
) -> None:
    """Hold the output folder. One named output file is only ever replaced, which needs no lock."""
    output = Path(files.output)
    if not pairs or any(output == pair.target for pair in pairs):
        return
    make_folder(output)
    command = shlex.join(["restorectl", *sys.argv[1:]])[:_COMMAND_LETTERS]
    problem = stack.enter_context(lock.holding(output, files.shard, command))
    if problem is not None:
        warnings.append(problem)
        report.note(f"warning: {problem}")


def _all(
    files: Files,
    work: Work,
    pairs: Sequence[Pair],
    outcomes: list[Outcome],
    first: int,
    report: Report,
) -> None:
    """Plan and work; outcomes from `first` on are those of the pairs."""
    for folder in _folders(files, pairs):
        sweep(folder)
    memory, items = machine.available_memory(), []
    for number, pair in enumerate(pairs, first):
        items.append(plan.examine(files, work, pair, memory))
        outcomes[number] = items[-1].outcome
    plan.require_room(files, items)
    failures = first
    for number, item in enumerate(items):
        if files.max_failures is not None and failures >= files.max_failures:
            report.note(f"stopped after {failures} failures: {len(items) - number} files are left")
            return
        try:
            with plan.blaming(files, item.pair, item.outcome):
                if item.todo:
                    _one(files, work, item, report)
                elif item.outcome.status == "skipped" and files.manifest is not None:
                    _hash_outputs(item)
        finally:
            if not item.todo:  # interrupted in the middle: nothing became of it
                report.done(item.outcome)
        failures += item.outcome.status == "failed"


def _one(files: Files, work: Work, item: Item, report: Report) -> None:
    """One image: checked once more, opened, made beside its targets, and moved there whole."""
    pair, outcome, start, calls = item.pair, item.outcome, time.monotonic(), work.calls()
    try:
        item.require_unchanged()
        record = work.origin.record(item.hashes if item.hashes is not None else plan.hashes(pair))
        plan.refuse_foreign(files, pair)  # one may have been put there since the plan
        plan.require_free(files, item)
        with open_image(pair.source, axes=files.axes) as image, ExitStack() as stack:
            for target in pair.targets:
                make_folder(target.parent)
            parts = [
                stack.enter_context(replacing(target, item.require_unchanged))
                for target in pair.targets
            ]
            work.write(image, pair, parts, record, outcome, report)
        _hash_outputs(item)
        outcome.status = "done"
    finally:
        outcome.seconds = time.monotonic() - start
        outcome.calls = work.calls() - calls


def _hash_outputs(item: Item) -> None:
    for target in item.pair.targets:
        try:
            item.outcome.outputs[str(target)] = format_of(target).content_hash(target)
        except OSError as error:
            raise OutputError(f"{target}: cannot be read back ({error.strerror})") from error


def _folders(files: Files, pairs: Sequence[Pair]) -> list[Path]:
    """The folders where something is written."""
    folders = {target.parent for pair in pairs for target in pair.targets}
    if files.manifest is not None:
        folders.add(Path(files.manifest).parent)
    return sorted(folder for folder in folders if folder.is_dir())


def _conclude(
    files: Files,
    work: Work,
    outcomes: Sequence[Outcome],
    warnings: Sequence[str],
    report: Report,
    stop: BaseException | None,
) -> None:
    """Write the manifest. An error of it is told, but hides none that stopped the run."""
    for outcome in outcomes:
        if outcome.status == "planned":
            outcome.status = "pending"
    if files.manifest is None:
        return
    try:
        write_manifest(files.manifest, work.origin.summary(), outcomes, warnings, stop)
    except RestorectlError as error:
        if stop is None:
            raise
        report.note(f"warning: {error}")


def _preview(files: Files, work: Work, pairs: Sequence[Pair], report: Report) -> list[Outcome]:
    """The plan, with what each file takes. Nothing is written and nothing is locked."""
    memory = machine.available_memory()
    items = [plan.examine(files, work, pair, memory) for pair in pairs]
    todo = [item for item in items if item.todo]
    pace = seconds_per_window(files, work, todo[0].pair) if files.probe and todo else None
    for item in items:
        if item.planned is not None:
            item.outcome.details |= asdict(item.planned)
            item.outcome.details["seconds"] = (
                None if pace is None else round(pace * item.planned.windows, 2)
            )
        report.done(item.outcome)
    try:
        plan.require_room(files, items)
    except (DiskFullError, OutputError) as error:
        report.note(f"warning: {error}")
    return [item.outcome for item in items]


# ---- how long the run would take ----------------------------------------------------------------
@dataclass
class Excerpt(Image):
    """The first rows and columns, time and plane of an image, as an image of its own."""

    path: Path
    header: Header
    image: Image

    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        height, width = self.header.canonical_shape[3:]
        return self.image.read(plane, slice(0, height), slice(0, width))[rows, cols]

    def close(self) -> None:
        self.image.close()


def cut(image: Image, most: Mapping[str, int]) -> Excerpt:
    """`image` with at most so many along each axis named."""
    header = image.header
    shape = tuple(
        min(n, most.get(axis, n)) for axis, n in zip(header.axes, header.shape, strict=True)
    )
    # What a format keeps beside the pixels describes the whole image
    bare: Mapping[str, object] = MappingProxyType({})
    return Excerpt(image.path, replace(header, shape=shape, format=".tif", extra=bare), image)


def seconds_per_window(files: Files, work: Work, pair: Pair) -> float | None:
    """The time of one window of `pair`'s image; None if the piece cannot be restored alone.

    The first of two restorations warms up.
    """
    if pair.guide is not None:
        return None  # it would have to be cut to the same piece
    with tempfile.TemporaryDirectory(prefix="restorectl-probe-") as place:
        targets = tuple(Path(place, f"{k}.tif") for k in range(len(pair.targets)))
        trial = Pair(pair.source, targets, pair.name)
        for most in (
            {"T": 1, "Z": 1, "Y": PROBE_SIDE, "X": PROBE_SIDE},
            {"T": 1, "Y": PROBE_SIDE, "X": PROBE_SIDE},
        ):
            try:
                for _ in range(2):
                    pace = _timed(files, work, trial, most)
                return pace
            except InputError:  # a command may need a whole stack, or an image that is not flat
                continue
    return None


def _timed(files: Files, work: Work, trial: Pair, most: Mapping[str, int]) -> float:
    with open_image(trial.source, axes=files.axes) as image:
        piece = cut(image, most)
        windows = work.plan(piece, trial).windows
        start = time.monotonic()
        work.write(
            piece,
            trial,
            trial.targets,
            work.origin.record(""),
            Outcome("", "", "planned"),
            Silent(),
        )
        return (time.monotonic() - start) / max(windows, 1)


class Silent:
    """A Report of nothing."""

    def begin(self, files: int) -> None: ...
    def file(self, name: str, pixels: int) -> None: ...
    def advance(self, pixels: int) -> None: ...
    def done(self, outcome: Outcome) -> None: ...
    def note(self, text: str) -> None: ...
