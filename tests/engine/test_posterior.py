"""Samples of the posterior where it is known in closed form, and intervals made of them."""

import numpy as np
import pytest
import torch

from restorectl.engine import conditional, posterior
from restorectl.engine.noise_field import NoiseField, Site
from restorectl.engine.samplers import DDIM, Problem
from restorectl.restoration.intervals import gather, prediction_factor
from tests.engine.test_samplers import Known

CLEAN, NOISE, SIDE = 0.3, 0.2, 160


def gaussian(x, sigma, condition=None):
    """E[x0 | x] where clean pixels are normal(0, CLEAN)."""
    level = sigma.reshape(-1, 1, 1, 1)
    return x * CLEAN**2 / (CLEAN**2 + level**2)


def problem(sample=0, denoise=gaussian):
    generator = np.random.default_rng(7)
    clean = generator.normal(0, CLEAN, (1, 1, SIDE, SIDE))
    noisy = clean + generator.normal(0, NOISE, clean.shape)
    field, site = NoiseField(0, sample), Site((0, 0, 0), 0, 0)
    p = Problem(
        denoise,
        torch.from_numpy(noisy).float(),
        torch.tensor([NOISE]),
        lambda k, tiles: field.draw([site] * len(tiles), (SIDE, SIDE), k),
    )
    return p, clean.astype(np.float32)


def draws(settings, count):
    sampler = posterior.sampler(settings, count)
    pilot, clean = problem()
    shared = sampler.decide(pilot, Known(torch.tensor([NOISE])))
    samples = [sampler.run(problem(k)[0], shared).numpy() for k in range(count)]
    return np.array(samples), clean


@pytest.mark.slow
@pytest.mark.parametrize("count", [8, 15, 50])
def test_intervals_of_the_variance_corrected_rule_cover(count):
    samples, clean = draws(posterior.PosteriorSettings(steps=6), count)
    found = gather(iter(samples), np.float32(-1), np.float32(1))
    half = prediction_factor(count, 0.9) * found.std
    assert np.mean(np.abs(clean - found.mean) <= half) == pytest.approx(0.90, abs=0.01)


def test_its_spread_is_the_posteriors_and_the_plain_rules_is_not():
    wanted = (1 / (1 / CLEAN**2 + 1 / NOISE**2)) ** 0.5
    spread = {}
    for variance in ("analytic", "ancestral"):
        samples, _ = draws(posterior.PosteriorSettings(steps=5, variance=variance), 12)
        spread[variance] = float(np.sqrt(samples.var(0, ddof=1).mean()))
    assert spread["analytic"] == pytest.approx(wanted, rel=0.03)
    assert spread["ancestral"] < 0.8 * wanted


def test_the_probe_finds_how_uncertain_x0_is():
    sampler = posterior.sampler(posterior.PosteriorSettings(steps=4), 2)
    pilot, _ = problem()
    shared = sampler.decide(pilot, Known(torch.tensor([NOISE])))
    # The restored window is smoother than the clean one, by the factor it is shrunk with.
    assert len(shared["spread"]) == 4
    exact = CLEAN**2 / (CLEAN**2 + NOISE**2)
    assert np.mean(shared["spread"][0][1]) == pytest.approx(exact, rel=0.2)
    assert all(0 <= value <= 1 for _, values in shared["spread"] for value in values)


def test_one_sample_alone_is_the_posterior_mean():
    p, _ = problem()
    one = posterior.sampler(posterior.PosteriorSettings(), 1)
    assert one.calls(None) == 1
    torch.testing.assert_close(one.run(p, {}), DDIM.sampler(DDIM.settings(), 1).run(p, {}))
    assert posterior.sampler(posterior.PosteriorSettings(steps=7), 15).calls(None) == 7
    assert posterior.sampler(posterior.PosteriorSettings(steps=7), 15).calls(3) == 3


def test_the_conditional_chain_starts_from_noise_and_ends_at_the_image_it_is_given():
    seen = []

    def denoise(x, sigma, condition):
        """A network that knows the clean image: its condition."""
        seen.append((float(sigma[0]), float(x.std())))
        return condition

    p, _ = problem(denoise=denoise)
    out = conditional.sampler(conditional.ConditionalSettings(steps=10), 1).run(p, {})
    torch.testing.assert_close(out, p.x)
    levels = [level for level, _ in seen]
    assert len(levels) == 10
    assert levels[0] == pytest.approx(20, rel=1e-3)
    assert levels == sorted(levels, reverse=True)
    assert seen[0][1] == pytest.approx(levels[0], rel=0.05)
    assert seen[5][1] > levels[5] * 0.9  # the state is at the level that the network is told


def test_conditional_settings_change_what_they_say():
    def denoise(x, sigma, condition):
        return gaussian(x, sigma) + 2.0

    results = {}
    for name, settings in {
        "ddpm": conditional.ConditionalSettings(),
        "ddim": conditional.ConditionalSettings(eta=0.0),
        "clamped": conditional.ConditionalSettings(clamp=True),
    }.items():
        p, _ = problem(denoise=denoise)
        results[name] = conditional.sampler(settings, 1).run(p, {})
    assert float(results["clamped"].max()) <= 1.0
    assert float(results["ddpm"].max()) > 1.0
    assert not torch.equal(results["ddpm"], results["ddim"])
