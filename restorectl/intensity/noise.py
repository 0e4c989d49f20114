"""Blind estimation of image noise: its variance as a function of the signal, and its correlation.

The model is variance(s) = gain (s - offset) + read_noise^2 (Foi, Trimeche, Katkovnik, Egiazarian,
IEEE TIP 17(10), 2008) times a spectrum that may rise towards low frequencies, as it does after
camera or microscope software has interpolated or smoothed an image (Lebrun, Colom, Morel, "The
Noise Clinic", IPOL 5, 2015). Both are estimated from the power of 8x8 blocks in four DCT bands.
White noise has the same power in every coefficient of an orthonormal DCT; texture is strongest at
low frequencies (Ponomarenko et al., SPIE 6497, 2007), so blocks with flat neighbours are used:
selection by neighbours does not bias a block's own noise. Their highest frequencies give the
variance per intensity bin, and a robust line through the bins gives gain and offset; the ratio of
lower to highest frequencies, in the bins where it is smallest, gives the spectrum. The spectrum is
limited to what short-range correlation can explain: a steeper rise from band to band is texture.

`nonparametric_level` is an independent estimator for white noise, from eigenvalues of patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from restorectl.errors import InputError, UsageError
from restorectl.intensity import anscombe
from restorectl.intensity.quantile import median, quantile

Floats = NDArray[np.float64]
Kind = Literal["poisson-gaussian", "gaussian", "none"]

KINDS = ("auto", "poisson-gaussian", "gaussian", "none")
_SIDE = 1448  # px; at most 2 Mpx are used
BELIEVED = 0.5  # a gain of less belief gives no warning about photons
_MIN_BLOCKS = 16
_MAX_MISFIT = 0.25
_CORRELATED = 0.25
# Limit: power of a band <= (power of the next higher band)^exponent. White noise smoothed by
# Gaussian kernels of 0.3 to 1 px has exponents 1.76 and 1.24, first-order autoregressive noise
# 1.75 to 1.83 and 1.37 to 1.55, widefield camera images 1.88 and 1.22; texture 2.5 and more.
_MAX_EXPONENTS = (1.9, 1.45)

_BLOCK = 8  # px, side of a block
_FREQUENCY = np.add.outer(np.arange(_BLOCK), np.arange(_BLOCK))  # row + column in the DCT
_BANDS = (
    _FREQUENCY >= 9,
    (_FREQUENCY >= 6) & (_FREQUENCY <= 8),
    (_FREQUENCY >= 3) & (_FREQUENCY <= 5),
    (_FREQUENCY >= 1) & (_FREQUENCY <= 2),
)
_BAND_SIZES = np.array([band.sum() for band in _BANDS], dtype=np.float64)
# Lower quartile of a block's band power, mean = 1: chi-square with 22, 15, 5 degrees of freedom
# gives 0.79, 0.75, 0.53, widefield camera noise (uneven within a band) 0.69, 0.72, 0.53; reduced
# here because the smallest of a dozen bins is used. Texture varies between blocks: a low quartile.
_LOWER_QUARTILES = np.array([0.70, 0.71, 0.50])
_LOWER_QUARTILES_OWN = np.array([0.69, 0.66, 0.49])  # the same for ratios, which are F distributed
_UNEQUAL = 0.9
# Finer at the top, where few blocks determine the slope of the noise variance.
_QUANTILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94, 0.975, 0.99)

# Photon counts: variance / mean differs from 1 by less than this, and twice its scatter.
_AS_COUNTS = 0.1
_ENOUGH_PHOTONS = 100

_PATCH = 8  # px, side of a patch of the non-parametric estimator
_PATCH_STEP = 3  # px between patches


@dataclass(frozen=True)
class NoiseModel:
    """variance(s) = gain * (s - offset) + read_noise^2, all in input units, and its correlation.

    level: noise level, after whitening, for a denoiser of white noise; 1 for white noise of many
        photons, less at low counts, more for spatially correlated noise.
    correlation: autocorrelation of the noise at distance 1, mean of the two axes.
    correlated: whether `correlation` exceeds 0.25.
    photons_median: median number of photons (equivalents of the gain) per pixel; inf if gain is 0.
    low_count_fraction: share of the image below 3 photons, with incomplete stabilisation.
    along: correlation of neighbouring pixels along y and x, if measured.
    uneven: whether the level varies over a plane.
    belief: 0 to 1, how far the estimate can be believed; 1 for values that are known.
    reasons: why it is less than 1.
    photon_counts: whether pixels are numbers of photons: gain 1, offset 0, no read noise.
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
    belief: float
    along: tuple[float, float] | None = None
    uneven: bool = False
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    photon_counts: bool = False

    def told(
        self,
        level: float,
        *,
        along: tuple[float, float] | None,
        uneven: bool,
        belief: float,
        reasons: Sequence[str],
    ) -> "NoiseModel":
        """The same noise at another level. Doubts are multiplied; their reasons are warned of.

        along: correlation of neighbouring pixels along y and x; None if they share no noise. A
        warning about photons rests on the gain: it goes if the gain is not believed.
        """
        belief *= self.belief
        kept = [
            text
            for text in self.warnings
            if text != self._shared() and (belief >= BELIEVED or text != self._dim())
        ]
        told = replace(
            self,
            level=level,
            correlation=0.0 if along is None else sum(along) / 2,
            correlated=along is not None,
            along=along,
            uneven=uneven,
            belief=belief,
            reasons=(*self.reasons, *reasons),
        )
        return replace(told, warnings=(*kept, *([told._shared()] if along else []), *reasons))

    def _shared(self) -> str:
        if self.along is None:
            return f"noise is correlated between pixels ({self.correlation:.2f} at distance 1)"
        down, across = self.along
        return f"noise is correlated between pixels ({across:.2f} along x, {down:.2f} along y)"

    def _dim(self) -> str:
        return f"{self.low_count_fraction:.0%} of the image has fewer than 3 photons per pixel"


