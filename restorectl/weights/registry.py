"""Registry of models by name, and the location of weights files; does not import torch.

A registry is a YAML file with one block per model: its properties, the location of its file (in the
package, in a folder, on the hub) and the file's SHA-256. The user's registry overrides the
package's weights.yaml. `find` also takes a path or a hub address. `weights list`, `pull`, `verify`
and `path` are here too.
"""

import os
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from restorectl.errors import UsageError, WeightsError, did_you_mean
from restorectl.files.provenance import file_sha256
from restorectl.files.strict import build, read_yaml
from restorectl.jobs import WeightsOptions
from restorectl.weights import hub
from restorectl.weights.hub import HubFile, TransferProgress

PACKAGE = Path(__file__).resolve().parent.parent
_INSIDE = PACKAGE / "weights.yaml"
PACKAGED = _INSIDE if _INSIDE.exists() else PACKAGE.with_name("weights.yaml")  # wheel, checkout
VARIABLE = "RESTORECTL_WEIGHTS"  # path of a registry file
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TrainingImages:
    """One source of training images, attributed as its licence requires."""

    name: str
    licence: str
    attribution: str


@dataclass(frozen=True)
class TrainingNotes:
    note: str = ""
    data: tuple[TrainingImages, ...] = ()
    recipe: str = ""


@dataclass(frozen=True)
class RegistryEntry:
    """One block of a registry; keys with a default are optional."""

    task: str
    channels: int
    domain: str
    source: Mapping[str, str]  # embedded: FILE; file: PATH; or hub, revision and file
    sha256: str
    bytes: int
    network: str
    objective: str
    licence: str
    schedule: str | None = None  # discrete schedule of its training; None = any noise level
    step_cap: int | None = None  # largest step of its training, in that schedule
    value_range: str = "whitened"
    channel_recipe: str = "identity"  # maps image channels to the network's
    window: int = 0  # fixed input size in px, 0 = any
    training: TrainingNotes = field(default_factory=TrainingNotes)
    citation: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    measured_with: str = ""


@dataclass(frozen=True)
class ModelFile:
    """A weights file: its name, location and registry entry."""

    name: str
    place: Path | HubFile
    entry: RegistryEntry | None = None
    embedded: bool = False  # whether the file is part of the package

    def here(self) -> Path | None:
        """The file if it is on this machine, else None. Uses no network."""
        if isinstance(self.place, HubFile):
            return hub.cached(self.place)
        return self.place if self.place.is_file() else None

    def where(self) -> str:
        """Location of the file: embedded, file, cached, remote or missing."""
        here = self.here() is not None
        if isinstance(self.place, HubFile):
            return "cached" if here else "remote"
        kind = "embedded" if self.embedded else "file"
        return kind if here else "missing"

    def obtain(
        self, *, offline: bool = False, progress: TransferProgress | None = None
    ) -> tuple[Path, str]:
        """The file, downloaded from the hub if necessary, and its SHA-256.

        Raises WeightsError if it is not available or differs from the registry's hash.
        """
        if isinstance(self.place, HubFile):
            path = hub.fetch(self.place, offline=offline, progress=progress)
            hint = f"nothing was deleted; remove {path.resolve()} and pull again"
        else:
            path = self.place
            hint = "reinstall restorectl" if self.embedded else "correct the file or the registry"
        try:
            digest = file_sha256(path)
        except FileNotFoundError as error:
            raise WeightsError(f"weights '{self.name}': {path} does not exist: {hint}") from error
        except OSError as error:
            raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
        if self.entry is not None and digest != self.entry.sha256:
            raise WeightsError(
                f"weights '{self.name}': {path} has sha256 {digest}, expected"
                f" {self.entry.sha256}: {hint}"
            )
        return path, digest


def find(name: str, options: WeightsOptions | None = None) -> ModelFile:
    """Resolve a name, path or hub address. Raises WeightsError if it is none of these."""
    if name.startswith(hub.SCHEME):
        return ModelFile(name, hub.parse_address(name))
    known = models(options)
    if name in known:
        return known[name]
    path = Path(name)
    if path.is_file():
        return ModelFile(name, path)
    if hint := hub.colon_hint(name):
        raise WeightsError(f"weights '{name}': no such file; for one of the hub {hint}")
    if "://" in name:
        raise WeightsError(f"weights '{name}': not a hub address, use {hub.FORM}")
    near = did_you_mean(name, known)
    raise WeightsError(
        f"weights '{name}': no such file, and known names are: {', '.join(known)}{near}"
    )


def models(options: WeightsOptions | None = None) -> dict[str, ModelFile]:
    """All models by name; `registry` overrides RESTORECTL_WEIGHTS, which overrides the package.

    Raises WeightsError for a registry that cannot be read or is invalid.
    """
    found = read_registry(PACKAGED)
    for path in (os.environ.get(VARIABLE), options.registry if options else None):
        if path:
            found |= read_registry(Path(path))
    return found


