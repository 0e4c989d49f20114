"""Weights by name or file: registry (weights.yaml), hash, safetensors file, card."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from restorectl.core.card import KEY, Card, from_json
from restorectl.errors import WeightsError

PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Entry:
    """One block of weights.yaml."""

    name: str
    task: str
    domain: str
    source: str  # embedded
    file: str  # below restorectl/pretrained
    sha256: str
    bytes: int
    licence: str


@dataclass(frozen=True)
class Weights:
    """A verified file, read."""

    card: Card
    tensors: Mapping[str, Tensor]
    sha256: str
    path: Path


def registry() -> dict[str, Entry]:
    """The models known by name. Raises WeightsError for a registry that breaks its schema."""
    inside, beside = PACKAGE / "weights.yaml", PACKAGE.parent / "weights.yaml"  # wheel, checkout
    path = inside if inside.exists() else beside
    raw = yaml.safe_load(path.read_text("utf-8"))
    if not isinstance(raw, dict):
        raise WeightsError(f"{path}: not a mapping of model names to blocks")
    return {str(name): _entry(str(name), block, path) for name, block in raw.items()}


def _entry(name: str, block: Any, path: Path) -> Entry:
    if not isinstance(block, dict):
        raise WeightsError(f"{path}: the block of '{name}' is not a mapping")
    expected = {f.name for f in fields(Entry)} - {"name"}
    if block.keys() != expected:
        odd = sorted(block.keys() ^ expected)
        raise WeightsError(
            f"{path}: the block of '{name}' lacks or does not know: {', '.join(odd)}"
        )
    return Entry(name=name, **block)


def load(name: str) -> Weights:
    """Weights by registry name or path of a .safetensors file, verified before anything is read.

    Raises WeightsError (exit 5): unknown name, missing or damaged file, hash mismatch, no card.
    """
    known = registry()
    if name in known:
        entry = known[name]
        path, expected = PACKAGE / "pretrained" / entry.file, entry.sha256
    else:
        path, expected = Path(name), None
        if not path.is_file():
            names = ", ".join(known)
            raise WeightsError(f"weights '{name}': no such file, and known names are: {names}")
    digest = file_sha256(path)
    if expected is not None and digest != expected:
        raise WeightsError(
            f"weights '{name}': {path} has sha256 {digest}, expected {expected}:"
            " reinstall restorectl"
        )
    card, tensors = read(path)
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
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from error


def file_sha256(path: Path) -> str:
    """Hex digest. Raises WeightsError when the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
