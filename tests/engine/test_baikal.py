"""The methods of Baikal against closed forms, on a prior that is known exactly."""

from dataclasses import replace

import pytest
import torch

from restorectl.engine import baikal
from restorectl.engine.baikal import WEIGHTS, BaikalSettings
from restorectl.engine.noise_field import NoiseField, Site
from restorectl.engine.samplers import Problem, ddim_rule, sigma_schedule, walk
from restorectl.engine.schedule import schedule
from restorectl.errors import UsageError

SPREAD = 0.4  # standard deviation of the clean pixels


def gaussian(x, sigma, condition=None):
    """E[x0 | x] where clean pixels are normal(0, SPREAD)."""
    level = sigma.reshape(-1, 1, 1, 1)
    return x * SPREAD**2 / (SPREAD**2 + level**2)


def problem(sigma=0.2, count=2, guide=None, denoise=gaussian):
    field, shape = NoiseField(3), (count, 1, 32, 32)
    sites = [Site((0, k, 0), 0, 0) for k in range(count)]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator) * (SPREAD**2 + sigma**2) ** 0.5
    draw = lambda k, tiles: field.draw([sites[i] for i in tiles], shape[2:], k)  # noqa: E731
    return Problem(denoise, x, torch.full((count,), sigma), draw, guide=guide)


def counted(settings, **options):
    """The result and the number of windows that went through the network."""
    calls = []

    def denoise(x, sigma, condition=None):
        calls.append(len(x))
        return gaussian(x, sigma)

    p = problem(**options, denoise=denoise)
    return baikal.sampler(settings, 1).run(p, {"sigma": 0.2}), sum(calls) / len(p.x)


def test_without_going_ahead_it_is_plain_ddim():
    p = problem()
    ours = baikal.sampler(BaikalSettings(ahead=1.0, steps=6), 1).run(p, {})
    plain = walk(p.denoise, p.x, sigma_schedule(p.sigma, 6), ddim_rule(), p.draw)
    torch.testing.assert_close(ours, plain)


def test_going_ahead_adds_only_the_noise_that_is_missing():
    levels = []

    def denoise(x, sigma, condition=None):
        levels.append((float(x.std()), float(sigma[0])))
        return gaussian(x, sigma)

    baikal.sampler(BaikalSettings(ahead=2.0, steps=2), 1).run(problem(denoise=denoise, count=8), {})
    std, level = levels[0]
    assert level == pytest.approx(0.4)
    assert std == pytest.approx((SPREAD**2 + 0.4**2) ** 0.5, rel=0.02)


def test_a_clean_image_is_diffused_to_the_step_itself():
    seen = []

    def denoise(x, sigma, condition=None):
        seen.append((float(x.std()), float(sigma[0])))
        return gaussian(x, sigma)

    p = replace(problem(denoise=denoise), x=torch.zeros(2, 1, 32, 32))
    baikal.sampler(BaikalSettings(start=100, steps=None, known=False), 1).run(p, {})
    table = schedule("linear")
    assert len(seen) == 100
    assert [level for _, level in seen] == pytest.approx(list(table.sigmas()[100:0:-1]), rel=1e-5)
    assert seen[0][0] == pytest.approx(float(table.sigma(100)), rel=0.05)


@pytest.mark.parametrize(
    ("settings", "calls"),
    [
        (BaikalSettings(steps=7), 7),
        (BaikalSettings(steps=6, interval=2, repeats=3), 18),
        (BaikalSettings(steps=7, interval=3, repeats=2), 14),
        (BaikalSettings(steps=6, interval=2, repeats=3, renoise=True), 18),
        (BaikalSettings(start=100, steps=None, known=False), 100),
        # Published for structured noise: R * (t' - stop) + stop calls.
        (BaikalSettings(start=120, steps=None, known=False, interval=5, repeats=5, mix="linear",
                  first=0.05, last=0.01, stop=10, repeat_below=False), 560),
        (BaikalSettings(start=100, steps=None, known=False, interval=5, repeats=3, mix="linear",
                  stop=20, repeat_below=False), 260),
    ],
)  # fmt: skip
def test_network_calls(settings, calls):
    _, found = counted(settings)
    assert found == calls
    foreseen = baikal.sampler(settings, 1).calls(None)
    assert foreseen in (None, calls)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_run_from_last_to_first(name):
    u = torch.linspace(0, 1, 11, dtype=torch.float64)
    values = WEIGHTS[name](u, 50.0)
    assert values[-1] == pytest.approx(1.0)
    assert (values.diff() >= 0).all()
    ends = {"constant": 1.0, "linear": 0.0, "cosine": 0.0, "exponential": 0.0067}
    assert values[0] == pytest.approx(ends[name], abs=1e-3)


def test_mixing_with_full_weight_follows_the_image():
    """With weight 1 down to its own level the image is what is denoised from there."""
    p = problem()
    s = BaikalSettings(ahead=2.0, steps=2, mix="constant", first=1.0, last=1.0)
    levels = sigma_schedule(p.sigma * 2, 2)
    assert levels[1, 0] < p.sigma[0]  # nothing is mixed in there: the stop is the image's level
    first = baikal.sampler(s, 1).run(p, {})
    without = baikal.sampler(replace(s, mix=None), 1).run(p, {})
    torch.testing.assert_close(first, without)
    follow = baikal.sampler(replace(s, stop=0.5), 1).run(p, {})
    torch.testing.assert_close(follow, gaussian(p.x, levels[1]))


def test_a_guide_takes_the_place_of_the_image():
    guide = torch.full((2, 1, 32, 32), 0.25)
    p = problem(guide=guide)
    started = baikal.sampler(BaikalSettings(ahead=1.5, steps=30, eta=0.0), 1).run(p, {})
    alone = baikal.sampler(BaikalSettings(ahead=1.5, steps=30, eta=0.0), 1).run(
        replace(p, guide=None), {}
    )
    assert abs(float(started.mean()) - 0.25) < 0.1
    assert float((started - alone).abs().mean()) > 0.1
    mixed = BaikalSettings(ahead=1.5, steps=30, mix="constant", first=0.9, last=0.9, stop=1)
    close = baikal.sampler(mixed, 1).run(p, {})
    assert float((close - guide).abs().mean()) < 0.1


def test_shared_noise_is_one_field():
    p = problem()
    s = BaikalSettings(ahead=3.0, steps=12, mix="constant", first=0.5, last=0.5)
    new = baikal.sampler(s, 1).run(p, {})
    same = baikal.sampler(replace(s, shared_noise=True), 1).run(p, {})
    assert not torch.equal(new, same)
    torch.testing.assert_close(new, baikal.sampler(s, 1).run(p, {}))


def test_tiles_do_not_see_one_another():
    p = problem(count=3)
    s = BaikalSettings(ahead=2.0, steps=5, eta=1.0, mix="linear", interval=2, repeats=2)
    together = baikal.sampler(s, 1).run(p, {})
    draw = p.draw
    for k in range(3):
        alone = replace(
            p, x=p.x[k : k + 1], sigma=p.sigma[k : k + 1],
            draw=lambda step, tiles, k=k: draw(step, tiles + k),
        )  # fmt: skip
        torch.testing.assert_close(baikal.sampler(s, 1).run(alone, {}), together[k : k + 1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (BaikalSettings(start=900), "`start` 900"),
        (BaikalSettings(start=50, stop=60), "`stop` 60"),
        (BaikalSettings(repeats=0), "`repeats`"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        baikal.check(settings, 3.0)
    baikal.check(BaikalSettings(start=100, stop=50), 3.0)
