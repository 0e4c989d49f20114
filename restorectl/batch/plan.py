"""Plans a run completely before it starts, from headers and existing outputs; writes nothing.

A file that cannot be processed gets an outcome that says why.
"""

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from restorectl.batch.inputs import Pair
from restorectl.batch.outcome import Outcome, Progress, turn
from restorectl.errors import DiskFullError, IncompleteError, InputError, OutputError, UsageError
from restorectl.files import machine, provenance
from restorectl.files.machine import readable
from restorectl.files.provenance import matches
from restorectl.images.image import (
    Existing,
    Image,
    format_of,
    is_image_folder,
    look,
    open_image,
)
from restorectl.jobs import Files

Record = Mapping[str, Any]  # what provenance.record returns for an output
Hashes = str | Mapping[str, str]  # content hash of an input; by role if there are two inputs


@dataclass(frozen=True)
class Stamp:
    """File properties that change when the file is written to or replaced."""

    size: int  # bytes
    mtime_ns: int
    inode: tuple[int, int]  # (device, number)

    @property
    def age(self) -> float:
        """Seconds since the last change; the same for a time as far in the future."""
        return abs(time.time() - self.mtime_ns / 1e9)


def stamp(path: Path) -> Stamp:
    """The stamp of a file, or of all that is in a folder.

    Raises InputError if it is missing or not a regular file.

    Pipes and devices are refused, because reading them may never end.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        reason = "no such file" if missing else f"cannot be read: {error.strerror}"
        raise InputError(f"{path}: {reason}") from error
    inode = (found.st_dev, found.st_ino)
    if stat.S_ISDIR(found.st_mode) and is_image_folder(path):
        inside = [found, *(each.lstat() for each in path.rglob("*"))]
        newest = max(each.st_mtime_ns for each in inside)
        return Stamp(sum(each.st_size for each in inside), newest, inode)
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path}: is not a regular file: name an image")
    return Stamp(found.st_size, found.st_mtime_ns, inode)


@dataclass(frozen=True)
class Planned:
    """The estimated work for one image, from its header alone."""

    windows: int
    calls: int | None  # network calls, one per tile; None = decided during the run
    bytes: int  # size of all outputs, uncompressed
    memory: int  # peak memory in bytes, without the program itself
    pixels: int = 0  # of all calls together

    def and_then(self, other: "Planned") -> "Planned":
        """The work for this image, then for another one."""
        calls = None if self.calls is None or other.calls is None else self.calls + other.calls
        return Planned(
            self.windows + other.windows,
            calls,
            self.bytes + other.bytes,
            max(self.memory, other.memory),
            self.pixels + other.pixels,
        )


@dataclass(frozen=True)
class Origin:
    """How all outputs of a run are made: written to the manifest and to every output."""

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


class Share(Protocol):
    """Does parts of the work on one image elsewhere; see `cluster.Cluster`."""

    @property
    def threads(self) -> int: ...

    def each(
        self, function: Callable[..., Any], items: Iterable[tuple[Any, ...]]
    ) -> Iterator[Any]: ...


class Work(Protocol):
    """What a command does with each open image of a run."""

    @property
    def origin(self) -> Origin: ...

    @property
    def at_once(self) -> int:
        """How many images it can work on at a time, in threads of their own."""
        ...

    def plan(self, image: Image, pair: Pair) -> Planned:
        """Estimate the work; reads no pixels.

        Raises InputError if the image does not suit, OutputError if its result cannot be written.
        """
        ...

    def write(
        self,
        image: Image,
        pair: Pair,
        parts: Sequence[Path],
        record: Record,
        outcome: Outcome,
        progress: Progress,
        share: Share | None = None,
    ) -> None:
        """Write every target of the pair to its path in `parts`, with `record` inside.

        share: whose workers make and write the pixels; None = this process does. Raises
        OutputError if several processes cannot write such an output.
        """
        ...


@dataclass
class Item:
    """One pair of a plan; its outcome's status is `planned` until it is processed."""

    pair: Pair
    outcome: Outcome
    stamps: dict[Path, Stamp] = field(default_factory=dict)  # of every input, before reading
    planned: Planned | None = None
    hashes: Hashes | None = None  # None = not needed yet
    old: bool = False  # its outputs are as wanted, but for the revision of what made them
    defer_for: float = 0.0  # seconds after a change in which an input may still be being written
    elsewhere: bool = False  # planned on another machine, where disks have other numbers

    @property
    def todo(self) -> bool:
        return self.outcome.status == "planned"

    def is_growing(self) -> bool:
        """Whether an input changed so recently that it may still be being written."""
        return any(_age(path) < self.defer_for for path in _inputs(self.pair))

    def require_unchanged(self) -> None:
        """Raises IncompleteError if an input has changed since it was planned, InputError if it is
        no longer there."""
        for path, before in self.stamps.items():
            now = stamp(path)
            if (replace(now, inode=before.inode) if self.elsewhere else now) != before:
                raise IncompleteError(
                    f"{path}: was changed while it was read: wait until it is complete"
                )


