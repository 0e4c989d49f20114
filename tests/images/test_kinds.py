"""TIFFs as many programs write them: unusual, wrong in known ways, of several images or damaged."""

import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from restorectl.errors import IncompleteError, InputError
from restorectl.images.header import Header
from restorectl.images.image import open_image, verify_image, write_image
from restorectl.images.tiff.ifd import TYPE_SIZE

RNG = np.random.default_rng(3)
MADE = {"command": "restore", "version": "1"}
CODES = {1: "B", 3: "H", 4: "I", 5: "2I", 13: "I"}
Tags = dict[int, tuple[int, Any]]  # code -> (TIFF type, values or bytes)


def pixels(shape: tuple[int, ...], dtype: Any = "uint16") -> np.ndarray:
    return RNG.integers(1, 250, shape).astype(dtype)


def tiff(
    path: Path, pages: Sequence[Tags], data: Sequence[bytes] = (), head: bytes = b""
) -> list[int]:
    """Write a TIFF byte by byte: `data` (returns where it is), then the pages as they are given.

    A value "@k" is the offset of data k; a page in a list is a SubIFD of the page before it.
    """
    out = bytearray(struct.pack("<2sHI", b"II", 42, 0) + head)
    places = []
    for block in data:
        out += b"\0" * (len(out) % 2)
        places.append(len(out))
        out += block
    pointer = 4
    for page in pages:
        out += b"\0" * (len(out) % 2)
        struct.pack_into("<I", out, pointer, len(out))
        at = len(out)
        out += struct.pack("<H", len(page)) + bytes(12 * len(page) + 4)
        for i, (code, (kind, values)) in enumerate(sorted(page.items())):
            raw = values
            if not isinstance(values, bytes):
                values = [places[int(v[1:])] if isinstance(v, str) else v for v in values]
                raw = b"".join(struct.pack("<" + CODES[kind], v) for v in values)
            count = len(raw) // TYPE_SIZE[kind]
            if len(raw) > 4:
                out += b"\0" * (len(out) % 2)
                raw, offset = struct.pack("<I", len(out)), raw
                out += offset
            struct.pack_into("<HHI4s", out, at + 2 + 12 * i, code, kind, count, raw)
        pointer = at + 2 + 12 * len(page)
    path.write_bytes(out)
    return places


def page(data: np.ndarray, block: int = 0, samples: int = 1, **more: tuple[int, Any]) -> Tags:
    """The tags of a page of `data` (Y, X, ...), uncompressed, stored as block number `block`."""
    height, width = data.shape[:2]
    kind = {"u": 1, "i": 2, "f": 3}[data.dtype.kind]
    tags: Tags = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [data.dtype.itemsize * 8] * samples),
        259: (3, [1]), 262: (3, [1]), 273: (4, [f"@{block}"]), 277: (3, [samples]),
        278: (4, [height]), 279: (4, [data.nbytes]), 339: (3, [kind] * samples),
    }  # fmt: skip
    return tags | {int(code[1:]): value for code, value in more.items()}


def planes(path: Path, axes: str | None = None, series: str | None = None) -> np.ndarray:
    """All planes, (T, C, Z, Y, X)."""
    with open_image(path, axes=axes, series=series) as image:
        shape = image.header.canonical_shape
        found = np.empty(shape, image.header.dtype)
        for plane in image.header.planes:
            found[plane] = image.read(plane)
            half = shape[3] // 2
            part = image.read(plane, slice(half, shape[3]), slice(1, shape[4]))
            np.testing.assert_array_equal(part, found[plane][half:, 1:])
        return found


def copy(source: Path, target: Path, axes: str | None = None, series: str | None = None) -> Header:
    """Write what was read, check it, and open it again."""
    with open_image(source, axes=axes, series=series) as image:
        header = image.header
        write_image(target, header, map(image.read, header.planes), provenance=MADE)
    verify_image(target, header)
    np.testing.assert_array_equal(planes(target, header.axes), planes(source, axes, series))
    return header


# ---- byte counts


