"""Frechet distance, median test and uncertainty metrics against scipy and closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats

from restorectl.evaluation.comparison import median_test, ranking, summary
from restorectl.evaluation.frechet import frechet, nothing
from restorectl.evaluation.metrics import uncertainty
from restorectl.evaluation.metrics.metric import UncertaintySet, Undefined


def moments(features, parts=1):
    found = nothing(features.shape[1])
    for part in np.array_split(features, parts):
        found = found.joined(part)
    return found


def features(seed, count=200, dimensions=24):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dimensions)) @ rng.normal(size=(dimensions,) * 2) + rng.normal()


@pytest.mark.parametrize("seed", range(4))
def test_frechet_equals_scipy(seed):
    a, b = features(seed), features(seed + 10) * 0.7
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(first @ second).real
    apart = np.sum((a.mean(0) - b.mean(0)) ** 2)
    expected = apart + np.trace(first + second - 2 * root)
    assert frechet(moments(a), moments(b)) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_frechet_of_gaussians_in_one_dimension():
    """(m1 - m2)² + (s1 - s2)²."""
    a, b = features(0, dimensions=1), 2 * features(1, dimensions=1) + 5
    expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet(moments(a), moments(b)) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_a_set_and_itself_is_0():
    few = features(2, count=5)  # covariances without full rank
    assert frechet(moments(few), moments(few)) == pytest.approx(0, abs=1e-9)


@given(parts=st.integers(1, 60))
@settings(max_examples=15, deadline=None)
def test_moments_do_not_depend_on_batches(parts):
    whole = features(3)
    found = moments(whole, parts)
    assert found.count == len(whole)
    np.testing.assert_allclose(found.mean, whole.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(whole, rowvar=False), rtol=1e-9, atol=1e-9)


def test_one_image_has_no_distribution():
    with pytest.raises(Undefined, match="at least 2"):
        frechet(moments(features(0, count=1)), moments(features(1)))


@given(
    st.lists(st.integers(0, 12), min_size=2, max_size=30),
    st.lists(st.integers(0, 12), min_size=2, max_size=30),
)
@settings(deadline=None)
def test_median_test_counts_what_is_above_the_common_median(a, b):
    above = np.array([np.sum(np.array(sample) > np.median([*a, *b])) for sample in (a, b)])
    if above.any():
        expected = stats.chi2_contingency([above, [len(a), len(b)] - above]).pvalue
        assert median_test(a, b) == pytest.approx(expected, rel=1e-9)
    else:
        assert median_test(a, b) == 1


def test_summary_and_ranking():
    assert summary([3.0, 1.0, float("inf"), 2.0]).median == 2.5
    medians = {"a": 2.0, "b": 3.0, "c": 1.0}
    assert ranking(medians, "higher") == ["b", "a", "c"]
    assert ranking(medians, "lower") == ["c", "a", "b"]
    assert ranking(medians, "") == []


def gaussian(interval=0.9, factor=1.0, seed=0):
    """Targets drawn from the very distribution that the set claims (times `factor`)."""
    rng = np.random.default_rng(seed)
    shape = (120, 150)
    mean = rng.uniform(50, 200, shape)
    std = rng.uniform(1, 9, shape)
    target = mean + factor * std * rng.normal(size=shape)
    reach = stats.norm.ppf(0.5 + interval / 2) * std
    return UncertaintySet(mean, std, mean - reach, mean + reach, target, interval)


@pytest.mark.parametrize("interval", [0.5, 0.9, 0.95])
def test_coverage_of_true_intervals_is_nominal(interval):
    assert uncertainty.coverage(gaussian(interval)) == pytest.approx(interval, abs=0.01)
    assert uncertainty.coverage(gaussian(interval, factor=2)) < interval - 0.1


def test_interval_score_is_smallest_for_the_true_interval():
    true = gaussian()
    scores = []
    for factor in (0.5, 0.8, 1.0, 1.25, 2.0):
        low = true.mean + factor * (true.lower - true.mean)
        high = true.mean + factor * (true.upper - true.mean)
        scores.append(
            uncertainty.interval_score(
                UncertaintySet(true.mean, true.std, low, high, true.target, 0.9)
            )
        )
    assert scores.index(min(scores)) == 2
    assert uncertainty.width(true) == pytest.approx(2 * 1.6449 * true.std.mean(), rel=1e-4)


def test_rank_correlations():
    spread = gaussian()
    error = np.abs(spread.mean - spread.target).ravel()
    expected = stats.spearmanr(spread.std.ravel(), error).statistic
    assert uncertainty.spearman(spread) == pytest.approx(expected, rel=1e-9)
    # The partial correlation is that of the residuals of regressions on the held variable.
    held, *others = (stats.rankdata(v) for v in (spread.mean, spread.std, error))
    residuals = [v - np.polyval(np.polyfit(held, v, 1), held) for v in (w.ravel() for w in others)]
    expected = stats.pearsonr(*residuals).statistic
    assert uncertainty.partial_spearman(spread) == pytest.approx(expected, rel=1e-6)


def test_std_that_is_brightness_tells_nothing_beyond_it():
    rng = np.random.default_rng(4)
    mean = rng.uniform(10, 200, (200, 200))
    std = np.sqrt(mean) * np.exp(0.01 * rng.normal(size=mean.shape))
    target = mean + np.sqrt(mean) * rng.normal(size=mean.shape)
    spread = UncertaintySet(mean, std, mean, mean, target, 0.9)
    assert uncertainty.spearman(spread) > 0.2
    assert abs(uncertainty.partial_spearman(spread)) < 0.03


def test_sparsification():
    spread = gaussian(factor=0.3)
    error = np.abs(spread.mean - spread.target)
    perfect = UncertaintySet(spread.mean, error, spread.lower, spread.upper, spread.target, 0.9)
    assert uncertainty.ause(perfect) == pytest.approx(0, abs=1e-12)
    found, best = uncertainty.sparsification(spread)
    assert (found[0], best[0]) == (pytest.approx(1), pytest.approx(1))
    assert np.all(best <= found + 1e-12)
    kept = np.sort(error.ravel())[: error.size // 2]
    assert best[10] == pytest.approx(kept.mean() / error.mean(), rel=1e-9)
    shuffled = np.random.default_rng(0).permuted(spread.std, axis=None)
    useless = UncertaintySet(spread.mean, shuffled, spread.lower, spread.upper, spread.target, 0.9)
    assert uncertainty.ause(useless) > uncertainty.ause(spread) > 0


def test_what_has_no_value_says_why():
    spread = gaussian()
    flat = UncertaintySet(
        spread.mean, 0 * spread.std, spread.lower, spread.upper, spread.target, 0.9
    )
    with pytest.raises(Undefined, match="std is constant"):
        uncertainty.spearman(flat)
    equal = UncertaintySet(spread.mean, spread.std, spread.lower, spread.upper, spread.mean, 0.9)
    with pytest.raises(Undefined, match="equals the target"):
        uncertainty.ause(equal)
