"""Posterior samples: clean images that are plausible given the observation.

The observation is x_t at a known level, so the reverse chain started there draws from the
posterior. With few steps the plain ancestral rule is under-dispersed: it ignores the uncertainty
of x0. The corrected rule adds the variance of x0 (Bao et al. 2022, "Analytic-DPM", theorem 1),
measured at each level on sampled tiles of the image.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from restorectl.engine.samplers import (
    DDIM,
    Calibrator,
    Decided,
    Method,
    Problem,
    Rule,
    Sampler,
    Step,
    ddim_rule,
    sigma_schedule,
    start_level,
    walk,
)

PROBE_DRAWS = 1 << 22  # first step number of the noise for measuring the variance
AROUND = 7  # px, side of the square in which texture is measured
PARTS = 8  # groups of sampled pixels, by texture
REDRAWN = 2  # times that the tiles are sampled and measured again


@dataclass(frozen=True)
class PosteriorSettings:
    steps: int = 10  # network calls per sample
    variance: str = "analytic"  # analytic or ancestral
    single: bool = True  # a single sample is the deterministic estimate of one call


def sampler(settings: PosteriorSettings, samples: int) -> Sampler:
    """The posterior mean if one image is wanted, else samples of the posterior."""
    if samples == 1 and settings.single:
        return DDIM.sampler(DDIM.settings(), 1)

    def decide(pilot: Problem, calibrator: Calibrator) -> Decided:
        decided = start_level(pilot, calibrator)
        if settings.variance == "analytic" and decided["sigma"] > 0:
            level = torch.full_like(pilot.sigma, decided["sigma"])
            sigmas = sigma_schedule(level, pilot.steps or settings.steps)
            decided["spread"] = _uncertainty(pilot, sigmas)
        return decided

    def run(p: Problem, decided: Decided) -> Tensor:
        sigmas = sigma_schedule(p.sigma, p.steps or settings.steps)
        rule = ddim_rule(eta=1.0)
        if "spread" in decided:
            rule = analytic_rule(_table(sigmas[:-1, 0], decided["spread"]))
        return walk(p.denoise, p.x, sigmas, rule, p.draw, relative=p.relative)

    return Sampler(run, decide, lambda steps: steps or settings.steps, alike=True)


POSTERIOR = Method(sampler, {"restorectl": PosteriorSettings()}, relative=True)


def analytic_rule(spread: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """The ancestral step with the variance of Bao et al. 2022, eq. 7, per pixel.

    spread: (x0 (b, C, H, W), level (b, 1, 1, 1)) -> E Var[x0 | x] / level^2. In the
    variance-exploding chain the step's variance is sigma_next^2 (1 - r) + (1 - r)^2 Var[x0 | x]
    with r = sigma_next^2 / sigma^2. No noise at level 0.
    """

    def rule(s: Step) -> Tensor:
        r = (s.sigma_next / s.sigma).square()
        known = s.sigma_next.square() * (1 - r)
        unknown = ((1 - r) * s.sigma).square() * spread(s.x0, s.sigma)
        variance = torch.where(s.sigma_next > 0, known + unknown, 0.0)
        return s.x0 + r * (s.x - s.x0) + variance.sqrt() * s.draw()

    return rule


def texture(x0: Tensor) -> Tensor:
    """Log of the local standard deviation around each pixel: (B, C, H, W) -> (B, C, H, W).

    It predicts the variance of x0: small in empty and smooth areas, large in fine detail.
    """
    mean = F.avg_pool2d(x0, AROUND, 1, AROUND // 2, count_include_pad=False)
    square = F.avg_pool2d(x0.square(), AROUND, 1, AROUND // 2, count_include_pad=False)
    return (square - mean.square()).clamp_min(1e-8).sqrt().log()


def _uncertainty(pilot: Problem, sigmas: Tensor) -> list[list[list[float]]]:
    """E Var[x0 | x] / sigma^2 by texture, at each level of sigmas (K + 1, B) except the last.

    A parametric bootstrap: restored tiles are noised again and the error of x0 is measured, so an
    inexact noise level of the image does no harm. Tiles restored in one call are too smooth; they
    are replaced by samples drawn with the spread found so far.
    """
    clean = pilot.denoise(pilot.x, sigmas[0], None)
    spread = _probe(pilot, clean, sigmas, 0)
    for number in range(1, 1 + REDRAWN):
        rule = analytic_rule(_table(sigmas[:-1, 0], spread))
        clean = walk(pilot.denoise, pilot.x, sigmas, rule, pilot.draw)
        spread = _probe(pilot, clean, sigmas, number)
    return spread


def _probe(pilot: Problem, clean: Tensor, sigmas: Tensor, number: int) -> list[list[list[float]]]:
    """Per level: textures, and the mean squared error of x0 / sigma^2 at each texture."""
    everyone, found = torch.arange(len(clean)), []
    for k, sigma in enumerate(sigmas[:-1]):
        noise = pilot.draw(PROBE_DRAWS * (1 + number) + k, everyone).to(clean)
        level = sigma.reshape(-1, 1, 1, 1)
        x0 = pilot.denoise(clean + level * noise, sigma, None)
        error = ((x0 - clean) / level).square().flatten().double()
        order = texture(x0).flatten().double()
        parts = torch.argsort(order).tensor_split(PARTS)
        knots = [_round(float(order[part].mean())) for part in parts]
        found.append([knots, [_round(float(error[part].mean().clamp(max=1))) for part in parts]])
    return found


def _table(levels: Tensor, spread: list[list[list[float]]]) -> Callable[[Tensor, Tensor], Tensor]:
    """Look up the spread at the nearest measured level, linearly interpolated in texture."""
    at = levels.cpu().double().log()

    def look_up(x0: Tensor, sigma: Tensor) -> Tensor:
        here, found = texture(x0), torch.empty_like(x0)
        for tile, level in enumerate(sigma.flatten().cpu().double().log()):
            knots, values = spread[int((at - level).abs().argmin())]
            found[tile] = _interpolated(here[tile], here.new_tensor(knots), here.new_tensor(values))
        return found

    return look_up


def _interpolated(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear through (knots, values), constant beyond them."""
    right = torch.bucketize(x, knots).clamp(1, len(knots) - 1)
    left = right - 1
    share = (x - knots[left]) / (knots[right] - knots[left]).clamp_min(1e-6)
    return values[left] + share.clamp(0, 1) * (values[right] - values[left])


def _round(value: float) -> float:
    return float(f"{value:.4g}")
