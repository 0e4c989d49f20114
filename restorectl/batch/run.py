"""Runs a command on all its files: plan, lock the output folder, process, report.

A `Work` processes each image: see `restoration.planes` and `volumes.volume`.
"""

import itertools
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from restorectl.batch import plan
from restorectl.batch.cluster import AHEAD, Cluster, Made, connected
from restorectl.batch.inputs import TOGETHER, Inputs, Pair, announce, make_folder
from restorectl.batch.outcome import (
    STOPS,
    Outcome,
    Progress,
    Report,
    Silent,
    turn,
    write_manifest,
)
from restorectl.batch.plan import Item, Record, Share, Work
from restorectl.engine.runner import Account, Stopped, counting, one_thread
from restorectl.errors import (
    BusyError,
    ClusterError,
    DiskFullError,
    InputError,
    OutputError,
    RestorectlError,
)
from restorectl.files import lock, machine
from restorectl.files.atomic import part_name, part_path, sweep
from restorectl.images.header import Header, Plane
from restorectl.images.image import (
    ALL,
    Array,
    Derived,
    Image,
    format_of,
    join_images,
    open_image,
    publishing,
)
from restorectl.jobs import Files

PROBE_SIDE = 256  # px, side of the excerpt that is timed
KEPT = (Stopped, ClusterError)  # after which a cluster's part of a file is kept
_COMMAND_LETTERS = 300  # of the command line in the lock file; it may be very long


def run(
    files: Files, work: Work, inputs: Inputs, report: Report, made: Made | None = None
) -> list[Outcome]:
    """Process all inputs; a bad file does not stop the others, a full disk stops the run.

    made: how the workers of a cluster make `work`, for `dask`.

    Planning is complete before work starts. The manifest is always written, even after a failure or
    an interruption; files that were not reached are `pending`.

    Raises BusyError if another run holds the output folder, DiskFullError, OutputError,
    ClusterError.
    """
    pairs, refused = inputs.pairs, list(inputs.refused)
    announce(inputs, len(pairs), report)
    if files.dry_run:
        return refused + _preview(files, work, pairs, report)
    outcomes = refused + [Outcome(str(p.source), str(p.target), "pending") for p in pairs]
    warnings: list[str] = []
    with ExitStack() as stack:
        try:
            _lock(stack, files, pairs, warnings, report)
            _all(files, work, pairs, outcomes, len(refused), report, made)
        except BusyError:
            raise  # an existing manifest may belong to the other run
        except BaseException as stop:
            for folder in _folders(files, pairs):  # the run may have stopped before a temporary
                # file was registered for removal
                sweep(folder, own=True, keep=_resumable(pairs) if files.dask else ())
            _conclude(files, work, outcomes, warnings, report, stop)
            if not isinstance(stop, Exception):
                report.note(_how_to_go_on(outcomes))
            raise
        _conclude(files, work, outcomes, warnings, report, None)
    return outcomes


def _lock(
    stack: ExitStack, files: Files, pairs: Sequence[Pair], warnings: list[str], report: Report
) -> None:
    """Lock the output folder. A single output file is replaced atomically and needs no lock."""
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
    made: Made | None,
) -> None:
    """Plan and process all pairs; their outcomes start at index `first`."""
    for folder in _folders(files, pairs):
        sweep(folder, keep=_resumable(pairs))
    memory, items = _memory(files), []
    for number, pair in enumerate(pairs, first):
        items.append(plan.examine(files, work, pair, memory))
        outcomes[number] = items[-1].outcome
    _tell_old(files, items, report)
    plan.require_room(files, items)
    report.planned(sum(item.planned.pixels for item in items if item.todo and item.planned))
    with ExitStack() as stack:
        share = None
        if files.dask is not None and made is not None and any(item.todo for item in items):
            record = work.origin.record("")
            share = stack.enter_context(connected(files.dask, made, record))
            if not share.workers:
                report.note(f"`dask` {files.dask}: has no workers yet: waiting for the first")
        pool = stack.enter_context(ThreadPoolExecutor(work.at_once, "files", one_thread))
        hands = _hands(files, work, len(items), report, pool, share, memory)
        _side_by_side(files, items, first, report, hands)
    for folder in _folders(files, pairs) if share is not None else ():  # of workers that died
        sweep(folder, keep=_resumable([item.pair for item in items if item.todo]))


