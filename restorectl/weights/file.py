"""Weights by registry name, file or hub address: found, verified, then read; never pickle.

Weights that a command asked for, checked to be of the kind that it needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from restorectl.engine.card import KEY, Card, from_json
from restorectl.errors import WeightsError
from restorectl.jobs import WeightsOptions
from restorectl.weights import registry
from restorectl.weights.hub import Progress


@dataclass(frozen=True)
class Weights:
    """A verified file, read."""

    card: Card
    tensors: Mapping[str, Tensor]
    sha256: str
    path: Path


def load(
    name: str, options: WeightsOptions | None = None, progress: Progress | None = None
) -> Weights:
    """Weights by registry name, path or hf:// address; the hash is checked before the file is read.

    Raises WeightsError (exit 5): unknown name, not cached while offline, missing or damaged file,
    hash mismatch, no card.
    """
    model = registry.find(name, options)
    offline = options is not None and options.offline
    path = model.obtain(offline=offline, progress=progress)
    digest = model.check(path)
    card, tensors = read(path)
    if model.entry is not None:
        model.entry.check_card(card, str(path))
    return Weights(card, tensors, digest, path)


def read(path: Path) -> tuple[Card, dict[str, Tensor]]:
    """Card and tensors of one safetensors file; pickle is never loaded."""
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(KEY)
            if header is None:
                raise WeightsError(f"{path}: no restorectl card in the safetensors header")
            names = list(file.keys())
            return from_json(header, str(path)), {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path}: not a readable safetensors file ({reason})") from error


def load_for(name: str, task: str, options: WeightsOptions | None = None) -> Weights:
    """Weights for a task, by name or file. Raises WeightsError for those of another."""
    weights = load(name, options)
    if weights.card.task != task:
        raise WeightsError(f"weights '{name}' are for {weights.card.task}: a {task} is needed here")
    return weights
