"""Checkpoints of other programs, read as data: no code in them is ever run."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from restorectl.core.card import KEY, Card
from restorectl.errors import WeightsError
from restorectl.io.atomic import replacing

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params_ema", "params")


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch checkpoint (.pt, .pth, .ckpt) or safetensors file, by name.

    A state dict inside a training checkpoint is found. Raises WeightsError for a file that is
    unreadable, holds more than plain data, or no tensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except (SafetensorError, OSError, EOFError) as error:
        raise WeightsError(f"{path}: cannot be read ({_line(error)})") from error
    except Exception as error:  # an UnpicklingError, or whatever damaged bytes lead to
        raise WeightsError(
            f"{path}: not a checkpoint of plain tensors ({_line(error)}): where it was made, save"
            " its state dict alone, torch.save(model.state_dict(), FILE)"
        ) from error
    tensors = _state(content)
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors by name")
    return tensors


def write(path: Path, card: Card, tensors: Mapping[str, Tensor]) -> None:
    """A weights file; float16 and float32 tensors stay what they are, others become float32."""
    kept = (torch.float16, torch.float32)
    plain = {
        name: (value if value.dtype in kept else value.float()).contiguous()
        for name, value in tensors.items()
    }
    with replacing(path) as part:
        save_file(plain, part, {KEY: card.to_json()})


def _state(content: Any) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = [content[k] for k in WRAPPERS if isinstance(content.get(k), Mapping)]
        if not inner:
            return {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        content = inner[0]
    return {}


def _line(error: BaseException) -> str:
    """The first line of a message that may be a page."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