def estimate(
    planes: Sequence[NDArray[np.floating]],
    *,
    kind: str = "auto",
    gain: float | None = None,
    offset: float | None = None,
    read_noise: float | None = None,
) -> NoiseModel:
    """Estimate the noise of one channel from sampled regions.

    planes: arrays (Y, X) in input units, NaN = no measurement; up to 2 Mpx are used. kind: auto,
    poisson-gaussian, gaussian (variance does not depend on the signal), none (nothing to remove).
    gain, offset, read_noise: known values in input units replace estimates. Raises InputError for
    infinite or constant images, UsageError for invalid options.
    """
    _check_options(kind, gain, read_noise)
    if kind == "none":
        return _noise_free()
    chosen = _chosen_planes(planes)
    if kind != "gaussian" and gain is offset is read_noise is None and _are_counts(chosen):
        means = np.concatenate([_sums(p) for p in chosen]) / _BLOCK**2
        counts = _model((1.0, 0.0, 0.0), means, 1.0, 0.0, 0.0)
        return replace(counts, photon_counts=True)
    blocks = _measure_blocks(chosen)
    if len(blocks.mean) < _MIN_BLOCKS or (bins := _bin_by_intensity(blocks)) is None:
        return _noise_free("too few textured blocks to estimate the noise: treated as clean")
    flat = kind == "gaussian"
    slope, intercept, _ = _fit_line(bins, blocks, flat)
    expected = np.maximum(slope * blocks.around + intercept, 0.5 * bins.variance.min())
    bins = _bin_by_intensity(blocks, expected) or bins
    slope, intercept, misfit = _fit_line(bins, blocks, flat)
    spectrum = _spectrum(bins.ratios)
    per_pixel = float(spectrum @ _BAND_SIZES / _BAND_SIZES.sum())
    floor = float(min(np.nanpercentile(p, 0.1) for p in chosen))
    known = (0.0 if flat else gain, offset, read_noise)
    found = _solve((slope * per_pixel, intercept * per_pixel), floor, bins, known)
    if found[0] <= 0 and found[2] <= 0:
        return _noise_free("no noise could be measured: treated as clean")
    correlation = _correlation(spectrum)
    relative_level = float(np.sqrt(spectrum[3] / per_pixel))
    if None not in (gain, read_noise) and correlation <= _CORRELATED:
        relative_level = 1.0  # a known camera's noise is white; the rest is texture
    return _model(found, blocks.mean, relative_level, correlation, misfit)


