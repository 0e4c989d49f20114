"""What the benchmarks share: the real pairs, scores, the tool as a process, tables."""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))  # a benchmark is started as a file: `tests` is to be found
from tests.command import run  # noqa: E402

DATA = Path(os.environ.get("RESTORECTL_DATA") or "RESTORECTL_DATA is not set")
THREADS = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}  # as many as without a test
CONFOCAL = ("Confocal_BPAE_B", "Confocal_BPAE_G", "Confocal_BPAE_R", "Confocal_FISH")
WIDEFIELD = "WideField_BPAE_R"
FIELDS = (*CONFOCAL, WIDEFIELD)


def need_data() -> None:
    if not (DATA / "pairs").is_dir():
        sys.exit(f"no real images ({DATA}): set RESTORECTL_DATA to the folder that holds pairs/")


def pair(field: str, realisation: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(noisy, clean) uint8 (512, 512) of one FMD field."""
    name = f"fmd/{field}_noisy_{realisation}.png"
    return iio.imread(DATA / "pairs/noisy" / name), iio.imread(DATA / "pairs/clean" / name)


def psnr(image: np.ndarray, target: np.ndarray, peak: float = 255.0) -> float:
    error = np.mean((image.astype(np.float64) - target.astype(np.float64)) ** 2)
    return 10 * math.log10(peak**2 / error)


def affine(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """image after the least-squares fit scale * image + shift to target."""
    x, y = image.astype(np.float64).ravel(), target.astype(np.float64).ravel()
    scale, shift = np.polyfit(x, y, 1)
    return image.astype(np.float64) * scale + shift


def affine_psnr(image: np.ndarray, target: np.ndarray) -> float:
    return psnr(affine(image, target), target)


def restorectl(*words: object, check: bool = True) -> tuple[subprocess.CompletedProcess, float]:
    """The real command; (result, seconds)."""
    start = time.perf_counter()
    options = {"cwd": REPOSITORY, "env": THREADS, "timeout": None}
    done = run(*words, check=0 if check else None, **options)
    return done, time.perf_counter() - start


def ssim(image: np.ndarray, target: np.ndarray) -> float:
    from skimage.metrics import structural_similarity

    return float(structural_similarity(image, target.astype(np.float64), data_range=255))


def compare(command: str, variants: dict[str, list[object]], doc: str | None) -> None:
    """Each variant's options on the middle of the FMD fields: quality, network calls, seconds."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--crop", type=int, default=512, help="side of the middle part in use")
    parser.add_argument("--variants", help="only those whose name contains this")
    args = parser.parse_args()
    crop, only = args.crop, args.variants
    need_data()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source, truth = Path(folder, "in"), {}
        source.mkdir()
        start = (512 - crop) // 2
        part = slice(start, start + crop)
        for field in FIELDS:
            noisy, clean = (image[part, part] for image in pair(field))
            iio.imwrite(source / f"{field}.png", noisy)
            truth[field] = clean
        for number, (name, options) in enumerate(variants.items()):
            if only and only not in name:
                continue
            out = Path(folder, f"out{number}")
            done, _ = restorectl(command, source, "-o", out, "--json", *options)
            made = {Path(j["source"]).stem: j for j in map(json.loads, done.stdout.splitlines())}
            results = {field: iio.imread(out / f"{field}.png") for field in FIELDS}
            scores = [affine_psnr(results[field], truth[field]) for field in FIELDS]
            plain = [psnr(results[field], truth[field]) for field in FIELDS]
            likeness = [ssim(affine(results[f], truth[f]), truth[f]) for f in FIELDS]
            calls = np.mean([made[field]["calls"] for field in FIELDS])
            seconds = float(np.mean([made[field]["seconds"] for field in FIELDS]))
            rows.append([name, float(np.mean(scores[:4])), scores[4]])
            rows[-1] += [float(np.mean(plain[:4])), plain[4], f"{np.mean(likeness):.4f}"]
            rows[-1] += [f"{calls:.0f}", seconds]
            print(name, *(f"{score:.2f}" for score in scores), flush=True)
    print()
    quality = ["confocal dB", "widefield dB", "confocal absolute", "widefield absolute", "SSIM"]
    table(["variant", *quality, "calls", "s"], rows)


def bm3d_whitened(image: np.ndarray) -> np.ndarray:
    """BM3D after the tool's own whitening, unbiased inverse: the strongest classical method.

    `pip install bm3d` first (its licence allows non-commercial use only).
    """
    from bm3d import bm3d

    from restorectl.intensity import whitening

    model = whitening.fit([image.astype(np.float32)])
    x = model.forward(image.astype(np.float32))
    return model.inverse(bm3d(x, model.sigma))


def table(header: list[str], rows: list[list[object]]) -> None:
    def text(cell: object) -> str:
        return f"{cell:.2f}" if isinstance(cell, float) else str(cell)

    cells = [header, *[[text(c) for c in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        print(
            "  ".join(
                c.ljust(w) if i == 0 else c.rjust(w)
                for i, (c, w) in enumerate(zip(row, widths, strict=True))
            )
        )
    print()
