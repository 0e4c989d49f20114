"""Samplers against a world where everything is known: a Gaussian prior with its exact denoiser."""

import pytest
import torch

from restorectl import catalog
from restorectl.engine.samplers import Problem, ddim_rule, dpmpp_rule, sigma_schedule, walk

MEAN, STD = 0.7, 0.4


def ideal(x, sigma, condition=None):
    """E[x0 | x] for x0 ~ N(MEAN, STD^2): the denoiser that a perfect network would be."""
    s = sigma.reshape(-1, 1, 1, 1)
    return (STD**2 * x + s**2 * MEAN) / (STD**2 + s**2)


def flow(x, sigma):
    """Where the probability-flow ODE takes x from level sigma to 0, in closed form."""
    s = sigma.reshape(-1, 1, 1, 1)
    return MEAN + (x - MEAN) * STD / (STD**2 + s**2).sqrt()


def draw(seed, shape):
    def numbers(k, tiles):
        g = torch.Generator().manual_seed(seed * 1000 + k)
        return torch.randn(shape, generator=g, dtype=torch.float64)[tiles]

    return numbers


class Known:
    """A calibrator that says this level, whatever it sees."""

    counts_steps = False

    def __init__(self, sigma):
        self.sigma = sigma

    def levels(self, x, modelled=None):
        return self.sigma[: len(x)]


def solve(name, problem):
    method = catalog.METHODS[name].load()
    sampler = method.sampler(method.settings(), 1)
    return sampler.run(problem, sampler.decide(problem, Known(problem.sigma)))


def observed(batch, size, sigma, seed=0):
    g = torch.Generator().manual_seed(seed)
    x0 = MEAN + STD * torch.randn(batch, 1, size, size, generator=g, dtype=torch.float64)
    noise = torch.randn(x0.shape, generator=g, dtype=torch.float64)
    return x0 + sigma.reshape(-1, 1, 1, 1) * noise


@pytest.mark.parametrize(("name", "tolerance"), [("ddim", 0.06), ("dpmpp", 0.01)])
def test_deterministic_samplers_follow_the_flow(name, tolerance):
    sigma = torch.tensor([0.3, 1.5], dtype=torch.float64)
    x = observed(2, 64, sigma)
    out = solve(name, Problem(ideal, x, sigma, draw(1, x.shape), steps=40))
    assert (out - flow(x, sigma)).abs().max() < tolerance * 4
    assert (out - flow(x, sigma)).abs().mean() < tolerance


def test_second_order_beats_first_order():
    sigma = torch.full((1,), 1.5, dtype=torch.float64)
    x = observed(1, 64, sigma)
    errors = []
    for rule in (dpmpp_rule, ddim_rule()):
        out = walk(ideal, x, sigma_schedule(sigma, 20), rule, draw(0, x.shape))
        errors.append((out - flow(x, sigma)).abs().mean())
    assert errors[0] < errors[1] / 3


@pytest.mark.slow
@pytest.mark.parametrize("variance", ["beta-tilde", "beta"])
def test_ancestral_steps_draw_from_the_posterior(variance):
    sigma = torch.full((1,), 1.0, dtype=torch.float64)
    x = observed(1, 300, sigma)
    out = walk(ideal, x, sigma_schedule(sigma, 200), ddim_rule(1.0, variance), draw(2, x.shape))
    assert out.mean() == pytest.approx(MEAN, abs=0.01)
    assert out.std() == pytest.approx(STD, rel=0.03)
    residual = out - ideal(x, sigma)  # posterior: N(ideal, STD^2 s^2 / (STD^2 + s^2))
    assert residual.std() == pytest.approx(STD / (STD**2 + 1) ** 0.5, rel=0.03)


def test_oracle_denoiser_is_returned_exactly():
    truth = torch.rand(1, 1, 16, 16, dtype=torch.float64)
    for name in catalog.methods("restore"):
        sigma = torch.tensor([0.5], dtype=torch.float64)
        out = solve(
            name, Problem(lambda x, s, c: truth, truth + 0.5, sigma, draw(0, truth.shape), 5)
        )
        assert torch.allclose(out, truth, atol=1e-12), name


