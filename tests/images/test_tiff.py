"""TIFF dialects: what is read, what survives a round trip, what stays true when it changes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from restorectl import __version__
from restorectl.errors import IncompleteError, InputError, OutputError
from restorectl.images.header import Header
from restorectl.images.image import (
    Existing,
    look,
    open_image,
    read_provenance,
    verify_image,
    write_image,
)
from restorectl.images.tiff import write

RNG = np.random.default_rng(0)
MADE = {"command": "restore", "version": "1"}

OME_XML = """<?xml version="1.0" encoding="UTF-8"?><!-- kept -->
<OME:OME xmlns:OME="http://www.openmicroscopy.org/Schemas/OME/2016-06"
 UUID="urn:uuid:6f1c2d34-0000-4000-8000-000000000001" Creator="Scope 3 &gt; 2">
<OME:Instrument ID="Instrument:0"><OME:Detector ID="Detector:0" Model="Zyla" Gain="1.50"/>
</OME:Instrument>
<OME:Image ID="Image:0" Name="cells &quot;a&quot; SizeX='9'"><OME:Pixels ID="Pixels:0"
 DimensionOrder="XYZCT" Type="uint16" SizeX="9" SizeY="8" SizeZ="4" SizeC="2" SizeT="1"
 SignificantBits="12" PhysicalSizeX="0.1080" PhysicalSizeY="0.1080" PhysicalSizeZ="300.0"
 PhysicalSizeZUnit="nm" BigEndian="false"><OME:Channel ID="Channel:0:0" Name="DAPI"
 EmissionWavelength="461"/><OME:Channel ID="Channel:0:1" Name="caf\u00e9"/>