@dataclass(frozen=True)
class Hands:
    """What files are given to: threads, or the workers of a cluster."""

    pool: ThreadPoolExecutor
    at_once: int
    memory: int | None  # bytes for all of them together; None = unknown
    begin: Callable[[Item, Account], Future[Outcome]]
    next: Callable[[Iterable[Future[Outcome]]], Future[Outcome]]  # one that is done, if it waits


def _hands(
    files: Files,
    work: Work,
    count: int,
    report: Report,
    pool: ThreadPoolExecutor,
    share: Cluster | None,
    memory: int | None,
) -> Hands:
    """A cluster takes whole files or, of a single one, regions, which a thread here gives away."""

    def begin(item: Item, account: Account) -> Future[Outcome]:
        return pool.submit(_turn, files, work, item, account, report, share)

    if share is None or count == 1:
        return Hands(pool, work.at_once, memory, begin, lambda futures: next(iter(futures)))

    def send(item: Item, account: Account) -> Future[Outcome]:
        if item.todo:
            return share.submit(_turn_afar, files, item)
        future = begin(item, account)
        future.add_done_callback(share.done.put)
        return future

    def landed(_: Iterable[Future[Outcome]]) -> Future[Outcome]:
        future = share.first()
        assert future is not None
        return future

    return Hands(pool, AHEAD * share.threads, None, send, landed)


def _side_by_side(
    files: Files, items: Sequence[Item], failures: int, report: Report, hands: Hands
) -> None:
    """Process all items, several at a time; `failures`: how many there are before."""
    # a limit of failures is kept exactly: the next file begins when the last one is known
    at_once = hands.at_once if files.max_failures is None else 1
    flight: dict[Future[Outcome], tuple[Item, Account]] = {}

    def landed() -> bool:
        """Wait for a file in flight and report it; whether it failed."""
        future = hands.next(flight)
        item, _ = flight[future]
        try:
            found = future.result()
        except STOPS as error:
            item.outcome.fail(error)
            raise
        del flight[future]
        if found is not item.outcome:  # it comes from another machine
            vars(item.outcome).update(vars(found))
            report.file(item.pair.name, item.planned.pixels if item.planned else 0).close()
        report.done(item.outcome)
        return item.outcome.status == "failed"

    try:
        for number, item in enumerate(items):
            while flight and (len(flight) >= at_once or _crowded(flight, item, hands.memory)):
                failures += landed()
            if files.max_failures is not None and failures >= files.max_failures:
                left = len(items) - number
                report.note(f"stopped after {failures} failures: {left} files are left")
                return
            account = Account()
            flight[hands.begin(item, account)] = item, account
        while flight:
            landed()
    except BaseException:
        for future, (_, account) in flight.items():
            account.stopped = True
            future.cancel()
        hands.pool.shutdown()
        for item, _ in flight.values():
            if not item.todo:  # todo: interrupted before it was finished
                report.done(item.outcome)
        raise


def _crowded(flight: Mapping[Any, tuple[Item, Account]], item: Item, memory: int | None) -> bool:
    """Whether the memory may not suffice for another file beside those in flight."""
    planned = [each.planned for each in (item, *(item for item, _ in flight.values()))]
    return memory is not None and sum(each.memory for each in planned if each) > memory