def transfer(
    planes: Sequence[NDArray[np.floating]],
) -> tuple[Floats, Floats] | None:
    """Mean and noise variance of the blocks of sampled regions, and of the flattest by intensity.

    (n, 2) and (bins, 2), in input units and their squares; of all frequencies, also where they
    differ. None if there are too few. Raises InputError for infinite or constant images.
    """
    blocks = _measure_blocks(_chosen_planes(planes))
    bins = _bin_by_intensity(blocks) if len(blocks.mean) >= _MIN_BLOCKS else None
    if bins is None:
        return None
    per_pixel = float(_spectrum(bins.ratios) @ _BAND_SIZES / _BAND_SIZES.sum())
    every = np.stack([blocks.mean, per_pixel * blocks.bands[:, 0]], -1)
    return every, np.stack([bins.mean, per_pixel * bins.variance], -1)


def _noise_free(warning: str = "") -> NoiseModel:
    """A model without noise, by choice or (with a warning) because none could be estimated."""
    warnings = (warning,) if warning else ()
    belief = 0.0 if warning else 1.0
    return NoiseModel(
        "none",
        gain=0.0,
        offset=0.0,
        read_noise=0.0,
        level=0.0,
        correlation=0.0,
        correlated=False,
        photons_median=float("inf"),
        low_count_fraction=0.0,
        belief=belief,
        reasons=warnings,
        warnings=warnings,
    )


def _check_options(kind: str, gain: float | None, read_noise: float | None) -> None:
    if kind not in KINDS:
        raise UsageError(f"unknown noise model {kind!r}: choose {', '.join(KINDS)}")
    if gain is not None and not gain > 0:
        raise UsageError(f"gain must be above 0, not {gain:g}")
    if read_noise is not None and not read_noise >= 0:
        raise UsageError(f"read noise must not be negative, not {read_noise:g}")


