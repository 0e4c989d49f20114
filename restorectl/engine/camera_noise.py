"""Noise as whitened microscope images hold it: white or correlated, of known strength."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from restorectl.core.recipe import Noise

RADIUS = 3  # px; kernels are 7x7
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
    kernels = random_kernels(count, options.reach, generator)  # (B, 7, 7), unit energy
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
    """Each sample of (B, C, H + 6, W + 6) with its own kernel of (B, 7, 7) -> (B, C, H, W)."""
    count, channels = source.shape[:2]
    stacked = source.reshape(1, count * channels, *source.shape[2:])
    weights = kernels.repeat_interleave(channels, 0)[:, None]
    out = F.conv2d(stacked, weights, groups=count * channels)
    return out.reshape(count, channels, *out.shape[2:])


def random_kernels(count: int, reach: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """(count, 7, 7) kernels with sum of squares 1 and a sum of at least LEAST.

    A third each: smooth blobs exp(-|y/a|^p - |x/b|^p) with 1 <= p <= 2 (Gaussian at 2), the same
    along rows or columns only, and random 3x3 or 5x5 taps (interpolation, sharpening).
    """
    device = generator.device
    axis = torch.arange(-RADIUS, RADIUS + 1, device=device, dtype=torch.float32)
    low, high = reach
    extent = uniform(generator, (count, 2), low, high) * 2**0.5
    family = torch.randint(0, 6, (count,), generator=generator, device=device)
    extent[family == 2, 0] = 0.05  # rows
    extent[family == 3, 1] = 0.05  # columns
    extent[family == 0, 1] = extent[family == 0, 0]  # round
    power = uniform(generator, count, 1.0, 2.0)[:, None]
    power = torch.where((family == 0)[:, None], 2.0, power)
    profiles = [torch.exp(-((axis.abs() / extent[:, i : i + 1]) ** power)) for i in (0, 1)]
    blobs = profiles[0][:, :, None] * profiles[1][:, None, :]
    reach_px = torch.where(uniform(generator, count) < 0.5, 1, 2)[:, None]
    inside = (axis.abs() <= reach_px).float()
    taps = torch.randn((count, 7, 7), generator=generator, device=device) * 0.5 + 0.3
    taps = taps * inside[:, :, None] * inside[:, None, :]
    taps[:, RADIUS, RADIUS] = 1.0
    kernels = torch.where((family >= 4)[:, None, None], taps, blobs)
    kernels = kernels / kernels.square().sum((1, 2), keepdim=True).sqrt()
    weak = kernels.sum((1, 2)) < LEAST  # blue noise that has next to nothing at low frequencies
    kernels[weak] = kernels[weak].abs()
    return kernels


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
