"""Paired metrics of one plane, from their definitions.

Arguments: prediction and target (Y, X) float64 in grey levels, and the data range L in grey levels.
"""

import math

import numpy as np

from restorectl.evaluation.metrics.metric import Array, Metric, Undefined


def mae(prediction: Array, target: Array, data_range: float) -> float:
    """mean |y - x|, grey levels (paper 002, eq. 8)."""
    return float(np.mean(np.abs(prediction - target)))


def mse(prediction: Array, target: Array, data_range: float) -> float:
    """mean (y - x)², grey levels squared."""
    return float(np.mean((prediction - target) ** 2))


def rmse(prediction: Array, target: Array, data_range: float) -> float:
    """sqrt(MSE), grey levels."""
    return math.sqrt(mse(prediction, target, data_range))


def nrmse(prediction: Array, target: Array, data_range: float) -> float:
    """RMSE over the target's mean (paper 002, eq. 9)."""
    return _over(rmse(prediction, target, data_range), float(target.mean()), "mean")


def nrmse_range(prediction: Array, target: Array, data_range: float) -> float:
    """RMSE over the target's max - min."""
    return _over(rmse(prediction, target, data_range), float(np.ptp(target)), "max - min")


def nrmse_norm(prediction: Array, target: Array, data_range: float) -> float:
    """RMSE over the target's root mean square."""
    return _over(rmse(prediction, target, data_range), math.sqrt(np.mean(target**2)), "RMS")


def psnr(prediction: Array, target: Array, data_range: float) -> float:
    """10 log10(L² / MSE) in dB (paper 002, eq. 10); infinite for equal planes."""
    require_range(data_range)
    error = mse(prediction, target, data_range)
    return 10 * math.log10(data_range**2 / error) if error > 0 else math.inf


def pearson(prediction: Array, target: Array, data_range: float) -> float:
    """Pearson's correlation of the pixels, -1..1."""
    a, b = prediction - prediction.mean(), target - target.mean()
    for what, image, spread in (("prediction", prediction, a), ("target", target, b)):
        if np.ptp(image) == 0 or not np.any(spread):
            raise Undefined(f"the {what} is constant ({image.flat[0]:g})")
    return float(np.sum(a * b) / math.sqrt(np.sum(a * a) * np.sum(b * b)))


def require_range(data_range: float) -> None:
    """Raises Undefined where there is no data range."""
    if not data_range > 0:
        raise Undefined("the target is constant, so it gives no data range: use --data-range N")


def _over(error: float, scale: float, what: str) -> float:
    if not scale > 0:
        raise Undefined(f"the target's {what} is {scale:g}, nothing to divide by")
    return error / scale


MAE = Metric("mae", "lower", mae)
MSE = Metric("mse", "lower", mse)
RMSE = Metric("rmse", "lower", rmse)
NRMSE = Metric("nrmse", "lower", nrmse)
NRMSE_RANGE = Metric("nrmse-range", "lower", nrmse_range)
NRMSE_NORM = Metric("nrmse-norm", "lower", nrmse_norm)
PSNR = Metric("psnr", "higher", psnr, "dB")
PEARSON = Metric("pearson", "higher", pearson)
