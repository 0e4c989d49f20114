"""RSCD, restorative step-calibrated diffusion: repeatedly estimates how many steps are left.

A calibrator estimates the diffusion step t of an image; the sampler takes up to d single steps of
the schedule and calibrates again, until no step is left (Algorithm 1). `follow` calibrates each
tile or, with `pool`, all tiles together; `replay` applies the same rounds to other tiles of the
image, so that no seams appear.
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
class RscdSettings:
    """Parameters of the loop; the published ones are in PRESETS."""

    schedule: str = "rscd"
    every: int = 10  # d: steps between calibrations; 0 = calibrate once
    rounds: int = 15  # most calibrations: Algorithm 1 as printed may never end
    cap: int = 200  # largest step, T' of training
    below: int = 10  # with fewer steps left, finish without calibrating; 0 = always calibrate
    ahead: int = 0  # start a block this many steps above the calibrated one ...
    ahead_last: int = 0  # ... and the last block this many steps above
    truncate: bool = False  # truncate step counts to integers, else round them
    variance: str = "beta-tilde"
    noise_at_end: bool = False  # add noise in the step to t = 0 too
    preserving: bool = False  # treat the image as x_t of the variance-preserving chain


PRESETS = {
    "restorectl": RscdSettings(),
    # Algorithm 1: beta_t as variance, noise at every step, calibrate until no step is left.
    "paper": RscdSettings(
        every=10, rounds=100, below=0, variance="beta", noise_at_end=True, preserving=True
    ),
    # The published code: 15 rounds, cap 190, blocks start at b + 1, the last one at b + 3.
    "official": RscdSettings(cap=190, ahead=1, ahead_last=3, truncate=True, preserving=True),
}


@dataclass(frozen=True)
class Round:
    """One block of single steps: tile i goes from step start[i] down count[i] steps."""

    start: Tensor  # (B,) int64
    count: Tensor  # (B,) int64


def follow(
    problem: Problem,
    calibrate: Calibrate,
    settings: RscdSettings,
    pool: Callable[[Tensor], Tensor] = lambda steps: steps,
    first: Tensor | None = None,
) -> tuple[Tensor, list[Round]]:
    """Run Algorithm 1 on a batch; returns x0 (B, C, H, W) and the rounds taken.

    problem.sigma is ignored: the calibrator decides. pool: (B,) calibrated steps -> (B,), so that
    tiles of one image can share a level. first: (B,) steps of x, if known without calibration.
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


def replay(problem: Problem, rounds: list[Round], settings: RscdSettings) -> Tensor:
    """Run the same rounds, given for one tile, on other tiles; returns x0 (B, C, H, W)."""
    x, table = problem.x, schedule(settings.schedule)
    done: list[Round] = []
    for block in rounds:
        wide = Round(block.start.expand(len(x)), block.count.expand(len(x)))
        done.append(wide)
        x = _advance(problem, x, wide, table, settings, _offset(done))
    return x


def sampler(settings: RscdSettings, samples: int) -> Sampler:
    """Decide the rounds on sampled tiles, at their median step; replay them on all tiles."""

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


def in_steps(levels: Tensor, settings: RscdSettings) -> Tensor:
    """Convert noise levels (B,) to fractional steps of the schedule (B,) float64."""
    sigma = levels.double().cpu()
    if settings.preserving:  # the measured noise is that of x_t: sqrt(1 - abar_t)
        sigma = sigma / (1 - sigma**2).clamp_min(1e-6).sqrt()
    return torch.from_numpy(schedule(settings.schedule).step(sigma.numpy()))


def _block(steps: Tensor, active: Tensor, number: int, s: RscdSettings) -> Round:
    """Where each tile starts in this round, and how many steps it takes."""
    whole = (steps.trunc() if s.truncate else steps.round()).clamp(max=s.cap).long()
    final = torch.full_like(active, s.every == 0 or number == s.rounds - 1)
    if s.below:
        final = final | (whole < s.below)
    start = (whole + torch.where(final, s.ahead_last, s.ahead)).clamp(min=0)
    count = torch.where(final, start, start.clamp(max=max(s.every, 1)))
    return Round(torch.where(active, start, 0), torch.where(active, count, 0))


def _offset(rounds: list[Round]) -> int:
    """Number of single steps before the last round: the next step number of the noise field."""
    return sum(int(block.count.max()) for block in rounds[:-1])


def _advance(
    p: Problem, x: Tensor, block: Round, table: Schedule, s: RscdSettings, offset: int
) -> Tensor:
    """x after one block. The chain itself runs in x = x0 + sigma n, as in all samplers."""
    abar = torch.tensor(table.abar, dtype=torch.float64)
    length = int(block.count.max())
    k = torch.arange(length + 1)[:, None]
    index = torch.maximum(block.start - k, block.start - block.count)  # (length + 1, B)
    sigmas = torch.from_numpy(table.sigmas().copy())[index].to(x)
    shape = (-1, 1, 1, 1)
    if s.preserving:  # here x is sqrt(abar_t) times the state
        x = x / abar[index[0]].sqrt().reshape(shape).to(x)
    rule = ddim_rule(1.0, s.variance, s.noise_at_end)
    x = walk(p.denoise, x, sigmas, rule, lambda k, tiles: p.draw(offset + k, tiles), p.condition)
    return x * abar[index[-1]].sqrt().reshape(shape).to(x) if s.preserving else x
