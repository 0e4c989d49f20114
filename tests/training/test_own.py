"""Networks trained on noisy images themselves: what is hidden, what is measured, what is kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from restorectl.errors import InputError
from restorectl.training import own, regression
from restorectl.training import recipe as recipes
from restorectl.training.loop import generator
from restorectl.training.objectives import Draw
from restorectl.training.own import Sample, fit, mask, suited
from restorectl.training.recipe import Blind

QUICK = (
    "network.config.channels=[8, 8]",
    "network.config.embedding=8",
    "optimiser.batch=4",
    "optimiser.micro_batch=4",
    "optimiser.steps=8",
    "optimiser.warmup=2",
    "data.crop=32",
)


def noise(seed=0, size=64):
    return np.random.default_rng(seed).normal(0, 0.2, (size, size)).astype(np.float32)


class Spy:
    """A model that answers with what it sees, and remembers it."""

    def __call__(self, x, sigma, condition=None):
        self.seen = x
        return x


def draw(**blind):
    blind = {"mask": "none", "around": 2, "share": 0.02} | blind
    return Draw(
        torch.Generator().manual_seed(1),
        recipes.load("n2v", [f"blind.{k}={v}" for k, v in blind.items()]),
    )


@pytest.mark.parametrize("replaced", ["median", "random"])
@pytest.mark.parametrize("turned", [False, True])
def test_hidden_pixels_get_values_of_their_neighbours_and_only_they_count(replaced, turned):
    x = torch.from_numpy(noise())[None, None].repeat(2, 1, 1, 1)
    x = x.transpose(2, 3) if turned else x  # as crops are that were turned
    model = Spy()
    loss = regression.n2v(model, x, draw(replace=replaced))
    hidden = model.seen != x
    assert hidden.flatten(1).sum(1).tolist() == [81, 81]  # one in each cell of 7 px
    expected = (model.seen - x).square().flatten(1).sum(1) / 81
    torch.testing.assert_close(loss, expected)
    for b, _, row, column in hidden.nonzero().tolist():
        around = x[b, 0, row - 2 : row + 3, column - 2 : column + 3].flatten()
        others = torch.cat([around[:12], around[13:]])
        value = model.seen[b, 0, row, column]
        assert value == others.median() if replaced == "median" else value in others


@pytest.mark.parametrize(("lines", "moved"), [("rows", (0, 4)), ("columns", (4, 0))])
def test_lines_are_hidden_with_each_pixel(lines, moved):
    options = Blind(mask=lines, reach=4)
    assert moved in regression.line(options)
    assert len(regression.line(options)) == 8
    assert len(regression.line(replace(options, mask="cross"))) == 16
    x = torch.from_numpy(noise())[None, None]
    model = Spy()
    regression.n2v(model, x, draw(mask=lines))
    assert (model.seen != x).sum() > 4 * 81


def test_a_constant_image_costs_nothing():
    x = torch.full((1, 1, 32, 32), 0.3)
    assert float(regression.n2v(Spy(), x, draw(mask="cross"))) == 0


def test_noise2noise_goes_both_ways():
    first, second = (
        torch.from_numpy(noise(seed))[None, None].repeat(64, 1, 1, 1) for seed in (1, 2)
    )
    model = Spy()
    drawn = Draw(torch.Generator().manual_seed(1), recipes.load("noise2noise"), second)
    loss = regression.noise2noise(model, first, drawn)
    from_first = (model.seen == first).flatten(1).all(1)
    assert (from_first | (model.seen == second).flatten(1).all(1)).all()
    assert 16 < from_first.sum() < 48
    torch.testing.assert_close(loss, (first - second).square().mean((1, 2, 3)))


@pytest.mark.parametrize(
    ("sigma", "found"), [((0, 0), "none"), ((0, 1), "rows"), ((1, 0), "columns"), ((1, 1), "cross")]
)
def test_the_mask_follows_the_correlation_of_the_noise(sigma, found):
    y, x = np.mgrid[:128, :128] / 128
    structure = (np.sin(7 * x) * np.cos(9 * y)).astype(np.float32)
    sample = Sample(structure + ndimage.gaussian_filter(noise(3, 128), sigma))
    assert mask([sample]) == found


@pytest.mark.parametrize("lines", ["none", "rows", "columns", "cross"])
def test_what_the_network_corrects_is_blind_to_the_noise_of_the_pixel(lines):
    recipe = suited(recipes.load("n2v", [*QUICK, f"blind.mask={lines}"]), [Sample(noise())])
    assert recipe.network.config["ring"] == lines
    net = own.untrained_model(recipe).net
    net.gain.data.zero_()
    x = torch.from_numpy(noise())[None, None].requires_grad_()
    base = net(x, torch.zeros(1))
    seen = torch.autograd.grad(base[0, 0, 20, 30], x)[0][0, 0]
    hidden = {(0, 0), *regression.line(recipe.blind)}
    assert all(seen[20 + down, 30 + across] == 0 for down, across in hidden)
    assert float(seen.sum()) == pytest.approx(1)
    torch.testing.assert_close(
        net(torch.full_like(x, 0.3), torch.zeros(1)), torch.full_like(x, 0.3)
    )


def test_crops_fit_into_small_planes_and_tiny_ones_are_refused():
    assert suited(recipes.load("n2v"), [Sample(noise(size=40))]).data.crop == (32,)
    with pytest.raises(InputError, match="planes of 8 px: training a network needs 16 or more"):
        suited(recipes.load("n2v"), [Sample(noise(size=8))])


def test_samples_reach_the_objective_as_they_are():
    reader = own.SampleReader([Sample(noise())])
    regions, _ = own.split(reader, 1, 0.0, 1)
    crops = own.CropSampler(reader, regions, 0.5).batch(0, 1, 0, 3, 32)
    options = recipes.load("n2v", ["data.flips=false"]).data
    x = own_clean(crops, options)
    assert all(
        any(
            np.abs(noise()[r : r + 32, c : c + 32] - crop).max() < 1e-6
            for r in range(33)
            for c in range(33)
        )
        for crop in x[:, 0].numpy()
    )


def own_clean(crops, options):
    from restorectl.training import augment

    return augment.clean(crops, options, generator(torch.device("cpu"), "test"))


@pytest.mark.parametrize("name", ["n2v", "noise2noise", "dip"])
def test_a_network_is_kept_by_its_content_and_not_trained_again(name, tmp_path):
    samples = [Sample(noise(1), None if name == "n2v" else noise(2))]
    recipe = suited(recipes.load(name, QUICK), samples)
    common = ("cpu", "fp32", tmp_path / "cache")
    first = fit(samples, recipe, *common)
    (kept,) = (tmp_path / "cache").iterdir()
    written = kept.stat().st_mtime_ns
    assert first.card.training["steps"] == 8
    again = fit(samples, recipe, *common)
    assert kept.stat().st_mtime_ns == written
    assert again.sha256 == first.sha256
    assert all(torch.equal(again.tensors[k], v) for k, v in first.tensors.items())
    other = fit([Sample(noise(3), samples[0].partner)], recipe, *common)
    assert other.sha256 != first.sha256
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_training_ends_where_the_loss_is_low_enough():
    samples = [Sample(noise(1), noise(2))]
    recipe = suited(recipes.load("dip", QUICK), samples)
    stopped = fit(samples, recipe, "cpu", "fp32", None, enough=1e3)
    assert stopped.card.training["steps"] == 2


def test_minutes_are_an_upper_limit():
    samples = [Sample(noise(1))]
    generous = suited(recipes.load("n2v", [*QUICK, "optimiser.minutes=60"]), samples)
    assert fit(samples, generous, "cpu", "fp32", None).card.training["steps"] == 8
    tight = suited(recipes.load("n2v", [*QUICK, "optimiser.minutes=1e-6"]), samples)
    assert fit(samples, tight, "cpu", "fp32", None).card.training["steps"] == 3
