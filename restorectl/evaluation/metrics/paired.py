"""Paired metrics of one plane: errors, correlation, structural similarity.

Arguments: prediction and target (Y, X) float64 in grey levels, and the data range L in grey levels.

SSIM is that of Wang et al. 2004 ("Image quality assessment: from error visibility to structural
similarity") with the Gaussian window of sigma 1.5 and 11 px, population covariances, K1 = 0.01 and
K2 = 0.03, averaged where the window lies inside the image. MS-SSIM is that of Wang et al. 2003
("Multi-scale structural similarity") with 2 x 2 averages between the scales; negative means of a
scale count as 0.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from restorectl.evaluation.metrics.metric import Array, PairedMetric, Undefined, mean

SIGMA, RADIUS = 1.5, 5  # px
K1, K2 = 0.01, 0.03
STRIP = 64  # rows computed at once, few enough for the processor's cache
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, the finest first


def mae(prediction: Array, target: Array, data_range: float) -> float:
    """mean |y - x|, grey levels (Osuna-Vargas et al., eq. 8)."""
    return float(np.mean(np.abs(prediction - target)))


def mse(prediction: Array, target: Array, data_range: float) -> float:
    """mean (y - x)², grey levels squared."""
    return float(np.mean((prediction - target) ** 2))


def rmse(prediction: Array, target: Array, data_range: float) -> float:
    """sqrt(MSE), grey levels."""
    return math.sqrt(mse(prediction, target, data_range))


def nrmse(prediction: Array, target: Array, data_range: float) -> float:
    """RMSE over the target's mean (Osuna-Vargas et al., eq. 9)."""
    return _over(rmse(prediction, target, data_range), float(target.mean()), "mean")


def nrmse_range(prediction: Array, target: Array, data_range: float) -> float:
    """RMSE over the target's max - min."""
    return _over(rmse(prediction, target, data_range), float(np.ptp(target)), "max - min")


def nrmse_norm(prediction: Array, target: Array, data_range: float) -> float:
    """RMSE over the target's root mean square."""
    return _over(rmse(prediction, target, data_range), math.sqrt(np.mean(target**2)), "RMS")


def psnr(prediction: Array, target: Array, data_range: float) -> float:
    """10 log10(L² / MSE) in dB (Osuna-Vargas et al., eq. 10); infinite for equal planes."""
    require_range(data_range)
    error = mse(prediction, target, data_range)
    return 10 * math.log10(data_range**2 / error) if error > 0 else math.inf


def relative_error(prediction: Array, target: Array, data_range: float) -> float:
    """MSE / L²; 0 for equal planes."""
    require_range(data_range)
    return mse(prediction, target, data_range) / data_range**2


def psnr_volume(errors: Sequence[float]) -> float:
    """PSNR in dB of all planes as one volume, from their relative errors."""
    error = mean(errors)
    return -10 * math.log10(error) if error > 0 else math.inf


def psnr_made(errors: Sequence[float]) -> float:
    """The same of the planes that are not equal to the target: those that `superres3d` made."""
    return psnr_volume([error for error in errors if error > 0] or [0.0])


def pearson(prediction: Array, target: Array, data_range: float) -> float:
    """Pearson's correlation of the pixels, -1..1."""
    a, b = prediction - prediction.mean(), target - target.mean()
    for what, image, spread in (("prediction", prediction, a), ("target", target, b)):
        if np.ptp(image) == 0 or not np.any(spread):
            raise Undefined(f"the {what} is constant ({image.flat[0]:g})")
    return float(np.sum(a * b) / math.sqrt(np.sum(a * a) * np.sum(b * b)))


def require_range(data_range: float) -> None:
    """Raises Undefined if there is no data range."""
    if not data_range > 0:
        raise Undefined("the target is constant, so it gives no data range: use `data_range` N")


