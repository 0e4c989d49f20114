"""Agreement against worked examples, an independent formula and an independent library."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restorectl.evaluation.study import agreement_between, cohen_kappa, percent, wilson

LABELS = st.lists(st.tuples(st.sampled_from("ABn"), st.sampled_from("ABn")), min_size=1)


def table(first, second):
    names = sorted({*first, *second})
    counts = np.zeros((len(names), len(names)))
    for a, b in zip(first, second, strict=True):
        counts[names.index(a), names.index(b)] += 1
    return counts


def test_the_textbook_example():
    """50 proposals: both yes 20, both no 15, only the first 5, only the second 10."""
    first = "y" * 25 + "n" * 25
    second = "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15
    assert percent(first, second) == pytest.approx(0.7)
    assert cohen_kappa(first, second) == pytest.approx(0.4)


def test_ten_images_by_hand():
    first, second = "AABBAABBAB", "AABBBABBAA"
    # observed 8/10; A is 5 and 5 of 10: by chance 0.25 + 0.25
    assert percent(first, second) == 0.8
    assert cohen_kappa(first, second) == pytest.approx(0.6)


@given(LABELS)
def test_kappa_equals_its_definition_from_the_table(labels):
    first, second = zip(*labels, strict=True)
    counts = table(first, second)
    share = counts / counts.sum()
    chance = float(share.sum(0) @ share.sum(1))
    found = cohen_kappa(first, second)
    assert found == cohen_kappa(second, first)
    assert percent(first, second) == pytest.approx(np.trace(share))
    if len({*first, *second}) == 1:
        assert found is None
    else:
        assert found == pytest.approx((np.trace(share) - chance) / (1 - chance))
        assert -1 - 1e-9 <= found <= 1


def test_what_is_no_pair_of_ratings_is_refused():
    for labels in (([], []), (["A"], ["A", "B"])):
        with pytest.raises(ValueError, match="must share tasks"):
            cohen_kappa(*labels)
    with pytest.raises(ValueError, match="0 of 0"):
        wilson(0, 0)


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (10, 10), (3, 7), (81, 263), (1, 1)])
def test_wilsons_interval_solves_his_equation(hits, trials):
    """|share - p| = z sqrt(p (1 - p) / n) at both ends.

    And the published 81 of 263: 0.2553 to 0.3662 (Newcombe 1998, Table I).
    """
    for p in wilson(hits, trials):
        away = 1.959963984540054 * (p * (1 - p) / trials) ** 0.5
        assert abs(hits / trials - p) == pytest.approx(away, abs=1e-12)
    if trials == 263:
        assert wilson(hits, trials) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_three_raters_are_compared_pair_by_pair_over_what_they_share():
    ratings = {
        "c": {"1": "A", "2": "B"},
        "a": {"1": "A", "2": "A", "3": "B", "4": "B"},
        "b": {"1": "A", "2": "B", "3": "B", "9": "A"},
    }
    found = agreement_between(ratings)
    assert [pair["raters"] for pair in found["pairs"]] == [
        list(pair) for pair in combinations("abc", 2)
    ]
    assert [pair["tasks"] for pair in found["pairs"]] == [3, 2, 2]
    assert found["percent"] == pytest.approx((2 + 1 + 2) / 7)
    kappas = [pair["kappa"] for pair in found["pairs"]]
    assert found["kappa"] == pytest.approx(np.mean(kappas))
    assert agreement_between({"a": {"1": "A"}}) == {"pairs": [], "percent": None, "kappa": None}
