"""Do photon counts keep their mean? Poisson counts of low mean, as integers, through `restore`.

    python tests/benchmarks/bench_counts.py [MEAN ...]

MEAN: counts per pixel (0.05 0.1 0.3 1 3). For a flat field, smooth blobs and nuclei, 512 x 512 (or
SIDE x SIDE of the environment): mean of the result / mean of the input in uint8, in uint16 and as
floats, and the error of the floats relative to that of the input. The three ratios have to lie
between 0.97 and 1.03.
"""

import itertools
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from common import run, table
from scipy import ndimage

from tests.phantom import scene

MEANS = (0.05, 0.1, 0.3, 1.0, 3.0)
SIDE = int(os.environ.get("SIDE", "512"))  # px
SHAPE = (SIDE, SIDE)


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
    light, counts = scenes(), {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in")
        source.mkdir()
        for name, mean in itertools.product(light, means):
            counts[name, mean] = np.random.default_rng(1).poisson(mean * light[name])
            for kind in ("uint8", "uint16"):
                tifffile.imwrite(
                    source / f"{name}_{mean}_{kind}.tif", counts[name, mean].astype(kind)
                )
        photons = {}
        for dtype, pattern in (("same", "*.tif"), ("float32", "*uint16.tif")):
            words = ("--dtype", dtype, "--pattern", pattern, "--json")
            done = run("restore", source, "-o", Path(folder, dtype), *words, check=0, timeout=3600)
            for told in map(json.loads, done.stdout.splitlines()):
                noise = told["details"]["noise"]["0"]["noise"]
                photons[Path(told["source"]).name] = noise["photon_counts"]
        rows: list[list[object]] = []
        for (name, mean), image in counts.items():
            row: list[object] = [name, f"{mean:g}"]
            for kind, dtype in (("uint8", "same"), ("uint16", "same"), ("uint16", "float32")):
                file = f"{name}_{mean}_{kind}.tif"
                result = tifffile.imread(Path(folder, dtype, file)).astype(float)
                row.append(f"{result.mean() / image.mean():.4f}")
            errors = [np.sqrt(np.mean((x - mean * light[name]) ** 2)) for x in (result, image)]
            rows.append([*row, errors[0] / errors[1], "yes" if photons[file] else "no"])
    print("mean out / mean in")
    table(["scene", "mean", "uint8", "uint16", "float32", "error", "photon counts"], rows)


if __name__ == "__main__":
    main([float(word) for word in sys.argv[1:]] or list(MEANS))