%s<OME:Plane TheZ="0" TheC="0" TheT="0" DeltaT="0.25"/></OME:Pixels></OME:Image>
<OME:StructuredAnnotations><OME:CommentAnnotation ID="Annotation:0"><OME:Value>\u00b5</OME:Value>
</OME:CommentAnnotation></OME:StructuredAnnotations></OME:OME>"""
TIFF_DATA = (
    '<OME:TiffData IFD="0" PlaneCount="8"><OME:UUID FileName="old.ome.tif">urn:uuid:6f1c2d34'
)
TIFF_DATA += "-0000-4000-8000-000000000001</OME:UUID></OME:TiffData>\n"


def pixels(shape: tuple[int, ...], dtype: Any = "uint16") -> np.ndarray:
    return (RNG.random(shape) * 200).astype(dtype)


def write_ome(path: Path, data: np.ndarray, xml: str = OME_XML % TIFF_DATA, **kwargs: Any) -> None:
    tifffile.imwrite(
        path, data, photometric="minisblack", description=xml.encode(), metadata=None, **kwargs
    )


def write_imagej(path: Path, data: np.ndarray, **metadata: Any) -> None:
    lut = np.stack([np.arange(256), np.zeros(256), np.arange(256)]).astype(np.uint8)
    n_pages = int(np.prod(data.shape[:-2]))
    metadata = {
        "axes": "ZCYX",
        "unit": "micron",
        "spacing": 0.30000001,
        "finterval": 1035.91996,
        "min": 2.0,
        "max": 35.5,
        "Info": "line 1\nline \u00b5",
        "Labels": [f"slice {i}" for i in range(n_pages)],
        "LUTs": [lut, lut],
        "Ranges": (2.0, 35.0, 1.0, 19.0),
    } | metadata
    tifffile.imwrite(
        path,
        data,
        imagej=True,
        resolution=((1930868, 1000000), (1930869, 1000000)),
        metadata=metadata,
        byteorder=">",
    )


def copy(
    source: Path, target: Path, header: Header | None = None, axes: str | None = None
) -> Header:
    """Write what was read, or pixels that fit `header`, and compare all planes."""
    with open_image(source, axes=axes) as image:
        h = image.header if header is None else header
        same = (h.shape, h.dtype) == (image.header.shape, image.header.dtype)
        shape = h.canonical_shape[3:]
        planes = {p: image.read(p) if same else pixels(shape, h.dtype) for p in h.planes}
        write_image(target, h, (planes[p] for p in h.planes), provenance=MADE)
    verify_image(target, h)
    with open_image(target, axes=axes) as again:
        assert again.header.planes == h.planes
        for plane in h.planes:
            np.testing.assert_array_equal(again.read(plane), planes[plane])
        return again.header


def tag_values(path: Path, page: int = 0) -> dict[int, Any]:
    with tifffile.TiffFile(path) as tiff:
        return {tag.code: tag.value for tag in tiff.pages[page].tags}


# ---- reading


LAYOUTS = st.fixed_dictionaries(
    {
        "outer": st.sampled_from(["", "Z", "TZ", "CT", "ZC", "TZC", "CZT"]),
        "dtype": st.sampled_from(["u1", "u2", "i2", "u4", "f2", "f4", "f8"]),
        "inner": st.sampled_from(["", "contig", "separate"]),
        "byteorder": st.sampled_from("<>"),
        "bigtiff": st.booleans(),
        "compression": st.sampled_from([None, "zlib"]),
        "tile": st.sampled_from([None, (16, 32)]),
        "rows": st.sampled_from([None, 1, 7]),
        "predictor": st.booleans(),
    }
)


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(LAYOUTS, st.integers(2, 40), st.integers(2, 40))
def test_planes_are_those_of_tifffile(
    tmp_path: Path, layout: dict[str, Any], height: int, width: int
) -> None:
    inner = layout["inner"]
    axes = layout["outer"] + {"": "YX", "contig": "YXS", "separate": "SYX"}[inner]
    lengths = {"T": 2, "C": 3, "Z": 2, "Y": height, "X": width, "S": 3}
    data = pixels(tuple(lengths[axis] for axis in axes), layout["dtype"])
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, data, metadata={"axes": axes}, byteorder=layout["byteorder"],
        photometric="rgb" if inner else "minisblack", planarconfig=inner or None,
        bigtiff=layout["bigtiff"], compression=layout["compression"], tile=layout["tile"],
        rowsperstrip=None if layout["tile"] else layout["rows"],
        predictor=layout["predictor"] and layout["compression"] and data.dtype.kind != "f",
    )  # fmt: skip
    canonical = data
    for axis in "ZCT":
        if axis not in axes:
            canonical, axes = canonical[None], axis + axes
    order = [axes.index(axis) for axis in ("TCSZYX" if inner else "TCZYX")]
    canonical = canonical.transpose(order)
    canonical = canonical.reshape(canonical.shape[0], -1, *canonical.shape[-3:])
    rows, cols = slice(height // 3, height), slice(width // 4, max(width // 2, 1))
    with open_image(path) as image:
        header = image.header
        assert header.canonical_shape == canonical.shape
        assert header.dtype == data.dtype.newbyteorder("=")
        for t, c, z in header.planes:
            whole, part = image.read((t, c, z)), image.read((t, c, z), rows, cols)
            assert whole.dtype == header.dtype
            assert whole.dtype.isnative
            np.testing.assert_array_equal(whole, canonical[t, c, z])
            np.testing.assert_array_equal(part, canonical[t, c, z, rows, cols])
    copied = copy(path, tmp_path / "b.tif")
    assert (copied.axes, copied.shape) == (header.axes, header.shape)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), tifffile.imread(path))


def test_opening_reads_no_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    write_imagej(path, pixels((50, 2, 64, 64)))
    with open_image(path) as image:
        reads: list[int] = []
        read = image._bytes  # type: ignore[attr-defined]
        monkeypatch.setattr(image, "_bytes", lambda at, n, k: reads.append(n) or read(at, n, k))
        assert reads == []
        image.read((0, 1, 20), slice(10, 14), slice(0, 5))
    assert reads == [4 * 64 * 2]


def test_a_stack_with_one_directory_is_read_page_by_page(tmp_path: Path) -> None:
    """ImageJ's own files beyond 4 GB, and tifffile's truncated ones, have a single directory."""
    data = pixels((5, 6, 7))
    for name, kwargs in (("j.tif", {"imagej": True}), ("s.tif", {})):
        meta = {"axes": "ZYX"}
        tifffile.imwrite(tmp_path / name, data, metadata={**meta, "truncate": True}, **kwargs)  # type: ignore[arg-type]
        path = tmp_path / name
        with tifffile.TiffFile(path) as tiff:
            n_pages = len(tiff.pages)
        if n_pages > 1:  # this tifffile keeps all directories: cut the chain after the first
            _cut_chain(path)
        with open_image(path) as image:
            assert image.header.axes == "ZYX"
            for z in range(5):
                np.testing.assert_array_equal(image.read((0, 0, z)), data[z])
        copy(path, tmp_path / "out.tif")
        with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
            assert len(tiff.pages) == 5


def _cut_chain(path: Path) -> None:
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[0].offset
        n_tags = len(tiff.pages[0].tags)
    raw = bytearray(path.read_bytes())
    raw[at + 2 + 12 * n_tags : at + 6 + 12 * n_tags] = bytes(4)
    path.write_bytes(raw)


def test_pages_without_metadata_need_axes(tmp_path: Path) -> None:
    data = pixels((5, 6, 7))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, data, metadata=None, photometric="minisblack")
    with pytest.raises(InputError, match=r"a\.tif: .* `axes` ZYX or `axes` TYX or `axes` CYX"):
        open_image(path)
    for axes, plane in (("ZYX", (0, 0, 4)), ("TYX", (4, 0, 0)), ("CYX", (0, 4, 0))):
        with open_image(path, axes=axes) as image:
            np.testing.assert_array_equal(image.read(plane), data[4])
        copied = copy(path, tmp_path / "b.tif", axes=axes)
        assert copied.extra["tiff"].kind == "plain"


def test_pyramids_use_full_resolution_only(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    data = pixels((3, 64, 64))
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(data, subifds=1, metadata={"axes": "ZYX"}, photometric="minisblack")
        writer.write(data[:, ::2, ::2], subfiletype=1)
    assert copy(path, tmp_path / "b.ome.tif").shape == data.shape


def test_several_series_are_refused(tmp_path: Path) -> None:
    for name, kwargs in (("a.ome.tif", {"ome": True}), ("a.tif", {})):
        path = tmp_path / name
        with tifffile.TiffWriter(path, **kwargs) as writer:
            writer.write(pixels((8, 8)), photometric="minisblack")
            writer.write(pixels((9, 8)), photometric="minisblack")
        with pytest.raises(InputError, match=r"images|pages"):
            open_image(path)


def test_parts_of_a_multi_file_ome_data_set_are_refused(tmp_path: Path) -> None:
    part = '<OME:TiffData IFD="0" FirstC="%d" PlaneCount="4"><OME:UUID FileName="%s">%s</OME:UUID>'
    part += "</OME:TiffData>"
    xml = OME_XML % (part % (0, "a.ome.tif", "urn:1") + part % (1, "b.ome.tif", "urn:2"))
    write_ome(tmp_path / "a.ome.tif", pixels((4, 8, 9)), xml)
    with pytest.raises(InputError, match="one of several files"):
        open_image(tmp_path / "a.ome.tif")


@pytest.mark.parametrize(
    ("kwargs", "dtype", "message"),
    [
        ({}, "bool", "1-bit"),
        ({}, "c8", "complex64"),
        ({"photometric": "separated", "planarconfig": "contig"}, "u1", "CMYK"),
    ],
)
def test_pixels_that_are_no_intensities(
    tmp_path: Path, kwargs: dict[str, Any], dtype: str, message: str
) -> None:
    shape = (8, 8, 4) if kwargs else (8, 8)
    tifffile.imwrite(tmp_path / "a.tif", pixels(shape, dtype), **kwargs)
    with pytest.raises(InputError, match=message):
        open_image(tmp_path / "a.tif")


def test_palettes(tmp_path: Path) -> None:
    data = pixels((8, 9), "u1")
    ramp = np.zeros((3, 256), np.uint16)
    ramp[1] = np.arange(256) * 257
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, data, colormap=ramp, photometric="palette", metadata=None)
    copy(path, tmp_path / "b.tif")
    np.testing.assert_array_equal(tag_values(tmp_path / "b.tif")[320], ramp)
    with open_image(path) as image:
        header = image.header.with_dtype("float32")
    copy(path, tmp_path / "c.tif", header)
    assert 320 not in tag_values(tmp_path / "c.tif")
    tifffile.imwrite(path, data, colormap=ramp[:, ::-1], photometric="palette", metadata=None)
    with pytest.raises(InputError, match="palette"):
        open_image(path)


@pytest.mark.parametrize(
    ("compression", "predictor", "dtype"),
    [
        ("lzw", None, "u1"),
        ("lzw", 2, "u2"),
        ("zlib", 2, "u1"),
        ("zlib", 3, "f4"),
        ("zstd", None, "u2"),
        ("zstd", 2, "i4"),
        ("zstd", 3, "f8"),
        ("lzma", None, "u2"),
        ("packbits", None, "u1"),
    ],
)
@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_compressions(
    tmp_path: Path,
    compression: str,
    predictor: int | None,
    dtype: str,
    byteorder: str,
    tile: tuple[int, int] | None,
) -> None:
    data, path = pixels((2, 40, 41), dtype), tmp_path / "a.tif"
    tifffile.imwrite(
        path, data, metadata={"axes": "ZYX"}, compression=compression, predictor=predictor,
        byteorder=byteorder, tile=tile, photometric="minisblack",
    )  # fmt: skip
    with open_image(path) as image:
        for z in range(2):
            np.testing.assert_array_equal(image.read((0, 0, z)), data[z])
        part = image.read((0, 0, 1), slice(10, 30), slice(5, 20))
        np.testing.assert_array_equal(part, data[1, 10:30, 5:20])
    copy(path, tmp_path / "b.tif")
    assert tag_values(tmp_path / "b.tif")[259] == 8
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), data)


@pytest.mark.parametrize("shape", [(40, 48), (40, 48, 3)])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_jpeg_in_tiff(tmp_path: Path, shape: tuple[int, ...], tile: tuple[int, int] | None) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels(shape, "u1"), compression="jpeg", metadata=None, tile=tile)
    decoded = np.atleast_3d(tifffile.imread(path))
    with open_image(path) as image:
        for c in range(decoded.shape[2]):
            np.testing.assert_array_equal(image.read((0, c, 0)), decoded[..., c])
    copy(path, tmp_path / "b.tif")


def test_a_jpeg_in_tiff_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels((40, 48), "u1"), compression="jpeg", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        start, size = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    raw = bytearray(path.read_bytes())
    raw[start + size // 2 : start + size] = bytes(size - size // 2)
    path.write_bytes(raw)
    with open_image(path) as image, pytest.raises(IncompleteError, match="no end of its JPEG"):
        image.read((0, 0, 0))


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "lerc"])
def test_an_empty_page_is_no_damage(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.tif"
    data = np.zeros((6000, 6000), "u2")
    tifffile.imwrite(path, data, compression=compression, metadata=None, rowsperstrip=6000)
    with open_image(path) as image:
        assert not image.read((0, 0, 0)).any()


# ---- writing


def test_imagej_survives(tmp_path: Path) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    write_imagej(source, pixels((3, 2, 8, 9)))
    header = copy(source, target)
    assert header.spacing == pytest.approx((0.30000001, 1000000 / 1930869, 1000000 / 1930868))
    old, new = tag_values(source), tag_values(target)
    for code in (270, 282, 283, 296, 50838):
        assert new[code] == old[code]
    with tifffile.TiffFile(source) as a, tifffile.TiffFile(target) as b:
        assert a.byteorder == b.byteorder == ">"
        assert a.imagej_metadata.keys() == b.imagej_metadata.keys()
        for key, value in a.imagej_metadata.items():
            np.testing.assert_array_equal(b.imagej_metadata[key], value)
        assert (a.series[0].axes, a.series[0].shape) == (b.series[0].axes, b.series[0].shape)
        page = b.pages[0]  # ImageJ reads a stack from its first page on
        assert b.pages[5].dataoffsets[0] == page.dataoffsets[0] + 5 * page.nbytes
    assert new[305] == f"restorectl {__version__} (input: tifffile.py)" or 305 in new


def test_imagej_tells_the_truth_about_a_resampled_stack(tmp_path: Path) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    write_imagej(source, pixels((3, 2, 8, 9)))
    with open_image(source) as image:
        header = image.header.with_z(7, 0.1).with_dtype("float32")
    found = copy(source, target, header)
    assert found.shape == (7, 2, 8, 9)
    assert found.spacing[0] == 0.1
    with tifffile.TiffFile(target) as tiff:
        meta = tiff.imagej_metadata
        assert (meta["images"], meta["slices"], meta["channels"]) == (14, 7, 2)
        assert meta["spacing"] == 0.1
        assert meta["Info"] == "line 1\nline \u00b5"
        assert len(meta["LUTs"]) == 2
        assert "Labels" not in meta
        assert tiff.series[0].dtype == np.float32


def test_what_imagej_cannot_hold_becomes_ome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    write_imagej(source, pixels((3, 2, 8, 9)))
    with open_image(source) as image:
        h = image.header
    found = copy(source, target, h.with_dtype("float64"))
    assert found.extra["tiff"].kind == "ome"
    assert found.spacing == pytest.approx(h.spacing)
    with tifffile.TiffFile(target) as tiff:
        assert tiff.is_ome
        assert not tiff.is_bigtiff
        assert "finterval=1035.91996" in tiff.ome_metadata
        assert "line 1" in tiff.ome_metadata
    monkeypatch.setattr(write, "CLASSIC_LIMIT", 70_000)
    found = copy(source, target)
    assert found.extra["tiff"].kind == "ome"
    with tifffile.TiffFile(target) as tiff:
        assert tiff.is_bigtiff
        np.testing.assert_array_equal(tiff.asarray(), tifffile.imread(source))


def test_bigtiff_only_from_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.tif"
    tifffile.imwrite(source, pixels((64, 64)), metadata=None, bigtiff=True)
    for limit, big in ((1 << 30, False), (8192, True)):
        monkeypatch.setattr(write, "CLASSIC_LIMIT", limit)
        copy(source, tmp_path / "b.tif")
        with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
            assert tiff.is_bigtiff is big


def test_the_size_is_known_before_a_byte_is_written() -> None:
    class Never:
        def __iter__(self) -> "Never":
            return self

        def __next__(self) -> np.ndarray:
            raise AssertionError

    header = Header("ZYX", (3000, 2048, 2048), np.dtype("uint16"), (None, None, None), (), "tiff")
    large = write.output_for(Path("x.tif"), header)
    assert large.layout.big
    small = write.output_for(Path("x.tif"), header.with_z(400, None))
    assert not small.layout.big


def test_ome_survives(tmp_path: Path) -> None:
    source, target = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    write_ome(source, pixels((8, 8, 9)), resolution=(1e4, 1e4), resolutionunit="CENTIMETER")
    header = copy(source, target)
    assert (header.axes, header.shape) == ("CZYX", (2, 4, 8, 9))
    assert header.spacing == (0.3, 0.108, 0.108)
    assert header.channels == ("DAPI", "caf\u00e9")
    with tifffile.TiffFile(target) as tiff:
        raw = tiff.pages[0].tags[270].value
        assert "270" not in [str(tag.code) for tag in tiff.pages[1].tags]
    expected = OME_XML % '<OME:TiffData IFD="0" PlaneCount="8"/>\n'
    expected = expected.replace('\n UUID="urn:uuid:6f1c2d34-0000-4000-8000-000000000001"', "")
    assert raw == expected


def test_ome_tells_the_truth_about_what_changed(tmp_path: Path) -> None:
    source, target = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    write_ome(source, pixels((8, 8, 9)), byteorder=">")
    with open_image(source) as image:
        header = image.header.with_z(11, 0.1).with_dtype("float32")
    found = copy(source, target, header)
    assert (found.shape, found.spacing) == ((2, 11, 8, 9), (0.1, 0.108, 0.108))
    with tifffile.TiffFile(target) as tiff:
        xml = tiff.ome_metadata
        assert tiff.series[0].shape == (2, 11, 8, 9)
    for text in (
        'Type="float"', 'SizeZ="11"', 'SignificantBits="32"', 'PhysicalSizeZ="100"',
        'PhysicalSizeZUnit="nm"', 'PhysicalSizeX="0.1080"', 'BigEndian="true"', 'Gain="1.50"',
        "<!-- kept -->", "SizeX='9'",
    ):  # fmt: skip
        assert text in xml
    assert "TheZ" not in xml


def test_ome_pages_in_any_order(tmp_path: Path) -> None:
    """TiffData may name each plane's page; the copy stores them in the dimension order."""
    data = pixels((8, 8, 9))
    items = "".join(
        f'<OME:TiffData FirstZ="{z}" FirstC="{c}" IFD="{7 - (c * 4 + z)}"/>'
        for c in range(2)
        for z in range(4)
    )
    source, target = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    write_ome(source, data, OME_XML % items)
    with open_image(source) as image:
        np.testing.assert_array_equal(image.read((0, 1, 2)), data[1])
    copy(source, target)
    np.testing.assert_array_equal(tifffile.imread(target), data[::-1].reshape(2, 4, 8, 9))


