"""The card of a weights file: what rebuilds the network and says how it may be used.

A card travels as JSON in the safetensors header, under the key `restorectl`, so one file describes
itself.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import Any

from restorectl.errors import WeightsError

KEY = "restorectl"


@dataclass(frozen=True)
class Card:
    name: str  # registry name, or the stem of the file
    task: str  # prior, calibrator, conditional, slices
    network: str  # row of catalog.NETWORKS
    config: Mapping[str, Any] = field(default_factory=dict)  # the network's own arguments
    parametrisation: str = "edm"  # edm, eps, x0, v
    sigma_data: float = 0.5  # edm only: standard deviation of clean images in [-1, 1]
    time: str = "log-sigma"  # how the network is told the level: log-sigma, alpha-bar, index
    schedule: str = ""  # discrete schedule it was trained on, if any
    objective: str = "prior"  # row of catalog.OBJECTIVES
    channels: int = 1  # image channels restored jointly
    sigma_max: float = 80.0  # largest noise level it was trained on, in units of [-1, 1]
    window: int = 0  # fixed input size of networks with non-local operations; 0 = any
    fusion: bool = False  # the condition carries its noise level and is joined with the state
    value_range: str = "whitened"  # [-1, 1] after the intensity model; or core.value_range's
    anchors: str = ""  # slices: interpolations that residuals are around, by commas; "" = pixels
    recipe: str = "identity"  # how image channels become network channels: core.value_range
    licence: str = "MIT"
    training: Mapping[str, Any] = field(default_factory=dict)  # data, recipe, attribution

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def from_json(text: str, where: str) -> Card:
    """The card in `text`. Raises WeightsError, naming `where`, for anything that is no card."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also numbers too long to read
        raise WeightsError(f"{where}: the header is not valid JSON ({error})") from error
    if not isinstance(raw, dict):
        raise WeightsError(f"{where}: the header holds no card")
    known = {f.name: f for f in fields(Card)}
    unknown, absent = sorted(raw.keys() - known), sorted({"name", "task", "network"} - raw.keys())
    if unknown or absent:
        problem = f"unknown key {unknown[0]!r}" if unknown else f"no '{absent[0]}'"
        raise WeightsError(f"{where}: the card has {problem}")
    for name, value in raw.items():
        if not _fits(value, known[name]):
            raise WeightsError(f"{where}: card entry '{name}' has the wrong type: {value!r}")
    return Card(**raw)


def _fits(value: Any, entry: Field[Any]) -> bool:
    if entry.default_factory is not MISSING:
        return isinstance(value, dict)
    expected = str if entry.default is MISSING else type(entry.default)
    if expected is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is expected
