"""Statistics over samples against numpy and scipy, and what intervals made of them cover."""

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from restorectl.errors import InputError
from restorectl.restoration import intervals
from restorectl.restoration.intervals import LEVELS, Pixels


@given(st.integers(2, 20), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_mean_std_and_entropy_are_numpys(count, seed):
    samples = np.random.default_rng(seed).normal(100, 30, (count, 2, 5, 7)).astype(np.float32)
    low, high = np.float32([[[10.0]], [[20.0]]]), np.float32([[[200.0]], [[180.0]]])
    found = intervals.gather(iter(samples), low, high)
    assert found.count == count
    np.testing.assert_allclose(found.mean, samples.astype(float).mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.std, samples.astype(float).std(0), rtol=2e-5, atol=1e-5)
    eight = np.clip(np.rint((samples - low) * (255 / (high - low))), 0, 255).astype(int)
    for place in np.ndindex(found.entropy.shape):
        _, counts = np.unique(eight[(slice(None), *place)], return_counts=True)
        assert found.entropy[place] == pytest.approx(stats.entropy(counts), abs=1e-6)


def test_entropy_of_the_published_case_is_at_most_ln_15():
    values = np.arange(15, dtype=np.uint8)[:, None].repeat(3, 1)
    values[:, 1] = 7
    values[:, 2] = np.arange(15) // 5
    np.testing.assert_allclose(intervals.entropy(values), [2.70805, 0, np.log(3)], atol=1e-5)


@given(st.floats(0.5, 0.9999), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_prediction_factors_have_students_quantiles(p, degrees):
    n = degrees + 1
    wanted = stats.t.ppf(p, degrees) * np.sqrt((1 + 1 / n) * n / degrees)
    found = intervals.prediction_factor(n, 2 * p - 1)
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("count", [2, 8, 15, 50])
def test_a_prediction_interval_covers_one_more_draw(count):
    draws = np.random.default_rng(count).normal(5, 3, (count + 1, 200_000))
    half = intervals.prediction_factor(count, 0.9) * draws[:-1].std(0)
    inside = np.abs(draws[-1] - draws[:-1].mean(0)) <= half
    assert inside.mean() == pytest.approx(0.90, abs=0.003)


def image(name, factor, seed, n=4000):
    """Pixels whose error is `factor` times a power law of spread and signal."""
    random = np.random.default_rng(seed)
    predicted, signal = random.uniform(0.05, 0.8, n), random.uniform(0, 30, n)
    error = np.abs(random.normal(size=n)) * factor * predicted**0.6 * (1 + signal) ** -0.2
    return Pixels(name, error, predicted, signal, 0.1)


def test_a_calibration_covers_images_that_it_did_not_see():
    seen = [image(str(k), 1.5, k) for k in range(12)]
    made = intervals.fit(seen, "abc", {"source": "posterior"})
    assert made.guarantee
    assert made.expected == pytest.approx(0.6, abs=0.15)
    new = image("new", 1.5, 99)
    half = made.half_width(new.expected, new.signal, 0.0, 0.9)
    # Conformal risk control over 12 images asks for (sum of misses + 1) / 13 <= 0.1.
    assert 0.9 <= np.mean(new.error <= half) <= 0.99
    assert all(share >= 0.9 for share in made.coverage.values())


def test_few_images_give_no_guarantee_but_the_measured_coverage():
    made = intervals.fit([image(str(k), 1.0, k) for k in range(5)], "abc", {})
    assert not made.guarantee
    new = image("new", 1.0, 77)
    for level in LEVELS:
        half = made.half_width(new.expected, new.signal, 0.0, level)
        assert np.mean(new.error <= half) == pytest.approx(level, abs=0.03)
    factors = [made.factors[f"{level:g}"] for level in LEVELS]
    assert factors == sorted(factors)
    assert made.factors["0.8"] < made.factor(0.85) < made.factors["0.9"]


def test_what_was_removed_is_an_error_too():
    made = intervals.fit([image(str(k), 1.0, k) for k in range(3)], "abc", {})
    expected, signal = np.array([0.4]), np.array([10.0])
    alone, both = (made.half_width(expected, signal, r, 0.9)[0] for r in (0.0, 2.0))
    assert both == pytest.approx(np.hypot(alone, 2.0))
    assert intervals.unexplained(both, np.array([2.0])) == pytest.approx(alone)
    assert intervals.unexplained(np.array([1.0]), np.array([2.0])) == 0


def test_what_a_calibration_does_not_know_it_says():
    made = intervals.fit([image(str(k), 1.0, k) for k in range(3)], "abc", {})
    with pytest.raises(InputError, match=r"0\.5 to 0\.99"):
        made.factor(0.999)
    with pytest.raises(InputError, match="at least 2 are needed"):
        intervals.fit([image("a", 1.0, 0)], "abc", {})


def test_a_calibration_is_read_back_from_its_file(tmp_path):
    path = tmp_path / "here.yaml"
    made = intervals.fit([image(str(k), 1.0, k) for k in range(3)], "abc", {"steps": None})
    intervals.write_calibration(path, made)
    again = intervals.read_calibration(path)
    assert intervals.plain(again) == intervals.plain(made)
    assert again.weights_sha256 == "abc"
    for wrong in (
        {},
        [],
        {**intervals.plain(made), "x": 1},
        {**intervals.plain(made), "expected": "?"},
    ):
        path.write_text(yaml.safe_dump(wrong), "utf-8")
        with pytest.raises(InputError, match="here"):
            intervals.read_calibration(path)
