"""Speed and memory of `restorectl evaluate` on this machine.

    python tests/benchmarks/bench_evaluate.py [PAIRS]

Scores PAIRS (1000) pairs of 512x512, 8 bit, with PSNR, SSIM, MS-SSIM, NRMSE, Pearson's correlation
and resolution, and a tenth of them for the memory: the peak must not grow with the files.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from common import REPOSITORY, table

METRICS = "psnr,ssim,ms-ssim,nrmse,pearson,resolution"
PEAK = (
    "import resource,subprocess,sys;"
    "subprocess.run(sys.argv[1:],check=True,stdout=subprocess.DEVNULL);"
    "used=resource.getrusage(resource.RUSAGE_CHILDREN);"
    "print(used.ru_maxrss,used.ru_utime+used.ru_stime)"
)


def make(folder: Path, pairs: int) -> None:
    """Smooth random fields, and the same with noise; only the noise differs between pairs."""
    sys.path.insert(0, str(REPOSITORY))
    from tests import phantom

    clean = (200 * phantom.scene("mixed", (512, 512), 0)).clip(0, 255)
    rng = np.random.default_rng(0)
    for name in ("clean", "noisy"):
        (folder / name).mkdir(parents=True)
    for n in range(pairs):
        noisy = clean + 5 * rng.standard_normal(clean.shape)
        for name, image in (("clean", clean), ("noisy", noisy)):
            tifffile.imwrite(folder / name / f"{n}.tif", image.clip(0, 255).astype(np.uint8))


def measure(folder: Path) -> tuple[float, float, float]:
    """(peak MB, seconds, seconds of all cores) of the real command."""
    command = [sys.executable, "-m", "restorectl", "evaluate", str(folder / "noisy"), "-q"]
    command += ["--target", str(folder / "clean"), "--metrics", METRICS]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *command],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    peak, cores = done.stdout.split()
    return int(peak) / 1e3, time.perf_counter() - start, float(cores)


def main(pairs: int) -> None:
    rows: list[list[object]] = []
    for count in sorted({max(pairs // 10, 1), pairs}):
        with tempfile.TemporaryDirectory() as name:
            make(Path(name), count)
            rows.append([f"{count} pairs of 512x512", *measure(Path(name))])
    table(["evaluate", "peak MB", "seconds", "CPU seconds"], rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
