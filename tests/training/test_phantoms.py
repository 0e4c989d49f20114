"""Phantoms: clean, varied, a function of the generator."""

import numpy as np
import pytest
import torch

from restorectl.training import phantoms

GAMMA = (0.5, 0.5)


def draw(count=20, seed=0, kinds=None, side=32):
    return phantoms.draw(count, side, GAMMA, torch.Generator().manual_seed(seed), kinds)


def test_they_are_a_function_of_the_generator():
    first, again, other = draw(), draw(), draw(seed=1)
    assert first.shape == (20, 1, 32, 32)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", phantoms.KINDS)
def test_each_kind_is_in_range_and_has_structure(kind):
    made = draw(12, kinds=(kind,))
    assert torch.isfinite(made).all()
    assert made.min() >= -1 - 1e-5
    assert made.max() < 3
    assert (made.flatten(1).std(1) > 0.02).float().mean() > 0.5


def test_the_brightest_pixel_is_at_the_drawn_contrast():
    """(I + dark)^(1/2) runs from -1 for I = 0 to +1 for I = 1."""
    made = draw(100, kinds=(phantoms.membranes,))
    assert 0.3 < np.median(made.amax((1, 2, 3)) + 1) < 2.2


def test_spots_are_gaussians_at_their_place():
    at = torch.tensor([[[4.25, 9.5]]])
    image = phantoms._spots(at, torch.full((1, 1), 2.0), torch.full((1, 1), 1.5), 16)[0]
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    expected = 2 * (-((y - 4.25) ** 2 + (x - 9.5) ** 2) / (2 * 1.5**2)).exp()
    assert torch.allclose(image, expected, atol=1e-6)


def test_fields_have_unit_variance():
    field = phantoms._field(8, 48, torch.Generator().manual_seed(3))
    assert field.mean((1, 2)) == pytest.approx(np.zeros(8), abs=1e-5)
    assert field.square().mean((1, 2)) == pytest.approx(np.ones(8), abs=1e-5)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_any_number_can_be_drawn(count):
    assert draw(count).shape == (count, 1, 32, 32)
