"""The noise field depends on where a number is used, and on nothing else."""

import numpy as np
import pytest
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


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 150), st.integers(1, 150))
def test_a_window_of_uniform_numbers_is_a_piece_of_the_one_field(top, left, height, width):
    whole = NoiseField(3).uniform(Site(PLANE, 0, 0), (512, 512))
    part = NoiseField(3).uniform(Site(PLANE, top, left), (height, width))
    assert np.array_equal(part, whole[top : top + height, left : left + width])


def test_uniform_numbers_are_uniform_at_every_pixel_and_even_over_every_square():
    site = Site(PLANE, 0, 0)
    many = np.stack([NoiseField(seed).uniform(site, (128, 128)) for seed in range(64)])
    assert many.min() >= 0
    assert many.max() < 1
    assert many.mean() == pytest.approx(0.5, abs=1e-4)
    assert (many**2).mean() == pytest.approx(1 / 3, abs=1e-4)
    at_a_pixel = many.mean(0)  # 64 seeds: no pixel is darker than others
    assert at_a_pixel.std() == pytest.approx(np.sqrt(1 / 12 / 64), rel=0.05)
    for side in (2, 4, 16, 128):
        cut = many.reshape(64, 128 // side, side, 128 // side, side).transpose(0, 1, 3, 2, 4)
        ranks = np.sort(np.floor(cut.reshape(-1, side**2) * side**2), axis=1)
        assert np.array_equal(ranks, np.broadcast_to(np.arange(side**2), ranks.shape))


def test_uniform_numbers_depend_on_the_plane_the_seed_and_the_place_alone():
    base = NoiseField(0, 0).uniform(Site(PLANE, 0, 0), (128, 128))
    others = [
        NoiseField(1).uniform(Site(PLANE, 0, 0), (128, 128)),
        NoiseField(0).uniform(Site((1, 1, 2), 0, 0), (128, 128)),
        NoiseField(0).uniform(Site((0, 2, 2), 0, 0), (128, 128)),
        NoiseField(0).uniform(Site(PLANE, 0, 128), (128, 128)),
    ]
    for other in others:
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.05
