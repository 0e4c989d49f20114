"""Simulated degradations: clean images -> what a worse exposure of the same field would look like.

Network units are those of the whitened image, its 0.5 % and 99.9 % percentiles at -1 and +1, so the
noise of any camera has nearly one level there. Low counts keep their true shape: see `counts`.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from restorectl.core import anscombe
from restorectl.core.recipe import Degradation, Noise
from restorectl.engine.camera_noise import correlate, field, uniform

END = 32.0  # whitened units: 256 photons, where the asymptotic unbiased inverse takes over
NODES = 4096
PEDESTAL = 0.3  # largest background below the darkest pixel of a crop, network units
# How noise of level s moves the percentiles of an image, measured on FMD: the range grows by the
# factor 1 + s, the lower end falls by 0.3 s.
RANGE, LOWER = 1.0, 0.3


def degrade(
    x0: Tensor, options: Degradation, noise: Noise, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Clean (B, C, H, W) float32 in about [-1, 1] -> (target, input), both on one scale.

    At inference a noisy image is scaled by its own percentiles, which lie further apart than those
    of the clean one: target and input shrink together with the level.
    """
    lowest, highest = options.level
    exponent = uniform(generator, (len(x0), 1, 1, 1))
    level = lowest * (highest / lowest) ** exponent
    y = _smoothed(x0, options.blur, options.blur_sigma, generator, squared=True)
    coarse = uniform(generator, len(x0)) < options.binning
    which = int(torch.randint(len(options.factors), (1,), generator=generator, device=x0.device))
    factor = options.factors[which]
    if options.binning > 0:
        y = torch.where(_column(coarse), _binned(y, factor, "nearest"), y)
    strength = torch.where(_column(coarse), level * factor, level)  # before the mean over pixels
    y = _noisy(y, strength, options, noise, generator)
    if options.binning > 0:
        y = torch.where(_column(coarse), _binned(y, factor, "bilinear"), y)
    y = filtered(y, options, generator)
    target, y = ((x + 1 + LOWER * level) / (1 + RANGE * level) - 1 for x in (x0, y))
    return target, y


def filtered(y: Tensor, options: Degradation, generator: torch.Generator) -> Tensor:
    """Paper 002's augmentation of the input (B, C, H, W) alone: a share of it Gaussian filtered."""
    return _smoothed(y, options.filter, options.filter_sigma, generator)


def _noisy(
    x: Tensor, level: Tensor, options: Degradation, noise: Noise, generator: torch.Generator
) -> Tensor:
    """Counted photons in a share of the samples, Gaussian noise as of a camera in the others."""
    y = x.clone()
    counted = uniform(generator, len(x)) < options.poisson
    if counted.any():
        y[counted] = counts(x[counted], level[counted], options.read, generator)
    if not counted.all():
        made = field((int((~counted).sum()), *x.shape[1:]), noise, generator)
        y[~counted] += level[~counted] * made.noise
    return y


def counts(
    x0: Tensor, level: Tensor, read: tuple[float, ...], generator: torch.Generator
) -> Tensor:
    """Photons counted with read noise, stabilised, of level (B, 1, 1, 1) -> (B, C, H, W).

    x0 is taken as the mean of stabilised counts, E[f(s)]: its exact unbiased inverse is the number
    of photons (Makitalo and Foi 2013), so the mean of the result is x0. Its standard deviation is
    `level` where many photons are counted and falls towards zero photons, as it does in images.
    """
    count = len(x0)
    which = torch.randint(len(read), (count,), generator=generator, device=x0.device)
    sigma = _column(torch.tensor(read, device=x0.device)[which])
    dark = _column(torch.tensor([_table(r)[0] for r in read], device=x0.device)[which])
    inverse = torch.from_numpy(np.stack([_table(r)[1] for r in read])).to(x0.device)[which]
    background = _column(x0.amin((1, 2, 3))) - uniform(generator, (count, 1, 1, 1), 0.0, PEDESTAL)
    z = (x0 - background) / level + dark
    place = ((z - dark) / (END - dark)).clamp(0, 1).flatten(1) * (NODES - 1)
    lower = place.long().clamp(max=NODES - 2)
    part = place - lower
    known = inverse.gather(1, lower) * (1 - part) + inverse.gather(1, lower + 1) * part
    photons = torch.where(z < END, known.reshape(z.shape), z.square() / 4 - 0.125 - sigma.square())
    found = torch.poisson(photons.clamp_min(0), generator=generator)
    normal = torch.randn(x0.shape, generator=generator, device=x0.device)
    found = 2 * (found + sigma * normal + 0.375 + sigma.square()).clamp_min(0).sqrt()
    return (found - dark) * level + background


@lru_cache(maxsize=32)
def _table(read: float) -> tuple[float, np.ndarray]:
    """The whitened value of no light, and photons at NODES equidistant values from it up to END."""
    grid = np.linspace(0.0, END, NODES)
    dark = float(np.interp(0.0, anscombe.inverse_unbiased(grid, 1.0, 0.0, read), grid))
    nodes = np.linspace(dark, END, NODES)
    return dark, anscombe.inverse_unbiased(nodes, 1.0, 0.0, read)


def _column(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


def _smoothed(
    x: Tensor,
    share: float,
    span: tuple[float, ...],
    generator: torch.Generator,
    squared: bool = False,
) -> Tensor:
    """A share of the samples with a Gaussian of random width; `squared`: in linear intensity."""
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
    return torch.where(_column(chosen), result, x)


def _binned(x: Tensor, factor: int, mode: str) -> Tensor:
    """Means of factor x factor pixels (the last ones of fewer), at the size of x again."""
    coarse = F.avg_pool2d(x, factor, ceil_mode=True, count_include_pad=False)
    size = [n * factor for n in coarse.shape[2:]]
    fine = F.interpolate(coarse, size=size, mode=mode)
    return fine[..., : x.shape[2], : x.shape[3]]
