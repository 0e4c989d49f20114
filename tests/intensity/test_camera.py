"""Cameras whose pixels differ: even images, maps from dark frames, photon transfer."""

from dataclasses import replace

import numpy as np
import pytest

from restorectl.intensity.camera import Camera, Moments, Series, evened
from tests import sensor

SHAPE = (96, 128)
NONE = np.zeros(SHAPE, bool)


def known(taken):
    """The camera as it is."""
    maps = {"offsets": taken.offset, "variances": taken.variance, "response": taken.gain / 2}
    floats = {name: each.astype(np.float32) for name, each in maps.items()}
    return Camera(100.0, 2.0, 2.0, quiet=float(np.quantile(taken.variance, 0.25)), **floats)


def measured(taken, frames, rng):
    moments = Moments()
    for _ in range(frames):
        moments.add(taken.exposed(0.0, rng))
    return moments.dark()


def test_offsets_and_response_are_undone_exactly():
    taken = sensor.scmos(SHAPE)
    light = np.random.default_rng(0).uniform(0, 500, SHAPE)
    seen = (light * taken.gain + taken.offset).astype(np.float32)
    camera = replace(known(taken), variances=None)
    assert evened(seen, camera, NONE) == pytest.approx(100 + 2 * light, abs=1e-3)
    assert evened(seen, replace(camera, response=None), NONE) == pytest.approx(
        light * taken.gain + 100, abs=1e-3
    )


def test_pixels_of_equal_read_noise_stay_as_they_are():
    seen = np.random.default_rng(0).integers(90, 500, SHAPE).astype(np.uint16)
    camera = Camera(100.0, 2.0, 2.0, variances=np.full(SHAPE, 4, np.float32), quiet=4.0)
    assert evened(seen, camera, NONE) == pytest.approx(seen, abs=1e-3)


def test_the_noise_of_noisy_pixels_becomes_that_of_the_others():
    taken, rng = sensor.scmos(SHAPE), np.random.default_rng(1)
    camera = known(taken)
    frames = [evened(taken.exposed(3.0, rng), camera, NONE) for _ in range(100)]
    noise = np.var(frames, axis=0)
    noisy = taken.variance > 20
    quiet = np.abs(taken.variance - camera.quiet) < 0.5
    assert np.var([taken.exposed(3.0, rng) for _ in range(50)], axis=0)[noisy].mean() > 40
    assert noise[noisy].mean() < 1.1 * noise[quiet].mean()
    assert np.mean(frames) == pytest.approx(106, rel=2e-3)  # the light stays


def test_bright_pixels_lean_on_nobody():
    taken = sensor.scmos(SHAPE)
    bright = taken.exposed(10_000.0, np.random.default_rng(2))
    even = evened(bright, replace(known(taken), variances=None), NONE)
    assert np.abs(evened(bright, known(taken), NONE) - even).mean() < 0.02 * even.std()


def test_unknown_pixels_change_no_other():
    taken = sensor.scmos(SHAPE)
    seen = taken.exposed(3.0, np.random.default_rng(3)).astype(np.float32)
    unknown = np.random.default_rng(4).random(SHAPE) < 0.05
    spoilt = np.where(unknown, np.nan, seen)
    even, also = (evened(each, known(taken), unknown) for each in (seen, spoilt))
    assert np.array_equal(even[~unknown], also[~unknown])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "uint32", "float64"])
def test_the_result_is_float32_or_as_wide_as_it_has_to_be(dtype):
    seen = np.full(SHAPE, 120, dtype)
    wide = np.dtype(dtype) in (np.uint32, np.float64)
    assert evened(seen, known(sensor.scmos(SHAPE)), NONE).dtype == (np.float64 if wide else "f4")


def test_moments_are_those_of_numpy():
    frames = np.random.default_rng(0).normal(100, 3, (7, *SHAPE))
    moments = Moments()
    for frame in frames:
        moments.add(frame)
    assert moments.mean == pytest.approx(frames.mean(0))
    assert moments.squares / 6 == pytest.approx(frames.var(0, ddof=1))


def test_dark_frames_show_offsets_variances_and_hot_pixels():
    taken = sensor.scmos(SHAPE)
    taken.offset[5, 7] += 400
    taken.variance[9, 9] = 2000
    camera = measured(taken, 100, np.random.default_rng(1))
    good = ~camera.hot
    assert np.std((camera.offsets - taken.offset)[good]) < 0.4
    wide = good & (taken.variance > 1)  # than the steps of grey levels
    assert np.std(np.log(camera.variances / (taken.variance + 1 / 12))[wide]) < 0.16
    assert camera.read_noise == pytest.approx(2, rel=0.05)
    assert camera.hot[5, 7]
    assert camera.hot[9, 9]
    assert camera.hot.mean() < 0.02


def test_variances_of_few_frames_are_drawn_together_where_pixels_are_alike():
    few = measured(sensor.even(SHAPE), 5, np.random.default_rng(1))
    assert np.std(np.log(few.variances)) < 0.2  # of five frames each, it would be 0.8
    assert not few.hot.any()


@pytest.mark.parametrize("light", [20.0, 500.0])
def test_photon_transfer_is_within_two_percent_from_20_flat_frames(light):
    taken, rng = sensor.scmos(SHAPE), np.random.default_rng(1)
    series = Series(measured(taken, 50, rng))
    for k in range(20):  # the lamp flickers
        series.add(taken.exposed(light * (1 + 0.05 * (-1) ** k), rng))
    camera = series.camera()
    assert series.still
    assert camera.gain == pytest.approx(2, rel=0.02)
    assert camera.excess == 1
    if light > 100:
        error = camera.response - taken.gain / np.median(taken.gain)
        assert np.std(error) < 0.02 < np.std(camera.response)


def test_an_emccd_is_recognised():
    taken, rng = sensor.scmos(SHAPE)._replace(multiplied=True), np.random.default_rng(1)
    series = Series(measured(taken, 50, rng))
    for _ in range(40):
        series.add(taken.exposed(20.0, rng))
    camera = series.camera()
    assert camera.excess == 2
    assert camera.gain == pytest.approx(2, rel=0.03)


def test_a_scene_that_does_not_move_tells_the_gain_but_no_response():
    taken, rng = sensor.scmos(SHAPE), np.random.default_rng(1)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    scene = 100 * (1 + np.sin(x / 3) * np.cos(y / 4))
    series, moving = Series(measured(taken, 50, rng)), Series(measured(taken, 50, rng))
    for k in range(20):
        series.add(taken.exposed(scene, rng))
        moving.add(taken.exposed(np.roll(scene, 5 * k, 1), rng))
    assert series.still
    assert not moving.still
    assert series.camera().gain == pytest.approx(2, rel=0.02)
    assert series.camera().response is None


def test_a_region_is_that_of_all_maps():
    camera = known(sensor.scmos(SHAPE)).cut(10, 20, (30, 40))
    assert {each.shape for each in camera.maps.values()} == {(30, 40)}
    assert camera.offsets[0, 0] == known(sensor.scmos(SHAPE)).offsets[10, 20]
