"""What the prior says about noise: closed forms with a Wiener filter, and textures as they are."""

import json

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from restorectl.intensity.noise import NoiseModel
from restorectl.intensity.whitening import Intensity
from restorectl.restoration.evidence import CELL, Witness, weigh
from tests.command import run

UNIT = 50.0  # whitened units per network unit
SIDE = 192
_SPECTRUM = 40.0 * np.exp(-0.5 * (2 * np.pi * 2.0 * np.hypot(
    np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])) ** 2)  # fmt: skip


def wiener(tiles, level):
    """The best denoiser for Gaussian structure of _SPECTRUM (standard deviation per frequency)."""
    gain = _SPECTRUM**2 / (_SPECTRUM**2 + (level * UNIT) ** 2)
    return np.fft.irfft2(np.fft.rfft2(tiles) * gain, s=tiles.shape[1:]).astype(np.float32)


def witness(strength, blind, seed=0, colour=0.0, denoise=wiener):
    """Structure plus noise of a standard deviation `strength`, blind estimate `blind`."""
    rng = np.random.default_rng(seed)
    white = rng.normal(size=(2, SIDE, SIDE))
    structure = np.fft.irfft2(np.fft.rfft2(white) * _SPECTRUM, s=(SIDE, SIDE))
    noise = rng.normal(size=white.shape)
    if colour:
        noise = ndimage.gaussian_filter(noise, (0, colour, colour))
    tiles = (structure + strength * noise) / UNIT
    model = NoiseModel("gaussian", 0.0, 0.0, 1.0, blind, 0.0, False, float("inf"), 0.0, 1.0)
    scale = Intensity(model, -UNIT, UNIT, blind / UNIT)
    numbers = rng.standard_normal(tiles.shape, np.float32)
    return Witness(tiles.astype(np.float32), numbers, scale, denoise)


@pytest.mark.parametrize("told", [0.3, 1.0, 3.0])
def test_the_white_level_is_found_whatever_level_is_told(told):
    response = witness(1.0, told).respond(told)
    assert response.white == pytest.approx(1.0, rel=0.08)


def test_the_residual_is_what_white_noise_leaves_only_at_its_level():
    found = {told: witness(1.0, told).respond(told).explained for told in (0.5, 1.0, 2.0)}
    assert found[1.0] == pytest.approx(1.0, abs=0.05)
    assert found[2.0] < 0.7 < found[1.0] < found[0.5]


@pytest.mark.parametrize("wrong", [1.0, 3.0, 8.0])
def test_a_blind_level_that_is_too_high_is_corrected(wrong):
    verdict = weigh(witness(1.0, wrong))
    assert verdict.level == pytest.approx(1.0, rel=0.1)
    assert (verdict.belief == 1) == (wrong == 1.0)


def test_cells_show_where_noise_is_stronger():
    strength = np.geomspace(0.7, 2.1, SIDE)
    levels = witness(strength, 1.2).cells(1.7)
    truth = strength.reshape(-1, CELL).mean(1)
    np.testing.assert_allclose(levels.mean((0, 1)), truth, rtol=0.06)


@pytest.mark.parametrize("seed", range(5))
def test_even_noise_has_no_cells(seed):
    assert witness(1.0, 1.0, seed).cells(1.4) is None


def filaments(seed, count=150, side=256):
    """Thin lines in all directions, everywhere: (side, side) float64, 0 to about 1."""
    rng = np.random.default_rng(seed)
    image = np.zeros((side, side))
    for _ in range(count):
        place, angle, bright = rng.random(2) * side, rng.random() * 6.28, rng.uniform(0.5, 1.5)
        for _ in range(rng.integers(60, 300)):
            angle += rng.normal(0, 0.06)
            place = place + np.array([np.sin(angle), np.cos(angle)])
            row, col = place.astype(int)
            if 0 <= row < side and 0 <= col < side:
                image[row, col] = max(image[row, col], bright)
    image = ndimage.gaussian_filter(image, 1.0) + 0.02
    return image / np.percentile(image, 99.9)


def puncta(seed, side=256):
    rng = np.random.default_rng(seed)
    image = np.where(rng.random((side, side)) < 0.05, rng.lognormal(0, 0.5, (side, side)), 0)
    image = ndimage.gaussian_filter(image, 1.2) + 0.02
    return image / np.percentile(image, 99.9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("texture", "most", "error_left", "gains"),
    [
        (filaments, 600, 0.95, (1, 5)),
        (puncta, 600, 0.95, (1, 5)),
        (filaments, 6000, 1.06, (1, 8)),
        (puncta, 6000, 1.06, (1, 8)),
    ],
)
def test_dense_sharp_texture_with_little_noise_is_not_harmed(
    texture, most, error_left, gains, tmp_path
):
    photons = most * texture(3)
    rng = np.random.default_rng(4)
    truth = 2 * photons + 100
    noisy = 2 * rng.poisson(photons) + 100 + rng.normal(0, 1.6, photons.shape)
    tifffile.imwrite(tmp_path / "in.tif", np.clip(np.round(noisy), 0, 65535).astype(np.uint16))
    done = run("restore", tmp_path / "in.tif", "-o", tmp_path / "out.tif", "--json")
    assert done.returncode == 0, done.stderr
    restored = tifffile.imread(tmp_path / "out.tif")
    error = [np.sqrt(np.mean((image - truth) ** 2)) for image in (restored, noisy)]
    assert error[0] < error_left * error[1], error
    noise = json.loads(done.stdout)["details"]["noise"]["0"]["noise"]
    assert gains[0] < noise["gain"] < gains[1], noise  # 2; taken for noise 6 to 50, 200 to 600
    assert noise["belief"] < 1
    assert "fewer than 3 photons" not in done.stderr


@pytest.mark.slow
def test_thin_structures_under_shared_noise_end_above_a_gaussian_filter(tmp_path):
    photons = 10 * np.clip(2 * ndimage.gaussian_filter(filaments(0, count=30), 1.2) + 0.1, 0, 1.5)
    truth = 2 * photons + 100
    noise = np.random.default_rng(0).poisson(photons) - photons
    noisy = truth + ndimage.gaussian_filter(2 * noise, 1.0)
    tifffile.imwrite(tmp_path / "in.tif", noisy.astype(np.float32))
    done = run("restore", tmp_path / "in.tif", "-o", tmp_path / "out.tif")
    assert done.returncode == 0, done.stderr
    images = tifffile.imread(tmp_path / "out.tif"), ndimage.gaussian_filter(noisy, 1.0)
    error = [np.sqrt(np.mean((image - truth) ** 2)) for image in images]
    assert error[0] < 0.9 * error[1], error
