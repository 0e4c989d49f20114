"""superres3d against interpolation, on real images and stacks whose planes are known.

    python tests/benchmarks/bench_superres3d.py [2d] [3d] [choice] [synthetic] [stripes] [speed]

2d      clean fields with every 2nd, 4th or 8th row kept (the task of Table 1 of MSDSR)
3d      every 2nd or 4th plane of each stack kept, judged on the dropped ones
choice  the same on the middle 128 px: linear, cubic, the model alone, and what the command chooses
synthetic  the same on phantoms whose depth is 2- to 8-fold oversampled; needs no real images
stripes differences of neighbouring YZ columns of an XZ-only reconstruction, over the truth's
speed   seconds and peak memory, and how they grow with each axis
"""

import json
import math
import resource
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from common import DATA, FIELDS, need_data, pair, restorectl, table
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from typer.testing import CliRunner

from restorectl.cli.app import app
from restorectl.evaluation.frechet import Moments, frechet, nothing
from restorectl.volumes import interpolation
from tests import phantom

PLAIN = {
    "nearest": interpolation.nearest,
    "linear": interpolation.linear,
    "cubic": interpolation.cubic,
}
SIDE = 256  # px of the 2-D crops: the middle of each field
MIDDLE = 128  # px of the stacks of `choice`
SHAPE = (49, 96, 96)  # of phantoms
# kind, fold of oversampling in depth, photons at full brightness; the seed is the fold
SYNTHETIC = [
    (kind, fold, photons)
    for kind in ("membranes", "puncta", "nuclei", "filaments")
    for fold in (2, 3, 4, 6, 8)
    for photons in (1000, 100_000)
]
DRAWS = ("--steps", 8, "--sampler", "ddim")


def made(observed: np.ndarray, factor: int, *options: object) -> np.ndarray:
    """The command, in this process, on planes (N, Y, X), float32: (M, Y, X); or on rows (N, X)."""
    return run(observed, factor, *options)[0]


