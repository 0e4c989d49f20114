"""What is expected of a pixel's error, from the samples and from what was removed around it."""

import numpy as np
import pytest

from restorectl.restoration import expected


def test_the_expected_error_scales_as_the_exponents_say():
    spread = np.random.default_rng(0).uniform(0.1, 0.5, (2, 1, 40, 40)).astype(np.float32)
    power = sum(expected.EXPONENTS.values())
    found = expected.expected(3 * spread) / expected.expected(spread)
    np.testing.assert_allclose(found, 3**power, rtol=1e-4)
    even = expected.expected(np.full((8, 8), 0.25, np.float32))
    np.testing.assert_allclose(even, 0.25**power, rtol=1e-4)


def test_a_point_that_was_removed_is_seen_and_noise_is_not():
    noise = np.random.default_rng(1).standard_normal((128, 128)).astype(np.float32)
    y, x = np.ogrid[-64:64, -64:64]
    point = 6 * np.exp(-(x**2 + y**2) / (2 * 1.2**2)).astype(np.float32)
    assert np.mean(expected.removed(noise) > 0) < 0.08
    assert expected.removed(noise + point)[64, 64] == pytest.approx(6, abs=3.0)
