"""Converts image channels to a network's inputs and back, without a noise model.

Networks that restorectl trained on single planes use whitened values (`whitening`). Imported ones
use detector counts on a fixed scale, several channels at once, some with a channel computed from
the others; the card's `value_range` and `recipe` name both. Scales are powers of two, so 16-bit
integers survive the round trip exactly. Slice networks use square roots in a range measured once
for all planes of a stack, a `StackRange`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from restorectl.errors import InputError, WeightsError


@dataclass(frozen=True)
class ValueRange:
    """Network value = scale * count + offset, limited to `limits`."""

    scale: float = 1.0
    offset: float = 0.0
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class ChannelRecipe:
    """How `outputs` network channels are computed from `inputs` image channels (0 = any number).

    `forward` maps (inputs, Y, X) counts to (outputs, Y, X) counts, `inverse` the reverse.
    """

    inputs: int
    outputs: int
    forward: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]


RANGES: dict[str, ValueRange] = {
    "whitened": ValueRange(),  # [-1, 1] after the intensity model
    "uint16-centred": ValueRange(2 / 65536, -1.0),  # RSCD: x / 65536 * 2 - 1
    "uint16-unit": ValueRange(1 / 65536, 0.0, (0.0, 1.0)),  # MSDSR: x / 65536
    "unit": ValueRange(),  # [0, 1], scaled by the metric (Inception)
    "centred": ValueRange(),  # [-1, 1], scaled by the metric (LPIPS)
}


def _same(planes: np.ndarray) -> np.ndarray:
    return planes


def _srh3(planes: np.ndarray) -> np.ndarray:
    """(CH2, CH3) -> (CH3 - CH2 + 5000, CH2, CH3), stimulated Raman histology's virtual colour."""
    return np.stack([planes[1] - planes[0] + 5000, planes[0], planes[1]])


RECIPES: dict[str, ChannelRecipe] = {
    "identity": ChannelRecipe(0, 0, _same, _same),
    "srh-3": ChannelRecipe(2, 3, _srh3, lambda planes: planes[1:]),
}


def forward(
    planes: np.ndarray, value_range: str = "whitened", recipe: str = "identity"
) -> np.ndarray:
    """Counts (C, Y, X) of any dtype -> the network's inputs (C_net, Y, X) float32.

    Raises InputError if the recipe needs another number of channels.
    """
    span, made = _range(value_range), _recipe(recipe)
    if made.inputs not in (0, len(planes)):
        raise InputError(
            f"the weights restore {made.inputs} channels together ('{recipe}'), not"
            f" {len(planes)}: choose them with `channels`"
        )
    values = made.forward(planes.astype(np.float32)) * np.float32(span.scale)
    values += np.float32(span.offset)
    return values if span.limits is None else np.clip(values, *span.limits, out=values)


def inverse(
    values: np.ndarray, value_range: str = "whitened", recipe: str = "identity"
) -> np.ndarray:
    """The network's values (C_net, Y, X) -> counts (C, Y, X) float32, neither rounded nor clipped.

    Channels that the recipe computed are dropped.
    """
    span, made = _range(value_range), _recipe(recipe)
    planes = made.inverse(np.asarray(values, np.float32))
    return (planes - np.float32(span.offset)) / np.float32(span.scale)


def slope(value_range: str) -> float:
    """Network units per count: noise of s counts is slope * s in network units."""
    return _range(value_range).scale


def network_channels(recipe: str, channels: int) -> int:
    """Number of network channels for `channels` image channels."""
    return _recipe(recipe).outputs or channels


def _range(name: str) -> ValueRange:
    if name not in RANGES:
        raise WeightsError(
            f"unknown value range '{name}' in the weights, known are: {', '.join(RANGES)}"
        )
    return RANGES[name]


def _recipe(name: str) -> ChannelRecipe:
    if name not in RECIPES:
        raise WeightsError(
            f"unknown recipe '{name}' in the weights, known are: {', '.join(RECIPES)}"
        )
    return RECIPES[name]


STACK_PERCENTILES = (0.5, 99.9)  # of a channel; mapped to -1 and +1, as in training


@dataclass(frozen=True)
class StackRange:
    """Square-root scaling, which equalises photon noise; `dark`: input value of no light."""

    dark: float
    low: float  # square roots mapped to -1 and +1
    high: float

    def forward(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """Input units, any shape -> float32, about [-1, 1]; values below dark become dark."""
        root = np.sqrt(np.maximum(values - np.float32(self.dark), 0), dtype=np.float32)
        scale = np.float32(2 / (self.high - self.low))
        return np.asarray((root - np.float32(self.low)) * scale - 1, np.float32)

    def inverse(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Back to input units, float32; nothing below dark."""
        root = (x + 1) * np.float32((self.high - self.low) / 2) + np.float32(self.low)
        return np.asarray(np.maximum(root, 0) ** 2 + np.float32(self.dark), np.float32)


def fit_stack_range(blocks: Sequence[NDArray[np.floating]]) -> StackRange:
    """Fit the range of one channel to sampled regions; NaN is left out. Raises InputError."""
    values = np.concatenate([block.ravel() for block in blocks]).astype(np.float64)
    values = values[~np.isnan(values)]
    if not values.size or not np.isfinite(values).all():
        raise InputError("contains no numbers, or infinity")
    dark = float(values.min())
    low, high = (float(v) for v in np.sqrt(np.percentile(values, STACK_PERCENTILES) - dark))
    if not high > low:
        low, high = 0.0, max(float(np.sqrt(values.max() - dark)), 1.0)
    return StackRange(dark, low, high)
