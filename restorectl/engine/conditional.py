"""DDPM microscopy (Osuna-Vargas et al.): generate the image from noise, given the degraded one.

The network gets the state and the degraded image as channels, and the state's noise level only: one
model covers every degradation it was trained on. It was trained on continuous noise levels, so a
sample needs far fewer steps than the schedule has.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from restorectl.engine.samplers import (
    Decided,
    Denoise,
    Draw,
    Method,
    Problem,
    Sampler,
    clamped,
    ddim_rule,
    start_level,
    walk,
)
from restorectl.engine.schedule import schedule

START_DRAW = 1 << 23  # step number of the starting noise


@dataclass(frozen=True)
class ConditionalSettings:
    schedule: str = "cosine200"
    steps: int = 10  # network calls per sample, evenly spaced in schedule steps
    eta: float = 1.0  # 1 = DDPM with the posterior's variance, 0 = DDIM
    clamp: bool = False  # limit x0 to [-1, 1]
    # starting level: above 20 the state carries no image information; None = the schedule's last
    highest: float | None = 20.0


def generated(
    denoise: Denoise, given: Tensor, settings: ConditionalSettings, steps: int, draw: Draw
) -> Tensor:
    """Images (B, C, H, W) from the noise that `draw` gives, in so many steps.

    given: (B, ., H, W) float32, the condition of `denoise`.
    """
    table = schedule(settings.schedule)
    first = table.steps if settings.highest is None else float(table.step(settings.highest))
    numbers = torch.linspace(first, 0, steps + 1, dtype=torch.float64)
    levels = torch.from_numpy(table.sigma(numbers.numpy())).to(given)
    sigmas = levels[:, None].expand(-1, len(given)).contiguous()  # (K + 1, B)
    begin = levels[0] * draw(START_DRAW, torch.arange(len(given))).to(given)
    denoise = clamped(denoise) if settings.clamp else denoise
    return walk(denoise, begin, sigmas, ddim_rule(settings.eta), draw, given)


def sampler(settings: ConditionalSettings, samples: int) -> Sampler:
    """The sampler for these settings; each sample of a tile starts from its own noise."""

    def run(p: Problem, decided: Decided) -> Tensor:
        given = p.x if p.guide is None else p.guide
        if p.joined:
            level = p.sigma.reshape(-1, 1, 1, 1).expand_as(given[:, :1])
            given = torch.cat([given, level], 1)  # (B, C + 1, H, W)
        return generated(p.denoise, given, settings, p.steps or settings.steps, p.draw)

    return Sampler(run, start_level, lambda steps: steps or settings.steps)


CONDITIONAL = Method(
    sampler,
    {
        "restorectl": ConditionalSettings(),
        "paper": ConditionalSettings(steps=200, clamp=True, highest=None),
    },
    "conditional",
    guided=True,
)
