"""Discriminators: which network each part of a loss reaches, and what they see."""

import pytest
import torch

from restorectl.engine.card import Card
from restorectl.engine.denoiser import build
from restorectl.engine.nets.patchgan import PatchGAN
from restorectl.training import adversarial
from restorectl.training import recipe as recipes
from restorectl.training.objectives import Draw, objective

CONFIG = {"channels": [8, 8], "blocks": 1, "embedding": 8}


def drawn(name, partner, *overrides):
    recipe = recipes.load(name, ["adversary.channels=4", *overrides])
    return Draw(torch.Generator().manual_seed(1), recipe, partner)


def made(recipe):
    """A model whose networks answer with more than zeros, and its auxiliary networks."""
    torch.manual_seed(0)
    model = build(Card("m", "direct", "unet", CONFIG, parametrisation="x0"))
    model.auxiliary = adversarial.auxiliary(recipe, model)
    for name, value in model.named_parameters():
        if name.endswith("net.gain"):
            torch.nn.init.constant_(value, 0.5)
    return model


def images(seed):
    return torch.randn((2, 1, 32, 32), generator=torch.Generator().manual_seed(seed))


def reached(model):
    """Names of the networks that gradients reach."""
    found = {
        "net" if name.startswith("net.") else name.split(".")[1]
        for name, value in model.named_parameters()
        if value.grad is not None and value.grad.abs().sum() > 0
    }
    model.zero_grad()
    return found


def test_a_judge_sees_parts_of_70_px():
    x = torch.zeros(1, 1, 142, 142, requires_grad=True)
    score = PatchGAN(1, 2)(x + images(0).repeat(1, 1, 5, 5)[:1, :, :142, :142])
    bare = torch.nn.Sequential(*[m for m in PatchGAN(1, 2).layers if "Norm" not in str(m)])
    seen = torch.autograd.grad(bare(x)[0, 0, 8, 8], x)[0][0, 0] != 0
    assert score.shape == (1, 1, 142 // 8 - 2, 142 // 8 - 2)
    assert (int(seen.any(0).sum()), int(seen.any(1).sum())) == (70, 70)


@pytest.mark.parametrize("loss", ["cross-entropy", "squares"])
def test_each_part_of_a_contest_reaches_its_own_network(loss):
    draw = drawn("pix2pix", images(2), f"adversary.loss={loss}")
    model = made(draw.recipe)
    judge, fake = model.auxiliary["judge"], images(3).requires_grad_()
    both = torch.cat([images(2), fake], 1)
    adversarial._contest(judge, torch.cat([images(2), images(1)], 1), both, draw).sum().backward()
    error = adversarial.ERRORS[loss]
    for_fake = torch.autograd.grad(error(judge(both), 1.0).sum(), fake)[0]
    torch.testing.assert_close(fake.grad, for_fake)
    real = torch.cat([images(2), images(1)], 1)
    own = (error(judge(real), 1.0) + error(judge(both.detach()), 0.0)).sum() / 2
    weight = judge.layers[0].weight
    torch.testing.assert_close(weight.grad, torch.autograd.grad(own, weight)[0])


@pytest.mark.parametrize(
    ("name", "networks"),
    [("pix2pix", {"net", "judge"}), ("cyclegan", {"net", "back", "clean", "noisy"})],
)
@pytest.mark.parametrize("paired", [True, False])
def test_all_networks_learn(name, networks, paired):
    draw = drawn(name, images(2) if paired else None, "degradation.level=[0.1, 0.2]")
    model = made(draw.recipe)
    loss = objective(name)(model, images(1), draw)
    assert loss.shape == (2,)
    loss.sum().backward()
    assert reached(model) == networks
    again = drawn(name, images(2) if paired else None, "degradation.level=[0.1, 0.2]")
    assert torch.equal(objective(name)(model, images(1), again), loss)


def test_unet_rcan_counts_both_of_its_images():
    small = "network.config={channels: [4, 4], groups: 1, blocks: 1, squeeze: 2, dropout: 0.0}"
    draw = drawn("unet-rcan", images(2), small)
    torch.manual_seed(0)
    card = Card("m", "direct", "unet-rcan", dict(draw.recipe.network.config), "x0")
    model = build(card)
    loss = objective("unet-rcan")(model, images(1), draw)
    found = torch.zeros(2)
    for image in model.net(images(2), both=True):
        error = image - images(1)
        edges = sum(error.roll(1, k) + error.roll(-1, k) for k in (2, 3)) - 4 * error
        inner, tiny = edges[..., 1:-1, 1:-1], 1e-6
        found += (error.square().mean((1, 2, 3)) + tiny).sqrt()
        found += 0.05 * (inner.square().mean((1, 2, 3)) + tiny).sqrt()
    torch.testing.assert_close(loss, found)
