"""What one command does to windows: the one thing that differs between inference commands."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from restorectl.core.axes import Plane
from restorectl.core.intensity import Intensity


@dataclass(frozen=True)
class Batch:
    """Windows of one channel, in network units, and the way back."""

    x: np.ndarray  # (B, 1, H, W) float32, about [-1, 1]
    sigma: np.ndarray  # (B,) float32, the intensity model's noise level in the units of x
    sites: list[tuple[Plane, int, int]]  # plane, row and column of each window's first pixel
    inverse: Callable[[np.ndarray], np.ndarray]  # network units -> input units


@dataclass(frozen=True)
class Channel:
    """What all windows of one channel share."""

    model: Intensity
    shared: Any  # what Method.prepare decided, as JSON values


class Method(Protocol):
    """A command's way with windows."""

    @property
    def stride(self) -> int:
        """Window sizes are multiples of this."""
        ...

    @property
    def sigma_max(self) -> float:
        """The largest noise level it can be told, in network units."""
        ...

    def prepare(self, pilot: Batch) -> dict[str, Any]:
        """Decide, on sampled windows of one channel, what all of its windows share.

        `sigma`, the level to start from, is always among it.
        """
        ...

    def __call__(self, batch: Batch, shared: dict[str, Any]) -> np.ndarray:
        """(B, H, W) float32 in input units; `shared` is what `prepare` decided."""
        ...

    def calls(self) -> int:
        """Network calls so far, counted in windows."""
        ...
