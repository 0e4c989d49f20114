"""Turns raw crops into varied clean images: square root, [-1, 1], random gamma, gain, flips."""

import torch
from torch import Tensor

from restorectl.intensity import value_range
from restorectl.training.dataset import CropBatch
from restorectl.training.degrade import uniform
from restorectl.training.recipe import CropOptions


def clean(crops: CropBatch, options: CropOptions, generator: torch.Generator) -> Tensor:
    """Varied crops (B, C, H, W) float32; `low` maps to -1, `high` to +1 before gain and offset.

    All random numbers come from `generator`; the result is on its device.
    """
    device = generator.device
    if options.range != "whitened":
        raw = crops.pixels.cpu().numpy()
        fixed = torch.from_numpy(value_range.forward(raw, options.range, "identity"))
        return varied(fixed.to(device), options, generator)
    gamma = uniform(generator, (len(crops.pixels), 1, 1, 1), *options.gamma)
    dark, low, high = crops.ranges.to(device)[:, :, :, None, None].unbind(2)
    low, high = ((bound - dark).clamp_min(0) ** gamma for bound in (low, high))
    x = (crops.pixels.to(device) - dark).clamp_min(0) ** gamma
    return varied((x - low) * (2 / (high - low)) - 1, options, generator)


def paired(
    crops: CropBatch, options: CropOptions, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Target and input (B, C, H, W) float32 of pairs, with equal orientation, gain and offset."""
    assert crops.partner is not None
    both = torch.cat([crops.pixels, crops.partner], 1)
    target, partner = varied(both.to(generator.device), options, generator).chunk(2, 1)
    return target, partner


def unpaired(
    crops: CropBatch, options: CropOptions, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Clean crops, and noisy crops of other fields that are in network units already."""
    assert crops.partner is not None
    partner = crops.partner.to(generator.device)
    return clean(crops, options, generator), varied(partner, options, generator)


def varied(x: Tensor, options: CropOptions, generator: torch.Generator) -> Tensor:
    """Give each sample a random gain and offset, unless its range is fixed, and one of eight
    orientations."""
    if options.range == "whitened":
        gain = uniform(generator, (len(x), 1, 1, 1), *options.gain)
        x = x * gain + uniform(generator, (len(x), 1, 1, 1), *options.offset)
    if not options.flips:
        return x
    coins = (uniform(generator, (3, len(x))) < 0.5)[:, :, None, None, None]
    x = torch.where(coins[0], x.flip(2), x)
    x = torch.where(coins[1], x.flip(3), x)
    return torch.where(coins[2], x.transpose(2, 3), x)
