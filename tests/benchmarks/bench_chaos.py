"""Kills what a cluster consists of, and checks every time what lies at the final path.

    python tests/benchmarks/bench_chaos.py [--kills 20] [PART OF A NAME...]

A LocalCluster of two processes restores an OME-Zarr. There is either no output or one with the
bytes of an undisturbed run of one process, and the next run completes it.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import common  # noqa: F401 (so that `tests` is found)
import dask
import distributed
import tifffile

from tests.benchmarks.bench_cluster import photons
from tests.chaos.folders import digests, leftovers
from tests.server import Server

PLANES = 40
OWN = """
import distributed, sys
if __name__ == "__main__":
    two = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**two) as made:
        print(made.scheduler_address, flush=True)
        sys.stdin.read()
"""


@dataclass
class Place:
    """A folder with an image, the bytes that its result has to have, and two workers."""

    folder: Path
    server: Server
    client: distributed.Client
    wanted: dict[str, str]

    def start(self, name: str, address: str | None = None, image: str = "stack.tif") -> int:
        """Begin to restore; its process id."""
        scheduler = address or self.client.scheduler.address
        words = ("restore", image, "-o", name, "--context", "none", "--dask", scheduler)
        return self.server.start(*words, cwd=self.folder, err=self.folder / "told")

    def until(self, name: str, planes: int) -> None:
        """Wait for so many planes of an output that is being written."""
        end = time.monotonic() + 900
        place = (self.folder / name).parent
        while len(list(place.glob(".*.part/0/c/*"))) < planes:
            assert time.monotonic() < end, (self.folder / "told").read_text()
            time.sleep(0.005)

    def end(self, pid: int, *codes: int) -> int:
        code = self.server.wait(pid)
        assert code in codes, f"exit {code}: {(self.folder / 'told').read_text()}"
        return code

    def none_or_whole(self, name: str) -> None:
        made = self.folder / name
        assert not made.exists() or digests(made) == self.wanted

    def completed(self, name: str) -> None:
        """The next run completes it."""
        self.end(self.start(name), 0)
        assert digests(self.folder / name) == self.wanted
        shutil.rmtree(self.folder / name)


def kills(place: Place, count: int) -> str:
    """A worker is killed at random moments, several times in each run."""
    choose, caught, runs = random.Random(0), 0, 0
    while caught < count:
        name, runs = f"killed{runs}.ome.zarr", runs + 1
        pid = place.start(name)
        for planes in sorted(choose.sample(range(1, PLANES - 4), 3)):
            place.until(name, planes)
            time.sleep(choose.uniform(0, 0.2))
            pids = list(place.client.run(os.getpid).values())
            os.kill(choose.choice(pids), signal.SIGKILL)
            caught += 1
            place.none_or_whole(name)
        place.end(pid, 0)
        assert digests(place.folder / name) == place.wanted
        assert not leftovers(place.folder)
        shutil.rmtree(place.folder / name)
    return f"{caught} kills in {runs} runs, each completed with equal bytes"


def scheduler(place: Place, count: int) -> str:
    """The scheduler and its workers are killed; the next run, elsewhere, goes on."""
    own = subprocess.Popen(
        [sys.executable, place.folder / "own.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert own.stdout is not None
    address, name = own.stdout.readline().strip(), "gone.ome.zarr"
    pid = place.start(name, address)
    place.until(name, 5)
    os.killpg(own.pid, signal.SIGKILL)
    start = time.monotonic()
    place.end(pid, 69)
    waited = time.monotonic() - start
    assert not (place.folder / name).exists()
    there = len(list(place.folder.glob(".gone*.part/0/c/*")))
    place.completed(name)
    return f"exit code 69 after {waited:.0f} s, {there} of {PLANES} planes kept, then completed"


def interrupted(place: Place, count: int) -> str:
    """Ctrl-C; the next run goes on."""
    name = "stopped.ome.zarr"
    pid = place.start(name)
    place.until(name, 5)
    os.kill(pid, signal.SIGINT)
    place.end(pid, 130)
    assert not (place.folder / name).exists()
    there = len(list(place.folder.glob(".stopped*.part/0/c/*")))
    place.completed(name)
    return f"exit code 130, {there} of {PLANES} planes kept, then completed"


def full(place: Place, count: int) -> str:
    """A disk of its own, which other data fill in mid-run."""
    disk = place.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        return "skipped: a small disk cannot be mounted here"
    try:
        name = "disk/full.ome.zarr"
        pid = place.start(name)
        place.until(name, 3)
        (disk / "others").write_bytes(bytes(shutil.disk_usage(disk).free - (32 << 10)))
        place.end(pid, 73)
        place.none_or_whole(name)
        assert not (place.folder / name).exists()
        (disk / "others").unlink()
        place.completed(name)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return "exit code 73, no output; then completed"


def replaced(place: Place, count: int) -> str:
    """Another image takes the place of the input in mid-run."""
    image, name = place.folder / "changing.tif", "changed.ome.zarr"
    tifffile.imwrite(image, photons((PLANES, 64, 64))[::-1], imagej=True, metadata={"axes": "ZYX"})
    pid = place.start(name, image=image.name)
    place.until(name, 3)
    shutil.copy(place.folder / "stack.tif", place.folder / "new.tif")
    os.replace(place.folder / "new.tif", image)
    place.end(pid, 0)
    assert "deferred" in (place.folder / "told").read_text()
    assert not (place.folder / name).exists()
    place.end(place.start(name, image=image.name), 0)
    assert digests(place.folder / name) == place.wanted
    return "deferred, no output; then completed with the bytes of the new input"


CASES: dict[str, Callable[[Place, int], str]] = {
    "kills": kills,
    "scheduler": scheduler,
    "interrupted": interrupted,
    "full": full,
    "replaced": replaced,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    server = Server(with_model=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "own.py").write_text(OWN)
        tifffile.imwrite(
            place / "stack.tif", photons((PLANES, 64, 64)), imagej=True, metadata={"axes": "ZYX"}
        )
        line = ("restore", "stack.tif", "-o", "alone.ome.zarr", "--context", "none")
        code, told = server.run(*line, cwd=place)
        assert code == 0, told
        with (
            dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}),
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, memory_limit=None, dashboard_address=":0",
                silence_logs=50,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):  # fmt: skip
            made = Place(place, server, client, digests(place / "alone.ome.zarr"))
            for name, case in CASES.items():
                if not options.names or any(part in name for part in options.names):
                    start = time.monotonic()
                    told = case(made, options.kills)
                    print(f"{name}: {told} ({time.monotonic() - start:.0f} s)", flush=True)
        server.close()


if __name__ == "__main__":
    main()
