"""Noise as whitened microscope images hold it: white or correlated, of known strength."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from restorectl.core.recipe import Noise

INNER = 3  # px; blobs and taps are 7x7
RADIUS = 5  # px; kernels, a blob convolved with another, are cut to 11x11
LEAST = 0.3  # smallest ratio of the low-frequency level to the standard deviation


@dataclass(frozen=True)
class Field:
    """noise: (B, C, H, W) float32 of unit standard deviation; low_frequency: (B,), the level of
    white noise that has the same power near frequency zero."""

    noise: Tensor
    low_frequency: Tensor


def field(shape: tuple[int, int, int, int], options: Noise, generator: torch.Generator) -> Field:
    """Noise for each sample of a batch: white, correlated, or a mixture of both."""
    count, channels, height, width = shape
    white = torch.randn(shape, generator=generator, device=generator.device)
    coloured = uniform(generator, count) < options.correlated
    share = torch.where(
        uniform(generator, count) < options.mixed, uniform(generator, count, 0.3, 1.0), 1.0
    )
    share = share * coloured  # of the variance
    kernels = random_kernels(count, options.reach, generator)
    gain = kernels.sum((1, 2))
    chosen = coloured.nonzero()[:, 0]
    if len(chosen):
        padded = (len(chosen), channels, height + 2 * RADIUS, width + 2 * RADIUS)
        source = torch.randn(padded, generator=generator, device=generator.device)
        part = correlate(source, kernels[chosen])
        weight = share[chosen].reshape(-1, 1, 1, 1)
        white[chosen] = white[chosen] * (1 - weight).sqrt() + part * weight.sqrt()
    return Field(white, (1 - share + share * gain.square()).sqrt())


def correlate(source: Tensor, kernels: Tensor) -> Tensor:
    """Each sample of (B, C, H + k - 1, W + k - 1) with its own kernel (B, k, k) -> (B, C, H, W)."""
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
    and still rise towards the lowest ones, which a single blob does not give.
    """
    family = torch.randint(0, 6, (count,), generator=generator, device=generator.device)
    kernels = torch.where(
        (family >= 4)[:, None, None], _taps(count, generator), _blobs(family, reach, generator)
    )
    second = _blobs(family, reach, generator)
    single = uniform(generator, count) < 0.5
    second[single] = 0
    second[single, INNER, INNER] = 1
    kernels = correlate(F.pad(kernels, (RADIUS,) * 4)[:, None], second)[:, 0]
    kernels = kernels / kernels.square().sum((1, 2), keepdim=True).sqrt()
    weak = kernels.sum((1, 2)) < LEAST  # blue noise that has next to nothing at low frequencies
    kernels[weak] = kernels[weak].abs()
    return kernels


def _blobs(family: Tensor, reach: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """(B, 7, 7): exp(-|y / a|^p - |x / b|^p) with 1 <= p <= 2; Gaussian of std `reach` at p = 2."""
    count, device = len(family), family.device
    axis = torch.arange(-INNER, INNER + 1, device=device, dtype=torch.float32)
    extent = uniform(generator, (count, 2), *reach) * 2**0.5
    extent[family == 2, 0] = 0.05  # rows
    extent[family == 3, 1] = 0.05  # columns
    round_ = (family == 0) | (family >= 4)
    extent[round_, 1] = extent[round_, 0]
    power = uniform(generator, count, 1.0, 2.0)
    power = torch.where(round_, 2.0, power)[:, None]
    across = [torch.exp(-((axis.abs() / extent[:, i : i + 1]) ** power)) for i in (0, 1)]
    return across[0][:, :, None] * across[1][:, None, :]


def _taps(count: int, generator: torch.Generator) -> Tensor:
    """(B, 7, 7): random numbers around 0.3 in the inner 3x3 or 5x5, 1 in the middle."""
    device = generator.device
    axis = torch.arange(-INNER, INNER + 1, device=device)
    inside = axis.abs() <= torch.where(uniform(generator, count) < 0.5, 1, 2)[:, None]
    taps = torch.randn((count, *(2 * INNER + 1,) * 2), generator=generator, device=device)
    taps = (taps * 0.5 + 0.3) * inside[:, :, None] * inside[:, None, :]
    taps[:, INNER, INNER] = 1.0
    return taps


def rectangles(shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
    """(B, 1, H, W) bool: a random rectangle of 1/8 to 3/4 of each side, inside or outside of it.

    The published code uses 30 to 180 of 256 px.
    """
    count, _, height, width = shape
    spans = []
    for length in (height, width):
        size = (uniform(generator, count, 0.125, 0.75) * length).round()
        start = (uniform(generator, count) * (length - size)).round()
        at = torch.arange(length, device=generator.device)
        spans.append((at >= start[:, None]) & (at < (start + size)[:, None]))
    inside = (spans[0][:, :, None] & spans[1][:, None, :])[:, None]
    return inside ^ (uniform(generator, count) < 0.5)[:, None, None, None]


def uniform(
    generator: torch.Generator, shape: int | tuple[int, ...], low: float = 0.0, high: float = 1.0
) -> Tensor:
    """Uniform numbers in [low, high), float32."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low
