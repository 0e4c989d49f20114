"""The cubic kernel: identities and closed forms."""

import numpy as np
import pytest

from restorectl.images.interpolate import cubic_weights

AT = np.linspace(0, 1, 21)


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_parabolas_are_reproduced(degree):
    """Keys 1981: exact up to the second degree."""
    made = cubic_weights(AT) @ np.arange(-1.0, 3.0) ** degree
    np.testing.assert_allclose(made, AT**degree, atol=1e-14)


def test_samples_are_kept_and_the_middle_is_known():
    found = cubic_weights(np.array([[0.0, 0.5, 1.0]]))
    expected = [[[0, 1, 0, 0], [-1 / 16, 9 / 16, 9 / 16, -1 / 16], [0, 0, 1, 0]]]
    np.testing.assert_array_equal(found, expected)
