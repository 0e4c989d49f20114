"""What is decided about neighbours: which there are, and how much noise they have in common."""

import numpy as np
import pytest

from restorectl.restoration.context import Place, _shared, around
from restorectl.restoration.fusion import Seen

SHAPE = (4, 2, 3, 8, 8)


def test_neighbours_lie_along_one_axis_inside_the_image():
    assert around((1, 1, 0), SHAPE, "z", 2) == [(1, 1, 1), (1, 1, 2)]
    assert around((1, 1, 0), SHAPE, "t", 2) == [(0, 1, 0), (2, 1, 0), (3, 1, 0)]
    assert around((0, 0, 2), SHAPE, "t", 1) == [(1, 0, 2)]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_a_cameras_pattern_is_noticed(share):
    random, empty = np.random.default_rng(0), np.zeros((128, 128), np.float32)
    pattern = np.sqrt(share) * random.standard_normal(empty.shape)
    planes = [
        Seen(pattern + np.sqrt(1 - share) * random.standard_normal(empty.shape), empty)
        for _ in range(3)
    ]
    others = {"t": [(-1, planes[1]), (1, planes[2])]}
    place = Place(planes[0], planes[0], empty, empty, 1.0, others)
    assert _shared([place], "t") == pytest.approx(share, abs=0.03)