def examine(files: Files, work: Work, pair: Pair, memory: int | None) -> Item:
    """Plan one pair from its header, without reading pixels.

    An input is hashed only if its outputs may be up to date. `memory`: bytes available.
    """
    outcome = Outcome(str(pair.source), str(pair.target), "planned")
    item = Item(pair, outcome, defer_for=files.defer_for)
    with turn(outcome, item.is_growing):
        item.stamps = {path: stamp(path) for path in _inputs(pair)}
        for path, seen in item.stamps.items():
            if seen.age < files.min_age:
                age = f"was changed {seen.age:.0f} s ago"
                outcome.status = "deferred"
                outcome.message = f"{path}: {age}: too young for `min_age`"
                return item
        records = _made_alike(files, work, item)
        item.old = any(record.get("revision") != provenance.REVISION for record in records)
        if records and (files.keep_old or not item.old):
            outcome.status = "skipped"
            outcome.message = "kept, of an earlier version" if item.old else "up to date"
            return item
        held = format_of(pair.source).held_when_open(pair.source)
        _require_memory(pair.source, held, memory, "save the image as TIFF, which is read in parts")
        for one in pair.each():
            with open_image(one.source, axes=files.axes, series=one.series) as image:
                shape, dtype = list(image.header.shape), str(image.header.dtype)
                outcome.details.update(axes=image.header.axes, shape=shape, dtype=dtype)
                if image.doubtful and item.is_growing():
                    raise IncompleteError(f"{pair.source}: {image.unusual[0]}")
                outcome.warnings += image.unusual
                planned = work.plan(image, one)
                item.planned = planned if item.planned is None else item.planned.and_then(planned)
        assert item.planned is not None
        remedy = "use fewer `threads`, or a machine with more memory"
        _require_memory(pair.source, item.planned.memory, memory, remedy)
    return item


def _require_memory(path: Path, taken: int, memory: int | None, remedy: str) -> None:
    if memory is not None and taken > memory:
        raise InputError(
            f"{path}: takes about {readable(taken)} of memory, but {readable(memory)} are"
            f" available: {remedy}"
        )


def _made_alike(files: Files, work: Work, item: Item) -> list[Record]:
    """The records of the targets if all are complete and made as this run would, else none.

    Their revisions may differ.
    """
    records = [
        found.record
        for found in refuse_foreign(files, item.pair)
        if found is not None
        and found.record is not None
        and "input" in found.record
        and matches(found.record, work.origin.record(found.record["input"]))
    ]
    if len(records) < len(item.pair.targets):
        return []
    item.hashes = hashes(item.pair)
    return records if all(record["input"] == item.hashes for record in records) else []


