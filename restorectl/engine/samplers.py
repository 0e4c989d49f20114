"""Step rules, paths of levels, and the samplers that combine them (rows of catalog.SAMPLERS).

All rules are written for x = x0 + sigma * n, where DDPM and DDIM need no schedule. A row is a
function that makes a `Sampler`, from its settings where it has any. A sampler starts from the
observation, which *is* a sample at its own noise level once its noise is white.

The one sampling loop: a path of levels, a step rule, an optional hook after each step.

It knows neither networks nor schedules nor images, and it neither prints nor saves. States are
"variance exploding", x = x0 + sigma * n; a variance-preserving chain is the same chain scaled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x, sigma, condition) -> x0
Draw = Callable[[int, Tensor], Tensor]  # (step, indices of tiles) -> (b, C, H, W) normal numbers
Hook = Callable[[Tensor, Tensor, int], Tensor]  # (x, level reached (B,), step) -> x


@dataclass(frozen=True)
class Step:
    """What a rule sees of the moving tiles; levels are (b, 1, 1, 1) float32."""

    x: Tensor  # (b, C, H, W) at level `now`
    x0: Tensor  # (b, C, H, W) the denoiser's estimate
    now: Tensor
    then: Tensor  # 0 <= then < now
    draw: Callable[[], Tensor]  # (b, C, H, W) standard normal numbers
    last_x0: Tensor  # (b, C, H, W) estimate one step earlier
    last: Tensor  # (b, 1, 1, 1) its level; NaN where there was none


Rule = Callable[[Step], Tensor]


def walk(
    denoise: Denoise,
    x: Tensor,
    path: Tensor,
    rule: Rule,
    draw: Draw,
    condition: Tensor | None = None,
    after: Hook | None = None,
) -> Tensor:
    """Take x (B, C, H, W) along path (K + 1, B) of levels >= 0, one column for each tile.

    A lower next level is denoised by `rule`, a higher one re-noised, an equal one held: tiles that
    have arrived cost nothing. Returns the state at the last level.
    """
    x = x.clone()
    last_x0, last = torch.zeros_like(x), torch.full_like(path[0], torch.nan)
    for k in range(len(path) - 1):
        now, then = path[k], path[k + 1]
        rise = (then > now).nonzero()[:, 0]
        if len(rise):
            spread = (then[rise] ** 2 - now[rise] ** 2).sqrt().reshape(-1, 1, 1, 1)
            x[rise] = x[rise] + spread * draw(k, rise).to(x)
            last[rise] = torch.nan
        move = (then < now).nonzero()[:, 0]
        if len(move):
            tiles = None if condition is None else condition[move]
            x0 = denoise(x[move], now[move], tiles)
            step = Step(
                x[move],
                x0,
                now[move].reshape(-1, 1, 1, 1),
                then[move].reshape(-1, 1, 1, 1),
                partial(_numbers, draw, k, move, x),
                last_x0[move],
                last[move].reshape(-1, 1, 1, 1),
            )
            x[move] = rule(step)
            last_x0[move], last[move] = x0, now[move]
        if after is not None:
            x = after(x, then, k)
    return x


def clamped(denoise: Denoise) -> Denoise:
    """A denoiser whose x0 is limited to [-1, 1], as in most published samplers."""
    return lambda x, sigma, condition: denoise(x, sigma, condition).clamp(-1, 1)


def _numbers(draw: Draw, k: int, tiles: Tensor, like: Tensor) -> Tensor:
    return draw(k, tiles).to(like)


@dataclass(frozen=True)
class Problem:
    """One batch to restore and the numbers that steer how."""

    denoise: Denoise
    x: Tensor  # (B, C, H, W) float32, the observation in [-1, 1]
    sigma: Tensor  # (B,) float32, its noise level
    draw: Draw
    steps: int | None = None  # network calls; None = the sampler's own default
    condition: Tensor | None = None
    joined: bool = False  # the network takes the condition's noise level as its last channel
    guide: Tensor | None = None  # (B, C, H, W) another method's prediction, in [-1, 1]


Calibrator = Callable[[Tensor], Tensor]  # x (B, C, H, W) in [-1, 1] -> noise level (B,)
Shared = dict[str, Any]  # what all windows of one channel share, as JSON values


def start_level(pilot: Problem, calibrate: Calibrator) -> Shared:
    """The level to start from: the median over sampled windows of one channel."""
    levels = calibrate(pilot.x).log().double()
    return {"sigma": float(levels.quantile(0.5).exp())}


@dataclass(frozen=True)
class Sampler:
    """What restores windows: `prepare` on sampled windows of a channel, `run` on all."""

    run: Callable[[Problem, Shared], Tensor]  # -> x0 (B, C, H, W)
    prepare: Callable[[Problem, Calibrator], Shared] = start_level
    # --steps -> network calls for a window; None = decided for each image
    calls: Callable[[int | None], int | None] = lambda steps: None


# ---- rules ---------------------------------------------------------------------------------------
def ddim_rule(eta: float = 0.0, variance: str = "beta-tilde", noise_at_end: bool = False) -> Rule:
    """DDIM (Song et al. 2021, eq. 12, 16): eta = 0 is deterministic, eta = 1 is ancestral DDPM.

    With "beta-tilde" the noise has the posterior's variance (Ho et al. 2020, eq. 7; all published
    codes); with "beta" the forward step's (Ho et al. 2020, section 3.2; paper 000, Algorithm 1).
    For "beta" the mean stays the posterior's, as printed; `noise_at_end` adds it at sigma 0 too.
    """

    def rule(s: Step) -> Tensor:
        ratio = (s.then / s.now) ** 2
        posterior = s.then**2 * (1 - ratio)
        if variance == "beta":
            forward = (1 + s.then**2) * (s.now**2 - s.then**2) / (1 + s.now**2)
            mean = s.x0 + ratio * (s.x - s.x0)
            wanted = (s.then > 0) | torch.tensor(noise_at_end)
            return mean + torch.where(wanted, eta * forward.sqrt(), 0) * s.draw()
        noise = eta**2 * posterior
        mean = s.x0 + (s.then**2 - noise).clamp_min(0).sqrt() / s.now * (s.x - s.x0)
        return mean if eta == 0 else mean + noise.sqrt() * s.draw()

    return rule


def dpmpp_rule(s: Step) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2) for data prediction; first order at 0."""
    h = (s.now / s.then.clamp_min(1e-12)).log()
    r = (s.last / s.now).log() / h
    second = (s.x0 - s.last_x0) / (2 * r)
    x0 = s.x0 + torch.where(s.last.isnan() | (s.then <= 0), 0.0, second)
    return x0 + s.then / s.now * (s.x - x0)


