"""Whether an input stands still: what a file was when it was looked at, and whether it still is."""

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from restorectl.errors import IncompleteError, InputError


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


def require_unchanged(path: Path, before: Stamp) -> None:
    """Raises IncompleteError if the file is not the one that was looked at."""
    try:
        same = stamp(path) == before
    except InputError:
        same = False
    if not same:
        raise IncompleteError(f"{path}: was changed while it was read: is it still being written?")
