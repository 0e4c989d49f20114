"""The page on servers is executed: cron line, SLURM array, table of exit codes."""

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from restorectl import errors
from tests.chaos.folders import fill
from tests.documents import DOCS, ROOT

TEXT = (DOCS / "servers.md").read_text("utf-8")
IMAGES = 2
pytestmark = pytest.mark.slow
BLOCKS = {
    name: textwrap.dedent(block)
    for name, block in re.findall(r"<!-- (\w+) -->\n\n((?:    .*\n)+)", TEXT)
}
CODES = {
    int(code) for row in re.findall(r"^\| ([\d, ]+) \|", TEXT, re.M) for code in row.split(",")
}


@pytest.fixture
def place(tmp_path):
    """A folder with `data/acquired` and a program `restorectl` in `bin`."""
    fill(tmp_path / "data" / "acquired", IMAGES)
    program = tmp_path / "bin" / "restorectl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m restorectl "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def shell(place, script, **more):
    """As cron does: /bin/sh, hardly any environment."""
    environment = {"PATH": f"{place / 'bin'}:/usr/bin:/bin", "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(
        ["/bin/sh", "-c", script.replace("/data/", f"{place}/data/")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def images(place):
    return sorted(p.name for p in (place / "data/restored").glob("[!.]*"))


def test_the_cron_line(place):
    line = " ".join(BLOCKS["cron"].split()[5:])
    line = line.replace("20G", "1K")  # the machine of the tests may have less
    young = shell(place, line)
    assert (young.returncode, young.stdout, young.stderr) == (0, "", "")
    counts = json.loads((place / "data/restored.json").read_text())["counts"]
    assert counts["deferred"] == IMAGES
    for path in (place / "data/acquired").iterdir():
        os.utime(path, (10**9, 10**9))
    for _ in range(2):
        done = shell(place, line)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    counts = json.loads((place / "data/restored.json").read_text())["counts"]
    assert counts["skipped"] == IMAGES
    assert len(images(place)) == IMAGES


def test_the_dry_run(place):
    done = shell(place, BLOCKS["sh"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\nplanned ") == IMAGES
    told = rf"{IMAGES} network calls, [\d.]+ kB of outputs, peak memory [\d.]+ MB, \d+ s"
    assert re.search(told, done.stderr)
    assert not (place / "data/restored").exists()


def test_the_file_of_defaults(place):
    content = BLOCKS["config"].replace("/data/", f"{place}/data/").replace("20G", "1K")
    (place / "c.yaml").write_text(content)
    for path in (place / "data/acquired").iterdir():
        os.utime(path, (10**9, 10**9))
    (place / "data/acquired/a_raw.tif").write_bytes(b"left out")
    done = shell(place, f"restorectl restore /data/acquired --config {place}/c.yaml")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(images(place)) == IMAGES
    assert (place / "data/restored.json").exists()


def test_the_slurm_array(place):
    script = place / "job.sh"
    script.write_text(BLOCKS["slurm"].replace("/data/", f"{place}/data/"))
    first, last = map(int, re.search(r"--array=(\d+)-(\d+)", BLOCKS["slurm"]).groups())
    seen = []
    for task in (first, last, *range(first + 1, last)):
        told = {
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_ARRAY_TASK_COUNT": str(last - first + 1),
            "SLURM_ARRAY_TASK_MIN": str(first),
            "SLURM_CPUS_PER_TASK": "1",
        }
        done = shell(place, f"bash {script}", **told)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        made = json.loads((place / f"data/restored.{task}.json").read_text())
        seen += [each["source"] for each in made["files"]]
        if len(seen) == IMAGES:
            break
    assert len(set(seen)) == IMAGES
    assert len(images(place)) == IMAGES


def test_the_table_has_every_exit_code():
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    used = {each.exit_code for each in classes if issubclass(each, errors.RestorectlError)}
    assert used | {0, 129, 130, 143} == CODES


def test_the_exit_codes(place):
    """Each that `restore` can end with; 1 is for bugs, 6 is of `evaluate`."""
    base = "restorectl restore /data/acquired -o /data/restored"
    bad = place / "data/acquired/bad.tif"
    lines = {
        2: f"{base} --batch none",
        4: f"{base} --pattern '*.nothing'",
        5: f"{base} -w nothing",
        73: f"{base} --min-free 999T",
        0: base,
    }
    for code, line in lines.items():
        done = shell(place, line)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
    bad.write_text("not an image")
    done = shell(place, base)
    assert done.returncode == 3
    assert "bad.tif" in done.stderr


def test_busy_and_interrupted(place):
    for k in range(40):
        shutil.copy(place / "data/acquired/00.tif", place / f"data/acquired/more{k}.tif")
    line = [str(place / "bin/restorectl"), "restore", "acquired", "-o", "restored"]
    run = subprocess.Popen(
        line,
        cwd=place / "data",
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + 60
    while not images(place) if (place / "data/restored").exists() else True:
        assert time.monotonic() < until
        time.sleep(0.02)
    run.send_signal(signal.SIGSTOP)  # it holds the folder however slow this machine is
    busy = shell(place, "restorectl restore /data/acquired -o /data/restored")
    run.send_signal(signal.SIGTERM)
    run.send_signal(signal.SIGCONT)
    assert busy.returncode == 75
    assert f"process {run.pid} on " in busy.stderr
    assert run.wait(60) == 143
    assert not [p for p in Path(place / "data/restored").iterdir() if p.suffix == ".part"]
