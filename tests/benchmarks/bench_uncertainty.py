"""Error bars of `restorectl uncertainty`: coverage, width, ranking of errors, time and memory.

    python tests/benchmarks/bench_uncertainty.py [real|white|cost] [--crop 256] [--samples 15]

real: FMD first realisations, each field with the calibration that the four others make; the truth
of a field is first fitted to the restoration (its gain drifts between exposures). white: known
Gaussian noise on the clean fields, uncalibrated, against network calls. cost: seconds and peak
memory against the number of samples.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import tifffile
from common import FIELDS, need_data, pair, restorectl, table

from restorectl.restoration import intervals
from restorectl.restoration.intervals import Pixels

MISS = 0.1


def spearman(a: np.ndarray, b: np.ndarray, given: np.ndarray | None = None) -> float:
    """Rank correlation of pixels, partial where `given` is held fixed."""
    ranks = [np.argsort(np.argsort(each.ravel())) for each in (a, b)]
    if given is None:
        return float(np.corrcoef(ranks)[0, 1])
    ab, ag, bg = spearman(a, b), spearman(a, given), spearman(b, given)
    return (ab - ag * bg) / np.sqrt((1 - ag**2) * (1 - bg**2))


def maps(folder: Path, name: str) -> dict[str, np.ndarray]:
    kinds = ("mean", "std", "lower", "upper")
    return {k: tifffile.imread(folder / f"{name}_{k}.tif").astype(np.float64) for k in kinds}


def noise_of(line: dict, mean: np.ndarray) -> np.ndarray:
    """Noise at each pixel by the model that the command reports."""
    n = line["details"]["noise"]["0"]["noise"]
    light = np.maximum(mean - n["offset"], 0)
    return np.sqrt(n["gain"] * light + n["read_noise"] ** 2) * n["level"]


def real(crop: int, samples: int) -> None:
    part = slice((512 - crop) // 2, (512 + crop) // 2)
    found, rows = {}, []
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        for field in FIELDS:
            iio.imwrite(source / f"{field}.png", pair(field)[0][part, part])
        options = ("--calibration", "none", "--samples", samples, "--json")
        done, _ = restorectl("uncertainty", source, "-o", out, *options)
        lines = {Path(j["source"]).stem: j for j in map(json.loads, done.stdout.splitlines())}
        for field in FIELDS:
            here = maps(out, field)
            mean = (here["lower"] + here["upper"]) / 2
            clean = pair(field)[1][part, part].astype(np.float64)
            truth = np.polyval(np.polyfit(clean.ravel(), mean.ravel(), 1), clean)
            noise = noise_of(lines[field], mean)
            known = noise > 0
            pixels = [each[known] for each in (np.abs(truth - mean), here["std"], mean, noise)]
            raw = np.mean((truth >= here["lower"]) & (truth <= here["upper"]))
            found[field] = (*pixels, float(raw))
    for field, (error, std, mean, noise, raw) in found.items():
        others = {k: v for k, v in found.items() if k != field}
        fit = intervals.fit(
            [Pixels(k, e / n, s / n, m / n) for k, (e, s, m, n, _) in others.items()], "", {}
        )
        half = fit.half_width(std, mean, noise, 0.9)
        constant = float(np.median([np.quantile(e, 0.9) for e, *_ in others.values()]))
        flat = np.full_like(half, constant)
        inside = [float(np.mean(error <= h)) for h in (half, flat)]
        misses = [np.clip(error - h, 0, None).mean() for h in (half, flat)]
        score = [2 * h.mean() + 2 / MISS * m for h, m in zip((half, flat), misses, strict=True)]
        rows.append([field, raw, inside[0], 2 * half.mean(), score[0], inside[1], 2 * constant])
        rows[-1] += [score[1], spearman(std, error), spearman(mean, error)]
        rows[-1] += [spearman(std, error, mean), spearman(half, error)]
    table(
        ["field", "uncalibrated", "coverage", "width", "score", "constant: coverage", "width",
         "score", "Spearman std", "Spearman intensity", "std given intensity", "Spearman width"],
        rows,
    )  # fmt: skip


def white(crop: int, samples: int) -> None:
    part = slice((512 - crop) // 2, (512 + crop) // 2)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in")
        source.mkdir()
        for k, field in enumerate(FIELDS):
            clean = pair(field)[1][part, part].astype(np.float32)
            noise = np.random.default_rng(k).normal(0, 15, clean.shape).astype(np.float32)
            tifffile.imwrite(source / f"{field}.tif", clean + noise)
        known = ("--noise", "gaussian", "--read-noise", 15, "--calibration", "none")
        for variance in ("analytic", "ancestral"):
            for steps in (5, 10, 20, 40):
                out = Path(folder, f"{variance}{steps}")
                options = ("--steps", steps, "--variance", variance, "--samples", samples)
                restorectl("uncertainty", source, "-o", out, *known, *options)
                inside, ratio = [], []
                for field in FIELDS:
                    here = maps(out, field)
                    clean = pair(field)[1][part, part].astype(np.float64)
                    mean = (here["lower"] + here["upper"]) / 2
                    inside.append(np.mean((clean >= here["lower"]) & (clean <= here["upper"])))
                    spread = np.mean(here["std"] ** 2) * samples / (samples - 1)
                    error = np.mean((clean - mean) ** 2)
                    ratio.append(np.sqrt(error / (spread * (1 + 1 / samples))))
                rows.append([variance, str(steps), float(np.mean(inside)), float(np.mean(ratio))])
                print(*rows[-1], flush=True)
    table(["variance", "calls of a sample", "coverage of 90 %", "error / spread"], rows)


def cost(crop: int, samples: int) -> None:
    part = slice((512 - crop) // 2, (512 + crop) // 2)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "image.png")
        iio.imwrite(source, pair(FIELDS[0])[0][part, part])
        for count in (2, samples, 4 * samples):
            code = (
                "import sys, resource; from restorectl.cli.app import main\n"
                "try: main()\n"
                "except SystemExit: pass\n"
                "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
            )
            line = [
                sys.executable,
                "-c",
                code,
                "uncertainty",
                str(source),
                "-o",
                f"{folder}/{count}",
            ]
            line += ["--samples", str(count), "--calibration", "none", "--json"]
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            done = subprocess.run(line, capture_output=True, text=True, check=True)
            seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
            made, memory = (
                json.loads(done.stdout.splitlines()[0]),
                int(done.stdout.splitlines()[-1]),
            )
            each = made["seconds"] / count
            rows.append([str(count), made["seconds"], each, seconds, memory / 1024])
            print(*rows[-1], flush=True)
    table(["samples", "s", "s a sample", "CPU s", "peak MB"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("real", "white", "cost"))
    parser.add_argument("--crop", type=int, default=512, help="side of the middle part in use")
    parser.add_argument("--samples", type=int, default=15)
    args = parser.parse_args()
    need_data()
    {"real": real, "white": white, "cost": cost}[args.part](args.crop, args.samples)


if __name__ == "__main__":
    main()
