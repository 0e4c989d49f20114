"""Runs a classifier that a user brings as an exported program (torch.export)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from restorectl.errors import EngineError, WeightsError, first_line

Classify = Callable[[np.ndarray], np.ndarray]


def load(path: Path) -> Classify:
    """The function (C, H, W) float32 -> logits (K,) float64, on the CPU, of a .pt2 file.

    A program is code, and loading it may run what its author wrote: ask the user first. Raises
    WeightsError for a file that is no exported program; the function raises EngineError if the
    program refuses an image or its logits are not finite.
    """
    try:
        module = torch.export.load(path).module()
    except Exception as error:  # a foreign archive may raise anything
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
        except Exception as error:  # a foreign program may raise anything
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