def run(observed: np.ndarray, factor: int, *options: object) -> tuple[np.ndarray, dict]:
    """Like `made`; also what --json prints."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.tif"), Path(folder, "out.tif")
        axes = "ZYX"[-observed.ndim :]
        tifffile.imwrite(source, observed.astype(np.float32), photometric="minisblack",
                         metadata={"axes": axes})  # fmt: skip
        words = ("superres3d", source, "-o", target, "--factor", factor, "--axes", axes,
                 "--hot-pixels", "keep", *options)  # fmt: skip
        done = CliRunner().invoke(app, [*map(str, words), "-q", "--json"])
        if done.exit_code:
            sys.exit(f"{words}: exit {done.exit_code}\n{done.stderr}\n{done.exception!r}")
        image = tifffile.imread(target).reshape(-1, *observed.shape[1:])
        return image, json.loads(done.stdout)


def decibels(image: np.ndarray, truth: np.ndarray, span: float) -> float:
    error = np.mean((image.astype(np.float64) - truth) ** 2)
    return 10 * math.log10(span**2 / max(error, 1e-12))


def contrast(image: np.ndarray) -> float:
    """High-pass contrast: what a Gaussian of 2 px takes away."""
    return float(np.std(image - gaussian_filter(image, 2.0)))


def paired() -> None:
    rows = []
    ways = {
        "estimate": ("--rows",),
        "model alone": ("--rows", "--strength", 1),
        "mean of 4": ("--rows", "--samples", 4, *DRAWS),
        "one draw": ("--rows", "--strength", 1, *DRAWS),
    }
    for factor in (2, 4, 8):
        sums = {name: np.zeros(3) for name in (*PLAIN, *ways)}
        for field in FIELDS:
            clean = pair(field)[1].astype(np.float32)
            start = (512 - SIDE) // 2
            crop = clean[start : start + (SIDE - 1) // factor * factor + 1, start : start + SIDE]
            for name in sums:
                if name in PLAIN:
                    image = interpolation.interpolated(crop[::factor], factor, PLAIN[name])
                else:
                    image = made(crop[::factor], factor, *ways[name])
                similar = structural_similarity(image, crop, data_range=255)
                share = contrast(image) / contrast(crop)
                sums[name] += (decibels(image, crop, 255), similar, share)
        rows += [[f"x{factor} {name}", *(s / len(FIELDS))] for name, s in sums.items()]
    rows = [[name, a, f"{b:.3f}", c] for name, a, b, c in rows]
    table(["rows kept, method", "PSNR", "SSIM", "contrast"], rows)


def slice_distance(image: np.ndarray, truth: np.ndarray, span: float) -> float:
    """Frechet distance of 4x8 patches of XZ and YZ slices, both as Gaussians; span is 10."""

    def moments(image: np.ndarray, axis: int) -> Moments:
        slices = np.moveaxis(image, axis, 0) * (10 / span)
        n, h, w = len(slices), slices.shape[1] // 4, slices.shape[2] // 8
        cut = slices[:, : 4 * h, : 8 * w].reshape(n, h, 4, w, 8).transpose(0, 1, 3, 2, 4)
        return nothing(32).joined(cut.reshape(-1, 32).astype(np.float64))

    return float(np.mean([frechet(moments(image, a), moments(truth, a)) for a in (1, 2)]))


def stacks() -> dict[str, np.ndarray]:
    found = {}
    for path in sorted((DATA / "stacks").glob("*.tif")):
        planes = tifffile.imread(path).astype(np.float32)
        if planes.ndim == 3:
            found[path.stem[:26]] = planes
            continue
        for c, channel in enumerate(
            planes if path.stem.startswith("plantseg") else planes.swapaxes(0, 1)
        ):
            found[f"{path.stem[:23]} c{c}"] = channel
    return found


def hiding(
    found: Iterable[tuple[str, np.ndarray]],
) -> Iterator[tuple[str, int, np.ndarray, np.ndarray, float]]:
    """(name, factor, true planes, which of them are hidden, range of values) for x2 and x4."""
    for name, planes in found:
        for factor in (2, 4):
            count = (len(planes) - 1) // factor * factor + 1
            if count > 2 * factor:
                truth, hidden = planes[:count], np.arange(count) % factor != 0
                span = float(np.percentile(truth, 99.9) - np.percentile(truth, 0.5))
                yield name, factor, truth, hidden, span


def dropped() -> None:
    rows = []
    for name, factor, truth, hidden, span in hiding(stacks().items()):
        cells: list[object] = [f"{name} x{factor}"]
        scores = {}
        for way in (*PLAIN, "diffusion"):
            if way in PLAIN:
                image = interpolation.interpolated(truth[::factor], factor, PLAIN[way])
            else:
                image = made(truth[::factor], factor)
            assert np.array_equal(image[~hidden], truth[::factor]), name
            both = zip(image[hidden], truth[hidden], strict=True)
            similar = np.mean([structural_similarity(a, b, data_range=span) for a, b in both])
            scores[way] = decibels(image[hidden], truth[hidden], span)
            distance = slice_distance(image, truth, span)
            cells.append(f"{scores[way]:.2f} {similar:.3f} {distance:.2f}")
        gain = scores["diffusion"] - max(scores[way] for way in PLAIN)
        rows.append([*cells, f"{gain:+.2f}"])
        print(*rows[-1], flush=True)
    table(["stack (PSNR SSIM distance)", *PLAIN, "diffusion", "over the best"], rows)


def oversampled(kind: str, fold: float, photons: float) -> np.ndarray:
    """Phantom (Z, Y, X), isotropic but for an axial blur that leaves 5 % at 1 / fold of Nyquist."""
    border, axial = 8, math.sqrt(2 * math.log(20)) / math.pi * fold
    large = tuple(n + 2 * border for n in SHAPE)
    blurred = phantom.blur(phantom.volume(large, int(fold), 1.0, kind), (axial, 1.0, 1.0), 0)
    clean = blurred[(slice(border, -border),) * 3]
    gain = min(1.0, 2e4 / photons)
    return phantom.camera(clean, photons, gain, 100, 1, int(fold))[0].astype(np.float32)


def middle(planes: np.ndarray) -> np.ndarray:
    """At most 65 planes and MIDDLE px from the middle of a stack."""
    z, y, x = (
        max(0, (n - m) // 2) for n, m in zip(planes.shape, (65, MIDDLE, MIDDLE), strict=True)
    )
    return planes[z : z + 65, y : y + MIDDLE, x : x + MIDDLE]


def choices(found: Iterable[tuple[str, np.ndarray]]) -> None:
    rows, short = [], []
    for name, factor, truth, hidden, span in hiding(found):
        linear, cubic = (interpolation.interpolated(truth[::factor], factor, PLAIN[kind])
                         for kind in ("linear", "cubic"))  # fmt: skip
        model = made(truth[::factor], factor, "--anchor", "linear", "--strength", 1)
        chosen, told = run(truth[::factor], factor)
        assert np.array_equal(chosen[~hidden], truth[::factor]), name
        scores = [round(decibels(image[hidden], truth[hidden], span), 2)
                  for image in (linear, cubic, model, chosen)]  # fmt: skip
        mix = told["details"]["mix"]["0"]
        shares = " ".join(f"{mix[part]:.2f}" for part in ("model", "cubic", "linear"))
        over = scores[3] - max(scores[:2])
        rows.append([f"{name} x{factor}", *scores, f"{over:+.2f}", shares])
        print(*rows[-1], "unsure" if "unsure" in mix else "", flush=True)
        short += [name] if over < -0.3 else []
    table(["stack", "linear", "cubic", "model", "chosen", "over interpolation", "shares"], rows)
    print(f"{len(short)} of {len(rows)} more than 0.3 dB below the better interpolation: {short}")


def choice() -> None:
    choices((name, middle(planes)) for name, planes in stacks().items())


def synthetic() -> None:
    choices((f"{k} {f}-fold {p} photons", oversampled(k, f, p)) for k, f, p in SYNTHETIC)


def stripes() -> None:
    rows = []
    for name in ("xyz_8bit__chromosomes", "flybrain"):
        planes = next(v for n, v in stacks().items() if n.startswith(name[:20]))
        factor = 4
        count = (len(planes) - 1) // factor * factor + 1
        y, x = ((n - 64) // 2 for n in planes.shape[1:])
        truth = planes[:count, y : y + 64, x : x + 64]
        hidden = np.arange(count) % factor != 0

        def step(image: np.ndarray) -> float:
            return float(np.std(np.diff(image[hidden], axis=1)))  # noqa: B023

        for noise in ("independent", "slerp", "shared"):
            options = (*DRAWS, "--strength", 1, "--anchor", "linear", "--slice-noise", noise)
            one, both = (made(truth[::factor], factor, *options, "--sweeps", s)
                         for s in ("xz", "both"))  # fmt: skip
            rows.append([f"{name} {noise}", step(one) / step(truth), step(both) / step(truth)])
            print(*rows[-1], flush=True)
        rows.append([f"{name} default", "", step(made(truth[::factor], factor)) / step(truth)])
    table(["std of the step across XZ slices, over the truth's", "XZ only", "averaged"], rows)


def speed() -> None:
    rows = []
    for shape in ((20, 256, 256), (40, 256, 256), (20, 512, 256), (20, 256, 512)):
        planes = phantom.volume((4, *shape[1:]), 0, 2.0).repeat(-(-shape[0] // 4), 0)[: shape[0]]
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "in.tif")
            tifffile.imwrite(source, (planes * 1000).astype(np.uint16), metadata={"axes": "ZYX"})
            _, seconds = restorectl("superres3d", source, "-o", Path(folder, "out"), "--factor", 2,
                                    "--axes", "ZYX")  # fmt: skip
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        rows.append(["x".join(map(str, shape)), 2 * shape[0] - 1, seconds, f"{peak:.0f}"])
        print(*rows[-1], flush=True)
    table(["Z x Y x X", "planes", "seconds", "largest MiB so far"], rows)


if __name__ == "__main__":
    parts = {"2d": paired, "3d": dropped, "choice": choice, "synthetic": synthetic,
             "stripes": stripes, "speed": speed}  # fmt: skip
    if sys.argv[1:] != ["synthetic"]:
        need_data()
    for chosen in sys.argv[1:] or parts:
        parts[chosen]()