def read_registry(path: Path) -> dict[str, ModelFile]:
    """The models of one registry file. Raises WeightsError, naming the file and the model."""
    raw = read_yaml(path, str(path), WeightsError, _Loader)
    if not isinstance(raw, dict):
        raise WeightsError(f"{path}: not a mapping of model names to blocks")
    found = {}
    for name, block in raw.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise WeightsError(
                f"{path}: {name!r} is not a model name: use letters, digits and . _ -"
            )
        where = f"{path}: '{name}'"
        entry = build(RegistryEntry, block, where, WeightsError)
        if not _SHA256.fullmatch(entry.sha256):
            raise WeightsError(f"{where}: sha256 is not 64 digits of 0-9 and a-f: {entry.sha256!r}")
        if entry.bytes < 1 or entry.channels < 1:
            raise WeightsError(
                f"{where}: bytes and channels must be at least 1, not {entry.bytes} and"
                f" {entry.channels}"
            )
        place = _place(entry.source, path.parent, where)
        found[name] = ModelFile(name, place, entry, embedded="embedded" in entry.source)
    return found


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, of which YAML would keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        twice = {str(key) for key in keys if isinstance(key, str) and keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"key '{sorted(twice)[0]}' comes twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _place(source: Mapping[str, str], folder: Path, where: str) -> Path | HubFile:
    """Location of a block's file; `folder`: the registry's folder. Raises WeightsError."""
    if source.keys() == {"embedded"}:
        hub.check_inside(source["embedded"], where)
        return PACKAGE / "pretrained" / source["embedded"]
    if source.keys() not in ({"file"}, {"hub", "revision", "file"}):
        raise WeightsError(
            f"{where}: source is not 'embedded: FILE', 'file: PATH' or the three keys"
            f" hub: ORG/NAME, revision: COMMIT, file: PATH, but {dict(source)!r}"
        )
    file = source["file"]
    if not file.endswith(".safetensors"):
        raise WeightsError(f"{where}: only .safetensors files are loaded, not {file!r}")
    if "hub" not in source:
        return folder / Path(file).expanduser()
    place = HubFile(source["hub"], source["revision"], file)
    if not hub.REPOSITORY.fullmatch(place.repo):
        raise WeightsError(f"{where}: hub: {place.repo!r} is not org/name")
    if not place.pinned:
        raise WeightsError(f"{where}: revision {place.revision!r} is not a commit of 40 digits")
    hub.check_inside(file, where)
    return place


# ---- weights list, pull, verify, path ------------------------------------------------------------
@dataclass(frozen=True)
class ModelRow:
    """One line of `weights list`."""

    name: str
    task: str
    domain: str
    channels: int
    network: str
    bytes: int
    licence: str
    where: str  # embedded, file, cached, remote, missing
    source: str
    sha256: str


@dataclass(frozen=True)
class ModelStatus:
    """The status of one model; `error` is empty unless there is a problem."""

    name: str
    status: str  # intact, pulled, remote, mismatch, missing, failed
    path: str = ""
    error: str = ""


def listed(options: WeightsOptions) -> list[ModelRow]:
    """The models in the order of the registry."""
    rows = []
    for model in models(options).values():
        entry = model.entry
        assert entry is not None  # models of the registry have one
        rows.append(
            ModelRow(
                name=model.name,
                task=entry.task,
                domain=entry.domain,
                channels=entry.channels,
                network=entry.network,
                bytes=entry.bytes,
                licence=entry.licence,
                where=model.where(),
                source=entry.source.get("embedded", str(model.place)),
                sha256=entry.sha256,
            )
        )
    return rows


def pull(
    names: Sequence[str],
    every: bool,
    options: WeightsOptions,
    progress: TransferProgress | None = None,
) -> Iterator[ModelStatus]:
    """Download models and check their hashes; a failure does not stop the others."""
    if every == bool(names):
        raise UsageError("weights pull: give names, or `all`")
    for model in _chosen(names, options):
        try:
            present = model.here() is not None
            path, _ = model.obtain(offline=options.offline, progress=progress)
        except WeightsError as error:
            yield ModelStatus(model.name, "failed", error=str(error))
        else:
            yield ModelStatus(model.name, "intact" if present else "pulled", str(path))


def verify(names: Sequence[str], options: WeightsOptions) -> Iterator[ModelStatus]:
    """Check the hashes of local files; uses no network. Remote files are no error."""
    for model in _chosen(names, options):
        path = model.here()
        if path is None:
            missing = model.where() == "missing"
            error = f"weights '{model.name}': {model.place} is missing" if missing else ""
            yield ModelStatus(model.name, model.where(), error=error)
            continue
        try:
            model.obtain(offline=True)
        except WeightsError as wrong:
            yield ModelStatus(model.name, "mismatch", str(path), str(wrong))
        else:
            yield ModelStatus(model.name, "intact", str(path))


def locate(name: str, options: WeightsOptions) -> Path:
    """Path of the file on this machine; uses no network. Raises WeightsError."""
    model = find(name, options)
    path = model.here()
    if path is None:
        remote = isinstance(model.place, HubFile)
        problem = "not here: pull the file first" if remote else f"{model.place} is missing"
        raise WeightsError(f"weights '{name}': {problem}")
    return path


def _chosen(names: Sequence[str], options: WeightsOptions) -> list[ModelFile]:
    """The named models, or all of the registry. Raises WeightsError for unknown names."""
    return [find(n, options) for n in names] if names else list(models(options).values())
