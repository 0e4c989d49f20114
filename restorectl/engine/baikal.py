"""Baikal, unpaired denoising with an unconditional prior: Forward-Backward, Mixing, Repaint.

The image is diffused forward to a step t' and taken back by the prior. Mixing pulls the state
towards the equally diffused image after every step; Repaint takes each interval of steps several
times. All three share one loop: a sigma schedule cut into blocks, a step rule, a mixing hook.

The published code treats the noisy image as clean. Here it counts as a sample at its own noise
level, so diffusing it to t' adds only the missing noise (`BaikalSettings.known`).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from restorectl.engine.samplers import (
    Decided,
    Hook,
    Method,
    Problem,
    Sampler,
    clamped,
    ddim_rule,
    sigma_schedule,
    start_level,
    walk,
)
from restorectl.engine.schedule import Schedule, schedule
from restorectl.errors import UsageError

MIX_DRAWS = 1 << 20  # first step number of the mixing noise; the step rule counts from 0

# (u: 0 at the mixing stop, 1 at t'; steps between them) -> 0 for weight `last`, 1 for `first`
WEIGHTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "constant": lambda u, steps: torch.ones_like(u),
    "linear": lambda u, steps: u,
    "cosine": lambda u, steps: torch.cos((1 - u) * math.pi / 2),
    "exponential": lambda u, steps: torch.exp(-0.1 * steps * (1 - u)),
}


@dataclass(frozen=True)
class BaikalSettings:
    """Parameters of the three methods; the presets of each are at the end of this file."""

    schedule: str = "linear"  # discrete schedule that t', stop and interval refer to
    start: float | None = None  # t'; None = `ahead` times the image's noise level
    ahead: float = 1.25
    steps: int | None = 10  # network calls from t' to 0 without repeats; None = every schedule step
    eta: float = 0.0  # 1 = ancestral sampling, 0 = deterministic
    known: bool = True  # treat the image as a sample at its noise level, else as clean
    clamp: bool = False  # limit x0 to [-1, 1]
    mix: str | None = None  # key of WEIGHTS; None = no mixing
    first: float = 0.5  # weight of the image at t' ...
    last: float = 0.1  # ... and at the mixing stop
    stop: float | None = None  # no mixing below this step; None = the image's own level
    shared_noise: bool = False  # diffuse the image with the same noise at every step
    interval: int = 1  # U: length in steps of the intervals that are repeated
    repeats: int = 1  # R: how often each interval is run
    renoise: bool = False  # add noise between repeats (RePaint), else reuse the state unchanged
    repeat_below: bool = True  # repeat intervals below the mixing stop too


def sampler(settings: BaikalSettings, samples: int) -> Sampler:
    """The sampler for these settings."""

    def run(p: Problem, decided: Decided) -> Tensor:
        return _run(p, settings)

    def calls(steps: int | None) -> int | None:
        count = steps or settings.steps
        if count is None or not settings.repeat_below:
            return None
        return sum(last - first for first, last, _ in _blocks(count, settings, None))

    return Sampler(run, start_level, calls)


def _run(p: Problem, s: BaikalSettings) -> Tensor:
    table = schedule(s.schedule)
    own = p.sigma if s.known else torch.zeros_like(p.sigma)
    begin, reference = p.x, p.x
    if p.guide is not None:  # nearly clean; starts the chain only if there is no mixing
        reference, own = p.guide, torch.zeros_like(own)
        begin = p.x if s.mix else p.guide
    begun = p.sigma if s.known and begin is p.x else torch.zeros_like(p.sigma)
    levels = _levels(p, s, table)
    denoise = clamped(p.denoise) if s.clamp else p.denoise
    rule, mix = ddim_rule(s.eta), _mixing(p, reference, own, levels[0], table, s)
    x = walk(denoise, begin, torch.stack([begun, torch.maximum(levels[0], begun)]), rule, p.draw)
    at = 1
    for first, last, again in _blocks(len(levels) - 1, s, _stops(levels, p, s, table)):
        sigmas = levels[first : last + 1]
        if again and s.renoise:
            sigmas = torch.cat([levels[last : last + 1], sigmas])
        elif again and not s.known:  # as published: x_(t-U) of the variance-preserving chain
            x = x * _amplitude(levels[last]) / _amplitude(levels[first])

        def draw(k: int, tiles: Tensor, at: int = at) -> Tensor:
            return p.draw(at + k, tiles)

        def after(x: Tensor, sigma: Tensor, k: int, at: int = at) -> Tensor:
            return mix(x, sigma, at + k)

        x = walk(denoise, x, sigmas, rule, draw, None, after if s.mix else None)
        at += len(sigmas)
    return x


def _levels(p: Problem, s: BaikalSettings, table: Schedule) -> Tensor:
    """Noise levels (K + 1, B) from t' down to 0."""
    if s.start is None:
        top = p.sigma * s.ahead
    else:
        top = torch.full_like(p.sigma, float(table.sigma(s.start)))
    if s.known:
        top = torch.maximum(top, p.sigma)
    count = p.steps or s.steps
    if count is not None:
        return sigma_schedule(top, count)
    last = torch.from_numpy(table.step(top.cpu().double().numpy())).round()
    steps = (last - torch.arange(int(last.max()) + 1)[:, None]).clamp(min=0)
    return torch.from_numpy(table.sigma(steps.numpy())).to(top)


