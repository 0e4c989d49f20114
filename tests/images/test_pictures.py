"""Sheets of panels: pixels are where they belong, and scale bars as long as they say."""

import numpy as np
import pytest

from restorectl.images.pictures import (
    GREYS,
    MARGIN,
    RAMP,
    SIGNS,
    TITLE,
    Panel,
    draw_panels,
    pixel_size,
    reduction,
    scale_bar,
    thumbnail,
)


@pytest.mark.parametrize("width", [17, 256, 2048])
@pytest.mark.parametrize("spacing", [None, 0.065, 0.3, 20.0])
def test_a_scale_bar_has_the_length_that_it_names(width, spacing):
    pixel, unit = pixel_size(spacing)
    length, text = scale_bar(width, pixel, unit)
    number, named = text.split(" ")
    assert named == ("px" if spacing is None else "um")
    assert f"{float(number):e}"[0] in "125"
    assert length == pytest.approx(float(number) / pixel, abs=0.5)
    assert width / 5 - 0.5 <= length <= width / 2 + 0.5


def test_panels_show_their_pixels_below_captions_and_titles():
    values = np.arange(200 * 30).reshape(30, 200) % 256
    signs = np.zeros((30, 200))
    signs[:, :50], signs[:, 50:100], signs[:, 150:] = -9, 9, np.nan
    rows = {
        "": [Panel("a", values, 0, 255, GREYS), Panel("b", signs, -1, 1, SIGNS, ramp=False)],
        "below": [Panel("c", values, 0, 255, GREYS)],
    }
    picture = draw_panels(rows)
    top = MARGIN + TITLE
    assert np.array_equal(picture[top : top + 30, MARGIN : MARGIN + 200, 1], values)
    shown = picture[top + 3, 2 * MARGIN + 200 :: 50][:4]
    assert [tuple(map(int, colour)) for colour in shown] == [
        SIGNS[0], SIGNS[2], (255, 255, 255), (255, 255, 255),
    ]  # fmt: skip
    ramp = picture[top + 30 + MARGIN // 2 + RAMP // 2, MARGIN : MARGIN + 200, 0].astype(int)
    assert (ramp[0], ramp[-1]) == (0, 255)
    assert (np.diff(ramp) >= 0).all()
    second = rows[""][0].size[1] + 2 * MARGIN + 2 * TITLE
    assert np.array_equal(picture[second : second + 30, MARGIN : MARGIN + 200, 1], values)
    assert picture[second - 2 * TITLE : second - TITLE].min() < 100  # the caption


def test_a_thumbnail_keeps_the_mean():
    plane = np.random.default_rng(0).normal(5, 1, (600, 900)).astype(np.float32)
    small = thumbnail(plane, 300)
    assert reduction(plane.shape, 300) == 3
    assert small.shape == (200, 300)
    assert small.mean() == pytest.approx(plane.mean(), rel=1e-5)