# ---- paths ---------------------------------------------------------------------------------------
def ramp(sigma: Tensor, steps: int, lowest: float = 0.01, rho: float = 7.0) -> Tensor:
    """(steps + 1, B) levels from sigma (B,) to 0: Karras et al. 2022, eq. 5, for each tile.

    In float64, because powers of a vector and of its tail round differently and a tile's levels
    must not depend on the others in its batch.
    """
    top = sigma.double().cpu()
    floor = torch.minimum(torch.full_like(top, lowest), top / 2) ** (1 / rho)
    share = torch.linspace(0, 1, max(steps, 2), dtype=torch.float64)[:steps, None]
    levels = (top ** (1 / rho) + share * (floor - top ** (1 / rho))) ** rho
    return torch.cat([sigma[None], levels[1:].to(sigma), torch.zeros_like(sigma)[None]])


# ---- samplers ------------------------------------------------------------------------------------
def _sampler(rule: Rule, default_steps: int) -> Sampler:
    def run(p: Problem, shared: Shared) -> Tensor:
        path = ramp(p.sigma, p.steps or default_steps)
        return walk(p.denoise, p.x, path, rule, p.draw, p.condition)

    return Sampler(run, calls=lambda steps: steps or default_steps)


def ddim() -> Sampler:
    """Row of catalog.SAMPLERS: one call is the MMSE estimate; more calls are sharper."""
    return _sampler(ddim_rule(), 1)


def dpmpp() -> Sampler:
    """Row of catalog.SAMPLERS."""
    return _sampler(dpmpp_rule, 3)


def ancestral() -> Sampler:
    """Row of catalog.SAMPLERS."""
    return _sampler(ddim_rule(eta=1.0), 10)
