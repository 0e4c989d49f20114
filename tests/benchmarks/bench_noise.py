"""Can the noise model be trusted? Tables of results against their inputs.

    python tests/benchmarks/bench_noise.py TABLE [--seeds N] [--before DIR]

textures: sharp, dense structures with hardly any noise, which statistics take for noise. fmd: all
realisations of the real pairs and GigaDB, beside BM3D where `bm3d` is installed. planes: noise of
3 to 45 grey levels over the planes of a stack, beside the same planes alone. known: the camera's
true gain, offset and read noise, beside the blind estimate. correlated: noise that pixels share,
beside a Gaussian of 1 px. cost: seconds of judging the noise, relative to one call on a plane of
1024x1024. clean: images of RESTORECTL_DATA/train as they are: SSIM with the input and the share of
high-frequency energy that is left, with the image's own median of photons.

PSNR in dB, absolute and after a least-squares affine fit. A row that falls short is marked, and
what the noise model said about it is printed below. --before: another checkout, run on the same
files. textures adds binned real images where RESTORECTL_DATA is set; fmd, correlated and clean
need it.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import tifffile
from common import DATA, affine, bm3d_whitened, need_data, psnr, restorectl, table
from scipy import ndimage, spatial

from tests.phantom import scene
from tests.restoration.test_evidence import filaments, puncta

GAIN, OFFSET, READ = 2.0, 100.0, 1.6


def camera(clean: np.ndarray, photons: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(noisy uint16, truth) of an image in [0, 1] with `photons` at its brightest."""
    rng = np.random.default_rng(seed)
    light = np.clip(clean, 0, None) * photons
    noisy = GAIN * rng.poisson(light) + OFFSET + rng.normal(0, READ, light.shape)
    return np.clip(np.round(noisy), 0, 65535).astype(np.uint16), GAIN * light + OFFSET


def membranes(seed: int, cells: int = 120, side: int = 256) -> np.ndarray:
    """Bright walls between cells, everywhere: (side, side) float64, 0 to about 1."""
    places = np.random.default_rng(seed).random((cells, 2)) * side
    pixels = np.stack(np.mgrid[:side, :side], -1).reshape(-1, 2)
    near = spatial.cKDTree(places).query(pixels, 2)[0]
    walls = np.exp(-(((near[:, 1] - near[:, 0]).reshape(side, side) / 1.5) ** 2))
    image = ndimage.gaussian_filter(walls, 0.8) + 0.05
    return image / np.percentile(image, 99.9)


