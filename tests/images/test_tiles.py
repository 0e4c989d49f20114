"""The tile grid covers every pixel once, in shapes the network takes, whatever the image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restorectl.images import tiles
from restorectl.images.blocks import BUDGET, sampled
from restorectl.images.image import to_dtype

sizes = st.integers(1, 400)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(sizes, sizes, st.sampled_from([1, 4, 8]), st.sampled_from([32, 64, 100]), st.integers(0, 40))
def test_cover_read_crop_write_is_the_identity(height, width, stride, core, halo):
    image = np.random.default_rng(0).random((height, width))
    out, count = np.full_like(image, np.nan), np.zeros(image.shape, int)
    for tile in tiles.tile_grid(image.shape, stride, core, halo):
        padded = tile.pad(image[tile.read])
        assert padded.shape == tile.shape
        assert padded.shape[0] % stride == 0
        assert padded.shape[1] % stride == 0
        out[tile.core] = tile.crop(padded)
        count[tile.core] += 1
    assert (count == 1).all()
    assert np.array_equal(out, image)


@settings(max_examples=100, deadline=None)
@given(sizes, st.sampled_from([4, 8]), st.integers(1, 40))
def test_cores_have_a_whole_halo_inside_the_image_and_lie_on_the_stride(length, stride, halo):
    for tile in tiles.tile_grid((length, 8), stride, 64, halo):
        start, stop = tile.core_rows
        assert tile.rows[0] == 0 or start - tile.rows[0] >= halo
        assert tile.rows[1] == length or tile.rows[1] - stop >= halo
        assert tile.rows[0] % stride == 0  # the network's grid does not move with the tile


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 100), st.sampled_from([(24, 0), (48, 12), (64, 16), (37, 29)]))
def test_tiles_of_a_fixed_size_are_all_of_one_size_and_cover_every_pixel_once(height, width, sides):
    window, overlap = sides
    image = np.random.default_rng(0).random((height, width))
    out, count = np.full_like(image, np.nan), np.zeros(image.shape, int)
    for each in tiles.fixed_tile_grid(image.shape, window, overlap):
        pixels = image[each.read]
        assert pixels.shape == (min(window, height), min(window, width))
        assert each.shape == (window, window)
        out[each.core] = each.crop(each.pad(pixels))
        count[each.core] += 1
        for (start, stop), (core_start, core_stop), n in (
            (each.rows, each.core_rows, height),
            (each.cols, each.core_cols, width),
        ):  # away from the image's border an answer has half of the overlap around it
            assert core_start == 0 or core_start - start >= overlap // 2
            assert core_stop == n or stop - core_stop >= overlap // 2
    assert (count == 1).all()
    assert np.array_equal(out, image)


def test_a_network_with_one_window_size_gets_no_other():
    assert {w.shape for w in tiles.tile_grid((300, 1000), 8, window=256)} == {(256, 256)}
    assert tiles.tile_grid((256, 256), 8, window=256)[0].rows == (0, 256)
    assert len(tiles.tile_grid((256, 256), 8, window=256)) == 1


def test_a_plane_of_one_core_is_one_tile_without_halo():
    (tile,) = tiles.tile_grid((512, 512), 8)
    assert tile.shape == (512, 512)


def test_large_planes_are_cut_into_equal_shapes():
    shapes = {w.shape for w in tiles.tile_grid((8192, 8192), 8)}
    assert max(max(shape) for shape in shapes) == tiles.CORE + 2 * tiles.HALO
    assert len(shapes) == 4


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 9, 7), (1, 2, 20, 2048, 2048), (30, 1, 1, 64, 3000), (2, 1, 40, 700, 500)]
)
def test_sampled_blocks_lie_inside_and_within_the_budget(shape):
    blocks = sampled(shape, 0)
    pixels = 0
    for (t, c, z), rows, cols in blocks:
        assert 0 <= t < shape[0]
        assert c == 0
        assert 0 <= z < shape[2]
        assert 0 <= rows.start < rows.stop <= shape[3]
        assert 0 <= cols.start < cols.stop <= shape[4]
        pixels += (rows.stop - rows.start) * (cols.stop - cols.start)
    assert 0 < pixels <= BUDGET
    assert len({(p, r.start, c.start) for p, r, c in blocks}) == len(blocks)


def test_all_planes_and_corners_are_used_where_the_budget_allows():
    assert len(sampled((1, 1, 3, 1024, 512), 0)) == 6


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32"])
def test_integers_are_clipped_then_rounded(dtype):
    info = np.iinfo(dtype)
    values = np.array([-1e12, -3.2, 0.4, 0.6, 1.5, 2.5, 7e4, 1e12], np.float32)
    expected = np.clip(np.rint(values.astype(np.float64)), info.min, info.max)
    assert np.array_equal(to_dtype(values, np.dtype(dtype)), expected.astype(dtype))


def test_floats_pass_unrounded():
    values = np.array([-1.25, 3e5], np.float32)
    assert np.array_equal(to_dtype(values, np.dtype("float32")), values)
    assert to_dtype(values, np.dtype("float64")).dtype == np.float64


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32"])
@pytest.mark.parametrize("value", [0.0, 0.03, 0.5, 2.25, 7.0, 200.9])
def test_dither_is_unbiased(dtype, value):
    """E floor(value + u) = value: the mean over evenly spread u is exact to 10^-5."""
    numbers = (np.arange(1 << 20) + 0.5) / (1 << 20)
    found = to_dtype(np.full(numbers.shape, value, np.float32), np.dtype(dtype), numbers)
    assert found.dtype == dtype
    assert set(np.unique(found)) <= {int(np.floor(value)), int(np.ceil(value))}
    assert found.mean(dtype=np.float64) == pytest.approx(value, abs=1e-5)


def test_dither_stays_in_the_range_of_the_dtype():
    numbers = np.full(4, np.float32(1 - 2**-24))
    values = np.array([-3.0, 255.0, 255.4, 400.0], np.float32)
    assert to_dtype(values, np.dtype("uint8"), numbers).tolist() == [0, 255, 255, 255]


def test_values_of_the_dtype_are_kept_to_the_bit():
    for dtype in ("uint8", "int64", "uint64", "float64", "float16"):
        kind = np.dtype(dtype)
        ends = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
        values = np.array([ends.min, 1, ends.max], kind)
        assert to_dtype(values, kind).tobytes() == values.tobytes()
    assert to_dtype(np.array([1e30]), np.dtype("uint64"))[0] == np.iinfo(np.uint64).max
