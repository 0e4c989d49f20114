"""One call of a network that was trained to map a degraded image to a restored one.

Such networks (CARE, Noise2Void, Noise2Noise, Deep Image Prior) are told no noise level: the input
label of the engine's networks is constant.
"""

import torch
from torch import Tensor

from restorectl.engine.denoiser import TOLD_FROM
from restorectl.engine.samplers import Decided, Denoise, Method, Plain, Problem, Sampler

CODE_DRAW = 1 << 25  # step number of the random image that Deep Image Prior starts from


def estimate(denoise: Denoise, x: Tensor) -> Tensor:
    """The restored image (B, C, H, W) for x (B, C, H, W), in one call."""
    return denoise(x, torch.full((len(x),), TOLD_FROM, device=x.device), None)


def _run(p: Problem, decided: Decided) -> Tensor:
    return estimate(p.denoise, p.x)


def _generate(p: Problem, decided: Decided) -> Tensor:
    return estimate(p.denoise, p.draw(CODE_DRAW, torch.arange(len(p.x))).to(p.x))


def _method(recipe: str = "", generate: bool = False, guided: bool = False) -> Method:
    made = Sampler(_generate if generate else _run, calls=lambda steps: 1)
    return Method(
        lambda settings, samples: made,
        {"restorectl": Plain()},
        "direct",
        guided=guided,
        maps=False,
        stepwise=False,
        recipe=recipe,
    )


TRAINED = _method()
N2V = _method("n2v")
NOISE2NOISE = _method("noise2noise", guided=True)
DIP = _method("dip", generate=True)
