"""Which runs exclude each other, and that only a living process can hold a folder."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from restorectl.errors import BusyError, OutputError
from restorectl.files import lock

HOLD = """
import sys, time
from pathlib import Path
from restorectl.files.lock import holding
with holding(Path(sys.argv[1]), (int(sys.argv[2]), int(sys.argv[3])), "restorectl restore in"):
    print("held", flush=True)
    sys.stdin.read()
"""


class Holder:
    """Another process that holds the folder until it is told to end."""

    def __init__(self, folder, shard):
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder), *map(str, shard)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "held\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


def free(folder, shard):
    try:
        with lock.holding(folder, shard, "me") as problem:
            return problem is None
    except BusyError:
        return False


@pytest.mark.parametrize(
    ("held", "wanted", "allowed"),
    [
        ((1, 1), (1, 1), False),
        ((1, 1), (2, 3), False),
        ((2, 3), (1, 1), False),
        ((2, 3), (2, 3), False),
        ((2, 3), (1, 3), True),
        ((2, 3), (1, 4), False),
    ],
)
def test_who_excludes_whom(tmp_path: Path, held, wanted, allowed) -> None:
    with Holder(tmp_path, held):
        assert free(tmp_path, wanted) is allowed
    assert free(tmp_path, wanted)
    assert [p.name for p in tmp_path.iterdir()] == [lock.NAME]
    assert (tmp_path / lock.NAME).read_bytes() == b""


@pytest.mark.parametrize(("shard", "part"), [((1, 1), ""), ((2, 3), " (shard 2/3)")])
def test_the_holder_is_named(tmp_path: Path, shard, part) -> None:
    with Holder(tmp_path, shard) as holder, pytest.raises(BusyError) as caught:
        lock.holding(tmp_path, (1, 1), "me").__enter__()
    text = str(caught.value)
    assert f"process {holder.process.pid} on {os.uname().nodename}" in text
    assert f"'restorectl restore in'{part} since 2" in text
    assert "\n" not in text
    assert caught.value.exit_code == 75


@pytest.mark.parametrize("shard", [(1, 1), (2, 3)])
def test_what_a_crash_leaves_blocks_nobody(tmp_path: Path, shard) -> None:
    with Holder(tmp_path, shard) as holder:
        holder.process.send_signal(signal.SIGKILL)
        holder.process.wait(10)
        left = [json.loads(p.read_text() or "{}") for p in tmp_path.iterdir()]
        assert any(each.get("pid") == holder.process.pid for each in left)
        assert all(free(tmp_path, wanted) for wanted in ((1, 1), shard, (1, 2)))


def test_any_flock_counts(tmp_path: Path) -> None:
    """A script that takes the lock with flock(1) is respected, whatever the file says."""
    (tmp_path / lock.NAME).write_text("mine")
    with open(tmp_path / lock.NAME) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="another run holds this output folder"):
            lock.holding(tmp_path, (1, 1), "me").__enter__()


def test_without_locks_there_is_a_warning(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock.holding(tmp_path, (1, 1), "me") as problem:
        assert "cannot be locked (Function not implemented)" in problem


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / lock.NAME).symlink_to(precious)
    with pytest.raises(OutputError), lock.holding(tmp_path / "out", (1, 1), "me"):
        pytest.fail("followed")
    assert precious.read_text() == "data"


@pytest.mark.slow
def test_many_at_once_are_one_after_the_other(tmp_path: Path) -> None:
    """Eight processes fight for a folder: never two in the guarded part."""
    script = (
        "import sys, os, time\nfrom pathlib import Path\nfrom restorectl.errors import BusyError\n"
        "from restorectl.files.lock import holding\nfolder = Path(sys.argv[1])\nwon = 0\n"
        "until = time.time() + 1.5\n"
        "while time.time() < until:\n"
        "    try:\n"
        "        with holding(folder, (1, int(sys.argv[2])), 'x'):\n"
        "            os.close(os.open(folder / 'inside', os.O_CREAT | os.O_EXCL))\n"
        "            os.unlink(folder / 'inside')\n"
        "            won += 1\n"
        "    except BusyError: pass\n"
        "print(won)\n"
    )
    for count in (1, 5):  # a shard's own file is removed and made again all the time
        running = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(tmp_path), str(count)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for _ in range(4)
        ]
        ended = [each.communicate(timeout=60) for each in running]
        assert [error for _, error in ended] == [b""] * 4
        assert sum(int(won) for won, _ in ended) > 0