def _memory(files: Files) -> int | None:
    """Bytes that the run may use besides what the program holds already; None = unknown."""
    free = machine.available_memory()
    if files.max_memory is None:
        return free
    allowed = max(0, files.max_memory - machine.process_memory())
    return allowed if free is None else min(free, allowed)


def _turn(
    files: Files,
    work: Work,
    item: Item,
    account: Account,
    report: Report,
    share: Share | None = None,
) -> Outcome:
    """The turn of one file, in a thread."""
    with turn(item.outcome, item.is_growing), counting(account):
        if item.todo:
            _one(files, work, item, account, report, share)
        elif item.outcome.status == "skipped" and files.manifest is not None:
            _hash_outputs(item)
    return item.outcome


def _turn_afar(work: Work, files: Files, item: Item) -> Outcome:
    """The turn of one file, on a worker of a cluster."""
    return _turn(files, work, replace(item, elsewhere=True), Account(), Silent())


def _resumable(pairs: Sequence[Pair]) -> set[str]:
    """The names of temporary folders that a later run may go on with."""
    return {part_name(target) for pair in pairs for target in pair.targets}


def _how_to_go_on(outcomes: Sequence[Outcome]) -> str:
    """What a run that was interrupted has done."""
    left = sum(outcome.status == "pending" for outcome in outcomes)
    kept = sum(outcome.status in ("done", "skipped") for outcome in outcomes)
    return (
        f"{kept} of {len(outcomes)} files are done and stay, {left} are not: run the same command"
        " again to go on with them"
    )


def _tell_old(files: Files, items: Sequence[Item], report: Report) -> None:
    """Say what becomes of outputs that an earlier version made, whose pixels differ today."""
    count = sum(item.old for item in items)
    if count:
        outputs = "1 output" if count == 1 else f"{count} outputs"
        fate = "kept" if files.keep_old else "made again: to keep them, use `keep_old`"
        report.note(f"{outputs} of an earlier version {fate}")


def _one(
    files: Files,
    work: Work,
    item: Item,
    account: Account,
    report: Report,
    share: Share | None,
) -> None:
    """Process one image: check it again, write temporary files, move them to the targets."""
    pair, outcome, start = item.pair, item.outcome, time.monotonic()
    progress = report.file(pair.name, item.planned.pixels if item.planned else 0)
    account.advance = progress.advance
    try:
        item.require_unchanged()
        record = work.origin.record(item.hashes if item.hashes is not None else plan.hashes(pair))
        plan.refuse_foreign(files, pair)  # a file may have appeared since planning
        plan.require_free(files, item)
        with ExitStack() as stack:
            for target in pair.targets:
                make_folder(target.parent)
            parts = [
                stack.enter_context(
                    publishing(
                        pair.source,
                        target,
                        item.require_unchanged,
                        record,
                        keep=() if share is None else KEPT,
                    )
                )
                for target in pair.targets
            ]
            if pair.series == TOGETHER:
                if share is not None:
                    raise OutputError(
                        f"{pair.target}: several images of a file are written into one by one"
                        " process: leave out `dask`, or choose OME-Zarr as `output`"
                    )
                _write_together(files, work, item, parts, record, progress)
            else:
                image = open_image(pair.source, axes=files.axes, series=pair.series)
                opened = stack.enter_context(image)
                work.write(opened, pair, parts, record, outcome, progress, share)
        _hash_outputs(item)
        outcome.status = "done"
    finally:
        outcome.seconds = time.monotonic() - start
        outcome.calls = account.calls
        progress.close()


