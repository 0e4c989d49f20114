"""The noise field: random numbers that depend only on where they are used.

A value depends on (seed, sample, plane, step, absolute pixel position) alone, so results do not
change with tile size, batch size, order, shard, file name or device count. Blocks of an absolute
grid are drawn from the counter-based Philox generator (Salmon et al. 2011) on the CPU.

Slices sampled with independent noise differ in their generated detail, which shows as stripes
across the slices (MSDSR, Table 3). Sharing noise between neighbours removes the stripes without
training; the rows of catalog.SLICE_NOISE are the ways to share it.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

UNIFORM = -1  # the step of `uniform`; those of `draw` are not negative
BLOCK = 128  # px; part of the definition of the field: changing it changes results


@dataclass(frozen=True)
class Site:
    """Where a tile lies: its plane (t, c, z) and the pixel of its top left corner in the plane."""

    plane: tuple[int, int, int]
    top: int
    left: int

    def shifted(self, channels: int) -> "Site":
        """The same place in the plane of channel c + `channels`."""
        t, c, z = self.plane
        return Site((t, c + channels, z), self.top, self.left)


@dataclass(frozen=True)
class NoiseField:
    """Standard normal numbers of one run; `sample` numbers repeated restorations."""

    seed: int = 0
    sample: int = 0

    def draw(
        self, sites: list[Site], shape: tuple[int, int], step: int, channels: int = 1
    ) -> Tensor:
        """Standard normal noise (B, C, h, w) float32 for tiles at `sites`; they may be negative.

        Channels sampled together use the noise of planes c, c + 1, ... from the site's plane on.
        """
        fields = [
            [self._window(site.shifted(k), shape, step) for k in range(channels)] for site in sites
        ]
        return torch.from_numpy(np.stack(fields))  # (B, C, h, w) float32

    def uniform(self, site: Site, shape: tuple[int, int]) -> np.ndarray:
        """Uniform numbers in [0, 1) for a tile, (h, w) float32; independent of what `draw` gives.

        See `_even`: sums over squares are hardly noisy.
        """
        return self._window(site, shape, UNIFORM)

    def _window(self, site: Site, shape: tuple[int, int], step: int) -> np.ndarray:
        out = np.empty(shape, np.float32)
        height, width = shape
        for row in range(site.top // BLOCK, (site.top + height - 1) // BLOCK + 1):
            for col in range(site.left // BLOCK, (site.left + width - 1) // BLOCK + 1):
                block = self._block((*site.plane, step, row, col))
                top, left = row * BLOCK - site.top, col * BLOCK - site.left
                y0, x0 = max(top, 0), max(left, 0)
                y1, x1 = min(top + BLOCK, height), min(left + BLOCK, width)
                out[y0:y1, x0:x1] = block[y0 - top : y1 - top, x0 - left : x1 - left]
        return out

    def _block(self, position: tuple[int, ...]) -> np.ndarray:
        name = np.array((self.seed, self.sample, *position), np.int64).tobytes()
        key = int.from_bytes(blake2b(name, digest_size=16).digest(), "little")
        generator = np.random.Generator(np.random.Philox(key=key))
        if position[3] == UNIFORM:
            return _even(generator)
        return generator.standard_normal((BLOCK, BLOCK), np.float32)


ORDERS = np.array(list(itertools.permutations(range(4))))  # (24, 4)
LEVELS = int(math.log2(BLOCK))


def _even(generator: np.random.Generator) -> np.ndarray:
    """(BLOCK, BLOCK) float32: each number is uniform in [0, 1), squares of them are even.

    Aligned squares of 2, 4, 8, ... BLOCK px have one number in each of as many equal intervals as
    they have pixels: Bayer's ordered dither (1973) with a random order in every place. Dithering
    with it moves the error of rounding to the highest frequencies and keeps local means.
    """
    rows, cols = np.indices((BLOCK, BLOCK))
    value = np.zeros((BLOCK, BLOCK), np.int64)  # digits of base 4, the first counts most
    for k in range(LEVELS):
        # The four pixels of a square of 2^(k+1) px with equal digits, one a quarter, get 0 to 3.
        square = (rows >> (k + 1)) * (BLOCK >> (k + 1)) + (cols >> (k + 1))
        quarter = (rows >> k & 1) * 2 + (cols >> k & 1)
        order = generator.integers(len(ORDERS), size=BLOCK * BLOCK // 4)[square * 4**k + value]
        value = value * 4 + ORDERS[order, quarter]
    rest = 24 - 2 * LEVELS  # bits of float32
    fine = generator.integers(1 << rest, size=value.shape)
    return np.asarray((value << rest | fine) * 2.0**-24, np.float32)


TURN = math.pi / 32  # rad, from the first slice to the last; pi / 2 = from one field to the other

# (slice, number of slices) -> (number, weight) of one or two independent fields
FieldWeights = Callable[[int, int], list[tuple[int, float]]]


def shared(_slice: int, _slices: int) -> list[tuple[int, float]]:
    """The same field for all slices of a direction."""
    return [(0, 1.0)]


def slerp(index: int, slices: int) -> list[tuple[int, float]]:
    """Interpolate slowly between two independent fields: neighbours are similar (ISCS, 2026)."""
    angle = math.pi / 4 + TURN * ((index + 0.5) / slices - 0.5)
    return [(0, math.cos(angle)), (1, math.sin(angle))]


def independent(index: int, _slices: int) -> list[tuple[int, float]]:
    """A separate field for each slice."""
    return [(index, 1.0)]


@dataclass(frozen=True)
class SliceNoise(NoiseField):
    """The noise of the slices of one direction: a site's plane is (time, channel, slice)."""

    weights: FieldWeights = shared
    slices: int = 1  # number of slices
    direction: int = 0  # 0 or 1: each direction has its own noise

    def draw(
        self, sites: list[Site], shape: tuple[int, int], step: int, channels: int = 1
    ) -> Tensor:
        """Noise of unit variance (B, C, h, w) float32 for tiles of slices."""
        made = [self._slice(site, shape, step, channels) for site in sites]
        return torch.from_numpy(np.stack(made))

    def _slice(self, site: Site, shape: tuple[int, int], step: int, channels: int) -> np.ndarray:
        t, c, index = site.plane
        total = np.zeros((channels, *shape), np.float32)
        for number, weight in self.weights(index, self.slices):
            place = Site((t, c, 2 * number + self.direction), site.top, site.left)
            for k in range(channels):
                total[k] += np.float32(weight) * self._window(place.shifted(k), shape, step)
        return total
