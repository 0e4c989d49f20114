"""What a file costs beside the network: `restorectl restore` on a folder of many small files.

    python tests/benchmarks/bench_files.py [COUNT]

COUNT: files (10,000) of 64 x 64 uint16, each with its own noise. Measured with COUNT files and with
a tenth of them; the difference, per file, is free of the program's start. All in seconds of CPU, so
that other programs on the machine change little. Memory must not grow with the number of files.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from common import REPOSITORY, table

SHAPE = (64, 64)
DRIVER = """
import json, resource, sys, time
from restorectl.batch import run
from restorectl.cli.app import main
from restorectl.engine.runner import Runner

def timed(where, name, spent):
    function = getattr(where, name)
    def call(*words):
        start = time.process_time()
        try:
            return function(*words)
        finally:
            spent.append(time.process_time() - start)
    setattr(where, name, call)

network, planning = [], []
timed(Runner, "_evaluate", network)
timed(run.plan, "examine", planning)
try:
    main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([time.process_time(), sum(network), sum(planning), used.ru_maxrss / 1e3]))
"""


def make(folder: Path, count: int) -> None:
    """Blobs under photon noise, (64, 64) uint16."""
    y, x = np.mgrid[:64, :64]
    rng = np.random.default_rng(0)
    folder.mkdir()
    for k in range(count):
        top, left = rng.uniform(16, 48, 2)
        light = 40 + 160 * np.exp(-((y - top) ** 2 + (x - left) ** 2) / 120)
        tifffile.imwrite(folder / f"{k:05}.tif", (4 * rng.poisson(light)).astype(np.uint16))


def measure(source: Path, target: Path) -> list[float]:
    """Seconds in all, in the network, in planning, and the peak memory in MB."""
    command = ["restore", str(source), "-o", str(target), "-q", "--manifest", f"{target}.json"]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, *command],
        capture_output=True, text=True, check=True, cwd=REPOSITORY,
    )  # fmt: skip
    found: list[float] = json.loads(done.stdout)
    return found


def main(count: int) -> None:
    rows: list[list[object]] = []
    few, found = max(count // 10, 1), {}
    with tempfile.TemporaryDirectory() as name:
        for number in (few, count):
            source = Path(name, f"in{number}")
            make(source, number)
            for kind in ("restored", "skipped"):
                found[kind, number] = measure(source, Path(name, f"out{number}"))
    for kind in ("restored", "skipped"):
        first, last = found[kind, few], found[kind, count]
        whole, network, planning = (
            1e3 * (b - a) / (count - few) for a, b in zip(first[:3], last[:3], strict=True)
        )
        rows.append([kind, whole, network, whole - network, planning, first[3], last[3]])
    table(
        [f"{few} and {count} files", "ms each", "in the network", "beside it", "of it the plan",
         f"MB, {few}", f"MB, {count}"],
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