def test_a_renamed_ome_file_is_read(tmp_path: Path) -> None:
    xml = (OME_XML % TIFF_DATA).replace("-000000000001<", "-000000000009<")
    write_ome(tmp_path / "renamed.ome.tif", pixels((8, 8, 9)), xml)
    assert copy(tmp_path / "renamed.ome.tif", tmp_path / "b.ome.tif").shape == (2, 4, 8, 9)


def test_tifffiles_own_ome_and_rgb(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    for axes, shape in (
        ("TZCYX", (2, 3, 2, 8, 9)),
        ("ZYXS", (4, 8, 9, 3)),
        ("CZTYX", (2, 3, 2, 8, 9)),
    ):
        photometric = "rgb" if "S" in axes else "minisblack"
        metadata = (
            {"axes": axes, "Channel": {"Name": ["a", "b"]}} if "S" not in axes else {"axes": axes}
        )
        data = pixels(shape, "u1")
        tifffile.imwrite(path, data, ome=True, photometric=photometric, metadata=metadata)
        header = copy(path, tmp_path / "b.ome.tif")
        assert (header.axes, header.shape) == (axes, shape)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.ome.tif"), data)


def test_imagej_colour_stacks(tmp_path: Path) -> None:
    data = pixels((3, 8, 9, 3), "u1")
    tifffile.imwrite(tmp_path / "a.tif", data, imagej=True)
    header = copy(tmp_path / "a.tif", tmp_path / "b.tif")
    assert (header.axes, header.shape) == ("CYXS", data.shape)
    assert header.canonical_shape == (1, 9, 1, 8, 9)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), data)


