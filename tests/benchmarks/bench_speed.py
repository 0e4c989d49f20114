"""Speed, memory and start-up of `restorectl restore` on this machine.

    python tests/benchmarks/bench_speed.py [speed] [batch] [large] [busy] [shards] [volume] [memory]
        [start]

speed: seconds per 512x512 beside BM3D, pair by pair in one process, and the network's GFLOP/s
beside this machine's own bf16 convolution peak. batch: twelve images of 512x512, with all that is
done for a file, beside BM3D with a known level. large: time per pixel of a larger plane. busy:
beside two processes that count. shards: two processes of one thread beside one of two. volume:
superres3d. memory: peak of the real command. start: --help.

On a busy machine compare the processor seconds: seconds on the clock are those of its neighbours.
SIDE sets the side of the larger plane, 4096 unless given.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from common import FIELDS, REPOSITORY, need_data, pair, table


def convolution_peak() -> float:
    """Best GFLOP/s of 3x3 convolutions in bf16, channels-last, on this machine."""
    import torch

    best = 0.0
    for batch, channels, side in ((8, 64, 128), (4, 192, 64), (1, 64, 256)):
        x = torch.randn(batch, channels, side, side, dtype=torch.bfloat16)
        w = torch.randn(channels, channels, 3, 3, dtype=torch.bfloat16)
        x, w = (v.to(memory_format=torch.channels_last) for v in (x, w))
        for _ in range(12):
            start = time.perf_counter()
            torch.nn.functional.conv2d(x, w, padding=1)
            seconds = time.perf_counter() - start
            best = max(best, 2 * batch * channels**2 * 9 * side**2 / seconds / 1e9)
    return best


def speed() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from restorectl import catalog
    from restorectl.engine.noise_field import NoiseField, Site
    from restorectl.engine.runner import make_runner
    from restorectl.intensity import whitening
    from restorectl.intensity.photometry import keep_local_mean
    from restorectl.jobs import Compute
    from restorectl.weights import file

    need_data()
    loaded = file.load("prior")
    runner = make_runner(loaded.card, loaded.tensors, Compute("cpu"))
    sampler = catalog.METHODS["ddim"].load().sampler(None, 1)

    def ours(image: np.ndarray) -> np.ndarray:
        model = whitening.fit([image.astype(np.float32)])
        x = model.forward(image.astype(np.float32))[None, None]
        sigma = np.array([model.sigma], np.float32)
        site = Site((0, 0, 0), 0, 0)
        problem = runner.problem(x, sigma, [site], NoiseField())
        x0 = runner.sample(lambda p: sampler.run(p, {}), problem)
        return keep_local_mean(image.astype(np.float32), model.inverse(x0[0, 0]))

    peak = convolution_peak()
    x, sigma = torch.zeros(1, 1, 512, 512), torch.full((1,), 0.1)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        runner.denoiser()(x, sigma)
    times = []
    with torch.inference_mode():
        for _ in range(8):
            start = time.perf_counter()
            runner.denoiser()(x, sigma)
            times.append(time.perf_counter() - start)
    flops = counter.get_total_flops() / 1e9
    rate = flops / min(times)
    print(f"network: {flops:.0f} GFLOP per 512x512 call, {rate:.0f} GFLOP/s")
    print(f"{rate / peak:.0%} of this machine's bf16 convolution peak ({peak:.0f} GFLOP/s)")
    try:
        import bm3d  # noqa: F401
        from common import bm3d_whitened
    except ImportError:
        sys.exit("bm3d is not installed: no comparison (pip install bm3d; non-commercial licence)")
    rows, ratios = [], []
    for field in FIELDS:
        noisy, _ = pair(field)
        ours(noisy)
        seconds = []
        for method in (bm3d_whitened, ours):
            start = time.perf_counter()
            method(noisy)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
        rows.append([field, *seconds, ratios[-1]])
    table(["512x512 field", "BM3D s", "restorectl s", "ratio"], rows)
    print(f"median ratio {statistics.median(ratios):.1f}")


def clocks() -> np.ndarray:
    """(seconds, processor seconds of this process and of its finished children)."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor = sum(each.ru_utime + each.ru_stime for each in used)
    return np.array([time.perf_counter(), processor])


