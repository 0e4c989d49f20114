"""Plain values read strictly into frozen dataclasses: a key that no dataclass has is an error."""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any

import yaml

from restorectl.errors import UsageError


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


def build(kind: type, raw: Any, where: str, prefix: str = "") -> Any:
    """A dataclass of `kind` from a mapping, checked key by key; `prefix` is that of its keys.

    Raises UsageError naming an unknown key and the nearest one, a missing key or a wrong type.
    """
    if not isinstance(raw, Mapping):
        raise UsageError(f"{where}: '{prefix.rstrip('.')}' must hold keys, not {raw!r}")
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in raw.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, 1, 0)
            hint = f"; did you mean '{prefix}{near[0]}'?" if near else ""
            raise UsageError(f"{where}: unknown key '{prefix}{key}'{hint}")
        values[key] = _value(hints[key], value, where, prefix + key)
    for each in dataclasses.fields(kind):
        required = (
            each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        )
        if required and each.name not in values:
            raise UsageError(f"{where}: the key '{prefix}{each.name}' is missing")
    return kind(**values)


def _value(hint: Any, value: Any, where: str, key: str) -> Any:
    """One value of the type `hint`. YAML reads 1e-4 as text; it is a number here."""
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return build(hint, value, where, key + ".")
    origin = typing.get_origin(hint)
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_value(typing.get_args(hint)[0], item, where, key) for item in items)
    if origin is not None and issubclass(origin, Mapping):
        if isinstance(value, Mapping):
            return dict(value)
    elif hint is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    name = "mapping" if origin is not None else hint.__name__
    raise UsageError(f"{where}: '{key}' must be a {name}, not {value!r}")