def refuse_foreign(files: Files, pair: Pair) -> list[Existing | None]:
    """The existing file at each target. Raises OutputError for one not written by restorectl."""
    found = [look(target) for target in pair.targets]
    for target, each in zip(pair.targets, found, strict=True):
        if each is not None and not each.ours and not files.overwrite:
            raise OutputError(f"{target}: not written by restorectl: move it or use `overwrite`")
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


def _age(path: Path) -> float:
    """Seconds since the last change; infinite for a file that is gone."""
    try:
        return stamp(path).age
    except InputError:
        return float("inf")


def require_free(files: Files, item: Item) -> None:
    """Raises DiskFullError if an output would leave less than `min_free` on its disk."""
    if not files.min_free or item.planned is None:
        return
    target, needed = item.pair.target, item.planned.bytes
    free = machine.free_space(target.parent)
    if needed + files.min_free > free:
        raise DiskFullError(
            f"{target}: takes {readable(needed)}, but the disk has {readable(free)} free, of which"
            f" `min_free` reserves {readable(files.min_free)}: free some space"
        )


# ---- before the work -----------------------------------------------------------------------------
def require_room(files: Files, items: Sequence[Item]) -> None:
    """Check that all outputs can be written.

    Images whose own folder is closed fail, and those that alone are larger than what the disk has.

    Raises OutputError if `output` cannot be written to, UsageError for a manifest that would
    replace an image, DiskFullError if a disk lacks space for all remaining outputs, uncompressed,
    plus `min_free`.
    """
    _check_manifest(files, items)
    if any(item.todo for item in items):
        _require_open(machine.existing_folder(Path(files.output)))
    for item in items:
        if item.todo:
            with turn(item.outcome):
                for target in item.pair.targets:
                    _require_open(target.parent)
    todo = [item for item in items if item.todo]
    disks: dict[int, list[Item]] = {}
    for item in todo:  # the targets of one image share a disk
        folder = machine.existing_folder(item.pair.target.parent)
        disks.setdefault(os.stat(folder).st_dev, []).append(item)
    for together in disks.values():
        free = machine.free_space(together[0].pair.target.parent)
        too_large = [item for item in together if _growth([item]) > free]
        if len(too_large) < len(together):  # they do not stop the others
            for item in too_large:
                together.remove(item)
                with turn(item.outcome):
                    raise OutputError(
                        f"{item.pair.target}: takes {readable(_growth([item]))}, but the disk has"
                        f" {readable(free)} free: choose another disk as `output`"
                    )
        needed = _growth(together)
        if needed + files.min_free > free:
            reserve = f" plus `min_free` {readable(files.min_free)}" if files.min_free else ""
            raise DiskFullError(
                f"{files.output}: {len(together)} outputs take {readable(needed)}{reserve}, but the"
                f" disk has {readable(free)} free: free some space and run again"
            )


def _require_open(folder: Path) -> None:
    """Raises OutputError unless a folder can be made and written to."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise OutputError(f"{there}: is a file, but a folder is needed: move the file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(
            f"{there}: cannot be written to: check its permissions, or choose another `output`"
        )


def _growth(items: Sequence[Item]) -> int:
    """The peak of additional disk use in bytes; outputs replace existing files one by one."""
    total = overlap = 0
    for item in items:
        new = item.planned.bytes if item.planned is not None else 0
        old = sum(stamp(path).size for path in item.pair.targets if path.is_file() or path.is_dir())
        total += max(0, new - old)
        overlap = max(overlap, min(new, old))
    return total + overlap


def _check_manifest(files: Files, items: Sequence[Item]) -> None:
    if files.manifest is None:
        return
    path = Path(files.manifest)
    taken = {os.path.realpath(p) for i in items for p in (*_inputs(i.pair), *i.pair.targets)}
    if os.path.realpath(path) in taken:
        raise UsageError(f"`manifest` {path}: is an image of this run: choose another name")
