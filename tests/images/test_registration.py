"""Registration: transforms that are known, with noise, found to a tenth of a pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restorectl.images.registration import (
    Shift,
    Transform,
    matched_shift,
    phase_shift,
    register,
    resample,
    shift_error,
    valid_area,
)
from tests import phantom

SIDE, MARGIN = 192, 32
CENTRE = ((SIDE - 1) / 2, (SIDE - 1) / 2)


@pytest.fixture(scope="module")
def field():
    """A mixed scene in the square-root domain, larger than what is cut from it."""
    side = SIDE + 2 * MARGIN
    root = np.sqrt(np.maximum(phantom.scene("mixed", (side, side), 3), 0))
    return root / root.max()


def turned(degrees, stretch=None):
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn if stretch is None else np.array(stretch) @ turn


def transform(matrix, shift):
    return Transform(tuple(map(tuple, np.asarray(matrix).tolist())), shift, CENTRE)


def seen(field, true, noise=0.0, seed=0):
    """(fixed, moving) of which fixed(x) = 0.8 moving(true(x)) + 0.1 + noise; independent spline."""
    ndimage = pytest.importorskip("scipy.ndimage")
    grid = np.mgrid[:SIDE, :SIDE].astype(float)
    at = np.array(true(grid[0], grid[1])) + MARGIN
    fixed = 0.8 * ndimage.map_coordinates(field, at, order=3, mode="mirror") + 0.1
    fixed += noise * np.random.default_rng(seed).standard_normal(fixed.shape)
    return fixed, field[MARGIN:-MARGIN, MARGIN:-MARGIN]


def distance(a, b):
    """Largest distance in px, at the corners and the centre."""
    rows, columns = (
        np.array(values, float)
        for values in zip(
            (0, 0), (0, SIDE - 1), (SIDE - 1, 0), (SIDE - 1, SIDE - 1), CENTRE, strict=True
        )
    )
    return float(np.hypot(*np.subtract(a(rows, columns), b(rows, columns))).max())


@pytest.mark.parametrize(("dy", "dx"), [(0.0, 0.0), (0.3, -0.4), (3.5, 2.25), (-11.7, 20.1)])
def test_shifts(field, dy, dx):
    fixed, moving = seen(field, transform(np.eye(2), (dy, dx)), noise=0.05)
    found = phase_shift(fixed, moving)
    assert (found.dy, found.dx) == (pytest.approx(dy, abs=0.1), pytest.approx(dx, abs=0.1))
    assert found.score > 10
    assert found.length == pytest.approx(np.hypot(dy, dx), abs=0.15)


def test_the_error_of_a_shift_is_its_scatter():
    """With strong white noise, cross-correlation reaches the Cramer-Rao bound within a third."""
    y, x = np.mgrid[:96, :96]
    clean = np.sin(x / 5) * np.cos(y / 7) + np.sin((x + y) / 9)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        seen = matched_shift(clean, clean + rng.normal(0, 1.5, clean.shape))
        found.append((seen.dy, seen.dx))
    scatter = float(np.sqrt(np.mean(np.sum(np.square(found), 1))))
    assert shift_error(clean, 1.5) / 1.34 < scatter < shift_error(clean, 1.5) * 1.34


def test_whole_pixels_of_a_periodic_image_are_exact():
    rng = np.random.default_rng(0)
    smooth = np.fft.ifft2(np.fft.fft2(rng.standard_normal((64, 48))) * 1.0).real
    found = phase_shift(smooth, np.roll(smooth, (5, -7), (0, 1)))
    assert (found.dy, found.dx) == (pytest.approx(5, abs=0.06), pytest.approx(-7, abs=0.06))


def test_images_of_different_fields_have_no_clear_peak(field):
    other = np.sqrt(np.maximum(phantom.scene("nuclei", (SIDE, SIDE), 9), 0))
    noise = np.random.default_rng(0).standard_normal((SIDE, SIDE))
    moving = field[MARGIN:-MARGIN, MARGIN:-MARGIN]
    for fixed in (other, noise):
        assert phase_shift(fixed, moving).score < 12
    assert isinstance(phase_shift(np.zeros((32, 32)), moving[:32, :32]), Shift)


@pytest.mark.parametrize(
    ("degrees", "shift"),
    [(0.0, (0.3, -0.4)), (2.2, (3.3, -2.6)), (-7.0, (5.5, 4.2)), (11.0, (-6.0, 3.0))],
)
def test_rigid(field, degrees, shift):
    true = transform(turned(degrees), shift)
    found = register(*seen(field, true, noise=0.05), "rigid")
    assert distance(found, true) < 0.1
    assert np.linalg.det(np.array(found.matrix)) == pytest.approx(1)


@pytest.mark.parametrize("stretch", [[[1.02, 0.01], [-0.015, 0.97]], [[0.96, 0.0], [0.03, 1.03]]])
def test_affine(field, stretch):
    true = transform(turned(1.0, stretch), (2.2, 1.1))
    fixed, moving = seen(field, true, noise=0.03)
    assert distance(register(fixed, moving, "affine"), true) < 0.1
    assert distance(register(fixed, moving, "rigid"), true) > 0.5


def test_the_resampled_image_is_the_fixed_one(field):
    true = transform(turned(4.0), (2.5, -3.25))
    fixed, moving = seen(field, true)
    first, last, left, right = valid_area(fixed.shape, true)
    inner = (slice(first, last), slice(left, right))
    error = (0.8 * resample(moving, true) + 0.1 - fixed)[inner]
    assert np.abs(error).mean() < 2e-3
    assert np.abs((0.8 * moving + 0.1 - fixed)[inner]).mean() > 0.02


def test_odd_and_large_sides(field):
    fixed, moving = seen(field, transform(turned(1.0), (1.5, -0.5)))
    found = register(fixed[:-1, 3:], moving[:-1, 3:], "rigid")
    corner = np.array([10.0]), np.array([20.0])
    whole = transform(turned(1.0), (1.5, -0.5))(corner[0], corner[1] + 3)
    assert found(*corner)[0] == pytest.approx(whole[0], abs=0.1)
    assert found(*corner)[1] == pytest.approx(whole[1] - 3, abs=0.1)


@settings(max_examples=25, deadline=None)
@given(
    degrees=st.floats(-10, 10),
    dy=st.floats(-8, 8),
    dx=st.floats(-8, 8),
    height=st.integers(40, 90),
    width=st.integers(40, 90),
)
def test_the_valid_area_lies_inside(degrees, dy, dx, height, width):
    centre = ((height - 1) / 2, (width - 1) / 2)
    found = Transform(tuple(map(tuple, turned(degrees).tolist())), (dy, dx), centre)
    first, last, left, right = valid_area((height, width), found)
    rows, columns = np.mgrid[first:last, left:right].astype(float)
    y, x = found(rows, columns)
    assert ((y > -0.02) & (y < height - 0.98) & (x > -0.02) & (x < width - 0.98)).all()
    assert (last - first) * (right - left) > 0.3 * height * width


def test_nothing_is_cut_where_nothing_moves():
    still = Transform(((1.0, 0.0), (0.0, 1.0)), (0.0, 0.0), (9.5, 14.5))
    assert valid_area((20, 30), still) == (0, 20, 0, 30)
    image = np.random.default_rng(0).random((20, 30)).astype(np.float32)
    assert np.allclose(resample(image, still), image, atol=1e-6)
