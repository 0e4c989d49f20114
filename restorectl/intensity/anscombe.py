"""The generalised Anscombe transform and its inverses.

Signal-dependent noise s = gain * Poisson(lambda) + Normal(offset, read_noise^2) becomes noise of
about unit variance (Starck, Murtagh, Bijaoui, "Image Processing and Data Analysis", 1998, eq. 2.5).
The inverse that makes denoised values unbiased is the exact one of Makitalo and Foi, "Optimal
inversion of the generalized Anscombe transformation for Poisson-Gaussian noise", IEEE TIP 22(1),
2013: it maps E[f(s) | lambda] to E[s | lambda].

All functions take gain, offset and read_noise in the units of the image. A gain of 0 means purely
Gaussian noise: the transform is then (s - offset) / read_noise and both inverses are the same.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_TABLE_END = 200.0  # photons; above this the asymptotic inverse is accurate to 1e-5 of lambda
_TABLE_SIZE = 512


@dataclass(frozen=True)
class _Table:
    """Mean and variance of the transform by number of photons, all (_TABLE_SIZE,) float64.

    correction: photons to add to the asymptotic inverse at `expected`; slope: d photons / dz at 0.
    """

    photons: NDArray[np.float64]
    expected: NDArray[np.float64]
    variance: NDArray[np.float64]
    correction: NDArray[np.float64]
    slope: float


def forward(
    image: NDArray[np.floating], gain: float, offset: float, read_noise: float
) -> NDArray[np.float32]:
    """Stabilise the variance: z = 2 / gain * sqrt(max(gain (s - offset) + 3/8 gain^2 + read^2, 0)).

    image: any shape, input units. Returns the same shape, float32, noise of about unit std
    (less below about 2 photons per pixel).
    """
    s = np.asarray(image, dtype=np.float32)
    if gain <= 0:
        return np.asarray((s - np.float32(offset)) / np.float32(_positive(read_noise)), np.float32)
    pedestal = 0.375 + (read_noise / gain) ** 2
    # float32 scalars keep float32; subtract first, in input units, for precision
    photons = (s - np.float32(offset)) * np.float32(1.0 / gain)
    z = 2.0 * np.sqrt(np.maximum(photons + np.float32(pedestal), np.float32(0)))
    return np.asarray(z, dtype=np.float32)


def inverse_algebraic(
    z: NDArray[np.floating], gain: float, offset: float, read_noise: float
) -> NDArray[np.float32]:
    """The algebraic inverse of `forward`; values below 0 count as 0.

    It inverts the transform of single values; for averages it is biased (too dark).
    z: any shape, whitened units. Returns the same shape, float32, input units.
    """
    z64 = np.asarray(z, dtype=np.float64)
    if gain <= 0:
        return (z64 * _positive(read_noise) + offset).astype(np.float32)
    photons = np.maximum(z64, 0.0) ** 2 / 4.0 - 0.375 - (read_noise / gain) ** 2
    return (photons * gain + offset).astype(np.float32)


def inverse_unbiased(
    z: NDArray[np.floating], gain: float, offset: float, read_noise: float
) -> NDArray[np.float32]:
    """The exact unbiased inverse: E[forward(s) | lambda] -> gain * lambda + offset.

    Makitalo and Foi 2013: tabulated by summation over the Poisson counts and integration over the
    read noise up to 200 photons, asymptotic (z^2/4 - 1/8 - (read/gain)^2) above. Below the value of
    no light the table is extended linearly, so that fluctuations around a dark background do not
    become a positive bias. Strictly increasing for every z.

    z: any shape, whitened units. Returns the same shape, float32, input units.
    """
    if gain <= 0:
        return inverse_algebraic(z, gain, offset, read_noise)
    read = read_noise / gain
    table = _table(read)
    dark = table.expected[0]
    z64 = np.asarray(z, dtype=np.float64)
    above = np.maximum(z64, dark)
    photons = above**2 / 4.0 - 0.125 - read**2
    photons = photons + np.interp(above, table.expected, table.correction)
    photons = photons + table.slope * np.minimum(z64 - dark, 0.0)
    return np.asarray(photons * gain + offset, dtype=np.float32)


def stabilised_variance(photons: NDArray[np.floating], read: float) -> NDArray[np.float64]:
    """Variance of `forward` of Poisson(photons) plus read noise (in photons): 1 for many photons.

    photons: any shape, >= 0. Returns the same shape; 1 above the table's range.
    """
    table = _table(read)
    values = np.interp(np.asarray(photons, dtype=np.float64), table.photons, table.variance)
    return np.asarray(values, dtype=np.float64)


@lru_cache(maxsize=32)
def _table(read: float) -> _Table:
    """The table for a read noise in photons; nodes are evenly spaced in sqrt(lambda)."""
    photons, counts, poisson = _poisson()
    expected, variance = _moments(counts, poisson, read)
    correction = photons - (expected**2 / 4.0 - 0.125 - read**2)
    # With large read noise z hardly depends on lambda, and single steps could round to 0.
    slope = float((photons[4] - photons[0]) / max(expected[4] - expected[0], 1e-12))
    return _Table(photons, expected, variance, correction, slope)


@lru_cache(maxsize=1)
def _poisson() -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Photons (_TABLE_SIZE,), counts (K,), and the probability of each count (_TABLE_SIZE, K)."""
    photons = np.linspace(0.0, np.sqrt(_TABLE_END), _TABLE_SIZE) ** 2
    counts = np.arange(int(photons.max() + 12.0 * np.sqrt(photons.max()) + 30))
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.maximum(counts[1:], 1)))])
    log_photons = np.log(np.maximum(photons, 1e-300))
    log_weight = np.outer(log_photons, counts) - log_factorial - photons[:, None]
    return photons, counts, np.exp(np.where(counts == 0, -photons[:, None], log_weight))


def _moments(
    counts: NDArray[np.int64], poisson: NDArray[np.float64], read: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean, variance of 2 sqrt(max(k + read n + 3/8 + read^2, 0)), k Poisson, n normal."""
    if read > 0:
        n = np.linspace(-7.0, 7.0, 1401)
        weight = np.exp(-(n**2) / 2.0)
        weight /= weight.sum()
    else:
        n, weight = np.zeros(1), np.ones(1)
    values = counts[:, None] + read * n
    values += 0.375  # in place: new arrays of this size would take longer than the numbers
    values += read**2
    np.maximum(values, 0.0, out=values)
    square = 4.0 * (values @ weight)
    mean: NDArray[np.float64] = poisson @ (2.0 * (np.sqrt(values, out=values) @ weight))
    variance = np.maximum(poisson @ square - mean**2, 0.0)
    return mean, np.asarray(variance)


def _positive(read_noise: float) -> float:
    return read_noise if read_noise > 0 else 1.0
