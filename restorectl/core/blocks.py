"""Power of 8x8 image blocks in four frequency bands: what blind noise estimation looks at.

White noise has the same power in every coefficient of an orthonormal DCT; texture is strongest at
low frequencies (Ponomarenko et al., SPIE 6497, 2007). Which blocks are flat is decided by their
*neighbours*: a choice that does not look at the block itself does not bias its noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 8
_ORDER = np.add.outer(np.arange(BLOCK), np.arange(BLOCK))  # row + column frequency of the DCT
_BANDS = (
    _ORDER >= 9,
    (_ORDER >= 6) & (_ORDER <= 8),
    (_ORDER >= 3) & (_ORDER <= 5),
    (_ORDER >= 1) & (_ORDER <= 2),
)
BAND_SIZES = np.array([band.sum() for band in _BANDS], dtype=np.float64)
# Lower quartile of a block's band power, mean = 1: chi-square with 22, 15, 5 degrees of freedom
# gives 0.79, 0.75, 0.53, widefield camera noise (uneven within a band) 0.69, 0.72, 0.53; less some
# for taking the smallest of a dozen bins. Texture varies between blocks: a low quartile.
_LOWER_QUARTILES = np.array([0.70, 0.71, 0.50])
_LOWER_QUARTILES_OWN = np.array([0.69, 0.66, 0.49])  # the same of ratios, F distributed
_UNEQUAL = 0.9
# Finer at the top, where few blocks decide the slope of the noise variance.
_QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94, 0.975, 0.99)


@dataclass(frozen=True)
class Blocks:
    """Per block: mean, mean of its neighbours, their low-frequency power, own power in four bands.

    All (n,) float64, bands (n, 4) from the highest frequencies to the lowest, mean square per DCT
    coefficient (white noise: its variance). step: quantisation step of the image, 0 if none.
    """

    mean: NDArray[np.float64]
    around: NDArray[np.float64]
    texture: NDArray[np.float64]
    bands: NDArray[np.float64]
    step: float


@dataclass(frozen=True)
class Bins:
    """Per intensity bin: mean signal, variance at the highest frequencies, lower bands / it."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    ratios: NDArray[np.float64]  # (bins, 3), from high to low frequency


