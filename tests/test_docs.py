"""What the README says is what the tool does: tables are generated, commands are executed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from restorectl.catalog import SAMPLERS
from tests.readme import README, filled

TEXT = README.read_text("utf-8")
BLOCKS = re.findall(r"```\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [
    line[line.index("restorectl ") :]
    for block in BLOCKS
    for line in block.splitlines()
    if re.search(r"(^|&& )restorectl ", line)
]


def test_generated_tables_are_up_to_date():
    assert filled(TEXT) == TEXT, "run: python -m tests.readme"


def test_there_are_commands_to_execute():
    assert len(COMMANDS) >= 3


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_readme_work(command, tmp_path):
    (tmp_path / "tests").symlink_to(README.parent / "tests")
    words = shlex.split(command)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "restorectl", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


def test_every_option_the_readme_names_exists():
    commands = {p.stem for p in (README.parent / "restorectl/cli").glob("*.py")}
    helps = ""
    for name in commands - {"__init__", "app", "options", "report"}:
        helps += subprocess.run(
            [sys.executable, "-m", "restorectl", name, "--help"],
            capture_output=True,
            text=True,
            env=os.environ | {"COLUMNS": "200"},
        ).stdout
    named = set(re.findall(r"`(--[a-z0-9-]+)", TEXT))
    assert {option for option in named if option not in helps} == set()


def test_every_sampler_is_documented():
    assert all(f"`{name}`" in TEXT for name in SAMPLERS)


def test_ci_calls_the_readme_s_test_command():
    script = (README.parent / ".ci/run").read_text("utf-8")
    assert "<!-- test command -->" in script
    assert re.search(
        r"<!-- test command -->\n```\npython -m pip install .* python -m pytest\n```", TEXT
    )


def test_the_project_speaks_of_itself_alone():
    root = README.parent
    paths = [p for p in root.rglob("*") if p.suffix in (".py", ".md", ".yaml", ".toml")]
    for path in paths:
        if any(part.startswith(".") or part == "runs" for part in path.relative_to(root).parts):
            continue
        assert "/wo" + "rk/" not in path.read_text("utf-8"), path
    assert Path(root / "LICENSE").exists()
