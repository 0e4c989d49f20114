"""The last step of every pixel: clip, round, cast."""

import numpy as np


def to_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float values in input units -> dtype; integers are clipped to its range and rounded first."""
    if dtype.kind == "f":
        return values.astype(dtype)
    info = np.iinfo(dtype)
    wide = values.astype(np.float64) if info.bits > 16 else values
    return np.asarray(np.rint(np.clip(wide, info.min, info.max)).astype(dtype))
