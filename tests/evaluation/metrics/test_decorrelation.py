"""Decorrelation analysis where the answer is known: ideal cut-offs, point sources, bare noise."""

import math

import numpy as np
import pytest

from restorectl.evaluation.metrics.decorrelation import analyse
from restorectl.evaluation.metrics.metric import Undefined
from tests import phantom


def limited(cutoff, noise, side=256, seed=0):
    """White noise that ends at a share of Nyquist, plus white noise everywhere."""
    rng = np.random.default_rng(seed)
    frequency = 2 * np.fft.fftfreq(side)
    inside = np.hypot(frequency[:, None], frequency) < cutoff
    image = np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) * inside).real
    return image + noise * image.std() * rng.normal(size=image.shape)


@pytest.mark.parametrize(
    ("cutoff", "anchor"), [(0.2, 0.204), (0.4, 0.408), (0.6, 0.612), (0.8, 0.816)]
)
@pytest.mark.parametrize("noise", [0.01, 0.1, 0.3])
def test_ideal_cutoffs(cutoff, anchor, noise):
    assert analyse(limited(cutoff, noise)).cutoff == pytest.approx(anchor, abs=0.03)


@pytest.mark.parametrize(("side", "anchor"), [(64, 0.536), (128, 0.51), (256, 0.51), (512, 0.51)])
def test_sizes(side, anchor):
    assert analyse(limited(0.5, 0.05, side)).cutoff == pytest.approx(anchor, abs=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_bare_noise_has_no_resolution(seed):
    image = np.random.default_rng(seed).normal(size=(256, 256))
    assert analyse(image).cutoff == 0
    assert analyse(image).resolution == math.inf
    assert analyse(limited(0.8, 1.0, seed=seed)).cutoff == 0


def test_scale_offset_quantisation_and_shape_do_not_matter():
    image = limited(0.5, 0.05)
    expected = analyse(image).cutoff
    coarse = np.clip(np.rint(image / image.std() * 30 + 128), 0, 255)
    for other in (image * 7 + 3, coarse, image[:200], image.T):
        assert analyse(other).cutoff == pytest.approx(expected, abs=0.03)


def test_point_sources():
    """Resolution in px grows with the blur, about 2.355 sigma."""
    anchors = {1: 2.5, 1.25: 3.1, 1.5: 3.7, 2: 4.9, 2.5: 6.1, 3: 7.4, 4: 9.8}
    rng, found = np.random.default_rng(1), []
    points = np.zeros((256, 256))
    points[tuple(rng.integers(0, 256, (2, 400)))] = 1
    for sigma, anchor in anchors.items():
        image = phantom.blur(points, sigma, halo=0)
        image += 1e-3 * image.max() * rng.normal(size=image.shape)
        found.append(analyse(image).resolution)
        assert 2 / found[-1] == pytest.approx(2 / anchor, abs=0.03)
    assert found == sorted(found)


def test_a_disc_without_noise():
    """The curve's peak is sqrt(pi) / 2, less what the coarse radii lose."""
    image = limited(0.5, 0.0, seed=3)
    assert analyse(image).amplitude == pytest.approx(0.878, abs=0.03)


def test_refusals():
    with pytest.raises(Undefined, match="constant"):
        analyse(np.full((64, 64), 5.0))
    with pytest.raises(Undefined, match="under 48 px"):
        analyse(np.random.default_rng(0).normal(size=(47, 64)))
