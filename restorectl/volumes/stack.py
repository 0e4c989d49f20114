"""One stack of an open image, a region at a time, and the units it is computed in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from restorectl.engine.card import Card
from restorectl.errors import InputError
from restorectl.images import blocks
from restorectl.images.image import ALL, Image
from restorectl.intensity import value_range
from restorectl.intensity.value_range import StackRange, fit_stack_range

HELD = 256 << 20  # bytes of a stack that is read once and kept


class Units(Protocol):
    """Input units (C, ...) <-> the network's (C_net, ...)."""

    def forward(self, values: np.ndarray) -> np.ndarray: ...
    def inverse(self, x: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Roots:
    """Each channel by its own range."""

    ranges: tuple[StackRange, ...]

    def forward(self, values: np.ndarray) -> np.ndarray:
        return np.stack([r.forward(v) for r, v in zip(self.ranges, values, strict=True)])

    def inverse(self, x: np.ndarray) -> np.ndarray:
        return np.stack([r.inverse(v) for r, v in zip(self.ranges, x, strict=True)])


@dataclass(frozen=True)
class Fixed:
    """The value range and channel recipe of an imported network."""

    card: Card

    def forward(self, values: np.ndarray) -> np.ndarray:
        return value_range.forward(values, self.card.value_range, self.card.recipe)

    def inverse(self, x: np.ndarray) -> np.ndarray:
        return value_range.inverse(x, self.card.value_range, self.card.recipe)


def units(image: Image, channels: Sequence[int], card: Card) -> Units:
    """The units of a group of channels. Raises InputError for NaN and infinity."""
    if card.value_range != "whitened":
        return Fixed(card)
    ranges = []
    for c in channels:
        plan = blocks.sampled(image.header.canonical_shape, c)
        try:
            ranges.append(fit_stack_range([image.read(*block) for block in plan]))
        except InputError as error:
            raise InputError(f"{image.path}: channel {c}: {error}") from error
    return Roots(tuple(ranges))


class Stack:
    """The observed planes of one time point and a group of channels."""

    def __init__(self, image: Image, t: int, channels: Sequence[int]) -> None:
        self.image, self.t, self.channels = image, t, tuple(channels)
        _, _, self.planes, self.height, self.width = image.header.canonical_shape
        size = len(self.channels) * self.planes * self.height * self.width * 4
        self._held = self._read(ALL, ALL) if size <= HELD else None

    def read(self, rows: slice = ALL, cols: slice = ALL) -> np.ndarray:
        """(C, N, h, w) float32 in input units. Raises InputError for NaN and infinity."""
        if self._held is not None:
            return self._held[:, :, rows, cols]
        return self._read(rows, cols)

    def _read(self, rows: slice, cols: slice) -> np.ndarray:
        found = np.stack(
            [
                [
                    self.image.read((self.t, c, z), rows, cols).astype(np.float32)
                    for z in range(self.planes)
                ]
                for c in self.channels
            ]
        )
        if not np.isfinite(found).all():
            raise InputError(f"{self.image.path}: holds NaN or infinity: replace them first")
        return found
