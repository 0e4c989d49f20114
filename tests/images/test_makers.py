"""Files of the microscopes' makers: the same pixels and metadata as the library that made them.

CZI is made by Zeiss's own library, IMS and HDF5 by h5py, SVS by tifffile; LIF, ND2 and STK byte by
byte, as their libraries read them.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from restorectl.errors import IncompleteError, InputError
from restorectl.images.header import Header
from restorectl.images.image import format_of, open_image, verify_image, write_image

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 4000, (2, 3, 2, 40, 60)).astype(np.uint16)  # T Z C Y X


def planes(path: Path, **how: str) -> tuple[Header, np.ndarray]:
    """The header, and all planes, (T, C, Z, Y, X); regions are compared with them."""
    with open_image(path, **how) as image:
        found = np.empty(image.header.canonical_shape, image.header.dtype)
        for plane in image.header.planes:
            found[plane] = image.read(plane)
            part = image.read(plane, slice(7, 31), slice(2, 5))
            np.testing.assert_array_equal(part, found[plane][7:31, 2:5])
        return image.header, found


def back(tmp_path: Path, source: Path, **how: str) -> Header:
    """Write the image as TIFF, and read that again: nothing of the header is lost."""
    header, pixels = planes(source, **how)
    for name in ("out.ome.tif", "out.tif"):
        target = tmp_path / name
        made = header.for_target(target)
        write_image(target, made, (pixels[p] for p in header.planes), provenance={})
        verify_image(target, made)
    again, found = planes(tmp_path / "out.ome.tif")
    np.testing.assert_array_equal(found, pixels)
    for what in ("axes", "shape", "dtype", "channels", "interval"):
        assert getattr(again, what) == getattr(header, what), what
    assert again.spacing == pytest.approx(header.spacing)
    return header


# ---- CZI
@pytest.fixture
def czi(tmp_path: Path) -> Path:
    """Two scenes of two tiles each beside one another; 40 x 60 pixels."""
    library = pytest.importorskip("pylibCZIrw.czi")
    path = tmp_path / "a.czi"
    with library.create_czi(str(path)) as file:
        for scene in (0, 1):
            for t, z, c in np.ndindex(2, 3, 2):
                for left in (0, 30):
                    pixels = STACK[t, z, c, :, left : left + 30, None] + np.uint16(scene)
                    file.write(
                        np.ascontiguousarray(pixels),
                        plane={"T": t, "Z": z, "C": c},
                        scene=scene,
                        location=(100 * scene + left - 20, -5),
                    )
        file.write_metadata(
            "a", channel_names={0: "DAPI", 1: "GFP"}, scale_x=1e-7, scale_y=2e-7, scale_z=5e-7
        )
    return path


def test_czi(tmp_path: Path, czi: Path) -> None:
    with pytest.raises(InputError, match="holds 2 images: choose a `series` of 0, 1"):
        open_image(czi)
    for scene in (0, 1):
        header, pixels = planes(czi, series=str(scene))
        np.testing.assert_array_equal(pixels.transpose(0, 2, 1, 3, 4), STACK + scene)
    assert header.axes == "TZCYX"
    assert header.spacing == (0.5, 0.2, 0.1)
    assert header.channels == ("DAPI", "GFP")
    back(tmp_path, czi, series="1")


def test_czi_in_colour(tmp_path: Path) -> None:
    library = pytest.importorskip("pylibCZIrw.czi")
    path, pixels = tmp_path / "a.czi", RNG.integers(0, 255, (40, 60, 3)).astype(np.uint8)
    with library.create_czi(str(path)) as file:
        file.write(np.ascontiguousarray(pixels[..., ::-1]))  # blue first
    header, found = planes(path)
    assert header.axes == "YXS"
    np.testing.assert_array_equal(found[0, :, 0], pixels.transpose(2, 0, 1))


# ---- LIF
def lif(path: Path, images: dict[str, tuple[str, np.ndarray]]) -> None:
    """A Leica LIF, version 2: name -> (axes, slowest first, pixels with the channels first)."""
    numbers = {"X": 1, "Y": 2, "Z": 3, "T": 4}
    lengths = {"X": 1e-7, "Y": 2e-7, "Z": 5e-7, "T": 1.5}
    elements, blocks = [], []
    for k, (name, (axes, pixels)) in enumerate(images.items()):
        strides = dict(zip(axes, pixels.strides, strict=True))
        channels = "".join(
            f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="16" LUTName="{lut}"'
            ' NameOfMeasuredQuantity="" Min="0" Max="65535" Unit="" IsLUTInverted="0"'
            f' BytesInc="{strides.get("C", 0) * c}" BitInc="0"/>'
            for c, lut in enumerate(("Green", "Red") if "C" in axes else ("Gray",))
        )
        described = "".join(
            f'<DimensionDescription DimID="{numbers[axis]}" NumberOfElements="{n}" Origin="0"'
            f' Length="{lengths[axis] * (n - 1)}" Unit="m" BytesInc="{strides[axis]}" BitInc="0"/>'
            for axis, n in reversed(list(zip(axes, pixels.shape, strict=True)))
            if axis != "C"
        )
        elements.append(
            f'<Element Name="{name}"><Memory Size="{pixels.nbytes}" MemoryBlockID="M{k}"/><Data>'
            f"<Image><ImageDescription><Channels>{channels}</Channels><Dimensions>{described}"
            "</Dimensions></ImageDescription></Image></Data><Children/></Element>"
        )
        blocks.append((f"M{k}", pixels.tobytes()))
    xml = (
        '<LMSDataContainerHeader Version="2"><Element Name="all"><Children>'
        f"{''.join(elements)}</Children></Element></LMSDataContainerHeader>"
    )
    with open(path, "wb") as file:
        text = xml.encode("utf-16-le")
        file.write(struct.pack("<IIBI", 0x70, len(text) + 5, 0x2A, len(xml)) + text)
        for name, data in blocks:
            text = name.encode("utf-16-le")
            head = struct.pack("<BQBI", 0x2A, len(data), 0x2A, len(name)) + text
            file.write(struct.pack("<II", 0x70, len(head)) + head + data)


def test_lif(tmp_path: Path) -> None:
    pytest.importorskip("liffile")
    path = tmp_path / "a.lif"
    lif(path, {"cells": ("TZCYX", STACK), "one": ("YX", STACK[0, 0, 0])})
    assert format_of(path).titles(path) == ("cells", "one")
    header, pixels = planes(path, series="cells")
    np.testing.assert_array_equal(pixels.transpose(0, 2, 1, 3, 4), STACK)
    assert header.axes == "TZCYX"
    assert header.spacing == pytest.approx((0.5, 0.2, 0.1))
    assert header.interval == pytest.approx(1.5)
    assert header.channels == ("Green", "Red")
    assert back(tmp_path, path, series="1").axes == "YX"


def test_lif_of_a_scan_in_depth(tmp_path: Path) -> None:
    """The planes of an xz scan are shown as they were recorded; further ones follow in y."""
    pytest.importorskip("liffile")
    path = tmp_path / "a.lif"
    lif(path, {"xzy": ("YCZX", STACK[0])})
    header, pixels = planes(path)
    assert header.axes == "ZCYX"
    assert header.spacing == pytest.approx((0.2, 0.5, 0.1))
    np.testing.assert_array_equal(pixels[0].swapaxes(0, 1), STACK[0])


# ---- ND2
def clx(told: dict[str, object]) -> bytes:
    """Nikon's binary form of nested metadata ("LV", CLX Lite)."""
    out = b""
    for name, value in told.items():
        text = (name + "\0").encode("utf-16-le")
        kinds = {bool: (1, "<B"), int: (3, "<I"), float: (6, "<d")}
        if isinstance(value, dict):
            inner = clx(value)
            head = struct.pack("<BB", 11, len(name) + 1) + text
            length = len(head) + 12 + len(inner)
            out += head + struct.pack("<IQ", len(value), length) + inner + bytes(8 * len(value))
        elif isinstance(value, str):
            out += struct.pack("<BB", 8, len(name) + 1) + text + (value + "\0").encode("utf-16-le")
        else:
            kind, code = kinds[type(value)]
            out += struct.pack("<BB", kind, len(name) + 1) + text + struct.pack(code, value)
    return out


