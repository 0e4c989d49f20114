"""The map of pixels whose error bars are not to be trusted."""

import json

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from restorectl.restoration import trust
from tests.command import run
from tests.phantom import scene


def test_white_residuals_hold_no_structure_and_smooth_ones_do():
    white = np.random.default_rng(0).standard_normal((96, 96))
    measured = np.ones(white.shape, bool)
    correlation, energy = trust.residual_statistics(white, measured)
    assert np.abs(correlation).max() < trust.CORRELATED
    assert trust.ENERGY[0] < energy.min() < energy.max() < trust.ENERGY[1]
    smooth = ndimage.gaussian_filter(white, 1.0)
    smooth[:, :40] = white[:, :40]
    correlation, _ = trust.residual_statistics(smooth / smooth.std(), measured)
    assert (correlation[:, 72:] > 0.5).all()
    assert (correlation[:, :16] < trust.CORRELATED).all()


def test_pixels_that_are_not_measured_have_no_say():
    white = np.random.default_rng(1).standard_normal((64, 64))
    measured = np.ones(white.shape, bool)
    measured[20:40, 20:40] = False
    broken = np.where(measured, white, 50.0)
    found = trust.residual_statistics(np.where(measured, broken, 0), measured)
    assert np.abs(found[0][measured]).max() < trust.CORRELATED
    assert found[1][measured].max() < trust.ENERGY[1]


def test_shares_count_each_reason_at_each_pixel():
    codes = np.zeros((10, 10), np.uint8)
    codes[0] = trust.INVALID_NEAR
    codes[0, :5] |= trust.FEW_PHOTONS
    found = trust.shares(np.bincount(codes.ravel(), minlength=256))
    assert found == {"any": 0.1, "invalid pixels near": 0.1, "few photons": 0.05}
    assert trust.reasons_held(codes).sum() == 15
    assert trust.in_words(codes) == (
        "not to be trusted: 10% (invalid pixels near 10%, few photons 5%)"
    )


@pytest.mark.slow
def test_the_map_knows_what_is_wrong_where(tmp_path):
    """Left third dark, a masked border on the right, two channels of which one is good."""
    light = 20 + 300 * scene("mixed", (96, 128), 3)
    light[:, :40] = 0.5
    image = np.random.default_rng(2).poisson(light).astype(np.uint16)
    image[:, 112:] = 0
    tifffile.imwrite(tmp_path / "a.tif", image)
    options = ("--precision", "fp32", "--samples", 2, "--steps", 2, "--json")
    done = run("uncertainty", tmp_path / "a.tif", "-o", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    codes = tifffile.imread(tmp_path / "out/a_trust.tif")
    assert (codes[:, 112:] == trust.NOT_MEASURED).all()
    assert (codes[:, 112 - trust.NEAR : 112] & trust.INVALID_NEAR > 0).all()
    assert (codes[:, : 112 - trust.NEAR] & trust.INVALID_NEAR == 0).all()
    assert np.mean(codes[:, :36] & trust.FEW_PHOTONS > 0) > 0.9
    assert np.mean(codes[:, 44:] & trust.FEW_PHOTONS > 0) < 0.05
    told = json.loads(done.stdout)["details"]["not_trusted"]["0"]
    assert told["any"] == pytest.approx(np.mean(codes > 0))
    assert told["few photons"] == pytest.approx(np.mean(codes & trust.FEW_PHOTONS > 0))
