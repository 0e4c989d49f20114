"""Simulated degradations: turn clean images into worse exposures of the same field.

Images are in network units: whitened, with the 0.5 and 99.9 percentiles at -1 and +1. There the
noise of any camera has nearly the same level everywhere, white or correlated, and is added like
that; low photon counts are simulated by `counts`. All random numbers come from the given generator.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from restorectl.intensity import anscombe
from restorectl.training.recipe import Degradation, Noise

# Effect of noise of level s on an image's percentiles, measured on FMD: the range grows by the
# factor 1 + s, and the lower end decreases by 0.3 s.
RANGE, LOWER = 1.0, 0.3
PEDESTAL = 0.3  # largest background below the darkest pixel of a crop, network units
END = 32.0  # whitened units: 256 photons, above which the asymptotic inverse is used
NODES = 4096  # nodes of the inverse's table, with interpolation between them
INNER = 3  # px; blobs and taps are 7x7
RADIUS = 5  # px; kernels (convolutions of two blobs) are cropped to 11x11
LEAST = 0.3  # smallest ratio of the low-frequency level to the standard deviation


def uniform(
    generator: torch.Generator, shape: int | tuple[int, ...], low: float = 0.0, high: float = 1.0
) -> Tensor:
    """Uniform numbers in [low, high), float32."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def column(values: Tensor) -> Tensor:
    """(B,) or (B, 1) -> (B, 1, 1, 1): one value per sample of a batch."""
    return values.reshape(-1, 1, 1, 1)


