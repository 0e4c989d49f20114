"""The average of planes that show the same, and what differs between them."""

import numpy as np
import pytest
from scipy import ndimage

from restorectl.restoration import fusion
from restorectl.restoration.fusion import Seen, aligned, fuse, moved, shift_between
from tests.phantom import scene

SIZE = (96, 96)
DUE = np.full(SIZE, 1e-4, np.float32)


def structure(seed=1, size=SIZE):
    return ndimage.gaussian_filter(scene("mixed", size, seed), 1.0).astype(np.float32)


def noise(seed, size=SIZE):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def test_equal_pilots_give_the_mean_and_its_noise():
    clean, sigma = structure(), 0.1
    planes = [Seen(clean + np.float32(sigma) * noise(k), clean) for k in range(4)]
    fused = fuse(planes[0], planes[1:], DUE, 1.0)
    assert fused.x == pytest.approx(np.mean([each.x for each in planes], axis=0), abs=1e-5)
    assert fused.level == pytest.approx(0.5)
    assert fused.weight == pytest.approx(3)
    assert np.std(fused.x - clean) == pytest.approx(sigma / 2, rel=0.02)


@pytest.mark.parametrize("shared", [0.2, 0.6])
def test_noise_that_all_planes_share_stays(shared):
    common = np.sqrt(shared) * noise(9)
    planes = [Seen(common + np.sqrt(1 - shared) * noise(k), 0 * DUE) for k in range(5)]
    fused = fuse(planes[0], planes[1:], DUE, 1.0, shared)
    assert np.std(fused.x) == pytest.approx(float(fused.level.mean()), rel=0.03)


def test_what_is_only_in_one_plane_stays_there():
    clean = structure()
    spot = clean.copy()
    spot[46:50, 46:50] += 0.5  # 50 times the pilots' noise-driven difference
    others = [Seen(clean, clean)] * 4
    with_spot = fuse(Seen(spot, spot), others, DUE, 8.0)
    around = fuse(Seen(clean, clean), [Seen(spot, spot), *others[1:]], DUE, 8.0)
    assert np.abs(with_spot.x - spot)[46:50, 46:50].max() < 0.03 * 0.5
    assert with_spot.level[46:50, 46:50].min() > 0.9
    assert np.abs(around.x - clean).max() < 0.01 * 0.5, "a ghost"
    assert with_spot.level[:30].max() < 0.46


def test_pixels_that_were_not_measured_do_not_count():
    clean = structure()
    half = np.arange(96) < 48
    fused = fuse(Seen(clean, clean), [Seen(clean + 9, clean, half[:, None] & half)], DUE, 1.0)
    assert (fused.level[:48, :48] < 0.72).all()
    assert np.array_equal(fused.x[48:], clean[48:])
    assert (fused.level[48:] == 1).all()


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, -0.25), (3.3, 1.6), (-12.4, 9.1)])
def test_a_shift_is_found_and_undone(shift):
    whole = structure(2, (256, 256))
    other = ndimage.shift(whole, [-each for each in shift], order=5, mode="mirror")
    own, part = whole[40:216, 40:216], other[40:216, 40:216]
    found = shift_between(own, part)
    assert found == pytest.approx(shift, abs=0.05)
    back = moved(Seen(part, part), found)
    assert back.valid[20:-20, 20:-20].all()
    assert np.abs(back.x - own)[20:-20, 20:-20].max() < 0.03


@pytest.mark.parametrize("shift", [(2.0, -3.0), (0.5, 0.0), (1.3, -0.4)])
def test_the_noise_of_a_shifted_plane_is_known(shift):
    plane = noise(3, (256, 256))
    there = moved(Seen(plane, plane), shift)
    assert np.var(there.x[there.valid]) == pytest.approx(there.variance, rel=0.02)
    assert 0.7 < there.variance <= 1.0001


def test_bleaching_is_evened_out_but_a_change_of_one_object_is_not():
    clean = structure() * 2 - 1
    faded = (clean * 0.8 - 0.1).astype(np.float32)
    faded[30:50, 30:50] -= 0.5
    due = DUE * 0.1
    ready = aligned(Seen(clean, clean), Seen(faded, faded), due)
    away = np.ones(SIZE, bool)
    away[26:54, 26:54] = False
    assert np.abs(ready.pilot - clean)[away].max() < 0.25 * np.abs(faded - clean)[away].max()
    fused = fuse(Seen(clean, clean), [ready], due, 8.0)
    assert np.abs(fused.x - clean)[32:48, 32:48].max() < 0.01


def test_expected_differences_follow_texture():
    flat, rough = np.zeros((1, 64, 128), np.float32), noise(5, (64, 128))[None] * 0.5
    rough[..., :64] = 0
    change = np.where(np.arange(128) < 64, 0.01, 0.1).astype(np.float32)
    made = fusion.expected(rough, rough + change * noise(6, (1, 64, 128)), 0.3)
    due = made.at(rough[0])
    assert due[:, :50].mean() == pytest.approx(2 * 0.01**2 / 0.09, rel=0.1)
    assert due[:, 78:].mean() == pytest.approx(2 * 0.1**2 / 0.09, rel=0.1)
    assert made.at(flat[0]).max() < 0.003
