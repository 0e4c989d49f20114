"""Allows one run at a time in an output folder, by locks that the kernel releases at process end.

A whole run locks `.restorectl.lock` exclusively; shards share it, and each locks its own file
`.restorectl.IofN.lock`. A lock file names its holder, but its existence means nothing: only the
kernel's lock counts, so files left by a crash block nobody.
"""

import errno
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from restorectl.errors import BusyError
from restorectl.files.atomic import output_error
from restorectl.files.strict import parse_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".restorectl.lock"
_SHARD = re.compile(r"\.restorectl\.\d+of(\d+)\.lock")
# Errors of file systems without flock, such as some network shares
_UNSUPPORTED = frozenset(
    {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF}
)
_PATIENCE = 0.5  # seconds to wait for a new run to write its name


@contextmanager
def holding(folder: Path, shard: tuple[int, int], command: str) -> Iterator[str | None]:
    """Lock an existing folder for shard (I, N) of a run; N = 1 is a whole run.

    Two whole runs, a whole run and a shard, the same shard twice, and shards of different N exclude
    each other. Yields None, or a warning if the folder cannot be locked; the run goes on then.

    Raises BusyError at once, naming the holder, and OutputError if no file can be created.
    """
    with ExitStack() as stack:
        try:
            problem = _take(stack, folder, shard, command)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise output_error(error, folder / NAME) from error
            problem = f"{folder}: cannot be locked ({error.strerror}): do not start a second run"
        yield problem


def _take(stack: ExitStack, folder: Path, shard: tuple[int, int], command: str) -> str | None:
    if fcntl is None:
        return f"{folder}: this system has no file locks: start no second run"
    index, count = shard
    whole = _locked(stack, folder / NAME, fcntl.LOCK_EX if count == 1 else fcntl.LOCK_SH)
    if whole is None:
        raise BusyError(_busy(folder, _holder(folder)))
    if count == 1:
        _sign(whole, command, shard)
        stack.callback(_clear, whole)
        return None
    path = folder / f".restorectl.{index}of{count}.lock"
    own = _locked(stack, path, fcntl.LOCK_EX)
    if own is None:
        raise BusyError(_busy(folder, _signature(path)))
    stack.callback(path.unlink, missing_ok=True)  # before the lock is released: see `_locked`
    _sign(own, command, shard)
    for other in _shards(folder):
        if _SHARD.fullmatch(other.name)[1] != str(count) and _is_held(other):  # type: ignore[index]
            raise BusyError(_busy(folder, _signature(other)))
    return None


def _locked(stack: ExitStack, path: Path, how: int, create: int = os.O_CREAT) -> int | None:
    """A locked descriptor of `path`, closed with `stack`; None if another process has the lock.

    Tries again if the holder removed the file between opening and locking.
    """
    while True:
        handle = _open(path, create)
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
            current = _is_at(handle, path)
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        if current:
            stack.callback(os.close, handle)
            return handle
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _open(path: Path, create: int) -> int:
    try:
        return os.open(path, os.O_RDWR | create | os.O_NOFOLLOW, 0o666)
    except PermissionError:  # created by another user; read access is enough to lock
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)


def _sign(handle: int, command: str, shard: tuple[int, int]) -> None:
    text = {
        "pid": os.getpid(),
        "host": platform.node(),
        "command": command,
        "shard": "/".join(map(str, shard)),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(text).encode() + b"\n", 0)
    except OSError as error:
        # A full disk or another user's file: locked, but without the holder's name
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EBADF, errno.EINVAL):
            raise


def _clear(handle: int) -> None:
    try:
        os.ftruncate(handle, 0)
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.EINVAL):  # another user's file, only readable
            raise


def _shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _SHARD.fullmatch(path.name))


def _is_held(path: Path) -> bool:
    with ExitStack() as stack:
        try:
            return _locked(stack, path, fcntl.LOCK_SH, create=0) is None
        except FileNotFoundError:
            return False


def _holder(folder: Path) -> dict[str, Any]:
    """The holder of the whole folder, or one of its shards."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        for path in (folder / NAME, *_shards(folder)):
            if found := _signature(path):
                return found
        time.sleep(0.02)
    return {}


def _signature(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}  # not written yet, or not readable for us
    return found if isinstance(found, dict) else {}


def _busy(folder: Path, holder: dict[str, Any]) -> str:
    who = "another run"
    if holder:
        shard = holder.get("shard", "1/1")
        part = "" if shard == "1/1" else f" (shard {shard})"
        who = (
            f"process {holder.get('pid')} on {holder.get('host')}, '{holder.get('command')}'{part}"
            f" since {holder.get('started')},"
        )
    return f"{folder}: {who} holds this output folder: wait for it, or choose another `output`"
