import math
from pathlib import PurePath

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restorectl.errors import InputError
from restorectl.images.header import Header, resolve_axes


def header(axes: str, shape: tuple[int, ...]) -> Header:
    return Header(axes, shape, np.dtype("uint16"), (0.5, 0.1, 0.1))


@st.composite
def layouts(draw: st.DrawFn) -> Header:
    outer = draw(st.permutations("TCZ"))[: draw(st.integers(0, 3))]
    inner = draw(st.sampled_from(["YX", "YXS", "SYX"]))
    axes = "".join(outer) + inner
    return header(axes, tuple(draw(st.integers(1, 4)) for _ in axes))


@given(layouts())
def test_planes_are_every_plane_once_in_the_order_of_the_file(h: Header) -> None:
    t, c, z, y, x = h.canonical_shape
    assert len(set(h.planes)) == len(h.planes) == t * c * z
    assert math.prod(h.shape) == t * c * z * y * x
    pixels = np.arange(math.prod(h.shape)).reshape(h.shape)
    moved = np.moveaxis(pixels, h.axes.index("S"), -3) if "S" in h.axes else pixels
    stored = moved.reshape(-1, y, x)  # the planes one after another
    order = [h.axes.find(axis) for axis in "TCZ"]
    full = pixels.transpose(
        *(i for i in order if i >= 0), *(h.axes.index(axis) for axis in h.axes if axis not in "TCZ")
    )
    for axis, i in enumerate(order):
        full = full if i >= 0 else np.expand_dims(full, axis)
    s = "".join(axis for axis in h.axes if axis in "SYX")
    full = (
        full.transpose(0, 1, 3 + s.index("S"), 2, 3 + s.index("Y"), 3 + s.index("X"))
        if ("S" in s)
        else full[:, :, None]
    )
    canonical = full.reshape(t, c, z, y, x)
    for k, (at, ac, az) in enumerate(h.planes):
        np.testing.assert_array_equal(stored[k], canonical[at, ac, az])


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        ("YX", (4, 5), ("YX", (4, 5))),
        ("TZCYX", (2, 3, 4, 5, 6), ("TZCYX", (2, 3, 4, 5, 6))),
        ("YXS", (4, 5, 3), ("YXS", (4, 5, 3))),
        ("SYX", (3, 4, 5), ("SYX", (3, 4, 5))),
        ("QYX", (1, 4, 5), ("YX", (4, 5))),
        ("IZYX", (1, 2, 4, 5), ("ZYX", (2, 4, 5))),
    ],
)
def test_axes_that_the_file_tells(axes: str, shape: tuple[int, ...], expected: object) -> None:
    assert resolve_axes(axes, shape) == expected


def test_pages_of_unknown_kind_need_the_user() -> None:
    with pytest.raises(InputError, match=r"length 7 .*`axes` ZYX or `axes` TYX or `axes` CYX"):
        resolve_axes("IYX", (7, 4, 5))
    with pytest.raises(InputError, match=r"`axes` TZYX or `axes` CZYX$"):
        resolve_axes("QZYX", (7, 2, 4, 5))
    with pytest.raises(InputError, match="too many"):
        resolve_axes("QTCZYX", (7, 2, 2, 2, 4, 5))
    for name in ("ZYX", "TYX", "CYX", "zyx"):
        assert resolve_axes("IYX", (7, 4, 5), name) == (name.upper(), (7, 4, 5))


@pytest.mark.parametrize(
    ("axes", "shape", "override"),
    [
        ("IYX", (7, 4, 5), "TZYX"),
        ("IYX", (7, 4, 5), "YXZ"),
        ("IYX", (7, 4, 5), "ZXY"),
        ("IYX", (7, 4, 5), "QYX"),
        ("QQYX", (7, 2, 4, 5), "ZZYX"),
        ("IYX", (7, 4, 5), "SYX"),
        ("YXS", (4, 5, 3), "YXC"),
        ("YX", (4, 5), ""),
    ],
)
def test_an_override_that_does_not_fit_shows_both(
    axes: str, shape: tuple[int, ...], override: str
) -> None:
    with pytest.raises(InputError) as error:
        resolve_axes(axes, shape, override)
    text = str(error.value)
    assert f"`axes` {override}" in text
    assert "x".join(map(str, shape)) in text
    assert "\n" not in text


def test_override_may_leave_out_or_name_single_axes() -> None:
    assert resolve_axes("ITYX", (6, 1, 4, 5), "ZYX") == ("ZYX", (6, 4, 5))


def test_no_pixels() -> None:
    with pytest.raises(InputError, match="no pixels"):
        resolve_axes("ZYX", (0, 4, 5))


@pytest.mark.parametrize("axes", ["ZXY", "YXZ", "YZX", "ZZYX"])
def test_planes_that_are_no_pages(axes: str) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        resolve_axes(axes, tuple(range(2, 2 + len(axes))))


def test_headers_that_change() -> None:
    h = header("ZCYX", (3, 2, 8, 8))
    thick = h.with_z(12, 0.125)
    assert (thick.shape, thick.spacing) == ((12, 2, 8, 8), (0.125, 0.1, 0.1))
    assert thick.planes[:3] == ((0, 0, 0), (0, 1, 0), (0, 0, 1))
    assert header("YX", (8, 9)).with_z(4, None).axes == "ZYX"
    assert header("TSYX", (2, 3, 8, 9)).with_z(4, None).shape == (2, 4, 3, 8, 9)
    assert h.with_dtype(">f4").dtype == np.dtype("=f4")
    assert h.with_dtype(np.float32).nbytes == 2 * h.nbytes


def test_images_that_belong_together_have_one_canonical_shape():
    stack = Header("ZYX", (3, 8, 9), np.dtype(np.uint8))
    stack.require_same_shape(
        PurePath("a"), Header("TZCYX", (1, 3, 1, 8, 9), stack.dtype), PurePath()
    )
    with pytest.raises(InputError, match=r"^a\.tif: has shape 1x1x3x8x9 .* b\.tif has 1x1x1x8x9:"):
        stack.require_same_shape(
            PurePath("a.tif"), Header("YX", (8, 9), stack.dtype), PurePath("b.tif")
        )


def test_channels_by_number_and_name():
    header = Header("CYX", (3, 4, 5), np.dtype(np.uint8), channels=("DAPI", "GFP", "GFP"))
    assert header.chosen(None, PurePath("a")) == (0, 1, 2)
    assert header.chosen(("DAPI", 2, 0), PurePath("a")) == (0, 2)
    for wanted, words in (
        ("Cy5", "channels 0..2 .DAPI, GFP, GFP."),
        ("GFP", "several"),
        (3, "0..2"),
    ):
        with pytest.raises(InputError, match=f"`channels` {wanted}: .*{words}"):
            header.chosen((wanted,), PurePath("a"))