def test_posterior_variance_matches_monte_carlo():
    """One ancestral step with a known x0 has mean and variance of q(x_s | x_t, x0)."""
    now, then, x0, xt = 0.8, 0.5, 0.2, 0.9
    path = torch.tensor([[now], [then]], dtype=torch.float64)
    x = torch.full((1, 1, 400, 400), xt, dtype=torch.float64)
    out = walk(lambda x, s, c: torch.full_like(x, x0), x, path, ddim_rule(1.0), draw(3, x.shape))
    ratio = then**2 / now**2
    assert out.mean() == pytest.approx(x0 + ratio * (xt - x0), abs=3e-3)
    assert out.var() == pytest.approx(then**2 * (1 - ratio), rel=0.02)


@pytest.mark.parametrize("name", ["ddim", "dpmpp", "ancestral"])
def test_a_batch_equals_its_tiles_one_by_one(name):
    sigma = torch.tensor([0.1, 0.9, 0.4])
    x = observed(3, 16, sigma).float()
    numbers = draw(5, x.shape)
    together = solve(name, Problem(ideal, x, sigma, numbers, 6))
    for i in range(3):
        alone = Problem(
            ideal, x[i : i + 1], sigma[i : i + 1], lambda k, t, i=i: numbers(k, t + i), 6
        )
        assert torch.equal(together[i : i + 1], solve(name, alone))


def test_tiles_that_have_arrived_cost_nothing():
    path = torch.tensor([[0.5, 0.2], [0.2, 0.0], [0.0, 0.0]], dtype=torch.float64)
    calls = []

    def counting(x, sigma, condition):
        calls.append(len(x))
        return ideal(x, sigma)

    x = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    walk(counting, x, path, ddim_rule(), draw(0, x.shape))
    assert calls == [2, 1]


def test_renoising_restores_the_level():
    path = torch.tensor([[0.0], [0.6]], dtype=torch.float64)
    x = torch.full((1, 1, 300, 300), 0.5, dtype=torch.float64)
    out = walk(ideal, x, path, ddim_rule(), draw(0, x.shape))
    assert out.std() == pytest.approx(0.6, rel=0.02)


def test_the_hook_sees_every_step():
    seen = []
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    sigma = torch.ones(1, dtype=torch.float64)

    def hook(state, level, k):
        seen.append((k, level.item()))
        return state + 1

    out = walk(ideal, x, sigma_schedule(sigma, 3), ddim_rule(), draw(0, x.shape), after=hook)
    assert [k for k, _ in seen] == [0, 1, 2]
    assert seen[-1][1] == 0
    assert out.min() > 1


def test_inputs_are_not_mutated():
    sigma = torch.tensor([0.5], dtype=torch.float64)
    x = observed(1, 8, sigma)
    before = x.clone()
    for name in catalog.methods("restore"):
        solve(name, Problem(ideal, x, sigma, draw(0, x.shape), 3))
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["ddim", "dpmpp", "ancestral"])
def test_levels_relative_to_the_tile_are_the_pixels_own(name):
    """Half of the tile's level at each pixel is the tile at half the level."""
    sigma = torch.tensor([0.6, 1.0], dtype=torch.float64)
    shape = (2, 1, 8, 8)
    given = {"draw": draw(3, shape), "steps": 4}
    x = observed(2, 8, sigma / 2)

    def told(x, sigma, condition=None):
        s = sigma if sigma.ndim == 4 else sigma.reshape(-1, 1, 1, 1)
        return (STD**2 * x + s**2 * MEAN) / (STD**2 + s**2)

    doubled = Problem(told, x, sigma, relative=torch.full(shape, 0.5, dtype=torch.float64), **given)
    parts = [solve(name, part) for part in (doubled, doubled.part(0, 1), doubled.part(1, 2))]
    assert torch.equal(parts[0], torch.cat(parts[1:]))
    if name != "dpmpp":  # whose steps are those of the tile's level
        schedule = sigma_schedule(sigma, 4) / 2
        rule = ddim_rule(float(name == "ancestral"))
        half = walk(told, x, schedule, rule, draw(3, shape))
        torch.testing.assert_close(parts[0], half)
