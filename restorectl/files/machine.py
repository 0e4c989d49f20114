"""Available memory and disk space of this machine."""

import os
import shutil
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (  # (folder, limit, used, statistics) of cgroup version 2, then 1
    ("", "memory.max", "memory.current", "memory.stat"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"),
)


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping or being killed; None = unknown.

    The minimum of the machine's free memory and the free memory in the process's control groups
    (containers, SLURM, systemd).
    """
    found = [_machine(), *_groups()]
    return min((n for n in found if n is not None), default=None)


def free_space(path: Path) -> int:
    """Free bytes for this user on the disk of `path` or of its nearest existing parent."""
    return shutil.disk_usage(existing_folder(path)).free


def existing_folder(path: Path) -> Path:
    """`path`, or its nearest existing parent folder."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.is_dir())


def _machine() -> int | None:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _groups() -> list[int]:
    """Free bytes in each limited control group of the process; caches count as free."""
    left = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base, limit, used, statistics = _LIMITS[controllers == "memory"]
        place = Path(group.lstrip("/"))
        for part in (place, *place.parents):
            folder = _CGROUP / base / part
            most, now = (_read(folder / name).strip() for name in (limit, used))
            if most.isdecimal() and now.isdecimal():
                left.append(max(0, int(most) - int(now) + _cache(folder / statistics)))
    return left


def _cache(path: Path) -> int:
    lines = (line.split() for line in _read(path).splitlines())
    return sum(int(parts[1]) for parts in lines if parts[:1] == ["inactive_file"])


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""  # another system, or a group that is not shown in this container