def degrade(
    x0: Tensor, options: Degradation, noise: Noise, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Clean (B, C, H, W) float32 in about [-1, 1] -> (target, input), both on one scale.

    At inference a noisy image is scaled by its own percentiles, which are further apart than the
    clean ones. So target and input are both scaled down according to the noise level.
    """
    lowest, highest = options.level
    exponent = uniform(generator, (len(x0), 1, 1, 1))
    level = lowest * (highest / lowest) ** exponent
    y = _smoothed(x0, options.blur, options.blur_sigma, generator, squared=True)
    coarse = uniform(generator, len(x0)) < options.binning
    which = int(torch.randint(len(options.factors), (1,), generator=generator, device=x0.device))
    factor = options.factors[which]
    if options.binning > 0:
        y = torch.where(column(coarse), _binned(y, factor, "nearest"), y)
    strength = torch.where(column(coarse), level * factor, level)  # before the mean over pixels
    y = _noisy(y, strength, options, noise, generator)
    if options.binning > 0:
        y = torch.where(column(coarse), _binned(y, factor, "bilinear"), y)
    y = filtered(y, options, generator)
    target, y = ((x + 1 + LOWER * level) / (1 + RANGE * level) - 1 for x in (x0, y))
    return target, y


def filtered(y: Tensor, options: Degradation, generator: torch.Generator) -> Tensor:
    """Apply a Gaussian filter to a share of the inputs (B, C, H, W): the augmentation of DDPM
    microscopy (Osuna-Vargas et al.)."""
    return _smoothed(y, options.filter, options.filter_sigma, generator)


def _smoothed(
    x: Tensor,
    share: float,
    span: tuple[float, ...],
    generator: torch.Generator,
    squared: bool = False,
) -> Tensor:
    """Blur a share of the samples by a Gaussian of random width; `squared`: in linear intensity."""
    if share == 0:
        return x
    chosen = uniform(generator, len(x)) < share
    sigma = uniform(generator, (len(x), 1), *span)
    reach = int(3 * span[1] + 0.5)
    axis = torch.arange(-reach, reach + 1, device=x.device, dtype=torch.float32)
    line = torch.exp(-((axis / sigma) ** 2) / 2)
    kernels = line[:, :, None] * line[:, None, :]
    kernels = kernels / kernels.sum((1, 2), keepdim=True)
    floor = x.amin((1, 2, 3), keepdim=True)
    linear = (x - floor).square() if squared else x
    result = correlate(F.pad(linear, (reach,) * 4, mode="reflect"), kernels)
    if squared:
        result = result.clamp_min(0).sqrt() + floor
    return torch.where(column(chosen), result, x)


def _binned(x: Tensor, factor: int, mode: str) -> Tensor:
    """Means over blocks of factor x factor pixels (smaller at the end), resized to x's size."""
    coarse = F.avg_pool2d(x, factor, ceil_mode=True, count_include_pad=False)
    size = [n * factor for n in coarse.shape[2:]]
    fine = F.interpolate(coarse, size=size, mode=mode)
    return fine[..., : x.shape[2], : x.shape[3]]


def _noisy(
    x: Tensor, level: Tensor, options: Degradation, noise: Noise, generator: torch.Generator
) -> Tensor:
    """Add photon counting noise to a share of the samples and Gaussian noise to the others."""
    y = x.clone()
    counted = uniform(generator, len(x)) < options.poisson
    if counted.any():
        y[counted] = counts(x[counted], level[counted], options.read, generator)
    if not counted.all():
        made = camera_noise((int((~counted).sum()), *x.shape[1:]), noise, generator)
        y[~counted] += level[~counted] * made.noise
    return y


def counts(
    x0: Tensor, level: Tensor, read: tuple[float, ...], generator: torch.Generator
) -> Tensor:
    """Simulate photon counts with read noise, stabilised, at level (B, 1, 1, 1).

    x0 is taken as the mean of stabilised counts, E[f(s)]: its exact unbiased inverse is the number
    of photons (Makitalo and Foi 2013), so the mean of the result is x0. Its standard deviation is
    `level` for many photons and decreases towards zero photons, as in images.
    """
    count = len(x0)
    which = torch.randint(len(read), (count,), generator=generator, device=x0.device)
    known = _tables(read, x0.device)
    sigma, dark, inverse = column(known[0][which]), column(known[1][which]), known[2][which]
    background = column(x0.amin((1, 2, 3))) - uniform(generator, (count, 1, 1, 1), 0.0, PEDESTAL)
    z = (x0 - background) / level + dark
    place = ((z - dark) / (END - dark)).clamp(0, 1).flatten(1) * (NODES - 1)
    lower = place.long().clamp(max=NODES - 2)
    part = place - lower
    few = inverse.gather(1, lower) * (1 - part) + inverse.gather(1, lower + 1) * part
    photons = torch.where(z < END, few.reshape(z.shape), z.square() / 4 - 0.125 - sigma.square())
    found = torch.poisson(photons.clamp_min(0), generator=generator)
    normal = torch.randn(x0.shape, generator=generator, device=x0.device)
    found = 2 * (found + sigma * normal + 0.375 + sigma.square()).clamp_min(0).sqrt()
    return (found - dark) * level + background


@lru_cache(maxsize=8)
def _tables(read: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(R,) read noises, and their tables (R,) and (R, NODES), float32 on the device."""
    dark, photons = zip(*map(_table, read), strict=True)
    return (
        torch.tensor(read, device=device),
        torch.tensor(dark, device=device),
        torch.from_numpy(np.stack(photons)).to(device),
    )


@lru_cache(maxsize=32)
def _table(read: float) -> tuple[float, np.ndarray]:
    """The whitened value of no light, and photons at NODES evenly spaced values from it to END."""
    grid = np.linspace(0.0, END, NODES)
    dark = float(np.interp(0.0, anscombe.inverse_unbiased(grid, 1.0, 0.0, read), grid))
    nodes = np.linspace(dark, END, NODES)
    return dark, anscombe.inverse_unbiased(nodes, 1.0, 0.0, read)


@dataclass(frozen=True)
class SimulatedNoise:
    """noise: (B, C, H, W) float32 of unit standard deviation; low_frequency: (B,), the level of
    white noise with the same power near frequency zero."""

    noise: Tensor
    low_frequency: Tensor


def camera_noise(
    shape: tuple[int, int, int, int], options: Noise, generator: torch.Generator
) -> SimulatedNoise:
    """Simulate noise for each sample: white, correlated, or a mixture of both."""
    noise = torch.randn(shape, generator=generator, device=generator.device)
    level = torch.ones(len(noise), device=noise.device)
    chosen = (uniform(generator, len(noise)) < options.correlated).nonzero()[:, 0]
    if len(chosen):
        made = correlated_noise((len(chosen), *shape[1:]), options, generator)
        noise[chosen], level[chosen] = made.noise, made.low_frequency
    return SimulatedNoise(noise, level)


def correlated_noise(
    shape: tuple[int, int, int, int], options: Noise, generator: torch.Generator
) -> SimulatedNoise:
    """Simulate noise that neighbouring pixels share, a part of it with white noise as well."""
    count, channels, height, width = shape
    share = torch.where(
        uniform(generator, count) < options.mixed, uniform(generator, count, 0.3, 1.0), 1.0
    )  # of the variance
    kernels = random_kernels(count, options.reach, generator)
    padded = (count, channels, height + 2 * RADIUS, width + 2 * RADIUS)
    source = torch.randn(padded, generator=generator, device=generator.device)
    white = torch.randn(shape, generator=generator, device=generator.device)
    noise = white * column(1 - share).sqrt() + correlate(source, kernels) * column(share).sqrt()
    return SimulatedNoise(noise, (1 - share + share * kernels.sum((1, 2)).square()).sqrt())


def correlate(source: Tensor, kernels: Tensor) -> Tensor:
    """Filter (B, C, H + k - 1, W + k - 1) with a kernel per sample (B, k, k) -> (B, C, H, W)."""
    count, channels = source.shape[:2]
    stacked = source.reshape(1, count * channels, *source.shape[2:])
    weights = kernels.repeat_interleave(channels, 0)[:, None]
    out = F.conv2d(stacked, weights, groups=count * channels)
    return out.reshape(count, channels, *out.shape[2:])


def random_kernels(count: int, reach: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """(count, 11, 11) kernels with sum of squares 1 and a sum of at least LEAST.

    Two thirds are smooth blobs (half of them round, the rest elongated or along rows or columns
    only), one third random 3x3 or 5x5 taps (interpolation, sharpening). Half of all are convolved
    with a second blob: measured spectra of camera noise have no power at the highest frequencies
    and still rise towards the lowest ones, unlike a single blob.
    """
    family = torch.randint(0, 6, (count,), generator=generator, device=generator.device)
    kernels = torch.where(
        (family >= 4)[:, None, None], _taps(count, generator), _blobs(family, reach, generator)
    )
    single = (uniform(generator, count) < 0.5)[:, None, None]
    alone = F.pad(torch.ones_like(kernels[:, :1, :1]), (INNER,) * 4)
    second = torch.where(single, alone, _blobs(family, reach, generator))
    kernels = correlate(F.pad(kernels, (RADIUS,) * 4)[:, None], second)[:, 0]
    kernels = kernels / kernels.square().sum((1, 2), keepdim=True).sqrt()
    weak = kernels.sum((1, 2)) < LEAST  # blue noise with almost no low frequencies
    return torch.where(weak[:, None, None], kernels.abs(), kernels)


def _blobs(family: Tensor, reach: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """(B, 7, 7): exp(-|y / a|^p - |x / b|^p) with 1 <= p <= 2; Gaussian of std `reach` at p = 2."""
    count, device = len(family), family.device
    axis = torch.arange(-INNER, INNER + 1, device=device, dtype=torch.float32)
    extent = uniform(generator, (count, 2), *reach) * 2**0.5
    round_ = (family == 0) | (family >= 4)
    down = extent[:, :1].masked_fill((family == 2)[:, None], 0.05)  # rows
    across = torch.where(round_[:, None], down, extent[:, 1:])
    across = across.masked_fill((family == 3)[:, None], 0.05)  # columns
    power = uniform(generator, count, 1.0, 2.0)
    power = torch.where(round_, 2.0, power)[:, None]
    lines = [torch.exp(-((axis.abs() / reached) ** power)) for reached in (down, across)]
    return lines[0][:, :, None] * lines[1][:, None, :]


def _taps(count: int, generator: torch.Generator) -> Tensor:
    """(B, 7, 7): random numbers around 0.3 in the inner 3x3 or 5x5, and 1 at the centre."""
    device = generator.device
    axis = torch.arange(-INNER, INNER + 1, device=device)
    inside = axis.abs() <= torch.where(uniform(generator, count) < 0.5, 1, 2)[:, None]
    taps = torch.randn((count, *(2 * INNER + 1,) * 2), generator=generator, device=device)
    taps = (taps * 0.5 + 0.3) * inside[:, :, None] * inside[:, None, :]
    taps[:, INNER, INNER] = 1.0
    return taps