def nd2_file(path: Path, pixels: np.ndarray, recorded: int | None = None) -> None:
    """A Nikon ND2, version 3, of (T, Z, C, Y, X): time points of z-stacks.

    recorded: only so many of the frames were recorded.
    """
    times, depth, channels, height, width = pixels.shape
    frames = pixels.transpose(0, 1, 3, 4, 2).reshape(-1, height, width, channels)
    attributes = {
        "uiWidth": width, "uiWidthBytes": width * channels * 2, "uiHeight": height,
        "uiComp": channels, "uiBpcInMemory": 16, "uiBpcSignificant": 12,
        "uiSequenceCount": len(frames), "uiTileWidth": width, "uiTileHeight": height,
        "eCompression": 2, "dCompressionParam": 0.0, "uiVirtualComponents": channels,
    }  # fmt: skip
    inner = {
        "eType": 4,
        "uLoopPars": {"uiCount": depth, "dZStep": 0.5, "dZLow": 0.0, "dZHigh": 1.0, "iType": 0},
    }
    loops = {
        "eType": 1,
        "uLoopPars": {"uiCount": times, "dPeriod": 1500.0, "dStart": 0.0, "dDuration": 3000.0},
        "ppNextLevelEx": {"i0000000000": inner},
    }
    probe = {"m_ExcitationSpectrum": {"uiCount": 0}, "m_EmissionSpectrum": {"uiCount": 0}}
    seen = {
        f"a{c}": {
            "sDescription": name,
            "uiCompCount": 1,
            "uiColor": 255,
            "pFluorescentProbe": probe,
        }
        for c, name in enumerate(("DAPI", "GFP")[:channels])
    }
    picture = {
        "sPicturePlanes": {"uiCount": channels, "uiCompCount": channels, "sPlaneNew": seen},
        "dCalibration": 0.25, "bCalibrated": True, "dAspect": 1.0, "dObjectiveMag": 60.0,
    }  # fmt: skip
    chunks = [
        (b"ImageAttributesLV!", clx({"SLxImageAttributes": attributes})),
        (b"ImageMetadataLV!", clx({"SLxExperiment": loops})),
        (b"ImageMetadataSeqLV|0!", clx({"SLxPictureMetadata": picture})),
    ]
    chunks += [
        ((b"ImageDataSeq|%d!" % k).ljust(4072, b"\0"), bytes(8) + frame.tobytes())
        for k, frame in enumerate(frames[:recorded])
    ]

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack("<IIQ", 0x0ABECEDA, len(name), len(data)) + name + data

    out = bytearray(chunk(b"ND2 FILE SIGNATURE CHUNK NAME01!", b"Ver3.0".ljust(64, b"\0")))
    table = b""
    for name, data in chunks:
        table += name.rstrip(b"\0") + struct.pack("<QQ", len(out), len(data))
        out += chunk(name, data)
    end = b"ND2 CHUNK MAP SIGNATURE 0000001!" + struct.pack("<Q", len(out))
    out += chunk(b"ND2 FILEMAP SIGNATURE NAME 0001!", table + end)
    path.write_bytes(out)


