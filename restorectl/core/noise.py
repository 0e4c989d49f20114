"""Blind estimation of image noise: variance as a function of the signal, and its correlation.

The model is variance(s) = gain (s - offset) + read_noise^2 (Foi, Trimeche, Katkovnik, Egiazarian,
IEEE TIP 17(10), 2008) times a spectrum that may rise towards low frequencies, as it does after
camera or microscope software has interpolated or smoothed an image (Lebrun, Colom, Morel, "The
Noise Clinic", IPOL 5, 2015). Both are read off the orthonormal 8x8 DCT of blocks, in which white
noise has the same variance everywhere and texture sits at low frequencies (Ponomarenko et al.,
SPIE 6497, 2007):

1. Blocks are binned by their mean. Within a bin only blocks whose *neighbours* are flat are used:
   a choice that does not look at the block itself does not bias its noise.
2. The highest frequencies give the variance per bin, a robust line through them gain and offset.
3. The ratio of lower to highest frequencies, in the bins where it is smallest, gives the spectrum.
   It is believed only as far as a short-range correlation can explain it: what rises more steeply
   from band to band than filtered noise does is texture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from restorectl.core import anscombe
from restorectl.errors import InputError

Kind = Literal["poisson-gaussian", "gaussian", "none"]

_BLOCK = 8
_QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94, 0.975, 0.99)
_MAX_PIXELS = 2_000_000
_ORDER = np.add.outer(np.arange(_BLOCK), np.arange(_BLOCK))  # row + column frequency of the DCT
_BANDS = (_ORDER >= 9, (_ORDER >= 6) & (_ORDER <= 8), (_ORDER >= 3) & (_ORDER <= 5),
          (_ORDER >= 1) & (_ORDER <= 2))  # fmt: skip
_BAND_SIZES = np.array([band.sum() for band in _BANDS], dtype=np.float64)
# Power of a band relative to the highest <= (that of the band above)^exponent. White noise behind
# Gaussian kernels of 0.3 to 1 px has exponents 1.76 and 1.24, first-order autoregressive noise
# 1.75 to 1.83 and 1.37 to 1.55, widefield camera images 1.88 and 1.22; texture 2.5 and more.
_MAX_EXPONENTS = (1.9, 1.45)


@dataclass(frozen=True)
class NoiseModel:
    """variance(s) = gain * (s - offset) + read_noise^2, all in input units, and its correlation.

    level: standard deviation that a denoiser for white noise should be told after whitening; 1 for
        white noise of many photons, less at low counts, more for spatially correlated noise.
    correlation: autocorrelation of the noise at distance 1, the larger one of the two axes.
    photons_median: median number of photons (equivalents of the gain) per pixel; inf if gain is 0.
    low_count_fraction: share of the image below 3 photons, where stabilisation is incomplete.
    good: whether the fit can be trusted; `warnings` says why not.
    """

    kind: Kind
    gain: float
    offset: float
    read_noise: float
    level: float
    correlation: float
    correlated: bool
    photons_median: float
    low_count_fraction: float
    good: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Bins:
    """Per intensity bin: mean signal, variance at the highest frequencies, band powers / it."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    ratios: NDArray[np.float64]  # (bins, 3): bands from high to low frequency
    weight: NDArray[np.float64]


