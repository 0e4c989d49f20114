"""The denoiser: wraps a network as `denoise(x, sigma, condition) -> x0`, all that samplers need.

What the network predicts (parametrisation), how it receives the noise level (time) and how its
inputs are scaled are defined only here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from restorectl import catalog
from restorectl.engine.card import Card
from restorectl.engine.schedule import Schedule, schedule
from restorectl.errors import WeightsError, did_you_mean, first_line

Coefficients = tuple[Tensor, Tensor, Tensor]  # c_in, c_skip, c_out: x0 = c_skip x + c_out F(c_in x)


def _edm(s: Tensor, d: float) -> Coefficients:
    """Karras et al. 2022, Table 1."""
    total = (s**2 + d**2).sqrt()
    return 1 / total, d**2 / total**2, s * d / total


def _eps(s: Tensor, d: float) -> Coefficients:
    """The network predicts the noise (Ho et al. 2020)."""
    return (1 + s**2).rsqrt(), torch.ones_like(s), -s


def _x0(s: Tensor, d: float) -> Coefficients:
    """The network predicts the clean image."""
    return (1 + s**2).rsqrt(), torch.zeros_like(s), torch.ones_like(s)


def _v(s: Tensor, d: float) -> Coefficients:
    """The network predicts v = sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans and Ho 2022)."""
    root = (1 + s**2).rsqrt()
    return root, root**2, -s * root


PARAMETRISATIONS: dict[str, Callable[[Tensor, float], Coefficients]] = {
    "edm": _edm,
    "eps": _eps,
    "x0": _x0,
    "v": _v,
}


def fused(x: Tensor, condition: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fuse a state x (B, C, H, W) at sigma (B,) with a condition (B, C + 1, H, W).

    The condition's last channel is its noise level. Returns the inverse-variance weighted mean, its
    noise level (B,) and the condition without the level. For white noise the mean is a sufficient
    statistic of both; the network learns to correct for other noise and an inexact level.
    """
    bare, level = condition[:, :-1], condition[:, -1].mean((1, 2))
    share = level**2 / (sigma.float() ** 2 + level**2)
    weight = share.reshape(-1, 1, 1, 1)
    return weight * x + (1 - weight) * bare, sigma * share.sqrt(), bare


def mixed(levels: Tensor, share: Tensor) -> Tensor:
    """The level at each pixel (B, 1, H, W) between the first and the second of levels (B, 2).

    share: (B, 1, H, W) of the second, as a network interpolates them: in the logarithm.
    """
    first, second = levels.float().log()[:, :, None, None, None].unbind(1)
    return (first + share * (second - first)).exp()


def _index(sigma: Tensor, table: Schedule | None) -> Tensor:
    """The nearest step, counted from 0 as in the published discrete-time networks."""
    assert table is not None
    steps = torch.from_numpy(table.step(sigma.cpu().double().numpy()))
    return steps.round().clamp(1, table.steps).sub(1).to(sigma)


# The lowest level of training (`recipe.Levels.min`). Told less, a network extrapolates without
# bound: at 0.0006 the embedded prior answers with 1e7. Below it, F is told this, c_out scales it.
TOLD_FROM = 0.002

TIMES: dict[str, Callable[[Tensor, Schedule | None], Tensor]] = {
    "log-sigma": lambda sigma, _: sigma.clamp_min(TOLD_FROM).log() / 4,
    "alpha-bar": lambda sigma, _: 1 / (1 + sigma**2),
    "index": _index,
}


class Denoiser(nn.Module):
    """D(x; sigma) = E[x0 | x = x0 + sigma n] for a network described by its card."""

    def __init__(self, net: nn.Module, card: Card) -> None:
        super().__init__()
        self.net, self.card = net, card
        self.auxiliary = nn.ModuleDict()  # networks that only training needs
        self.dtype = torch.float32
        self.table = schedule(card.schedule) if card.schedule else None

    @property
    def stride(self) -> int:
        """Height and width of an input must be multiples of this."""
        return int(getattr(self.net, "stride", 1))

    @property
    def everywhere(self) -> bool:
        """Whether the noise level can differ from pixel to pixel."""
        return self.card.time == "log-sigma" and bool(getattr(self.net, "everywhere", False))

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        condition: Tensor | None = None,
        share: Tensor | None = None,
    ) -> Tensor:
        """x (B, C, H, W) float32, sigma (B,) float32 > 0 -> x0 (B, C, H, W) float32.

        sigma: also (B, 1, H, W), a level for each pixel, if the network can be told `everywhere`.
        condition: (B, ., H, W) float32, further input channels of the network; see `fused`.
        share: (B, 1, H, W) in [0, 1], of the second of two levels `sigma` (B, 2) at each pixel, for
        training; see `mixed`.
        """
        if condition is not None and self.card.fusion:
            x, sigma, condition = fused(x, condition, sigma)
        level = sigma.float() if share is None else mixed(sigma, share)
        scales = PARAMETRISATIONS[self.card.parametrisation](level, self.card.sigma_data)
        c_in, c_skip, c_out = (c if c.ndim == 4 else c.reshape(-1, 1, 1, 1) for c in scales)
        h = c_in * x
        if condition is not None:
            h = torch.cat([h, condition], 1)
        h = h.to(self.dtype, memory_format=torch.channels_last)
        label = TIMES[self.card.time](sigma.float(), self.table)
        told = (label,) if share is None else (label, share)
        return c_skip * x + c_out * self.net(h, *told).float()

    def prepared(self, device: torch.device, dtype: torch.dtype) -> "Denoiser":
        """Prepare for inference: fold weights, channels-last, convolutions in `dtype`."""
        self.eval().requires_grad_(False)
        fold = getattr(self.net, "fold", None)
        if fold is not None:
            fold()
        self.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in self.net.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.ndim == 4:
                weight.data = weight.data.to(dtype)
        self.dtype = dtype
        return self


