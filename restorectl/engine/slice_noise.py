"""How the noise of neighbouring slices hangs together (rows of catalog.SLICE_NOISE).

Slices that are sampled one by one with noise of their own disagree in what they make up: stripes
across them (paper 003, Table 3). Noise that neighbours share removes these without any training.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from restorectl.engine.noise import NoiseField, Site

TURN = math.pi / 32  # the whole angle over a volume: a sixteenth of that between two fields

# (slice, slices in all) -> weights of up to two fields, each with its own number
Share = Callable[[int, int], list[tuple[int, float]]]


def shared(_slice: int, _slices: int) -> list[tuple[int, float]]:
    """One field for all slices of a sweep."""
    return [(0, 1.0)]


def slerp(index: int, slices: int) -> list[tuple[int, float]]:
    """A slow turn between two independent fields, so neighbours are almost equal (ISCS, 2026)."""
    angle = math.pi / 4 + TURN * ((index + 0.5) / slices - 0.5)
    return [(0, math.cos(angle)), (1, math.sin(angle))]


def independent(index: int, _slices: int) -> list[tuple[int, float]]:
    """A field for each slice."""
    return [(index, 1.0)]


@dataclass(frozen=True)
class SliceNoise(NoiseField):
    """The noise of one sweep: a site's plane is (time, channel, slice)."""

    share: Share = shared
    slices: int = 1
    sweep: int = 0  # tells the directions apart

    def draw(
        self, sites: list[Site], shape: tuple[int, int], step: int, channels: int = 1
    ) -> Tensor:
        """One (B, C, h, w) float32 field of unit variance for windows of slices."""
        made = [self._slice(site, shape, step, channels) for site in sites]
        return torch.from_numpy(np.stack(made))

    def _slice(self, site: Site, shape: tuple[int, int], step: int, channels: int) -> np.ndarray:
        t, c, index = site.plane
        total = np.zeros((channels, *shape), np.float32)
        for number, weight in self.share(index, self.slices):
            place = Site((t, c, 2 * number + self.sweep), site.top, site.left)
            for k in range(channels):
                total[k] += np.float32(weight) * self._window(place.shifted(k), shape, step)
        return total
