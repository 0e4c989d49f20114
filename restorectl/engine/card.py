"""The card of a weights file: how to rebuild its network, and how to use it.

The card is JSON in the safetensors header, under the key `restorectl`: each file describes itself.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from restorectl.errors import WeightsError
from restorectl.files import strict

KEY = "restorectl"
DTYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64")
LIMITS = (  # of numbers in a card
    ("channels", 1, 64),
    ("window", 0, 4096),
    ("sigma_data", 1e-6, 1e6),
    ("sigma_max", 1e-6, 1e6),
)


@dataclass(frozen=True)
class OutputScale:
    """What results are measured in, if not in units of the input: gain * value + offset."""

    gain: tuple[float, ...] = ()  # of each channel restored together; () = the input's units
    offset: tuple[float, ...] = ()
    dtype: str = ""  # of the results, as the training targets had


@dataclass(frozen=True)
class Card:
    name: str  # registry name, or the stem of the file
    task: str  # prior, calibrator, conditional, slices
    network: str  # row of catalog.NETWORKS
    config: Mapping[str, Any] = field(default_factory=dict)  # the network's own arguments
    parametrisation: str = "edm"  # edm, eps, x0, v
    sigma_data: float = 0.5  # edm only: standard deviation of clean images in [-1, 1]
    time: str = "log-sigma"  # form of the noise level as input: log-sigma, alpha-bar, index
    schedule: str = ""  # discrete schedule it was trained on, if any
    objective: str = "prior"  # row of catalog.OBJECTIVES
    channels: int = 1  # image channels restored together
    sigma_max: float = 80.0  # largest noise level it was trained on, in units of [-1, 1]
    window: int = 0  # fixed input size in px of networks with non-local layers; 0 = any
    fusion: bool = False  # fuse the condition with the state by their noise levels
    value_range: str = "whitened"  # whitened by the intensity model, or a row of value_range.RANGES
    anchors: str = ""  # slices: base interpolations of residuals, comma-separated; "" = pixels
    output: OutputScale = OutputScale()
    recipe: str = "identity"  # maps image channels to the network's: intensity.value_range
    licence: str = "MIT"
    training: Mapping[str, Any] = field(default_factory=dict)  # data, recipe, attribution

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def from_json(text: str, where: str) -> Card:
    """The card in JSON `text`. Raises WeightsError, naming the file `where`, if it is invalid."""
    try:
        raw = strict.parse_json(text)
    except ValueError as error:
        raise WeightsError(f"{where}: the header is not valid JSON ({error})") from error
    if not isinstance(raw, dict):
        raise WeightsError(f"{where}: the header holds no card")
    card = strict.build(Card, raw, f"{where}: the card", WeightsError)
    for name, low, high in LIMITS:
        value = getattr(card, name)
        if not low <= value <= high:
            raise WeightsError(
                f"{where}: the card: {name} is {value:g}, not from {low:g} to {high:g}"
            )
    scale = card.output
    sizes = {len(scale.gain), len(scale.offset)}
    if sizes != {0} and (
        sizes != {card.channels} or min(scale.gain) <= 0 or scale.dtype not in DTYPES
    ):
        raise WeightsError(
            f"{where}: the card: output needs a gain above 0 and an offset for each of"
            f" {card.channels} channels, and a dtype such as uint16"
        )
    return card
