"""Errors that are measured on noisy images alone."""

import numpy as np
import pytest
import tifffile
import yaml

from restorectl.images.image import open_image
from restorectl.restoration import stand_in
from restorectl.restoration.stand_in import Part
from tests.command import run
from tests.phantom import scene

PLANE = (0, 0, 0)


@pytest.fixture
def exposures(tmp_path):
    """Parts of three exposures with white noise of 2 grey levels, and what was restored."""
    random, (y, x) = np.random.default_rng(0), np.mgrid[:200, :180]
    clean = (50 + 20 * np.sin(x / 9) * np.cos(y / 11)).astype(np.float32)
    parts = []
    for k in range(3):
        noisy = clean + random.normal(0, 2, clean.shape).astype(np.float32)
        tifffile.imwrite(tmp_path / f"{k}.tif", (1 + 0.1 * k) * noisy + 5 * k)
        parts.append(Part(open_image(tmp_path / f"{k}.tif"), slice(10, 138), slice(20, 148)))
    mean = clean[10:138, 20:148] + random.normal(0, 0.8, (128, 128))
    noise = np.full(mean.shape, 2.0)
    maps = {PLANE: (mean, mean, noise, noise, noise)}
    yield parts, maps
    for part in parts:
        part.source.close()


def test_a_part_is_a_rectangle_whose_planes_can_be_replaced(exposures):
    (part, *_), maps = exposures
    whole = part.source.read(PLANE)
    np.testing.assert_array_equal(part.read(PLANE, slice(3, 9)), whole[13:19, 20:148])
    part.replaced[PLANE] = maps[PLANE][0]
    np.testing.assert_array_equal(part.read(PLANE), maps[PLANE][0])


@pytest.mark.parametrize("count", [1, 2])
def test_other_exposures_tell_the_error_whatever_their_light(exposures, count):
    (part, *others), maps = exposures
    known = np.ones(part.read(PLANE).shape, bool)
    risk = stand_in._repeated(part, others[:count], PLANE, maps, known)
    assert risk == pytest.approx((0.8 / 2) ** 2, abs=0.1 if count == 1 else 0.05)


def test_noise_averages_out_of_what_was_removed_and_structure_stays():
    random = np.random.default_rng(1)
    noise, known = random.standard_normal((128, 128)), np.ones((128, 128), bool)
    white = 1 / (4 * np.pi * stand_in.WIDE**2)
    assert stand_in._structure(noise, known) == pytest.approx(white, rel=0.2)
    slow = np.sin(np.arange(128) / 10)[:, None]
    assert stand_in._structure(noise + slow, known) == pytest.approx(white + 0.5, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("truth", ["self", "repeats"])
def test_the_command_calibrates_without_a_truth(truth, tmp_path):
    clean = 20 + 200 * scene("mixed", (64, 64), 3)
    for k in range(2):
        (tmp_path / "in").mkdir(exist_ok=True)
        noisy = np.random.default_rng(k).poisson(clean).astype(np.uint16)
        tifffile.imwrite(tmp_path / f"in/{k}.tif", noisy)
    options = ("--precision", "fp32", "--samples", 3, "--steps", 2)
    bars = tmp_path / "mine.yaml"
    made = run("uncertainty", tmp_path / "in", "--calibrate", truth, "-o", bars, *options)
    assert made.returncode == 0, made.stderr
    found = yaml.safe_load(bars.read_text())
    assert (found["truth"], found["images"]) == (truth, 2)
    out = tmp_path / "out"
    done = run(*("uncertainty", tmp_path / "in/0.tif", "-o", out, *options, "--calibration", bars))
    assert done.returncode == 0, done.stderr
    low, high = (tifffile.imread(out / f"0_{name}.tif") for name in ("lower", "upper"))
    assert np.mean((clean >= low) & (clean <= high)) == pytest.approx(0.9, abs=0.12)
