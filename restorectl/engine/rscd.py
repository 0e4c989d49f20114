"""RSCD, restorative step-calibrated diffusion: how many steps are left, asked repeatedly.

A calibrator tells the step t that an image stands at; the sampler takes up to d single steps of
the schedule and asks anew, until no step is left (Algorithm 1). `follow` asks for each tile or, by
`pool`, for all tiles together; the rounds it took can be replayed on any other window of the same
image, so windows agree and no seam can appear.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from restorectl.engine.samplers import (
    Calibrator,
    Decided,
    Method,
    Problem,
    Sampler,
    ddim_rule,
    walk,
)
from restorectl.engine.schedule import Schedule, schedule

Calibrate = Callable[[Tensor], Tensor]  # x (b, C, H, W) -> step (b,), may be fractional


@dataclass(frozen=True)
class Settings:
    """The numbers of the loop; the published ones are in PRESETS."""

    schedule: str = "rscd"
    every: int = 10  # d: steps between two calibrations; 0 = calibrate once
    rounds: int = 15  # calibrations at most: Algorithm 1 as printed need not end
    cap: int = 200  # largest step, T' of training
    below: int = 10  # fewer steps left than this are taken without asking again; 0 = always ask
    ahead: int = 0  # begin a block this many steps later than calibrated ...
    ahead_last: int = 0  # ... and the last block this many
    truncate: bool = False  # step counts are cut to whole numbers, else rounded
    variance: str = "beta-tilde"
    noise_at_end: bool = False  # also the step to t = 0 adds noise
    preserving: bool = False  # the image is x_t of the variance-preserving chain, unscaled


PRESETS = {
    "restorectl": Settings(),
    # Algorithm 1: beta_t as variance, noise at every step, ask until no step is left.
    "paper": Settings(
        every=10, rounds=100, below=0, variance="beta", noise_at_end=True, preserving=True
    ),
    # The published loop: 15 rounds, cap 190, blocks from b + 1, the last one from b + 3.
    "official": Settings(cap=190, ahead=1, ahead_last=3, truncate=True, preserving=True),
}


@dataclass(frozen=True)
class Round:
    """One block of single steps: tile i goes from step start[i] down by count[i]."""

    start: Tensor  # (B,) int64
    count: Tensor  # (B,) int64


def follow(
    problem: Problem,
    calibrate: Calibrate,
    settings: Settings,
    pool: Callable[[Tensor], Tensor] = lambda steps: steps,
    first: Tensor | None = None,
) -> tuple[Tensor, list[Round]]:
    """Run Algorithm 1 on a batch; returns x0 (B, C, H, W) and the rounds taken.

    problem.sigma is not used: the calibrator decides. pool: (B,) calibrated steps -> (B,), for a
    level that tiles of one image share. first: (B,) the steps that x stands at, where they are
    known without asking.
    """
    x = problem.x
    table = schedule(settings.schedule)
    active = torch.ones(len(x), dtype=torch.bool)
    rounds: list[Round] = []
    for number in range(settings.rounds):
        steps = torch.zeros(len(x), dtype=torch.float64)
        here = active.nonzero()[:, 0]
        asked = calibrate(x[here]) if number > 0 or first is None else first[here]
        steps[here] = asked.double().cpu()
        block = _block(pool(steps), active, number, settings)
        if int(block.count.max()) == 0:
            break
        rounds.append(block)
        x = _advance(problem, x, block, table, settings, _offset(rounds))
        left = block.start - block.count > 0 if settings.below else block.count > 0
        active = active & left
        if not bool(active.any()):
            break
    return x, rounds


def replay(problem: Problem, rounds: list[Round], settings: Settings) -> Tensor:
    """The same rounds on other windows: x0 (B, C, H, W). Rounds hold one tile's numbers."""
    x, table = problem.x, schedule(settings.schedule)
    done: list[Round] = []
    for block in rounds:
        wide = Round(block.start.expand(len(x)), block.count.expand(len(x)))
        done.append(wide)
        x = _advance(problem, x, wide, table, settings, _offset(done))
    return x


def sampler(settings: Settings, samples: int) -> Sampler:
    """Rounds are decided on sampled tiles, at the image's median step, and replayed on all."""

    def decide(pilot: Problem, calibrator: Calibrator) -> Decided:
        def steps(levels: Tensor) -> Tensor:
            return in_steps(levels * pilot.strength, settings)

        first = steps(calibrator.levels(pilot.x, pilot.sigma))
        ask = lambda x: steps(calibrator.levels(x))  # noqa: E731
        _, rounds = follow(pilot, ask, settings, _median, first)
        blocks = [[int(block.start[0]), int(block.count[0])] for block in rounds]
        level = schedule(settings.schedule).sigma(blocks[0][0]) if blocks else 0.0
        return {"sigma": float(level), "rounds": blocks}

    def run(problem: Problem, decided: Decided) -> Tensor:
        rounds = [Round(torch.tensor([s]), torch.tensor([n])) for s, n in decided["rounds"]]
        return replay(problem, rounds, settings)

    return Sampler(run, decide)


RSCD = Method(sampler, PRESETS, maps=False)


def _median(steps: Tensor) -> Tensor:
    return torch.full_like(steps, float(steps.quantile(0.5)))


def in_steps(levels: Tensor, settings: Settings) -> Tensor:
    """Noise levels (B,) of an image as steps of the schedule (B,) float64, fractional."""
    sigma = levels.double().cpu()
    if settings.preserving:  # the noise measured is that of x_t, sqrt(1 - abar_t)
        sigma = sigma / (1 - sigma**2).clamp_min(1e-6).sqrt()
    return torch.from_numpy(schedule(settings.schedule).step(sigma.numpy()))


def _block(steps: Tensor, active: Tensor, number: int, s: Settings) -> Round:
    """Where each tile starts and how far it goes in this round."""
    whole = (steps.trunc() if s.truncate else steps.round()).clamp(max=s.cap).long()
    final = torch.full_like(active, s.every == 0 or number == s.rounds - 1)
    if s.below:
        final = final | (whole < s.below)
    start = (whole + torch.where(final, s.ahead_last, s.ahead)).clamp(min=0)
    count = torch.where(final, start, start.clamp(max=max(s.every, 1)))
    return Round(torch.where(active, start, 0), torch.where(active, count, 0))


def _offset(rounds: list[Round]) -> int:
    """Single steps before the last round: what numbers the draws of the noise field."""
    return sum(int(block.count.max()) for block in rounds[:-1])


def _advance(
    p: Problem, x: Tensor, block: Round, table: Schedule, s: Settings, offset: int
) -> Tensor:
    """x after one block. The chain itself runs in x = x0 + sigma n, as everywhere."""
    abar = torch.tensor(table.abar, dtype=torch.float64)
    length = int(block.count.max())
    k = torch.arange(length + 1)[:, None]
    index = torch.maximum(block.start - k, block.start - block.count)  # (length + 1, B)
    sigmas = torch.from_numpy(table.sigmas().copy())[index].to(x)
    shape = (-1, 1, 1, 1)
    if s.preserving:  # x is sqrt(abar_t) times our state
        x = x / abar[index[0]].sqrt().reshape(shape).to(x)
    rule = ddim_rule(1.0, s.variance, s.noise_at_end)
    x = walk(p.denoise, x, sigmas, rule, lambda k, tiles: p.draw(offset + k, tiles), p.condition)
    return x * abar[index[-1]].sqrt().reshape(shape).to(x) if s.preserving else x
