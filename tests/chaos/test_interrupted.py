"""Runs that are killed, interrupted, doubled, or lose the ground under their feet."""

import json
import os
import random
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import tifffile

from tests.chaos.folders import digests, fill, image, leftovers

pytestmark = pytest.mark.slow

CHAINS, KILLS = 4, 10  # kills between an empty folder and a complete one, one in each run
PAIRS, SIGNALS = 20, 6


def only_whole(folder, wanted):
    """Every file at a final path is one of an undisturbed run, byte for byte."""
    found = digests(folder)
    assert found.items() <= wanted.items()
    return len(found)


def wait_for(folder, count):
    """Until a run has made so many files; so the moments do not depend on how fast this is."""
    until = time.monotonic() + 60
    while len(list(folder.glob("[!.]*"))) < count:
        assert time.monotonic() < until
        time.sleep(0.002)


def restart(folder):
    shutil.rmtree(folder, ignore_errors=True)


def test_killed_at_many_moments(server, twenty, figure):
    """Real processes, a real SIGKILL; the moments are spread over the files and within them."""
    place, wanted, seconds = twenty
    rng, caught, files = random.Random(0), 0, 0
    out = place / "killed"
    for _ in range(CHAINS):
        restart(out)
        for count in sorted(rng.sample(range(20), KILLS)):
            pid = server.start("restore", "in", "-o", "killed", cwd=place)
            wait_for(out, count)
            time.sleep(rng.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
            caught += server.wait(pid) == -signal.SIGKILL
            files += only_whole(out, wanted) if out.exists() else 0
        code, told = server.run("restore", "in", "-o", "killed", cwd=place)
        assert code == 0, told
        assert digests(out) == wanted
        assert leftovers(out) == []
    assert caught >= CHAINS * KILLS * 0.9
    figure(
        f"SIGKILL: {CHAINS * KILLS} kills, {caught} in mid-run; {files} files found at final paths,"
        f" 0 incomplete; {CHAINS} next runs completed byte-identically"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_at_many_moments(server, twenty, figure, number):
    place, wanted, seconds = twenty
    rng, out, manifest = random.Random(number), place / "stopped", place / "stopped.json"
    caught = 0
    for _ in range(SIGNALS):
        restart(out)
        manifest.unlink(missing_ok=True)
        pid = server.start("restore", "in", "-o", out, "--manifest", manifest, cwd=place)
        wait_for(out, rng.randrange(12))
        time.sleep(rng.uniform(0, seconds))
        os.kill(pid, number)
        code = server.wait(pid)
        assert code in (0, 128 + number)
        caught += code != 0
        if out.exists():
            only_whole(out, wanted)
            assert leftovers(place) == []
            told = json.loads(manifest.read_text())
            done = {f["target"] for f in told["files"] if f["status"] == "done"}
            assert done <= {str(out / name) for name in digests(out)}
            assert (told["stopped"] is not None) == (code != 0)
    assert caught >= SIGNALS / 2
    figure(f"{number.name}: {SIGNALS} signals, {caught} in mid-run; nothing half-way, all told")


def test_a_second_signal_ends_it_at_once(server, twenty):
    place, wanted, _ = twenty
    pid = server.start("restore", "in", "-o", "twice", cwd=place)
    wait_for(place / "twice", 3)
    for _ in range(2):
        os.kill(pid, signal.SIGTERM)
    assert server.wait(pid) in (-signal.SIGTERM, 128 + signal.SIGTERM)
    only_whole(place / "twice", wanted)


def test_two_at_once_again_and_again(server, tmp_path, figure):
    """One works, the other is told who; together they make what one would have made."""
    fill(tmp_path / "in", 2)
    server.run("restore", "in", "-o", "whole", cwd=tmp_path)
    wanted, busy = digests(tmp_path / "whole"), 0
    for k in range(PAIRS):
        out = f"out{k % 2}"
        restart(tmp_path / out)
        errors = [tmp_path / "one", tmp_path / "two"]
        pids = [server.start("restore", "in", "-o", out, cwd=tmp_path, err=e) for e in errors]
        codes = [server.wait(pid) for pid in pids]
        assert sorted(codes) in ([0, 0], [0, 75]), [e.read_text() for e in errors]
        if 75 in codes:
            busy += 1
            told = errors[codes.index(75)].read_text()
            assert f"process {pids[codes.index(0)]} on " in told
            assert told.count("\n") == 1
        assert digests(tmp_path / out) == wanted
    assert busy >= PAIRS * 0.8
    figure(f"two at once: {PAIRS} pairs, {busy} refused with 75 naming the holder, 0 damaged")


def test_shards_at_once(server, tmp_path):
    """The tasks of a SLURM array share a folder; one of them twice, or a whole run, is refused."""
    fill(tmp_path / "in", 6)
    server.run("restore", "in", "-o", "whole", cwd=tmp_path)
    array = {"SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "10"}
    pids = [
        server.start(
            "restore", "in", "-o", "out", cwd=tmp_path, SLURM_ARRAY_TASK_ID=str(k), **array
        )
        for k in (10, 11, 12)
    ]
    assert [server.wait(pid) for pid in pids] == [0, 0, 0]
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    first = server.start("restore", "in", "-o", "o", "--shard", "1/1", cwd=tmp_path)
    time.sleep(0.5)
    code, told = server.run("restore", "in", "-o", "o", "--shard", "1/3", cwd=tmp_path)
    if server.wait(first) == 0 and code:
        assert code == 75, told


def test_a_small_disk_that_fills_up(server, tmp_path, figure):
    """A file system of its own, filled by other data after the plan said that there is room."""
    fill(tmp_path / "in", 20)
    server.run("restore", "in", "-o", "whole", cwd=tmp_path)
    wanted = digests(tmp_path / "whole")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        line = ("restore", "in", "-o", "disk/out", "--manifest", "run.json")
        # Room for 20 files as the pixels count, but not for their tags in blocks of 4 kB
        room = 24 * 48 * 48 * 2
        (disk / "others").write_bytes(bytes(shutil.disk_usage(disk).free - room))
        code, told = server.run(*line, cwd=tmp_path)
        assert code == 73, told
        assert "disk" in told
        assert "Traceback" not in told
        made = only_whole(disk / "out", wanted)
        assert 0 < made < 20
        assert leftovers(tmp_path) == []
        counts = json.loads((tmp_path / "run.json").read_text())["counts"]
        assert (counts["done"], counts["failed"], counts["pending"]) == (made, 1, 19 - made)
        code, told = server.run(*line[:4], "--manifest", "disk/run.json", cwd=tmp_path)
        assert code == 73, told
        assert only_whole(disk / "out", wanted) >= made
        (disk / "others").unlink()
        code, told = server.run(*line, cwd=tmp_path)
        assert code == 0, told
        assert digests(disk / "out") == wanted
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    figure(f"full disk: stopped with 73 after {made} of 20 files, all intact; then completed")


@pytest.mark.parametrize("how", ["replaced", "appended", "removed"])
def test_an_input_that_changes_while_it_is_read(server, tmp_path, how):
    source = tmp_path / "in" / "stack.tif"
    source.parent.mkdir()
    stack = np.stack([image(k) for k in range(40)])
    tifffile.imwrite(source, stack, imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(source.parent / "other.tif", image(99))
    tifffile.imwrite(tmp_path / "new.tif", stack[::-1], imagej=True, metadata={"axes": "ZYX"})
    line = ("restore", "in", "-o", "out", "--manifest", "run.json")
    pid = server.start(*line, cwd=tmp_path, err=tmp_path / "told")
    until = time.monotonic() + 60
    while not any(".stack.tif" in p.name for p in leftovers(tmp_path)):
        assert time.monotonic() < until, (tmp_path / "told").read_text()
        time.sleep(0.01)
    if how == "replaced":
        os.replace(tmp_path / "new.tif", source)
    elif how == "appended":
        with open(source, "ab") as file:
            file.write(bytes(100))
    else:
        source.unlink()
    code, status = (3, "failed") if how == "removed" else (0, "deferred")
    assert server.wait(pid) == code, (tmp_path / "told").read_text()
    assert list(digests(tmp_path / "out")) == ["other.tif"]
    assert leftovers(tmp_path) == []
    told = json.loads((tmp_path / "run.json").read_text())["files"]
    assert {f["status"] for f in told} == {"done", status}
    if how == "replaced":
        assert server.run(*line, cwd=tmp_path)[0] == 0
        assert list(digests(tmp_path / "out")) == ["other.tif", "stack.tif"]