def _chosen_planes(planes: Sequence[NDArray[np.floating]]) -> list[NDArray[np.float32]]:
    """Evenly spaced planes of about 2 Mpx in all, float32, constant ones only if all are.

    Raises InputError if all numbers are equal, or infinite.
    """
    planes = [p for p in planes if not np.isnan(p).all()]
    planes = [p for p in planes if np.nanmin(p) != np.nanmax(p)] or planes
    if not planes:
        raise InputError("image has no pixels")
    wanted = max(1, _SIDE**2 // max(p.size for p in planes))
    spread = np.linspace(0, len(planes) - 1, min(wanted, len(planes)))
    out = []
    for p in (planes[round(i)] for i in spread.tolist()):
        y, x = (max(0, (n - _SIDE) // 2) for n in p.shape)
        out.append(np.asarray(p[y : y + _SIDE, x : x + _SIDE], dtype=np.float32))
    if any(np.isinf(p).any() for p in out):
        raise InputError("image has infinite pixels: replace them first")
    out = [p for p in out if not np.isnan(p).all()]
    if not out:
        raise InputError("image has no pixels")
    if min(float(np.nanmin(p)) for p in out) == max(float(np.nanmax(p)) for p in out):
        raise InputError("image is constant: nothing to restore")
    return out


def _are_counts(planes: Sequence[NDArray[np.float32]]) -> bool:
    """Whether pixels (Y, X) are photon counts: whole numbers from 0 with variance = mean.

    The variance is that of differences along both axes, which structure hardly adds to; it is
    compared in quarters of the blocks by brightness, of which the brightest is left out, because
    structure adds most there.
    """
    if min(float(p.min()) for p in planes) != 0:
        return False
    if not all(np.array_equal(p, np.rint(p)) for p in planes):
        return False
    across = [p[1:] + p[:-1] for p in planes]
    totals = np.concatenate([_sums(p[:, 1:] + p[:, :-1]) for p in across])  # of four pixels each
    squares = np.concatenate([_sums(np.diff(np.diff(p, axis=0), axis=1) ** 2) for p in planes])
    quarters = np.array_split(np.argsort(totals, kind="stable"), 4)[:3]
    ratios = []
    for part in (*quarters, np.concatenate(quarters)):
        light, square = float(totals[part].sum()), float(squares[part].sum())
        if light / 4 >= _ENOUGH_PHOTONS:
            ratios.append(abs(square / light - 1) - 2 / np.sqrt(light / 4))
    return bool(ratios) and max(ratios) < _AS_COUNTS


def _sums(plane: NDArray[np.floating]) -> Floats:
    """Sums over blocks of _BLOCK px, (Y, X) -> (n,)."""
    rows, cols = plane.shape[0] // _BLOCK, plane.shape[1] // _BLOCK
    cut = plane[: rows * _BLOCK, : cols * _BLOCK].reshape(rows, _BLOCK, cols, _BLOCK)
    return np.asarray(cut.sum((1, 3), dtype=np.float64).ravel())


# ---- blocks and bins -----------------------------------------------------------------------------
@dataclass(frozen=True)
class BlockPowers:
    """Per block: mean, mean of its neighbours, their low-frequency power, own power in four bands.

    All (n,) float64; bands (n, 4) from highest to lowest frequency, mean square per DCT
    coefficient (for white noise, its variance). step: quantisation step of the image, 0 if none.
    """

    mean: Floats
    around: Floats
    texture: Floats
    bands: Floats
    step: float


def _measure_blocks(planes: Sequence[NDArray[np.float32]]) -> BlockPowers:
    """Cut planes (Y, X) into blocks, without flat (padded) and saturated ones."""
    values = np.concatenate([p.ravel()[:: max(1, p.size // 65536)] for p in planes])
    values = values[~np.isnan(values)]
    levels = np.unique(values)
    step = float(np.diff(levels).min()) if 1 < len(levels) < len(values) // 4 else 0.0
    highest = max(float(np.nanmax(p)) for p in planes)
    pixels = sum(p.size for p in planes)
    saturated = sum(int((p == highest).sum()) for p in planes) > max(1e-4 * pixels, 4)
    small = pixels < 200_000  # if small, use four shifted grids
    tables = [np.zeros((0, 7))]
    for plane in planes:
        for dy, dx in [(0, 0), (0, 4), (4, 0), (4, 4)] if small else [(0, 0)]:
            if min(plane.shape[0] - dy, plane.shape[1] - dx) >= _BLOCK:
                tables.append(_usable_blocks(plane[dy:, dx:], highest if saturated else np.inf))
    table = np.concatenate(tables)
    return BlockPowers(table[:, 0], table[:, 1], table[:, 2], table[:, 3:], step)


def _usable_blocks(plane: NDArray[np.float32], top: float) -> Floats:
    """One row per usable block: mean, mean and texture of its neighbours, four band powers."""
    rows, cols = plane.shape[0] // _BLOCK, plane.shape[1] // _BLOCK
    cut = plane[: rows * _BLOCK, : cols * _BLOCK]
    block = cut.reshape(rows, _BLOCK, cols, _BLOCK).transpose(0, 2, 1, 3)
    mean = block.mean((2, 3), dtype=np.float64)
    k, x = np.arange(_BLOCK)[:, None], np.arange(_BLOCK)[None]
    dct = np.cos(np.pi * (2 * x + 1) * k / (2 * _BLOCK)) * np.sqrt(2 / _BLOCK)  # orthonormal DCT-II
    dct[0] /= np.sqrt(2)
    matrix = dct.astype(np.float32)
    power = np.square(matrix @ (block - mean[..., None, None].astype(np.float32)) @ matrix.T)
    flat = power.reshape(rows, cols, -1)
    bands = np.stack([flat[..., b.ravel()].mean(-1, dtype=np.float64) for b in _BANDS], -1)
    around = _mean_of_neighbours(np.stack([mean, bands[..., 2] + bands[..., 3]], -1))
    lowest, highest = block.min((2, 3)), block.max((2, 3))
    flat_block = lowest == highest
    # A partly flat block next to a flat one is the edge of a padded, masked or clipped area.
    part = (block == lowest[..., None, None]).mean((2, 3)) > 0.1
    edge = part & (_mean_of_neighbours(flat_block[..., None].astype(np.float64))[..., 0] > 0)
    usable = (highest < top) & ~flat_block & ~edge & np.isfinite(around).all(-1)
    return np.asarray(np.concatenate([mean[..., None], around, bands], -1)[usable])


def _mean_of_neighbours(values: Floats) -> Floats:
    """Mean of the eight neighbours of each block, (rows, cols, n) -> the same.

    Neighbours with NaN do not count; NaN where all have it.
    """
    known = np.isfinite(values).all(-1, keepdims=True)
    total = _sum_of_neighbours(np.asarray(np.where(known, values, 0.0)))
    if known.all():
        return np.asarray(total / 8.0)
    count = _sum_of_neighbours(known.astype(np.float64))
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _sum_of_neighbours(values: Any) -> Any:
    rows, cols = values.shape[:2]
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
    total = -values
    for i in range(3):
        for j in range(3):
            total = total + padded[i : i + rows, j : j + cols]
    return np.asarray(total)


@dataclass(frozen=True)
class IntensityBins:
    """Per intensity bin: mean signal, variance at highest frequencies, ratios of lower bands."""

    mean: Floats
    variance: Floats
    ratios: Floats  # (bins, 3), from high to low frequency


def _bin_by_intensity(blocks: BlockPowers, expected: Floats | None = None) -> IntensityBins | None:
    """Bin blocks by intensity and keep the third of each bin with the flattest neighbours.

    expected: (n,) noise variance per block from an earlier fit; powers are divided by it, so that
    flat blocks are not simply dark ones. Returns None if no bin has noise.

    Bins use the neighbours' mean: a block's own noisy mean would flatten the line through the bins
    (regression dilution).
    """
    scale = np.ones_like(blocks.mean) if expected is None else expected
    texture, bands = blocks.texture / scale, blocks.bands / scale[:, None]
    order = np.argsort(blocks.around, kind="stable")
    found = []
    for index in np.split(order, _bin_edges(len(order))):
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
    return IntensityBins(data[:, 0], data[:, 1], data[:, 2:])


def _bin_edges(count: int) -> NDArray[np.int64]:
    """Indices at which to split `count` sorted blocks into up to 13 bins of at least 24 blocks."""
    kept: list[int] = []
    for cut in (np.array(_QUANTILES) * count).astype(np.int64):
        if cut - (kept[-1] if kept else 0) >= 24 and count - cut >= 24:
            kept.append(int(cut))
    return np.array(kept, dtype=np.int64)


def _clipped_mean(values: Floats) -> float:
    """Mean with outliers (edges, debris) limited to three times the median."""
    middle = median(values)
    return float(np.minimum(values, 3.0 * middle).mean()) if middle > 0 else float(values.mean())


def _band_ratios(bands: Floats, variance: float) -> Floats:
    """Power of the lower bands relative to the highest, (3,): lower quartiles over (n, 4) blocks.

    Relative to the mean variance of the bin or, if variances differ by more than chance between
    blocks (quartiles of equal ones are 0.4 apart), to each block's own variance.
    """
    low, middle, high = (quantile(bands[:, 0], share) for share in (0.25, 0.5, 0.75))
    if high - low > _UNEQUAL * middle:
        own = bands[:, 1:] / np.maximum(bands[:, :1], 1e-3 * variance)
        return np.asarray(quantile(own, 0.25) / _LOWER_QUARTILES_OWN)
    return np.asarray(quantile(bands[:, 1:], 0.25) / variance / _LOWER_QUARTILES)


# ---- from bins to the model ----------------------------------------------------------------------
def _fit_line(bins: IntensityBins, blocks: BlockPowers, flat: bool) -> tuple[float, float, float]:
    """Robust line of variance against mean: slope >= 0, intercept, relative misfit.

    Iteratively reweighted least squares on relative residuals with Huber's weights. flat: slope 0.
    """
    x, y = bins.mean, np.maximum(bins.variance, blocks.step**2 / 12.0)
    slope, intercept = 0.0, float(np.median(y))
    lowest = 0.05 * float(y.min())
    if not flat and len(x) >= 2 and np.ptp(x) > 0:
        at = float(x.min())
        weight = 1.0 / y
        for _ in range(20):
            design = np.stack([x - at, np.ones_like(x)], 1) * weight[:, None]
            slope, value = (float(v) for v in np.linalg.lstsq(design, y * weight, rcond=None)[0])
            fitted = np.maximum(slope * (x - at) + value, lowest)
            residual = np.abs(y / fitted - 1.0)
            spread = max(1.4826 * median(residual), 0.02)
            weight = np.sqrt(np.minimum(1.0, 1.5 * spread / np.maximum(residual, 1e-9))) / fitted
        intercept = value - slope * at
        if slope * np.ptp(x) < 0.1 * np.median(y):  # no signal dependence worth modelling
            slope, intercept = 0.0, float(np.median(y))
    # Nothing is darker than no light: a zero crossing above the darkest blocks is a misfit.
    dark = float(np.percentile(blocks.mean, 0.5))
    if slope > 0 and -intercept / slope > dark:
        slope = float(np.median(y / np.maximum(x - dark, 0.01 * np.ptp(x))))
        intercept = -slope * dark
    fitted = np.maximum(slope * x + intercept, lowest)
    return slope, intercept, float(np.median(np.abs(y / fitted - 1.0)))


def _spectrum(ratios: Floats) -> Floats:
    """Noise power of the four bands, relative to the highest, from (bins, 3) band ratios."""
    count = max(1, len(ratios) // 6)  # texture only adds power: use the smallest
    high, middle, low = np.sort(ratios, axis=0)[:count].mean(0)
    high = max(high, 1.0)
    middle = min(max(middle, 1.0), high ** _MAX_EXPONENTS[0])
    low = min(max(low, 1.0), middle ** _MAX_EXPONENTS[1])
    return np.array([1.0, high, middle, low])


def _correlation(spectrum: Floats) -> float:
    """Autocorrelation at distance 1 of noise with this power in the four bands."""
    k = np.arange(_BLOCK + 1)
    end = np.where((k == 0) | (k == _BLOCK), 0.5, 1.0)  # trapezoid rule over frequencies 0 to pi
    order = np.add.outer(k, k)
    power = np.select([order >= 9, order >= 6, order >= 3], list(spectrum[:3]), spectrum[3])
    power = power * np.outer(end, end)
    return float((power * np.cos(np.pi * k / _BLOCK)).sum() / power.sum())


def _solve(
    line: tuple[float, float],
    floor: float,
    bins: IntensityBins,
    known: tuple[float | None, float | None, float | None],
) -> tuple[float, float, float]:
    """Gain, offset and read noise from variance = slope s + intercept; known values override.

    The line determines only read_noise^2 - gain offset. The offset is the smallest one that gives
    no negative read noise, but at most the floor of the image; the inverse transform depends on
    this choice only through third moments.
    """
    slope, intercept = line
    gain = slope if known[0] is None else known[0]
    offset, read = known[1], known[2]
    if gain <= 0:
        read = float(np.sqrt(max(intercept, 0.0))) if read is None else read
        return 0.0, 0.0 if offset is None else offset, read
    if known[0] is not None:  # the line of known slope through the median of the data
        intercept += (slope - gain) * float(np.median(bins.mean))
    if offset is None:
        square = 0.0 if read is None else read**2
        offset = min(max((square - intercept) / gain, floor), float(bins.mean.min()))
    if read is None:
        read = float(np.sqrt(max(intercept + gain * offset, 0.0)))
    return float(gain), float(offset), float(read)


def _model(
    parameters: tuple[float, float, float],
    means: Floats,
    relative_level: float,
    correlation: float,
    misfit: float,
) -> NoiseModel:
    """Assemble the model and its warnings. relative_level: std of lowest / of all frequencies."""
    gain, offset, read_noise = parameters
    reasons = []
    if misfit > _MAX_MISFIT:
        reasons.append(f"noise variance is not linear in the signal (misfit {misfit:.0%})")
    photons = np.maximum(means - offset, 0.0) / gain if gain > 0 else np.full(1, np.inf)
    low = float(np.mean(photons < 3.0))
    model = NoiseModel(
        kind="poisson-gaussian" if gain > 0 else "gaussian",
        gain=gain,
        offset=offset,
        read_noise=read_noise,
        level=relative_level * (_whitened_std(photons, read_noise / gain) if gain > 0 else 1.0),
        correlation=correlation,
        correlated=correlation > _CORRELATED,
        photons_median=float(np.median(photons)),
        low_count_fraction=low,
        belief=float(np.clip(_MAX_MISFIT / max(misfit, 1e-9), 0.0, 1.0)),
        reasons=tuple(reasons),
    )
    shared = [model._shared()] if model.correlated else []
    dim = [model._dim()] if low > 0.5 else []
    return replace(model, warnings=(*reasons, *shared, *dim))


def _whitened_std(photons: Floats, read: float) -> float:
    """Standard deviation of the whitened noise, averaged with the signal as weight.

    Below about 2 photons the variance is less than 1. Errors there matter less after the inverse,
    by the square root of the signal.
    """
    variance = anscombe.stabilised_variance(photons, read)
    weight = photons + read**2 + 0.1
    return float(np.sqrt((variance * weight).sum() / weight.sum()))


def nonparametric_level(image: np.ndarray) -> float:
    """Standard deviation of the noise in image (Y, X) or (C, Y, X), in the image's units.

    Clean patches lie near a subspace, so the smallest eigenvalues of the patch covariance come from
    noise alone and scatter around its variance: the largest set of them whose mean equals its
    median gives the level (Chen, Zhu and Heng, ICCV 2015). RSCD uses it as an ablation, the
    non-parametric calibrator.

    Sides are at least _PATCH px. Correlated noise is underestimated.
    """
    planes = image[None] if image.ndim == 2 else image
    views = np.lib.stride_tricks.sliding_window_view(planes, (_PATCH, _PATCH), (1, 2))
    patches = views[:, ::_PATCH_STEP, ::_PATCH_STEP].transpose(1, 2, 0, 3, 4)
    data = patches.reshape(-1, len(planes) * _PATCH**2).astype(np.float64)
    data -= data.mean(0)
    values = np.linalg.eigvalsh(data.T @ data / len(data))  # ascending
    for count in range(len(values), 0, -1):
        mean = values[:count].mean()
        if (values[:count] > mean).sum() >= (values[:count] < mean).sum():
            return float(np.sqrt(max(mean, 0.0)))
    return float(np.sqrt(max(values[0], 0.0)))
