"""The local mean is kept; what is local stays the restoration's."""

import numpy as np
import pytest

from restorectl.images.tiles import HALO, tile_grid
from restorectl.intensity.photometry import keep_local_mean


def smooth(shape):
    y, x = np.meshgrid(*(np.arange(n) / 100 for n in shape), indexing="ij")
    return (50 + 20 * np.sin(y) + 10 * np.cos(2 * x)).astype(np.float32)


def test_a_smooth_bias_is_removed():
    truth = smooth((256, 320))
    out = keep_local_mean(truth, truth * 0.95 - 3)
    assert np.abs(out / truth - 1).max() < 0.01


def test_an_unbiased_restoration_is_left_alone():
    truth = smooth((128, 128))
    noise = np.random.default_rng(0).normal(0, 10, truth.shape).astype(np.float32)
    out = keep_local_mean(truth + noise, truth)
    assert (out - truth).std() < 10 / 35


def test_the_total_is_kept():
    rng = np.random.default_rng(1)
    measured = rng.gamma(2, 50, (512, 512)).astype(np.float32)
    out = keep_local_mean(measured, np.full_like(measured, 60))
    assert out.mean() == pytest.approx(measured.mean(), rel=2e-3)


def test_a_tile_gives_the_whole_image_s_answer():
    rng = np.random.default_rng(2)
    measured, restored = rng.gamma(2, 50, (2, 400, 800)).astype(np.float32)
    whole = keep_local_mean(measured, restored)
    for tile in tile_grid((400, 800), 8, 256, HALO):
        part = keep_local_mean(tile.pad(measured[tile.read]), tile.pad(restored[tile.read]))
        np.testing.assert_allclose(tile.crop(part), whole[tile.core], atol=2e-3)
