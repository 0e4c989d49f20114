"""Simulated degradations: levels, means, correlation, blur and binning are what they say."""

import math

import numpy as np
import pytest
import torch

from restorectl.intensity import anscombe
from restorectl.training.degrade import counts, degrade, filtered
from restorectl.training.recipe import Degradation, Noise

WHITE = Noise(correlated=0.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def waves(count=32, side=64):
    """Smooth images in [-1, 1]."""
    y, x = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    k = torch.arange(1, count + 1).reshape(-1, 1, 1) / 8
    return (torch.sin(2 * math.pi * k * x) * torch.cos(2 * math.pi * k * y / 2))[:, None]


def both(x0, noise=WHITE, seed=0, **options):
    return degrade(x0, Degradation(**options), noise, generator(seed))


def test_equal_generators_give_equal_images():
    first, again, other = (both(waves(), seed=s) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])
    assert {t.dtype for t in first} == {torch.float32}
    assert {t.shape for t in first} == {waves().shape}


def test_levels_are_log_uniform_and_shrink_the_image():
    x0 = torch.ones(2000, 1, 16, 16)
    target, y = both(x0, level=(0.02, 0.6), poisson=0.0)
    level = (y - target).flatten(1).std(1)
    shrink = (target[:, 0, 0, 0] + 1) / 2  # (1 + 0.15 s) / (1 + s) at +1
    drawn = (1 - shrink) / (shrink - 0.15)
    assert level == pytest.approx(drawn / (1 + drawn), rel=0.25)
    assert drawn.log().median().item() == pytest.approx(math.log(0.02 * 0.6) / 2, abs=0.1)
    assert drawn.min() > 0.0199
    assert drawn.max() < 0.601


@pytest.mark.parametrize("read", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("level", [0.02, 0.2, 0.6])
def test_counted_photons_keep_the_mean_and_have_the_level(level, read):
    x0 = torch.linspace(-1, 1, 16)[None, None, :, None].expand(64, 1, 16, 256)
    y = counts(x0, torch.full((64, 1, 1, 1), level), (read,), generator())
    error = y - x0
    assert error.mean((0, 1, 3)).numpy() == pytest.approx(0, abs=0.03 * level)
    spread = error.std((0, 1, 3))
    assert spread[-1].item() == pytest.approx(level, rel=0.12 if level > 0.3 else 0.05)
    assert spread[0] < 1.1 * level  # fewer photons: less noise, never more


def test_counted_photons_are_those_of_a_camera():
    """Against numpy: Poisson numbers of the exact unbiased inverse, stabilised."""
    level = 0.5
    x0 = torch.full((200, 1, 32, 32), -1.0)
    x0[:, :, 16:] = 0.2
    y = counts(x0, torch.full((200, 1, 1, 1), level), (0.0,), generator())
    dark = 2 * math.sqrt(0.375)
    for image in y[:5, 0].numpy():
        z = (image - image.min()) / level + dark  # some pixel counted nothing
        photons = anscombe.inverse_algebraic(z, 1.0, 0.0, 0.0)
        assert np.abs(photons - photons.round()).max() < 1e-3
        assert photons[16:].mean() / photons[16:].var() == pytest.approx(1, rel=0.25)


def test_correlation_comes_from_the_noise_section():
    def neighbours(noise):
        target, y = both(torch.zeros(64, 1, 64, 64), noise, level=(0.2, 0.2), poisson=0.0)
        error = y - target
        return float((error[..., 1:] * error[..., :-1]).mean() / error.square().mean())

    assert abs(neighbours(WHITE)) < 0.02
    assert neighbours(Noise(correlated=1.0, mixed=0.0)) > 0.2


def test_blur_and_binning_take_detail_and_leave_the_target():
    fine = (torch.rand(16, 1, 64, 64, generator=generator(5)) * 2 - 1).round()
    low = {"level": (1e-4, 1e-4), "poisson": 0.0}
    for options in ({"blur": 1.0, "blur_sigma": (1.5, 1.5)}, {"binning": 1.0, "factors": (4,)}):
        target, y = both(fine, **low, **options)
        assert torch.allclose(target, fine, atol=1e-3)
        assert y.std() < 0.5 * fine.std()
        smooth, kept = both(waves(4), **low, **options)
        assert (smooth - kept).abs().mean() < 0.03
    target, y = both(torch.zeros(64, 1, 66, 63), level=(0.2, 0.2), poisson=0.0, binning=1.0)
    assert y.shape == target.shape
    coarse = torch.nn.functional.avg_pool2d(y - target, 2)
    assert (y - target).std() > 0.6 * 0.2 / 1.2  # of the coarse pixels, before interpolation
    assert coarse.std() > 0.5 * 0.2 / 1.2


def test_only_a_share_of_the_inputs_is_filtered():
    noise = torch.randn(400, 1, 32, 32, generator=generator(2))
    y = filtered(noise, Degradation(filter=0.25, filter_sigma=(1.0, 1.0)), generator())
    same = (y == noise).all(1).all(1).all(1)
    assert same.float().mean().item() == pytest.approx(0.75, abs=0.08)
    expected = 1 / (2 * math.sqrt(math.pi))  # what a Gaussian of 1 px leaves of white noise
    assert y[~same].std().item() == pytest.approx(expected, rel=0.05)
    assert filtered(noise, Degradation(), generator()) is noise


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_batch_may_be_all_of_one_kind(share):
    target, y = both(waves(2), level=(0.2, 0.2), poisson=share)
    assert torch.isfinite(y).all()
    assert (y - target).std() > 0.05
