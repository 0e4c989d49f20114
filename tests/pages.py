"""Comparisons of synthetic images for the tests of reports, studies and downstream checks."""

from pathlib import Path

import numpy as np
import tifffile

from restorectl.evaluation.comparison import Comparison, FileScore
from restorectl.evaluation.read import volume
from tests.phantom import camera, scene

NAMES = ("a/first.tif", "<img src=x onerror=alert(1)>.tif", "<!--<script>.tif", "plain.tif")
METHODS = ("sharp", "blurred & <b>bold</b>")


def write(path: Path, image: np.ndarray, **more) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, image, **more)
    return path


def smooth(image: np.ndarray) -> np.ndarray:
    padded = np.pad(image.astype(float), 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9


def images(root: Path, names=NAMES, size=72) -> None:
    """input/, target/ and a folder for each method, numbered m0, m1."""
    for seed, name in enumerate(names):
        noisy, clean = camera(scene("nuclei", (size, size + 8), seed), 200, 2, 100, 3, seed)
        write(root / "target" / name, clean)
        write(root / "input" / name, noisy)
        better = np.rint(0.8 * clean + 0.2 * smooth(noisy)).astype(np.uint16)
        write(root / "m0" / name, better)
        write(root / "m1" / name, np.rint(smooth(noisy)).astype(np.uint16))


def scores(method: str, folder: Path, target: Path, names) -> list[FileScore]:
    found = []
    for name in names:
        x, y = volume(folder / name), volume(target / name)
        rmse = float(np.sqrt(np.mean((x - y) ** 2)))
        values = {"rmse": rmse, "psnr": float(20 * np.log10(1000 / rmse)) if rmse else np.inf}
        found.append(FileScore(method, name, values, folder / name, target / name))
    return found


def comparison(root: Path, names=NAMES, methods=METHODS, **more) -> Comparison:
    """What `evaluate` would hand over for the images below `root`."""
    found = [
        score
        for i, method in enumerate(methods)
        for score in scores(method, root / f"m{i}", root / "target", names)
    ]
    known = {
        "methods": tuple(methods),
        "metrics": ("rmse", "psnr"),
        "better": {"rmse": "lower", "psnr": "higher"},
        "scores": tuple(found),
        "data_range": dict.fromkeys(names, 1000.0),
        "scale": "none",
        "inputs": root / "input",
    }
    return Comparison(**(known | more))
