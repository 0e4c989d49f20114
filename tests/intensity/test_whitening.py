"""The map between input units and the network's [-1, 1]."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from restorectl.errors import InputError, UsageError
from restorectl.intensity import whitening


def image(size: int = 256, peak: float = 40.0, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    photons = peak * (0.1 + np.exp(-((y - 0.5) ** 2 + (x - 0.4) ** 2) / 0.05))
    return (3.0 * rng.poisson(photons) + 50).astype(np.float32)


def test_range_and_sigma() -> None:
    plane = image()
    model = whitening.fit([plane])
    x = model.forward(plane)
    assert x.dtype == np.float32
    assert x.shape == plane.shape
    assert np.percentile(x, 0.5) == pytest.approx(-1, abs=0.02)
    assert np.percentile(x, 99.9) == pytest.approx(1, abs=0.02)
    residual = x - model.forward(image(seed=1))
    assert model.sigma == pytest.approx(residual.std() / np.sqrt(2), rel=0.12)


def test_inverse_of_a_denoised_image_keeps_the_mean() -> None:
    plane = image(peak=3.0)
    model = whitening.fit([plane])
    z = np.stack([model.forward(image(peak=3.0, seed=s)) for s in range(60)]).mean(0)
    truth = np.stack([image(peak=3.0, seed=s) for s in range(60)]).mean(0)
    restored = model.inverse(z)
    assert restored.dtype == np.float32
    assert (restored.mean() - 50) / (truth.mean() - 50) == pytest.approx(1, abs=0.01)
    bright = truth > np.percentile(truth, 90)
    assert (restored[bright].mean() - 50) / (truth[bright].mean() - 50) == pytest.approx(
        1, abs=0.01
    )


def test_depth_does_not_matter() -> None:
    eight = np.clip(image(), 0, 255).astype(np.uint8)
    sixteen = eight.astype(np.uint16) * 257
    one, other = whitening.fit([eight]), whitening.fit([sixteen])
    assert one.sigma == pytest.approx(other.sigma, rel=0.02)
    np.testing.assert_allclose(one.forward(eight), other.forward(sixteen), atol=0.02)


def test_none_is_linear_and_silent() -> None:
    plane = image()
    model = whitening.fit([plane], noise="none")
    assert model.sigma == 0
    np.testing.assert_allclose(model.inverse(model.forward(plane)), plane, rtol=1e-5)


def test_gaussian_is_linear() -> None:
    plane = image()
    model = whitening.fit([plane], noise="gaussian")
    assert model.noise.gain == 0
    assert model.sigma > 0
    np.testing.assert_allclose(model.inverse(model.forward(plane)), plane, rtol=1e-4)


def test_description_is_json() -> None:
    for kind in ("auto", "gaussian", "none"):
        text = json.dumps(whitening.fit([image()], noise=kind).describe(), allow_nan=False)
        assert json.loads(text)["noise"]["kind"] in ("poisson-gaussian", "gaussian", "none")


def test_windows_of_unequal_size() -> None:
    plane = image()
    model = whitening.fit([plane[:128], plane[:, :64], plane[-32:]])
    assert model.sigma == pytest.approx(whitening.fit([plane]).sigma, rel=0.2)


def test_bad_input() -> None:
    with pytest.raises(InputError):
        whitening.fit([np.zeros((32, 32), dtype=np.uint8)])
    with pytest.raises(InputError):
        whitening.fit([np.full((32, 32), np.nan)], noise="none")
    with pytest.raises(UsageError):
        whitening.fit([image()], noise="loud")


def test_almost_constant_images_have_a_finite_range() -> None:
    plane = np.zeros((64, 64), dtype=np.uint8)
    plane[3, 4] = 9
    for kind in ("auto", "gaussian", "none"):
        model = whitening.fit([plane], noise=kind)
        assert model.high > model.low
        assert np.isfinite(model.inverse(model.forward(plane))).all()
