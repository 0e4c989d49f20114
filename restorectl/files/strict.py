"""Reads values of YAML and JSON files strictly into frozen dataclasses.

The dataclass is the schema of the file: unknown keys, missing keys and values of another type are
errors.
"""

import dataclasses
import json
import math
import os
import reprlib
import stat
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from os import PathLike
from typing import Any, Literal, TypeVar

import yaml

from restorectl.errors import RestorectlError, UsageError, did_you_mean, one_line

T = TypeVar("T")
LARGEST = 10_000_000  # bytes of a file that people write by hand, or that a page exports


def read_text(path: str | PathLike[str], where: str, raises: type[RestorectlError]) -> str:
    """The UTF-8 text of a regular file of at most LARGEST bytes.

    Pipes and devices are refused, because reading them may never end. Raises `raises`, naming
    `where`.
    """
    try:
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read(LARGEST + 1) if regular else b""
        text = data.decode("utf-8")
    except FileNotFoundError as error:
        raise raises(f"{where}: cannot be read (no such file)") from error
    except OSError as error:
        raise raises(f"{where}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise raises(f"{where}: cannot be read (it is not UTF-8 text)") from error
    if not regular:
        raise raises(f"{where}: cannot be read (it is not a regular file)")
    if len(data) > LARGEST:
        raise raises(f"{where}: is larger than {LARGEST // 1_000_000} MB: not such a file")
    return text


def parse_json(text: str | bytes) -> Any:
    """The values in JSON text. Raises ValueError, also for what is nested too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def read_yaml(
    path: str | PathLike[str],
    where: str,
    raises: type[RestorectlError],
    loader: type[yaml.SafeLoader] = yaml.SafeLoader,
) -> Any:
    """The plain values in a YAML file, read as `read_text` does. Raises `raises`."""
    text = read_text(path, where, raises)
    try:
        return yaml.load(text, loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else one_line(error)
        raise raises(f"{where}: cannot be read: not valid YAML ({reason})") from error


def override(raw: dict[str, Any], text: str) -> None:
    """Apply `key.sub=value` to nested values; the value is parsed as YAML."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UsageError(f"-s {text}: use key=value, e.g. optimiser.lr=1e-4")
    *parents, last = key.split(".")
    block = raw
    for parent in parents:
        block = block.setdefault(parent, {})
        if not isinstance(block, dict):
            raise UsageError(f"-s {text}: '{parent}' is a value, not a section")
    try:
        block[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"-s {text}: not a YAML value ({one_line(error)})") from error


def build(
    kind: type[T],
    raw: Any,
    where: str,
    raises: type[RestorectlError] = UsageError,
    prefix: str = "",
) -> T:
    """Build the dataclass `kind` from the mapping `raw`, checked key by key.

    Fields may be text, bool, int, finite float, a `Literal` of choices, `T | None`, tuples,
    mappings from text, and further dataclasses, whose keys get a prefix. Raises `raises` with one
    line that names `where`, the key, and its value or the most similar key.
    """
    if not isinstance(raw, Mapping):
        section = f"{prefix.rstrip('.')!r} " if prefix else ""
        raise raises(f"{where}: wrong type: {section}must be a mapping, not {_short(raw)}")
    hints, values = typing.get_type_hints(kind), {}
    for name, value in raw.items():
        key = f"{prefix}{name}"
        if name not in hints:
            near = did_you_mean(key, [f"{prefix}{each}" for each in hints])
            raise raises(f"{where}: unknown key {_short(key)}{near}")
        values[name] = _value(hints[name], value, where, raises, key)
    for each in dataclasses.fields(kind):  # type: ignore[arg-type]
        required = each.default is each.default_factory is dataclasses.MISSING
        if required and each.name not in values:
            raise raises(f"{where}: the key '{prefix}{each.name}' is missing")
    return kind(**values)


def _value(hint: Any, value: Any, where: str, raises: type[RestorectlError], key: str) -> Any:
    """The value at `key`, converted to the type `hint`."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return build(hint, value, where, raises, key + ".")
    if origin is types.UnionType:  # T | None
        return None if value is None else _value(inner[0], value, where, raises, key)
    if origin is Mapping and isinstance(value, Mapping):
        one = inner[1]
        return {str(k): _value(one, v, where, raises, f"{key}.{k}") for k, v in value.items()}
    if origin is tuple:
        one, several = inner[0], inner[-1] is ...
        if several and not dataclasses.is_dataclass(one) and not isinstance(value, list | tuple):
            value = [value]  # a single value may stand for a list of one
        if isinstance(value, list | tuple) and (several or len(value) == len(inner)):
            return tuple(_value(one, item, where, raises, key) for item in value)
    if hint is float:
        with suppress(TypeError, ValueError, OverflowError):
            number = math.nan if isinstance(value, bool) else float(value)  # YAML: 1e-4 is text
            if math.isfinite(number):
                return number
    elif hint is Any or type(value) is hint or (origin is Literal and value in inner):
        return value
    raise raises(f"{where}: {_misfit(hint, key, value)}")


def _misfit(hint: Any, key: str, value: Any) -> str:
    """The message for a value that is not of the type `hint`."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    found = f"not {_short(value)}"
    if origin is Literal:
        return f"{_short(key)} must be {', '.join(inner[:-1])} or {inner[-1]}, {found}"
    if hint is float:
        return f"not a number: {_short(key)} must be a float, {found}"
    if origin is tuple:
        wanted = "a list" if inner[-1] is ... else f"a list of {len(inner)}"
    else:
        wanted = (
            "a mapping" if origin is Mapping else "text" if hint is str else f"a {hint.__name__}"
        )
    return f"wrong type: {_short(key)} must be {wanted}, {found}"


def _short(value: Any) -> str:
    brief = reprlib.Repr()  # bounded: aliases in YAML can make a value endless
    brief.maxstring = brief.maxother = 100
    text = brief.repr(value)
    return text if len(text) < 60 else text[:57] + "..."
