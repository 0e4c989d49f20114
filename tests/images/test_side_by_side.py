"""Images written side by side: each whole, none held in memory, an error of one stops all."""

import threading

import numpy as np
import pytest

from restorectl.images.header import Header
from restorectl.images.image import create_images, open_image

SHAPE = (12, 40, 30)


def headers(*dtypes):
    return [Header("ZYX", SHAPE, np.dtype(dtype), format=".tif") for dtype in dtypes]


def planes(count=SHAPE[0], seen=None):
    for z in range(count):
        if seen is not None:
            seen.append(z)
        yield np.full(SHAPE[1:], z, np.uint8), np.full(SHAPE[1:], z / 2, np.float32)


def test_each_image_gets_its_own_planes(tmp_path):
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    create_images(paths, headers("u1", "f4"), planes(), {"tool": "test"})
    for path, factor in zip(paths, (1.0, 0.5), strict=True):
        with open_image(path, axes="ZYX") as image:
            for plane in image.header.planes:
                assert (image.read(plane) == plane[2] * factor).all()
    assert threading.active_count() < 10


def test_a_writer_that_fails_stops_the_stream(tmp_path):
    seen = []
    paths = [tmp_path / "a.tif", tmp_path / "nowhere" / "b.tif"]
    with pytest.raises(FileNotFoundError):
        create_images(paths, headers("u1", "f4"), planes(seen=seen), {})
    assert len(seen) < SHAPE[0]


def test_an_error_of_the_planes_is_the_one_that_is_raised(tmp_path):
    def failing():
        yield from planes(3)
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"):
        create_images([tmp_path / "a.tif", tmp_path / "b.tif"], headers("u1", "f4"), failing(), {})


@pytest.mark.parametrize("count", [SHAPE[0] - 1, SHAPE[0] + 1])
def test_the_wrong_number_of_planes_is_a_bug(count, tmp_path):
    with pytest.raises(ValueError, match="plane"):
        create_images(
            [tmp_path / "a.tif", tmp_path / "b.tif"], headers("u1", "f4"), planes(count), {}
        )