def estimate(
    planes: Sequence[NDArray[np.floating]],
    *,
    kind: str = "auto",
    gain: float | None = None,
    offset: float | None = None,
    read_noise: float | None = None,
) -> NoiseModel:
    """Estimate the noise of one channel from sampled windows.

    planes: arrays (Y, X) in input units. kind: auto, poisson-gaussian, gaussian (variance does not
    depend on the signal), none (nothing to remove). gain, offset, read_noise: known values in input
    units replace estimates. Raises InputError for non-finite or constant images.
    """
    planes = _checked(planes)
    if kind == "none":
        return NoiseModel("none", 0.0, 0.0, 1.0, 0.0, 0.0, False, np.inf, 0.0, True)
    bins, means, step = _measure(planes)
    warnings: list[str] = []
    if bins is None:
        warnings.append("too little image to estimate the noise: treated as clean")
        return NoiseModel("none", 0.0, 0.0, 1.0, 0.0, 0.0, False, np.inf, 0.0, False,
                          tuple(warnings))  # fmt: skip
    spectrum = _spectrum(bins.ratios)
    per_pixel = float(spectrum @ _BAND_SIZES / _BAND_SIZES.sum())
    floor = float(min(np.percentile(p, 0.1) for p in planes))
    # No area is darker than no light: a zero crossing above the darkest blocks is a misfit.
    line, misfit = _line(bins, step, float(np.percentile(means, 0.5)), flat=kind == "gaussian")
    slope, intercept = line[0] * per_pixel, line[1] * per_pixel
    gain, offset, read_noise = _parameters(
        slope, intercept, floor, bins, (gain, offset, read_noise)
    )
    if misfit > 0.25:
        warnings.append(f"noise variance is not a line in the signal (misfit {misfit:.0%})")
    photons = np.maximum(means - offset, 0.0) / gain if gain > 0 else np.full(1, np.inf)
    correlation = _correlation(spectrum)
    if correlation > 0.25:
        warnings.append(f"noise is correlated between pixels ({correlation:.2f} at distance 1)")
    level = _stabilised(photons, read_noise / gain) if gain > 0 else 1.0
    return NoiseModel(
        kind="poisson-gaussian" if gain > 0 else "gaussian",
        gain=gain,
        offset=offset,
        read_noise=read_noise,
        level=level * float(np.sqrt(spectrum[3] / per_pixel)),
        correlation=correlation,
        correlated=correlation > 0.25,
        photons_median=float(np.median(photons)),
        low_count_fraction=float(np.mean(photons < 3.0)),
        good=misfit <= 0.25,
        warnings=tuple(warnings),
    )


