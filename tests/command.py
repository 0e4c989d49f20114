"""The real command as a process, as a user starts it: one helper for tests and benchmarks."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UNSET = ("GITHUB_ACTIONS", "FORCE_COLOR")  # they would change what is printed


def run(
    *words: object,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    check: int | None = None,
    **options: Any,
) -> subprocess.CompletedProcess:
    """`restorectl WORDS` on one thread; its output as text.

    env: variables to set, or to unset (None). check: the exit code that it has to end with.
    options: of subprocess.run.
    """
    variables = dict(os.environ) | dict.fromkeys(UNSET) | {"OMP_NUM_THREADS": "1"} | dict(env or {})
    done = subprocess.run(
        [sys.executable, "-m", "restorectl", *map(str, words)],
        cwd=cwd,
        env={name: value for name, value in variables.items() if value is not None},
        **{"capture_output": True, "text": True, "timeout": 300} | options,
    )
    assert check is None or done.returncode == check, f"exit {done.returncode}\n{done.stderr}"
    return done