def measure(planes: Sequence[NDArray[np.float32]]) -> Blocks:
    """Cut planes (Y, X) into blocks; flat (padded) and saturated ones are left out."""
    values = np.concatenate([p.ravel()[:: max(1, p.size // 65536)] for p in planes])
    levels = np.unique(values)
    step = float(np.diff(levels).min()) if 1 < len(levels) < len(values) // 4 else 0.0
    highest = max(float(p.max()) for p in planes)
    pixels = sum(p.size for p in planes)
    saturated = sum(int((p == highest).sum()) for p in planes) > max(1e-4 * pixels, 4)
    small = pixels < 200_000  # then four shifted grids
    tables = [np.zeros((0, 7))]
    for plane in planes:
        for dy, dx in [(0, 0), (0, 4), (4, 0), (4, 4)] if small else [(0, 0)]:
            if min(plane.shape[0] - dy, plane.shape[1] - dx) >= BLOCK:
                tables.append(_table(plane[dy:, dx:], highest if saturated else np.inf))
    table = np.concatenate(tables)
    return Blocks(table[:, 0], table[:, 1], table[:, 2], table[:, 3:], step)


def bin_blocks(blocks: Blocks, expected: NDArray[np.float64] | None = None) -> Bins | None:
    """Bin blocks by intensity and keep the third of each bin with the flattest neighbours.

    expected: (n,) noise variance per block from an earlier fit; powers are compared after division
    by it, so that flat does not mean dark. None where no bin holds any noise.

    Binned by the neighbours' mean: binning by a block's own noisy mean would correlate the two and
    flatten the line through the bins (regression dilution).
    """
    scale = np.ones_like(blocks.mean) if expected is None else expected
    texture, bands = blocks.texture / scale, blocks.bands / scale[:, None]
    order = np.argsort(blocks.around, kind="stable")
    found = []
    for index in np.split(order, _edges(len(order))):
        chosen = index[np.argsort(texture[index], kind="stable")[: max(16, len(index) // 3)]]
        variance = _clipped_mean(bands[chosen, 0])
        if variance > 0:
            ratios = _band_ratios(bands[chosen], variance)
            unit = float(scale[chosen].mean())
            mean = float(blocks.mean[chosen].mean())
            found.append((mean, variance * unit, *ratios))
    if not found:
        return None
    data = np.array(found)
    return Bins(data[:, 0], data[:, 1], data[:, 2:])


def correlation(spectrum: NDArray[np.float64]) -> float:
    """Autocorrelation at distance 1 of noise with this power in the four bands."""
    k = np.arange(BLOCK + 1)
    end = np.where((k == 0) | (k == BLOCK), 0.5, 1.0)  # trapezoid rule over frequencies 0 to pi
    order = np.add.outer(k, k)
    power = np.select([order >= 9, order >= 6, order >= 3], list(spectrum[:3]), spectrum[3])
    power = power * np.outer(end, end)
    return float((power * np.cos(np.pi * k / BLOCK)).sum() / power.sum())


def _dct() -> NDArray[np.float32]:
    """Orthonormal DCT-II matrix of one block side."""
    k, x = np.arange(BLOCK)[:, None], np.arange(BLOCK)[None]
    matrix = np.cos(np.pi * (2 * x + 1) * k / (2 * BLOCK)) * np.sqrt(2 / BLOCK)
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix, dtype=np.float32)


def _table(plane: NDArray[np.float32], top: float) -> NDArray[np.float64]:
    """One row per usable block: mean, mean and texture of its neighbours, four band powers."""
    rows, cols = plane.shape[0] // BLOCK, plane.shape[1] // BLOCK
    cut = plane[: rows * BLOCK, : cols * BLOCK]
    block = cut.reshape(rows, BLOCK, cols, BLOCK).transpose(0, 2, 1, 3)
    mean = block.mean((2, 3), dtype=np.float64)
    matrix = _dct()
    power = np.square(matrix @ (block - mean[..., None, None].astype(np.float32)) @ matrix.T)
    flat = power.reshape(rows, cols, -1)
    bands = np.stack([flat[..., b.ravel()].mean(-1, dtype=np.float64) for b in _BANDS], -1)
    around = _around(np.stack([mean, bands[..., 2] + bands[..., 3]], -1))
    lowest, highest = block.min((2, 3)), block.max((2, 3))
    flat_block = lowest == highest
    # Partly flat beside a flat block: the edge of a padded, masked or clipped area.
    part = (block == lowest[..., None, None]).mean((2, 3)) > 0.1
    edge = part & (_around(flat_block[..., None].astype(np.float64))[..., 0] > 0)
    usable = (highest < top) & ~flat_block & ~edge
    return np.asarray(np.concatenate([mean[..., None], around, bands], -1)[usable])


def _around(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the eight neighbours, (rows, cols, n)."""
    rows, cols = values.shape[:2]
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
    total = -values
    for i in range(3):
        for j in range(3):
            total = total + padded[i : i + rows, j : j + cols]
    return np.asarray(total / 8.0)


def _edges(count: int) -> NDArray[np.int64]:
    """Where to split `count` sorted blocks: thirteen bins, or fewer of at least 24 blocks."""
    kept: list[int] = []
    for cut in (np.array(_QUANTILES) * count).astype(np.int64):
        if cut - (kept[-1] if kept else 0) >= 24 and count - cut >= 24:
            kept.append(int(cut))
    return np.array(kept, dtype=np.int64)


def _band_ratios(bands: NDArray[np.float64], variance: float) -> NDArray[np.float64]:
    """Lower bands relative to the highest, (3,), from the lower quartile over (n, 4) blocks.

    Relative to the mean variance of the bin, or, where the blocks' variances differ by more than
    chance (quartiles 0.4 apart for equal ones), to each block's own.
    """
    low, middle, high = np.quantile(bands[:, 0], (0.25, 0.5, 0.75))
    if high - low > _UNEQUAL * middle:
        own = bands[:, 1:] / np.maximum(bands[:, :1], 1e-3 * variance)
        return np.asarray(np.quantile(own, 0.25, axis=0) / _LOWER_QUARTILES_OWN)
    return np.asarray(np.quantile(bands[:, 1:], 0.25, axis=0) / variance / _LOWER_QUARTILES)


def _clipped_mean(values: NDArray[np.float64]) -> float:
    """Mean after limiting outliers (edges, debris) to three times the median."""
    middle = np.median(values)
    return float(np.minimum(values, 3.0 * middle).mean()) if middle > 0 else float(values.mean())
