"""Images written side by side: each whole, none held in memory, an error of one stops all."""

from contextlib import ExitStack

import numpy as np
import pytest

from restorectl.images.header import Header
from restorectl.images.image import create_image, open_image

SHAPE = (12, 40, 30)


def planes(count=SHAPE[0]):
    for z in range(count):
        yield np.full(SHAPE[1:], z, np.uint8), np.full(SHAPE[1:], z / 2, np.float32)


def write_both(folder, stream, names=("a.tif", "b.tif")):
    headers = [Header("ZYX", SHAPE, np.dtype(dtype), format=".tif") for dtype in ("u1", "f4")]
    with ExitStack() as stack:
        writers = [
            stack.enter_context(create_image(folder / name, header, provenance={"tool": "test"}))
            for name, header in zip(names, headers, strict=True)
        ]
        for each in stream:
            for writer, plane in zip(writers, each, strict=True):
                writer.put(plane)


def test_each_image_gets_its_own_planes(tmp_path):
    write_both(tmp_path, planes())
    for name, factor in (("a.tif", 1.0), ("b.tif", 0.5)):
        with open_image(tmp_path / name, axes="ZYX") as image:
            for plane in image.header.planes:
                assert (image.read(plane) == plane[2] * factor).all()


def test_an_image_that_cannot_be_made_stops_the_stream_before_it_starts(tmp_path):
    stream = planes()
    with pytest.raises(FileNotFoundError):
        write_both(tmp_path, stream, ("a.tif", "nowhere/b.tif"))
    assert next(stream)[0][0, 0] == 0


def test_an_error_of_the_planes_is_the_one_that_is_raised(tmp_path):
    def failing():
        yield from planes(3)
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"):
        write_both(tmp_path, failing())


@pytest.mark.parametrize("count", [SHAPE[0] - 1, SHAPE[0] + 1])
def test_the_wrong_number_of_planes_is_a_bug(count, tmp_path):
    with pytest.raises(ValueError, match="plane"):
        write_both(tmp_path, planes(count))
