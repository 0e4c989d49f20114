"""Matched objects against a search over all pairs."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from restorectl.evaluation.downstream import ObjectMatch, areas, match_objects, without_small

LABELS = hnp.arrays(np.int64, (4, 5), elements=st.integers(0, 4))


def searched(labels, target):
    found = []
    for a in set(np.unique(labels)) - {0}:
        for b in set(np.unique(target)) - {0}:
            one, two = labels == a, target == b
            iou = (one & two).sum() / (one | two).sum()
            if iou > 0.5:
                found.append(iou)
    return found


@given(LABELS, LABELS)
def test_matches_are_those_of_a_search(labels, target):
    found, wanted = match_objects(labels, target), searched(labels, target)
    assert found.matched == len(wanted)
    assert np.isclose(found.iou, sum(wanted))
    assert found.objects == len(areas(labels))
    assert found.matched <= min(found.objects, found.targets)
    turned = match_objects(target, labels)
    assert (turned.precision, turned.recall) == (found.recall, found.precision)


def test_equal_images_match_whatever_the_numbers():
    labels = np.array([[1, 1, 0], [0, 7, 7]])
    found = match_objects(labels, np.array([[9, 9, 0], [0, 2, 2]]))
    assert (found.matched, found.f1, found.mean_iou) == (2, 1, 1)


def test_nothing_is_undefined_and_sums_add_up():
    empty = match_objects(np.zeros((3, 3), int), np.zeros((3, 3), int))
    assert (empty.precision, empty.recall, empty.f1, empty.mean_iou) == (None,) * 4
    assert empty + ObjectMatch(3, 2, 1, 0.75) == ObjectMatch(3, 2, 1, 0.75)


def test_small_objects_go():
    labels = np.array([[1, 1, 1, 0, 2], [0, 0, 0, 0, 2]])
    assert areas(labels).tolist() == [3, 2]
    np.testing.assert_array_equal(without_small(labels, 3) > 0, labels == 1)
    assert not without_small(np.zeros((2, 2), int), 1).any()
