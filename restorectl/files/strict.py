"""Plain values of YAML and JSON files read strictly into frozen dataclasses.

A dataclass is the schema of its file: a key that it does not have, a key that is missing and a
value of another type are errors. Rules for values stand in its `__post_init__`, as ValueErrors.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import yaml

from restorectl.errors import RestorectlError, UsageError

T = TypeVar("T")


def one_line(error: Exception) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split())


def override(raw: dict[str, Any], text: str) -> None:
    """Set `key.sub=value` in nested plain values; the value is read as YAML."""
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


def build(kind: type[T], raw: Any, where: str, raises: type[RestorectlError] = UsageError) -> T:
    """The dataclass `kind` made of the mapping `raw`, checked key by key.

    Fields may be text, bool, int, finite float, `T | None`, a `Literal` of choices, tuples,
    mappings from text, and further dataclasses. Raises `raises`: one line that names `where`, the
    key, and its value or the nearest key that there is.
    """
    try:
        made: T = _fields(kind, raw, "")
    except ValueError as error:
        raise raises(f"{where}: {error}") from error
    return made


def _fields(kind: Any, raw: Any, key: str) -> Any:
    """The dataclass `kind` from what stands at `key`."""
    if not isinstance(raw, Mapping):
        raise _wrong(key, "hold keys", raw)
    hints, prefix, values = typing.get_type_hints(kind), f"{key}." if key else "", {}
    for name, value in raw.items():
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, 1, 0)[0]
            unknown = _short(f"{prefix}{name}")
            raise ValueError(f"unknown key {unknown}; did you mean '{prefix}{near}'?")
        values[name] = _value(hints[name], value, prefix + name)
    for each in dataclasses.fields(kind):
        required = each.default is each.default_factory is dataclasses.MISSING
        if required and each.name not in values:
            raise ValueError(f"the key '{prefix}{each.name}' is missing")
    return kind(**values)


def _value(hint: Any, value: Any, key: str) -> Any:
    """What stands at `key`, as a value of the type `hint`."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:  # T | None
        return None if value is None else _value(inner[0], value, key)
    if dataclasses.is_dataclass(hint):
        return _fields(hint, value, key)
    if origin is tuple:
        return _items(inner, value, key)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise _wrong(key, "be a mapping", value)
        return {str(name): _value(inner[1], each, f"{key}.{name}") for name, each in value.items()}
    if origin is typing.Literal:
        if value not in inner:
            raise _wrong(key, f"be {', '.join(inner[:-1])} or {inner[-1]}", value)
    elif hint is float:
        return _number(value, key)
    elif hint is not Any and type(value) is not hint:
        raise _wrong(key, "be text" if hint is str else f"be a {hint.__name__}", value)
    return value


def _items(inner: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    """A tuple: `T, ...` of any length, where one plain value stands for itself, or a fixed one."""
    plain = inner[-1] is ... and not dataclasses.is_dataclass(inner[0])
    if plain and not isinstance(value, list | tuple):
        value = [value]
    if not isinstance(value, list | tuple):
        raise _wrong(key, "be a list", value)
    hints = inner[:1] * len(value) if inner[-1] is ... else inner
    if len(value) != len(hints):
        raise _wrong(key, f"hold {len(hints)} values", value)
    return tuple(_value(hint, each, key) for hint, each in zip(hints, value, strict=True))


def _number(value: Any, key: str) -> float:
    """A finite number. YAML reads 1e-4 as text; it is a number here."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"not a number: {key!r} must be a float, not {_short(value)}")
    return number


def _wrong(key: str, wanted: str, value: Any) -> ValueError:
    return ValueError(f"wrong type: {_short(key)} must {wanted}, not {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
