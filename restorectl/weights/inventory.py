"""`weights`: what models there are, where they lie, and whether they are intact; no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from restorectl.errors import UsageError, WeightsError
from restorectl.jobs import WeightsOptions
from restorectl.weights import registry
from restorectl.weights.hub import Progress
from restorectl.weights.registry import Model


@dataclass(frozen=True)
class Listed:
    """One model of the registry."""

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
class Checked:
    """What became of one model; `error` is empty unless something is wrong with it."""

    name: str
    status: str  # intact, pulled, remote, mismatch, missing, failed
    path: str = ""
    error: str = ""


def listed(options: WeightsOptions) -> list[Listed]:
    """The registry, in its order."""
    rows = []
    for model in registry.models(options):
        entry = model.entry
        assert entry is not None  # it comes from the registry
        rows.append(
            Listed(
                name=entry.name,
                task=entry.task,
                domain=entry.domain,
                channels=entry.channels,
                network=entry.network,
                bytes=entry.bytes,
                licence=entry.licence,
                where=model.where(),
                source=str(model.place) if entry.source.kind == "hub" else entry.source.file,
                sha256=entry.sha256,
            )
        )
    return rows


def pull(
    names: Sequence[str], every: bool, options: WeightsOptions, progress: Progress | None = None
) -> Iterator[Checked]:
    """Bring models here and check their hashes; one that fails does not stop the others."""
    if every == bool(names):
        raise UsageError("weights pull: give names, or --all")
    for model in _chosen(names, options):
        try:
            present = model.here() is not None
            path = model.obtain(offline=options.offline, progress=progress)
            model.check(path)
        except WeightsError as error:
            yield Checked(model.name, "failed", error=str(error))
        else:
            yield Checked(model.name, "intact" if present else "pulled", str(path))


def verify(names: Sequence[str], options: WeightsOptions) -> Iterator[Checked]:
    """Hash again what is here; never touches the network."""
    for model in _chosen(names, options):
        path = model.here()
        if path is None:
            yield _absent(model)
            continue
        try:
            model.check(path)
        except WeightsError as error:
            yield Checked(model.name, "mismatch", str(path), str(error))
        else:
            yield Checked(model.name, "intact", str(path))


def path(name: str, options: WeightsOptions) -> Path:
    """Where the file is on this machine; never touches the network. Raises WeightsError."""
    model = registry.find(name, options)
    found = model.here()
    if found is None:
        raise WeightsError(_absent(model).error or f"weights '{name}': not here: pull them first")
    return found


def _absent(model: Model) -> Checked:
    """A remote model is fine; a part of the package, or the user's own file, must be there."""
    where = model.where()
    if where == "remote":
        return Checked(model.name, "remote")
    return Checked(model.name, where, error=f"weights '{model.name}': {model.place} is missing")


def _chosen(names: Sequence[str], options: WeightsOptions) -> list[Model]:
    """The named models, all of the registry without names; unknown ones stop before any work."""
    return [registry.find(n, options) for n in names] if names else registry.models(options)