def _write_together(
    files: Files, work: Work, item: Item, parts: Sequence[Path], record: Record, progress: Progress
) -> None:
    """Process the images of a file one after the other, and join their results in `parts`."""
    pair, outcome, made, told = item.pair, item.outcome, list[list[Path]](), []
    try:
        for k, one in enumerate(pair.each()):
            alone = Outcome(outcome.source, outcome.target, "planned")
            made.append([part_path(t.with_name(f"{k}-{t.name}")) for t in pair.targets])
            with open_image(one.source, axes=files.axes, series=one.series) as image:
                work.write(image, one, made[-1], record, alone, progress)
            told.append(alone.details)
            outcome.warnings += [f"image {k}: {text}" for text in alone.warnings]
        for part, target, several in zip(parts, pair.targets, zip(*made, strict=True), strict=True):
            join_images(part, several, target)
    finally:
        for path in itertools.chain(*made):
            path.unlink(missing_ok=True)
    outcome.details["images"] = told


def _hash_outputs(item: Item) -> None:
    for target in item.pair.targets:
        try:
            item.outcome.outputs[str(target)] = format_of(target).content_hash(target)
        except OSError as error:
            raise OutputError(f"{target}: cannot be read back ({error.strerror})") from error


def _folders(files: Files, pairs: Sequence[Pair]) -> list[Path]:
    """The existing folders that the run writes to."""
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
    """Write the manifest; after a stop its own error is only a warning."""
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
    """Report the plan with the work per file; writes and locks nothing.

    Raises DiskFullError, OutputError as the run would.
    """
    memory, held = _memory(files), machine.process_memory()
    items = [plan.examine(files, work, pair, memory) for pair in pairs]
    stop = None
    try:
        plan.require_room(files, items)
    except (DiskFullError, OutputError) as error:
        stop = error
    todo = [item for item in items if item.todo]
    pace = seconds_per_window(files, work, todo[0].pair) if files.probe and todo else None
    for item in items:
        if item.planned is not None:
            item.outcome.details |= asdict(item.planned)
            item.outcome.details["memory"] += held  # of the whole process
            item.outcome.details["seconds"] = (
                None if pace is None else round(pace * item.planned.windows, 2)
            )
        report.done(item.outcome)
    _tell_old(files, items, report)
    if stop is not None:
        raise stop
    return [item.outcome for item in items]


# ---- estimate of the run time ----------------------------------------------------------------
class Excerpt(Derived):
    """The first rows, columns, time points and planes of an image, as an image."""

    def __init__(self, source: Image, header: Header) -> None:
        super().__init__(source)
        self.header = header

    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        height, width = self.header.canonical_shape[3:]
        return self.source.read(plane, slice(*rows.indices(height)), slice(*cols.indices(width)))


def cut(image: Image, most: Mapping[str, int]) -> Excerpt:
    """`image` cut to at most the given length along each axis in `most`."""
    header = image.header
    shape = tuple(
        min(n, most.get(axis, n)) for axis, n in zip(header.axes, header.shape, strict=True)
    )
    # The format's metadata describe the whole image
    bare: Mapping[str, object] = MappingProxyType({})
    return Excerpt(image, replace(header, shape=shape, format=".tif", extra=bare))


def seconds_per_window(files: Files, work: Work, pair: Pair) -> float | None:
    """Seconds per tile of a pair's image, measured on an excerpt; None if that cannot be restored.

    Restores twice; the first time is a warm-up.
    """
    if pair.guide is not None:
        return None  # the guide would have to be cut too
    with tempfile.TemporaryDirectory(prefix="restorectl-probe-") as place:
        targets = tuple(Path(place, f"{k}.tif") for k in range(len(pair.targets)))
        trial = Pair(pair.source, targets, pair.name, pair.series)
        for most in (
            {"T": 1, "Z": 1, "Y": PROBE_SIDE, "X": PROBE_SIDE},
            {"T": 1, "Y": PROBE_SIDE, "X": PROBE_SIDE},
        ):
            try:
                for _ in range(2):
                    pace = _timed(files, work, trial, most)
                return pace
            except InputError:  # the command may need the whole stack or a larger excerpt
                continue
    return None


def _timed(files: Files, work: Work, trial: Pair, most: Mapping[str, int]) -> float:
    with open_image(trial.source, axes=files.axes, series=trial.series) as image:
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
