"""What one command does to windows: the one thing that differs between inference commands."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from restorectl.core.axes import Plane
from restorectl.core.card import Card


@dataclass(frozen=True)
class Batch:
    """Windows of one group of channels, in network units, and the way back."""

    x: np.ndarray  # (B, C_net, H, W) float32, about [-1, 1]
    sigma: np.ndarray  # (B,) float32, the model's noise level in the units of x
    sites: list[tuple[Plane, int, int]]  # first plane, row and column of each window
    inverse: Callable[[np.ndarray], np.ndarray]  # (C_net, Y, X) -> (C, Y, X) in input units
    measured: np.ndarray  # (B, C, H, W) float32, the windows in input units
    noise_std: Callable[[np.ndarray], np.ndarray]  # (C, Y, X) signal -> its noise, input units
    scale: np.ndarray  # (2, C) float32, input units that 8-bit maps call 0 and 255
    guide: np.ndarray | None = None  # (B, C_net, H, W) float32, another method's prediction


class Model(Protocol):
    """The map between the input units of some channels and the network's units."""

    @property
    def sigma(self) -> float:
        """Noise level in network units; 0 if nothing is to be removed."""
        ...

    def forward(self, planes: np.ndarray) -> np.ndarray:
        """(C, Y, X) float32 in input units -> (C_net, Y, X) float32 for the network."""
        ...

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """(C_net, Y, X) -> (C, Y, X) float32 in input units."""
        ...

    def noise_std(self, planes: np.ndarray) -> np.ndarray:
        """Standard deviation of the noise on a clean signal: (C, Y, X), input units, float32."""
        ...

    def describe(self) -> dict[str, Any]:
        """What was decided, as JSON values."""
        ...

    def warnings(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Group:
    """Channels that are restored together, and what all their windows share."""

    channels: tuple[int, ...]
    model: Model
    scale: np.ndarray  # (2, C) float32, input units that 8-bit maps call 0 and 255
    shared: dict[str, Any]  # what Method.prepare decided, as JSON values


class Method(Protocol):
    """A command's way with windows."""

    @property
    def products(self) -> int:
        """Images that one input becomes; the first is the restored image."""
        ...

    @property
    def calls_per_window(self) -> int | None:
        """Network calls; None where they are decided for each image."""
        ...

    @property
    def stride(self) -> int:
        """Window sizes are multiples of this."""
        ...

    @property
    def sigma_max(self) -> float:
        """The largest noise level it can be told, in network units."""
        ...

    @property
    def card(self) -> Card:
        """Says how many channels are restored jointly, and in which range."""
        ...

    def prepare(self, pilot: Batch) -> dict[str, Any]:
        """Decide, on sampled windows of one group, what all of its windows share.

        `sigma`, the level to start from, is always among it.
        """
        ...

    @property
    def gauge(self) -> Callable[[np.ndarray], float] | None:
        """Noise level of a single window (H, W); None: one level serves the whole image."""
        ...

    def __call__(self, batch: Batch, shared: dict[str, Any]) -> np.ndarray:
        """(B, products, C, H, W) float32 in input units; `shared` is what `prepare` decided."""
        ...

    def calls(self) -> int:
        """Network calls so far, counted in windows."""
        ...
