"""What a run will do: complete before any of it is done, from headers and existing outputs alone.

Nothing here writes. A file that cannot be taken has an outcome that says why.
"""

import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from restorectl.batch.inputs import Pair
from restorectl.batch.outcome import Outcome, Report
from restorectl.errors import (
    DiskFullError,
    IncompleteError,
    InputError,
    OutputError,
    RestorectlError,
    UsageError,
)
from restorectl.files import machine, provenance
from restorectl.files.provenance import matches
from restorectl.images.image import Existing, Image, format_of, look, open_image
from restorectl.jobs import Files

Record = Mapping[str, Any]  # provenance.record of an output
Hashes = str | Mapping[str, str]  # content hash of an input, by role where there are two


@dataclass(frozen=True)
class Stamp:
    """What changes when a file is written to or replaced."""

    size: int  # bytes
    mtime_ns: int
    inode: tuple[int, int]  # (device, number)

    @property
    def age(self) -> float:
        """Seconds since the last change; a clock that is ahead of ours counts as the same age."""
        return abs(time.time() - self.mtime_ns / 1e9)


def stamp(path: Path) -> Stamp:
    """Look at a file. Raises InputError if it is missing or no regular file.

    Pipes and devices are refused, since reading them may never end.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "no such file" if missing else f"cannot be read: {error.strerror}"
        raise InputError(f"{path}: {reason}") from error
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path}: is no regular file: name an image")
    return Stamp(found.st_size, found.st_mtime_ns, (found.st_dev, found.st_ino))


@dataclass(frozen=True)
class Planned:
    """What one image will take; known from its header alone."""

    windows: int
    calls: int | None  # network calls, counted in windows; None = decided while it runs
    bytes: int  # of all outputs, uncompressed
    memory: int  # bytes held at the peak, beyond the program itself


@dataclass(frozen=True)
class Origin:
    """What all outputs of a run come from: heads the manifest, and goes into every output."""

    command: str
    parameters: Mapping[str, Any]  # everything that can change a pixel
    weights: Mapping[str, tuple[str, str]]  # role -> (name, sha256)
    device: str | None = None

    def summary(self) -> dict[str, Any]:
        """The head of the manifest."""
        used = {role: {"name": name, "sha256": sha} for role, (name, sha) in self.weights.items()}
        found = {"command": self.command, "parameters": self.parameters, "weights": used}
        return found if self.device is None else found | {"device": self.device}

    def record(self, input_sha256: Hashes) -> dict[str, Any]:
        """The provenance of the outputs of one input."""
        return provenance.record(
            command=self.command,
            parameters=dict(self.parameters),
            weights=" + ".join(name for name, _ in self.weights.values()),
            weights_sha256=" + ".join(sha256 for _, sha256 in self.weights.values()),
            input_sha256=input_sha256,
        )


class Work(Protocol):
    """What a command does with one open image; the same for all files of a run."""

    @property
    def origin(self) -> Origin: ...

    def plan(self, image: Image, pair: Pair) -> Planned:
        """Raises InputError for an image that the command cannot take. Reads no pixels."""
        ...

    def write(
        self,
        image: Image,
        pair: Pair,
        parts: Sequence[Path],
        record: Record,
        outcome: Outcome,
        report: Report,
    ) -> None:
        """Write a file for every target of the pair at the path in parts, carrying `record`."""
        ...

    def calls(self) -> int:
        """Network calls so far, counted in windows."""
        ...


@dataclass
class Item:
    """One pair of a plan. What is still to be done has the status `planned`."""

    pair: Pair
    outcome: Outcome
    stamps: dict[Path, Stamp] = field(default_factory=dict)  # of every input, before it was read
    planned: Planned | None = None
    hashes: Hashes | None = None  # None = not needed yet

    @property
    def todo(self) -> bool:
        return self.outcome.status == "planned"

    def require_unchanged(self) -> None:
        """Raises IncompleteError where an input is not what it was when it was planned."""
        for path, before in self.stamps.items():
            try:
                same = stamp(path) == before
            except InputError:
                same = False
            if not same:
                raise IncompleteError(
                    f"{path}: was changed while it was read: is it still being written?"
                )


def examine(files: Files, work: Work, pair: Pair, memory: int | None) -> Item:
    """Decide about one pair; its header is opened once, its pixels are not read.

    An input is hashed only where an output might be up to date. `memory`: bytes available.
    """
    item = Item(pair, Outcome(str(pair.source), str(pair.target), "planned"))
    outcome = item.outcome
    with blaming(files, pair, outcome):
        item.stamps = {path: stamp(path) for path in _inputs(pair)}
        for path, seen in item.stamps.items():
            if seen.age < files.min_age:
                age = f"was changed {seen.age:.0f} s ago"
                outcome.status = "deferred"
                outcome.message = f"{path}: {age}: too young for `min_age`"
                return item
        if _up_to_date(files, work, item):
            outcome.status, outcome.message = "skipped", "up to date"
            return item
        held = format_of(pair.source).held_when_open(pair.source)
        _require_memory(pair.source, held, memory, "save it as TIFF, which is read piece by piece")
        with open_image(pair.source, axes=files.axes) as image:
            shape, dtype = list(image.header.shape), str(image.header.dtype)
            outcome.details.update(axes=image.header.axes, shape=shape, dtype=dtype)
            item.planned = work.plan(image, pair)
        remedy = "use a smaller `tile`, or a machine with more"
        _require_memory(pair.source, item.planned.memory, memory, remedy)
    return item


def _require_memory(path: Path, taken: int, memory: int | None, remedy: str) -> None:
    if memory is not None and taken > memory:
        raise InputError(
            f"{path}: takes about {size(taken)} of memory and {size(memory)} are available:"
            f" {remedy}"
        )


def _up_to_date(files: Files, work: Work, item: Item) -> bool:
    """Whether every target is there and whole, as this run would make it."""
    records = [found.record if found else None for found in refuse_foreign(files, item.pair)]
    made_alike = all(
        record is not None
        and "input" in record
        and matches(record, work.origin.record(record["input"]))
        for record in records
    )
    if not made_alike:
        return False
    item.hashes = hashes(item.pair)
    return all(record is not None and record["input"] == item.hashes for record in records)


def refuse_foreign(files: Files, pair: Pair) -> list[Existing | None]:
    """What stands at each target. Raises OutputError for a file that is not ours."""
    found = [look(target) for target in pair.targets]
    for target, each in zip(pair.targets, found, strict=True):
        if each is not None and not each.ours and not files.overwrite:
            raise OutputError(f"{target}: exists and is not ours: move it or use `overwrite`")
    return found


def hashes(pair: Pair) -> Hashes:
    """Content hash of the inputs. Raises InputError."""
    found = {}
    for path in _inputs(pair):
        try:
            found[path] = format_of(path).content_hash(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if pair.guide is None:
        return found[pair.source]
    return {"image": found[pair.source], "guide": found[pair.guide]}


def _inputs(pair: Pair) -> list[Path]:
    return [pair.source] if pair.guide is None else [pair.source, pair.guide]


@contextmanager
def blaming(files: Files, pair: Pair, outcome: Outcome) -> Iterator[None]:
    """Errors of one file into its outcome; only a full disk goes on upwards.

    An incomplete input that was changed lately is deferred: its writer may still be at it.
    """
    try:
        yield
    except DiskFullError as error:
        outcome.fail(error)
        raise
    except IncompleteError as error:
        outcome.fail(error)
        if any(_age(path) < files.defer_for for path in _inputs(pair)):
            outcome.status = "deferred"
    except RestorectlError as error:
        outcome.fail(error)
    except MemoryError:
        outcome.fail(InputError(f"{pair.source}: does not fit the memory of this machine"))


def _age(path: Path) -> float:
    """Seconds since the last change; 0 for a file that is just being replaced."""
    try:
        return stamp(path).age
    except InputError:
        return 0.0


def require_free(files: Files, item: Item) -> None:
    """Raises DiskFullError where an output would leave less than `min_free` on its disk."""
    if not files.min_free or item.planned is None:
        return
    target, needed = item.pair.target, item.planned.bytes
    free = machine.free_space(target.parent)
    if needed + files.min_free > free:
        raise DiskFullError(
            f"{target}: takes {size(needed)} and the disk has {size(free)} free, of which"
            f" `min_free` keeps {size(files.min_free)}: free some space"
        )


# ---- before the work -----------------------------------------------------------------------------
def require_room(files: Files, items: Sequence[Item]) -> None:
    """Check that the outputs can be written, before the first of them is.

    Raises OutputError for a folder that cannot be written to, UsageError for a manifest that would
    replace an image, DiskFullError if a disk has less room than all outputs still to be made take
    uncompressed, and `min_free`.
    """
    _check_manifest(files, items)
    todo = [item for item in items if item.todo]
    folders = {target.parent for item in todo for target in item.pair.targets}
    for folder in sorted({machine.existing_folder(folder) for folder in folders}):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(
                f"{folder}: cannot be written to: check its owner, or another `output`"
            )
    disks: dict[int, list[Item]] = {}
    for item in todo:  # the targets of one image lie together
        folder = machine.existing_folder(item.pair.target.parent)
        disks.setdefault(os.stat(folder).st_dev, []).append(item)
    for together in disks.values():
        needed, free = _growth(together), machine.free_space(together[0].pair.target.parent)
        if needed + files.min_free > free:
            reserve = f" beside `min_free` {size(files.min_free)}" if files.min_free else ""
            raise DiskFullError(
                f"{files.output}: {len(together)} outputs take {size(needed)}{reserve}, the disk"
                f" has {size(free)} free: free some space and run again"
            )


def _growth(items: Sequence[Item]) -> int:
    """The most bytes that the disk holds more at any time; an output replaces its predecessor."""
    total = overlap = 0
    for item in items:
        new = item.planned.bytes if item.planned is not None else 0
        old = sum(path.stat().st_size for path in item.pair.targets if path.is_file())
        total += max(0, new - old)
        overlap = max(overlap, min(new, old))
    return total + overlap


def _check_manifest(files: Files, items: Sequence[Item]) -> None:
    if files.manifest is None:
        return
    path = Path(files.manifest)
    if not path.absolute().parent.is_dir():
        raise OutputError(f"`manifest` {path}: the folder {path.parent} does not exist")
    taken = {os.path.realpath(p) for i in items for p in (*_inputs(i.pair), *i.pair.targets)}
    if os.path.realpath(path) in taken:
        raise UsageError(f"`manifest` {path}: is an image of this run: choose another name")


def size(count: int) -> str:
    """Bytes for people: 3.2 GB."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