def test_nd2(tmp_path: Path) -> None:
    pytest.importorskip("nd2")
    path = tmp_path / "a.nd2"
    nd2_file(path, STACK)
    header, pixels = planes(path)
    np.testing.assert_array_equal(pixels.transpose(0, 2, 1, 3, 4), STACK)
    assert header.axes == "TZCYX"
    assert header.spacing == (0.5, 0.25, 0.25)
    assert header.channels == ("DAPI", "GFP")
    assert header.interval == 1.5
    back(tmp_path, path)


def test_nd2_of_a_stopped_experiment_and_one_that_is_cut_off(tmp_path: Path) -> None:
    pytest.importorskip("nd2")
    path = tmp_path / "a.nd2"
    nd2_file(path, STACK, recorded=4)
    with open_image(path) as image:
        assert image.unusual == ("2 frames of the ND2 file were never recorded and are read as 0",)
        assert (image.read((1, 0, 0)) == STACK[1, 0, 0]).all()
        assert (image.read((1, 0, 1)) == 0).all()
    nd2_file(path, STACK)
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(IncompleteError):
        open_image(path)


# ---- HDF5
def test_imaris(tmp_path: Path) -> None:
    """Data sets are filled up to whole chunks; strings are arrays of single characters."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.ims"

    def text(value: object) -> np.ndarray:
        return np.frombuffer(str(value).encode(), "S1")

    with h5py.File(path, "w") as file:
        about = file.create_group("DataSetInfo/Image").attrs
        for k, (axis, n, size) in enumerate((("X", 60, 0.1), ("Y", 40, 0.2), ("Z", 3, 0.5))):
            about[axis] = text(n)
            about[f"ExtMin{k}"], about[f"ExtMax{k}"] = text(10), text(10 + n * size)
        for c, name in enumerate(("DAPI", "GFP")):
            file.create_group(f"DataSetInfo/Channel {c}").attrs["Name"] = text(name)
        for t, c in np.ndindex(2, 2):
            filled = np.pad(STACK[t, :, c], ((0, 5), (0, 24), (0, 4)))
            file[f"DataSet/ResolutionLevel 0/TimePoint {t}/Channel {c}/Data"] = filled
    header, pixels = planes(path)
    np.testing.assert_array_equal(pixels, STACK.transpose(0, 2, 1, 3, 4))
    assert header.spacing == pytest.approx((0.5, 0.2, 0.1))
    assert header.channels == ("DAPI", "GFP")
    back(tmp_path, path)


def test_other_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path, volume = tmp_path / "a.h5", STACK[0, :, 0]
    with h5py.File(path, "w") as file:
        file["raw/volume"] = volume
        file["raw/volume"].attrs["element_size_um"] = [0.5, 0.2, 0.1]
        file["tagged"] = STACK[0]
        tags = {"axes": [{"key": key} for key in "zcyx"]}
        file["tagged"].attrs["axistags"] = json.dumps(tags)
        file["notes"] = [1, 2, 3]
    assert format_of(path).titles(path) == ("raw/volume", "tagged")
    with pytest.raises(InputError, match="does not name its axis of length 3"):
        open_image(path, series="raw/volume")
    header, pixels = planes(path, series="raw/volume", axes="ZYX")
    np.testing.assert_array_equal(pixels[0, 0], volume)
    assert header.spacing == (0.5, 0.2, 0.1)
    header, pixels = planes(path, series="1")
    np.testing.assert_array_equal(pixels[0].swapaxes(0, 1), STACK[0])


# ---- TIFF of makers
def stk(path: Path, pixels: np.ndarray, step: int) -> None:
    """A MetaMorph stack: one directory; the planes follow one another. step: micrometres in z."""
    n, height, width = pixels.shape
    at = 8 + pixels.nbytes
    calibration = struct.pack("<II", 1, 4)  # a quarter of a micrometre
    unit = struct.pack("<I", 3) + b"um\0"
    one = at + 24 * n
    ids = struct.pack("<8I", 4, one + 32, 5, one + 32, 6, one + 40, 1, 0)
    records = b"".join(struct.pack("<6I", step, 1, 2460000, 1000 * k, 0, 0) for k in range(n))
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, height * width * 2),
        (33628, 4, 3, one), (33629, 5, n, at),
    ]  # fmt: skip
    blocks = records + ids + calibration + unit
    blocks += b"\0" * (len(blocks) % 2)
    with open(path, "wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, at + len(blocks)) + pixels.tobytes() + blocks)
        file.write(struct.pack("<H", len(tags)))
        for code, kind, count, value in tags:
            file.write(struct.pack("<HHII", code, kind, count, value))
        file.write(bytes(4))


@pytest.mark.parametrize(("step", "axes", "z"), [(2, "ZYX", 2.0), (0, "TYX", None)])
def test_stk(tmp_path: Path, step: int, axes: str, z: float | None) -> None:
    path = tmp_path / "a.stk"
    stk(path, STACK[0, :, 0], step)
    header, pixels = planes(path)
    assert header.axes == axes
    assert header.spacing == (z, 0.25, 0.25)
    assert header.interval == (1.0 if z is None else None)
    np.testing.assert_array_equal(pixels.reshape(3, 40, 60), STACK[0, :, 0])
    back(tmp_path, path)
    path.write_bytes(path.read_bytes()[: 8 + 40 * 60 * 2])
    with pytest.raises(IncompleteError):
        open_image(path)


def test_svs(tmp_path: Path) -> None:
    path, slide = tmp_path / "a.svs", RNG.integers(0, 255, (256, 384, 3)).astype(np.uint8)
    text = "Aperio Image Library v1\r\n384x256 (240x240) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990"
    with tifffile.TiffWriter(path, bigtiff=False) as file:
        how = {"metadata": None, "photometric": "rgb"}
        file.write(slide, tile=(64, 64), description=text, **how)
        file.write(slide[::4, ::4], description="Aperio thumbnail", **how)
        file.write(slide[::2, ::2], tile=(64, 64), description="Aperio level", **how)
        file.write(slide[:64, :64], description="Aperio label 64x64", subfiletype=1, **how)
        file.write(slide[:32], description="Aperio macro 384x32", subfiletype=9, **how)
    header, pixels = planes(path)
    assert (header.axes, header.spacing) == ("YXS", (None, 0.499, 0.499))
    np.testing.assert_array_equal(pixels[0, :, 0], slide.transpose(2, 0, 1))
    assert back(tmp_path, path).shape == slide.shape


# ---- all
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "library"),
    [("a.nd2", "nd2"), ("a.lif", "liffile"), ("a.h5", "h5py"), ("a.stk", "tifffile")],
)
def test_no_damage_is_a_bug(tmp_path: Path, name: str, library: str) -> None:
    """Cut off or with wrong bytes: the file opens, or is refused in one line that names it."""
    module, path = pytest.importorskip(library), tmp_path / name
    if name == "a.nd2":
        nd2_file(path, STACK)
    elif name == "a.lif":
        lif(path, {"a": ("TZCYX", STACK)})
    elif name == "a.stk":
        stk(path, STACK[0, :, 0], 2)
    else:
        with module.File(path, "w") as file:
            file["a"] = STACK[0, 0, 0]
    whole, refused = path.read_bytes(), []
    for k in range(60):
        rng = np.random.default_rng(k)
        damaged = bytearray(whole)
        if k % 3 == 0:
            del damaged[rng.integers(1, len(whole)) :]
        else:
            near = 2000 if k % 3 == 1 else len(whole)
            for at in rng.integers(0, near, 4):
                damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            with open_image(path) as image:
                image.read(image.header.planes[-1])
        except InputError as error:
            refused.append(str(error))
    assert len(refused) >= 15
    assert all(str(path) in message and "\n" not in message for message in refused)


@pytest.mark.parametrize(
    ("name", "head", "library"),
    [
        ("a.czi", b"ZISRAWFILE" + bytes(60), "pylibCZIrw"),
        ("a.nd2", b"\xda\xce\xbe\x0a" + bytes(60), "nd2"),
        ("a.lif", b"\x70\0\0\0\x10\0\0\0\x2a" + bytes(60), "liffile"),
        ("a.ims", b"\x89HDF\r\n\x1a\n" + bytes(60), "h5py"),
    ],
)
def test_damaged_or_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, head: bytes, library: str
) -> None:
    path = tmp_path / name
    path.write_bytes(head)
    pytest.importorskip(library)
    with pytest.raises(IncompleteError, match="damaged or still being written"):
        open_image(path)
    for module in [each for each in sys.modules if each.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf'needs the library {library}.*"restorectl\[formats\]"'):
        open_image(path)