def test_an_override_corrects_the_header(tmp_path: Path) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(source, pixels((5, 8, 9)), imagej=True, metadata={"axes": "ZYX"})
    with open_image(source, axes="TYX") as image:
        header = image.header
    copy(source, target, axes="TYX")
    verify_image(target, header)
    with open_image(target) as image:
        assert image.header.axes == "TYX"
    write_ome(source, pixels((8, 8, 9)))
    copy(source, target, axes="TZYX")
    with open_image(target) as image:
        assert (image.header.axes, image.header.shape) == ("TZYX", (2, 4, 8, 9))


def test_plain_keeps_every_tag(tmp_path: Path) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    with tifffile.TiffWriter(source, byteorder=">") as writer:
        for k in range(3):
            writer.write(
                pixels((8, 9)), metadata=None, photometric="minisblack", description=f"plane {k}",
                resolution=((254, 7), (254, 9)), resolutionunit="CENTIMETER",
                datetime=f"2020:01:0{k + 1} 00:00:00", software="MetaMorph 7",
                extratags=[(65000, 12, 2, (0.1, 0.2), False), (315, 2, None, "someone", k == 0)],
            )  # fmt: skip
    copy(source, target, axes="TYX")
    for k in range(3):
        old, new = tag_values(source, k), tag_values(target, k)
        for code in (270, 282, 283, 296, 306, 65000):
            assert new[code] == old[code], code
    assert tag_values(target)[305] == f"restorectl {__version__} (input: MetaMorph 7)"
    copy(target, source, axes="TYX")
    assert tag_values(source)[305] == f"restorectl {__version__} (input: MetaMorph 7)"


