"""The schema of weights.yaml: one block a model, checked key by key.

The models known by name: the package's weights.yaml and, over it, the user's own registries.

Where weights are: one resolver for registry names, local files and hub addresses; no torch.
"""

import hashlib
import os
import re
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from restorectl.engine.card import Card
from restorectl.errors import WeightsError
from restorectl.jobs import WeightsOptions
from restorectl.weights import hub
from restorectl.weights.hub import (
    COMMIT,
    FORM,
    REPOSITORY,
    SCHEME,
    HubFile,
    Progress,
    check_inside,
    colon_hint,
    parse_address,
)

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


def parse_entry(name: Any, block: Any, where: str) -> Entry:
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


PACKAGE = Path(__file__).resolve().parent.parent
VARIABLE = "RESTORECTL_WEIGHTS"  # names a registry file


def packaged() -> Path:
    """The package's own weights.yaml."""
    inside, beside = PACKAGE / "weights.yaml", PACKAGE.parent / "weights.yaml"  # wheel, checkout
    return inside if inside.exists() else beside


def entries(options: WeightsOptions | None = None) -> dict[str, Entry]:
    """All entries by name; --registry goes over the variable's file, that over the package's.

    Raises WeightsError for a registry that cannot be read or breaks the schema.
    """
    own = [os.environ.get(VARIABLE), options.registry if options else None]
    found = read_registry(packaged())
    for path in own:
        if path:
            found |= read_registry(Path(path))
    return found


def read_registry(path: Path) -> dict[str, Entry]:
    """One registry file. A `source: file` is taken from beside it."""
    try:
        raw = yaml.load(path.read_text("utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise WeightsError(f"{path}: cannot be read ({reason})") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise WeightsError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise WeightsError(f"{path}: not a mapping of model names to blocks")
    return {name: _placed(parse_entry(name, block, str(path)), path) for name, block in raw.items()}


def _placed(found: Entry, registry: Path) -> Entry:
    if found.source.kind != "file":
        return found
    file = str(registry.parent / Path(found.source.file).expanduser())
    return replace(found, source=replace(found.source, file=file))


class _Loader(yaml.SafeLoader):
    """Refuses a key that comes twice; YAML itself would keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        twice = {str(key) for key in keys if isinstance(key, str) and keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"key '{sorted(twice)[0]}' comes twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class Model:
    """Weights that were asked for: where they lie, and what the registry knows of them."""

    name: str  # as it was given
    place: Path | HubFile
    entry: Entry | None = None

    def here(self) -> Path | None:
        """The file, if it is on this machine. Never touches the network."""
        if isinstance(self.place, HubFile):
            return hub.cached(self.place)
        return self.place if self.place.is_file() else None

    def where(self) -> str:
        """embedded, file, cached, remote, or missing."""
        here = self.here() is not None
        if isinstance(self.place, HubFile):
            return "cached" if here else "remote"
        kind = self.entry.source.kind if self.entry else "file"
        return kind if here else "missing"

    def obtain(self, *, offline: bool = False, progress: Progress | None = None) -> Path:
        """The file, pulled from the hub if need be; its hash is not yet checked."""
        if isinstance(self.place, HubFile):
            return hub.fetch(self.place, offline=offline, progress=progress)
        if not self.place.is_file():
            hint = "reinstall restorectl" if self.embedded() else "check the registry"
            raise WeightsError(f"weights '{self.name}': {self.place} does not exist: {hint}")
        return self.place

    def embedded(self) -> bool:
        """Whether the file is part of the package."""
        return self.entry is not None and self.entry.source.kind == "embedded"

    def check(self, path: Path) -> str:
        """The sha256 of the file. Raises WeightsError where the registry has another."""
        digest = file_sha256(path)
        if self.entry is None or digest == self.entry.sha256:
            return digest
        if self.embedded():
            hint = "reinstall restorectl"
        elif isinstance(self.place, HubFile):
            hint = f"nothing was deleted; remove {path.resolve()} and pull again"
        else:
            hint = "the file or the registry is wrong"
        raise WeightsError(
            f"weights '{self.name}': {path} has sha256 {digest}, expected {self.entry.sha256}:"
            f" {hint}"
        )


def models(options: WeightsOptions | None = None) -> list[Model]:
    """All models of the registry."""
    return [_known(entry) for entry in entries(options).values()]


def find(name: str, options: WeightsOptions | None = None) -> Model:
    """What `--weights NAME` means. Raises WeightsError for what is none of the three."""
    if name.startswith(SCHEME):
        return Model(name, parse_address(name))
    known = entries(options)
    if name in known:
        return _known(known[name])
    path = Path(name)
    if path.is_file():
        return Model(name, path)
    if hint := colon_hint(name):
        raise WeightsError(f"weights '{name}': no such file; for one of the hub {hint}")
    if "://" in name:
        raise WeightsError(f"weights '{name}': not a hub address, use {FORM}")
    raise WeightsError(f"weights '{name}': no such file, and known names are: {', '.join(known)}")


def _known(entry: Entry) -> Model:
    source = entry.source
    if source.kind == "hub":
        return Model(entry.name, source.hub_file(), entry)
    folder = PACKAGE / "pretrained" if source.kind == "embedded" else Path()
    return Model(entry.name, folder / source.file, entry)


def file_sha256(path: Path) -> str:
    """Hex digest. Raises WeightsError when the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
