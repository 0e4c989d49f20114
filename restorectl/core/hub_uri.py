"""Where a file lies on the Hugging Face Hub: `hf://org/name[@revision]/path/file.safetensors`."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

from restorectl.errors import WeightsError

SCHEME = "hf://"
FORM = "hf://org/name[@revision]/path/file.safetensors"
COMMIT = re.compile(r"[0-9a-f]{40}")
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"  # of a repository's name
REPOSITORY = re.compile(rf"{_PART}/{_PART}")
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/+-]*")
_SPECIAL = re.compile(r"refs/(?:pr/\d+|convert/[^/]+)(?=/|$)")  # references that hold a slash
_COLON = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<rev>[^:]+))?:(?P<file>[^:]+)")
_KINDS = {"models", "datasets", "spaces", "buckets", "kernels"}


@dataclass(frozen=True)
class HubFile:
    """One file of a model repository, at a revision."""

    repo: str  # org/name
    revision: str  # commit, branch or tag
    file: str  # path in the repository

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, so that the file can never change."""
        return COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}@{self.revision}/{self.file}"


def parse(text: str) -> HubFile:
    """The file that an `hf://` address names. Raises WeightsError for anything else."""
    if not text.isprintable():
        raise WeightsError(f"{text!r}: use {FORM}")
    body = text.removeprefix(SCHEME).removeprefix("models/")
    kind = body.partition("/")[0]
    if kind in _KINDS:
        raise WeightsError(f"{text}: weights come from model repositories, not from {kind}")
    repo, revision, file = _split(body)
    rules = (
        (REPOSITORY.fullmatch(repo), f"'{repo}' is no repository (org/name)"),
        (_REVISION.fullmatch(revision), f"{revision!r} is no revision"),
        (file, "names no file"),
    )
    for good, problem in rules:
        if not good:
            raise WeightsError(f"{text}: {problem}: {_hint(body) or 'use ' + FORM}")
    check_inside(file, text)
    if not file.endswith(".safetensors"):
        raise WeightsError(f"{text}: only .safetensors files are loaded")
    return HubFile(repo, revision, file)


def _split(body: str) -> tuple[str, str, str]:
    """Repository, revision, path; an @ behind the repository's name belongs to the path."""
    repo, at, rest = body.partition("@")
    if not at or repo.count("/") > 1:
        parts = [*body.split("/", 2), "", ""]
        return f"{parts[0]}/{parts[1]}", "main", parts[2]
    special = _SPECIAL.match(rest)
    revision = special[0] if special else rest.partition("/")[0]
    return repo, unquote(revision), rest[len(revision) :].removeprefix("/")


def colon_hint(text: str) -> str:
    """What to write in place of `org/name[@revision]:file`, or nothing where `text` is not that."""
    return _hint(text) if text.endswith(".safetensors") else ""


def _hint(body: str) -> str:
    match = _COLON.fullmatch(body)
    if match is None:
        return ""
    revision = f"@{match['rev']}" if match["rev"] else ""
    return f"write {SCHEME}{match['repo']}{revision}/{match['file']}"


def check_inside(file: str, where: str) -> None:
    """Refuse a relative path that could leave its folder. Raises WeightsError."""
    parts = PurePosixPath(file).parts
    plain = parts and file == "/".join(parts) and not {".", ".."} & {*parts, *file.split("/")}
    if not plain or file.startswith("/") or any(c in file for c in "\\:") or not file.isprintable():
        raise WeightsError(f"{where}: {file!r} is not a plain path inside its folder")
