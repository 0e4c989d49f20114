"""Parametrisations in closed form, the folded network, weights that do not fit."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from restorectl.engine.card import Card, from_json
from restorectl.engine.denoiser import PARAMETRISATIONS, TIMES, Denoiser, build
from restorectl.engine.nets.unet import UNet
from restorectl.engine.schedule import schedule
from restorectl.errors import WeightsError
from restorectl.weights import file as weights
from restorectl.weights.registry import find

TINY = {"channels": [8, 16], "blocks": 1, "embedding": 16}
CARD = Card("tiny", "prior", "unet", TINY)


class Fixed(nn.Module):
    """A network that answers with what a perfect one would."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, label):
        return self.answer


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_a_perfect_network_gives_the_clean_image(name):
    g = torch.Generator().manual_seed(0)
    x0 = torch.rand(3, 1, 8, 8, generator=g) * 2 - 1
    eps = torch.randn(3, 1, 8, 8, generator=g)
    sigma = torch.tensor([0.02, 0.5, 4.0])
    s, abar = sigma.reshape(-1, 1, 1, 1), 1 / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)
    x, d = x0 + s * eps, 0.5
    answers = {
        "eps": eps,
        "x0": x0,
        "v": abar.sqrt() * eps - (1 - abar).sqrt() * x0,
        "edm": (x0 - d**2 / (s**2 + d**2) * x) * (s**2 + d**2).sqrt() / (s * d),
    }
    denoise = Denoiser(Fixed(answers[name]), replace(CARD, parametrisation=name))
    torch.testing.assert_close(denoise(x, sigma), x0, atol=2e-5, rtol=0)


def test_times():
    sigma = torch.tensor([0.0671 / (1 - 0.0671**2) ** 0.5])
    table = schedule("rscd")
    assert TIMES["index"](sigma, table).item() == 33  # step 34, counted from 0
    assert TIMES["alpha-bar"](sigma, None).item() == pytest.approx(0.995494, abs=1e-5)
    assert TIMES["log-sigma"](sigma, None).item() == pytest.approx(sigma.log().item() / 4)


def test_hardly_any_noise_changes_hardly_anything():
    """Far below the levels of training the embedded prior is not asked to extrapolate."""
    denoise = build(*weights.read(find("prior").obtain()[0]))
    x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for sigma in (1e-3, 6e-4, 1e-5):
        with torch.no_grad():
            moved = (denoise(x, torch.tensor([sigma])) - x).abs().max().item()
        assert moved < 5 * sigma + 1e-6


def test_folded_network_equals_the_weight_normalised_one():
    torch.manual_seed(0)
    net = UNet(**TINY).eval()
    net.gain.data.fill_(1)
    x, label = torch.randn(2, 1, 32, 48), torch.tensor([0.1, -0.7])
    with torch.no_grad():
        before = net(x, label)
        after = net.fold()(x, label)
    assert before.std() > 0.1
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def test_activations_keep_unit_size():
    torch.manual_seed(1)
    net = UNet(channels=(32, 32, 32), blocks=2, embedding=32).eval()
    net.gain.data.fill_(1)
    with torch.no_grad():
        out = net(torch.randn(1, 1, 64, 64), torch.zeros(1))
    assert 0.4 < out.std() < 2.5


def test_no_statistics_across_pixels():
    """Changing far pixels changes nothing here: exact beyond the receptive field."""
    torch.manual_seed(2)
    net = UNet(**TINY).eval().fold()
    net.gain.data.fill_(1)
    a = torch.randn(1, 1, 32, 256)
    b = a.clone()
    b[..., 200:] += 100
    with torch.no_grad():
        first, second = net(a, torch.zeros(1)), net(b, torch.zeros(1))
    assert torch.equal(first[..., :64], second[..., :64])
    assert not torch.equal(first[..., 200:], second[..., 200:])


def test_card_round_trip_rebuilds_the_network():
    denoiser = build(CARD)
    again = build(from_json(CARD.to_json(), "x"), denoiser.net.state_dict())
    x, sigma = torch.randn(1, 1, 16, 16), torch.tensor([0.3])
    assert torch.equal(denoiser(x, sigma), again(x, sigma))


def test_weights_that_do_not_fit_are_refused():
    good = build(CARD).net.state_dict()
    name = next(k for k in good if k.endswith("weight"))
    cases = {
        "missing": {k: v for k, v in good.items() if k != name},
        "unknown": good | {"other": torch.zeros(1)},
        "shape": good | {name: torch.zeros(1)},
        "NaN": good | {name: torch.full_like(good[name], torch.nan)},
    }
    for message, tensors in cases.items():
        with pytest.raises(WeightsError, match=message):
            build(CARD, tensors)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "no card"),
        ('{"name": "a", "task": "prior"}', "'network' is missing"),
        ('{"name": "a", "task": "prior", "network": "unet", "colour": 1}', "unknown key 'colour'"),
        ('{"name": "a", "task": "prior", "network": "unet", "channels": "1"}', "wrong type"),
        (
            '{"name": "a", "task": "direct", "network": "unet", "output": {"gain": [2.0]}}',
            "output needs a gain above 0 and an offset",
        ),
    ],
)
def test_broken_cards_name_the_entry(text, message):
    with pytest.raises(WeightsError, match=message):
        from_json(text, "file")


@pytest.mark.parametrize(
    "change", [{"network": "nope"}, {"parametrisation": "nope"}, {"config": {"colour": 3}}]
)
def test_cards_that_ask_for_the_unknown_are_refused(change):
    with pytest.raises(WeightsError, match=r"network|known are"):
        build(replace(CARD, **change))


def test_a_level_for_each_pixel():
    """An even map equals one level, and each half of a stepped one that of its own level."""
    torch.manual_seed(0)
    denoiser = build(CARD)
    denoiser.net.gain.data.fill_(1)
    assert denoiser.everywhere
    denoiser.prepared(torch.device("cpu"), torch.float32)
    x, levels = torch.randn(2, 1, 32, 96), torch.tensor([0.1, 0.1])
    even = denoiser(x, levels.reshape(2, 1, 1, 1).expand(2, 1, 32, 96))
    whole = denoiser(x, levels)
    assert (even - whole).abs().max() < 0.1 * (whole - denoiser(x, 2 * levels)).abs().max()
    step = torch.full((2, 1, 32, 96), 0.1)
    step[..., 48:] = 0.4
    there = denoiser(x, step)
    torch.testing.assert_close(there[..., :24], even[..., :24], atol=5e-4, rtol=0)
    assert (there[..., 72:] - even[..., 72:]).abs().max() > 0.01
