"""Provenance records: how an output was made, and whether an existing one was made the same way.

Records hold no time, host or path: equal inputs, parameters and weights give equal records.
"""

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from restorectl import __version__

# What this version does to pixels. Raised by one with every entry of CHANGELOG.md that is marked
# **(changes output)**: outputs that were made before are then made again.
REVISION = 28

# The version is recorded but not compared: after an upgrade that leaves REVISION as it is, outputs
# stay up to date. The revision is compared by batch/plan.py, because users may keep old outputs.
_COMPARED = ("command", "parameters", "weights", "input")


def file_sha256(path: str | PathLike[str]) -> str:
    """SHA-256 of a file's bytes in hexadecimal, read as a stream. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(path: Path) -> str:
    """SHA-256 of the names and bytes of all files in a folder, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    for file in sorted(each for each in path.rglob("*") if each.is_file()):
        name = file.relative_to(path).as_posix()
        digest.update(
            f"{len(name)} {name} {file_sha256(file)}\n".encode("utf-8", "surrogateescape")
        )
    return digest.hexdigest()


def record(
    *,
    command: str,
    parameters: Mapping[str, object],
    weights: str,
    weights_sha256: str,
    input_sha256: str | Mapping[str, str],
) -> dict[str, Any]:
    """Describe one output.

    input_sha256: the input's content hash, or role -> hash for several inputs.
    The record holds only JSON values, so that it is the same after writing and reading.

    Raises TypeError or ValueError for parameters that JSON cannot hold (NaN included).
    """
    made = {
        "tool": "restorectl",
        "version": __version__,
        "revision": REVISION,
        "command": command,
        "parameters": dict(parameters),
        "weights": {"name": weights, "sha256": weights_sha256},
        "input": input_sha256 if isinstance(input_sha256, str) else dict(input_sha256),
    }
    parsed: dict[str, Any] = json.loads(dumps(made))
    return parsed


def dumps(made: Mapping[str, Any]) -> str:
    """One line of ASCII JSON with sorted keys: equal records give equal bytes."""
    return json.dumps(made, sort_keys=True, allow_nan=False, separators=(",", ":"))


def matches(recorded: Mapping[str, Any] | None, expected: Mapping[str, Any]) -> bool:
    """Whether the record of an output (None = it has none) matches the expected record.

    The revision is not compared.
    """
    if recorded is None:
        return False
    wanted = json.loads(dumps(expected))
    return all(recorded.get(key) == wanted.get(key) for key in _COMPARED)
