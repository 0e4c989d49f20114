"""Error bars of `restorectl uncertainty`: coverage, width, ranking of errors, time and memory.

    python tests/benchmarks/bench_uncertainty.py PART [--crop 256] [--samples 15]

real: FMD first realisations, the truth of a field first fitted to the restoration (its gain drifts
between exposures); each field with the calibration that the other four make, with its own (`self`)
and with the packaged one, which knows the confocal fields. structures: the packaged calibration on
simulated faint points, filaments and a masked border, at structures and elsewhere. context: four
realisations of a field as a movie. learn: simulated pairs from high-SNR images, the calibration
that they make, and the exponents of restoration/expected.py. white: known Gaussian noise on the
clean fields, uncalibrated, against network calls. cost: seconds and peak memory against the number
of samples.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import tifffile
from common import DATA, FIELDS, need_data, pair, restorectl, table
from scipy import ndimage

from restorectl.batch.outcome import Outcome
from restorectl.evaluation.metrics import uncertainty as metrics
from restorectl.evaluation.metrics.metric import UncertaintySet
from restorectl.images.image import open_image
from restorectl.jobs import Files, UncertaintyJob
from restorectl.restoration import expected, intervals, stand_in
from restorectl.restoration.expected import JUDGED
from restorectl.restoration.intervals import Calibration, Pixels
from restorectl.restoration.planes import Planes, restored_planes
from restorectl.restoration.uncertainty import ONE_SIGMA, by_itself, sampling_restorer

COLUMNS = ["coverage", "width", "score", "Spearman", "of intensity", "partial", "AUSE"]


@dataclass(frozen=True)
class Field:
    """Restored planes (T, Y, X) of an image with their truth, and its own calibration."""

    truth: np.ndarray
    maps: dict[str, np.ndarray]  # the products of JUDGED, float64
    own: Calibration
    level: float

    def pixels(self, name: str, unseen: float = 0.0) -> Pixels:
        """For a calibration; unseen: see `stand_in`, of truths that have no error."""
        m, random = self.maps, np.random.default_rng(0)
        error = (self.truth - m["mean"]) / m["noise"]
        error = np.abs(error + unseen * random.standard_normal(error.shape))
        rest = intervals.unexplained(error, m["removed"])
        values = (each.ravel() for each in (rest, m["expected"], m["signal"]))
        return Pixels(name, *values, level=self.level)

    def scores(self, made: Calibration, where: np.ndarray | None = None) -> list[float]:
        """COLUMNS, of pixels `where`."""
        m = {k: each if where is None else each[where] for k, each in self.maps.items()}
        truth = self.truth if where is None else self.truth[where]
        what = m["expected"], m["signal"]
        std = m["noise"] * made.half_width(*what, 0.0, ONE_SIGMA)
        half = m["noise"] * made.half_width(*what, m["removed"], 0.9)
        found = UncertaintySet(m["mean"], std, m["mean"] - half, m["mean"] + half, truth, 0.9)
        brightness = replace(found, std=m["mean"])
        ranks = (
            metrics.spearman(found),
            metrics.spearman(brightness),
            metrics.partial_spearman(found),
        )
        first = metrics.coverage(found), metrics.width(found), metrics.interval_score(found)
        return [*first, *ranks, metrics.ause(found)]


def restored(image: np.ndarray, clean: np.ndarray, samples: int, affine: bool = False) -> Field:
    """Restore an image (Y, X) or movie (T, Y, X) as the command does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image.tif")
        tifffile.imwrite(path, image, metadata={"axes": "TYX"[-image.ndim :]})
        job = UncertaintyJob(Files((str(path),), ""), samples=samples)
        restorer = replace(sampling_restorer(job), reduction=JUDGED)
        with open_image(path) as source:
            fitted = Planes("uncertainty", restorer, {}).fit(source, Outcome("", "", ""))
            planes = [np.stack(maps[1:]) for _, _, maps in restored_planes(fitted.near)]
            own = by_itself(restorer, fitted, {})
    names = ("mean", "expected", "signal", "noise", "removed", "spread")
    maps = dict(zip(names, np.stack(planes, 1).astype(np.float64), strict=True))
    truth = np.broadcast_to(clean, maps["mean"].shape).astype(np.float64)
    if affine:
        truth = np.polyval(np.polyfit(truth.ravel(), maps["mean"].ravel(), 1), truth)
    assert own is not None
    return Field(truth, maps, own, fitted.groups[0].decided["sigma"])


def packaged() -> Calibration:
    (found,) = intervals.packaged_calibrations()
    return found


