"""Do photon counts keep their mean? Poisson counts of low mean, as integers, through `restore`.

    python tests/benchmarks/bench_counts.py [MEAN ...]

MEAN: counts per pixel (0.05 0.1 0.3 1 3). For a flat field, smooth blobs and nuclei, 512 x 512:
mean of the result / mean of the input in uint8, in uint16 and as floats, and the error of the
floats relative to that of the input. The three ratios have to lie between 0.97 and 1.03.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from common import run, table
from scipy import ndimage

from tests.phantom import scene

MEANS = (0.05, 0.1, 0.3, 1.0, 3.0)
SHAPE = (512, 512)


def scenes() -> dict[str, np.ndarray]:
    """Light per pixel, (Y, X) float64, mean 1."""
    waves = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 8)
    light = {
        "flat": np.ones(SHAPE),
        "blobs": np.exp(waves / waves.std()),
        "nuclei": 0.05 + scene("nuclei", SHAPE, 1),
    }
    return {name: each / each.mean() for name, each in light.items()}


def main(means: list[float]) -> None:
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, light in scenes().items():
            for mean in means:
                counts = np.random.default_rng(1).poisson(mean * light)
                row: list[object] = [name, f"{mean:g}"]
                for kind, dtype in (("uint8", "same"), ("uint16", "same"), ("uint16", "float32")):
                    source, out = Path(folder, f"{kind}.tif"), Path(folder, f"{kind}_{dtype}.tif")
                    tifffile.imwrite(source, counts.astype(kind))
                    done = run("restore", source, "-o", out, "--dtype", dtype, "--json", check=0)
                    result = tifffile.imread(out).astype(float)
                    row.append(f"{result.mean() / counts.mean():.4f}")
                told = json.loads(done.stdout)["details"]["noise"]["0"]["noise"]
                errors = [np.sqrt(np.mean((x - mean * light) ** 2)) for x in (result, counts)]
                rows.append([*row, errors[0] / errors[1], str(told["photon_counts"]).lower()])
    print("mean out / mean in")
    table(["scene", "mean", "uint8", "uint16", "float32", "error", "photon counts"], rows)


if __name__ == "__main__":
    main([float(word) for word in sys.argv[1:]] or list(MEANS))
