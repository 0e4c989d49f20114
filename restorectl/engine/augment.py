"""Raw crops to varied clean images: square-root domain, [-1, 1], random gamma, gain, flips."""

from dataclasses import dataclass

import torch
from torch import Tensor

from restorectl.core.recipe import Data
from restorectl.engine.camera_noise import uniform


@dataclass(frozen=True)
class Crops:
    """pixels: (B, C, H, W) float32 in input units. dark, low, high: (B, C), the smallest value and
    two robust percentiles of the channel that the crop was cut from."""

    pixels: Tensor
    dark: Tensor
    low: Tensor
    high: Tensor


def clean(crops: Crops, options: Data, generator: torch.Generator) -> Tensor:
    """(B, C, H, W) float32; `low` becomes -1 and `high` +1 before random gain and offset."""
    count = len(crops.pixels)

    def drawn(span: tuple[float, ...]) -> Tensor:
        return uniform(generator, count, *span).reshape(-1, 1, 1, 1)

    gamma = drawn(options.gamma)
    dark = crops.dark[:, :, None, None]
    low, high = (
        (bound[:, :, None, None] - dark).clamp_min(0) ** gamma for bound in (crops.low, crops.high)
    )
    x = (crops.pixels - dark).clamp_min(0) ** gamma
    x = (x - low) * (2 / (high - low)) - 1
    x = x * drawn(options.gain) + drawn(options.offset)
    return _flipped(x, generator) if options.flips else x


def _flipped(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each sample in one of its eight orientations."""
    coins = (uniform(generator, (3, len(x))) < 0.5)[:, :, None, None, None]
    x = torch.where(coins[0], x.flip(2), x)
    x = torch.where(coins[1], x.flip(3), x)
    return torch.where(coins[2], x.transpose(2, 3), x)
