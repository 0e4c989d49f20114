"""The real command as a process, as a user starts it: one helper for tests and benchmarks.

Under pytest it is forked from a process that has loaded torch (tests/server.py), which saves a
second or two for each run, unless a test sets options of the process.
"""

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.server import Server

UNSET = ("GITHUB_ACTIONS", "FORCE_COLOR")  # they would change what is printed
forking = False  # see tests/conftest.py
server = functools.cache(Server)


def run(
    *words: object,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    check: int | None = None,
    text: bool = True,
    **options: Any,
) -> subprocess.CompletedProcess:
    """`restorectl WORDS` on one thread; its output as text or as bytes.

    env: variables to set, or to unset (None). check: the exit code that it has to end with.
    options: of subprocess.run.
    """
    variables = dict(os.environ) | dict.fromkeys(UNSET) | {"OMP_NUM_THREADS": "1"} | dict(env or {})
    variables = {name: value for name, value in variables.items() if value is not None}
    if forking and not options:
        done = _forked(words, cwd or Path.cwd(), variables, text)
    else:
        done = subprocess.run(
            [sys.executable, "-m", "restorectl", *map(str, words)],
            cwd=cwd,
            env=variables,
            **{"capture_output": True, "text": text, "timeout": 300} | options,
        )
    assert check is None or done.returncode == check, f"exit {done.returncode}\n{done.stderr}"
    return done


def _forked(
    words: tuple[object, ...], cwd: Path, variables: dict[str, str], text: bool
) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        pid = server().start(*words, cwd=cwd, out=out, err=err, env=variables)
        code = server().wait(pid)
        told = (path.read_text() if text else path.read_bytes() for path in (out, err))
        return subprocess.CompletedProcess(words, code, *told)
