import os
import time
from pathlib import Path

import pytest

from restorectl.batch.inputs import Pair
from restorectl.batch.outcome import Outcome
from restorectl.batch.plan import Item, Stamp, stamp
from restorectl.errors import IncompleteError, InputError


def require_unchanged(path: Path, seen: Stamp) -> None:
    Item(Pair(path, (), path.name), Outcome("", "", "planned"), {path: seen}).require_unchanged()


def test_a_file_that_stands_still(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"pixels")
    seen = stamp(path)
    assert seen.size == 6
    assert seen.age < 60
    require_unchanged(path, seen)
    os.utime(path, (1000, 1000))
    assert stamp(path).age > 1e9
    os.utime(path, (time.time() + 500, time.time() + 500))  # a clock that is ahead
    assert 400 < stamp(path).age < 600


@pytest.mark.parametrize("change", ["grown", "same size", "replaced", "gone"])
def test_every_change_is_seen(tmp_path: Path, change: str) -> None:
    path, other = tmp_path / "a.tif", tmp_path / "b.tif"
    path.write_bytes(b"pixels")
    os.utime(path, ns=(10**18, 10**18))
    seen = stamp(path)
    if change == "grown":
        path.write_bytes(b"pixels and more")
        os.utime(path, ns=(10**18, 10**18))
    elif change == "same size":
        path.write_bytes(b"PIXELS")
    elif change == "replaced":
        other.write_bytes(b"PIXELS")
        os.utime(other, ns=(10**18, 10**18))
        other.replace(path)
    else:
        path.unlink()
    wanted = (
        (InputError, "no such file")
        if change == "gone"
        else (IncompleteError, "was changed while it was read")
    )
    with pytest.raises(wanted[0], match=rf"a\.tif: {wanted[1]}"):
        require_unchanged(path, seen)


def test_only_regular_files_are_looked_at(tmp_path: Path) -> None:
    """Opening a pipe would wait for a writer for ever."""
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "link.tif").symlink_to("/dev/zero")
    (tmp_path / "loop.tif").symlink_to(tmp_path / "loop.tif")
    (tmp_path / "dangling.tif").symlink_to(tmp_path / "nowhere")
    for name, reason in {
        "pipe.tif": "not a regular file",
        "link.tif": "not a regular file",
        "loop.tif": "symbolic links",
        "dangling.tif": "no such file",
        ".": "not a regular file",
        "x" * 300: "too long",
    }.items():
        with pytest.raises(InputError, match=reason):
            stamp(tmp_path / name)
