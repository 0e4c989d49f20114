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


@pytest.mark.parametrize("mean", [0.01, 0.05, 0.3, 2.0])
def test_above_a_floor_the_mean_is_kept_without_values_below_it(mean):
    """A restoration that scatters around the truth, with many values below 0."""
    rng = np.random.default_rng(3)
    truth = mean * smooth((256, 320)) / 50
    measured = rng.poisson(truth).astype(np.float32)
    restored = (truth + rng.normal(0, 2 * mean, truth.shape)).astype(np.float32)
    out = keep_local_mean(measured + 7, restored + 7, 7)
    assert out.min() >= 7
    assert (out - 7).mean() == pytest.approx(measured.mean(), rel=0.005)
    clipped = np.maximum(keep_local_mean(measured, restored), 0)
    assert clipped.mean() > 1.2 * measured.mean()


def test_a_black_region_stays_black_above_a_floor():
    restored = np.abs(np.random.default_rng(4).normal(0, 1, (256, 256))).astype(np.float32)
    out = keep_local_mean(np.zeros((256, 256), np.float32), restored, 0)
    assert not out.any()


def test_a_restoration_above_the_floor_is_hardly_changed_by_it():
    truth = smooth((128, 128))
    measured = truth + np.random.default_rng(5).normal(0, 3, truth.shape).astype(np.float32)
    free, bound = keep_local_mean(measured, truth), keep_local_mean(measured, truth, 0)
    assert np.abs(free - bound).max() < 0.05
