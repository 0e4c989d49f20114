"""Runs a classifier that a user brings as an exported program (torch.export)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from restorectl.errors import EngineError, WeightsError, first_line

Classify = Callable[[np.ndarray], np.ndarray]


def load(path: Path) -> Classify:
    """(C, H, W) float32 -> logits (K,) float64, on the CPU, by the program in a .pt2 file.

    A program is code: loading one may run what its author wrote. Whoever calls this has asked the
    user first. Raises WeightsError for a file that is no exported program; the function raises
    EngineError where the program refuses an image or its answer is not finite.
    """
    try:
        module = torch.export.load(path).module()
    except Exception as error:  # whatever a foreign archive makes the reader raise
        raise WeightsError(
            f"{path}: cannot be loaded as a program of torch.export.save (.pt2):"
            f" {first_line(error)}"
        ) from error
    return _Program(module)


class _Program:
    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, image: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None]  # (1, C, H, W)
        try:
            with torch.inference_mode():
                found = self._module(x)
        except Exception as error:  # a program of another's making may raise anything
            shape = "x".join(map(str, x.shape))
            raise EngineError(
                f"the classifier refuses an image of {shape}: {first_line(error)}"
            ) from error
        if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != 1:
            what = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise EngineError(f"the classifier gives {what}, not logits of shape (1, K)")
        logits = found[0].double().numpy()  # (K,)
        if not np.isfinite(logits).all():
            raise EngineError("the classifier's logits are not finite")
        return np.asarray(logits)
