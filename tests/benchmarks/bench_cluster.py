"""Times one image on a cluster of one and two local workers against one process.

    python tests/benchmarks/bench_cluster.py [--side 6000] [--stack T,C,Z,SIDE]

The start of the cluster is not counted. On a machine that others use, wall clock says little; so
processor seconds are told too, of this process and of the busiest worker, one after the other: as
long as it would take with a core for each process.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import common  # noqa: F401 (so that `tests` is found)
import distributed
import numpy as np
import tifffile

from restorectl.batch.outcome import Outcome, Silent
from restorectl.jobs import Compute, Files, RestoreJob
from restorectl.restoration.restore import restore
from tests.chaos.folders import digests

WARM = Path(__file__).parents[1] / "data/noisy/stack.tif"


def photons(shape: tuple[int, ...]) -> np.ndarray:
    """Spots under photon noise, uint16."""
    y, x = np.mgrid[: shape[-2], : shape[-1]]
    light = 40 + 150 * np.exp(-((x % 48 - 24) ** 2 + (y % 48 - 24) ** 2) / 80)
    random = np.random.default_rng(0)
    planes = [3 * random.poisson(light) for _ in range(int(np.prod(shape[:-2])))]
    return np.reshape(planes, shape).astype(np.uint16)


def used() -> tuple[float, float]:
    """Processor seconds so far, and the peak of memory in GB."""
    now = resource.getrusage(resource.RUSAGE_SELF)
    return now.ru_utime + now.ru_stime, now.ru_maxrss / 2**20


def made(source: Path, target: Path, address: str | None) -> Outcome:
    """Restore an image without neighbours."""
    files = Files((str(source),), str(target), dask=address)
    job = RestoreJob(files, Compute(device="cpu", threads=1), context="none")
    (outcome,) = restore(job, Silent())
    return outcome


def timed(source: Path, out: Path, workers: int) -> float:
    """Restore with so many workers, 0 = none; prints a line, returns the processor seconds."""
    out.mkdir()
    with (
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, memory_limit=None, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        address = cluster.scheduler_address if workers else None
        made(WARM, out / "warm.tif", address)  # loads torch
        before = client.run(used)
        start, own = time.monotonic(), used()[0]
        outcome = made(source, out / "restored.tif", address)
        wall, own = time.monotonic() - start, used()[0] - own
        assert outcome.status == "done", outcome.message
        after = client.run(used)
    each = sorted(after[w][0] - before[w][0] for w in after)
    peak = max((after[w][1] for w in after), default=used()[1])
    total = own + max(each, default=0)
    shown = ", ".join(f"{seconds:.1f}" for seconds in each)
    print(
        f"{source.name} {workers} workers: wall {wall:.1f} s; processor s: here {own:.1f}, workers"
        f" [{shown}], one after the other {total:.1f}; peak memory of a worker {peak:.2f} GB",
        flush=True,
    )
    return total


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=6000)
    parser.add_argument("--stack", default="2,2,16,512")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if options.side:
            tifffile.imwrite(place / "plane.tif", photons((options.side, options.side)))
        t, c, z, side = map(int, options.stack.split(","))
        if side:
            stack = photons((t, z, c, side, side))
            tifffile.imwrite(place / "stack.tif", stack, imagej=True, metadata={"axes": "TZCYX"})
        for source in sorted(place.glob("*.tif")):
            found = [timed(source, place / f"{source.stem}{n}", n) for n in (0, 1, 2)]
            made = [digests(place / f"{source.stem}{n}") for n in (0, 1, 2)]
            assert made[0] == made[1] == made[2]
            print(
                f"{source.name}: equal bytes; one worker takes {found[1] / found[0]:.3f} of the"
                f" processor time of no cluster; two are {found[1] / found[2]:.2f} times as fast"
                f" as one; load of this machine {os.getloadavg()[0]:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
