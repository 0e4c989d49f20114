"""A format answers for its images, also one whose image is a folder: one module, one row."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from restorectl.catalog import FORMATS
from restorectl.errors import IncompleteError, InputError, OutputError
from restorectl.images.header import Header
from restorectl.images.image import (
    ALL,
    Existing,
    Format,
    Image,
    format_of,
    is_image_name,
    look,
    open_image,
    read_provenance,
    verify_image,
    write_image,
)

MADE = {"tool": "restorectl", "parameters": {"axes": "ZYX"}}
STACK = np.random.default_rng(0).integers(0, 4000, (3, 20, 30)).astype(np.uint16)


def held(path: Path) -> int:
    return format_of(path).held_when_open(path)


def test_what_opening_takes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((500, 500), np.uint16))
    assert held(tmp_path / "a.tif") == 0
    for mode, per_pixel in {"L": 1, "RGB": 3, "RGBA": 4, "LA": 2, "I;16": 2}.items():
        path = tmp_path / "b.png"
        Pillow.new(mode, (300, 200)).save(path)
        assert held(path) == path.stat().st_size + 300 * 200 * per_pixel
    Pillow.new("L", (300, 200)).save(tmp_path / "c.jpg")
    assert held(tmp_path / "c.jpg") == (tmp_path / "c.jpg").stat().st_size
    with pytest.raises(InputError, match="is a folder"):
        held(tmp_path)


def test_what_stands_at_an_output(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    assert look(path) is None
    tifffile.imwrite(path, STACK, photometric="minisblack")
    assert look(path) == Existing(False, None)
    path.write_text("notes")
    assert look(path) == Existing(False, None)
    (tmp_path / "link.tif").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.tif")
    assert look(tmp_path / "link.tif") == look(tmp_path / "pipe.tif") == Existing(False, None)
    with pytest.raises(OutputError, match="is a folder"):
        look(tmp_path)
    for name, planes in (("b.tif", STACK), ("c.png", STACK[:1])):
        axes, shape = ("ZYX", planes.shape) if len(planes) > 1 else ("YX", planes.shape[1:])
        header = Header(axes, shape, np.dtype("u2"), format=Path(name).suffix)
        write_image(tmp_path / name, header, planes, provenance=MADE)
        assert look(tmp_path / name) == Existing(True, MADE)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])  # the record is there, unreadable
        assert look(tmp_path / name) == Existing(True, None)


class BoxImage(Image):
    """A folder with header.json and one .npy file for each plane."""

    def __init__(self, path: Path, axes: str | None, series: str | None) -> None:
        self.path = path
        found = json.loads((path / "header.json").read_text())
        shape = tuple(found["shape"])
        self.header = Header(axes or "ZYX", shape, np.dtype(found["dtype"]), format="box")
        there = len(list(path.glob("*.npy")))
        if there < len(self.header.planes):
            raise IncompleteError(f"{path}: {there} of {len(self.header.planes)} planes are there")

    def read(self, plane, rows=ALL, cols=ALL):
        return np.load(self.path / f"{self.header.planes.index(plane)}.npy")[rows, cols]

    def close(self) -> None: ...


def create_box(path, header, provenance):
    path.mkdir()
    for k in range(len(header.planes)):
        plane = yield
        np.save(path / f"{k}.npy", plane)
    text = {"shape": header.shape, "dtype": header.dtype.name, "restorectl": provenance}
    (path / "header.json").write_text(json.dumps(text))


def hash_of_box(path: Path) -> str:
    return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(path.iterdir()))).hexdigest()


class BoxRow:
    suffixes = (".box",)

    @staticmethod
    def load() -> Format:
        return Format(
            probe=lambda path, head: (path / "header.json").is_file(),
            open=BoxImage,
            create=create_box,
            record=lambda path: json.loads((path / "header.json").read_text()).get("restorectl"),
            has_mark=lambda path: False,
            held_when_open=lambda path: 0,
            content_hash=hash_of_box,
        )


def test_an_image_may_be_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "box", BoxRow)
    path, header = tmp_path / "a.box", Header("ZYX", STACK.shape, STACK.dtype, format=".box")
    assert is_image_name(path)
    write_image(path, header, STACK, provenance=MADE)
    verify_image(path, header)
    with open_image(path) as image:
        np.testing.assert_array_equal(image.read((0, 0, 1), slice(2, 9)), STACK[1, 2:9])
    assert read_provenance(path) == MADE
    assert look(path) == Existing(True, MADE)
    assert held(path) == 0
    before = format_of(path).content_hash(path)
    assert before == hash_of_box(path)
    (path / "2.npy").unlink()
    assert format_of(path).content_hash(path) != before
    assert look(path) == Existing(True, None)
    with pytest.raises(IncompleteError, match="2 of 3 planes"):
        open_image(path)
    with pytest.raises(OutputError, match="is a folder"):
        look(tmp_path)
