"""The models known by name: the package's weights.yaml and, over it, the user's own registries."""

import os
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from restorectl.core.jobs import WeightsOptions
from restorectl.core.registry import Entry, entry
from restorectl.errors import WeightsError

PACKAGE = Path(__file__).resolve().parent.parent
VARIABLE = "RESTORECTL_WEIGHTS"  # names a registry file


def packaged() -> Path:
    """The package's own weights.yaml."""
    inside, beside = PACKAGE / "weights.yaml", PACKAGE.parent / "weights.yaml"  # wheel, checkout
    return inside if inside.exists() else beside


def entries(options: WeightsOptions | None = None) -> dict[str, Entry]:
    """All entries by name; --registry goes over the variable's file, that over the package's.

    Raises WeightsError for a registry that cannot be read or breaks the schema.
    """
    own = [os.environ.get(VARIABLE), options.registry if options else None]
    found = read(packaged())
    for path in own:
        if path:
            found |= read(Path(path))
    return found


def read(path: Path) -> dict[str, Entry]:
    """One registry file. A `source: file` is taken from beside it."""
    try:
        raw = yaml.load(path.read_text("utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise WeightsError(f"{path}: cannot be read ({reason})") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise WeightsError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise WeightsError(f"{path}: not a mapping of model names to blocks")
    return {name: _placed(entry(name, block, str(path)), path) for name, block in raw.items()}


def _placed(found: Entry, registry: Path) -> Entry:
    if found.source.kind != "file":
        return found
    file = str(registry.parent / Path(found.source.file).expanduser())
    return replace(found, source=replace(found.source, file=file))


class _Loader(yaml.SafeLoader):
    """Refuses a key that comes twice; YAML itself would keep the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        twice = {str(key) for key in keys if isinstance(key, str) and keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"key '{sorted(twice)[0]}' comes twice", node.start_mark
            )
        return super().construct_mapping(node, deep)
