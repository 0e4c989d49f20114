"""How files are spread over shards, and which files of a folder are left out."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restorectl.batch.inputs import resolve
from restorectl.errors import NoInputError
from restorectl.jobs import Files


def sparse(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, size)


def shares(folder, sizes, count, **more):
    """The names of the files in each shard."""
    found = []
    for index in range(1, count + 1):
        files = Files(output=str(folder / "out"), shard=(index, count), **more)
        found.append([pair.name for pair in resolve(files).pairs])
    return found


@pytest.fixture
def listed(tmp_path):
    """Make files of these sizes, and a list of them."""

    def make(sizes):
        for k, size in enumerate(sizes):
            sparse(tmp_path / f"in/{k}.tif", size)
        (tmp_path / "list").write_text(
            "\n".join(str(tmp_path / f"in/{k}.tif") for k in range(len(sizes)))
        )
        return {"inputs": (), "files_from": str(tmp_path / "list")}

    return make


def test_a_list_is_spread_by_size(tmp_path, listed):
    sizes = [100, 1000, 10, 600, 390, 20]
    found = shares(tmp_path, sizes, 2, **listed(sizes))
    assert sorted(name for each in found for name in each) == [f"{k}.tif" for k in range(6)]
    loads = [sum(sizes[int(name[0])] for name in each) for each in found]
    assert sorted(loads) == [1030, 1090]  # 1000 + 20 + 10, and 600 + 390 + 100


def test_six_equal_files_on_four_shards(tmp_path, listed):
    found = shares(tmp_path, [5] * 6, 4, **listed([5] * 6))
    assert sorted(map(len, found)) == [1, 1, 2, 2]


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 10**9), min_size=1, max_size=12),
    count=st.integers(1, 6),
)
def test_every_file_is_in_one_shard_and_none_has_much_more(tmp_path_factory, sizes, count):
    folder = tmp_path_factory.mktemp("list")
    for k, size in enumerate(sizes):
        sparse(folder / f"{k}.tif", size)
    (folder / "list").write_text("\n".join(str(folder / f"{k}.tif") for k in range(len(sizes))))
    found = shares(folder, sizes, count, inputs=(), files_from=str(folder / "list"))
    names = [name for each in found for name in each]
    assert sorted(names) == sorted(f"{k}.tif" for k in range(len(sizes)))
    loads = [sum(sizes[int(name.removesuffix(".tif"))] for name in each) for each in found]
    assert max(loads) <= sum(sizes) / count + max(sizes) * (1 - 1 / count)  # Graham 1966


def test_new_files_of_a_folder_move_no_others(tmp_path):
    for k in range(10):
        sparse(tmp_path / f"in/{k}.tif", 10 * k)
    before = shares(tmp_path, None, 3, inputs=(str(tmp_path / "in"),))
    sparse(tmp_path / "in/new.tif", 10**6)
    after = shares(tmp_path, None, 3, inputs=(str(tmp_path / "in"),))
    assert [[n for n in each if n != "new.tif"] for each in after] == before


def test_shards_are_told(tmp_path, listed):
    files = Files(output=str(tmp_path / "out"), shard=(3, 3), dry_run=True, **listed([5000, 300]))
    assert resolve(files).note.splitlines() == [
        "shard 1/3: 1 file, 5.0 kB",
        "shard 2/3: 1 file, 300 B",
        "shard 3/3: 0 files, 0 B (this one)",
        "shard 3/3 is empty: none of the 2 files is in it",
    ]


def test_left_out(tmp_path):
    for name in ("a.tif", "a_raw.tif", "thumbs/b.tif", "deep/c.tif", "deep/skip/d.tif"):
        sparse(tmp_path / "in" / name, 1)

    def kept(*exclude):
        files = Files((str(tmp_path / "in"),), str(tmp_path / "out"), exclude=exclude)
        return [pair.name for pair in resolve(files).pairs]

    assert kept("*_raw.tif", "thumbs", "deep/skip") == ["a.tif", "deep/c.tif"]
    assert kept("deep/*") == ["a.tif", "a_raw.tif", "thumbs/b.tif"]
    with pytest.raises(NoInputError, match=r"without those like '\*'"):
        kept("*")