def test_a_plain_stack_that_was_resampled_records_its_spacing(tmp_path: Path) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(
        source, pixels((3, 8, 9)), metadata=None, photometric="minisblack",
        resolution=(1e5, 1e5), resolutionunit="CENTIMETER", description="made by hand",
    )  # fmt: skip
    with open_image(source, axes="ZYX") as image:
        assert image.header.spacing == (None, pytest.approx(0.1), pytest.approx(0.1))
        header = image.header.with_z(9, 0.1)
    write_image(target, header, pixels((9, 8, 9)), provenance=MADE)
    verify_image(target, header)
    with open_image(target) as image:
        assert image.header.axes == "ZYX"
        assert image.header.spacing == pytest.approx((0.1, 0.1, 0.1))
    assert "made by hand" in tag_values(target)[270]


def test_shaped_files_stay_so(tmp_path: Path) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    metadata = {"axes": "ZYX", "spacing": 2.0, "unit": "um", "scope": "x"}
    tifffile.imwrite(source, pixels((3, 8, 9)), metadata=metadata, photometric="minisblack")
    assert copy(source, target).spacing[0] == 2.0
    assert tag_values(target)[270] == tag_values(source)[270]
    with open_image(source) as image:
        header = image.header.with_z(5, 1.25)
    assert copy(source, target, header).spacing[0] == 1.25
    found = json.loads(tag_values(target)[270])
    assert found["shape"] == [5, 8, 9]
    assert found["scope"] == "x"


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_alpha_is_carried_and_not_restored(tmp_path: Path, planar: str) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    data = pixels((8, 9, 4) if planar == "contig" else (4, 8, 9), "u1")
    tifffile.imwrite(
        source, data, photometric="rgb", planarconfig=planar, extrasamples=["unassalpha"]
    )
    with open_image(source) as image:
        header = image.header
        assert header.canonical_shape == (1, 3, 1, 8, 9)
        planes = [255 - image.read(plane) for plane in header.planes]
    write_image(target, header, planes, provenance=MADE)
    verify_image(target, header)
    found = tifffile.imread(target)
    samples = found if planar == "separate" else np.moveaxis(found, -1, 0)
    given = data if planar == "separate" else np.moveaxis(data, -1, 0)
    np.testing.assert_array_equal(samples[:3], 255 - given[:3])
    np.testing.assert_array_equal(samples[3], given[3])
    assert tag_values(target)[338] == (2,)


