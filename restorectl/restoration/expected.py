"""The error that is expected at a restored pixel, from the samples and from what lies around it."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from restorectl.intensity.photometry import keep_local_mean
from restorectl.restoration import intervals
from restorectl.restoration.intervals import Spread
from restorectl.restoration.restorer import Batch, Reduction, Samples

# Exponents of the samples' spread around a pixel, rms over Gaussians of so many px: regression of
# log |error|, beside that on the signal, on simulated noise over 31 images that are no test images
# (tests/benchmarks/bench_uncertainty.py learn). The spread of the pixel itself, the residual's
# energy, texture, gradient and Laplacian added nothing that held on other images.
EXPONENTS = {1.5: 1.0, 4.0: -0.55}
SEEN = 1.0  # px, of the Gaussian over which a removed structure shows,
AROUND = 16.0  # and that over which others are, for comparison
CHANCE = 2.5  # standard deviations of it that noise explains
SPREAD_OUT = 1.7  # height of a point of 1.2 px over that after the Gaussian
NEXT = 3  # px, side of the square to whose pixels the height counts
FAINT = 1e-3  # spread in units of the noise: less is none


@dataclass(frozen=True)
class Judged:
    """Restored tiles and what is known of their errors; each (B, C, H, W) float32."""

    spread: Spread
    mean: np.ndarray  # in input units
    noise: np.ndarray  # standard deviation of the noise of what was restored, in input units
    expected: np.ndarray  # error, in units of the noise
    signal: np.ndarray  # light, in units of the noise
    removed: np.ndarray  # height of structures that were removed, in units of the noise


def judge(samples: Samples, batch: Batch) -> Judged:
    """Reduce the samples of tiles. After averaging with neighbours less noise is left."""
    low, high = batch.scale[..., None, None]  # (C, 1, 1) each
    found = intervals.gather(samples, low, high)
    trusted = batch.trusted(found.mean)
    mean = keep_local_mean(batch.measured, found.mean, batch.floor, trusted)
    dark, photon = batch.light
    lit = np.maximum(mean, dark + photon / 2)  # where no light is expected, some may have been
    noise = np.stack([batch.noise_std(each) for each in lit])
    safe = np.where(noise > 0, noise, 1)
    residual = np.where(trusted, (batch.measured - mean) / safe, 0)
    if batch.relative is not None:
        safe = safe * batch.relative
    return Judged(
        found,
        mean,
        np.where(noise > 0, safe, 0),
        expected(found.std / safe),
        (mean - dark) / safe,
        removed(residual),
    )


def expected(spread: np.ndarray) -> np.ndarray:
    """Expected error from the samples' spread (..., Y, X), both in units of the noise."""
    logs = np.zeros_like(spread)
    for width, exponent in EXPONENTS.items():
        square = smooth(np.square(spread), width)
        logs += np.float32(exponent / 2) * np.log(np.maximum(square, FAINT**2))
    return np.asarray(np.exp(logs))


def removed(residual: np.ndarray) -> np.ndarray:
    """Height of what a restoration removed beside noise: (..., Y, X) in units of the noise.

    Noise averages out over a few pixels; what stands out of it there was a structure, which is as
    wide as NEXT.
    """
    seen = np.abs(smooth(residual, SEEN))
    noise = np.sqrt(smooth(np.square(seen), AROUND))
    white = 1 / (2 * np.sqrt(np.pi) * SEEN)  # standard deviation of smoothed white noise
    height = np.where(seen > CHANCE * np.maximum(noise, white), seen * SPREAD_OUT, 0)
    size = (1,) * (residual.ndim - 2) + (NEXT, NEXT)
    return np.asarray(ndimage.maximum_filter(height, size), np.float32)


def smooth(values: np.ndarray, width: float) -> np.ndarray:
    """Gaussian mean over the last two axes, of `width` px."""
    widths = (0,) * (values.ndim - 2) + (width, width)
    return np.asarray(ndimage.gaussian_filter(values, widths, truncate=3.0))


def _judged(samples: Samples, batch: Batch) -> np.ndarray:
    found = judge(samples, batch)
    spread = found.spread.std / np.where(found.noise > 0, found.noise, 1)
    maps = (found.expected, found.signal, found.noise, found.removed, spread)
    return np.stack((found.mean, found.mean, *maps), axis=1)  # (B, products, C, H, W)


# mean in the image's dtype and as it is, expected, signal, noise, removed, see `Judged`, and the
# samples' spread in units of the noise; around zero
JUDGED = Reduction(7, _judged, (1, 2, 3, 4, 5, 6))
