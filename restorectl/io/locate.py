"""Where weights are: one resolver for registry names, local files and hub addresses; no torch."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from restorectl.core import hub_uri
from restorectl.core.hub_uri import HubFile
from restorectl.core.jobs import WeightsOptions
from restorectl.core.registry import Entry
from restorectl.errors import WeightsError
from restorectl.io import hub
from restorectl.io.hub import Progress
from restorectl.io.registry import PACKAGE, entries


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
    if name.startswith(hub_uri.SCHEME):
        return Model(name, hub_uri.parse(name))
    known = entries(options)
    if name in known:
        return _known(known[name])
    path = Path(name)
    if path.is_file():
        return Model(name, path)
    if hint := hub_uri.colon_hint(name):
        raise WeightsError(f"weights '{name}': no such file; for one of the hub {hint}")
    if "://" in name:
        raise WeightsError(f"weights '{name}': not a hub address, use {hub_uri.FORM}")
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
