"""Random masks, borders, bars, dead lines and hot pixels on phantoms: is anything near them wrong?

    python tests/benchmarks/bench_invalid.py [COUNT]

Prints each case with a mean error of 2 grey levels or more within 8 px, PSNR there not above the
input's, or invalid pixels that were not copied; then the extremes of all cases.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from common import restorectl

from tests.defects import REPAIRED, spoiled


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    errors, gains, failed = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        for seed in range(count):
            tifffile.imwrite(source / f"{seed}.tif", spoiled(seed).noisy)
        restorectl("restore", source, "-o", out)
        for seed in range(count):
            case, restored = spoiled(seed), tifffile.imread(out / f"{seed}.tif")
            errors.append(abs(case.error(restored)))
            gains.append(case.psnr(restored) - case.psnr(case.noisy))
            kept, was = restored[case.invalid].tobytes(), case.noisy[case.invalid].tobytes()
            copied = case.kind in REPAIRED or kept == was
            if errors[-1] >= 2 or gains[-1] <= 0 or not copied:
                failed += 1
                print(f"{seed} {case.kind}: {errors[-1]:.2f} grey, {gains[-1]:.2f} dB, {copied}")
    print(f"{failed} of {count} failed; largest mean error {max(errors):.2f} grey levels; gain")
    print(f"{min(gains):.2f} dB at least, {np.median(gains):.2f} dB in the median")


if __name__ == "__main__":
    main()
