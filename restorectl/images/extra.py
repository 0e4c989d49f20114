"""Libraries of the extra `formats`, imported when a file that needs them is met."""

from importlib import import_module
from pathlib import Path
from typing import Any

from restorectl.errors import InputError


def library(name: str, path: Path, kind: str) -> Any:
    """Import a library to read or write `path`. Raises InputError if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"{path}: {kind} needs the library {name.partition('.')[0]}: python -m pip install"
            ' "restorectl[formats]"'
        ) from error
