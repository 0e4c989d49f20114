"""Samples of what the clean image may have been, given the observation (DESIGN: whitened noise).

The observation is x_t of a known level, so the reverse chain started there draws from the
posterior. In few steps the plain ancestral rule is under-dispersed: it takes each x0 for certain.
The variance-corrected rule adds the variance of x0 itself (Bao et al. 2022, "Analytic-DPM",
theorem 1), measured for each level on the image's own sampled windows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from restorectl.engine.samplers import (
    Calibrator,
    Problem,
    Rule,
    Sampler,
    Shared,
    Step,
    ddim,
    ddim_rule,
    ramp,
    start_level,
    walk,
)

PROBE_DRAWS = 1 << 22  # numbers the draws that levels are probed with
AROUND = 7  # px, side of the square that texture is taken of
PARTS = 8  # of the sampled pixels, by texture
REDRAWN = 2  # times that the windows are drawn anew to be probed again


@dataclass(frozen=True)
class Settings:
    steps: int = 10  # network calls of one sample
    variance: str = "analytic"  # or ancestral
    single: bool = True  # one sample alone is the deterministic estimate of one call


def sampler(settings: Settings, samples: int) -> Sampler:
    """The posterior's mean where one image is asked for, else draws from the posterior."""
    if samples == 1 and settings.single:
        return ddim()

    def prepare(pilot: Problem, calibrate: Calibrator) -> Shared:
        shared = start_level(pilot, calibrate)
        if settings.variance == "analytic" and shared["sigma"] > 0:
            level = torch.full_like(pilot.sigma, shared["sigma"])
            shared["spread"] = _uncertainty(pilot, ramp(level, pilot.steps or settings.steps))
        return shared

    def run(p: Problem, shared: Shared) -> Tensor:
        path = ramp(p.sigma, p.steps or settings.steps)
        rule = ddim_rule(eta=1.0)
        if "spread" in shared:
            rule = analytic_rule(_table(path[:-1, 0], shared["spread"]))
        return walk(p.denoise, p.x, path, rule, p.draw)

    return Sampler(run, prepare, lambda steps: steps or settings.steps)


def analytic_rule(spread: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """The ancestral step with the variance of Bao et al. 2022, eq. 7, but for each pixel.

    spread: (x0 (b, C, H, W), level (b, 1, 1, 1)) -> E Var[x0 | x] / level^2. In the
    variance-exploding chain the step's variance is then^2 (1 - r) + (1 - r)^2 Var[x0 | x] with
    r = then^2 / now^2. No noise at level 0.
    """

    def rule(s: Step) -> Tensor:
        r = (s.then / s.now).square()
        known = s.then.square() * (1 - r)
        unknown = ((1 - r) * s.now).square() * spread(s.x0, s.now)
        variance = torch.where(s.then > 0, known + unknown, 0.0)
        return s.x0 + r * (s.x - s.x0) + variance.sqrt() * s.draw()

    return rule


def texture(x0: Tensor) -> Tensor:
    """Logarithm of the standard deviation about each pixel: (B, C, H, W) -> the same.

    What the variance of x0 goes with: it is small in empty and smooth areas, large in fine detail.
    """
    mean = F.avg_pool2d(x0, AROUND, 1, AROUND // 2, count_include_pad=False)
    square = F.avg_pool2d(x0.square(), AROUND, 1, AROUND // 2, count_include_pad=False)
    return (square - mean.square()).clamp_min(1e-8).sqrt().log()


def _uncertainty(pilot: Problem, path: Tensor) -> list[list[list[float]]]:
    """E Var[x0 | x] / sigma^2 by texture, at each level of path (K + 1, B) but the last.

    A parametric bootstrap, which does not lean on how well the image's own level is known: the
    error of x0 on restored windows that are noised anew. Windows restored by one call are too
    smooth, so those are replaced by draws with the spread found so far.
    """
    clean = pilot.denoise(pilot.x, path[0], None)
    spread = _probe(pilot, clean, path, 0)
    for number in range(1, 1 + REDRAWN):
        rule = analytic_rule(_table(path[:-1, 0], spread))
        clean = walk(pilot.denoise, pilot.x, path, rule, pilot.draw)
        spread = _probe(pilot, clean, path, number)
    return spread


def _probe(pilot: Problem, clean: Tensor, path: Tensor, number: int) -> list[list[list[float]]]:
    """For each level: textures, and the mean squared error of x0 / sigma^2 at each of them."""
    everyone, found = torch.arange(len(clean)), []
    for k, sigma in enumerate(path[:-1]):
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
    """Of the nearest level that was probed; linear in texture between its parts."""
    at = levels.double().cpu().log()

    def look_up(x0: Tensor, sigma: Tensor) -> Tensor:
        here, found = texture(x0), torch.empty_like(x0)
        for tile, level in enumerate(sigma.flatten().double().cpu().log()):
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
