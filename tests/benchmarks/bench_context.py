"""What neighbours in z and t give: `--context auto` beside `--context none`.

    python tests/benchmarks/bench_context.py fmd|simulated|motion|spikes|cost [--crop N]

fmd: four exposures of each of five FMD fields as a movie, affine-fitted PSNR in dB, beside ndsafir
(given the same as a stack) where it is installed. simulated: stacks and movies of RESTORECTL_DATA
as truth for a camera of 5, 15 and 60 photons at the brightest. motion: a phantom that moves 0, 0.5,
2 and 8 px a frame, bleaches by a tenth a frame, or whose cells move by themselves. spikes: 20
points that appear for one frame: what is kept of their height, and what is left of them in the
frames before and after. cost: time relative to `none`. --panel: noisy, none, auto, true.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from bench_noise import camera, score
from common import DATA, FIELDS, affine_psnr, need_data, pair, restorectl, table
from scipy import ndimage

from tests.phantom import scene

SHOWN = (0.5, 99.8)  # percentiles shown as black and white
PHOTONS = (5, 15, 60)
PLANES = 6
STACKS = {  # first plane; of several channels the first
    "flybrain": 20,
    "mouse_brain_autofluo_50x40x40um": 130,
    "mouse_brain_cells_signal_5x2x2um_crop": 10,
    "nuclei_cells3d_60x256x256": 27,
    "plantseg_2ch_75cube": 30,
    "xyz_8bit__chromosomes": 17,
    "xyz_8bit__mitotic_plate_calibrated": 0,
    "xyz_8bit__nuclei_autothresh": 15,
    "xyz_8bit__nucleus": 1,
    "xyz_calibrated_16bit__golgi_bfa": 10,
    "xyz_nuclear_envelope_drosophila": 4,
    "xyzc_16bit__dna_conf_wf": 20,
}


def restored(folder: Path, noisy: np.ndarray, context: str, axes: str) -> tuple[np.ndarray, dict]:
    """Restore a series; (image, its entry in the manifest)."""
    source, out = folder / "series.tif", folder / f"{context}.tif"
    tifffile.imwrite(source, noisy, photometric="minisblack")
    options = ("--axes", axes, "--context", context, "--overwrite", "--json")
    done, _ = restorectl("restore", source, "-o", out, *options)
    return tifffile.imread(out), json.loads(done.stdout)


def both(folder: Path, noisy: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray, dict, float]:
    """Results without and with neighbours, what was decided, ratio of the seconds."""
    alone, first = restored(folder, noisy, "none", axes)
    together, second = restored(folder, noisy, "auto", axes)
    (found,) = second["details"]["context"].values()
    found = found if isinstance(found, dict) else found[0]
    return alone, together, found, second["seconds"] / first["seconds"]


HEAD = ["none", "auto", "gain", "predicted", "axes", "trust", "weight", "time"]


def row(alone: float, together: float, found: dict, ratio: float) -> list[object]:
    numbers = [alone, together, together - alone, found["predicted_gain"], found["axes"]]
    return [*numbers, found.get("trust", ""), found.get("mean_weight", ""), ratio]


def fmd(folder: Path, crop: int) -> Iterator[tuple[list[object], list[np.ndarray]]]:
    part = slice((512 - crop) // 2, (512 + crop) // 2)
    for field in FIELDS:
        noisy = np.stack([pair(field, k)[0][part, part] for k in (1, 2, 3, 4)])
        clean = pair(field)[1][part, part]
        alone, together, *rest = both(folder, noisy, "TYX")
        means = [np.mean([affine_psnr(x, clean) for x in each]) for each in (alone, together)]
        numbers = [field, *row(*map(float, means), *rest)]
        yield [*numbers, *ndsafir(noisy, clean)], [noisy[1], alone[1], together[1], clean]


def ndsafir(noisy: np.ndarray, clean: np.ndarray) -> list[object]:
    """Its score with its own estimate of gain and offset, if it is installed."""
    try:
        import ndsafir as peer
    except ImportError:
        return ["not installed"]
    image = noisy.astype(np.float32)
    gains, offsets = peer.calibrate_poisson_gaussian(image, axes="ZYX")
    made = peer.denoise_poisson_gaussian(image, axes="ZYX", gains=gains, offsets=offsets)
    return [float(np.mean([affine_psnr(plane, clean) for plane in made]))]


def normal(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, (0.1, 99.9))
    return np.clip((image - low) / (high - low), 0, None)


def series(crop: int) -> Iterator[tuple[str, str, np.ndarray]]:
    """(name, axes, image about [0, 1]) of a few planes of each stack and movie."""
    for name, first in STACKS.items():
        stack = tifffile.imread(DATA / f"stacks/{name}.tif").astype(float)
        if stack.ndim == 4:
            stack = stack[0] if name.startswith("plantseg") else stack[:, 0]
        yield name, "ZYX", normal(stack[first : first + PLANES, :crop, :crop])
    telomeres = tifffile.imread(DATA / "movies/telomeres_tyx_60.tif").astype(float)
    yield "telomeres", "TYX", normal(telomeres[20 : 20 + PLANES])
    yeast = tifffile.imread(DATA / "movies/yeast_mitochondria_tzyx_crop.tif").astype(float)
    yield "yeast", "TZYX", normal(yeast[4:8, 7:10])


def simulated(folder: Path, crop: int) -> Iterator[tuple[list[object], list[np.ndarray]]]:
    for photons in PHOTONS:
        for name, axes, clean in series(crop):
            noisy, truth = camera(clean, photons, photons)
            yield compared(f"{photons} {name}", folder, noisy, truth, axes)


def compared(
    name: str, folder: Path, noisy: np.ndarray, truth: np.ndarray, axes: str = "TYX"
) -> tuple[list[object], list[np.ndarray]]:
    alone, together, *rest = both(folder, noisy, axes)
    planes = [each.reshape(-1, *each.shape[-2:]) for each in (noisy, alone, together, truth)]
    middle = len(planes[0]) // 2
    numbers = row(score(alone, truth), score(together, truth), *rest)
    return [name, *numbers], [each[middle] for each in planes]


def motion(folder: Path, crop: int) -> Iterator[tuple[list[object], list[np.ndarray]]]:
    big = scene("mixed", (crop + 64, crop + 64), 3)
    for speed in (0.0, 0.5, 2.0, 8.0):
        steps = [(0.6 * speed * k, 0.8 * speed * k) for k in range(PLANES)]
        moved = np.stack([ndimage.shift(big, s, order=3, mode="mirror") for s in steps])
        yield compared(
            f"{speed:g} px a frame", folder, *camera(moved[:, 32:-32, 32:-32], 15, 1), "TYX"
        )
    fading = big[32:-32, 32:-32] * 0.9 ** np.arange(PLANES)[:, None, None]
    yield compared("bleaching", folder, *camera(fading, 15, 2))
    yield compared("own ways", folder, *camera(wandering(crop), 15, 3))


def wandering(crop: int) -> np.ndarray:
    """Cells on a still background that each move 2 px a frame in their own direction."""
    random = np.random.default_rng(0)
    places, ways = random.uniform(0, crop, (40, 2)), random.uniform(0, 2 * np.pi, 40)
    y, x = np.mgrid[:crop, :crop]
    frames = []
    for k in range(PLANES):
        frame = 0.3 * scene("filaments", (crop, crop), 5)
        for (row, col), way in zip(places, ways, strict=True):
            at = row + 2 * k * np.sin(way), col + 2 * k * np.cos(way)
            frame = frame + 0.7 * np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / 32)
        frames.append(frame)
    return np.clip(np.stack(frames), 0, 1)


def spikes(folder: Path, crop: int) -> Iterator[tuple[list[object], list[np.ndarray]]]:
    y, x = np.mgrid[:crop, :crop]
    places = np.mgrid[20 : crop - 20 : 5j, 20 : crop - 20 : 4j].reshape(2, -1).T.astype(int)
    still = np.repeat(0.6 * scene("mixed", (crop, crop), 3)[None], PLANES, 0)
    base = camera(still, 15, 4)[1]

    def tall(image: np.ndarray, k: int) -> float:
        above = image[k].astype(float) - base[k]
        return float(np.mean([above[r - 1 : r + 2, c - 1 : c + 2] for r, c in places]))

    for height in (0.3, 0.6, 1.0):
        flash = still.copy()
        for r, c in places:
            flash[2] += height * np.exp(-((y - r) ** 2 + (x - c) ** 2) / 8)
        noisy, truth = camera(flash, 15, 4)
        alone, together, found, _ = both(folder, noisy, "TYX")
        kept = [tall(each, 2) / tall(truth, 2) for each in (alone, together)]
        ghosts = [tall(each, k) / tall(truth, 2) for each in (alone, together) for k in (1, 3)]
        numbers = [f"height {height:g}", *kept, kept[1] / kept[0], *ghosts, found["axes"]]
        yield numbers, [noisy[2], alone[2], together[2], truth[2]]


def cost(folder: Path, crop: int) -> Iterator[tuple[list[object], list[np.ndarray]]]:
    for planes in (6, 24):
        clean = np.repeat(scene("mixed", (crop, crop), 3)[None], planes, 0)
        yield compared(f"{planes} planes of {crop} px", folder, *camera(clean, 15, 5))


SPIKES = [
    "none keeps",
    "auto keeps",
    "ratio",
    "none before",
    "after",
    "auto before",
    "after",
    "axes",
]
TABLES = {
    "fmd": (fmd, [*HEAD, "ndsafir"]),
    "simulated": (simulated, HEAD),
    "motion": (motion, HEAD),
    "spikes": (spikes, SPIKES),
    "cost": (cost, HEAD),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--crop", type=int, default=256, help="side of the part in use, px")
    parser.add_argument("--panel", help="PNG of noisy, none, auto and true planes")
    args = parser.parse_args()
    if args.table in ("fmd", "simulated"):
        need_data()
    make, head = TABLES[args.table]
    rows, shown = [], []
    with tempfile.TemporaryDirectory() as folder:
        for numbers, images in make(Path(folder), args.crop):
            print(*numbers, flush=True)
            rows.append(numbers)
            low, high = np.percentile(images[-1], SHOWN)
            shown.append(np.hstack([np.clip((x - low) / (high - low), 0, 1) for x in images]))
    print()
    table(["", *head], rows)
    if args.table != "spikes":
        gains = np.array([each[3] for each in rows], float)
        on = np.array([each[5] != "none" for each in rows])
        text = f"mean gain {gains.mean():.2f} dB, worst {gains.min():.2f}"
        print(text + (f", where neighbours are used {gains[on].mean():.2f}" if on.any() else ""))
    if args.panel:
        import imageio.v3 as iio

        iio.imwrite(args.panel, (np.vstack(shown[-4:]) * 255).astype(np.uint8))


if __name__ == "__main__":
    main()