def _checked(planes: Sequence[NDArray[np.floating]]) -> list[NDArray[np.float32]]:
    """Evenly chosen planes of at most 2 Mpx in all, float32; InputError if nothing can be done."""
    if not planes:
        raise InputError("no pixels to estimate the noise from")
    wanted = max(1, _MAX_PIXELS // max(p.size for p in planes))
    chosen = np.unique(
        np.linspace(0, len(planes) - 1, min(wanted, len(planes))).round().astype(int)
    )
    out = [np.asarray(planes[i], dtype=np.float32) for i in chosen]
    side = 1448  # a window larger than the budget is cut from its middle
    out = [p[max(0, (p.shape[0] - side) // 2) :, max(0, (p.shape[1] - side) // 2) :] for p in out]
    out = [p[:side, :side] for p in out]
    if not all(np.isfinite(p).all() for p in out):
        raise InputError("image has NaN or infinite pixels: replace them first")
    if min(float(p.min()) for p in out) == max(float(p.max()) for p in out):
        raise InputError("image is constant: nothing to restore")
    return out


def _dct() -> NDArray[np.float32]:
    """Orthonormal DCT-II matrix of one block side."""
    k, x = np.arange(_BLOCK)[:, None], np.arange(_BLOCK)[None]
    matrix = np.cos(np.pi * (2 * x + 1) * k / (2 * _BLOCK)) * np.sqrt(2 / _BLOCK)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


def _blocks(plane: NDArray[np.float32], dy: int, dx: int, top: float) -> NDArray[np.float64]:
    """One row per block: mean, mean and texture of its neighbours, four band powers.

    Blocks that are flat (padding) or touch saturation are left out.
    """
    part = plane[dy:, dx:]
    rows, cols = part.shape[0] // _BLOCK, part.shape[1] // _BLOCK
    part = part[: rows * _BLOCK, : cols * _BLOCK]
    block = part.reshape(rows, _BLOCK, cols, _BLOCK).transpose(0, 2, 1, 3)
    mean = block.mean((2, 3), dtype=np.float64)
    matrix = _dct()
    power = np.square(matrix @ (block - mean[..., None, None].astype(np.float32)) @ matrix.T)
    flat = power.reshape(rows, cols, -1)
    bands = np.stack([flat[..., b.ravel()].mean(-1, dtype=np.float64) for b in _BANDS], -1)
    around = _around(np.stack([mean, bands[..., 2] + bands[..., 3]], -1))
    usable = (block.max((2, 3)) < top) & (bands.sum(-1) > 0)
    return np.concatenate([mean[..., None], around, bands], -1)[usable]


def _around(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the eight neighbours, (rows, cols, n)."""
    rows, cols = values.shape[:2]
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
    total = np.zeros_like(values)
    for i in range(3):
        for j in range(3):
            total += padded[i : i + rows, j : j + cols] if (i, j) != (1, 1) else 0.0
    return total / 8.0


def _measure(
    planes: list[NDArray[np.float32]],
) -> tuple[_Bins | None, NDArray[np.float64], float]:
    """Bins, means of all blocks, quantisation step (0 if none)."""
    tables = []
    values = np.concatenate([p.ravel()[:: max(1, p.size // 65536)] for p in planes])
    levels = np.unique(values)
    step = float(np.diff(levels).min()) if 1 < len(levels) < len(values) // 4 else 0.0
    highest = max(float(p.max()) for p in planes)
    saturated = sum(int((p == highest).sum()) for p in planes) > 1e-4 * sum(p.size for p in planes)
    top = highest if saturated else np.inf
    small = sum(p.size for p in planes) < 200_000
    for plane in planes:
        for dy, dx in [(0, 0), (0, 4), (4, 0), (4, 4)] if small else [(0, 0)]:
            if min(plane.shape[0] - dy, plane.shape[1] - dx) >= _BLOCK:
                tables.append(_blocks(plane, dy, dx, top))
    table = np.concatenate(tables) if tables else np.zeros((0, 7))
    if len(table) < 16:
        return None, table[:, 0], step
    # Binned by the neighbours' mean: binning by a block's own noisy mean would correlate the two
    # and flatten the line (regression dilution). Finer at the top, where few blocks decide.
    order = np.argsort(table[:, 1], kind="stable")
    found = []
    for index in np.split(order, _edges(len(order))):
        chosen = index[np.argsort(table[index, 2], kind="stable")[: max(16, len(index) // 3)]]
        powers = np.array([_clipped_mean(table[chosen, 3 + band]) for band in range(4)])
        if powers[0] > 0:
            found.append((table[chosen, 0].mean(), powers[0], *(powers[1:] / powers[0]), len(chosen)))
    if not found:
        return None, table[:, 0], step
    data = np.array(found)
    return _Bins(data[:, 0], data[:, 1], data[:, 2:5], data[:, 5]), table[:, 0], step


def _edges(count: int) -> NDArray[np.int64]:
    """Where to split `count` sorted blocks: thirteen bins, or fewer of at least 24 blocks."""
    cuts = (np.array(_QUANTILES) * count).astype(np.int64)
    kept: list[int] = []
    for cut in cuts:
        if cut - (kept[-1] if kept else 0) >= 24 and count - cut >= 24:
            kept.append(int(cut))
    return np.array(kept, dtype=np.int64)


def _clipped_mean(values: NDArray[np.float64]) -> float:
    """Mean after limiting outliers (edges, debris) to three times the median."""
    middle = np.median(values)
    return float(np.minimum(values, 3.0 * middle).mean()) if middle > 0 else float(values.mean())


def _spectrum(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """Noise power of the four bands, highest frequencies = 1, from (bins, 3) band ratios."""
    count = max(1, len(ratios) // 6)  # texture only adds: trust the smallest
    high, middle, low = np.sort(ratios, axis=0)[:count].mean(0)
    high = max(high, 1.0)
    middle = min(max(middle, 1.0), high ** _MAX_EXPONENTS[0])
    low = min(max(low, 1.0), middle ** _MAX_EXPONENTS[1])
    return np.array([1.0, high, middle, low])


def _correlation(spectrum: NDArray[np.float64]) -> float:
    """Autocorrelation at distance 1 of noise with this spectrum: sum of power times cosine."""
    k = np.arange(_BLOCK + 1)
    end = np.where((k == 0) | (k == _BLOCK), 0.5, 1.0)  # trapezoid rule over 0 to pi
    order = np.add.outer(k, k)
    power = np.select([order >= 9, order >= 6, order >= 3], list(spectrum[:3]), spectrum[3])
    power = power * np.outer(end, end)
    return float((power * np.cos(np.pi * k / _BLOCK)).sum() / power.sum())


def _line(
    bins: _Bins, step: float, dark: float, flat: bool
) -> tuple[tuple[float, float], float]:
    """Robust line (slope >= 0, intercept) of variance against mean, and its relative misfit.

    Iteratively reweighted least squares on relative residuals with Huber's weights.
    """
    x, y = bins.mean, np.maximum(bins.variance, step**2 / 12.0)
    slope, intercept = 0.0, float(np.median(y))
    weight = 1.0 / y
    if not flat and len(x) >= 3 and np.ptp(x) > 0:
        for _ in range(20):
            design = np.stack([x - x[0], np.ones_like(x)], 1) * weight[:, None]
            slope, at_first = np.linalg.lstsq(design, y * weight, rcond=None)[0]
            fitted = np.maximum(slope * (x - x[0]) + at_first, 0.05 * np.min(y))
            residual = (y - fitted) / fitted
            spread = max(1.4826 * float(np.median(np.abs(residual))), 0.02)
            weight = np.sqrt(np.minimum(1.0, 1.5 * spread / np.maximum(np.abs(residual), 1e-9)))
            weight /= fitted
        intercept = float(at_first - slope * x[0])
    if slope * np.ptp(x) < 0.1 * np.median(y):  # no signal dependence worth modelling
        slope, intercept = 0.0, float(np.median(y))
    if slope > 0 and -intercept / slope > dark:
        slope = float(np.median(y / np.maximum(x - dark, 0.01 * np.ptp(x))))
        intercept = -slope * dark
    fitted = np.maximum(slope * x + intercept, 0.05 * np.min(y))
    misfit = float(np.median(np.abs(y / fitted - 1.0)))
    return (float(slope), intercept), misfit


def _parameters(
    slope: float,
    intercept: float,
    floor: float,
    bins: _Bins,
    given: tuple[float | None, float | None, float | None],
) -> tuple[float, float, float]:
    """Gain, offset and read noise from variance = slope s + intercept; given values win.

    The line fixes read_noise^2 - gain offset only. The smallest offset that leaves no negative
    read noise is taken, or the floor of the image where that is higher: the inverse transform
    depends on the choice through third moments alone.
    """
    gain = slope if given[0] is None else given[0]
    if gain <= 0:
        read = float(np.sqrt(max(intercept, 1e-12))) if given[2] is None else given[2]
        return 0.0, 0.0 if given[1] is None else given[1], read
    offset = given[1]
    if offset is None:
        square = 0.0 if given[2] is None else given[2] ** 2
        offset = min(max((square - intercept) / gain, floor), float(bins.mean.min()))
    read = given[2]
    if read is None:
        read = float(np.sqrt(max(intercept + gain * offset, 0.0)))
    return float(gain), float(offset), float(read)


def _stabilised(photons: NDArray[np.float64], read: float) -> float:
    """Standard deviation of the whitened noise, averaged where the signal is.

    Below some 2 photons the transform leaves less than unit variance. An error there matters less
    after the inverse, by the square root of the signal, hence the weight.
    """
    variance = anscombe.stabilised_variance(photons, read)
    weight = photons + read**2 + 0.1
    return float(np.sqrt((variance * weight).sum() / weight.sum()))
