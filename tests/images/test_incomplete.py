"""Files that are cut off, still being written, damaged or no images at all."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from restorectl.errors import IncompleteError, InputError
from restorectl.images.image import open_image, read_provenance
from restorectl.images.raster import SIGNATURE, chunk, read_chunks

RNG = np.random.default_rng(1)
STACK = RNG.integers(0, 4000, (6, 40, 50)).astype(np.uint16)
FLAT = RNG.integers(0, 255, (64, 80, 3)).astype(np.uint8)


def _pages_one_by_one(path: Path) -> None:
    """As acquisition software writes: the chain of directories grows with every page."""
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for plane in STACK:
            writer.write(plane, metadata=None, photometric="minisblack")


WRITERS: dict[str, Callable[[Path], Any]] = {
    "imagej.tif": lambda p: tifffile.imwrite(p, STACK, imagej=True, metadata={"axes": "ZYX"}),
    "ome.ome.tif": lambda p: tifffile.imwrite(p, STACK, metadata={"axes": "TYX"}),
    "bigome.ome.tif": lambda p: tifffile.imwrite(
        p, STACK, metadata={"axes": "ZYX"}, bigtiff=True, compression="zlib"
    ),
    "shaped.tif": lambda p: tifffile.imwrite(
        p, STACK, metadata={"axes": "ZYX"}, photometric="minisblack"
    ),
    "plain.tif": lambda p: tifffile.imwrite(p, STACK, metadata=None, photometric="minisblack"),
    "chain.tif": _pages_one_by_one,
    "tiled.tif": lambda p: tifffile.imwrite(
        p, STACK, metadata={"axes": "ZYX"}, tile=(16, 16), compression="zlib", byteorder=">"
    ),
    "grey.png": lambda p: Pillow.fromarray(STACK[0]).save(p),
    "rgb.png": lambda p: Pillow.fromarray(FLAT).save(p),
    "rgb.jpg": lambda p: Pillow.fromarray(FLAT).save(p),
}


def _require_one_line(error: InputError, path: Path) -> None:
    assert "\n" not in str(error)
    assert str(error).startswith(f"{path}: ")


def axes_for(name: str) -> str | None:
    return "ZYX" if name in ("plain.tif", "chain.tif") else None


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_cut_anywhere(tmp_path: Path, name: str) -> None:
    """Every length short of the whole is refused as incomplete, unless only padding is missing."""
    path, cut = tmp_path / name, tmp_path / f"cut.{name}"
    WRITERS[name](path)
    data = path.read_bytes()
    axes = axes_for(name)
    with open_image(path, axes=axes) as image:
        planes = {plane: image.read(plane) for plane in image.header.planes}
    lengths = {*range(40), *np.linspace(40, len(data) - 1, 120).astype(int).tolist()}
    for length in sorted(lengths | set(range(len(data) - 20, len(data)))):
        cut.write_bytes(data[:length])
        try:
            with open_image(cut, axes=axes) as image:
                for plane, pixels in planes.items():  # then nothing that matters is missing
                    np.testing.assert_array_equal(image.read(plane), pixels)
        except IncompleteError as error:
            _require_one_line(error, cut)
        assert read_provenance(cut) is None


@pytest.mark.parametrize("name", ["imagej.tif", "ome.ome.tif", "shaped.tif"])
@pytest.mark.parametrize("kept", [1, 3, 5])
def test_the_header_promises_more_pages(tmp_path: Path, name: str, kept: int) -> None:
    """A writer that stopped between two pages leaves a valid TIFF with too few of them."""
    whole, path = tmp_path / name, tmp_path / f"stopped.{name}"
    WRITERS[name](whole)
    with tifffile.TiffFile(whole) as tiff:
        description = tiff.pages[0].tags[270].value
    with tifffile.TiffWriter(path) as writer:
        for k in range(kept):
            writer.write(
                STACK[k], metadata=None, photometric="minisblack",
                description=description.encode() if k == 0 else None,
            )  # fmt: skip
    with pytest.raises(IncompleteError, match=r"of the 6 (pages|planes)"):
        open_image(path)


def test_more_pages_than_promised_are_not_dropped(tmp_path: Path) -> None:
    WRITERS["imagej.tif"](tmp_path / "whole.tif")
    with tifffile.TiffFile(tmp_path / "whole.tif") as tiff:
        description = tiff.pages[0].tags[270].value
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for k in range(8):
            writer.write(
                STACK[0], metadata=None, photometric="minisblack",
                description=description.encode() if k == 0 else None,
            )  # fmt: skip
    with pytest.raises(InputError, match="has 8 pages but its ImageJ header describes 6"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("name", WRITERS)
def test_preallocated_by_a_copying_program(tmp_path: Path, name: str) -> None:
    """The file has its final size, but its tail or all of it is still zeros."""
    path = tmp_path / name
    WRITERS[name](path)
    data = path.read_bytes()
    axes = axes_for(name)
    path.write_bytes(bytes(len(data)))
    with pytest.raises(IncompleteError):
        open_image(path, axes=axes)
    path.write_bytes(data[: len(data) // 2].ljust(len(data), b"\0"))
    try:
        with open_image(path, axes=axes) as image:
            for plane in image.header.planes:
                image.read(plane)
    except InputError:
        return
    assert name in {"imagej.tif", "ome.ome.tif", "shaped.tif", "plain.tif", "rgb.jpg"}, (
        "only raw pixels and JPEG cannot show that they are zeros"
    )


def test_empty_missing_folder_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "empty.tif").touch()
    with pytest.raises(InputError, match=r"empty\.tif: is empty"):
        open_image(tmp_path / "empty.tif")
    with pytest.raises(InputError, match="no such file"):
        open_image(tmp_path / "missing.tif")
    with pytest.raises(InputError, match="is a folder"):
        open_image(tmp_path)
    (tmp_path / "notes.tif").write_text("Dear diary, " * 20)
    with pytest.raises(InputError, match="is not an image"):
        open_image(tmp_path / "notes.tif")


def test_names_do_not_decide_what_a_file_is(tmp_path: Path) -> None:
    WRITERS["grey.png"](tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.tif")
    with open_image(tmp_path / "a.tif") as image:
        assert image.header.format == "png"


def _classic(tags: list[tuple[int, int, int]]) -> bytes:
    table = b"".join(struct.pack("<HHII", code, kind, 1, value) for code, kind, value in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + table + bytes(4) + bytes(4096)


@pytest.mark.parametrize("compression", [1, 8])
def test_absurd_sizes_fail_at_once(tmp_path: Path, compression: int) -> None:
    side = 3_000_000
    tags = [(256, 4, side), (257, 4, side), (258, 3, 16), (259, 3, compression), (262, 3, 1)]
    tags += [(273, 4, 200), (277, 3, 1), (278, 4, side), (279, 4, 4000), (339, 3, 1)]
    (tmp_path / "a.tif").write_bytes(_classic(tags))
    with pytest.raises(InputError):
        open_image(tmp_path / "a.tif")


def test_absurd_png(tmp_path: Path) -> None:
    WRITERS["grey.png"](tmp_path / "a.png")
    chunks = read_chunks(tmp_path / "a.png", (tmp_path / "a.png").read_bytes())
    size = struct.pack(">II", 2_000_000, 2_000_000) + chunks[0][1][8:]
    data = b"".join(chunk(k, d) for k, d in [(b"IHDR", size), *chunks[1:]])
    (tmp_path / "a.png").write_bytes(SIGNATURE + data)
    with pytest.raises(InputError, match="claims 2000000 x 2000000"):
        open_image(tmp_path / "a.png")


def test_directories_in_a_circle(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK[0], metadata=None)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        end = tiff.pages[0].offset + 2 + 12 * len(tiff.pages[0].tags)
        data[end : end + 4] = struct.pack("<I", tiff.pages[0].offset)
    path.write_bytes(data)
    with pytest.raises(InputError, match="points back"):
        open_image(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_damaged_bytes_never_crash(tmp_path: Path, name: str) -> None:
    """One random byte changed: an image, or one line that says what is wrong."""
    path = tmp_path / name
    WRITERS[name](path)
    data = path.read_bytes()
    rng = np.random.default_rng(2)
    at = np.concatenate([rng.integers(0, min(len(data), 500), 150), rng.integers(0, len(data), 30)])
    for i in at:
        damaged = bytearray(data)
        damaged[i] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            with open_image(path, axes=axes_for(name)) as image:
                image.read(image.header.planes[-1])
        except InputError as error:
            _require_one_line(error, path)
