"""Pairs on one scale: the affine match, and the target that a perfect restoration would reach."""

import numpy as np
import pytest

from restorectl.intensity import whitening
from restorectl.training import pairs
from tests import phantom


def test_the_match_is_not_pulled_down_by_noise():
    clean = phantom.scene("mixed", (131, 150), 1) * 900 + 50
    noisy = 0.2 * clean - 3 + np.random.default_rng(0).normal(0, 40, clean.shape)
    gain, offset = pairs.match_scales(clean, noisy)
    assert gain == pytest.approx(0.2, abs=0.01)
    assert offset == pytest.approx(-3, abs=3)
    assert pairs.match_scales(np.full((16, 16), 7.0), noisy[:16, :16]) == (1.0, 0.0)


@pytest.mark.parametrize("photons", [3, 30, 1000])
def test_the_target_inverts_to_the_clean_image_and_is_the_mean_of_the_input(photons):
    scene = phantom.scene("nuclei", (256, 256), 2)
    noisy, clean = phantom.camera(scene, photons, 2.0, 100, 1.0, 5, dtype=np.float32)
    model = whitening.fit([noisy], gain=2.0, offset=100.0, read_noise=2.0)
    target = pairs.matched_target(clean, model)
    assert model.inverse(target) == pytest.approx(clean, abs=2e-3 * float(np.ptp(clean)))
    assert (model.forward(noisy) - target).mean() == pytest.approx(0, abs=0.02)
    far = np.array([clean.min() - 1e4, clean.max() + 1e4], np.float32)
    assert model.inverse(pairs.matched_target(far, model)) == pytest.approx(far, rel=0.01)


def test_the_stabilised_clean_image_would_be_biased():
    """Why the target is not simply `forward` of the clean image."""
    scene = phantom.scene("nuclei", (256, 256), 2)
    noisy, clean = phantom.camera(scene, 2, 2.0, 0, 0.0, 5, dtype=np.float32)
    model = whitening.fit([noisy], gain=2.0, offset=0.0, read_noise=0.0)
    plain = (model.forward(noisy) - model.forward(clean)).mean()
    right = (model.forward(noisy) - pairs.matched_target(clean, model)).mean()
    assert abs(right) < 0.1 * abs(plain)
