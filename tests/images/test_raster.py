"""PNG and JPEG."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageFile, ImageOps
from PIL.PngImagePlugin import PngInfo

from restorectl.errors import InputError, OutputError
from restorectl.images.header import Header
from restorectl.images.image import (
    is_image_name,
    open_image,
    read_provenance,
    verify_image,
    write_image,
)
from restorectl.images.raster import chunk, encode_png

RNG = np.random.default_rng(0)
MADE = {"command": "restore", "version": "1"}


def pixels(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def copy(source: Path, target: Path) -> Header:
    with open_image(source) as image:
        header = image.header.for_target(target)
        planes = (image.read(plane) for plane in header.planes)
        write_image(target, header, planes, provenance=MADE)
        verify_image(target, header)
        with open_image(target) as again:
            for plane in header.planes:
                np.testing.assert_array_equal(again.read(plane), image.read(plane))
            assert read_provenance(target) == MADE
            return again.header


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(["u1", "u2"]),
    st.sampled_from([(), (3,)]),
    st.integers(1, 40),
    st.integers(1, 40),
    st.booleans(),
)
def test_what_is_written_is_read(
    tmp_path: Path, dtype: str, samples: tuple[int, ...], height: int, width: int, smooth: bool
) -> None:
    data = pixels((height, width, *samples), np.dtype(dtype).type)
    if smooth:
        data = np.cumsum(data // 64, axis=0, dtype=dtype)
    header = Header("YXS" if samples else "YX", data.shape, np.dtype(dtype), format="png")
    planes = data[None] if not samples else np.moveaxis(data, -1, 0)
    write_image(tmp_path / "a.png", header, planes, provenance=MADE)
    verify_image(tmp_path / "a.png", header)
    with open_image(tmp_path / "a.png") as image:
        for plane in header.planes:
            np.testing.assert_array_equal(image.read(plane), planes[plane[1]])
            part = image.read(plane, slice(0, 1), slice(0, 1))
            np.testing.assert_array_equal(part, planes[plane[1]][:1, :1])
    if dtype == "u1" or not samples:  # Pillow decodes it on its own
        with Pillow.open(tmp_path / "a.png") as other:
            np.testing.assert_array_equal(np.asarray(other), data)


@pytest.mark.parametrize("samples", [2, 3, 4])
def test_sixteen_bit_colour_keeps_all_bits(tmp_path: Path, samples: int) -> None:
    """Every PNG row filter, against a decoder written out here."""
    data = pixels((9, 7, samples), np.uint16)
    raw = data.astype(">u2").reshape(9, -1).view(np.uint8)
    step, lines, above = 2 * samples, [], np.zeros(raw.shape[1], np.uint8)
    for y, row in enumerate(raw):
        left = np.concatenate([np.zeros(step, np.uint8), row[:-step]])
        corner = np.concatenate([np.zeros(step, np.uint8), above[:-step]])
        lines.append(bytes([y % 5]) + (row - _predicted(y % 5, left, above, corner)).tobytes())
        above = row
    path = tmp_path / "a.png"
    chunks = list(encode_png(data, []))
    path.write_bytes(
        b"".join([chunks[0], chunks[1], chunk(b"IDAT", zlib.compress(b"".join(lines))), chunks[-1]])
    )
    with open_image(path) as image:
        for c in range(image.header.canonical_shape[1]):
            np.testing.assert_array_equal(image.read((0, c, 0)), data[..., c])
    copy(path, tmp_path / "b.png")


def _predicted(kind: int, left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    a, b, c = (v.astype(int) for v in (left, up, corner))
    p = a + b - c
    paeth = np.where(
        (abs(p - a) <= abs(p - b)) & (abs(p - a) <= abs(p - c)),
        a,
        np.where(abs(p - b) <= abs(p - c), b, c),
    )
    return np.stack([0 * a, a, b, (a + b) // 2, paeth])[kind].astype(np.uint8)


def test_text_size_profile_and_alpha_survive(tmp_path: Path) -> None:
    data = pixels((8, 9, 4), np.uint8)
    info = PngInfo()
    info.add_text("Title", "cells")
    info.add_itxt("Note", "\u00b5m", zip=True)
    source, target = tmp_path / "a.png", tmp_path / "b.png"
    Pillow.fromarray(data).save(source, pnginfo=info, dpi=(254000, 127000), icc_profile=b"p" * 200)
    header = copy(source, target)
    assert header.axes == "YXS"
    assert header.spacing == (None, pytest.approx(0.2), pytest.approx(0.1))
    with Pillow.open(source) as a, Pillow.open(target) as b:
        np.testing.assert_array_equal(np.asarray(b)[..., 3], data[..., 3])
        for key in ("Title", "Note", "dpi", "icc_profile"):
            assert b.info[key] == a.info[key]
    size = target.stat().st_size
    copy(target, source)
    assert source.stat().st_size == size
    assert source.read_bytes() == target.read_bytes()


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_chunks_beside_the_pixels_do_not_change_them(tmp_path: Path, dtype: str) -> None:
    """Damaged EXIF, gamma, significant bits and a transparent colour."""
    data = pixels((8, 9, 3), np.dtype(dtype).type)
    beside = {b"gAMA": b"\0\0\1\0", b"sBIT": b"\4\4\4", b"tRNS": bytes(6), b"eXIf": b"nothing"}
    (tmp_path / "a.png").write_bytes(b"".join(encode_png(data, list(beside.items()))))
    with open_image(tmp_path / "a.png") as image:
        for c in range(3):
            np.testing.assert_array_equal(image.read((0, c, 0)), data[..., c])


def test_grey_with_alpha(tmp_path: Path) -> None:
    data = pixels((8, 9, 2), np.uint8)
    grey, alpha = (Pillow.fromarray(data[..., i]) for i in range(2))
    Pillow.merge("LA", [grey, alpha]).save(tmp_path / "a.png")
    assert copy(tmp_path / "a.png", tmp_path / "b.png").axes == "YX"
    with Pillow.open(tmp_path / "b.png") as image:
        np.testing.assert_array_equal(np.asarray(image), data)


def test_palettes_and_bilevel(tmp_path: Path) -> None:
    data = pixels((8, 9), np.uint8)
    image = Pillow.fromarray(data)
    image.putpalette([255 - v for v in range(256) for _ in range(3)])
    image.save(tmp_path / "grey.png")
    with open_image(tmp_path / "grey.png") as opened:
        np.testing.assert_array_equal(opened.read((0, 0, 0)), 255 - data)
    copy(tmp_path / "grey.png", tmp_path / "out.png")
    image.putpalette([v for i in range(256) for v in (0, i, 0)])
    image.save(tmp_path / "green.png")
    with pytest.raises(InputError, match=r"green\.png: has a colour palette"):
        open_image(tmp_path / "green.png")
    Pillow.fromarray(data > 100).save(tmp_path / "bits.png")
    with pytest.raises(InputError, match="black and white"):
        open_image(tmp_path / "bits.png")


def test_jpeg_becomes_png(tmp_path: Path) -> None:
    for name, shape in (("a.jpg", (40, 41, 3)), ("g.jpg", (40, 41))):
        Pillow.fromarray(pixels(shape, np.uint8)).save(
            tmp_path / name, dpi=(300, 300), comment="scope"
        )
        header = copy(tmp_path / name, tmp_path / "b.png")
        assert header.spacing == (None, None, None)  # 300 dpi is for printers
        with Pillow.open(tmp_path / "b.png") as image:
            assert image.info["dpi"] == pytest.approx((300, 300), rel=1e-3)
            assert image.info["Comment"] == "scope"
        with (
            open_image(tmp_path / name) as image,
            pytest.raises(OutputError, match=r"use \.png or \.tif"),
        ):
            write_image(tmp_path / "c.jpg", image.header, (), provenance=MADE)
    Pillow.fromarray(pixels((8, 8, 3), np.uint8)).convert("CMYK").save(tmp_path / "c.jpg")
    with pytest.raises(InputError, match="CMYK"):
        open_image(tmp_path / "c.jpg")


def test_what_png_cannot_hold(tmp_path: Path) -> None:
    stack = Header("ZYX", (2, 8, 9), np.dtype("u1"), format=".png")
    with pytest.raises(OutputError, match=r"use \.tif"):
        write_image(tmp_path / "a.png", stack, (), provenance=MADE)
    real = Header("YX", (8, 9), np.dtype("f4"), format=".png")
    with pytest.raises(OutputError, match="float32"):
        write_image(tmp_path / "a.png", real, (), provenance=MADE)


def test_png_to_tiff_and_back(tmp_path: Path) -> None:
    for shape in ((8, 9), (8, 9, 3)):
        data = pixels(shape, np.uint8)
        Pillow.fromarray(data).save(tmp_path / "a.png", dpi=(254000, 254000))
        header = copy(tmp_path / "a.png", tmp_path / "b.tif")
        assert header.spacing == pytest.approx((None, 0.1, 0.1))
        copy(tmp_path / "b.tif", tmp_path / "c.png")
        with Pillow.open(tmp_path / "c.png") as image:
            np.testing.assert_array_equal(np.asarray(image), data)
    with open_image(tmp_path / "a.png") as image:
        real = image.header.with_dtype("f4").for_target(tmp_path / "d.tif")
    planes = RNG.random((3, 8, 9)).astype("f4")
    write_image(tmp_path / "d.tif", real, planes, provenance=MADE)
    verify_image(tmp_path / "d.tif", real)


@pytest.mark.slow
def test_large_images_do_not_alarm_pillow(tmp_path: Path) -> None:
    header = Header("YX", (9500, 9500), np.dtype("u1"), format="png")
    plane = np.zeros((9500, 9500), np.uint8)
    write_image(tmp_path / "a.png", header, [plane], provenance=MADE)
    with open_image(tmp_path / "a.png") as image:
        assert image.read((0, 0, 0), slice(0, 5)).shape == (5, 9500)


def test_pillow_never_fills_in_missing_pixels() -> None:
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_names() -> None:
    for name in ("a.TIF", "b.ome.tiff", "c.png", "d.JPEG", "e.btf"):
        assert is_image_name(name)
    for name in ("a.txt", ".a.tif.restorectl-12.part", "tif", "a.tif.bak", ""):
        assert not is_image_name(name)


def test_animations_are_refused_and_single_frames_are_images(tmp_path: Path) -> None:
    frames = [Pillow.fromarray(pixels((8, 9), np.uint8)) for _ in range(3)]
    path, target = tmp_path / "a.png", tmp_path / "b.png"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"a\.png: is an animation of 3 frames"):
        open_image(path)
    # a still image beside the frames of an animation
    frames[0].save(path, save_all=True, append_images=frames[1:2], default_image=True)
    with pytest.raises(InputError, match="is an animation of 1 frames"):
        open_image(path)
    plain = list(encode_png(np.asarray(frames[0]), []))
    control = [chunk(b"acTL", bytes(8)), chunk(b"fcTL", bytes(26))]
    path.write_bytes(b"".join([*plain[:2], *control, *plain[2:]]))
    copy(path, target)
    with Pillow.open(target) as image:
        assert getattr(image, "n_frames", 1) == 1
    assert b"TL" not in target.read_bytes()[:200]


def _exif(orientation: int) -> Pillow.Exif:
    exif = Pillow.Exif()
    exif[274], exif[271] = orientation, "Scope"
    exif.get_ifd(34665)[33434] = 0.02
    return exif


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_orientation_and_profile_go_into_a_tiff(tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / f"a{suffix}", tmp_path / "b.tif"
    shown = Pillow.fromarray(pixels((8, 9, 3), np.uint8))
    shown.save(source, exif=_exif(6), icc_profile=b"p" * 200)
    with open_image(source) as image:
        planes = [image.read(plane) for plane in image.header.planes]
        write_image(target, image.header.for_target(target), planes, provenance=MADE)
    verify_image(target, image.header)
    with Pillow.open(source) as old, Pillow.open(target) as new:
        kept = new.getexif()
        assert (kept[274], kept[271], kept.get_ifd(34665)[33434]) == (6, "Scope", 0.02)
        assert new.info["icc_profile"] == b"p" * 200
        turned = [np.asarray(ImageOps.exif_transpose(each)) for each in (old, new)]
        np.testing.assert_array_equal(*turned)


@pytest.mark.parametrize("samples", [2, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_alpha_goes_into_a_tiff(tmp_path: Path, samples: int, dtype: type) -> None:
    source, target = tmp_path / "a.png", tmp_path / "b.tif"
    data = pixels((8, 9, samples), np.uint8)
    Pillow.fromarray(data).save(source)
    with open_image(source) as image:
        header = image.header.for_target(target).with_dtype(dtype)
        planes = [image.read(plane).astype(dtype) for plane in header.planes]
    write_image(target, header, planes, provenance=MADE)
    verify_image(target, header)
    with tifffile.TiffFile(target) as tiff:
        np.testing.assert_array_equal(tiff.asarray(), data)
        assert tiff.pages[0].extrasamples == (2,)
        assert tiff.pages[0].photometric == (1 if samples == 2 else 2)


def test_damaged_exif_does_not_matter(tmp_path: Path) -> None:
    source, target = tmp_path / "a.png", tmp_path / "b.tif"
    plain = list(encode_png(pixels((8, 9), np.uint8), []))
    source.write_bytes(b"".join([*plain[:2], chunk(b"eXIf", b"MM\0*\0\0\xff\xff"), *plain[2:]]))
    copy(source, target)
