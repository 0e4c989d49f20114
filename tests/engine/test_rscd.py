"""The recalibration loop against the call counts of the published loop and of Algorithm 1."""

from dataclasses import replace

import pytest
import torch

from restorectl.engine.rscd import PRESETS, RscdSettings, follow, replay, sampler
from restorectl.engine.samplers import Problem
from restorectl.engine.schedule import schedule
from tests.engine.test_samplers import draw


class Said:
    """A calibrator that says this step or level of every tile."""

    def __init__(self, step, *, counts_steps):
        self.counts_steps = counts_steps
        self.level = float(schedule("rscd").sigma(step))

    def levels(self, x, modelled=None):
        return torch.full((len(x),), self.level, dtype=torch.float64)


class Counting:
    """A denoiser with a known answer that counts windows and remembers levels."""

    def __init__(self, truth):
        self.truth, self.calls, self.levels = truth, 0, []

    def __call__(self, x, sigma, condition):
        self.calls += len(x)
        self.levels.append(sigma.clone())
        return self.truth.expand_as(x)


def problem(batch=1, truth=0.3):
    x = torch.full((batch, 1, 4, 4), 0.5, dtype=torch.float64)
    net = Counting(torch.tensor(truth, dtype=torch.float64))
    return Problem(net, x, torch.zeros(batch, dtype=torch.float64), draw(0, x.shape))


def stub(*answers):
    """A calibrator that says these steps, one after another; the last one for ever."""
    said = list(answers)
    return lambda x: torch.full((len(x),), float(said.pop(0) if len(said) > 1 else said[0]))


@pytest.mark.parametrize(
    ("answers", "calls"),
    [
        ((5,), 8),  # below 10: b + 3 steps, one round
        ((25, 14, 3), 10 + 10 + 6),
        ((500,), 14 * 10 + 193),  # capped at 190, 15 rounds
        ((-5,), 0),
        ((12, -5), 10),
    ],
)
def test_call_counts_of_the_published_loop(answers, calls):
    p = problem()
    follow(p, stub(*answers), PRESETS["official"])
    assert p.denoise.calls == calls


def test_algorithm_1_asks_until_no_step_is_left():
    p = problem()
    _, rounds = follow(p, stub(25, 14, 3, 0), PRESETS["paper"])
    assert [(int(r.start), int(r.count)) for r in rounds] == [(25, 10), (14, 10), (3, 3)]


def test_algorithm_1_has_a_round_limit():
    p = problem()
    follow(p, stub(7), replace(PRESETS["paper"], most=6))
    assert p.denoise.calls == 6 * 7


def test_without_recalibration_all_steps_are_taken_at_once():
    p = problem()
    _, rounds = follow(p, stub(34), RscdSettings(every=0))
    assert [(int(r.start), int(r.count)) for r in rounds] == [(34, 34)]
    table = schedule("rscd").sigmas()
    levels = torch.cat(p.denoise.levels)
    torch.testing.assert_close(levels, torch.tensor(table[34:0:-1].copy()))


def test_each_tile_has_its_own_rounds_and_equals_its_run_alone():
    p = problem(3)
    p.x[1] += 0.2
    p.x[2] -= 0.3

    def calibrate(x):
        return (x - 0.3).abs().mean((1, 2, 3)) * 100  # a function of the image alone

    together, _ = follow(p, calibrate, RscdSettings())
    for i in range(3):
        alone = Problem(
            Counting(p.denoise.truth),
            p.x[i : i + 1],
            p.sigma[:1],
            lambda k, t, i=i: p.draw(k, t + i),
        )
        single, _ = follow(alone, calibrate, RscdSettings())
        torch.testing.assert_close(together[i : i + 1], single, rtol=0, atol=1e-12)


def test_a_pooled_level_is_shared_and_can_be_replayed():
    p = problem(2)
    answers = [torch.tensor([30.0, 20.0]), torch.tensor([12.0, 16.0]), torch.tensor([3.0, 5.0])]

    def pool(steps):
        return torch.full_like(steps, steps.median())

    out, rounds = follow(p, lambda x: answers.pop(0), RscdSettings(), pool)
    starts = [r.start.tolist() for r in rounds]
    assert all(a == b for a, b in starts)
    single = Problem(p.denoise, p.x[:1], p.sigma[:1], p.draw)
    first = [type(r)(r.start[:1], r.count[:1]) for r in rounds]
    torch.testing.assert_close(replay(single, first, RscdSettings()), out[:1])


def test_the_oracle_is_returned_when_the_chain_ends():
    p = problem(truth=0.3)
    for settings in (RscdSettings(), PRESETS["official"]):
        out, _ = follow(p, stub(15, 4), settings)
        torch.testing.assert_close(out, torch.full_like(out, 0.3))


def test_the_variance_preserving_start_scales_the_image():
    """Reading x as x_t without sqrt(abar) brightens contrast by 1 / sqrt(abar_t) (methods 1.7)."""
    seen = []

    def record(x, sigma, condition):
        seen.append(x.clone())
        return x

    p = replace(problem(), denoise=record)
    follow(p, stub(100), replace(PRESETS["official"], every=0))
    gain = (seen[0] / p.x).mean().item()
    assert gain == pytest.approx(1 / schedule("rscd").abar[100] ** 0.5, rel=1e-9)


@pytest.mark.parametrize("step", [34, 200, 600])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_predicted_step_is_not_converted(preset, step):
    """The calibrator was trained on x_t and says t; only a measured level has to be converted."""
    settings = replace(PRESETS[preset], every=0, cap=None)
    method = sampler(settings, 1)
    decided = method.decide(problem(), Said(step, counts_steps=True))
    assert decided["rounds"] == [[step, step]]
    level = float(schedule("rscd").sigma(step))
    noise = level / (1 + level**2) ** 0.5 if settings.preserving else level  # of x_t
    measured = Said(0, counts_steps=False)
    measured.level = noise
    assert method.decide(problem(), measured)["rounds"] == [[step, step]]


@pytest.mark.parametrize("preset", PRESETS)
def test_no_block_starts_above_the_last_step_of_training(preset):
    highest = float(schedule("rscd").sigma(50))
    p = replace(problem(), highest=highest)
    _, rounds = follow(p, stub(120, 60, 0), PRESETS[preset])
    assert max(int(r.start) for r in rounds) == 50


def test_noise_numbers_of_a_tile_do_not_depend_on_the_others():
    """Algorithm 1 asks again after short blocks too, so tiles take different numbers of steps."""
    settings = replace(PRESETS["paper"], most=4)
    p = problem(2)

    def calibrate(x):
        return torch.where(x.mean((1, 2, 3)) > 0.45, 30.0, 4.0)

    p.x[1] -= 0.3
    together, _ = follow(p, calibrate, settings)
    single = Problem(p.denoise, p.x[1:], p.sigma[:1], lambda k, t: p.draw(k, t + 1))
    alone, _ = follow(single, calibrate, settings)
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-12)


def test_each_patch_has_its_own_rounds():
    p = replace(problem(2), calibrator=Said(20, counts_steps=True))
    method = sampler(replace(RscdSettings(), rounds="patch"), 1)
    decided = method.decide(p, p.calibrator)
    out = method.run(p, decided)
    assert decided["rounds"] == "patch"
    torch.testing.assert_close(out, torch.full_like(out, 0.3))
