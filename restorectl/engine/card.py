"""The card of a weights file: what rebuilds the network and says how it may be used.

A card travels as JSON in the safetensors header, under the key `restorectl`, so one file describes
itself.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from restorectl.errors import WeightsError
from restorectl.files import strict

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
    value_range: str = "whitened"  # by the intensity model; or a row of value_range.RANGES
    anchors: str = ""  # slices: interpolations that residuals are around, by commas; "" = pixels
    recipe: str = "identity"  # how image channels become the network's: intensity.value_range
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
    return strict.build(Card, raw, f"{where}: the card", WeightsError)
