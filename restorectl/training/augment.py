"""Raw crops to varied clean images: square-root domain, [-1, 1], random gamma, gain, flips."""

import numpy as np
import torch
from torch import Tensor

from restorectl.intensity import value_range
from restorectl.training.dataset import Crops
from restorectl.training.degrade import uniform
from restorectl.training.recipe import Data


def clean(crops: Crops, options: Data, generator: torch.Generator) -> Tensor:
    """(B, C, H, W) float32; `low` becomes -1 and `high` +1 before random gain and offset.

    All random numbers come from `generator`; the result is on its device.
    """
    count, device = len(crops.pixels), generator.device
    if options.range != "whitened":
        fixed = torch.from_numpy(value_range.forward(crops.pixels, options.range, "identity"))
        return _flipped(fixed.to(device), generator) if options.flips else fixed.to(device)

    def drawn(span: tuple[float, ...]) -> Tensor:
        return uniform(generator, count, *span).reshape(-1, 1, 1, 1)

    gamma = drawn(options.gamma)
    dark, low, high = (
        torch.from_numpy(bound).to(device)[:, :, None, None]
        for bound in (crops.dark, crops.low, crops.high)
    )
    low, high = ((bound - dark).clamp_min(0) ** gamma for bound in (low, high))
    x = (torch.from_numpy(crops.pixels).to(device) - dark).clamp_min(0) ** gamma
    x = (x - low) * (2 / (high - low)) - 1
    x = x * drawn(options.gain) + drawn(options.offset)
    return _flipped(x, generator) if options.flips else x


def paired(crops: Crops, options: Data, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Target and input (B, C, H, W) float32 of pairs, in one orientation, gain and offset."""
    assert crops.partner is not None
    x = torch.from_numpy(np.concatenate([crops.pixels, crops.partner], 1)).to(generator.device)
    if options.range == "whitened":
        gain = uniform(generator, (len(x), 1, 1, 1), *options.gain)
        x = x * gain + uniform(generator, (len(x), 1, 1, 1), *options.offset)
    target, partner = (_flipped(x, generator) if options.flips else x).chunk(2, 1)
    return target, partner


def _flipped(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each sample in one of its eight orientations."""
    coins = (uniform(generator, (3, len(x))) < 0.5)[:, :, None, None, None]
    x = torch.where(coins[0], x.flip(2), x)
    x = torch.where(coins[1], x.flip(3), x)
    return torch.where(coins[2], x.transpose(2, 3), x)
