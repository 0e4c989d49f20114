"""The manifest of a run: what was done to each file, and how. Written once, atomically."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from restorectl import __version__
from restorectl.io.atomic import replacing
from restorectl.tasks.outcome import Outcome


def write(path: str, run: Mapping[str, Any], outcomes: Sequence[Outcome]) -> None:
    """`run`: command, parameters, weights, device. Raises OutputError, DiskFullError."""
    content = {
        "tool": "restorectl",
        "version": __version__,
        **run,
        "files": [asdict(outcome) for outcome in outcomes],
    }
    with replacing(Path(path)) as part:
        part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