def fields(folder: Path, count: int, side: int, planes: int = 0) -> Path:
    """A folder of simulated images, uint16."""
    import tifffile

    rng = np.random.default_rng(0)
    folder.mkdir()
    for k in range(count):
        cells = np.kron(rng.gamma(2.0, 50.0, (-(-side // 8),) * 2), np.ones((8, 8)))[:side, :side]
        shape = (planes, side, side) if planes else (side, side)
        image = rng.poisson(np.broadcast_to(cells, shape)).astype(np.uint16)
        axes = {"imagej": True, "metadata": {"axes": "ZYX"}} if planes else {}
        tifffile.imwrite(folder / f"{k:02}.tif", image, photometric="minisblack", **axes)
    return folder


def restored(source: Path, out: Path, **noise: object) -> np.ndarray:
    """`clocks` of restoring a folder in this process."""
    from restorectl.batch.outcome import Silent
    from restorectl.jobs import Compute, Files, NoiseOptions, RestoreJob
    from restorectl.restoration.restore import restore

    files = Files((str(source),), str(out))
    job = RestoreJob(files, Compute("cpu"), NoiseOptions(**noise), context="none")
    start = clocks()
    outcomes = restore(job, Silent())
    assert all(outcome.status == "done" for outcome in outcomes), outcomes
    return clocks() - start


def batch() -> None:
    from bm3d import bm3d

    from restorectl.intensity import whitening
    from restorectl.restoration import evidence

    with tempfile.TemporaryDirectory() as place:
        source = fields(Path(place, "in"), 12, 512)
        restored(fields(Path(place, "warm"), 1, 512), Path(place, "warmed"))
        rows = [["all that is done for a file", *restored(source, Path(place, "all")) / 12]]
        asked = evidence.believed
        evidence.believed = lambda model, *_: model  # the estimate is taken as it is
        rows.append(
            ["without asking about the noise", *restored(source, Path(place, "tiles")) / 12]
        )
        evidence.believed = asked
        image = iio.imread(source / "00.tif").astype(np.float32)
        model = whitening.fit([image])
        x = model.forward(image)
        start = clocks()
        bm3d(x, model.sigma)
        rows.append(["BM3D alone", *(clocks() - start)])
    for row in rows:
        row += [f"{rows[-1][k] / row[k]:.1f}" for k in (1, 2)]
    table(["one 512x512 of twelve", "s", "processor s", "BM3D / it", "in processor s"], rows)


def large() -> None:
    with tempfile.TemporaryDirectory() as place:
        rows = []
        for side in (2048, int(os.environ.get("SIDE", "4096"))):
            took = restored(fields(Path(place, f"in{side}"), 1, side), Path(place, f"out{side}"))
            rows.append([f"{side}x{side}", *took, *(1e6 * took / side**2)])
    table(["plane", "s", "processor s", "us/px", "processor us/px"], rows)
    print(f"{rows[1][3] / rows[0][3]:.2f} times the time per pixel ({rows[1][4] / rows[0][4]:.2f})")


def busy() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as place:
        cases = {"512x512": (512, 0), "128x128x6": (128, 6)}
        for name, (side, planes) in cases.items():
            source = fields(Path(place, name), 1, side, planes)
            restored(source, Path(place, f"{name}-warm"))
            quiet = restored(source, Path(place, f"{name}-quiet"))
            loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in "12"]
            loaded = restored(source, Path(place, f"{name}-busy"))
            for loop in loops:
                loop.kill()
                loop.wait()
            rows.append([name, *quiet, *loaded, f"{loaded[0] / quiet[0]:.2f}"])
    columns = ["quiet s", "processor s", "beside two loops s", "processor s", "ratio"]
    table(["image", *columns], rows)


def shards() -> None:
    from common import THREADS

    words = [sys.executable, "-m", "restorectl", "restore", "-q", "--context", "none"]
    with tempfile.TemporaryDirectory() as place:
        source = fields(Path(place, "in"), 8, 512)
        env = {k: v for k, v in (os.environ | THREADS).items() if v is not None}
        env.pop("OMP_NUM_THREADS", None)
        rows = []
        for name, runs in {
            "one process, two threads": [["--threads", "2"]],
            "two shards, one thread each": [
                ["--threads", "1", "--shard", f"{k}/2"] for k in (1, 2)
            ],
        }.items():
            start = clocks()
            out = ["-o", Path(place, name)]
            made = [
                subprocess.Popen([*words, source, *out, *more], cwd=REPOSITORY, env=env)
                for more in runs
            ]
            assert not any(process.wait() for process in made)
            rows.append([name, *(clocks() - start)])
    table(["8 images of 512x512", "s", "processor s"], rows)
    print(f"two shards / one process: {rows[1][1] / rows[0][1]:.2f}")


def volume() -> None:
    from restorectl.batch.outcome import Silent
    from restorectl.jobs import Compute, Files, SuperresJob
    from restorectl.volumes.superres3d import superres3d

    with tempfile.TemporaryDirectory() as place:
        source = fields(Path(place, "in"), 1, 256, 20)
        job = SuperresJob(Files((str(source),), str(Path(place, "out"))), Compute("cpu"), factor=2)
        start = clocks()
        (outcome,) = superres3d(job, Silent())
        seconds, processor = clocks() - start
        print(
            f"superres3d 256x256x20 to {outcome.details['shape_out'][0]}: {seconds:.1f} s,"
            f" {processor:.1f} processor seconds, {outcome.calls} calls"
        )


def peak_memory(image: np.ndarray, axes: str) -> tuple[float, float]:
    """(peak GB, seconds) of the real command on one image."""
    import tifffile

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "image.tif")
        tifffile.imwrite(source, image, photometric="minisblack")
        code = (
            "import resource,subprocess,sys;"
            "subprocess.run(sys.argv[1:],check=True);"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        command = [sys.executable, "-m", "restorectl", "restore", source, "-o", f"{folder}/out"]
        command += ["--steps", "1"]  # the second call needs no more memory than the first
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code, *command, "-q", "--axes", axes],
            capture_output=True, text=True, check=True, cwd=REPOSITORY,
        )  # fmt: skip
        return int(done.stdout) / 1e6, time.perf_counter() - start


def memory() -> None:
    rng = np.random.default_rng(0)
    field = rng.poisson(rng.gamma(2.0, 100.0, (256, 256))).astype(np.uint16)
    one = np.tile(field, (8, 8))
    cases = [
        ("8192x8192 uint16", np.tile(one, (4, 4)), "YX"),
        ("1 plane of 2048x2048", one, "YX"),
        ("20 planes of 2048x2048", np.stack([one] * 20), "ZYX"),
    ]
    rows = []
    for name, image, axes in cases:
        gigabytes, seconds = peak_memory(image, axes)
        rows.append([name, gigabytes, seconds])
        print(f"{name}: {gigabytes:.2f} GB, {seconds:.0f} s", flush=True)
    print(f"20 planes need {rows[2][1] - rows[1][1]:.2f} GB more than one")


def start() -> None:
    for option in ("--help", "--version"):
        times = []
        for _ in range(7):
            begin = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "restorectl", option], capture_output=True, check=True,
                cwd=REPOSITORY,
            )  # fmt: skip
            times.append(time.perf_counter() - begin)
        print(f"{option}: {min(times):.2f} s best, {max(times):.2f} s worst of 7")


if __name__ == "__main__":
    parts = (speed, batch, large, busy, shards, volume, memory, start)
    for function in parts:
        if function.__name__ in (sys.argv[1:] or ("speed", "memory", "start")):
            function()
    print(f"peak of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
