"""Finds, verifies and reads weights files; never uses pickle."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from restorectl.engine.card import KEY, Card, from_json
from restorectl.errors import WeightsError, one_line
from restorectl.jobs import WeightsOptions
from restorectl.weights import registry
from restorectl.weights.hub import TransferProgress

# Keys that must be equal in card and registry entry, besides schedule and channel recipe.
_AGREED = ("task", "channels", "network", "objective", "value_range", "window")


@dataclass(frozen=True)
class Weights:
    """The content of a verified weights file."""

    card: Card
    tensors: Mapping[str, Tensor]
    sha256: str
    path: Path


def load(
    name: str,
    task: str | None = None,
    options: WeightsOptions | None = None,
    progress: TransferProgress | None = None,
) -> Weights:
    """Load weights by registry name, path or hf:// address; checks the hash before reading.

    task: required task of the weights; None = any. Raises WeightsError (exit 5): unknown name, not
    cached while offline, missing or damaged file, hash mismatch, no card, another task.
    """
    model = registry.find(name, options)
    offline = options is not None and options.offline
    path, sha256 = model.obtain(offline=offline, progress=progress)
    card, tensors = read(path)
    if model.entry is not None:
        told = {key: getattr(model.entry, key) for key in _AGREED}
        told |= {"schedule": model.entry.schedule or "", "recipe": model.entry.channel_recipe}
        for key, value in told.items():
            if getattr(card, key) != value:
                raise WeightsError(
                    f"{path}: {key} is {getattr(card, key)!r} in the file and {value!r} in the"
                    f" registry, '{name}'"
                )
    if task is not None and card.task != task:
        raise WeightsError(f"weights '{name}' are for {card.task}: {task} weights are needed here")
    return Weights(card, tensors, sha256, path)


def read(path: Path) -> tuple[Card, dict[str, Tensor]]:
    """Read card and tensors of any safetensors file. Raises WeightsError."""
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(KEY)
            if header is None:
                raise WeightsError(f"{path}: no restorectl card in the safetensors header")
            names = list(file.keys())
            return from_json(header, str(path)), {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a readable safetensors file ({one_line(error)})"
        ) from error