def test_grey_with_alpha(tmp_path: Path) -> None:
    data = pixels((8, 9, 2), "u1")
    tifffile.imwrite(
        tmp_path / "a.tif", data, photometric="minisblack", planarconfig="contig",
        extrasamples=["assocalpha"], metadata=None,
    )  # fmt: skip
    assert copy(tmp_path / "a.tif", tmp_path / "b.tif").axes == "YX"
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), data)


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    write_ome(tmp_path / "a.ome.tif", pixels((8, 8, 9)), compression="zlib")
    write_imagej(tmp_path / "b.tif", pixels((3, 2, 8, 9)))
    for name in ("a.ome.tif", "b.tif"):
        copies = []
        for i in range(2):
            copy(tmp_path / name, tmp_path / f"{i}.{name}")
            copies.append((tmp_path / f"{i}.{name}").read_bytes())
        assert copies[0] == copies[1]


def test_provenance_is_replaced_and_a_foreign_history_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(
        source, pixels((8, 9)), metadata=None, extratags=[(37395, 2, None, "stained, washed", True)]
    )
    assert read_provenance(source) is None
    copy(source, target)
    assert read_provenance(target) == MADE
    size = target.stat().st_size
    copy(target, source)
    assert source.stat().st_size == size
    assert json.loads(tag_values(source)[37395])["previous"] == "stained, washed"
    source.write_bytes(source.read_bytes()[:40])
    assert look(source) == Existing(True, None)  # cut off, and known as ours


