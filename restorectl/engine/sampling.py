"""The one sampling loop: a path of levels, a step rule, an optional hook after each step.

It knows neither networks nor schedules nor images, and it neither prints nor saves. States are
"variance exploding", x = x0 + sigma * n; a variance-preserving chain is the same chain scaled.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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
