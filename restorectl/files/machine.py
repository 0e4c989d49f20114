"""Processor cores, available memory and disk space of this machine."""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
# of cgroup version 2, then 1: (limit, used, statistics) of memory, (quota, period) of processors
_LIMITS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"),
)
_QUOTAS = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping or being killed; None = unknown.

    The minimum of the machine's free memory and the free memory in the process's control groups
    (containers, SLURM, systemd).
    """
    found = [_machine(), *_groups()]
    return min((n for n in found if n is not None), default=None)


def cores() -> int:
    """Processor cores that this process may use, at least 1.

    The minimum of its affinity, the quotas of its control groups (containers, systemd), and what
    SLURM_CPUS_PER_TASK and OMP_NUM_THREADS say.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    found: list[float] = [len(affinity(0)) if affinity else os.cpu_count() or 1, *_quotas()]
    for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        first = os.environ.get(name, "").split(",")[0]
        found += [int(first)] if first.isdecimal() else []
    return max(1, math.ceil(min(found)))


def process_memory() -> int:
    """Bytes of memory that this process holds now; 0 = unknown."""
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    return 0


def free_space(path: Path) -> int:
    """Free bytes for this user on the disk of `path` or of its nearest existing parent."""
    return shutil.disk_usage(existing_folder(path)).free


def readable(count: int) -> str:
    """A number of bytes for people, such as 3.2 GB."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


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
    for version, folder in _folders("memory"):
        limit, used, statistics = _LIMITS[version]
        most, now = (_read(folder / name).strip() for name in (limit, used))
        if most.isdecimal() and now.isdecimal():
            left.append(max(0, int(most) - int(now) + _cache(folder / statistics)))
    return left


def _quotas() -> list[float]:
    """Cores that each control group of the process lets it use, if it limits them."""
    found = []
    for version, folder in _folders("cpu"):
        quota, period = [*" ".join(_read(folder / n) for n in _QUOTAS[version]).split(), "", ""][:2]
        if quota.isdecimal() and period.isdecimal() and int(quota) > 0 < int(period):
            found.append(int(quota) / int(period))
    return found


def _folders(controller: str) -> Iterator[tuple[int, Path]]:
    """Version (0: two, 1: one) and folder of the process's control groups and their parents."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        place = Path(group.lstrip("/"))
        for part in (place, *place.parents):
            yield bool(controllers), _CGROUP / (controller if controllers else "") / part


def _cache(path: Path) -> int:
    lines = (line.split() for line in _read(path).splitlines())
    return sum(int(parts[1]) for parts in lines if parts[:1] == ["inactive_file"])


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""  # another system, or a group that is not shown in this container