def fine(path: Path) -> np.ndarray:
    """The middle of an image with little noise, brought to 0 to about 1."""
    image = flat(iio.imread(path)).astype(float)
    top, left = ((side - min(side, 256)) // 2 for side in image.shape)
    image = image[top : top + 256, left : left + 256]
    image = image - image.min()
    return image / max(np.percentile(image, 99.9), 1e-9)


def flat(image: np.ndarray) -> np.ndarray:
    """One plane of one channel."""
    while image.ndim > 2:
        image = image[len(image) // 2] if image.shape[-1] not in (3, 4) else image[..., 1]
    return image


def score(image: np.ndarray, truth: np.ndarray) -> float:
    """PSNR in dB; the peak is 255 of 8 bits, else the range of the truth."""
    peak = 255.0
    if truth.dtype != np.uint8:
        peak = float(np.percentile(truth, 99.9) - np.percentile(truth, 0.1))
    return psnr(image, truth, peak)


def both(image: np.ndarray, truth: np.ndarray) -> list[float]:
    """Absolute and affine PSNR."""
    return [score(image, truth), score(affine(image, truth), truth)]


def told(noise: dict) -> str:
    """What the noise model of an image says, in one line."""
    names = ("gain", "read_noise", "level", "photons_median", "belief")
    numbers = ", ".join(f"{n} {noise[n]:.3g}" for n in names if noise.get(n) is not None)
    return "; ".join([f"{noise.get('kind')}: {numbers}", *noise.get("reasons", ())])


def restored(folder: Path, *options: object, before: str | None = None) -> dict[str, dict]:
    """Restore a folder of TIFF: name -> image and, of this checkout, its noise model."""
    out, manifest = folder.parent / f"out{time.time_ns()}", folder.parent / "manifest.json"
    if before:
        command = [sys.executable, "-m", "restorectl", "restore", str(folder), "-o", str(out), "-q"]
        env = os.environ | {"PYTHONPATH": before}
        subprocess.run([*command, *map(str, options)], check=True, env=env, cwd=before)
        return {path.stem: {"image": tifffile.imread(path)} for path in out.glob("*.tif")}
    restorectl("restore", folder, "-o", out, "--manifest", manifest, *options)
    files = json.loads(manifest.read_text())["files"]
    return {
        Path(each["source"]).stem: {
            "image": tifffile.imread(each["target"]),
            "noise": each["details"]["noise"].get("0", {}),
        }
        for each in files
    }


def report(head: list[str], rows: list[list[object]], failing: dict[str, dict]) -> None:
    table(head, rows)
    print(f"{len(failing)} of {len(rows)} fall short")
    for name, noise in failing.items():
        print(f"  {name}: {told(noise)}")


def textures(folder: Path, seeds: int, before: str | None) -> None:
    scenes = {"filaments": filaments, "puncta": puncta, "membranes": membranes}
    scenes["cells"] = lambda seed: scene("mixed", (256, 256), seed)
    truths = {}

    def add(name: str, image: np.ndarray, photons: int, seed: int) -> None:
        noisy, truths[f"{name}_{photons}_{seed}"] = camera(image, photons, 100 + seed)
        tifffile.imwrite(folder / f"{name}_{photons}_{seed}.tif", noisy)

    for photons in (60, 600, 6000):
        for seed in range(seeds):
            for name, make in scenes.items():
                add(name, make(seed), photons, seed)
        for path in sorted((DATA / "pairs/clean/fmd").glob("*_1.png")):
            image = iio.imread(path).astype(float)
            image = image.reshape(image.shape[0] // 2, 2, -1, 2).mean((1, 3))
            add(f"binned_{path.stem[:-8]}", image / np.percentile(image, 99.9), photons, 0)
    now, was = restored(folder), restored(folder, before=before) if before else {}
    rows, failing = [], {}
    for name, truth in truths.items():
        noise = now[name]["noise"].get("noise", {})
        given = both(tifffile.imread(folder / f"{name}.tif"), truth)
        made = both(now[name]["image"], truth)
        if made[0] < given[0] - 0.05:
            failing[name] = noise
        row = [name, *given, *(both(was[name]["image"], truth) if was else []), *made]
        row += [noise.get("gain", 0.0), noise.get("belief", 0.0)]
        rows.append([*row, "WORSE" if name in failing else ""])
    head = ["image", "input", "affine", *(["before", "affine"] if was else []), "now", "affine"]
    report([*head, "gain (2)", "belief", ""], rows, failing)


def fmd(folder: Path, seeds: int, before: str | None) -> None:
    need_data()
    truths, sources = {}, {}
    for path in sorted((DATA / "pairs/noisy").rglob("*.*")):
        truths[path.stem] = iio.imread(
            DATA / "pairs/clean" / path.relative_to(DATA / "pairs/noisy")
        )
        sources[path.stem] = iio.imread(path)
        tifffile.imwrite(folder / f"{path.stem}.tif", sources[path.stem])
    classical = importlib.util.find_spec("bm3d") is not None
    now, was = restored(folder), restored(folder, before=before) if before else {}
    rows, failing = [], {}
    for name, truth in truths.items():
        noise = now[name]["noise"].get("noise", {})
        given, made = both(sources[name], truth), both(now[name]["image"], truth)
        row = [name, *given, *(both(was[name]["image"], truth) if was else [])]
        best = both(bm3d_whitened(sources[name]), truth) if classical else []
        short = made[1] < max(given[1], *[each - 0.45 for each in best[1:]])
        if short:
            failing[name] = noise
        row += [*best, *made, noise.get("level", 0.0), noise.get("belief", 0.0)]
        rows.append([*row, "SHORT" if short else ""])
    for group in ("Confocal", "WideField", "low_crop"):
        few = [row for row in rows if group in row[0]]
        mean = [float(np.mean([r[k] for r in few])) for k in range(1, len(few[0]) - 1)]
        rows.append([f"mean of {len(few)} {group}", *mean, ""])
    head = ["image", "input", "affine", *(["before", "affine"] if was else [])]
    head += ["BM3D", "affine"] if classical else []
    report([*head, "now", "affine", "level", "belief", ""], rows, failing)


def correlated(folder: Path, seeds: int, before: str | None) -> None:
    need_data()
    kernels = {"row": (0.0, 0.6), "iso 0.5": 0.5, "iso 1": 1.0}
    paths = sorted((DATA / "train").rglob("*.tif"))
    truths = {}
    for number, path in enumerate(paths[5 :: len(paths) // 4][:4]):
        image = fine(path)
        for photons in (10, 100):
            for kind, sigma in kernels.items():
                noisy, truth = camera(image, photons, number)
                noise = ndimage.gaussian_filter(noisy - truth, sigma)
                name = f"{path.stem[:24]} {kind} {photons}"
                truths[name] = truth
                pixels = np.clip(np.round(truth + noise), 0, 65535).astype(np.uint16)
                tifffile.imwrite(folder / f"{name}.tif", pixels)
    # rounding to whole grey levels costs up to 2 dB where smoothed noise is below one
    now = restored(folder, "--dtype", "float32")
    was = restored(folder, "--dtype", "float32", before=before) if before else {}
    rows, failing = [], {}
    for name, truth in truths.items():
        noise = now[name]["noise"].get("noise", {})
        noisy = tifffile.imread(folder / f"{name}.tif").astype(float)
        smooth, made = (
            both(ndimage.gaussian_filter(noisy, 1.0), truth),
            both(now[name]["image"], truth),
        )
        if made[1] < smooth[1]:
            failing[name] = noise
        row = [name, *both(noisy, truth), *(both(was[name]["image"], truth) if was else [])]
        rows.append([*row, *smooth, *made, "SHORT" if name in failing else ""])
    head = ["image", "input", "affine", *(["before", "affine"] if was else [])]
    report([*head, "1 px", "affine", "now", "affine", ""], rows, failing)


def planes(folder: Path, seeds: int, before: str | None) -> None:
    scenes = {
        "cells": scene("mixed", (256, 256), 3),
        "filaments": filaments(3),
        "puncta": puncta(3),
    }
    sigmas, stacks, truths = np.linspace(3, 45, 8), {}, {}
    for name, clean in scenes.items():
        truths[name] = 300 + 900 * clean
        noise = np.random.default_rng(seeds).normal(size=(8, *clean.shape))
        stack = np.round(truths[name] + sigmas[:, None, None] * noise)
        stacks[name] = np.clip(stack, 0, 65535).astype(np.uint16)
        tifffile.imwrite(
            folder / f"{name}.tif", stacks[name], imagej=True, metadata={"axes": "ZYX"}
        )
        for k, plane in enumerate(stacks[name]):
            tifffile.imwrite(folder / f"{name}{k}.tif", plane)
    now, was = restored(folder), restored(folder, before=before) if before else {}
    rows = []
    for name, truth in truths.items():
        for k, sigma in enumerate(sigmas):
            found = [stacks[name][k], *([was[name]["image"][k]] if was else [])]
            found += [now[name]["image"][k], now[f"{name}{k}"]["image"]]
            rows.append([name, f"{sigma:.0f}", *(score(each, truth) for each in found)])
    head = ["phantom", "sigma", "input", *(["before"] if was else []), "in the stack", "alone"]
    table(head, rows)


def known(folder: Path, seeds: int, before: str | None) -> None:
    scenes = {"puncta": puncta, "filaments": filaments}
    scenes["cells"] = lambda seed: scene("mixed", (256, 256), seed)
    truths = {}
    for name, make in scenes.items():
        for photons in (20, 60, 600):
            for seed in range(seeds):
                noisy, truths[f"{name}_{photons}_{seed}"] = camera(make(seed), photons, seed)
                tifffile.imwrite(folder / f"{name}_{photons}_{seed}.tif", noisy)
    camera_options = ("--gain", GAIN, "--offset", OFFSET, "--read-noise", READ)
    blind, true = restored(folder), restored(folder, *camera_options)
    was = restored(folder, *camera_options, before=before) if before else {}
    rows, failing = [], {}
    for name, truth in truths.items():
        free, made = both(blind[name]["image"], truth), both(true[name]["image"], truth)
        if made[0] < free[0] - 0.05:
            failing[name] = true[name]["noise"].get("noise", {})
        row = [name, *both(tifffile.imread(folder / f"{name}.tif"), truth)]
        row += both(was[name]["image"], truth) if was else []
        rows.append([*row, *free, *made, "WORSE" if name in failing else ""])
    head = ["image", "input", "affine", *(["before, known", "affine"] if was else [])]
    report([*head, "blind", "affine", "known", "affine", ""], rows, failing)


def cost(folder: Path, seeds: int, before: str | None) -> None:
    from restorectl.engine.runner import make_runner
    from restorectl.intensity import whitening
    from restorectl.jobs import Compute, NoiseOptions, WeightsOptions
    from restorectl.restoration import evidence
    from restorectl.weights.file import load

    weights = load("prior", "prior", WeightsOptions())
    prior = make_runner(weights.card, weights.tensors, Compute())
    whole = np.zeros((4, 576, 576), np.float32)  # the tiles of 1024x1024 with their halos
    prior.clean(whole, 0.1)
    rows = []
    for side in (512, 1024, 2048):
        image = camera(scene("mixed", (side, side), seeds), 60, 0)[0]
        blocks = [image[:512, :512], image[-512:, -512:]]
        start = time.perf_counter()
        prior.clean(whole, 0.1)
        one = time.perf_counter() - start
        start = time.perf_counter()
        model = whitening.fit(blocks)
        fitted = time.perf_counter() - start
        evidence.believed(model, blocks, NoiseOptions(), prior.clean)
        judged = time.perf_counter() - start - fitted
        rows.append([side, fitted / one, judged / one, one])
    table(["side, px", "estimate", "check", "one 1024x1024, s"], rows)


def clean(folder: Path, seeds: int, before: str | None) -> None:
    from skimage.metrics import structural_similarity

    need_data()
    for path in sorted((DATA / "train").rglob("*.tif")):
        image = flat(tifffile.imread(path))[:512, :512]
        tifffile.imwrite(folder / f"{path.parent.name}__{path.stem}.tif", image)
    now, was = restored(folder), restored(folder, before=before) if before else {}
    rows, failing = [], {}
    for name, found in sorted(now.items()):
        image = tifffile.imread(folder / f"{name}.tif").astype(float)
        width = max(float(np.ptp(np.percentile(image, (0.1, 99.9)))), 1e-9)
        energy = np.var(image - ndimage.gaussian_filter(image, 1.0))
        row = [name]
        for each in (was[name], found) if was else (found,):
            result = each["image"].astype(float)
            row.append(float(structural_similarity(image, result, data_range=width)))
            left = np.var(result - ndimage.gaussian_filter(result, 1.0))
            row.append(float(left / max(energy, 1e-12)))
        noise = found["noise"].get("noise", {})
        photons = noise.get("photons_median") or np.inf
        if row[-2] < 0.97 and photons > 50:
            failing[name] = noise
        row += [photons, noise.get("belief", 0.0)]
        rows.append([*row, "LOW" if name in failing else ""])
    head = ["image", *(["SSIM before", "fine left"] if was else []), "SSIM", "fine left"]
    report([*head, "photons", "belief", ""], rows, failing)


TABLES = {
    "textures": textures,
    "fmd": fmd,
    "planes": planes,
    "known": known,
    "correlated": correlated,
    "cost": cost,
    "clean": clean,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--before", help="another checkout")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "in")
        folder.mkdir()
        TABLES[args.table](folder, args.seeds, args.before)


if __name__ == "__main__":
    main()
