"""Classical filters: what they must leave alone, their choice of strength, and no seams."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from restorectl import catalog
from restorectl.engine.calibrators import AnalyticCalibrator
from restorectl.engine.classical import TV_STEPS, Classical, gaussian, median, require
from restorectl.engine.samplers import Problem
from restorectl.errors import UsageError

NAMES = ["median", "gaussian", "nl-means", "wavelet", "tv"]
SIGMA = 0.2


def problem(x, sigma=SIGMA):
    draw = lambda k, tiles: torch.randn(x.shape, generator=torch.Generator().manual_seed(k))  # noqa: E731
    return Problem(None, x, torch.full((len(x),), sigma), draw)


def scene(seed=0, size=96):
    """A smooth scene (1, 1, Y, X) with an edge, without and with white noise."""
    y, x = np.mgrid[:size, :size] / size
    clean = np.sin(6 * x) * np.cos(4 * y) * 0.5 + (x + y > 1)
    noise = np.random.default_rng(seed).normal(0, SIGMA, clean.shape)
    both = (clean, clean + noise)
    return tuple(torch.from_numpy(each.astype(np.float32))[None, None] for each in both)


def sampler(name):
    pytest.importorskip("pywt" if name == "wavelet" else "scipy")
    method = catalog.METHODS[name].load()
    return method.sampler(method.settings(), 1)


@pytest.mark.parametrize("name", NAMES)
def test_noise_is_removed_and_a_constant_stays(name):
    clean, noisy = scene()
    made = sampler(name)
    decided = made.decide(problem(noisy), AnalyticCalibrator())
    assert decided["sigma"] == pytest.approx(SIGMA)
    restored = made.run(problem(noisy), decided)
    assert restored.shape == noisy.shape
    assert restored.dtype == torch.float32
    before, after = (float((each - clean).square().mean()) for each in (noisy, restored))
    assert after < 0.4 * before
    flat = torch.full((1, 1, 64, 64), 0.25)
    torch.testing.assert_close(made.run(problem(flat), decided), flat)


@pytest.mark.parametrize("name", ["median", "gaussian", "nl-means", "tv"])
def test_what_a_filter_does_depends_on_the_halo_alone(name):
    _, noisy = scene(size=256)
    made = sampler(name)
    decided = made.decide(problem(noisy), AnalyticCalibrator())
    whole = made.run(problem(noisy), decided)
    part = made.run(problem(noisy[..., 64:192, 64:192]), decided)
    assert TV_STEPS < 64
    inner = (..., slice(128 - 2, 128 + 2), slice(128 - 2, 128 + 2))
    torch.testing.assert_close(part[..., 62:66, 62:66], whole[inner], rtol=0, atol=1e-5)


def test_the_estimated_risk_chooses_the_strength_with_the_lowest_error():
    clean, noisy = scene()
    widths = (0.4, 1.2, 6.0)
    made = Classical(gaussian, widths)
    chosen = made.decide(problem(noisy), AnalyticCalibrator())["filter"]
    errors = {
        w: float((made.run(problem(noisy), {"filter": w}) - clean).square().mean()) for w in widths
    }
    assert chosen == min(errors, key=errors.get)


def test_the_median_is_that_of_a_square():
    image = np.random.default_rng(3).normal(size=(32, 32)).astype(np.float32)
    assert median(image, 0.0, 3)[10, 20] == np.median(image[9:12, 19:22])


def test_a_library_that_is_missing_is_named():
    assert find_spec("no_such_library") is None
    with pytest.raises(UsageError, match=r"needs no_such_library: .*restorectl\[classical\]"):
        require("no_such_library")
