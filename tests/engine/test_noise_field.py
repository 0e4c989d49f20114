"""The noise field depends on where a number is used, and on nothing else."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from restorectl.engine.noise_field import NoiseField, Site

PLANE = (0, 1, 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(-200, 300), st.integers(-200, 300), st.integers(1, 150), st.integers(1, 150))
def test_a_window_is_a_piece_of_the_one_field(top, left, height, width):
    whole = NoiseField(3).draw([Site(PLANE, -256, -256)], (768, 768), 5)[0, 0]
    part = NoiseField(3).draw([Site(PLANE, top, left)], (height, width), 5)[0, 0]
    rows, cols = slice(top + 256, top + 256 + height), slice(left + 256, left + 256 + width)
    assert torch.equal(part, whole[rows, cols])


def test_every_part_of_the_key_changes_the_numbers():
    site = Site(PLANE, 0, 0)
    base = NoiseField(0, 0).draw([site], (32, 32), 0)
    others = [
        NoiseField(1, 0).draw([site], (32, 32), 0),
        NoiseField(0, 1).draw([site], (32, 32), 0),
        NoiseField(0, 0).draw([site], (32, 32), 1),
        NoiseField(0, 0).draw([Site((1, 1, 2), 0, 0)], (32, 32), 0),
        NoiseField(0, 0).draw([Site((0, 1, 3), 0, 0)], (32, 32), 0),
        NoiseField(0, 0).draw([Site(PLANE, 128, 0)], (32, 32), 0),
    ]
    for other in others:
        assert abs(torch.corrcoef(torch.stack([base.flatten(), other.flatten()]))[0, 1]) < 0.12


def test_numbers_are_standard_normal_and_white():
    field = NoiseField(7).draw([Site(PLANE, 0, 0)], (512, 512), 0)[0, 0].double()
    assert abs(field.mean()) < 0.01
    assert abs(field.std() - 1) < 0.01
    for shifted in (field[1:, :], field[:, 1:]):
        same = field[: shifted.shape[0], : shifted.shape[1]]
        assert abs((same * shifted).mean()) < 0.01
