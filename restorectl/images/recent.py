"""Decoded pieces of images, kept for regions and crops that need them again."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

READING = 256 << 20  # bytes of the pieces that one open image keeps


class Recent:
    """Arrays up to `room` bytes, at least one; the least recently used is dropped first."""

    def __init__(self, room: int = READING) -> None:
        self.room, self.held = room, 0
        self.arrays: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of this key, made if it is not kept."""
        if key not in self.arrays:
            self.arrays[key] = make()
            self.held += self.arrays[key].nbytes
            while self.held > self.room and len(self.arrays) > 1:
                self.held -= self.arrays.popitem(last=False)[1].nbytes
        self.arrays.move_to_end(key)
        return self.arrays[key]

    def clear(self) -> None:
        """Drop all arrays."""
        self.arrays.clear()
        self.held = 0
