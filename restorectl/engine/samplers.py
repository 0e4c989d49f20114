"""Samplers: the sampling loop, its step rules, and the methods that need nothing else.

A state is x = x0 + sigma * n ("variance exploding"); a variance-preserving chain is the same chain
scaled, so DDPM and DDIM need no discrete schedule here. An observation with white noise is a state
at its own noise level, and restoring it means to walk from there down to 0. The loop takes a sigma
schedule, a step rule and a hook; it knows no network and no image, and it neither prints nor saves.
Every method of catalog.METHODS is a `Method` that makes a `Sampler`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from restorectl.errors import UsageError

Denoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x, sigma, condition) -> x0
Draw = Callable[[int, Tensor], Tensor]  # (step, indices of tiles) -> (b, C, H, W) normal numbers
Hook = Callable[[Tensor, Tensor, int], Tensor]  # (x, sigma reached (B,), step) -> x
Answers = list[tuple[Tensor, Tensor, Tensor]]  # tiles, their levels, the denoiser's answer
Decided = dict[str, Any]  # JSON values shared by all tiles of a channel, such as `sigma`


# ---- the loop ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Step:
    """Input of a step rule for the tiles that move; noise levels are (b, 1, 1, 1) float32."""

    x: Tensor  # (b, C, H, W) at level sigma
    x0: Tensor  # (b, C, H, W) the denoiser's estimate
    sigma: Tensor
    sigma_next: Tensor  # 0 <= sigma_next < sigma
    draw: Callable[[], Tensor]  # (b, C, H, W) standard normal numbers
    last_x0: Tensor  # (b, C, H, W) the estimate of the step before
    last_sigma: Tensor  # (b, 1, 1, 1) its level; NaN if there was none


Rule = Callable[[Step], Tensor]


def walk(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    rule: Rule,
    draw: Draw,
    condition: Tensor | None = None,
    after: Hook | None = None,
    relative: Tensor | None = None,
) -> Tensor:
    """Take x (B, C, H, W) along noise levels sigmas (K + 1, B) >= 0, one column per tile.

    If the next level is lower, `rule` denoises the tile; if higher, noise is added; if equal, the
    tile stays as it is and costs nothing. relative: (B, 1, H, W), the pixels' levels relative to
    the tile's; rules know only the tile's. Returns the state at the last level.
    """
    x = x.clone()
    draw = draw if relative is None else _fainter(draw, relative)
    last_x0, last_sigma = torch.zeros_like(x), torch.full_like(sigmas[0], torch.nan)
    for k in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[k], sigmas[k + 1]
        rise = (sigma_next > sigma).nonzero()[:, 0]
        if len(rise):
            spread = (sigma_next[rise] ** 2 - sigma[rise] ** 2).sqrt().reshape(-1, 1, 1, 1)
            x[rise] = x[rise] + spread * draw(k, rise).to(x)
            last_sigma[rise] = torch.nan
        move = (sigma_next < sigma).nonzero()[:, 0]
        if len(move):
            told = sigma[move]
            if relative is not None:
                told = told.reshape(-1, 1, 1, 1) * relative[move]
            x0 = denoise(x[move], told, None if condition is None else condition[move])
            step = Step(
                x[move],
                x0,
                sigma[move].reshape(-1, 1, 1, 1),
                sigma_next[move].reshape(-1, 1, 1, 1),
                partial(_numbers, draw, k, move, x),
                last_x0[move],
                last_sigma[move].reshape(-1, 1, 1, 1),
            )
            x[move] = rule(step)
            last_x0[move], last_sigma[move] = x0, sigma[move]
        if after is not None:
            x = after(x, sigma_next, k)
    return x


def _fainter(draw: Draw, relative: Tensor) -> Draw:
    """Random numbers as strong as the pixels' noise, relative to their tile's."""
    return lambda k, tiles: draw(k, tiles).to(relative) * relative[tiles]


def _numbers(draw: Draw, k: int, tiles: Tensor, like: Tensor) -> Tensor:
    return draw(k, tiles).to(like)


def first_shared(denoise: Denoise, known: Answers) -> Denoise:
    """The denoiser for one sample; its first question is answered from `known`, or added there."""
    asked = False

    def answer(x: Tensor, sigma: Tensor, condition: Tensor | None) -> Tensor:
        nonlocal asked
        if asked:
            return denoise(x, sigma, condition)
        asked = True
        for tiles, levels, x0 in known:
            if torch.equal(tiles, x) and torch.equal(levels, sigma):
                return x0.clone()
        known.append((x, sigma, denoise(x, sigma, condition)))
        return known[-1][2].clone()

    return answer


def clamped(denoise: Denoise) -> Denoise:
    """The denoiser with x0 limited to [-1, 1], as in most published samplers."""
    return lambda x, sigma, condition: denoise(x, sigma, condition).clamp(-1, 1)


# ---- rules and schedules of noise levels ---------------------------------------------------------
def ddim_rule(eta: float = 0.0, variance: str = "beta-tilde", noise_at_end: bool = False) -> Rule:
    """DDIM (Song et al. 2021, eq. 12, 16): eta = 0 is deterministic, eta = 1 is ancestral DDPM.

    "beta-tilde": noise of the posterior's variance (Ho et al. 2020, eq. 7; all published codes).
    "beta": noise of the forward step's variance (Ho et al. 2020, section 3.2; RSCD, Algorithm 1)
    on the posterior's mean, as printed; `noise_at_end` adds it in the step to sigma 0 too.
    """

    def rule(s: Step) -> Tensor:
        ratio = (s.sigma_next / s.sigma) ** 2
        posterior = s.sigma_next**2 * (1 - ratio)
        if variance == "beta":
            forward = (1 + s.sigma_next**2) * (s.sigma**2 - s.sigma_next**2) / (1 + s.sigma**2)
            mean = s.x0 + ratio * (s.x - s.x0)
            wanted = (s.sigma_next > 0) | torch.tensor(noise_at_end)
            return mean + torch.where(wanted, eta * forward.sqrt(), 0) * s.draw()
        noise = eta**2 * posterior
        mean = s.x0 + (s.sigma_next**2 - noise).clamp_min(0).sqrt() / s.sigma * (s.x - s.x0)
        return mean if eta == 0 else mean + noise.sqrt() * s.draw()

    return rule


def dpmpp_rule(s: Step) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2) for data prediction; first order at 0."""
    h = (s.sigma / s.sigma_next.clamp_min(1e-12)).log()
    r = (s.last_sigma / s.sigma).log() / h
    second = (s.x0 - s.last_x0) / (2 * r)
    x0 = s.x0 + torch.where(s.last_sigma.isnan() | (s.sigma_next <= 0), 0.0, second)
    return x0 + s.sigma_next / s.sigma * (s.x - x0)


