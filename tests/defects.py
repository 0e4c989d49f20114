"""Images of a camera in which some pixels are no measurements, with the truth."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tests.phantom import MIX, scene

KINDS = ("border", "corners", "boxes", "bar", "blobs", "outside", "lines", "hot", "nan")
REPAIRED = ("lines", "hot")


@dataclass(frozen=True)
class Spoiled:
    """noisy: (Y, X) uint16 or float32; clean: (Y, X) float64; invalid: (Y, X) bool."""

    kind: str
    noisy: np.ndarray
    clean: np.ndarray
    invalid: np.ndarray

    @property
    def near(self) -> np.ndarray:
        """Valid pixels within 8 px of invalid ones."""
        return ~self.invalid & (ndimage.distance_transform_edt(~self.invalid) <= 8)

    def error(self, restored: np.ndarray) -> float:
        """Mean error near invalid pixels, grey levels."""
        return float((restored - self.clean)[self.near].mean())

    def psnr(self, image: np.ndarray) -> float:
        """PSNR near invalid pixels, dB."""
        clean = self.clean[self.near]
        peak = np.subtract(*np.percentile(clean, (99.9, 0.1)))
        return float(10 * np.log10(peak**2 / np.mean((image[self.near] - clean) ** 2)))


def spoiled(seed: int, shape: tuple[int, int] = (128, 144)) -> Spoiled:
    """A phantom with photons of gain 2, offset 100 and read noise 1.6, spoiled in one way."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    specimen = list(MIX)[rng.integers(len(MIX))]
    light = rng.uniform(4, 20) + rng.uniform(40, 200) * scene(specimen, shape, seed)
    noisy = np.round(100 + 2 * rng.poisson(light / 2) + rng.normal(0, 1.6, shape))
    invalid = mask(kind, shape, rng)
    value = 0.0
    if kind == "bar" or (kind in ("boxes", "hot", "lines") and rng.random() < 0.5):
        value = 65535.0
    if kind == "nan":
        return Spoiled(
            kind, np.where(invalid, np.nan, noisy).astype(np.float32), 100 + light, invalid
        )
    return Spoiled(kind, np.where(invalid, value, noisy).astype(np.uint16), 100 + light, invalid)


def mask(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Where pixels are invalid, (Y, X) bool; never nowhere."""
    found = {
        "border": _border,
        "corners": _corners,
        "boxes": lambda s, r: _boxes(s, r, r.integers(1, 5), (5, 50), (5, 50)),
        "bar": lambda s, r: _boxes(s, r, 1, (3, 9), (20, 60)),
        "blobs": _blobs,
        "outside": _blobs,
        "lines": _lines,
        "hot": lambda s, r: r.random(s) < r.choice([0.0005, 0.002]),
        "nan": lambda s, r: ndimage.binary_dilation(r.random(s) < 0.002, iterations=2),
    }[kind](shape, rng)
    if not found.any():
        found[:9, :20] = True
    return found


def _border(shape, rng):
    found = np.ones(shape, bool)
    top, bottom, left, right = rng.integers(0, 30, 4)
    found[top + 1 : shape[0] - bottom, left : shape[1] - right] = False
    return found


def _corners(shape, rng):
    rows, cols = np.indices(shape)
    found, angle = np.zeros(shape, bool), rng.uniform(0.05, 1.5)
    for turn in range(4):
        a = angle + turn * np.pi / 2
        along = (rows - shape[0] / 2) * np.sin(a) + (cols - shape[1] / 2) * np.cos(a)
        found |= along > rng.uniform(0.4, 0.5) * min(shape)
    return found


def _boxes(shape, rng, count, heights, widths):
    found = np.zeros(shape, bool)
    for _ in range(count):
        height, width = rng.integers(*heights), rng.integers(*widths)
        top, left = rng.integers(0, shape[0] - height), rng.integers(0, shape[1] - width)
        found[top : top + height, left : left + width] = True
    return found


def _blobs(shape, rng):
    field = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(6, 14))
    found = field > np.quantile(field, rng.uniform(0.4, 0.9))
    return ndimage.binary_opening(found, iterations=3)


def _lines(shape, rng):
    found = np.zeros(shape, bool)
    for _ in range(rng.integers(1, 4)):
        if rng.random() < 0.5:
            found[:, rng.integers(1, shape[1] - 1)] = True
        else:
            found[rng.integers(1, shape[0] - 1)] = True
    return found