def test_other_readers_agree(tmp_path: Path) -> None:
    """Pillow (libtiff) decodes what is written, compressed or not."""
    for dtype, shape in (("u1", (40, 41)), ("u2", (40, 41)), ("f4", (40, 41)), ("u1", (40, 41, 3))):
        for compression in (None, "zlib"):
            data = pixels(shape, dtype)
            tifffile.imwrite(tmp_path / "a.tif", data, compression=compression, metadata=None)
            copy(tmp_path / "a.tif", tmp_path / "b.tif")
            with Pillow.open(tmp_path / "b.tif") as image:
                np.testing.assert_array_equal(np.asarray(image), data)


def test_memory_does_not_grow_with_the_planes(tmp_path: Path) -> None:
    import tracemalloc

    header = Header("ZYX", (200, 256, 256), np.dtype("uint16"), (1.0, 0.5, 0.5), (), "tiff")
    plane = pixels((256, 256))
    tracemalloc.start()
    write_image(tmp_path / "a.tif", header, (plane for _ in header.planes), provenance=MADE)
    verify_image(tmp_path / "a.tif", header)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * plane.nbytes + 1_000_000
    assert read_provenance(tmp_path / "a.tif") == MADE


def test_wrong_planes_are_a_bug_and_no_file(tmp_path: Path) -> None:
    header = Header("ZYX", (3, 8, 9), np.dtype("uint16"), (None, None, None), (), "tiff")
    for planes in (
        pixels((2, 8, 9)),
        pixels((4, 8, 9)),
        pixels((3, 9, 8)),
        pixels((3, 8, 9), "u1"),
    ):
        with pytest.raises((ValueError, StopIteration, RuntimeError)):
            write_image(tmp_path / "a.tif", header, planes, provenance=MADE)


