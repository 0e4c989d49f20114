"""The generalised Anscombe transform against explicit sums and random draws."""

import math

import numpy as np
import pytest

from restorectl.intensity import anscombe

GAIN, OFFSET = 2.5, 100.0


def expected_transform(photons: float, read: float) -> float:
    """E[forward] by summing over counts and a fine grid of read noise, in plain Python."""
    n = np.linspace(-8, 8, 4001)
    weight = np.exp(-(n**2) / 2) / np.exp(-(n**2) / 2).sum()
    total = 0.0
    reach = 10 * math.sqrt(photons) + 20
    for k in range(max(0, int(photons - reach)), int(photons + reach)):
        p = math.exp(k * math.log(photons) - photons - math.lgamma(k + 1))
        values = GAIN * (k + read * n) + OFFSET
        z = (
            2
            / GAIN
            * np.sqrt(
                np.maximum(GAIN * (values - OFFSET) + 0.375 * GAIN**2 + (GAIN * read) ** 2, 0)
            )
        )
        total += p * float(z @ weight)
    return total


@pytest.mark.parametrize("read", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("photons", [0.1, 0.7, 3.0, 20.0, 190.0, 210.0, 1000.0])
def test_unbiased_inverse_returns_the_mean(photons: float, read: float) -> None:
    z = np.array([expected_transform(photons, read)])
    found = anscombe.inverse_unbiased(z, GAIN, OFFSET, GAIN * read)
    assert (found[0] - OFFSET) / GAIN == pytest.approx(photons, rel=0.01, abs=0.002)


def test_unbiased_inverse_of_random_draws() -> None:
    rng = np.random.default_rng(0)
    for photons in (0.5, 5.0, 50.0):
        s = GAIN * (rng.poisson(photons, 400_000) + 0.5 * rng.normal(size=400_000)) + OFFSET
        z = anscombe.forward(s, GAIN, OFFSET, 0.5 * GAIN).mean(dtype=np.float64)
        found = anscombe.inverse_unbiased(np.array([z]), GAIN, OFFSET, 0.5 * GAIN)[0]
        assert found == pytest.approx(GAIN * photons + OFFSET, abs=0.02 * photons * GAIN + 0.01)


def test_algebraic_inverse_undoes_forward() -> None:
    s = np.linspace(100, 60000, 999, dtype=np.float32).reshape(27, 37)
    for gain, read in [(2.5, 0.0), (0.1, 3.0), (20.0, 4.0), (0.0, 7.0)]:
        back = anscombe.inverse_algebraic(anscombe.forward(s, gain, 99.0, read), gain, 99.0, read)
        assert back.dtype == np.float32
        assert back.shape == s.shape
        np.testing.assert_allclose(back, s, rtol=3e-6)


def test_algebraic_inverse_is_biased_dark() -> None:
    z = np.array([expected_transform(3.0, 0.0)])
    dark = anscombe.inverse_algebraic(z, GAIN, OFFSET, 0.0)
    assert dark[0] < anscombe.inverse_unbiased(z, GAIN, OFFSET, 0.0)[0] - 0.1 * GAIN


@pytest.mark.parametrize("read", [0.0, 0.2, 2.0, 50.0])
def test_unbiased_inverse_increases_everywhere(read: float) -> None:
    start = float(anscombe.forward(np.zeros(1), 1.0, 0.0, read)[0])
    z = np.linspace(start - 3, start + 40, 3000)
    assert (np.diff(anscombe.inverse_unbiased(z, 1.0, 0.0, read)) > 0).all()


def test_gaussian_only() -> None:
    s = np.array([[-4.0, 0.0, 12.0]])
    z = anscombe.forward(s, 0.0, 2.0, 4.0)
    np.testing.assert_allclose(z, [[-1.5, -0.5, 2.5]])
    np.testing.assert_allclose(anscombe.inverse_unbiased(z, 0.0, 2.0, 4.0), s)
    assert np.isfinite(anscombe.forward(s, 0.0, 0.0, 0.0)).all()


@pytest.mark.parametrize("read", [0.0, 1.0])
def test_variance_is_stabilised(read: float) -> None:
    rng = np.random.default_rng(1)
    for photons in (0.2, 1.0, 4.0, 100.0):
        s = rng.poisson(photons, 200_000) + read * rng.normal(size=200_000)
        told = float(anscombe.stabilised_variance(np.array([photons]), read)[0])
        assert anscombe.forward(s, 1.0, 0.0, read).var() == pytest.approx(told, abs=0.04)
    assert told == pytest.approx(1.0, abs=0.01)


def test_values_below_the_pedestal_are_finite() -> None:
    z = anscombe.forward(np.array([-1e6, 0.0], dtype=np.float32), 3.0, 100.0, 1.0)
    assert (z == 0).all()
