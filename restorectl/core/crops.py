"""Training crops on their way from the images to the engine."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Crops:
    """Regions of images in input units.

    pixels: (B, C, H, W) float32. dark, low, high: (B, C) float32, the smallest value and two
    robust percentiles of the channel that each region was cut from. Of pairs, pixels and partner
    (the worse image, likewise (B, C, H, W)) are in network units already.
    """

    pixels: NDArray[np.float32]
    dark: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    partner: NDArray[np.float32] | None = None
