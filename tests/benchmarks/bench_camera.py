"""What does a measured camera gain? A simulated sCMOS camera, see `tests/sensor.py`.

    python tests/benchmarks/bench_camera.py [PHOTONS ...]

PHOTONS: mean per pixel (3 10 50). `calibrate --camera` measures the camera from 100 dark and 20
flat frames; its gain has to be within 2 % of the truth. Then `restore` restores four scenes of 256
x 256 px (SIDE of the environment) blindly, with the camera file, with the true maps, and those that
an even camera of the same typical pixel had taken. PSNR in dB (means over the scenes) and the share
of the camera's fixed pattern that is left: with the camera at least 1 dB above blind at 3 photons,
at most 5 % of the pattern.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from common import run, table

from tests import sensor
from tests.phantom import scene

SHAPE = (int(os.environ.get("SIDE", "256")),) * 2
SCENES = ("nuclei", "filaments", "membranes", "puncta")
DARK, FLAT, LIGHT = 100, 20, 500.0  # frames, frames, photons of the flat ones


def transfer(folder: Path, camera: sensor.Sensor) -> Path:
    """Measure the camera, and an EMCCD at three levels of light; print what is found."""
    rng, rows = np.random.default_rng(1), []
    kinds = [("sCMOS", LIGHT, camera)]
    kinds += [("EMCCD", light, camera._replace(multiplied=True)) for light in (5.0, 50.0, 500.0)]
    for k, (name, light, each) in enumerate(kinds):
        for kind, count, level in (("dark", DARK, 0.0), ("flat", FLAT, light)):
            frames = np.stack([each.exposed(level, rng) for _ in range(count)])
            (folder / f"{kind}{k}").mkdir()
            tifffile.imwrite(folder / f"{kind}{k}/frames.tif", frames, metadata={"axes": "TYX"})
        words = ("--camera", folder / f"dark{k}", "--flat", folder / f"flat{k}", "--json")
        done = run("calibrate", *words, "-o", folder / f"camera{k}.yaml", check=0, timeout=3600)
        told = json.loads(done.stdout)
        gain = told["gain"] / float(np.mean(each.gain)) - 1
        error = ["-", "-"]
        if "response" in told["channels"]:
            maps = tifffile.imread(folder / f"camera{k}.tif")
            response = maps[told["channels"].index("response")]
            truth = each.gain / np.median(each.gain)
            error = [f"{100 * np.std(truth):.1f}", f"{100 * np.std(response - truth):.1f}"]
        rows.append([name, light, f"{100 * gain:+.2f}", *error, told["excess_noise"]])
    print(f"photon transfer from {FLAT} flat frames of one light")
    table(["camera", "photons", "gain error %", "spread %", "error of map %", "excess"], rows)
    return folder / "camera0.yaml"


def main(photons: list[float]) -> None:
    camera, rows = sensor.scmos(SHAPE), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = transfer(folder, camera)
        for kind in ("offset", "gain", "variance"):
            tifffile.imwrite(folder / f"{kind}.tif", getattr(camera, kind).astype(np.float32))
        maps = [
            w for k in ("offset", "gain", "variance") for w in (f"--{k}-map", folder / f"{k}.tif")
        ]
        known = ("--offset", sensor.OFFSET, "--gain", sensor.GAIN, "--read-noise", sensor.READ)
        for mean in photons:
            light = {kind: 0.05 + scene(kind, SHAPE, 1) for kind in SCENES}
            light = {kind: mean * each / each.mean() for kind, each in light.items()}
            for taken, by in (("uneven", camera), ("even", sensor.even(SHAPE))):
                (folder / f"{taken}{mean}").mkdir()
                for k, (kind, each) in enumerate(light.items()):
                    frame = by.exposed(each, np.random.default_rng(10 + k))
                    tifffile.imwrite(folder / f"{taken}{mean}/{kind}.tif", frame)
            ways = {"blind": (), "camera file": ("--camera", file), "true maps": maps}
            for way, words in (ways | {"even camera": known}).items():
                source = folder / f"{'even' if way == 'even camera' else 'uneven'}{mean}"
                out = folder / f"{way}{mean}"
                words = (*words, "--dtype", "float32")
                run("restore", source, "-o", out, *words, check=0, timeout=3600)
                found = np.array(
                    [_scores(out, source, kind, light[kind], camera) for kind in SCENES]
                )
                psnr, before, after = found.mean(0)
                left = "-" if way == "even camera" else f"{100 * after / before:.1f}"
                rows.append([mean, way, f"{psnr:.2f}", left])
    print("\nrestored")
    table(["photons", "way", "PSNR dB", "pattern left %"], rows)


def _scores(
    out: Path, source: Path, kind: str, light: np.ndarray, camera: sensor.Sensor
) -> tuple[float, float, float]:
    """PSNR (range of the truth), and the share of the fixed pattern in the input and the result."""
    truth, pattern = sensor.OFFSET + sensor.GAIN * light, camera.pattern(light)
    noisy, clean = (
        tifffile.imread(folder / f"{kind}.tif").astype(float) - truth for folder in (source, out)
    )
    shares = [float((pattern * each).sum() / (pattern**2).sum()) for each in (noisy, clean)]
    return float(10 * np.log10(np.ptp(truth) ** 2 / np.mean(clean**2))), shares[0], abs(shares[1])


if __name__ == "__main__":
    main([float(word) for word in sys.argv[1:]] or [3, 10, 50])
