"""Atomic output: files appear at their final path complete or not at all.

A file is written to a hidden sibling `.NAME.restorectl-PID-HOST.part`, synced, then renamed. HOST
is a digest of the host name, so that machines sharing a folder do not delete each other's files; a
lock on the file itself would block its own writer on SMB shares.

A folder is written in the same way (`replacing_folder`); after a kill, it can be resumed.

`spooled_zeros` holds arrays larger than memory in an unnamed temporary file near the output.
"""

import errno
import hashlib
import math
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.errors import DiskFullError, OutputError

_NAME_BYTES = 255  # longest file name on common file systems
_PART = re.compile(r"\.(.*)\.restorectl-(\d+)(?:-([0-9a-f]{8}))?\.part", re.DOTALL)
_FOREIGN_SECONDS = 7 * 86400.0  # age at which a file of another host is stale
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})  # some network shares


def part_path(target: Path, pid: int | None = None, host: str | None = None) -> Path:
    """The temporary sibling of `target` for a process; too long names are cut."""
    pid = os.getpid() if pid is None else pid
    tail = f".restorectl-{pid}-{_digest(platform.node() if host is None else host)}.part"
    name = os.fsencode(target.name)
    room = _NAME_BYTES - 1 - len(tail)
    if len(name) > room:
        digest = hashlib.sha256(name).hexdigest()[:16]
        # A cut inside a UTF-8 character would not be a valid name everywhere.
        cut = name[: room - 17].decode("utf-8", "ignore")
        return target.with_name(f".{cut}~{digest}{tail}")
    return target.with_name(f".{target.name}{tail}")


@contextmanager
def replacing(target: Path, check: Callable[[], None] | None = None) -> Iterator[Path]:
    """Yield an existing empty temporary sibling of `target`; on success it becomes `target`.

    The body writes to that path. On any exception, KeyboardInterrupt included, the temporary file
    is removed and `target` stays unchanged. check: called when the file is complete; an exception
    in it prevents the renaming.

    Raises DiskFullError if the disk or quota is full, OutputError if the file cannot be created,
    written or renamed.
    """
    part = part_path(target)
    done = False
    try:
        # The umask applies to 0666; tempfile would create files that only their owner can read.
        part.unlink(missing_ok=True)
        handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        try:
            yield part
            os.fsync(handle)
            if check is not None:
                check()
            os.replace(part, target)
            done = True
        finally:
            os.close(handle)
        _sync_folder(target.parent)
    except OSError as exc:
        raise output_error(exc, target) from exc
    finally:
        if not done:
            _discard(part)


@contextmanager
def replacing_folder(
    target: Path,
    check: Callable[[], None],
    is_part: Callable[[Path], bool],
    keep: tuple[type[BaseException], ...] = (),
) -> Iterator[Path]:
    """Yield a temporary sibling folder of `target`; on success it becomes `target`.

    It is empty, or what a killed run left, if is_part says that it is of this output; other
    leftovers are removed. An old `target` is moved aside just before, so that a power cut can leave
    none, but never a part of one. keep: exceptions after which the folder stays, to be resumed, if
    `check` passes. Otherwise as `replacing`.
    """
    part, done = part_path(target), False
    old = part_path(target.with_name(f"{target.name}.old"))
    try:
        for left in _stale_folders(target):
            if not part.exists() and is_part(left):
                os.replace(left, part)
            else:
                shutil.rmtree(left)
        part.mkdir(exist_ok=True)
        yield part
        for base, _, names in os.walk(part):
            for name in names:
                with open(Path(base, name), "rb") as file:
                    os.fsync(file.fileno())
            _sync_folder(Path(base))
        check()
        if os.path.lexists(target):
            os.replace(target, old)
        os.replace(part, target)
        done = True
        _sync_folder(target.parent)
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old, ignore_errors=True)
        else:
            _discard(old)
    except keep:
        check()
        done = True
        raise
    except OSError as exc:
        raise output_error(exc, target) from exc
    finally:
        if not done:
            shutil.rmtree(part, ignore_errors=True)


def part_name(target: Path) -> str:
    """What the names of all temporary siblings of `target` have in common."""
    match = _PART.fullmatch(part_path(target).name)
    assert match is not None
    return match[1]


def _stale_folders(target: Path) -> list[Path]:
    """Temporary folders of `target` that dead processes left, the newest first."""
    found = []
    for path in target.parent.iterdir():
        match = _PART.fullmatch(path.name)
        if match and match[1] == part_name(target) and path.is_dir() and _is_stale(match, path):
            found.append(path)
    return sorted(found, key=lambda path: -path.stat().st_mtime)


def output_error(exc: OSError, target: Path | str) -> OutputError:
    """Convert an OSError from writing `target` to a one-line error."""
    if exc.errno in _FULL:
        return DiskFullError(
            f"{target}: the disk or quota is full ({exc.strerror}): free some space and run again"
        )
    return OutputError(f"{target}: cannot be written: {exc.strerror or exc}")


def sweep(folder: Path, *, own: bool = False, keep: Collection[str] = ()) -> list[Path]:
    """Remove temporary files and folders of dead processes in `folder` (not in its subfolders).

    Keeps files of processes that run on this host, and for a week those of other hosts. own: remove
    this process's files instead, when it stops writing. keep: `part_name` of folders that may be
    resumed. Returns the removed paths. Raises OutputError if one cannot be removed.
    """
    removed = []
    try:
        for path in sorted(folder.iterdir()):
            match = _PART.fullmatch(path.name)
            if match is None or path.is_symlink() or not (path.is_file() or path.is_dir()):
                continue
            if _is_own(match) if own else _is_stale(match, path):
                if path.is_file():
                    path.unlink(missing_ok=True)
                elif match[1] not in keep:
                    shutil.rmtree(path)
                else:
                    continue
                removed.append(path)
    except (FileNotFoundError, NotADirectoryError):
        return removed  # the folder is made later, or another run is sweeping it
    except OSError as exc:
        raise output_error(exc, folder) from exc
    return removed


def _is_own(match: re.Match[str]) -> bool:
    return int(match[2]) == os.getpid() and match[3] == _digest(platform.node())


def _is_stale(match: re.Match[str], path: Path) -> bool:
    if match[3] in (None, _digest(platform.node())):
        return not _alive(int(match[2]))
    return time.time() - path.stat().st_mtime > _FOREIGN_SECONDS


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _discard(part: Path) -> None:
    with suppress(OSError):  # what ended the writing is told; what is left is for sweep
        part.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True  # someone else's process, or no process id of this host
    return True


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot open folders
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as exc:
        if exc.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


SPOOL_HELD = 1 << 30  # bytes; larger arrays are on disk


def spooled_zeros(
    shape: tuple[int, ...], folder: Path, held: int = SPOOL_HELD
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 zeros, if large in an unnamed file that ends with the process, its space reserved.

    Raises DiskFullError, OutputError.
    """
    size = math.prod(shape) * 4
    if size <= held:
        return np.zeros(shape, np.float32)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk would be met as a bus error
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        raise output_error(error, folder) from error
