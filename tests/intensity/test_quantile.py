"""The quick median and quantile are numpy's."""

import numpy as np
import pytest

from restorectl.intensity.quantile import median, quantile


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_as_in_numpy(dtype):
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 4, 7, 20, 99, 1000):
        for values in (rng.standard_normal(count), rng.integers(0, 3, count), np.ones(count)):
            values = values.astype(dtype)
            assert median(values) == np.median(values)
            table = np.stack([values, values**2, -values], -1)
            for share in (0.0, 0.25, 0.5, 0.75, 0.99, 1.0):
                for each in (values, table):
                    found = quantile(each, share)
                    assert found.dtype == dtype
                    np.testing.assert_allclose(found, np.quantile(each, share, axis=0), rtol=1e-6)
