"""The training loop: exact resume, accumulation, averaging, rates, clipping, divergence."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from restorectl.errors import EngineError, WeightsError
from restorectl.training import loop
from restorectl.training.loop import (
    Processes,
    TrainingState,
    generator,
    learning_rate,
    mean_loss,
    optimise,
)
from restorectl.training.recipe import Optimiser

FP32 = torch.float32
OPTIONS = Optimiser(steps=6, batch=8, micro_batch=4, lr=1e-2, warmup=2, clip=1.0, ema=0.9)


def model(width=5):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, 1))


def loss(net, step, index, drawn):
    """Regression on inputs that are a function of the generator."""
    x = torch.randn((4, 3), generator=drawn)
    return (net(x)[:, 0] - x.sum(1)).square()


def run(state, options=OPTIONS, work=loss, dtype=FP32):
    return list(optimise(state, work, options, 0, dtype, Processes()))


def test_an_interrupted_run_repeats_the_same_losses():
    whole = TrainingState(model(), OPTIONS)
    expected = run(whole)
    first = TrainingState(model(), OPTIONS)
    steps = optimise(first, loss, OPTIONS, 0, FP32, Processes())
    done = [next(steps) for _ in range(3)]
    saved = {name: value.clone() for name, value in first.tensors().items()}
    second = TrainingState(model(), OPTIONS)
    second.load(saved, 3)
    done += run(second)
    assert [s.loss for s in done] == [s.loss for s in expected]
    assert [s.gradient for s in done] == [s.gradient for s in expected]
    for name, value in whole.tensors().items():
        assert torch.equal(value, second.tensors()[name]), name


def test_a_checkpoint_of_another_network_is_refused():
    saved = TrainingState(model(), OPTIONS)
    run(saved)
    for other in (model(6), nn.Linear(3, 1)):
        with pytest.raises(WeightsError, match="another network"):
            TrainingState(other, OPTIONS).load(saved.tensors(), 6)


def test_accumulation_equals_one_batch():
    data = torch.randn(8, 3, generator=torch.Generator().manual_seed(5))

    def fixed(size):
        def part(net, step, index, drawn):
            x = data[index * size : (index + 1) * size]
            return (net(x)[:, 0] - x.sum(1)).square()

        return part

    results = []
    for size in (8, 4, 1):
        state = TrainingState(model(), OPTIONS)
        options = dataclasses.replace(OPTIONS, micro_batch=size)
        results.append(([s.loss for s in run(state, options, fixed(size))], state))
    for losses, state in results[1:]:
        assert losses == pytest.approx(results[0][0], rel=1e-5)
        for a, b in zip(state.model.parameters(), results[0][1].model.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_two_ranks_share_the_micro_batches():
    seen = []

    def spy(net, step, index, drawn):
        seen.append((step, index))
        return loss(net, step, index, drawn)

    class Half(Processes):
        def total(self, values):
            return values

    options = dataclasses.replace(OPTIONS, steps=2, batch=16)
    list(optimise(TrainingState(model(), options), spy, options, 0, FP32, Half(1, 2)))
    assert seen == [(1, 1), (1, 3), (2, 1), (2, 3)]


def test_the_average_follows_the_weights():
    options = dataclasses.replace(OPTIONS, steps=3)
    state = TrainingState(model(), options)
    expected = [p.detach().clone() for p in state.model.parameters()]
    for step in optimise(state, loss, options, 0, FP32, Processes()):
        decay = min(0.9, (1 + step.number) / (10 + step.number))
        expected = [
            decay * e + (1 - decay) * p.detach()
            for e, p in zip(expected, state.model.parameters(), strict=True)
        ]
    for e, p in zip(expected, state.average.parameters(), strict=True):
        assert torch.allclose(e, p, atol=1e-6)
        assert not p.requires_grad


def test_rates():
    options = Optimiser(steps=110, lr=2.0, warmup=10, final_lr=0.1)
    assert learning_rate(1, options, 110) == pytest.approx(0.2)
    assert learning_rate(10, options, 110) == pytest.approx(2.0)
    assert learning_rate(60, options, 110) == pytest.approx(1.1)
    assert learning_rate(110, options, 110) == pytest.approx(0.2)
    assert learning_rate(500, options, 110) == pytest.approx(0.2)
    late = dataclasses.replace(options, decay="linear")
    rates = [learning_rate(step, late, 110) for step in (10, 60, 85, 110)]
    assert rates == pytest.approx([2.0, 2.0, 1.1, 0.2])
    assert learning_rate(1, dataclasses.replace(options, warmup=0), 110) == pytest.approx(
        2.0, rel=1e-3
    )


def test_minutes_set_the_number_of_steps(monkeypatch):
    """A clock that ticks whenever it is read: steps of about two seconds, 30 in a minute."""
    clock = iter(range(10_000))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(clock)))
    options = dataclasses.replace(OPTIONS, minutes=1.0, warmup=4)
    state = TrainingState(model(), options)
    done = run(state, options)
    assert done[0].steps == OPTIONS.steps
    assert {s.steps for s in done[4:]} == {state.steps}
    assert [s.number for s in done] == list(range(1, state.steps + 1))
    assert 15 < state.steps < 40
    assert done[-1].lr == pytest.approx(options.lr * options.final_lr)


def test_divergence_is_found_when_losses_are_read_later(monkeypatch):
    monkeypatch.setitem(loop.CHECKED, "cpu", 5)

    def broken(net, step, index, drawn):
        return loss(net, step, index, drawn) * (math.nan if step == 3 else 1)

    state = TrainingState(model(), OPTIONS)
    steps = optimise(state, broken, OPTIONS, 0, FP32, Processes())
    assert not any(next(steps).checked for _ in range(4))
    with pytest.raises(EngineError, match="diverged at step 3"):
        next(steps)
    seen = run(TrainingState(model(), OPTIONS))
    assert [s.checked for s in seen] == [False, False, False, False, True, True]
    monkeypatch.setitem(loop.CHECKED, "cpu", 1)
    assert [s.loss for s in run(TrainingState(model(), OPTIONS))][4:] == [s.loss for s in seen][4:]


def test_clipping_bounds_the_gradient_that_adam_sees():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(2))

    def steep(net, step, index, drawn):
        return (1000 * net.w.sum()).expand(4)

    options = dataclasses.replace(OPTIONS, steps=1, warmup=0)
    for clip, expected in ((1.0, math.sqrt(0.5)), (0.0, 1000.0)):
        state = TrainingState(Plain(), options)
        (step,) = run(state, dataclasses.replace(options, clip=clip), steep)
        assert step.gradient == pytest.approx(1000 * math.sqrt(2))
        moment = state.tensors()["adam.exp_avg.w"] / 0.1  # beta1 = 0.9
        assert torch.allclose(moment, torch.full((2,), expected), rtol=1e-3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_stops_the_run_before_the_weights_are_spoilt(value):
    def broken(net, step, index, drawn):
        return loss(net, step, index, drawn) * (value if step == 3 else 1)

    state = TrainingState(model(), OPTIONS)
    with pytest.raises(EngineError, match="diverged at step 3"):
        run(state, work=broken)
    assert state.step == 2
    assert all(torch.isfinite(v).all() for v in state.tensors().values())


def test_it_learns_and_validates_the_average_on_fixed_draws():
    options = Optimiser(steps=150, batch=16, micro_batch=4, lr=3e-2, warmup=10, ema=0.9)
    state = TrainingState(model(16), options)
    before = mean_loss(state, loss, 4, 4, 0, FP32, Processes())
    assert before == mean_loss(state, loss, 4, 4, 0, FP32, Processes())
    run(state, options)
    after = mean_loss(state, loss, 4, 4, 0, FP32, Processes())
    assert after < 0.1 * before


def test_bf16_keeps_weights_and_moments_in_float32():
    state = TrainingState(model(), OPTIONS)
    assert all(math.isfinite(s.loss) for s in run(state, dtype=torch.bfloat16))
    assert {v.dtype for v in state.tensors().values()} == {torch.float32}


def test_generators_depend_on_their_key_alone():
    cpu = torch.device("cpu")
    a, b, c = (torch.rand(3, generator=generator(cpu, *k)) for k in ((0, 1), (0, 1), (0, 2)))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_the_best_weights_survive_a_checkpoint():
    state = TrainingState(model(), OPTIONS)
    state.judge(2.0)
    first = {name: value.clone() for name, value in state.average.state_dict().items()}
    run(state)
    state.judge(3.0)
    assert (state.best.step, state.best.error) == (0, 2.0)
    for name, value in first.items():
        assert torch.equal(state.best.tensors[name], value)
    again = TrainingState(model(), OPTIONS)
    again.load(state.tensors(), 6, (0, 2.0))
    assert again.tensors().keys() == state.tensors().keys()
    for name, value in state.tensors().items():
        assert torch.equal(again.tensors()[name], value)
    again.judge(1.0)
    assert (again.best.step, again.best.error) == (6, 1.0)
    with pytest.raises(WeightsError, match="another network"):
        TrainingState(model(), OPTIONS).load(state.tensors(), 6)
