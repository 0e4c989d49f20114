"""The schema of weights.yaml: one block a model, checked key by key."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from restorectl.core.card import Card
from restorectl.core.hub_uri import COMMIT, REPOSITORY, HubFile, check_inside
from restorectl.errors import WeightsError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DATA = {"name", "licence", "attribution"}  # keys of one item of training.data
_SOURCES = ({"embedded"}, {"file"}, {"hub", "revision", "file"})
_CARD = ("task", "channels", "network", "objective", "value_range", "window")  # must agree


@dataclass(frozen=True)
class Source:
    """Where the file is: in the package, in a folder of the user's, or on the hub."""

    kind: str  # embedded, file, hub
    file: str  # below restorectl/pretrained, beside the registry (or absolute), in the repository
    hub: str = ""  # org/name
    revision: str = ""  # commit

    def hub_file(self) -> HubFile:
        return HubFile(self.hub, self.revision, self.file)


@dataclass(frozen=True)
class Entry:
    """One block; keys with a default may be left out of a user's own registry."""

    name: str
    task: str
    channels: int
    domain: str
    source: Source
    sha256: str
    bytes: int
    network: str
    objective: str
    licence: str
    schedule: str | None = None  # discrete schedule that it was trained on; None = any level
    step_cap: int | None = None  # largest step that it was trained on, of that schedule
    value_range: str = "whitened"
    channel_recipe: str = "identity"  # how image channels become the network's
    window: int = 0  # fixed input size, 0 = any
    training: Mapping[str, Any] = field(default_factory=dict)  # data (with attribution), note
    citation: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    measured_with: str = ""

    def check_card(self, card: Card, where: str) -> None:
        """What the registry says must be what the file says. Raises WeightsError."""
        told = {name: getattr(self, name) for name in _CARD}
        told |= {"schedule": self.schedule or "", "recipe": self.channel_recipe}
        for name, value in told.items():
            if getattr(card, name) != value:
                raise WeightsError(
                    f"{where}: {name} is {getattr(card, name)!r} in the file and {value!r} in the"
                    f" registry, '{self.name}'"
                )


_TYPES: dict[str, tuple[type, ...]] = {
    "task": (str,),
    "channels": (int,),
    "domain": (str,),
    "source": (dict,),
    "sha256": (str,),
    "bytes": (int,),
    "network": (str,),
    "objective": (str,),
    "licence": (str,),
    "schedule": (str, type(None)),
    "step_cap": (int, type(None)),
    "value_range": (str,),
    "channel_recipe": (str,),
    "window": (int,),
    "training": (dict,),
    "citation": (str,),
    "scores": (dict,),
    "measured_with": (str,),
}


def entry(name: Any, block: Any, where: str) -> Entry:
    """One model's entry. Raises WeightsError, naming `where`, where a block breaks the schema."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise WeightsError(f"{where}: {name!r} is no model name: use letters, digits and . _ -")
    where = f"{where}: '{name}'"
    if not isinstance(block, dict):
        raise WeightsError(f"{where} is not a mapping")
    required = {f.name for f in fields(Entry) if f.default is f.default_factory is MISSING}
    _keys(block, required - {"name"}, set(_TYPES), where)
    for key, value in block.items():
        if not isinstance(value, _TYPES[key]) or isinstance(value, bool):
            raise WeightsError(f"{where}: {key} has the wrong type: {_short(value)}")
    if not _SHA256.fullmatch(block["sha256"]):
        raise WeightsError(f"{where}: sha256 is not 64 hexadecimal digits, lower case")
    if block["bytes"] < 1 or block["channels"] < 1:
        raise WeightsError(f"{where}: bytes and channels must be at least 1")
    _training(block.get("training", {}), where)
    for key, value in block.get("scores", {}).items():
        if (
            not isinstance(key, str)
            or isinstance(value, bool)
            or not isinstance(value, int | float)
        ):
            raise WeightsError(f"{where}: scores: {_short(key)} is not a number")
    return Entry(name=name, **{**block, "source": _source(block["source"], where)})


def _source(block: dict[Any, Any], where: str) -> Source:
    if set(block) not in _SOURCES or not all(isinstance(v, str) for v in block.values()):
        raise WeightsError(
            f"{where}: source is not 'embedded: FILE', 'file: PATH' or the three keys"
            " hub: ORG/NAME, revision: COMMIT, file: PATH"
        )
    if "embedded" in block:
        check_inside(block["embedded"], where)
        return Source("embedded", block["embedded"])
    if not block["file"].endswith(".safetensors"):
        raise WeightsError(f"{where}: only .safetensors files are loaded, not {block['file']!r}")
    if "hub" not in block:
        return Source("file", block["file"])
    if not REPOSITORY.fullmatch(block["hub"]):
        raise WeightsError(f"{where}: hub: {block['hub']!r} is not org/name")
    if not COMMIT.fullmatch(block["revision"]):
        raise WeightsError(f"{where}: revision {block['revision']!r} is not a commit of 40 digits")
    check_inside(block["file"], where)
    return Source("hub", block["file"], block["hub"], block["revision"])


def _training(block: dict[Any, Any], where: str) -> None:
    where = f"{where}: training"
    _keys(block, set(), {"data", "note", "recipe"}, where)
    data = block.get("data", [])
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise WeightsError(f"{where}: data is not a list of mappings")
    for item in data:
        _keys(item, _DATA, _DATA, f"{where}: data")
    texts = [*(v for item in data for v in item.values()), block.get("note", "")]
    if not all(isinstance(text, str) for text in [*texts, block.get("recipe", "")]):
        raise WeightsError(f"{where}: holds something that is not text")


def _keys(block: dict[Any, Any], required: set[str], known: set[str], where: str) -> None:
    unknown, absent = [k for k in block if k not in known], sorted(required - block.keys())
    if unknown:
        raise WeightsError(f"{where}: unknown key {_short(unknown[0])}")
    if absent:
        raise WeightsError(f"{where}: has no {', '.join(absent)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
