"""Objectives: the contract of every row, closed forms of the losses, and the noise they make."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from restorectl import catalog
from restorectl.engine.card import Card
from restorectl.engine.denoiser import build, fused, mixed
from restorectl.engine.schedule import schedule
from restorectl.training.degrade import camera_noise, random_kernels
from restorectl.training.objectives import (
    Draw,
    baseline,
    calibrator,
    conditional,
    noise_level,
    observed,
    prior,
    rectangles,
    restoration,
)
from restorectl.training.recipe import Degradation, Levels, Noise, Recipe

UNET = {"channels": (8,), "blocks": 1, "embedding": 8}
NETS = {
    "prior": ("unet", UNET),
    "conditional": ("unet", {**UNET, "c_in": 2}),
    "conditional-baseline": ("unet", {**UNET, "c_in": 2}),
    "calibrator": ("calibrator", {"filters": 4, "channels": (8, 8), "hidden": 8}),
}
WHITE = Noise(correlated=0.0, region=0.0)


def draw(seed=0, levels=None, noise=WHITE, penalty="l2"):
    generator = torch.Generator().manual_seed(seed)
    recipe = Recipe("prior", "prior", loss=penalty, levels=levels or Levels(), noise=noise)
    return Draw(generator, recipe)


def images(count=8, side=64):
    return torch.rand((count, 1, side, side), generator=torch.Generator().manual_seed(1)) * 2 - 1


class Spy(nn.Module):
    """A denoiser that remembers what it was given and answers `answer(x, sigma)`."""

    def __init__(self, card, answer):
        super().__init__()
        self.card, self.answer, self.seen = card, answer, []

    @property
    def net(self):
        return self

    def forward(self, x, sigma=None, condition=None):
        self.seen.append((x, sigma, condition))
        return self.answer(x, sigma)


@pytest.mark.parametrize("name", NETS)
def test_contract(name):
    torch.manual_seed(0)
    network, config = NETS[name]
    model = build(Card("m", name, network, config, schedule="cosine"))
    levels = Levels(schedule="cosine", max_step=200)
    objective = catalog.OBJECTIVES[name].load()
    loss = objective(model, images(), draw(3, levels, Noise()))
    assert loss.shape == (8,)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss).all()
    assert (loss >= 0).all()
    loss.mean().backward()
    assert sum(p.grad.abs().sum() for p in model.parameters() if p.grad is not None) > 0
    again = objective(model, images(), draw(3, levels, Noise()))
    assert torch.equal(loss, again)
    assert not torch.equal(loss, objective(model, images(), draw(4, levels, Noise())))


def test_prior_with_edm_has_the_weight_of_karras():
    card = Card("m", "prior", "unet", sigma_data=0.5)
    x0 = images()
    model = Spy(card, lambda x, sigma: x0 + 0.1)
    loss = prior(model, x0, draw())
    sigma = model.seen[0][1]
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    assert torch.allclose(loss, weight * 0.01, rtol=1e-4)


def test_prior_with_eps_is_the_error_of_the_noise():
    """Algorithm 3: |eps - eps_theta(sqrt(abar) x0 + sqrt(1 - abar) eps)|^2."""
    card = Card("m", "prior", "unet", parametrisation="eps")
    x0 = images()
    guess = torch.randn(x0.shape, generator=torch.Generator().manual_seed(9))
    model = Spy(card, lambda x, sigma: x - sigma.reshape(-1, 1, 1, 1) * guess)
    loss = prior(model, x0, draw())
    x, sigma, _ = model.seen[0]
    eps = (x - x0) / sigma.reshape(-1, 1, 1, 1)
    assert torch.allclose(loss, (eps - guess).square().mean((1, 2, 3)), rtol=1e-3)


@pytest.mark.parametrize(("penalty", "expected"), [("l2", 4.0), ("l1", 2.0), ("huber", 1.5)])
def test_penalties(penalty, expected):
    x0 = images()
    model = Spy(Card("m", "prior", "unet", parametrisation="x0"), lambda x, sigma: x0 + 2)
    assert torch.allclose(prior(model, x0, draw(penalty=penalty)), torch.tensor(expected))


def test_levels_stay_within_their_cap():
    grid = schedule("rscd").sigmas()
    sigma, step = draw(levels=Levels(schedule="rscd", max_step=200)).sigma(20_000)
    assert (step.min(), step.max()) == (1, 200)
    assert step.mean() == pytest.approx(100.5, abs=1.5)
    assert sigma.max() == pytest.approx(grid[200])
    sigma, _ = draw(levels=Levels(mean=-1.6, std=1.2, min=0.01, max=2.0)).sigma(20_000)
    assert (sigma.min(), sigma.max()) == (pytest.approx(0.01), pytest.approx(2.0))
    assert sigma.log().median() == pytest.approx(-1.6, abs=0.05)


def test_the_baseline_gives_a_capped_condition_and_any_level():
    """Algorithm 4: t' <= T' for the condition, t <= T for the image."""
    x0 = torch.zeros(2000, 1, 8, 8)
    model = Spy(Card("m", "conditional", "unet", parametrisation="eps"), lambda x, sigma: x)
    baseline(model, x0, draw(levels=Levels(schedule="cosine", max_step=200)))
    _, sigma, condition = model.seen[0]
    table = schedule("cosine")
    spread = condition.flatten(1).std(1)
    highest = math.sqrt(1 - table.abar[200])
    assert spread.max() < highest * 1.4
    assert spread.mean() == pytest.approx(highest / 2, rel=0.1)
    assert sigma.max() > float(table.sigma(990))


def test_conditional_takes_levels_between_the_steps():
    """Paper 002: t uniform, then abar uniform between its neighbours; limited by the recipe."""
    law = Levels(schedule="cosine200", min=0.002, max=20.0)
    sigma = draw(levels=law).between(20_000)
    table = schedule("cosine200")
    assert (sigma.min() >= 0.002, sigma.max()) == (True, 20.0)
    steps = table.step(sigma.numpy())
    inside = (steps > 1) & (steps < 190)
    assert abs(steps[inside] - steps[inside].round()).mean() == pytest.approx(0.25, abs=0.01)
    counts, _ = np.histogram(steps, [0, 50, 100, 150, 200])
    assert counts == pytest.approx([5000] * 4, rel=0.05)
    free = draw(levels=Levels(mean=-1.0, std=0.0)).between(4)
    assert torch.allclose(free, torch.tensor(math.exp(-1)))


def test_conditional_shows_the_input_of_the_pair_and_aims_at_its_target():
    x0, worse = images(), images() + 0.5
    model = Spy(Card("m", "conditional", "unet", parametrisation="x0"), lambda x, sigma: x0 + 2)
    drawn = replace(draw(), partner=worse)
    assert torch.allclose(conditional(model, x0, drawn), torch.tensor(4.0))
    assert torch.equal(model.seen[0][2], worse)


def test_a_joined_condition_makes_the_unconditional_denoiser_the_conditional_one():
    """Against linear regression on both images: Gaussian pixels, white noise of the level."""
    drawn = torch.Generator().manual_seed(0)
    x0 = 0.5 * torch.randn(4, 1, 200, 200, generator=drawn)
    sigma = torch.tensor([0.05, 0.2, 1.0, 20.0])
    x = x0 + sigma.reshape(-1, 1, 1, 1) * torch.randn(x0.shape, generator=drawn)
    y = x0 + 0.2 * torch.randn(x0.shape, generator=drawn)
    told = torch.cat([y, torch.full_like(y, 0.2)], 1)
    both, level, bare = fused(x, told, sigma)
    assert torch.equal(bare, y)
    wiener = both * (0.25 / (0.25 + level.square())).reshape(-1, 1, 1, 1)
    for i in range(4):
        images = torch.stack([x[i].flatten(), y[i].flatten()], 1)
        best = images @ torch.linalg.lstsq(images, x0[i].flatten()[:, None]).solution
        assert torch.allclose(wiener[i].flatten(), best[:, 0], atol=0.01)
    assert torch.allclose(level, (1 / (1 / sigma.square() + 25)).sqrt())


def test_the_loss_of_a_joined_condition_is_that_of_the_network_s_output():
    """With zero columns for the condition itself, and at the level of the joined image."""
    x0 = images()
    y = x0 + 0.3 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))
    card = Card("m", "conditional", "unet", {**UNET, "c_in": 2}, fusion=True)
    torch.manual_seed(0)
    model = build(card)
    law = Levels(mean=0.0, std=0.0, max=3.0)
    loss = conditional(model, x0, replace(draw(levels=law), partner=y))
    # the network starts at zero: what is missing is (x0 - c_skip z) / c_out
    level = 1 / math.sqrt(1 + 1 / 0.3**2)
    z = x0 + level * torch.randn(x0.shape, generator=torch.Generator().manual_seed(6))
    skip, out = 0.25 / (0.25 + level**2), level * 0.5 / math.sqrt(0.25 + level**2)
    expected = ((x0 - skip * z) / out).square().mean((1, 2, 3))
    assert loss.mean().item() == pytest.approx(expected.mean().item(), rel=0.12)


@pytest.mark.parametrize("correlated", [0.0, 1.0])
def test_the_level_of_an_error_is_that_of_its_low_frequencies(correlated):
    noise = Noise(correlated=correlated, mixed=0.0)
    made = camera_noise((16, 1, 256, 256), noise, torch.Generator().manual_seed(2))
    ratio = noise_level(0.2 * made.noise) / (0.2 * made.low_frequency)
    assert ratio.min() > 0.7  # kernels that reach beyond a cell hide some of it
    assert ratio.max() < 1.15


def test_conditional_spoils_clean_images_where_there_are_no_pairs():
    card = Card("m", "conditional", "unet", parametrisation="x0", sigma_max=7.0)
    model = Spy(card, lambda x, sigma: torch.zeros_like(x))
    options = Degradation(level=(0.1, 0.1), poisson=0.0)
    drawn = replace(draw(), recipe=replace(draw().recipe, degradation=options))
    error = restoration(model, torch.ones(8, 1, 64, 64), drawn)
    target = (2 + 0.03) / 1.1 - 1  # what widens the percentiles shrinks the image
    assert torch.allclose(error, torch.tensor(target))
    x, sigma, condition = model.seen[0]
    assert torch.allclose(sigma, torch.full((8,), 7.0))
    assert x.std().item() == pytest.approx(7, rel=0.05)
    assert condition.std().item() == pytest.approx(0.1 / 1.1, rel=0.05)
    assert condition.mean().item() == pytest.approx(target, abs=0.01)


def test_noise_has_unit_variance_and_the_promised_low_frequency_level():
    """The oracle is the periodogram near frequency zero."""
    options = Noise(correlated=1.0, mixed=0.5)
    made = camera_noise((600, 1, 64, 64), options, torch.Generator().manual_seed(0))
    assert made.noise.std().item() == pytest.approx(1, abs=0.02)
    power = torch.fft.fft2(made.noise[:, 0]).abs().square() / 64**2
    low = torch.stack([power[:, 0, 1], power[:, 1, 0], power[:, 1, 1], power[:, 63, 1]]).mean(0)
    ratio = low / made.low_frequency.square()  # exponential, mean 1
    assert ratio.mean().item() == pytest.approx(1, abs=0.1)
    bright = made.low_frequency > made.low_frequency.median()
    assert ratio[bright].mean().item() == pytest.approx(1, abs=0.15)


def test_white_noise_agrees_in_both_targets():
    made = camera_noise((8, 2, 16, 16), WHITE, torch.Generator().manual_seed(0))
    assert torch.equal(made.low_frequency, torch.ones(8))


def test_kernels_have_unit_energy_and_reach_from_white_to_smooth():
    kernels = random_kernels(2000, (0.3, 1.2), torch.Generator().manual_seed(0))
    assert torch.allclose(kernels.square().sum((1, 2)), torch.ones(2000), atol=1e-5)
    gain = kernels.sum((1, 2))
    assert gain.min() >= 0.3
    assert gain.max() > 3
    assert torch.quantile(gain, 0.1) < 1.6


def test_a_region_has_a_second_lower_level():
    """Algorithm 2: the target is the higher level."""
    card = Card("m", "calibrator", "calibrator")
    model = Spy(card, lambda x, sigma: torch.zeros(len(x)))
    levels = Levels(mean=-1.0, std=0.0, min=0.001, max=3.0)
    noise = Noise(correlated=0.0, region=1.0)
    loss = calibrator(model, torch.zeros(64, 1, 64, 64), draw(0, levels, noise))
    target = math.exp(-1)
    assert torch.allclose(loss, torch.tensor(math.log(target) ** 2))
    x = model.seen[0][0]
    blocks = nn.functional.avg_pool2d(x.square(), 8).flatten(1).sqrt()
    assert blocks.max(1).values.median().item() == pytest.approx(target, rel=0.3)
    assert (blocks.min(1).values < 0.7 * target).float().mean() > 0.5
    inside = rectangles((200, 1, 64, 64), torch.Generator().manual_seed(0)).float().mean((1, 2, 3))
    assert inside.min() < 0.1
    assert inside.max() > 0.9


def test_the_paper_calibrator_sees_the_scaled_image_and_tells_the_step():
    card = Card("m", "calibrator", "calibrator", schedule="cosine")
    model = Spy(card, lambda x, sigma: torch.full((len(x),), 500.0))
    loss = calibrator(
        model, torch.zeros(256, 1, 64, 64), draw(0, Levels(schedule="cosine", max_step=500))
    )
    spread = model.seen[0][0].flatten(1).std(1)  # sqrt(1 - abar)
    steps = schedule("cosine").step((spread**-2 - 1).rsqrt().numpy())
    expected = ((500 - torch.from_numpy(steps)) / 1000).square().float()
    assert torch.allclose(loss, expected, atol=0.02)


def test_clipping_leaves_noise_only_above_the_point():
    model = Spy(Card("m", "calibrator", "calibrator"), lambda x, sigma: torch.zeros(len(x)))
    noise = Noise(correlated=0.0, region=0.0, clip=1.0)
    calibrator(model, torch.zeros(64, 1, 64, 64), draw(0, noise=noise))
    x = model.seen[0][0].flatten(1)
    at_floor = (x == x.min(1, keepdim=True).values).float().mean(1)
    assert at_floor.max() > 0.3
    assert at_floor.max() < 0.6


def test_white_noise_is_told_its_level_with_an_error():
    x0, sigma = torch.zeros(400, 1, 32, 32), torch.full((400,), 0.2)
    seen = observed(x0, sigma, draw(noise=replace(WHITE, jitter=0.05)))
    assert seen.share is None
    error = (seen.told[:, 0] / 0.2).log()
    assert float(error.mean()) == pytest.approx(0, abs=0.01)
    assert float(error.std()) == pytest.approx(0.05, rel=0.15)
    assert seen.x.std((1, 2, 3)).numpy() == pytest.approx(0.2, rel=0.12)
    exact = observed(x0, sigma, draw())
    assert torch.equal(exact.told, sigma[:, None])


def test_two_levels_are_where_the_share_says():
    sigma = torch.full((300,), 0.1)
    seen = observed(torch.zeros(300, 1, 64, 64), sigma, draw(noise=replace(WHITE, region=1.0)))
    assert seen.told.shape == (300, 2)
    assert ((seen.share >= 0) & (seen.share <= 1)).all()
    sharp = ((seen.share == 0) | (seen.share == 1)).all(3).all(2)[:, 0]
    assert 100 < int(sharp.sum()) < 200
    ratio = (seen.told[:, 1] / seen.told[:, 0]).log().abs()
    assert float(ratio[~sharp].max()) < 0.36
    assert float(ratio[sharp].max()) > 1
    unit = seen.x / mixed(seen.told, seen.share)
    assert unit.std((1, 2, 3)).numpy() == pytest.approx(1, abs=0.06)


def test_shares_of_the_noise_and_what_is_told():
    """10 of 40 samples are counted, 15 correlated, 15 white."""
    noise = Noise(correlated=0.5, mixed=0.0, region=0.5, counts=0.25, photons=(5.0, 5.0))
    x0 = images(1).expand(40, 1, 64, 64) * 0.5
    seen = observed(x0, torch.full((40,), 0.1), draw(noise=noise))
    error = seen.x - x0
    beside = (error[..., 1:] * error[..., :-1]).mean((1, 2, 3)) / error.square().mean((1, 2, 3))
    assert (beside[:10].abs() < 0.1).all()
    assert beside[10:25].mean() > 0.2
    assert (beside[25:].abs() < 0.1).all()
    assert (seen.told[25:, 0] == 0.1).all()
    assert not (seen.told[10:25, 0] == 0.1).any()
    light = ((x0[0] - x0[0].min() + 0.15) / seen.told[0, 0]).square() / 4  # photons
    assert float(light.mean()) == pytest.approx(5, rel=0.01)
    assert torch.equal(seen.told[:10, 0], seen.told[:10, 1])


def test_two_equal_levels_are_one_level():
    """The network answers the same, told one level or two with any share."""
    torch.manual_seed(0)
    config = {"channels": (8, 16), "blocks": 1, "embedding": 8}
    model = build(Card("made", "prior", "unet", config))
    model.net.gain.data.fill_(1.0)
    x, sigma = images(3, 32), torch.tensor([0.1, 0.3, 1.0])
    one = model(x, sigma)
    share = torch.rand(3, 1, 32, 32)
    assert torch.allclose(model(x, torch.stack([sigma, sigma], 1), share=share), one, atol=1e-5)
    both = torch.stack([sigma, 2 * sigma], 1)
    first, second = (model(x, both, share=torch.full_like(share, s)) for s in (0.0, 1.0))
    assert torch.allclose(first, one, atol=1e-5)
    assert torch.allclose(second, model(x, 2 * sigma), atol=1e-5)
    everywhere = model(x, mixed(both, torch.ones_like(share)))  # the ladder of inference
    assert torch.allclose(everywhere, second, atol=0.1)