def real(crop: int, samples: int) -> None:
    part = slice((512 - crop) // 2, (512 + crop) // 2)
    found = {f: restored(*(i[part, part] for i in pair(f)), samples, True) for f in FIELDS}
    rows = []
    for name, field in found.items():
        others = [each.pixels(k) for k, each in found.items() if k != name]
        made = {"others": intervals.alone(others), "self": field.own, "packaged": packaged()}
        rows += [[name, kind, *field.scores(each)] for kind, each in made.items()]
    table(["field", "calibration", *COLUMNS], rows)


def simulated(light: np.ndarray, seed: int) -> np.ndarray:
    """Photons and read noise of a camera, (Y, X) float32; light: expected photons."""
    random = np.random.default_rng(seed)
    return (random.poisson(light) + random.normal(100, 1.5, light.shape)).astype(np.float32)


def structures(crop: int, samples: int) -> None:
    random, rows = np.random.default_rng(0), []
    points = np.zeros((crop, crop))
    points[tuple(random.integers(8, crop - 8, (2, crop * crop // 300)))] = 1
    lines = np.zeros((crop, crop))
    for start in range(0, crop, 24):
        lines[np.clip(start + np.cumsum(random.normal(0, 0.7, crop)), 0, crop - 1).astype(int),
              np.arange(crop)] = 1  # fmt: skip
    for name, drawn, height in (("faint points", points, 8.0), ("filaments", lines, 12.0)):
        shape = ndimage.gaussian_filter(drawn, 1.2)
        light = 10 + height * shape / np.quantile(shape[drawn > 0], 0.5)
        field = restored(simulated(light, 1), light + 100, samples)
        there = (shape > 0.5 * np.quantile(shape[drawn > 0], 0.5))[None]
        for kind, made in (("packaged", packaged()), ("self", field.own)):
            rows.append([f"{name}, at them", kind, *field.scores(made, there)])
            rows.append([f"{name}, elsewhere", kind, *field.scores(made, ~there)])
    light = 10 + 40 * ndimage.gaussian_filter(random.random((crop, crop)), 3) ** 2 * 4
    image = simulated(light, 2)
    image[:, : crop // 4] = 0
    field = restored(image, light + 100, samples)
    for name, columns in (("4 px from a border", slice(0, 4)), ("farther", slice(8, None))):
        there = np.zeros(field.truth.shape, bool)
        there[..., crop // 4 :][..., columns] = True
        rows.append([name, "packaged", *field.scores(packaged(), there)])
    table(["where", "calibration", *COLUMNS], rows)


def movie(crop: int, samples: int) -> None:
    part, rows = slice((512 - crop) // 2, (512 + crop) // 2), []
    for name in FIELDS[:4]:
        frames = [pair(name, k)[0][part, part] for k in (1, 2, 3, 4)]
        field = restored(np.stack(frames), pair(name)[1][part, part], samples, True)
        rows += [
            [name, k, *field.scores(c)] for k, c in (("packaged", packaged()), ("self", field.own))
        ]
    table(["movie", "calibration", *COLUMNS], rows)


def learn(crop: int, samples: int) -> None:
    """Crops of high-SNR images at 4 to 300 photons, a random gain, offset and read noise."""
    random, found = np.random.default_rng(0), {}
    for path in sorted((DATA / "train").rglob("*.tif")):
        plane = tifffile.imread(path)
        while plane.ndim > 2:
            plane = plane[0] if plane.shape[0] <= plane.shape[-1] else plane[..., 0]
        if min(plane.shape) < crop:
            continue
        top, left = (random.integers(n - crop + 1) for n in plane.shape)
        clean = plane[top : top + crop, left : left + crop].astype(np.float64)
        low, high = np.percentile(clean, (0.5, 99.7))
        if high <= low:
            continue
        peak, share = np.exp(random.uniform(np.log([4, 0.02]), np.log([300, 0.5])))
        light = peak * (np.clip((clean - low) / (high - low), 0, None) + share)
        gain, read = np.exp(random.uniform(0, 2)), random.choice([0.0, 0.5, 2.0])
        noisy = gain * (random.poisson(light) + random.normal(0, read, light.shape)) + 100
        found[path.stem] = restored(noisy.astype(np.float32), gain * light + 100, samples)
    pixels = [field.pixels(k, stand_in.UNSEEN) for k, field in found.items()]
    made = intervals.fit(pixels, packaged().weights_sha256, packaged().sampling)
    print(json.dumps(intervals.plain(made), indent=1))
    rows = []
    for field in found.values():
        squares = [expected.smooth(field.maps["spread"] ** 2, w) for w in expected.EXPONENTS]
        logs = [np.log(np.maximum(each, expected.FAINT**2)).ravel() / 2 for each in squares]
        light = np.log1p(np.maximum(field.maps["signal"], 0)).ravel()
        error = np.abs(field.truth - field.maps["mean"]) / field.maps["noise"]
        rows.append(np.stack([*logs, light, np.ones_like(light), np.log(error.ravel() + 0.05)], 1))
    *x, y = np.concatenate(rows).T
    solved = np.linalg.lstsq(np.stack(x, 1), y, rcond=None)[0]
    print("exponents", dict(zip(expected.EXPONENTS, solved, strict=False)))


def maps(folder: Path, name: str) -> dict[str, np.ndarray]:
    kinds = ("mean", "std", "lower", "upper")
    return {k: tifffile.imread(folder / f"{name}_{k}.tif").astype(np.float64) for k in kinds}


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
    parts = {
        "real": real,
        "structures": structures,
        "context": movie,
        "learn": learn,
        "white": white,
        "cost": cost,
    }
    parser.add_argument("part", choices=parts)
    parser.add_argument("--crop", type=int, default=512, help="side of the middle part in use")
    parser.add_argument("--samples", type=int, default=15)
    args = parser.parse_args()
    need_data()
    parts[args.part](args.crop, args.samples)


if __name__ == "__main__":
    main()
