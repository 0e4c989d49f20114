"""Speed, memory and start-up of `restorectl restore` on this machine.

    python tests/benchmarks/bench_speed.py [speed] [memory] [start]

speed: seconds per 512x512 beside BM3D, pair by pair in one process, and the network's GFLOP/s
beside this machine's own bf16 convolution peak. memory: peak of the real command. start: --help.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
    for name in sys.argv[1:] or ("speed", "memory", "start"):
        {"speed": speed, "memory": memory, "start": start}[name]()
    print(f"peak of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
