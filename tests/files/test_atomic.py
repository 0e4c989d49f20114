import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from restorectl.errors import DiskFullError, OutputError
from restorectl.files.atomic import part_name, part_path, replacing, replacing_folder, sweep


def test_success_replaces_and_respects_the_umask(tmp_path: Path) -> None:
    target = tmp_path / "a.tif"
    target.write_bytes(b"old")
    before = os.umask(0o027)
    try:
        with replacing(target) as part:
            assert re.fullmatch(
                rf"\.a\.tif\.restorectl-{os.getpid()}-[0-9a-f]{{8}}\.part", part.name
            )
            part.write_bytes(b"new")
            assert target.read_bytes() == b"old"
    finally:
        os.umask(before)
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["a.tif"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_any_exception_leaves_the_target_as_it_was(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "a.tif"
    target.write_bytes(b"old")

    def half_way() -> None:
        with replacing(target) as part:
            part.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        half_way()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.tif"]


@pytest.mark.parametrize("length", [230, 254, 255])
def test_names_as_long_as_the_disk_allows(tmp_path: Path, length: int) -> None:
    name = ("\u00b5" * 200)[: (length - 4) // 2]
    name += "x" * (length - 4 - len(name.encode())) + ".tif"
    assert len(name.encode()) == length
    with replacing(tmp_path / name) as part:
        part.write_bytes(b"pixels")
    assert os.listdir(tmp_path) == [name]
    other = name.replace("x.tif", "y.tif") if "x.tif" in name else "z" + name[1:]
    assert part_path(tmp_path / name) != part_path(tmp_path / other)


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"), replacing(tmp_path / "no" / "a.tif"):
        pytest.fail("the body must not run")


def test_a_folder_in_the_way_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "a.tif").mkdir()
    with pytest.raises(OutputError), replacing(tmp_path / "a.tif") as part:
        part.write_bytes(b"pixels")
    assert os.listdir(tmp_path) == ["a.tif"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_has_its_own_error(tmp_path: Path, code: int) -> None:
    with pytest.raises(DiskFullError, match="full"), replacing(tmp_path / "a.tif"):
        raise OSError(code, os.strerror(code))
    assert os.listdir(tmp_path) == []


def test_a_really_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        with pytest.raises(DiskFullError), replacing(disk / "a.tif") as part:
            part.write_bytes(bytes(1 << 20))
        assert os.listdir(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_writer_that_closes_late_still_meets_the_full_disk() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with pytest.raises(OSError, match="No space"), open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


# ---- folders
def nothing() -> None: ...


@pytest.mark.parametrize("old", ["none", "file", "folder", "link"])
def test_a_folder_takes_the_place_of_whatever_was_there(tmp_path: Path, old: str) -> None:
    target, beside = tmp_path / "a.zarr", tmp_path / "beside"
    beside.mkdir()
    (beside / "kept").touch()
    if old == "file":
        target.write_bytes(b"old")
    elif old == "folder":
        target.mkdir()
        (target / "old").touch()
    elif old == "link":
        target.symlink_to(beside)
    with replacing_folder(target, nothing, lambda part: True) as part:
        assert os.listdir(part) == []
        (part / "new").write_bytes(b"new")
    assert os.listdir(target) == ["new"]
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "beside"]
    assert os.listdir(beside) == ["kept"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["body", "check"])
def test_any_exception_leaves_the_folder_as_it_was(
    tmp_path: Path, error: type[BaseException], where: str
) -> None:
    target = tmp_path / "a.zarr"
    target.mkdir()
    (target / "old").touch()

    def stop() -> None:
        raise error

    def half_way() -> None:
        with replacing_folder(target, stop, lambda part: True) as part:
            (part / "new").touch()
            if where == "body":
                stop()

    with pytest.raises(error):
        half_way()
    assert os.listdir(target) == ["old"]
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_what_a_dead_process_left_is_taken_over_once(tmp_path: Path) -> None:
    target = tmp_path / "a.zarr"
    left = [part_path(target, dead_pid()), part_path(target, dead_pid())]
    foreign = part_path(target, dead_pid(), "elsewhere")
    for k, path in enumerate((*left, foreign)):
        path.mkdir()
        (path / str(k)).touch()
    os.utime(left[0], (0, 0))
    with replacing_folder(target, nothing, lambda part: True) as part:
        assert os.listdir(part) == ["1"]  # the newest
        assert sorted(tmp_path.iterdir()) == sorted([part, foreign])
    assert {part_name(path) for path in (target,)} == {"a.zarr"}


def dead_pid() -> int:
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    return int(done.stdout)


def test_sweep_removes_only_what_dead_processes_left(tmp_path: Path) -> None:
    stale = part_path(tmp_path / "a.tif", dead_pid())
    stale.write_bytes(b"half")
    own = part_path(tmp_path / "b.tif")
    foreign = tmp_path / ".c.tif.part"
    image = tmp_path / "d.tif"
    folder = tmp_path / f".e.tif.restorectl-{dead_pid()}.part"
    for path in (own, foreign, image):
        path.write_bytes(b"x")
    folder.mkdir()
    assert sweep(tmp_path, keep={"e.tif"}) == [stale]
    assert {path for path in tmp_path.iterdir()} == {own, foreign, image, folder}
    assert sweep(tmp_path) == [folder]
    assert sweep(tmp_path / "missing") == []


def test_sweep_spares_a_writer_on_another_host(tmp_path: Path) -> None:
    """Its process id means nothing here; after a week it is gone for certain."""
    part = part_path(tmp_path / "a.tif", dead_pid(), "elsewhere")
    part.write_bytes(b"half")
    assert sweep(tmp_path) == []
    os.utime(part, (0, 0))
    assert sweep(tmp_path) == [part]


def test_sweep_knows_names_without_a_host(tmp_path: Path) -> None:
    part = tmp_path / f".a.tif.restorectl-{dead_pid()}.part"
    part.touch()
    assert sweep(tmp_path) == [part]