def test_what_was_not_written_correctly_is_found(tmp_path: Path) -> None:
    source = tmp_path / "a.tif"
    tifffile.imwrite(source, pixels((3, 8, 9)), metadata={"axes": "ZYX"}, photometric="minisblack")
    with open_image(source) as image:
        header = image.header
    verify_image(source, header)
    for wrong in (header.with_z(4, None), header.with_dtype("u1")):
        with pytest.raises(OutputError, match="not written correctly"):
            verify_image(source, wrong)
    source.write_bytes(source.read_bytes()[:-40])
    with pytest.raises(OutputError, match="not written correctly"):
        verify_image(source, header)


def test_a_spacing_without_a_unit_follows_the_number_of_planes(tmp_path: Path) -> None:
    source, target = tmp_path / "in.tif", tmp_path / "out.tif"
    stack = np.zeros((6, 8, 9), np.uint16)
    tifffile.imwrite(source, stack, imagej=True, metadata={"axes": "ZYX", "spacing": 2.0})
    with open_image(source) as image:
        assert image.header.spacing[0] is None
        header = image.header.with_z(11, None)
    planes = (np.zeros((8, 9), np.uint16) for _ in range(11))
    write_image(target, header, planes, provenance={})
    with tifffile.TiffFile(target) as tiff:
        assert tiff.imagej_metadata["spacing"] == 1.0
        assert tiff.imagej_metadata["slices"] == 11
