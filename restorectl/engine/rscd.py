"""RSCD, restorative step-calibrated diffusion: repeatedly estimates how many steps are left.

A calibrator estimates the diffusion step t of an image; the sampler takes up to d single steps of
the schedule and calibrates again, until no step is left (Algorithm 1). `follow` calibrates each
tile, as the paper does with patches, or, with `pool`, all tiles together; `replay` applies the same
rounds to other tiles of the image, so that no seams appear.
"""

import math
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
    start_level,
    walk,
)
from restorectl.engine.schedule import Schedule, schedule

ROUNDING = 1e-6  # steps, of converting a step to a noise level and back
Calibrate = Callable[[Tensor], Tensor]  # x (b, C, H, W) -> step (b,), may be fractional


@dataclass(frozen=True)
class RscdSettings:
    """Parameters of the loop; the published ones are in PRESETS."""

    schedule: str = "rscd"
    every: int = 10  # d: steps between calibrations; 0 = calibrate once
    rounds: str = "image"  # image: the same for all tiles; patch: each tile has its own
    most: int = 15  # rounds: Algorithm 1 as printed may never end
    cap: int | None = None  # largest calibrated step; None = T' of the weights
    below: int = 10  # with fewer steps left, finish without calibrating; 0 = always calibrate
    ahead: int = 0  # start a block this many steps above the calibrated one ...
    ahead_last: int = 0  # ... and the last block this many steps above; neither if every = 0
    truncate: bool = False  # truncate step counts to integers, else round them
    variance: str = "beta-tilde"
    noise_at_end: bool = False  # add noise in the step to t = 0 too
    preserving: bool = False  # treat the image as x_t of the variance-preserving chain


PRESETS = {
    "restorectl": RscdSettings(),
    # Algorithm 1: beta_t as variance, noise at every step, calibrate until no step is left.
    "paper": RscdSettings(
        every=10, most=100, below=0, variance="beta", noise_at_end=True, preserving=True
    ),
    # The published code: 15 rounds, cap 190, blocks start at b + 1, the last one at b + 3; none
    # starts above T' of the weights.
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
    A tile's result does not depend on the other tiles, unless `pool` makes it.
    """
    x = problem.x
    table = schedule(settings.schedule)
    active = torch.ones(len(x), dtype=torch.bool)
    rounds: list[Round] = []
    for number in range(settings.most):
        steps = torch.zeros(len(x), dtype=torch.float64)
        here = active.nonzero()[:, 0]
        asked = calibrate(x[here]) if number > 0 or first is None else first[here]
        steps[here] = asked.cpu().double()
        block = _block(pool(steps), active, number, settings, problem.highest)
        if int(block.count.max()) == 0:
            break
        rounds.append(block)
        x = _advance(problem, x, block, table, settings, number)
        left = block.start - block.count > 0 if settings.below else block.count > 0
        active = active & left
        if settings.every == 0 or not bool(active.any()):
            break
    return x, rounds


def replay(problem: Problem, rounds: list[Round], settings: RscdSettings) -> Tensor:
    """Run the same rounds, given for one tile, on other tiles; returns x0 (B, C, H, W)."""
    x, table = problem.x, schedule(settings.schedule)
    for number, block in enumerate(rounds):
        wide = Round(block.start.expand(len(x)), block.count.expand(len(x)))
        x = _advance(problem, x, wide, table, settings, number)
    return x


def sampler(settings: RscdSettings, samples: int) -> Sampler:
    """The rounds are those of sampled tiles, at their median step, or each tile has its own."""

    def asking(p: Problem, calibrator: Calibrator) -> Calibrate:
        return lambda x: _steps(calibrator.levels(x), p, calibrator, settings)

    def decide(pilot: Problem, calibrator: Calibrator) -> Decided:
        if settings.rounds == "patch":
            return start_level(pilot, calibrator) | {"rounds": "patch"}
        first = _steps(calibrator.levels(pilot.x, pilot.sigma), pilot, calibrator, settings)
        if settings.every == 0:  # known without restoring the sampled tiles
            everyone = torch.ones(len(first), dtype=torch.bool)
            rounds = [_block(_median(first), everyone, 0, settings, pilot.highest)]
        else:
            _, rounds = follow(pilot, asking(pilot, calibrator), settings, _median, first)
        blocks = [[int(block.start[0]), int(block.count[0])] for block in rounds if block.count[0]]
        level = schedule(settings.schedule).sigma(float(_median(first)[0])) if blocks else 0.0
        return {"sigma": float(level), "rounds": blocks}

    def run(problem: Problem, decided: Decided) -> Tensor:
        if settings.rounds == "patch":
            assert problem.calibrator is not None
            return follow(problem, asking(problem, problem.calibrator), settings)[0]
        rounds = [Round(torch.tensor([s]), torch.tensor([n])) for s, n in decided["rounds"]]
        return replay(problem, rounds, settings)

    return Sampler(run, decide)


RSCD = Method(sampler, PRESETS, maps=False)


def _median(steps: Tensor) -> Tensor:
    return torch.full_like(steps, float(steps.quantile(0.5)))


def _steps(levels: Tensor, p: Problem, calibrator: Calibrator, s: RscdSettings) -> Tensor:
    """Convert a calibrator's noise levels (B,) to fractional steps of the schedule (B,) float64."""
    sigma = levels.cpu().double() * p.strength
    if s.preserving and not calibrator.counts_steps:
        # a measured level is the noise of x_t, sqrt(1 - abar_t); a predicted step is t itself
        sigma = sigma / (1 - sigma**2).clamp_min(1e-6).sqrt()
    return torch.from_numpy(schedule(s.schedule).step(sigma.numpy()))


def _block(steps: Tensor, active: Tensor, number: int, s: RscdSettings, highest: float) -> Round:
    """Where each tile starts in this round, and how many steps it takes.

    highest: noise level of T', the last step that the network was trained on.
    """
    last = math.floor(float(schedule(s.schedule).step(highest)) + ROUNDING)
    whole = (steps + ROUNDING).trunc() if s.truncate else steps.round()
    whole = whole.clamp(max=last if s.cap is None else s.cap).long()
    final = torch.full_like(active, s.every == 0 or number == s.most - 1)
    if s.below:
        final = final | (whole < s.below)
    ahead = torch.where(final, s.ahead_last, s.ahead) if s.every else 0
    start = (whole + ahead).clamp(0, last)
    count = torch.where(final, start, start.clamp(max=max(s.every, 1)))
    return Round(torch.where(active, start, 0), torch.where(active, count, 0))


def _advance(
    p: Problem, x: Tensor, block: Round, table: Schedule, s: RscdSettings, number: int
) -> Tensor:
    """x after block `number`. The chain itself runs in x = x0 + sigma n, as in all samplers."""
    abar = torch.tensor(table.abar, dtype=torch.float64)
    length = int(block.count.max())
    offset = number * s.every  # in the noise field; only in its last block a tile takes more steps
    k = torch.arange(length + 1)[:, None]
    index = torch.maximum(block.start - k, block.start - block.count)  # (length + 1, B)
    sigmas = torch.from_numpy(table.sigmas().copy())[index].to(x)
    shape = (-1, 1, 1, 1)
    if s.preserving:  # here x is sqrt(abar_t) times the state
        x = x / abar[index[0]].sqrt().reshape(shape).to(x)
    rule = ddim_rule(1.0, s.variance, s.noise_at_end)
    x = walk(p.denoise, x, sigmas, rule, lambda k, tiles: p.draw(offset + k, tiles), p.condition)
    return x * abar[index[-1]].sqrt().reshape(shape).to(x) if s.preserving else x
