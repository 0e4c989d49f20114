"""Pixels that are no measurements are found; a dark background is measured."""

import numpy as np
import pytest
from scipy import ndimage

from restorectl.intensity import invalid, noise, whitening
from restorectl.intensity.photometry import keep_local_mean
from tests.defects import KINDS, REPAIRED, spoiled
from tests.phantom import scene

SHAPE = (128, 160)


@pytest.mark.parametrize("seed", range(4 * len(KINDS)))
def test_defects_are_found_and_nothing_else(seed):
    case = spoiled(seed)
    found = invalid.find(case.noisy)
    wrong = (found.repaired if case.kind in REPAIRED else found.kept) != case.invalid
    assert wrong.sum() <= 1
    assert not (found.kept & found.repaired).any()


@pytest.mark.parametrize("specimen", ["nuclei", "filaments", "puncta"])
@pytest.mark.parametrize("seed", range(3))
def test_a_dark_background_of_zeros_is_measured(specimen, seed):
    rng, light = np.random.default_rng(seed), scene(specimen, SHAPE, seed)
    images = [rng.poisson(mean * light).astype(np.uint16) for mean in (0.01, 0.1, 1, 20)]
    for offset in (-60, -20, 0):
        camera = offset + 2 * rng.poisson(100 * light) + rng.normal(0, 1.6, SHAPE)
        images.append(np.clip(np.round(camera), 0, 65535).astype(np.uint16))
    counts = rng.poisson(light)
    images.append(np.round(counts * rng.gamma(2, 30, SHAPE)).astype(np.uint16))
    images.append(np.round(20 * light).astype(np.uint8))  # without noise
    for image in images:
        found = invalid.find(image)
        assert not found.kept.any()
        assert found.repaired.sum() <= 1


@pytest.mark.parametrize("specimen", ["nuclei", "filaments", "mixed"])
@pytest.mark.parametrize("seed", range(3))
def test_a_camera_s_ceiling_is_found_only_if_values_are_cut_off_there(specimen, seed):
    rng, light = np.random.default_rng(seed), scene(specimen, SHAPE, seed)
    counts = rng.poisson(40 + 3000 * ndimage.gaussian_filter(light, 1) / light.max())
    image = np.round(100 + 2 * counts + rng.normal(0, 1.6, SHAPE)).astype(np.uint16)
    ceiling = int(np.quantile(image, 0.9))
    assert not invalid.find(image).any.any()
    cut = np.minimum(image, ceiling)
    hot = np.unravel_index(
        ndimage.uniform_filter(image, 9, mode="constant", cval=65535).argmin(), SHAPE
    )
    cut[hot] = 65535
    found = invalid.find(cut)
    clumps = ndimage.binary_opening(cut == ceiling, np.ones((5, 5)))
    assert clumps.any()
    assert found.kept[clumps].all()
    assert not found.kept[cut < ceiling].any()
    assert found.repaired[hot]


@pytest.mark.parametrize("blur", [0.8, 1.0, 1.5])
def test_points_are_no_hot_pixels(blur):
    rng, points = np.random.default_rng(0), np.zeros(SHAPE)
    points[tuple(rng.integers(8, n - 8, 40) for n in SHAPE)] = rng.uniform(100, 3000, 40)
    light = 5 + 4 * ndimage.gaussian_filter(points, blur)
    image = np.round(100 + 2 * rng.poisson(light / 2) + rng.normal(0, 1.6, SHAPE))
    assert invalid.find(image.astype(np.uint16)).any.sum() <= 1


def test_a_value_is_given_or_nothing_is_looked_for():
    case = spoiled(KINDS.index("boxes"))
    value = float(case.noisy[case.invalid][0])
    assert np.array_equal(invalid.find(case.noisy, value).kept, case.invalid)
    assert not invalid.find(case.noisy, "none", hot=False).any.any()
    lines = spoiled(KINDS.index("lines"))
    assert not invalid.find(lines.noisy, "none", hot=False).any.any()
    missing = spoiled(KINDS.index("nan"))
    assert not invalid.find(missing.noisy, "none").any.any()


def test_a_blank_plane_is_kept():
    for plane in (np.full((9, 9), 7, np.uint8), np.full((9, 9), np.nan)):
        assert invalid.find(plane).kept.all()
        assert invalid.find(plane, "none", hot=False).kept.all() == np.isfinite(plane).all()


def test_filling_goes_on_with_signal_and_noise():
    rng = np.random.default_rng(0)
    plane = (np.linspace(50, 90, 160) + rng.normal(0, 5, SHAPE)).astype(np.float32)
    hole = np.zeros(SHAPE, bool)
    hole[40:90, 60:110] = True
    filled = invalid.fill(np.where(hole, np.nan, plane), hole)
    assert np.array_equal(filled[~hole], plane[~hole])
    assert filled[hole].std() == pytest.approx(7.4, abs=2)
    assert abs((filled - np.linspace(50, 90, 160))[hole].mean()) < 2


def test_missing_pixels_do_not_change_the_noise_model():
    rng = np.random.default_rng(0)
    plane = (100 + 2 * rng.poisson(40 * scene("nuclei", (256, 256), 1) + 5)).astype(np.float32)
    whole = whitening.fit([plane]).noise
    plane[:, 150:] = np.nan
    plane[60:90, 20:60] = np.nan
    part = noise.estimate([plane, np.full_like(plane, np.nan)])
    assert part.gain == pytest.approx(whole.gain, rel=0.15)
    assert part.level == pytest.approx(whole.level, rel=0.1)


def test_the_local_mean_does_not_leak_over_a_border():
    truth = np.full((64, 96), 130, np.float32)
    measured, valid = truth.copy(), np.ones(truth.shape, bool)
    measured[:, :40], valid[:, :40] = 0, False
    out = keep_local_mean(measured, truth - 3, valid=valid)
    assert np.abs(out - truth)[valid].max() < 0.01
    assert np.abs(keep_local_mean(measured, truth - 3) - truth)[valid].max() > 30