def sigma_schedule(sigma: Tensor, steps: int, lowest: float = 0.01, rho: float = 7.0) -> Tensor:
    """Levels (steps + 1, B) from sigma (B,) to 0: Karras et al. 2022, eq. 5, for each tile.

    In float64: float32 powers can round differently with the tile's position in the batch, and a
    tile's levels must not depend on the other tiles.
    """
    top = sigma.cpu().double()
    floor = torch.minimum(torch.full_like(top, lowest), top / 2) ** (1 / rho)
    share = torch.linspace(0, 1, max(steps, 2), dtype=torch.float64)[:steps, None]
    levels = (top ** (1 / rho) + share * (floor - top ** (1 / rho))) ** rho
    return torch.cat([sigma[None], levels[1:].to(sigma), torch.zeros_like(sigma)[None]])


# ---- problems, samplers and methods --------------------------------------------------------------
class Calibrator(Protocol):
    """Estimates the noise level of tiles."""

    counts_steps: bool  # predicts a step of a chain, of which the level is the sigma

    def levels(self, x: Tensor, modelled: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) in [-1, 1] -> noise level (B,), for a denoiser of white noise.

        modelled: (B,) the intensity model's level, given only if x is the measured image.
        """
        ...


@dataclass(frozen=True)
class Problem:
    """A batch of tiles to restore, with the parameters of its restoration."""

    denoise: Denoise
    x: Tensor  # (B, C, H, W) float32, the observation in [-1, 1]
    sigma: Tensor  # (B,) float32, its noise level
    draw: Draw
    steps: int | None = None  # network calls; None = the sampler's own default
    strength: float = 1.0  # factor on the noise levels that the calibrator finds
    calibrator: Calibrator | None = None  # for methods that ask it about every tile
    highest: float = math.inf  # largest noise level that the network was trained on
    condition: Tensor | None = None
    joined: bool = False  # the network takes the condition's noise level as its last channel
    guide: Tensor | None = None  # (B, C, H, W) another method's prediction, in [-1, 1]
    relative: Tensor | None = None  # (B, 1, H, W) noise level of each pixel, relative to `sigma`

    def part(self, start: int, stop: int) -> "Problem":
        """Tiles [start, stop), with the same random numbers."""
        return replace(
            self,
            x=self.x[start:stop],
            sigma=self.sigma[start:stop],
            draw=lambda k, tiles: self.draw(k, tiles + start),
            condition=None if self.condition is None else self.condition[start:stop],
            guide=None if self.guide is None else self.guide[start:stop],
            relative=None if self.relative is None else self.relative[start:stop],
        )


def start_level(pilot: Problem, calibrator: Calibrator) -> Decided:
    """The starting level: the median over sampled tiles of one channel."""
    levels = calibrator.levels(pilot.x, pilot.sigma) * pilot.strength
    return {"sigma": float(levels.log().double().quantile(0.5).exp())}


@dataclass(frozen=True)
class Sampler:
    """Restores tiles: `decide` on sampled tiles of a channel, then `run` on all tiles."""

    run: Callable[[Problem, Decided], Tensor]  # -> x0 (B, C, H, W)
    decide: Callable[[Problem, Calibrator], Decided] = start_level
    # requested steps -> network calls per tile; None = depends on the image
    calls: Callable[[int | None], int | None] = lambda steps: None
    alike: bool = False  # samples start at the observation: the first call answers for all


@dataclass(frozen=True)
class Method:
    """A row of catalog.METHODS: its sampler, its presets and the weights it needs."""

    sampler: Callable[[Any, int], Sampler]  # (settings, samples per image) -> sampler
    presets: Mapping[str, Any]  # restorectl, paper, ... -> a frozen dataclass of settings
    task: str = "prior"  # task of its weights; also the name of the packaged ones
    # (settings, largest noise level of the weights); raises UsageError for invalid settings
    check: Callable[[Any, float], None] = lambda settings, sigma_max: None
    guided: bool = False  # can start from, or mix in, another method's result
    maps: bool = True  # can restore tiles at several noise levels and blend them
    relative: bool = False  # takes `Problem.relative`
    stepwise: bool = True  # takes a number of steps, and averaging random restorations is of use
    recipe: str = ""  # packaged recipe of a network that is trained on the images themselves

    def has(self, name: str) -> bool:
        """Whether the method has a setting of that name."""
        return name in {each.name for each in fields(self.presets["restorectl"])}

    def settings(self, preset: str = "restorectl", called: str = "", **given: Any) -> Any:
        """A preset's settings, overridden by `given`. called: the method's name, for errors.

        Raises UsageError for a preset or setting that the method does not have.
        """
        if preset not in self.presets:
            raise UsageError(f"`preset` {preset}: method {called} has {', '.join(self.presets)}")
        for name in given:
            if not self.has(name):
                raise UsageError(f"`{name}` has no effect with `method` {called}: leave it out")
        return replace(self.presets[preset], **given)


@dataclass(frozen=True)
class Plain:
    """Settings of a method that has none; only its number of steps can be chosen."""


def _plain(rule: Rule, default_steps: int) -> Method:
    def run(p: Problem, decided: Decided) -> Tensor:
        sigmas = sigma_schedule(p.sigma, p.steps or default_steps)
        return walk(p.denoise, p.x, sigmas, rule, p.draw, p.condition, relative=p.relative)

    made = Sampler(run, calls=lambda steps: steps or default_steps)
    return Method(lambda settings, samples: made, {"restorectl": Plain()}, relative=True)


DDIM = _plain(ddim_rule(), 1)  # one call is the MMSE estimate; more calls are sharper
DPMPP = _plain(dpmpp_rule, 3)
ANCESTRAL = _plain(ddim_rule(eta=1.0), 10)
