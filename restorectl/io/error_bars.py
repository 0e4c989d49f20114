"""Calibrations of error bars as YAML files, and the ones that come with the embedded models."""

from pathlib import Path
from typing import Any

import yaml

from restorectl.core.coverage import Calibration, parse, plain
from restorectl.errors import InputError
from restorectl.io.atomic import replacing

PACKAGED = Path(__file__).resolve().parent.parent / "pretrained"
SUFFIX = ".errorbars.yaml"


def read(path: Path) -> Calibration:
    """Raises InputError for a file that is none."""
    try:
        raw: Any = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    return parse(raw, str(path))


def write(path: Path, calibration: Calibration) -> None:
    """Raises OutputError, DiskFullError."""
    text = yaml.safe_dump(plain(calibration), sort_keys=False, allow_unicode=True)
    with replacing(path) as part:
        part.write_text(text, "utf-8")


def packaged() -> list[Calibration]:
    """Those that come with the embedded models."""
    return [read(path) for path in sorted(PACKAGED.glob(f"*{SUFFIX}"))]
