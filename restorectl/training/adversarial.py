"""Objectives with discriminators: pix2pix and CycleGAN. As in `objectives`: (denoiser, images
(B, C, H, W), draw) -> loss of each sample (B,).

Networks that only training needs are in `model.auxiliary`. All networks make a step at once: each
part of the loss is led to those that it is for. The publications let discriminators step first.
"""

import torch
from torch import Tensor, nn

from restorectl.engine.denoiser import Denoiser, build
from restorectl.engine.direct import estimate
from restorectl.engine.nets.patchgan import PatchGAN
from restorectl.training.degrade import degrade
from restorectl.training.objectives import Draw
from restorectl.training.recipe import Recipe
from restorectl.training.regression import pair


def auxiliary(recipe: Recipe, model: Denoiser) -> nn.ModuleDict:
    """The networks, with random weights, that the recipe's objective trains besides the model."""
    channels, width = recipe.data.channels, recipe.adversary.channels
    if recipe.objective == "pix2pix":
        return nn.ModuleDict({"judge": PatchGAN(2 * channels, width)})
    if recipe.objective == "cyclegan":
        judges = {name: PatchGAN(channels, width) for name in ("clean", "noisy")}
        return nn.ModuleDict({"back": build(model.card), **judges})
    return nn.ModuleDict()


def pix2pix(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """Map an image to its pair, so that a discriminator that sees the image cannot tell the result
    from the pair (Isola et al. 2017)."""
    target, seen = pair(x0, draw)
    made, judge = estimate(model, seen), model.auxiliary["judge"]
    real, fake = (torch.cat([seen, image], 1) for image in (target, made))
    likeness = draw.penalty(made - target).mean((1, 2, 3))
    return _contest(judge, real, fake, draw) + draw.recipe.adversary.weight * likeness


def cyclegan(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """Map noisy images to the look of clean ones of other fields, and back to what they were (Zhu
    et al. 2017); without the published memory of earlier results.

    draw.partner: noisy images of any fields; None = other crops with simulated noise.
    """
    clean, noisy = x0, draw.partner
    if noisy is None:
        clean, seen = degrade(x0, draw.recipe.degradation, draw.recipe.noise, draw.generator)
        noisy = seen.roll(1, 0)
    back, options = model.auxiliary["back"], draw.recipe.adversary
    assert isinstance(back, Denoiser)
    restored, spoilt = estimate(model, noisy), estimate(back, clean)
    cycle = (estimate(model, spoilt) - clean, estimate(back, restored) - noisy)
    same = (estimate(model, clean) - clean, estimate(back, noisy) - noisy)
    errors = [draw.penalty(error).mean((1, 2, 3)) for error in (*cycle, *same)]
    kept = errors[0] + errors[1] + options.identity * (errors[2] + errors[3])
    contests = (
        _contest(model.auxiliary["clean"], clean, restored, draw),
        _contest(model.auxiliary["noisy"], noisy, spoilt, draw),
    )
    return contests[0] + contests[1] + options.weight * kept


def _contest(judge: nn.Module, real: Tensor, fake: Tensor, draw: Draw) -> Tensor:
    """How far a discriminator is from taking `fake` for real (for the network that made it), plus
    half of how far it is mistaken (for itself): (B, C, H, W) each -> (B,)."""
    error = ERRORS[draw.recipe.adversary.loss]
    fixed = {name: value.detach() for name, value in judge.named_parameters()}
    believed = torch.func.functional_call(judge, fixed, (fake,))
    mistaken = error(judge(real), 1.0) + error(judge(fake.detach()), 0.0)
    return error(believed, 1.0) + mistaken / 2


def _cross_entropy(score: Tensor, real: float) -> Tensor:
    score = score.float()
    return nn.functional.softplus(score if real == 0 else -score).mean((1, 2, 3))


def _squares(score: Tensor, real: float) -> Tensor:
    return (score.float() - real).square().mean((1, 2, 3))


ERRORS = {"cross-entropy": _cross_entropy, "squares": _squares}
