"""The manifest of a run: what was done to each file, and how. Written once, atomically."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from restorectl import __version__
from restorectl.batch.outcome import STATUSES, Outcome
from restorectl.engine.schedule import schedule
from restorectl.files.atomic import replacing

SCHEDULE = "rscd"  # whose steps are told


def write(
    path: str,
    run: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    warnings: Sequence[str] = (),
    stop: BaseException | None = None,
) -> None:
    """`run`: command, parameters, weights, device. Raises OutputError, DiskFullError.

    stop: what ended the run before its last file. The file is ASCII: names that are no UTF-8 are
    in it as escapes.
    """
    content = {
        "tool": "restorectl",
        "version": __version__,
        **run,
        "arguments": sys.argv[1:],
        "stopped": None if stop is None else f"{type(stop).__name__}: {stop}",
        "counts": {s: sum(o.status == s for o in outcomes) for s in STATUSES},
        "warnings": list(warnings),
        "files": [asdict(o) | {"predicted_steps": predicted_steps(o)} for o in outcomes],
    }
    with replacing(Path(path)) as part:
        part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")


def predicted_steps(outcome: Outcome) -> dict[str, float]:
    """Steps of RSCD's schedule that the level found in each channel stands for."""
    table, found = schedule(SCHEDULE), outcome.details.get("method")
    levels = {
        channel: shared["sigma"]
        for channel, shared in (found.items() if isinstance(found, Mapping) else ())
        if isinstance(shared, Mapping) and "sigma" in shared
    }
    return {channel: round(float(table.step(level)), 2) for channel, level in levels.items()}