def build(card: Card, tensors: dict[str, Tensor] | None = None) -> Denoiser:
    """The denoiser that a card describes, with tensors (if given) loaded strictly.

    Raises WeightsError for an unknown network and for a config that it cannot take or that tensors
    do not fit; nothing is allocated before they do.
    """
    choices: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
        ("network", card.network, catalog.NETWORKS),
        ("parametrisation", card.parametrisation, PARAMETRISATIONS),
        ("time", card.time, TIMES),
    )
    for what, value, table in choices:
        if value not in table:
            raise WeightsError(
                f"unknown {what} '{value}', known are: {', '.join(table)}"
                f"{did_you_mean(value, table)}"
            )
    factory: Callable[..., nn.Module] = catalog.NETWORKS[card.network].load()
    config = _plain(card.config)
    _check_sizes(card, MOST_BLOCKS if tensors is None else len(tensors))
    try:
        if tensors is not None:
            with torch.device("meta"):
                _check_shapes(factory(**config), tensors)
        net = factory(**config)
    except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
        raise WeightsError(
            f"network '{card.network}' does not take this config: {first_line(error)}"
        ) from error
    denoiser = Denoiser(net, card)
    if tensors is not None:
        load_tensors(denoiser.net, tensors)
    return denoiser


MOST_BLOCKS, WIDEST = 1000, 1 << 16  # of a network that is still to be trained


def _check_sizes(card: Card, blocks: int) -> None:
    """Raises WeightsError for sizes in a card that no network with `blocks` tensors can have."""
    for key, value in card.config.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        most = blocks if key == "blocks" else WIDEST
        for number in numbers:
            size = isinstance(number, int | float) and not isinstance(number, bool)
            least = 1 if isinstance(number, int) else 0  # shares, such as dropout, are floats
            if size and not least <= number <= most:
                raise WeightsError(
                    f"network '{card.network}' does not take this config: {key} {number} is not"
                    f" from {least} to {most}"
                )
        if len(numbers) > blocks:
            raise WeightsError(
                f"network '{card.network}' does not take this config: {key} has {len(numbers)}"
                " numbers"
            )


def load_tensors(net: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load tensors strictly; raises WeightsError as `check_tensors` does."""
    check_tensors(net, tensors)
    net.load_state_dict({name: value.float() for name, value in tensors.items()})


def check_tensors(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raises WeightsError for missing, unknown, misshapen or non-finite tensors."""
    _check_shapes(net, tensors)
    for name, value in tensors.items():
        if not torch.isfinite(value.float()).all():
            raise WeightsError(f"weights: tensor '{name}' holds NaN or infinity")


def _check_shapes(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raises WeightsError for missing, unknown or misshapen tensors."""
    expected = net.state_dict()
    missing, extra = sorted(expected.keys() - tensors), sorted(tensors.keys() - expected)
    if missing or extra:
        raise WeightsError(
            f"weights do not fit their network: {len(missing)} tensors missing"
            f" ({', '.join(missing[:2])}), {len(extra)} unknown ({', '.join(extra[:2])})"
        )
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            raise WeightsError(
                f"weights: tensor '{name}' has shape {tuple(value.shape)},"
                f" the network needs {tuple(expected[name].shape)}"
            )


def fits(card: Card, tensors: Mapping[str, Tensor]) -> None:
    """Raises WeightsError unless tensors fit the card's network; allocates no network."""
    with torch.device("meta"):
        net = build(card).net
    check_tensors(net, tensors)


def _plain(config: Any) -> dict[str, Any]:
    return {str(k): tuple(v) if isinstance(v, list) else v for k, v in dict(config).items()}