def _over(error: float, scale: float, what: str) -> float:
    if not scale > 0:
        raise Undefined(f"the target's {what} is {scale:g}, which cannot be a divisor")
    return error / scale


def ssim(prediction: Array, target: Array, data_range: float) -> float:
    """Mean SSIM, -1..1. Raises Undefined for planes under 11 px and without a data range."""
    _require(target, 2 * RADIUS + 1, data_range)
    return _similarity(prediction, target, data_range)[0]


def ms_ssim(prediction: Array, target: Array, data_range: float) -> float:
    """Product over five scales, 0..1. Raises Undefined for planes under 176 px."""
    _require(target, (2 * RADIUS + 1) * 2 ** (len(WEIGHTS) - 1), data_range)
    product = 1.0
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            prediction, target = _halved(prediction), _halved(target)
        whole, contrast = _similarity(prediction, target, data_range)
        product *= max(whole if scale == len(WEIGHTS) - 1 else contrast, 0.0) ** weight
    return product


def _require(target: Array, side: int, data_range: float) -> None:
    require_range(data_range)
    if min(target.shape) < side:
        raise Undefined(f"planes of {target.shape[0]}x{target.shape[1]} px are under {side} px")


def _similarity(x: Array, y: Array, data_range: float) -> tuple[float, float]:
    """Means of SSIM and of its contrast-structure part."""
    rows, cols = x.shape[0] - 2 * RADIUS, x.shape[1] - 2 * RADIUS
    whole = contrast = 0.0
    for top in range(0, rows, STRIP):
        part = slice(top, min(top + STRIP, rows) + 2 * RADIUS)
        sums = _sums(x[part], y[part], data_range)
        whole, contrast = whole + sums[0], contrast + sums[1]
    return whole / (rows * cols), contrast / (rows * cols)


def _sums(x: Array, y: Array, data_range: float) -> tuple[float, float]:
    """The sums of both over the pixels whose Gaussian window lies inside x and y."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mx, my = _blur(x), _blur(y)
    product = mx * my
    squares = mx * mx + my * my
    covariance = _blur(x * y) - product
    variances = _blur(x * x + y * y) - squares
    contrast = (2 * covariance + c2) / (variances + c2)
    luminance = (2 * product + c1) / (squares + c1)
    return float(np.sum(luminance * contrast)), float(np.sum(contrast))


def _blur(image: Array) -> Array:
    """Gaussian mean where its window lies inside the image: (Y, X) -> (Y - 10, X - 10)."""
    smooth: Array = ndimage.gaussian_filter(image, SIGMA, radius=RADIUS)
    return smooth[RADIUS:-RADIUS, RADIUS:-RADIUS]


def _halved(image: Array) -> Array:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    rows, cols = (math.floor(side / 2) * 2 for side in image.shape)
    even = image[:rows, :cols]
    both: Array = even[::2] + even[1::2]
    means: Array = (both[:, ::2] + both[:, 1::2]) / 4
    return means


MAE = PairedMetric("mae", "lower", mae)
MSE = PairedMetric("mse", "lower", mse)
RMSE = PairedMetric("rmse", "lower", rmse)
NRMSE = PairedMetric("nrmse", "lower", nrmse)
NRMSE_RANGE = PairedMetric("nrmse-range", "lower", nrmse_range)
NRMSE_NORM = PairedMetric("nrmse-norm", "lower", nrmse_norm)
PSNR = PairedMetric("psnr", "higher", psnr, "dB")
PSNR_VOLUME = PairedMetric("psnr-volume", "higher", relative_error, "dB", combine=psnr_volume)
PSNR_MADE = PairedMetric(
    "psnr-made", "higher", relative_error, "dB", combine=psnr_made, unscaled=True
)
PEARSON = PairedMetric("pearson", "higher", pearson)
SSIM = PairedMetric("ssim", "higher", ssim)
MS_SSIM = PairedMetric("ms-ssim", "higher", ms_ssim)
