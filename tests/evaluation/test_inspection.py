"""What a report draws: closed forms, brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from restorectl.evaluation.charts import box
from restorectl.evaluation.examples import interesting_crop, interesting_row, radial_power
from restorectl.evaluation.report import reliability


def test_white_noise_has_its_variance_at_every_frequency():
    noise = np.random.default_rng(1).normal(5, 3, (256, 192))
    frequencies, power = radial_power(noise)
    assert frequencies[0] == pytest.approx(1 / 192)
    assert frequencies[-1] == pytest.approx(0.5)
    assert power.mean() == pytest.approx(9, rel=0.05)
    assert power[40:].min() > 0.6 * 9
    assert power[40:].max() < 1.4 * 9


@pytest.mark.parametrize("shape", [(128, 128), (127, 130)])
def test_a_wave_stands_at_its_frequency_whatever_its_direction(shape):
    y, x = np.mgrid[: shape[0], : shape[1]]
    for fy, fx in ((0.25, 0), (0, 0.25), (0.15, 0.2)):
        frequencies, power = radial_power(np.sin(2 * np.pi * (fy * y + fx * x)))
        assert frequencies[np.argmax(power)] == pytest.approx(0.25, abs=0.01)


@given(hnp.arrays(np.float64, (5, 8), elements=st.floats(-100, 100)))
def test_the_spectrum_of_any_image_is_finite_and_turns_with_it(image):
    frequencies, power = radial_power(image)
    turned = radial_power(image.T)
    assert np.isfinite(power).all()
    np.testing.assert_array_equal(frequencies, turned[0])
    np.testing.assert_allclose(power, turned[1], atol=1e-9)


def test_the_box_is_tukey_s():
    values = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 30])
    found = box(values)
    assert (found.q1, found.median, found.q3) == (3.25, 5.5, 7.75)
    assert (found.low, found.high) == (1, 9)
    assert found.outliers == (9,)
    assert box(np.full(7, 0.1)).outliers == ()


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e6, 1e6)))
def test_every_value_is_within_the_whiskers_or_an_outlier(values):
    found = box(values)
    assert found.low <= found.q1 <= found.median <= found.q3 <= found.high
    inside = (values >= found.low) & (values <= found.high)
    assert inside.sum() + len(found.outliers) == len(values)


def test_the_window_is_the_one_that_varies_most():
    rng = np.random.default_rng(2)
    image = rng.normal(1000, 0.1, (300, 420))
    image[150:290, 200:380] += 20 * rng.random((140, 180))
    rows, cols = interesting_crop(image, 128)
    starts = [(top, left) for top in (0, 64, 128, 172) for left in (0, 64, 128, 192, 256, 292)]
    best = max(starts, key=lambda at: image[at[0] : at[0] + 128, at[1] : at[1] + 128].var())
    assert (rows.start, cols.start) == best
    assert (rows.stop - rows.start, cols.stop - cols.start) == (128, 128)
    assert interesting_crop(image[:50, :40], 128) == (slice(0, 50), slice(0, 40))
    assert interesting_crop(np.zeros((200, 200)), 128) == (slice(0, 128), slice(0, 128))


def test_the_row_is_one_with_contrast_and_not_at_the_border():
    image = np.zeros((50, 30))
    image[0, ::2] = 1000
    image[33, 5] = 10
    assert interesting_row(image) == 33
    assert interesting_row(np.zeros((1, 5))) == 0


def test_a_true_deviation_equals_the_error_in_every_bin():
    rng = np.random.default_rng(3)
    std = rng.uniform(1, 5, 200_000)
    predicted, actual = reliability(std, std * rng.standard_normal(std.shape), 10)
    np.testing.assert_allclose(actual, predicted, rtol=0.03)
    assert (np.diff(predicted) > 0).all()
    assert len(reliability(std[:3], std[:3], 10)[0]) == 3