def _blocks(count: int, s: BaikalSettings, stop: int | None) -> Iterator[tuple[int, int, bool]]:
    """Yield (first level, last level, is a repeat) per block; `stop`: index of the mixing stop."""
    for first in range(0, count, s.interval):
        last = min(first + s.interval, count)
        below = stop is not None and first >= stop and not s.repeat_below
        for number in range(1 if below else s.repeats):
            yield first, last, number > 0


def _stop_step(p: Problem, s: BaikalSettings, table: Schedule) -> float:
    return float(table.step(float(p.sigma.max()))) if s.stop is None else s.stop


def _stops(levels: Tensor, p: Problem, s: BaikalSettings, table: Schedule) -> int:
    """Index of the first level at or below the mixing stop."""
    limit = float(table.sigma(_stop_step(p, s, table)))
    return int((levels.amax(1) > limit).sum())


def _mixing(
    p: Problem, y: Tensor, own: Tensor, top: Tensor, table: Schedule, s: BaikalSettings
) -> Hook:
    """x <- (1 - w) x + w y_t (Baikal, eq. 5), where y_t is y noised to the state's level."""
    stop, start = _stop_step(p, s, table), float(table.step(float(top.max())))
    shape, everyone = (-1, 1, 1, 1), torch.arange(len(y))

    def after(x: Tensor, sigma: Tensor, k: int) -> Tensor:
        t = torch.from_numpy(table.step(sigma.cpu().double().numpy()))
        u = ((t - stop) / max(start - stop, 1e-9)).clamp(0, 1)
        weight = s.last + (s.first - s.last) * WEIGHTS[s.mix or "linear"](u, start - stop)
        weight = torch.where((t >= stop) & (t > 0), weight, 0.0).to(x).reshape(shape)
        missing = (sigma.square() - own.square()).clamp_min(0).sqrt().reshape(shape)
        noise = p.draw(MIX_DRAWS + (0 if s.shared_noise else k), everyone).to(x)
        return (1 - weight) * x + weight * (y + missing * noise)

    return after


def _amplitude(sigma: Tensor) -> Tensor:
    """sqrt(abar) at noise level sigma, (B, 1, 1, 1)."""
    return (1 + sigma.square()).rsqrt().reshape(-1, 1, 1, 1)


def check(settings: BaikalSettings, sigma_max: float) -> None:
    """Raises UsageError for invalid settings."""
    s = settings
    table = schedule(s.schedule)
    highest = math.floor(float(table.step(sigma_max)))
    if s.start is not None and not 1 <= s.start <= highest:
        raise UsageError(
            f"`start` {s.start:g}: these weights were trained for steps 1..{highest} of the"
            f" {s.schedule} schedule"
        )
    if s.start is not None and s.stop is not None and s.stop >= s.start:
        raise UsageError(f"`stop` {s.stop:g}: must be below `start` {s.start:g}")
    if s.interval < 1 or s.repeats < 1:
        raise UsageError("`interval` and `repeats` must be at least 1")


_PAPER = BaikalSettings(start=100, steps=None, eta=1.0, known=False, clamp=True)

FORWARD_BACKWARD = Method(
    sampler,
    {"restorectl": BaikalSettings(ahead=1.1, steps=5), "paper": _PAPER},
    check=check,
    guided=True,
)
MIXING = Method(
    sampler,
    {
        "restorectl": BaikalSettings(ahead=1.5, steps=8, mix="linear", first=0.7, last=0.5),
        # The published code's defaults: weights from 1 to 0.1, stop at step 50.
        "paper": replace(_PAPER, mix="linear", first=1.0, last=0.1, stop=50),
    },
    check=check,
    guided=True,
)
REPAINT = Method(
    sampler,
    {
        "restorectl": BaikalSettings(
            ahead=1.1, steps=4, mix="constant", first=0.3, stop=1, interval=2, repeats=2
        ),
        # The best setting of section 3.3: no mixing below t = 50, repeats all the way. The paper
        # has no weights, U and R: these are the code's defaults, and U and R of the entry below.
        "paper": replace(
            _PAPER, mix="constant", first=0.5, last=0.5, stop=50, interval=5, repeats=5
        ),
        # The authors' later entry to the AI4Life challenge, for structured noise: 560 calls.
        "challenge": replace(
            _PAPER,
            start=120,
            mix="linear",
            first=0.05,
            last=0.01,
            stop=10,
            interval=5,
            repeats=5,
            repeat_below=False,
        ),
    },
    check=check,
    guided=True,
)
