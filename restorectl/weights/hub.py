"""Files on the Hugging Face Hub, by address: `hf://org/name[@revision]/path/file.safetensors`.

huggingface_hub transfers files and manages the cache; it is imported only here, and only if a hub
file is used. A pinned file in the cache is used without network, lock or write, so that the cache
may be read-only and shared.
"""

import inspect
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import unquote

from restorectl.errors import WeightsError, first_line

SCHEME = "hf://"
FORM = "hf://org/name[@revision]/path/file.safetensors"
COMMIT = re.compile(r"[0-9a-f]{40}")
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"  # part of a repository's name
REPOSITORY = re.compile(rf"{_PART}/{_PART}")
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/+-]*")
_SPECIAL = re.compile(r"refs/(?:pr/\d+|convert/[^/]+)(?=/|$)")  # references that contain a slash
_COLON = re.compile(r"([\w.-]+/[\w.-]+(?:@[^:]+)?):([^:]+\.safetensors)")
_KINDS = {"models", "datasets", "spaces", "buckets", "kernels"}


@dataclass(frozen=True)
class HubFile:
    """One file of a model repository, at a revision."""

    repo: str  # org/name
    revision: str  # commit, branch or tag
    file: str  # path in the repository

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, so that the file cannot change."""
        return COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}@{self.revision}/{self.file}"


def parse_address(text: str) -> HubFile:
    """Parse an `hf://` address. Raises WeightsError if it is invalid."""
    if not text.isprintable():
        raise WeightsError(f"{text!r}: use {FORM}")
    body = text.removeprefix(SCHEME).removeprefix("models/")
    kind = body.partition("/")[0]
    if kind in _KINDS:
        raise WeightsError(f"{text}: weights come from model repositories, not from {kind}")
    repo, revision, file = _split(body)
    rules = (
        (REPOSITORY.fullmatch(repo), f"'{repo}' is not a repository (org/name)"),
        (_REVISION.fullmatch(revision), f"{revision!r} is not a revision"),
        (file, "names no file"),
    )
    for good, problem in rules:
        if not good:
            raise WeightsError(f"{text}: {problem}: {colon_hint(body) or 'use ' + FORM}")
    check_inside(file, text)
    if not file.endswith(".safetensors"):
        raise WeightsError(f"{text}: only .safetensors files are loaded")
    return HubFile(repo, revision, file)


def _split(body: str) -> tuple[str, str, str]:
    """Split into repository, revision and path; a later @ belongs to the path."""
    repo, at, rest = body.partition("@")
    if not at or repo.count("/") > 1:
        parts = [*body.split("/", 2), "", ""]
        return f"{parts[0]}/{parts[1]}", "main", parts[2]
    special = _SPECIAL.match(rest)
    revision = special[0] if special else rest.partition("/")[0]
    return repo, unquote(revision), rest[len(revision) :].removeprefix("/")


def colon_hint(text: str) -> str:
    """A hint for text like `org/name[@revision]:file`, else an empty string."""
    match = _COLON.fullmatch(text)
    return f"write {SCHEME}{match[1]}/{match[2]}" if match else ""


def check_inside(file: str, where: str) -> None:
    """Raises WeightsError for a relative path that could leave its folder."""
    parts = PurePosixPath(file).parts
    plain = parts and file == "/".join(parts) and not {".", ".."} & {*parts, *file.split("/")}
    if not plain or file.startswith("/") or any(c in file for c in "\\:") or not file.isprintable():
        raise WeightsError(f"{where}: {file!r} is not a plain path inside its folder")


class TransferProgress(Protocol):
    """Receives the progress of a transfer; the command line implements it."""

    def begin(self, name: str, total: int | None) -> None: ...
    def advance(self, size: int) -> None: ...


def cached(place: HubFile) -> Path | None:
    """The file in the local cache, or None. Uses no network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(place.repo, place.file, revision=place.revision)
    return Path(found) if isinstance(found, str) else None


def fetch(
    place: HubFile, *, offline: bool = False, progress: TransferProgress | None = None
) -> Path:
    """Get a file from the cache or the hub. Raises WeightsError if it is absent or refused."""
    import huggingface_hub as hub
    from huggingface_hub import constants, errors

    found, offline = cached(place), offline or constants.HF_HUB_OFFLINE
    if found is not None and (place.pinned or offline):
        return found
    if offline:  # local_files_only would not do: building its headers already asks the hub
        raise WeightsError(
            f"{place}: is not in the cache, and this run is offline: get it with `restorectl"
            " weights pull` on a machine with network access"
        )
    if "HF_HUB_VERBOSITY" not in os.environ:
        hub.utils.logging.set_verbosity(logging.ERROR)  # our message is enough
    transfer_errors = (
        errors.HTTPError,  # type: ignore[attr-defined] # httpx's or requests', by version
        errors.EntryNotFoundError,
        errors.HFValidationError,
        getattr(errors, "XetDownloadError", OSError),
        OSError,
    )
    bars = _bars(progress)
    try:
        return Path(hub.hf_hub_download(place.repo, place.file, revision=place.revision, **bars))
    except transfer_errors as error:
        raise WeightsError(f"{place}: {_reason(error, place)}") from error


def _reason(error: Exception, place: HubFile) -> str:
    """One line on what went wrong and what to do; the library's own texts are longer."""
    from huggingface_hub import constants, errors

    endpoint = constants.ENDPOINT
    absent = isinstance(error, errors.LocalEntryNotFoundError)
    if absent and isinstance(error.__cause__, Exception):
        error = error.__cause__  # what kept it from being fetched
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"is gated: ask for access at {endpoint}/{place.repo}, then set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{endpoint} has no such repository, or a private one: check it, or set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository has no revision '{place.revision}'"
    if isinstance(error, errors.EntryNotFoundError) and not absent:
        return f"the repository has no file '{place.file}' at this revision"
    if status in (401, 403):
        return f"{endpoint} refuses access ({status}): set a valid HF_TOKEN"
    if status is not None:
        return f"{endpoint} answered {status}: try again later"
    if absent:
        return f"is not in the cache, and {endpoint} does not deliver it ({first_line(error)})"
    if isinstance(error, OSError) and error.filename:
        return f"the cache cannot be written: {error.filename} ({error.strerror})"
    return f"the transfer failed ({first_line(error)}): try again"


def _bars(progress: TransferProgress | None) -> dict[str, Any]:
    """Arguments that send the library's progress to `progress` instead of its own bars."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars
    from huggingface_hub.utils.tqdm import tqdm as base

    if "tqdm_class" not in inspect.signature(hf_hub_download).parameters:
        disable_progress_bars()  # versions before 1.0
        return {}

    class Bar(base):  # type: ignore[misc]  # untyped in some versions
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if progress is not None:
                progress.begin(str(kwargs.get("desc", "")), kwargs.get("total"))
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if progress is not None:
                progress.advance(int(n or 0))

    return {"tqdm_class": Bar}
