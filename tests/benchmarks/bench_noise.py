"""Can the noise model be trusted? Tables of results against their inputs.

    python tests/benchmarks/bench_noise.py textures|planes|known|cost|clean [--before DIR]

textures: sharp, dense structures with hardly any noise, which statistics take for noise. planes:
noise of 3 to 45 grey levels over the planes of a stack, beside the same planes alone. known: the
camera's true gain, offset and read noise, beside the blind estimate. cost: seconds of judging the
noise, relative to one call on a plane of 1024x1024. clean: images of RESTORECTL_DATA/train as they
are: SSIM with the input and the share of high-frequency energy that is left, with the image's own
median of photons. --before: another checkout, run on the same files for comparison.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from common import DATA, affine, need_data, restorectl, table
from scipy import ndimage

from tests.phantom import scene
from tests.restoration.test_evidence import filaments, puncta

GAIN, OFFSET, READ = 2.0, 100.0, 1.6


def camera(clean: np.ndarray, photons: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(noisy uint16, truth) of an image in [0, 1] with `photons` at its brightest."""
    rng = np.random.default_rng(seed)
    light = np.clip(clean, 0, None) * photons
    noisy = GAIN * rng.poisson(light) + OFFSET + rng.normal(0, READ, light.shape)
    return np.clip(np.round(noisy), 0, 65535).astype(np.uint16), GAIN * light + OFFSET


def score(image: np.ndarray, truth: np.ndarray) -> float:
    """PSNR in dB; the peak is the range of the truth."""
    peak = np.percentile(truth, 99.9) - np.percentile(truth, 0.1)
    return float(10 * np.log10(peak**2 / np.mean((image.astype(float) - truth) ** 2)))


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


def textures(folder: Path, seeds: int, before: str | None) -> None:
    scenes = {"filaments": filaments, "puncta": puncta}
    scenes["cells"] = lambda seed: scene("mixed", (256, 256), seed)
    truths = {}
    for name, make in scenes.items():
        for photons in (60, 600, 6000):
            for seed in range(seeds):
                noisy, truth = camera(make(seed), photons, 100 + seed)
                truths[f"{name}_{photons}_{seed}"] = truth
                tifffile.imwrite(folder / f"{name}_{photons}_{seed}.tif", noisy)
    now, was = restored(folder), restored(folder, before=before) if before else {}
    rows = []
    for name, truth in truths.items():
        noise = now[name]["noise"].get("noise", {})
        image = now[name]["image"]
        row = [name, score(tifffile.imread(folder / f"{name}.tif"), truth)]
        row += [score(was[name]["image"], truth)] if was else []
        row += [score(image, truth), score(affine(image, truth), truth)]
        rows.append([*row, noise.get("gain", 0.0), noise.get("belief", 0.0)])
    head = ["image", "input", *(["before"] if was else []), "now", "affine", "gain (2)", "belief"]
    table(head, rows)


def planes(folder: Path, seeds: int, before: str | None) -> None:
    truth = 300 + 900 * scene("mixed", (256, 256), 3)
    sigmas = np.linspace(3, 45, 8)
    noise = np.random.default_rng(seeds).normal(size=(8, 256, 256))
    stack = np.clip(np.round(truth + sigmas[:, None, None] * noise), 0, 65535).astype(np.uint16)
    tifffile.imwrite(folder / "stack.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    for k, plane in enumerate(stack):
        tifffile.imwrite(folder / f"plane{k}.tif", plane)
    now, was = restored(folder), restored(folder, before=before) if before else {}
    rows = []
    for k, sigma in enumerate(sigmas):
        row = [f"{sigma:.0f}", score(stack[k], truth)]
        row += [score(was["stack"]["image"][k], truth)] if was else []
        row += [score(now["stack"]["image"][k], truth), score(now[f"plane{k}"]["image"], truth)]
        rows.append(row)
    table(["sigma", "input", *(["before"] if was else []), "in the stack", "alone"], rows)


def known(folder: Path, seeds: int, before: str | None) -> None:
    truths = {}
    for name, make in {"puncta": puncta, "filaments": filaments}.items():
        for photons in (20, 60, 600):
            for seed in range(seeds):
                noisy, truth = camera(make(seed), photons, seed)
                truths[f"{name}_{photons}_{seed}"] = truth
                tifffile.imwrite(folder / f"{name}_{photons}_{seed}.tif", noisy)
    camera_options = ("--gain", GAIN, "--offset", OFFSET, "--read-noise", READ)
    blind, told = restored(folder), restored(folder, *camera_options)
    was = restored(folder, *camera_options, before=before) if before else {}
    rows = []
    for name, truth in truths.items():
        row = [name, score(tifffile.imread(folder / f"{name}.tif"), truth)]
        row += [score(was[name]["image"], truth)] if was else []
        rows.append([*row, score(blind[name]["image"], truth), score(told[name]["image"], truth)])
    table(["image", "input", *(["before, known"] if was else []), "blind", "known"], rows)


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
    for side in (256, 512, 1024, 2048):
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
        image = tifffile.imread(path)
        while image.ndim > 2:
            image = image[len(image) // 2] if image.shape[-1] not in (3, 4) else image[..., 1]
        tifffile.imwrite(folder / f"{path.parent.name}__{path.stem}.tif", image[:512, :512])
    now, rows = restored(folder), []
    for name, found in sorted(now.items()):
        image, result = tifffile.imread(folder / f"{name}.tif").astype(float), found["image"]
        width = max(float(np.ptp(np.percentile(image, (0.1, 99.9)))), 1e-9)
        alike = structural_similarity(image, result.astype(float), data_range=width)
        fine = [np.var(each - ndimage.gaussian_filter(each, 1.0)) for each in (result * 1.0, image)]
        noise = found["noise"].get("noise", {})
        photons = noise.get("photons_median") or np.inf
        flag = "LOW" if alike < 0.97 and photons > 50 else ""
        rows.append([name, alike, fine[0] / max(fine[1], 1e-12), photons, noise["belief"], flag])
    table(["image", "SSIM", "fine left", "photons", "belief", ""], rows)


TABLES = {"textures": textures, "planes": planes, "known": known, "cost": cost, "clean": clean}


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