@pytest.mark.parametrize("rows", [40, 16])
@pytest.mark.parametrize("counted", ["zero", "one short", "in pixels", "absent"])
def test_wrong_byte_counts(tmp_path: Path, rows: int, counted: str) -> None:
    """zero: bioformats#1423; in pixels: Halide#3403; absent: image-js/tiff#38."""
    image = pixels((40, 48))
    strips = [image[top : top + rows].tobytes() for top in range(0, 40, rows)]
    sizes = [len(strip) for strip in strips]
    given = {
        "zero": [0] * len(strips),
        "one short": [n - 1 for n in sizes],
        "in pixels": [n // 2 for n in sizes],
        "absent": None,
    }[counted]
    tags = page(image, _273=(4, [f"@{k}" for k in range(len(strips))]), _278=(4, [rows]))
    tags |= {279: (4, given)} if given is not None else {}
    if given is None:
        del tags[279]
    tiff(tmp_path / "a.tif", [tags], strips)
    copy(tmp_path / "a.tif", tmp_path / "b.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), image)


def test_wrong_byte_counts_of_compressed_pixels(tmp_path: Path) -> None:
    image = pixels((40, 48))
    tifffile.imwrite(tmp_path / "z.tif", image, compression="zlib", rowsperstrip=16, metadata=None)
    with tifffile.TiffFile(tmp_path / "z.tif") as made:
        raw = made.filehandle
        strips = []
        for offset, n in zip(made.pages[0].dataoffsets, made.pages[0].databytecounts, strict=True):
            raw.seek(offset)
            strips.append(raw.read(n))
    tags = page(image, _259=(3, [8]), _273=(4, ["@0", "@1", "@2"]), _278=(4, [16]))
    tiff(tmp_path / "a.tif", [tags | {279: (4, [0, 0, 0])}], strips)
    copy(tmp_path / "a.tif", tmp_path / "b.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), image)


def test_zero_byte_counts_of_a_file_that_is_cut_off(tmp_path: Path) -> None:
    image = pixels((40, 48))
    tags = page(image, _279=(4, [0]))
    places = tiff(tmp_path / "a.tif", [tags], [image.tobytes()])
    end = (tmp_path / "a.tif").stat().st_size
    tags[273] = (4, [end - 100])
    assert places == tiff(tmp_path / "a.tif", [tags], [image.tobytes()])
    with pytest.raises(IncompleteError, match=r"a\.tif: page 0 is not complete: a strip or tile"):
        open_image(tmp_path / "a.tif")


def test_strips_that_overlap_are_not_enlarged(tmp_path: Path) -> None:
    """Where the next strip begins too early, pixels are missing and not only counts wrong."""
    image = pixels((40, 48))
    data = [image[:20].tobytes()[:-8], image[20:].tobytes()]
    tags = page(image, _273=(4, ["@0", "@1"]), _278=(4, [20]), _279=(4, [1912, 1920]))
    tiff(tmp_path / "a.tif", [tags], data)
    with pytest.raises(IncompleteError, match="1912 of the 1920 bytes of a strip or tile exist"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("no_data", [None, b"7\0"])
def test_sparse_tiles_are_zero_and_told(tmp_path: Path, no_data: bytes | None) -> None:
    """openslide#547, geotiff.js#304; GDAL writes no tile where all pixels have no data."""
    tiles = pixels((3, 32, 32))
    tags = page(np.empty((64, 64), "u2"))
    del tags[273], tags[278], tags[279]
    tags |= {322: (4, [32]), 323: (4, [32]), 325: (4, [2048, 2048, 0, 2048])}
    tags |= {324: (4, ["@0", "@1", 0, "@2"])} | ({42113: (2, no_data)} if no_data else {})
    tiff(tmp_path / "a.tif", [tags], [tile.tobytes() for tile in tiles])
    fill = np.full((32, 32), int(no_data[:1]) if no_data else 0, "u2")
    expected = np.block([[tiles[0], tiles[1]], [fill, tiles[2]]])
    with open_image(tmp_path / "a.tif") as image:
        assert (
            image.unusual
            == ("sparse TIFF: 1 strips or tiles were never written and are read as 0",)
            or no_data
        )
    np.testing.assert_array_equal(planes(tmp_path / "a.tif")[0, 0, 0], expected)
    copy(tmp_path / "a.tif", tmp_path / "b.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), expected)
    tiff(tmp_path / "a.tif", [tags | {324: (4, [0] * 4), 325: (4, [0] * 4)}], [])
    with pytest.raises(IncompleteError, match="none of its strips or tiles was written"):
        open_image(tmp_path / "a.tif")


# ---- pages that are stored in different ways


def test_pages_of_different_compression_and_strips(tmp_path: Path) -> None:
    data = pixels((4, 40, 48))
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        header: dict[str, Any] = {"description": "ImageJ=1.53\nimages=4\nslices=4\n"}
        for plane, how in zip(
            data,
            (
                header,
                {"compression": "zlib", "predictor": True},
                {"rowsperstrip": 10},
                {"tile": (16, 16), "compression": "lzw"},
            ),
            strict=True,
        ):
            writer.write(plane, metadata=None, photometric="minisblack", **how)
    assert copy(tmp_path / "a.tif", tmp_path / "b.tif").axes == "ZYX"
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), data)


def test_pages_of_different_photometric(tmp_path: Path) -> None:
    data = pixels((3, 40, 48), "u1")
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane, photometric in zip(
            data, ("minisblack", "miniswhite", "minisblack"), strict=True
        ):
            writer.write(plane, metadata=None, photometric=photometric)
    copy(tmp_path / "a.tif", tmp_path / "b.tif", "TYX")
    with tifffile.TiffFile(tmp_path / "b.tif") as found:
        assert [p.photometric for p in found.pages] == [1, 0, 1]
        np.testing.assert_array_equal([p.asarray() for p in found.pages], data)


def test_grey_and_colour_palettes_in_one_file(tmp_path: Path) -> None:
    data = pixels((8, 9), "u1")
    ramp = np.repeat(np.arange(256, dtype="u2")[None] * 257, 3, axis=0)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(data, metadata=None, photometric="palette", colormap=ramp)
        writer.write(data, metadata=None, photometric="palette", colormap=ramp[:, ::-1])
    with pytest.raises(InputError, match="palette"):
        open_image(tmp_path / "a.tif", axes="ZYX")


@pytest.mark.parametrize("flags", [(0, 1, 1), (1, 0, 1), (1, 1, 1), (0, 0, 4)])
def test_a_flag_on_pages_like_the_others_is_no_thumbnail(
    tmp_path: Path, flags: tuple[int, ...]
) -> None:
    data = pixels((3, 40, 48))
    thumbnail = page(pixels((10, 12)), 3, _254=(4, [1]))
    tags = [page(data[k], k, _254=(4, [flag])) for k, flag in enumerate(flags)]
    tiff(tmp_path / "a.tif", [*tags, thumbnail], [*(p.tobytes() for p in data), bytes(240)])
    with pytest.raises(InputError, match="does not name its axis of length 3"):
        open_image(tmp_path / "a.tif")
    copy(tmp_path / "a.tif", tmp_path / "b.tif", "ZYX")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), data)


# ---- SubIFDs, EXIF, tags


def test_an_image_in_a_subifd_of_its_thumbnail(tmp_path: Path) -> None:
    """As DNG and NEF store it."""
    data, small = pixels((64, 64)), pixels((16, 16))
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        extra = [(271, 2, None, "Camera", False)]
        writer.write(small, subifds=2, subfiletype=1, metadata=None, extratags=extra)
        writer.write(data, metadata=None)
        writer.write(data[::2, ::2], subfiletype=1, metadata=None)
    copy(tmp_path / "a.tif", tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as found:
        assert len(found.pages) == 1
        assert found.pages[0].tags.valueof(271) == "Camera"
        np.testing.assert_array_equal(found.asarray(), data)


def test_a_second_image_in_a_subifd_is_not_dropped(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(pixels((16, 16)), subifds=1, metadata=None)
        writer.write(pixels((64, 64)), metadata=None)
    with pytest.raises(InputError, match="it holds several images"):
        open_image(tmp_path / "a.tif")


def test_exif_gps_and_sample_ranges_are_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    image, exposure = pixels((40, 48)), struct.pack("<2I", 1, 50)  # the first block lies at byte 8
    exif = struct.pack("<HHHIIHHI4sI", 2, 33434, 5, 1, 8, 36864, 7, 4, b"0232", 0)
    gps = struct.pack("<HHHI4sI", 1, 1, 2, 2, b"N\0", 0)
    tags = page(image, 3, _34665=(4, ["@1"]), _34853=(4, ["@2"]), _281=(3, [4095]), _340=(3, [7]))
    tiff(source, [tags], [exposure, exif, gps, image.tobytes()])
    copy(source, target)
    with Pillow.open(source) as old, Pillow.open(target) as new:
        assert new.getexif().get_ifd(34665) == old.getexif().get_ifd(34665)
        assert new.getexif().get_ifd(34665) == {33434: 0.02, 36864: b"0232"}
        assert new.getexif().get_ifd(34853) == {1: "N"}
        assert (new.getexif()[281], new.getexif()[340]) == (4095, 7)
    with open_image(source) as opened:  # the range of uint16 is not that of a float32 result
        header = opened.header.with_dtype("float32")
    write_image(target, header, [np.zeros((40, 48), "f4")], provenance=MADE)
    with Pillow.open(target) as new:
        assert not {281, 340} & new.getexif().keys()
        assert new.getexif().get_ifd(34665)[33434] == 0.02


def test_exif_that_points_to_itself(tmp_path: Path) -> None:
    image = pixels((40, 48))
    tiff(
        tmp_path / "a.tif", [page(image, _34665=(4, [8]), _34853=(4, [1 << 30]))], [image.tobytes()]
    )
    copy(tmp_path / "a.tif", tmp_path / "b.tif")


def test_scanimage_is_recognised_by_its_software(tmp_path: Path) -> None:
    data, software = pixels((3, 40, 48), "i2"), "SI.VERSION_MAJOR = 5\nSI.hFastZ.enable = false"
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=True) as writer:
        for k, plane in enumerate(data):
            writer.write(
                plane, metadata=None, photometric="minisblack", description=f"frame = {k}",
                software=software,
            )  # fmt: skip
    copy(tmp_path / "a.tif", tmp_path / "b.tif", "TYX")
    with tifffile.TiffFile(tmp_path / "b.tif") as found:
        assert found.is_scanimage
        assert [p.software for p in found.pages] == [software] * 3
        assert [p.description for p in found.pages] == ["frame = 0", "frame = 1", "frame = 2"]


# ---- colours


@pytest.mark.parametrize(
    ("photometric", "message"),
    [(5, "CMYK"), (8, "CIELab"), (32803, "raw colour mosaic")],
)
@pytest.mark.parametrize("compression", [1, 8])
def test_colours_that_are_no_rgb(
    tmp_path: Path, photometric: int, message: str, compression: int
) -> None:
    samples = {5: 4, 32803: 1}.get(photometric, 3)
    data = pixels((40, 48, samples), "u1")
    tags = page(data, 0, samples, _262=(3, [photometric]), _259=(3, [compression]))
    tiff(tmp_path / "a.tif", [tags], [data.tobytes()])
    with pytest.raises(InputError, match=rf"a\.tif: .*{message}.*: save it as RGB or grey"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize(("across", "down"), [(1, 1), (2, 2), (2, 1), (4, 2)])
def test_ycbcr_without_jpeg_becomes_rgb(
    tmp_path: Path, across: int, down: int, compression: int
) -> None:
    """Encoded as in section 21 of TIFF 6.0; of a size that is no multiple of a block."""
    small = RNG.integers(0, 256, (41 // down + 1, 50 // across + 1, 3)).astype("u1")
    data = small.repeat(down, 0).repeat(across, 1)[:41, :50]
    red, green, blue = np.moveaxis(small.astype(float), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = [(c - luma) / (2 - 2 * k) + 128 for c, k in ((blue, 0.114), (red, 0.299))]
    rows, columns = -(-41 // down), -(-50 // across)
    block = [luma] * (across * down) + chroma
    stored = np.rint(np.stack(block, -1)[:rows, :columns]).clip(0, 255).astype("u1").tobytes()
    stored = zlib.compress(stored) if compression == 8 else stored
    how = {"_262": (3, [6]), "_259": (3, [compression]), "_530": (3, [across, down])}
    tags = page(data, 0, 3, **how, _279=(4, [len(stored)]))
    tiff(tmp_path / "a.tif", [tags], [stored])
    copy(tmp_path / "a.tif", tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as found:
        assert found.pages[0].photometric == 2
        assert np.abs(found.asarray().astype(int) - data).max() <= 2


@pytest.mark.parametrize("subsampling", [0, 2])
def test_ycbcr_in_jpeg_becomes_rgb(tmp_path: Path, subsampling: int) -> None:
    data = np.full((48, 64, 3), (200, 30, 90), "u1")
    Pillow.fromarray(data).save(
        tmp_path / "a.tif", compression="jpeg", quality=100, subsampling=subsampling
    )
    copy(tmp_path / "a.tif", tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as found:
        assert found.pages[0].photometric == 2
        assert np.abs(found.asarray().astype(int) - data).max() <= 2


def test_the_samples_of_a_planar_page_are_what_the_user_says(tmp_path: Path) -> None:
    data = pixels((3, 40, 48))
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", planarconfig="separate")
    for axes in ("CYX", "ZYX"):
        header = copy(tmp_path / "a.tif", tmp_path / "b.tif", axes)
        assert header.shape == (3, 40, 48)
        with tifffile.TiffFile(tmp_path / "b.tif") as found:
            assert [p.photometric for p in found.pages] == [1, 1, 1]
            np.testing.assert_array_equal(np.stack([p.asarray() for p in found.pages]), data)
    tifffile.imwrite(
        tmp_path / "a.tif", pixels((4, 40, 48)), photometric="rgb", planarconfig="separate",
        extrasamples=["unassalpha"],
    )  # fmt: skip
    with pytest.raises(InputError, match="use `axes` SYX"):
        open_image(tmp_path / "a.tif", axes="CYX")


@pytest.mark.parametrize("mode", ["grayscale", "composite"])
def test_48_bit_colour_of_imagej(tmp_path: Path, mode: str) -> None:
    data = pixels((3, 40, 48))
    header = f"ImageJ=1.52v\nimages=3\nchannels=3\nmode={mode}\n\0".encode()
    tags = page(data[0], 0, 3, _262=(3, [2]), _270=(2, header), _284=(3, [2]))
    tags |= {273: (4, ["@0", "@1", "@2"]), 279: (4, [3840] * 3)}
    tiff(tmp_path / "a.tif", [tags], [plane.tobytes() for plane in data])
    assert copy(tmp_path / "a.tif", tmp_path / "b.tif").canonical_shape == (1, 3, 1, 40, 48)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), data)


# ---- dialects


def lsm(
    path: Path,
    data: np.ndarray,
    bits: str = "inline",
    scan: tuple[int, ...] = (),
    further: tuple[bytes, bytes] = (b"", b""),
    **more: Any,
) -> None:
    """A Zeiss LSM of `data`, (planes, channels, Y, X), each page followed by a thumbnail.

    bits: of two channels are in the tag, or in a region of their own as old versions do. scan:
    depth, times, positions. further: blocks with the names of channels and the times.
    """
    n, channels, height, width = data.shape
    depth, times, positions = (*(scan or (n, 1)), 1)[:3]
    info = bytearray(struct.pack("<Ii", 0x0400494C, 380).ljust(380, b"\0"))
    struct.pack_into("<5i", info, 8, width, height, depth, channels, times)
    struct.pack_into("<3d", info, 40, 2e-7, 2e-7, 1e-6)
    blocks = [channel.tobytes() for plane in data for channel in plane]
    for at, block in zip((108, 132), further, strict=True):
        struct.pack_into("<I", info, at, 8 + sum(map(len, blocks)) if block else 0)
        blocks.append(block)
    struct.pack_into("<i", info, 264, positions)
    blocks += [bytes(3 * 256), struct.pack("<2H", 16, 16)]
    pages: list[Tags] = []
    for k in range(n):
        tags = page(data[k, 0], 0, channels)
        del tags[339]
        tags[273] = (4, [f"@{k * channels + c}" for c in range(channels)])
        tags |= {279: (4, [height * width * 2] * channels), 284: (3, [2]), 254: (4, [0])}
        if bits == "apart":
            tags[258] = (3, struct.pack("<I", 8 + sum(map(len, blocks[:-1]))))
        tags |= {34412: (1, bytes(info))} if k == 0 else {}
        small = page(np.empty((16, 16), "u1"), len(blocks) - 2, 3, _262=(3, [2]), _254=(4, [1]))
        pages += [tags | {int(c[1:]): v for c, v in more.items()}, small]
    tiff(path, pages, blocks)


@pytest.mark.parametrize("bits", ["inline", "apart"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_lsm(tmp_path: Path, channels: int, bits: str) -> None:
    """tifffile#269: the bits of two channels; ilastik#2687: the voxel size."""
    source, target = tmp_path / "a.lsm", tmp_path / "b.tif"
    data = pixels((3, channels, 40, 48))
    lsm(source, data, bits if channels == 2 else "inline")
    header = copy(source, target)
    assert header.axes == ("ZYX" if channels == 1 else "ZCYX")
    assert header.spacing == pytest.approx((1.0, 0.2, 0.2))
    with tifffile.TiffFile(target) as found:
        np.testing.assert_array_equal(found.asarray(), data if channels > 1 else data[:, 0])
        xml = found.ome_metadata
    assert xml.count("<Channel ") == channels
    assert 'PhysicalSizeX="0.2"' in xml
    assert 'PhysicalSizeZ="1"' in xml
    assert 'SamplesPerPixel="1"' in xml


def test_lsm_with_names_times_and_positions(tmp_path: Path) -> None:
    names = b"".join(struct.pack("<i", len(n) + 1) + n + b"\0" for n in (b"Ch1-T1", b"ChS2"))
    size = 24 + 8 + len(names)
    named = struct.pack("<6i", size, 2, 2, 24, 32, 0) + bytes(8) + names
    stamps = struct.pack("<2i3d", 32, 3, 10.0, 12.0, 15.0)
    data = pixels((6, 2, 40, 48))
    lsm(tmp_path / "a.lsm", data, scan=(1, 3, 2), further=(named, stamps))
    with pytest.raises(InputError, match="holds 2 images: choose a `series` of 0, 1"):
        open_image(tmp_path / "a.lsm")
    for k in (0, 1):
        header = copy(tmp_path / "a.lsm", tmp_path / "b.tif", series=str(k))
        found = planes(tmp_path / "a.lsm", series=str(k))
        np.testing.assert_array_equal(found[:, :, 0], data[3 * k : 3 * k + 3])
        assert (header.axes, header.channels) == ("TCYX", ("Ch1-T1", "ChS2"))
        assert header.interval == 2.5
        with open_image(tmp_path / "b.tif") as again:
            assert again.header.channels == header.channels
            assert again.header.interval == 2.5


def test_lsm_of_time_points_and_one_that_is_cut_off(tmp_path: Path) -> None:
    data = pixels((6, 2, 40, 48))
    lsm(tmp_path / "a.lsm", data, scan=(3, 2))
    header = copy(tmp_path / "a.lsm", tmp_path / "b.tif")
    assert (header.axes, header.shape) == ("TZCYX", (2, 3, 2, 40, 48))
    lsm(tmp_path / "a.lsm", data, scan=(4, 2))
    with pytest.raises(IncompleteError, match="6 of the 8 planes in its LSM header exist"):
        open_image(tmp_path / "a.lsm")
    lsm(tmp_path / "a.lsm", data, scan=(2, 2))
    with pytest.raises(InputError, match="has 6 pages of 2 channels, but its LSM header"):
        open_image(tmp_path / "a.lsm")
    lsm(tmp_path / "a.lsm", data, _34412=(1, b"short"))
    with pytest.raises(InputError, match="LSM header is damaged"):
        open_image(tmp_path / "a.lsm")


def ndtiff(path: Path, data: np.ndarray, axes: list[dict[str, Any]], version: int) -> None:
    """An NDTiff file, or (version 0) a Micro-Manager stack without OME-XML, of (n, Y, X)."""
    summary = json.dumps({"PixelSize_um": 0.5, "z-step_um": 2.0}).encode()
    marked = struct.pack("<II", 2355492, len(summary)) + summary
    head = {
        0: struct.pack("<6I", 54773648, 0, 483765892, 0, 99384722, 0),
        1: struct.pack("<6I", 54773648, 0, 483765892, 0, 483729, 1),
        2: struct.pack("<2I", 483729, 2),
        3: struct.pack("<3I", 483729, 3, 2),
    }[version] + marked
    keys = {"time": "FrameIndex", "channel": "ChannelIndex", "z": "SliceIndex"}
    told = []
    for where in axes:
        names = {"channel": where["channel"]} if version else {}
        old = {keys[k]: v for k, v in where.items() if k in keys and isinstance(v, int)}
        told.append(old | {"Axes": names} if version < 2 else {"SliceIndex": 0, "Axes": where})
        told[-1] |= {"PixelSizeUm": 0.5}
    pages = [
        page(plane, k, _51123=(2, json.dumps(text).encode() + b"\0"))
        for k, (plane, text) in enumerate(zip(data, told, strict=True))
    ]
    tiff(path, pages, [plane.tobytes() for plane in data], head)


@pytest.mark.parametrize("version", [0, 1, 2, 3])
@pytest.mark.parametrize("order", ["channel last", "shuffled"])
def test_ndtiff(tmp_path: Path, version: int, order: str) -> None:
    """tifffile#23, NDStorage#12: each page says where it is; their order in the file is free."""
    source, target = tmp_path / "a_NDTiffStack.tif", tmp_path / "b.tif"
    data = pixels((12, 40, 48))
    names = [0, 1] if version < 3 else ["DAPI", "FITC"]
    where = [{"time": t, "z": z - 1, "channel": c} for t in range(3) for z in (0, 1) for c in names]
    stored = list(range(12)) if order == "channel last" else RNG.permutation(12).tolist()
    ndtiff(source, data[stored], [where[k] for k in stored], version)
    header = copy(source, target)
    assert header.spacing == (2.0, 0.5, 0.5)
    assert header.channels == (("DAPI", "FITC") if version == 3 else ()) or order == "shuffled"
    canonical = data.reshape(3, 2, 2, 40, 48).transpose(0, 2, 1, 3, 4)
    found = planes(target)
    if version == 3 and order == "shuffled":  # named channels are in the order of the file
        found = found[:, np.argsort(header.channels)]
    np.testing.assert_array_equal(found, canonical)


def test_ndtiff_of_tiles_and_one_with_missing_planes(tmp_path: Path) -> None:
    path, data = tmp_path / "a_NDTiffStack.tif", pixels((3, 40, 48))
    tiles = [{"row": 0, "column": k, "channel": 0} for k in range(3)]
    ndtiff(path, data, tiles, 3)
    with pytest.raises(
        InputError, match=r"holds 3 images: choose a `series` of 0 \(column 0 row 0"
    ):
        open_image(path)
    for series, k in (("1", 1), ("column 2 row 0", 2)):
        np.testing.assert_array_equal(planes(path, series=series)[0, 0, 0], data[k])
    stopped = [{"time": t, "channel": c} for t, c in ((0, 0), (0, 1), (1, 0))]
    ndtiff(path, data, stopped, 3)
    with pytest.raises(InputError, match="does not name its axis of length 3"):
        open_image(path)


def test_qptiff(tmp_path: Path) -> None:
    path, data = tmp_path / "a.qptiff", pixels((3, 64, 64))
    text = "<PerkinElmer-QPI-ImageDescription><ImageType>{}</ImageType><Name>{}</Name></>"
    with tifffile.TiffWriter(path) as writer:
        for k, (kind, pixel) in enumerate(
            [*(("FullResolution", plane) for plane in data), ("Thumbnail", data[0, :16, :16])]
            + [("ReducedResolution", plane[::2, ::2]) for plane in data]
            + [("Overview", data[1]), ("Label", data[2, :20])]
        ):
            writer.write(
                pixel, metadata=None, photometric="minisblack", software="PerkinElmer-QPI",
                description=text.format(kind, f"Opal &amp; {k}"), tile=(32, 32),
                resolution=(20000, 20000), resolutionunit="CENTIMETER",
                subfiletype=kind == "ReducedResolution",
            )  # fmt: skip
    header = copy(path, tmp_path / "b.tif")
    assert (header.axes, header.spacing) == ("CYX", (None, 0.5, 0.5))
    assert header.channels == ("Opal & 0", "Opal & 1", "Opal & 2")
    with tifffile.TiffFile(tmp_path / "b.tif") as found:
        np.testing.assert_array_equal(found.asarray(), data)
        assert found.series[0].axes == "CYX"


@pytest.mark.parametrize(
    ("header", "shape", "samples"),
    [
        ("shape=(3,40,48)", (3, 40, 48), 1),
        ("shape=(3, 40, 48)", (3, 40, 48), 1),
        ('{"shape": [3, 40, 48]}', (3, 40, 48), 1),
        ("shape=(40,48)", (40, 48), 1),
        ("shape=(3,40,48,3)", (3, 40, 48, 3), 3),
    ],
)
def test_old_headers_of_tifffile(
    tmp_path: Path, header: str, shape: tuple[int, ...], samples: int
) -> None:
    """As the stuck.tif of pims and the multipage_rgb.tif of scikit-image."""
    source, data = tmp_path / "a.tif", pixels(shape, "u1")
    stack = data if len(shape) > 2 else data[None]
    with tifffile.TiffWriter(source) as writer:
        for k, plane in enumerate(stack):
            kind = "rgb" if samples == 3 else "minisblack"
            about = {"description": header} if k == 0 else {}
            writer.write(plane, metadata=None, photometric=kind, **about)
    if len(stack) > 1:
        with pytest.raises(InputError, match="does not name its axis of length 3"):
            open_image(source)
    axes = ("Z" if len(stack) > 1 else "") + ("YXS" if samples == 3 else "YX")
    copy(source, tmp_path / "b.tif", axes)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), data)


@pytest.mark.parametrize("text", ['{"shape": [3, 40', '{"shape": "many"}', "shape=(3,x)"])
def test_damaged_headers_of_tifffile(tmp_path: Path, text: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels((40, 48)), metadata=None, description=text)
    with pytest.raises(InputError, match=r"a\.tif: its tifffile header is damaged: .*shape"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("lines", "spacing"),
    [
        ("unit=micron\nzunit=nm\nspacing=400.0", (0.4, 0.2, 0.2)),
        ("unit=nm\nyunit=micron\nzunit=mm\nspacing=0.001", (1.0, 0.2, 0.0002)),
        ("unit=\u00b5m\nspacing=0.5", (0.5, 0.2, 0.2)),
        ("unit=\\u00B5m\nspacing=0.5", (0.5, 0.2, 0.2)),
        ("unit=pixel\nzunit=nm\nspacing=400", (0.4, None, None)),
        ("unit=micron\nspacing=nan", (None, 0.2, 0.2)),
    ],
)
@pytest.mark.parametrize("codec", ["utf-8", "cp1252"])
def test_units_of_imagej(
    tmp_path: Path, lines: str, spacing: tuple[float | None, ...], codec: str
) -> None:
    """ilastik#3094, scifio#320."""
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    header = f"ImageJ=1.53t\nimages=3\nslices=3\n{lines}\n".encode(codec)
    data = pixels((3, 40, 48))
    more = {"_270": (2, header + b"\0"), "_282": (5, struct.pack("<2I", 5, 1))}
    more |= {"_283": (5, struct.pack("<2I", 5, 1)), "_296": (3, [1])}
    tiff(source, [page(p, k, **more) for k, p in enumerate(data)], [p.tobytes() for p in data])
    found = copy(source, target)
    assert found.spacing == tuple(s and pytest.approx(s) for s in spacing)
    if spacing[0]:  # a new distance is written in the unit of z
        finer = found.with_z(5, spacing[0] / 2)
        write_image(target, finer, [data[0]] * 5, provenance=MADE)
        verify_image(target, finer)


# ---- several images in a file


IMAGE = (
    '<Image ID="Image:{k}" Name="{name}"><Pixels ID="Pixels:{k}" DimensionOrder="XYZCT"'
    ' Type="uint16" SizeX="48" SizeY="{rows}" SizeZ="2" SizeC="1" SizeT="1">'
    '<Channel ID="Channel:{k}:0" SamplesPerPixel="1"/>{data}</Pixels></Image>'
)
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{}>{}</OME>'
)


def ome(path: Path, data: Sequence[np.ndarray], text: str) -> None:
    with tifffile.TiffWriter(path, ome=False) as writer:
        for k, plane in enumerate(data):
            about = {"description": text.encode()} if k == 0 else {}
            writer.write(plane, metadata=None, photometric="minisblack", **about)


def test_one_of_several_ome_images(tmp_path: Path) -> None:
    source, target = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    data = [*pixels((2, 40, 48)), *pixels((2, 32, 48))]
    refs = ['<TiffData IFD="0" PlaneCount="2"/>', '<TiffData IFD="2" PlaneCount="2"/>']
    images = [
        IMAGE.format(k=k, name=name, rows=rows, data=ref)
        for k, (name, rows, ref) in enumerate(zip("AB", (40, 32), refs, strict=True))
    ]
    ome(source, data, OME.format("", "".join(images)))
    message = r"holds 2 images: choose a `series` of 0 \(A\), 1 \(B\)"
    with pytest.raises(InputError, match=message):
        open_image(source)
    for series, k in (("0", 0), ("A", 0), ("1", 1), ("B", 1)):
        assert copy(source, target, series=series).axes == "ZYX"
        with tifffile.TiffFile(target) as found:
            np.testing.assert_array_equal(found.asarray(), data[2 * k : 2 * k + 2])
            assert found.ome_metadata.count("<Image ") == 1
            assert f'Name="{"AB"[k]}"' in found.ome_metadata
    with pytest.raises(InputError, match=r"a\.ome\.tif: has no `series` C: choose one of 0 \(A\)"):
        open_image(source, series="C")


def test_one_of_several_arrays_of_tifffile(tmp_path: Path) -> None:
    first, second = pixels((3, 40, 48)), pixels((32, 48))
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(first, metadata={"axes": "ZYX"}, photometric="minisblack")
        writer.write(second, photometric="minisblack")
    with pytest.raises(InputError, match="holds 2 images: choose a `series` of 0, 1"):
        open_image(tmp_path / "a.tif")
    for series, data in (("0", first), ("1", second)):
        copy(tmp_path / "a.tif", tmp_path / "b.tif", series=series)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), data)
    tifffile.imwrite(tmp_path / "c.tif", second, metadata=None)
    with pytest.raises(InputError, match=r"c\.tif: has no `series` 1: choose one of 0"):
        open_image(tmp_path / "c.tif", series="1")


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("binary_only", [False, True])
def test_positions_of_micromanager(tmp_path: Path, renamed: bool, binary_only: bool) -> None:
    """tifffile#54: a file for each position, and the metadata of all positions in each or one."""
    uuids = [f"urn:uuid:11111111-1111-1111-1111-11111111111{k}" for k in range(2)]
    names = [f"m_MMStack_Pos{k}.ome.tif" for k in range(2)]
    refs = [
        "".join(
            f'<TiffData FirstZ="{z}" IFD="{z}" PlaneCount="1"><UUID FileName="{name}">{uuid}</UUID>'
            "</TiffData>"
            for z in range(2)
        )
        for name, uuid in zip(names, uuids, strict=True)
    ]
    images = "".join(
        IMAGE.format(k=k, name=f"Pos{k}", rows=40, data=ref) for k, ref in enumerate(refs)
    )
    data = pixels((2, 2, 40, 48))
    for k, name in enumerate(names):
        head = f' UUID="{uuids[k]}"'
        text = OME.format(head, images)
        if k and binary_only:
            only = f'<BinaryOnly MetadataFile="{names[0]}" UUID="{uuids[0]}"/>'
            text = OME.format(head, only)
        path = tmp_path / (f"{k}.tif" if renamed and not binary_only else name)
        ome(path, data[k], text)
    for k, path in enumerate(sorted(p for p in tmp_path.iterdir() if p.suffix == ".tif")):
        target = tmp_path / f"out{k}"
        copy(path, target)
        with tifffile.TiffFile(target) as found:
            np.testing.assert_array_equal(found.asarray(), data[k])
            assert found.ome_metadata.count("<Image ") == 1
            assert f'Name="Pos{k}"' in found.ome_metadata


def test_metadata_in_a_file_that_is_missing(tmp_path: Path) -> None:
    text = OME.format("", '<BinaryOnly MetadataFile="other.companion.ome" UUID="urn:uuid:1"/>')
    ome(tmp_path / "a.ome.tif", pixels((1, 40, 48)), text)
    with pytest.raises(InputError, match=r"has its metadata in other\.companion\.ome"):
        open_image(tmp_path / "a.ome.tif")


# ---- damage


def test_no_samples_and_no_tile_height(tmp_path: Path) -> None:
    """mantidimaging#1893, pims#134: one such file ended a whole batch."""
    image, path = pixels((40, 48)), tmp_path / "a.tif"
    tiff(path, [page(image, _277=(3, [0]), _270=(2, b'{"shape": [40, 48]}\0'))], [image.tobytes()])
    with pytest.raises(InputError, match=r"a\.tif: page 0 has no pixels .* 0 samples of a pixel"):
        open_image(path)
    tags = page(image, _322=(4, [32]), _324=(4, ["@0"] * 4), _325=(4, [960] * 4))
    tiff(path, [tags], [image.tobytes()])
    with pytest.raises(InputError, match="page 0 has tiles of 0 x 32 pixels: the file is damaged"):
        open_image(path)


def test_an_unknown_compression_is_known_before_work(tmp_path: Path) -> None:
    image, path = pixels((40, 48)), tmp_path / "a.tif"
    tags = [page(image), page(image, _259=(3, [34676]))]
    tiff(path, tags, [image.tobytes()])
    with pytest.raises(InputError, match=r"a\.tif: has pixels of compression 34676, .* save it"):
        open_image(path, axes="ZYX")


def test_a_strip_that_is_smaller_than_its_page(tmp_path: Path) -> None:
    """What a strip lacks would be whatever is in memory."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(pixels((16, 48), "u1"), compression="jpeg", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as made:
        strip = made.filehandle
        strip.seek(made.pages[0].dataoffsets[0])
        data = strip.read(made.pages[0].databytecounts[0])
    tags = page(np.empty((40, 48), "u1"), _259=(3, [7]), _279=(4, [len(data)]))
    tiff(tmp_path / "b.tif", [tags], [data])
    with (
        open_image(tmp_path / "b.tif") as image,
        pytest.raises(InputError, match="cannot be decoded"),
    ):
        image.read((0, 0, 0))


@pytest.mark.parametrize("given", ['IFD="x"', 'IFD="-1"', 'FirstZ="2"', 'PlaneCount="{"'])
def test_damaged_numbers_in_ome(tmp_path: Path, given: str) -> None:
    text = OME.format("", IMAGE.format(k=0, name="", rows=40, data=f"<TiffData {given}/>"))
    ome(tmp_path / "a.ome.tif", pixels((2, 40, 48)), text)
    with pytest.raises(InputError, match=r"a\.ome\.tif: the OME-XML says .*: damaged"):
        open_image(tmp_path / "a.ome.tif")
