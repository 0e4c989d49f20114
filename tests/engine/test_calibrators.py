"""The calibrator network: any size, exact scaling with the window, no dependence on the batch."""

import math

import pytest
import torch

from restorectl.engine.card import Card
from restorectl.engine.denoiser import build
from restorectl.engine.nets.calibrator import Calibrator
from restorectl.errors import WeightsError

TINY = {"filters": 4, "channels": (8, 8), "hidden": 8}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Calibrator(**TINY).eval()


@pytest.mark.parametrize("shape", [(3, 1, 64, 64), (1, 1, 100, 256), (2, 1, 33, 47)])
def test_one_number_for_each_window_of_any_size(net, shape):
    out = net(torch.randn(shape))
    assert out.shape == shape[:1]
    assert out.dtype == torch.float32
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("factor", [1e-3, 0.2, 30.0])
def test_scaling_a_window_adds_the_logarithm(net, factor):
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        shift = net(factor * x + 0.7) - net(x)
    assert torch.allclose(shift, torch.full((2,), math.log(factor)), atol=2e-3)


def test_windows_do_not_see_each_other(net):
    x = torch.randn(4, 1, 64, 64) * torch.tensor([1e-3, 0.1, 1, 10]).reshape(4, 1, 1, 1)
    with torch.no_grad():
        alone = torch.cat([net(x[i : i + 1]) for i in range(4)])
        assert torch.allclose(net(x), alone, atol=1e-5)


def test_a_constant_window_is_finite(net):
    assert torch.isfinite(net(torch.zeros(1, 1, 64, 64))).all()


def test_bf16_keeps_faint_noise(net):
    """A thousandth of the contrast is below the resolution of bf16 around 1."""
    ramp = torch.linspace(-1, 1, 128).reshape(1, 1, 1, 128).expand(1, 1, 128, 128)
    x = ramp + 1e-3 * torch.randn(1, 1, 128, 128)
    with torch.no_grad():
        full = net(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(x)
    assert torch.allclose(full, half, atol=0.03)


def test_default_size_and_gradients():
    net = Calibrator()
    assert 0.3e6 < sum(p.numel() for p in net.parameters()) < 1e6
    net(torch.randn(2, 1, 64, 64)).sum().backward()
    unused = [n for n, p in net.named_parameters() if p.grad is None]
    assert not unused


def test_a_card_rebuilds_it():
    card = Card("c", "calibrator", "calibrator", {**TINY, "output": "step", "steps": 500})
    net = build(card).net
    assert (net.output, net.steps) == ("step", 500)
    again = build(card, net.state_dict()).net
    x = torch.randn(2, 1, 64, 64)
    assert torch.equal(net(x), again(x))
    with pytest.raises(WeightsError, match="output 'mean'"):
        build(Card("c", "calibrator", "calibrator", {"output": "mean"}))
