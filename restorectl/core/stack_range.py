"""The units in which a stack goes to a slice network: square roots, one range for all planes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from restorectl.errors import InputError

PERCENTILES = (0.5, 99.9)  # of a channel: what becomes -1 and +1, as in training


@dataclass(frozen=True)
class StackRange:
    """The square root makes photon noise even; `dark`, in input units, is its zero."""

    dark: float
    low: float  # square roots that become -1 and +1
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


def fit(blocks: Sequence[NDArray[np.floating]]) -> StackRange:
    """The range of one channel from sampled regions. Raises InputError for NaN or infinity."""
    values = np.concatenate([block.ravel() for block in blocks]).astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError("holds NaN or infinity: replace them first")
    dark = float(values.min())
    low, high = (float(v) for v in np.sqrt(np.percentile(values, PERCENTILES) - dark))
    if not high > low:
        low, high = 0.0, max(float(np.sqrt(values.max() - dark)), 1.0)
    return StackRange(dark, low, high)
