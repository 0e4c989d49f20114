"""Images that lie far from 0 are computed around it."""

from pathlib import Path

import numpy as np
import pytest

from restorectl.images.header import Header
from restorectl.images.image import ALL, Image
from restorectl.images.near_zero import near_zero


class Pixels(Image):
    """One plane in memory for each channel."""

    def __init__(self, planes):
        self.planes, self.path = planes, Path("image.tif")
        self.header = Header("CYX", planes.shape, planes.dtype)

    def read(self, plane, rows=ALL, cols=ALL):
        return self.planes[plane[1]][rows, cols]

    def close(self):
        pass


def made(dtype, offset):
    values = np.random.default_rng(0).integers(0, 1000, (2, 80, 90)).astype(np.float64)
    return Pixels((values + np.array([offset, 0])[:, None, None]).astype(dtype))


@pytest.mark.parametrize(
    ("dtype", "offset"), [("uint32", 2**28), ("int32", -(2**30)), ("float64", 1e9)]
)
def test_differences_are_exact_and_the_zero_is_told(dtype, offset):
    image = made(dtype, offset)
    near = near_zero(image, [0, 1])
    read = near.read((0, 0, 0))
    assert read.dtype == np.float32
    assert near.zero(0) == pytest.approx(offset + 500, abs=20)
    assert near.zero(0) % 1 == 0
    back = (read.astype(np.float64) + near.zero(0)).astype(dtype)
    assert np.array_equal(back, image.planes[0])
    assert near.zero(1) == 0
    assert near.read((0, 1, 0)).dtype == dtype


def test_single_pixels_do_not_move_the_zero():
    image = made("uint32", 2**28)
    expected = near_zero(image, [0]).zero(0)
    image.planes[0, 3, 4], image.planes[0, 50, 60] = 0, 2**32 - 1
    assert near_zero(image, [0]).zero(0) == pytest.approx(expected, abs=2)


def test_ordinary_images_and_channels_that_are_copied_are_read_as_they_are():
    for image, channels in (
        (made("uint16", 60000), [0, 1]),
        (made("float32", 100), [0, 1]),
        (made("uint32", 2**28), [1]),
    ):
        assert near_zero(image, channels) is image
