"""Terminals that hang up, readers that go away, disks that no longer take anything."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.chaos.folders import digests, fill, leftovers

pytestmark = pytest.mark.slow

RUN = f"{sys.executable} -m restorectl "
FAULTS = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* Writing and syncing a file whose name holds $FAULT_NAME fails with $FAULT_ERROR. */
static int faulty(int fd) {
    char link[64], path[4096];
    const char *name = getenv("FAULT_NAME");
    if (fd < 3 || !name) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!strstr(path, name)) return 0;
    errno = atoi(getenv("FAULT_ERROR"));
    return 1;
}
ssize_t write(int fd, const void *data, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    return faulty(fd) ? -1 : real(fd, data, size);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    return faulty(fd) ? -1 : real(fd, data, size, at);
}
int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    return faulty(fd) ? -1 : real(fd);
}
"""


def shell(line, cwd, **env):
    """A line of bash with pipefail: (exit code, stdout, stderr)"""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def place(tmp_path):
    fill(tmp_path / "in", 2)
    return tmp_path


@pytest.fixture(scope="session")
def faults(tmp_path_factory):
    """A library that makes writing fail, for LD_PRELOAD."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and Linux")
    folder = tmp_path_factory.mktemp("faults")
    (folder / "faults.c").write_text("#include <stdio.h>\n" + FAULTS)
    made = folder / "faults.so"
    flags = ["-shared", "-fPIC", "-O1", "-o", str(made)]
    subprocess.run([compiler, *flags, str(folder / "faults.c"), "-ldl"], check=True)
    return made


@pytest.mark.parametrize(
    "line",
    [
        "restore in -o out --json 2>&1 | true",
        "restore in -o out --log-format json 2> >(true)",
        "restore in -o out <&- >&- 2>&-",
        "restore in -o out 2> /dev/full",
    ],
)
def test_streams_that_are_gone_stop_no_work(place, line):
    code, _, told = shell(RUN + line, place)
    assert code == 0, told
    assert len(digests(place / "out")) == 2
    assert "Traceback" not in told
    assert "Error" not in told
    assert "Exception ignored" not in told


def test_a_full_standard_output_is_told_when_the_work_is_done(place):
    code, _, told = shell(RUN + "restore in -o out --json > /dev/full", place)
    assert code == 73
    assert len(digests(place / "out")) == 2
    last = told.splitlines()[-1]
    assert last.startswith("restorectl: standard output: the disk or quota is full")
    assert "Traceback" not in told


def test_help_into_a_closed_pipe_is_quiet(place):
    for words in ("--help", "restore --help", "weights list", "docs formats"):
        code, _, told = shell(RUN + words + " | true", place)
        assert (code, told) == (0, ""), words


def test_a_hangup_ends_it_in_good_order_and_nohup_keeps_it(server, tmp_path):
    fill(tmp_path / "in", 12)
    pid = server.start("restore", "in", "-o", "out", "--manifest", "run.json", cwd=tmp_path,
                       err=tmp_path / "told")  # fmt: skip
    until = time.monotonic() + 60
    while not list(tmp_path.glob("out/[!.]*")):
        assert time.monotonic() < until
        time.sleep(0.005)
    os.kill(pid, signal.SIGHUP)
    assert server.wait(pid) == 129
    assert (tmp_path / "told").read_text().endswith("restorectl: interrupted\n")
    assert leftovers(tmp_path) == []
    assert json.loads((tmp_path / "run.json").read_text())["stopped"].startswith("Interrupted")
    if shutil.which("nohup"):
        line = (
            f"nohup {RUN} restore in -o kept 2> told < /dev/null & sleep 2; kill -HUP $!; wait $!"
        )
        code, _, told = shell(line, tmp_path)
        assert code == 0, told
        assert len(digests(tmp_path / "kept")) == 12


@pytest.mark.parametrize(
    ("line", "name", "error"),
    [
        ("restore in -o out", ".tif.restorectl-", "EIO"),
        ("restore in -o out", ".tif.restorectl-", "EDQUOT"),
        ("restore in -o out --manifest run.json", "run.json", "ESTALE"),
        ("restore in -o out", ".restorectl.lock", "EIO"),
        ("restore in -o out", ".restorectl.lock", "ENOSPC"),
        ("calibrate in --csv a.csv", "a.csv", "EROFS"),
        ("evaluate in --target in --csv a.csv --report b.html", "a.csv", "ENOSPC"),
        ("evaluate in --target in --csv a.csv --report b.html", "b.html", "EIO"),
        ("weights export prior --hub hub", "hub", "ESTALE"),
    ],
)
def test_a_disk_that_fails_is_one_line(place, faults, line, name, error):
    import errno

    number = getattr(errno, error)
    code, _, told = shell(
        RUN + line, place, LD_PRELOAD=str(faults), FAULT_NAME=name, FAULT_ERROR=str(number)
    )
    lines = [each for each in told.splitlines() if os.strerror(number) in each]
    assert "Traceback" not in told
    if name == ".restorectl.lock" and error in ("ENOSPC", "EDQUOT"):
        assert code == 0  # the name of the holder is not written, but the lock is held
        return
    assert lines, told
    assert all(each.count(os.strerror(number)) == 1 for each in lines)
    assert code == (73 if error in ("ENOSPC", "EDQUOT") else 3), told
    assert leftovers(place) == []
    if "evaluate" in line:  # the other output is there
        assert (place / ("b.html" if name == "a.csv" else "a.csv")).stat().st_size > 0


@pytest.fixture
def disk(tmp_path):
    """Mounts a small disk of its own; returns the function that mounts it again in another way."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        try:
            done = subprocess.run(
                ["mount", "-t", "tmpfs", *options, "tmpfs", str(place)], capture_output=True
            )
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip("a disk cannot be mounted here")

    mount("-o", "size=2m")
    yield mount
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    "line",
    [
        "restore in -o disk/out",
        "restore in -o out --manifest disk/run.json",
        "uncertainty in -o disk/out --samples 2 --steps 1",
        "calibrate in --csv disk/a.csv",
        "evaluate in --target in --csv disk/a.csv",
        "evaluate in --target in --report disk/a.html",
        "weights export prior --hub disk/hub",
        "train finetune --data in -o disk/x.safetensors -s data.crop=[32] -s optimiser.steps=1"
        " -s optimiser.batch=2 -s optimiser.micro_batch=2 -s validation.every=0"
        " -s validation.keep=last",
    ],
)
def test_a_disk_that_can_only_be_read(place, disk, line):
    disk("-o", "remount,ro")
    code, _, told = shell(RUN + line, place)
    assert code in (2, 3), told
    assert "Traceback" not in told
    assert any("disk" in each for each in told.splitlines())
    assert all(len(each) < 400 for each in told.splitlines())
