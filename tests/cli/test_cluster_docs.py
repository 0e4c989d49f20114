"""The page on clusters: its scripts are Python, its rule of Snakemake makes the files."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap

import pytest

from tests.chaos.folders import digests, fill
from tests.command import run
from tests.documents import DOCS, ROOT

PLACE = DOCS / "clusters"
TEXT = (DOCS / "clusters.md").read_text("utf-8")


def test_the_script_is_python_and_the_files_exist():
    (script,) = re.findall(
        r"((?:^    .*\n|^\n)*^    from dask_jobqueue (?:.*\n)*?)^(?=\S)", TEXT, re.M
    )
    compile(textwrap.dedent(script), "slurm.py", "exec")
    linked = re.findall(r"\]\((clusters/[^)]+)\)", TEXT)
    assert {DOCS / each for each in linked} == set(PLACE.iterdir())


@pytest.mark.slow
def test_snakemake_makes_what_one_run_makes(tmp_path):
    if (snakemake := shutil.which("snakemake")) is None:
        pytest.skip("snakemake is not installed")
    fill(tmp_path / "acquired", 2)
    run("restore", "acquired", "-o", "whole", cwd=tmp_path, check=0)
    program = tmp_path / "bin/restorectl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m restorectl "$@"\n')
    program.chmod(0o755)
    paths = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    line = [snakemake, "--snakefile", str(PLACE / "Snakefile"), "--cores", "1", "--quiet", "all"]
    done = subprocess.run(
        line, cwd=tmp_path, env=os.environ | paths, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "restored") == digests(tmp_path / "whole")
