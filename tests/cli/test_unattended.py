"""The command under the conditions of servers: bare environments, pipes, logs, SLURM, options."""

import json
import os
import subprocess
import sys

import pytest

from restorectl.cli import options
from restorectl.errors import UsageError
from tests import command
from tests.chaos.folders import fill

pytestmark = pytest.mark.slow


def run(*words, env=None, **more):
    """The command where no HOME and no language is set; its output as bytes."""
    bare = dict.fromkeys(("HOME", "LC_ALL", "LANG"))
    return command.run(*words, env=bare | (env or {}), text=False, **more)


@pytest.fixture
def place(tmp_path):
    fill(tmp_path / "in", 2)
    return tmp_path


def test_a_bare_environment(place):
    """No HOME, the C locale, umask 027, GITHUB_ACTIONS; a name that is no UTF-8."""
    (place / "in/00.tif").rename(place / "in" / os.fsdecode(b"caf\xe9.tif"))
    bare = {"LC_ALL": "C", "GITHUB_ACTIONS": "true", "HOME": "/proc"}
    done = run("restore", "in", "-o", "out", "--manifest", "run.json", "--json",
               cwd=place, env=bare, umask=0o027)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stderr + done.stdout
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 2
    assert json.loads((place / "run.json").read_text())["counts"]["done"] == 2
    for path in [place / "run.json", *(place / "out").iterdir()]:
        assert path.stat().st_mode & 0o777 == 0o640, path
    assert (place / "out").stat().st_mode & 0o777 == 0o750
    again = run("restore", "in", "-o", "out", cwd=place, env=bare, umask=0o027)
    assert again.stderr == b"nothing to do: 2 skipped, every output is up to date\n"
    quiet = run("restore", "in", "-o", "out", "-q", cwd=place, umask=0o027)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, b"", b"")


def test_no_escape_codes_off_a_terminal(place):
    for words in (["restore", "--help"], ["restore", "--wrong"], ["--help"]):
        # with a time limit it is not forked: rich reads this variable when it is loaded
        done = run(*words, cwd=place, env={"GITHUB_ACTIONS": "true"}, timeout=60)
        assert b"\x1b" not in done.stdout + done.stderr
        assert done.returncode == (2 if "--wrong" in words else 0)


def test_json_lines_on_stderr_whatever_happens(place):
    (place / "in/bad.tif").write_text("no image")
    done = run("restore", "in", "-o", "out", "--log-format", "json", cwd=place)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["file"] * 3 + ["summary"]
    assert [line.get("level") for line in lines] == ["info", "info", "error", "info"]
    assert lines[-1]["exit_code"] == done.returncode == 3
    quiet = run("restore", "in", "-o", "out", "--log-format=json", "-q", cwd=place)
    assert [json.loads(line)["status"] for line in quiet.stderr.splitlines()] == ["failed"]
    ended = run("restore", "no", "-o", "out", "--log-format=json", "--min-free", "x", cwd=place)
    assert json.loads(ended.stderr)["exit_code"] == ended.returncode == 2


def test_a_reader_that_goes_away_stops_no_work(place):
    line = f"{sys.executable} -m restorectl restore in -o out --json -q | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=place,
        capture_output=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(list((place / "out").glob("[!.]*"))) == 2


def test_the_plan_as_text_and_as_json(place):
    os.truncate(place / "in/01.tif", 900)
    text = run("restore", "in", "-o", "out", "-n", cwd=place)
    lines = text.stdout.decode().splitlines()
    assert lines[0].split()[:4] == ["status", "shape", "axes", "dtype"]
    assert lines[1].split()[:7] == ["planned", "48x48", "YX", "uint16", "1", "1", "4.6kB"]
    assert lines[1].endswith("in/00.tif -> out/00.tif")
    assert lines[2].startswith("deferred ")
    assert "1 planned, 1 deferred: 1 tiles, 1 network calls, 4.6 kB" in text.stderr.decode()
    probed = run("restore", "in", "-o", "out", "-n", "--probe", "--json", cwd=place)
    planned, deferred = (json.loads(line) for line in probed.stdout.splitlines())
    assert planned["details"]["seconds"] > 0
    assert planned["details"]["memory"] > 4608
    assert deferred["status"] == "deferred"
    assert not (place / "out").exists()
    wrong = run("restore", "in", "-o", "out", "--probe", cwd=place)
    assert (wrong.returncode, wrong.stderr[:12]) == (2, b"restorectl: ")


def test_the_manifest_says_it_all(place):
    run("restore", "in", "-o", "out", "--manifest", "run.json", cwd=place)
    told = json.loads((place / "run.json").read_text())
    assert {"tool", "version", "command", "parameters", "weights", "device"} <= told.keys()
    assert len(told["weights"]["prior"]["sha256"]) == 64
    for file in told["files"]:
        assert (file["status"], file["calls"]) == ("done", 1)
        assert file["seconds"] > 0
        assert 0 < file["predicted_steps"]["0"] < 1000
        assert file["details"]["noise"]["0"]["noise"]["kind"] == "poisson-gaussian"
        assert [len(digest) for digest in file["outputs"].values()] == [64]


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, (1, 1)),
        ({"ID": "1", "COUNT": "4", "MIN": "1"}, (1, 4)),
        ({"ID": "0", "COUNT": "4", "MIN": "0"}, (1, 4)),
        ({"ID": "30", "COUNT": "3", "MIN": "10", "STEP": "10"}, (3, 3)),
        ({"ID": "7", "COUNT": "3", "MIN": "1"}, None),  # --array=1,3,7
        ({"ID": "x", "COUNT": "3", "MIN": "1"}, None),
    ],
)
def test_the_shard_of_a_slurm_array(place, monkeypatch, environment, shard):
    for name in ("ID", "COUNT", "MIN", "STEP"):
        monkeypatch.delenv(f"SLURM_ARRAY_TASK_{name}", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    folder = (str(place / "in"),)
    assert options.shard("2/5", folder, None) == (2, 5)
    assert options.shard(None, (str(place / "in/00.tif"),), None) == (1, 1)
    if shard is None:
        with pytest.raises(UsageError, match="SLURM_ARRAY_TASK_ID"):
            options.shard(None, folder, None)
    else:
        assert options.shard(None, folder, None) == shard


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("512", 512), ("5G", 5 << 30), ("1.5k", 1536), ("2MiB", 2 << 20), ("1TB", 1 << 40)],
)
def test_sizes(text, value):
    assert options.size("--min-free", text) == value


@pytest.mark.parametrize("text", ["", "G", "-1", "5X", "nan", "inf"])
def test_sizes_that_are_none(text):
    with pytest.raises(UsageError, match="--min-free"):
        options.size("--min-free", text)
