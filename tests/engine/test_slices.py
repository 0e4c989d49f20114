"""Masked slices: what the network sees, what comes back, and the noise of neighbouring slices."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from restorectl import catalog
from restorectl.engine import slices
from restorectl.engine.card import Card
from restorectl.engine.denoiser import Denoiser, build
from restorectl.engine.noise_field import Site, SliceNoise, independent, shared, slerp
from restorectl.engine.runner import Runner
from restorectl.engine.samplers import Problem
from restorectl.training.objectives import Draw, objective
from restorectl.training.recipe import Recipe, Slices

CONFIG = {"c_in": 3, "channels": [8], "blocks": 1, "embedding": 8}
RESIDUAL = Card("r", "slices", "unet", CONFIG, sigma_data=0.12, objective="slices",
                anchors="linear,cubic")  # fmt: skip
PIXELS = replace(RESIDUAL, config=CONFIG | {"c_in": 1}, anchors="", sigma_data=0.5)


class Watch(nn.Module):
    """A network that remembers its input and answers zero."""

    def __init__(self, channels=1):
        super().__init__()
        self.seen, self.channels = [], channels

    def forward(self, x, label):
        self.seen.append(x.clone())
        return torch.zeros(len(x), self.channels, *x.shape[2:])


def filled(card, net, sampler="ddim", steps=3, base="linear"):
    model = Denoiser(net, card)
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    rows = torch.zeros(2, 1, 8, 8)
    rows[:, :, ::4] = 1
    field = SliceNoise(3)
    sites = [Site((0, 0, k), 0, 0) for k in range(2)]
    problem = Problem(
        lambda x, s, c=None: model(x, s, c), x, torch.ones(2),
        lambda k, tiles: field.draw([sites[i] for i in tiles.tolist()], (8, 8), k),
        steps, guide=rows,
    )  # fmt: skip
    before = x.clone()
    made = slices.run(problem, catalog.METHODS[sampler].load().sampler(None, 1), model, base)
    assert torch.equal(x, before), "the input was changed"
    return x, rows, made


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp", "ancestral"])
@pytest.mark.parametrize("card", [RESIDUAL, PIXELS, replace(PIXELS, objective="ms-unet")])
def test_observed_rows_come_back_bit_by_bit(card, sampler):
    x, rows, made = filled(card, Watch(), sampler)
    assert torch.equal(made[rows > 0], x[rows > 0])
    assert not torch.equal(made[rows == 0], x[rows == 0])


@pytest.mark.parametrize(("base", "code"), [("linear", 0.0), ("cubic", -1.0)])
def test_residual_network_sees_the_base_and_marks_and_no_noise_in_observed_rows(base, code):
    net = Watch()
    x, rows, _ = filled(RESIDUAL, net, base=base)
    for seen in net.seen:
        assert torch.equal(seen[:, 1:2], x)
        assert torch.equal(seen[:, 2:], torch.where(rows > 0, 1.0, code))
        assert (seen[:, :1][rows > 0] == 0).all()
        assert (seen[:, :1][rows == 0] != 0).all()


@pytest.mark.parametrize("parametrisation", ["edm", "eps", "v"])
def test_pixel_network_sees_the_observed_rows_as_they_are_at_every_level(parametrisation):
    net = Watch()
    x, rows, _ = filled(replace(PIXELS, parametrisation=parametrisation), net)
    assert len(net.seen) == 3
    for seen in net.seen:
        torch.testing.assert_close(seen[rows > 0], x[rows > 0])


def test_a_perfect_denoiser_of_residuals_gives_the_image():
    truth = torch.rand(1, 1, 8, 8)
    rows = torch.zeros(1, 1, 8, 8)
    rows[:, :, ::2] = 1
    base = truth * rows
    free = slices.residual_denoise(lambda x, s, c: truth - base, base, slices.marks(rows, "linear"))
    r = free(torch.randn(1, 1, 8, 8), torch.ones(1), None)
    torch.testing.assert_close(base + r, truth)


@pytest.mark.parametrize("weights", [shared, slerp, independent])
def test_noise_has_unit_variance_and_does_not_depend_on_tiles(weights):
    field = SliceNoise(1, 0, weights, 50)
    whole = field.draw([Site((0, 0, 7), 0, 0)], (200, 160), 2)[0, 0].numpy()
    part = field.draw([Site((0, 0, 7), 100, 60)], (50, 40), 2)[0, 0].numpy()
    assert np.array_equal(whole[100:150, 60:100], part)
    assert whole.std() == pytest.approx(1, abs=0.02)


def test_neighbouring_slices_share_what_was_asked_for():
    def correlation(weights, a, b):
        x, y = SliceNoise(1, 0, weights, 64).draw(
            [Site((0, 0, k), 0, 0) for k in (a, b)], (128, 128), 0
        )
        return float(np.corrcoef(x.numpy().ravel(), y.numpy().ravel())[0, 1])

    assert correlation(shared, 3, 40) == pytest.approx(1)
    assert abs(correlation(independent, 3, 4)) < 0.03
    assert correlation(slerp, 3, 4) > 0.9999
    assert 0.99 < correlation(slerp, 0, 63) < 0.999


def test_directions_and_samples_have_noise_of_their_own():
    site = [Site((0, 0, 0), 0, 0)]
    fields = [
        SliceNoise(1, k, shared, 9, n).draw(site, (64, 64), 0) for k in (0, 1) for n in (0, 1)
    ]
    flat = np.stack([f.numpy().ravel() for f in fields])
    assert np.abs(np.corrcoef(flat) - np.eye(4)).max() < 0.06


def draw(generator, **law):
    return Draw(generator, Recipe("slices", "slices", slices=Slices(**law)))


@pytest.mark.parametrize("card", [RESIDUAL, PIXELS])
@pytest.mark.parametrize("grids", [0.0, 1.0])
def test_slices_loss_counts_hidden_rows_only(card, grids):
    """A network that answers zero in a smooth image: linear rows are exact, residuals vanish."""
    model = Denoiser(Watch(), card)
    ramp = torch.linspace(-1, 1, 32).reshape(1, 1, 32, 1).expand(4, 1, 32, 16).contiguous()
    before = ramp.clone()
    generator = torch.Generator().manual_seed(0)
    loss = objective("slices")(model, ramp, draw(generator, grids=grids, factors=(2, 3)))
    assert loss.shape == (4,)
    assert torch.isfinite(loss).all()
    assert (loss > 0).all()
    assert torch.equal(ramp, before)


def test_regular_grids_and_random_rows_keep_as_many_rows_as_said():
    seen = []
    for grids in (0.0, 1.0):
        net = Watch()
        generator = torch.Generator().manual_seed(5)
        x0 = torch.rand(16, 1, 48, 8)
        objective("slices")(Denoiser(net, RESIDUAL), x0, draw(generator, grids=grids))
        marked = net.seen[0][:, 2, :, 0] == 1
        rows = [m.nonzero()[:, 0].tolist() for m in marked]
        assert all(48 // 8 <= len(r) <= 24 for r in rows)
        seen.append([len(set(np.diff(r))) == 1 for r in rows])
        base = net.seen[0][:, 1:2]
        for k, r in enumerate(rows):
            torch.testing.assert_close(base[k, :, r], x0[k, :, r])
    assert all(seen[1])
    assert not all(seen[0])


@pytest.mark.slow
def test_baselines_learn():
    generator = torch.Generator().manual_seed(0)
    for name, c_in, channels in (("ms-unet", 1, 1), ("e2e-unet", 2, 3)):
        card = replace(PIXELS, objective=name, config=CONFIG | {"c_in": c_in})
        torch.manual_seed(0)
        model = build(card)
        optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        losses = []
        for _ in range(30):
            x0 = (
                torch.rand(8, 1, 1, 16, generator=generator)
                .expand(-1, channels, 16, -1)
                .contiguous()
            )
            loss = objective(name)(model, x0, draw(generator)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.6 * losses[0], name


def test_planes_between_two_by_recursion():
    """A network that answers the mean of its two planes: linear interpolation."""

    class Mean(nn.Module):
        def forward(self, x, label):
            return x.mean(1, keepdim=True)

    runner = Runner(lambda: Denoiser(Mean(), PIXELS), torch.device("cpu"), torch.float32)
    planes = np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((1, 1, 4, 4), np.float32)
    made = slices.between(runner, planes, 4)
    np.testing.assert_allclose(made[:, 0, 0, 0], np.arange(9) / 4)
