"""The noise field: every random number is a function of where it is used, of nothing else.

A value depends on (seed, sample, plane, step, absolute pixel position) alone, so results do not
change with tile size, batch size, order, shard, file name or device count. Blocks of an absolute
grid are drawn from the counter-based Philox generator (Salmon et al. 2011) on the CPU.
"""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

BLOCK = 128  # px; part of the definition of the field: changing it changes results


@dataclass(frozen=True)
class Site:
    """Where a window lies: canonical plane (t, c, z) and the absolute pixel of its first corner."""

    plane: tuple[int, int, int]
    top: int
    left: int

    def shifted(self, channels: int) -> "Site":
        """The same place, some channels on."""
        t, c, z = self.plane
        return Site((t, c + channels, z), self.top, self.left)


@dataclass(frozen=True)
class NoiseField:
    """Standard normal numbers for one run; `sample` tells repeated restorations apart."""

    seed: int = 0
    sample: int = 0

    def draw(
        self, sites: list[Site], shape: tuple[int, int], step: int, channels: int = 1
    ) -> Tensor:
        """One (B, C, h, w) float32 normal field for windows at `sites`; negative pixels allowed.

        Jointly sampled channels are told apart as the planes c, c + 1, ... of the site's plane.
        """
        fields = [
            [self._window(site.shifted(k), shape, step) for k in range(channels)] for site in sites
        ]
        return torch.from_numpy(np.stack(fields))  # (B, C, h, w) float32

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
        return generator.standard_normal((BLOCK, BLOCK), np.float32)
