"""Layers of the published networks, for activations in bf16 or float32.

`Denoiser.prepared` keeps all but convolution weights in float32; these layers cast parameters as
needed and compute statistics in float32. Parameter names are PyTorch's own.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """(B, c_in, H, W) -> (B, c_out, H', W') in the dtype of the input."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return self._conv_forward(input, self.weight.to(input.dtype), bias)


class ConvTranspose2d(nn.ConvTranspose2d):
    """Kernel 4, stride 2, padding 1: doubles height and width, in the dtype of the input."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 4, 2, 1)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        assert output_size is None
        assert self.bias is not None
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        return F.conv_transpose2d(input, weight, bias, stride=2, padding=1)


class GroupNorm(nn.GroupNorm):
    """Group normalisation with statistics in float32 (Wu and He 2018)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float()).to(input.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention: (B, heads, d, N) each -> (B, heads, d, N); logits are q.k / sqrt(d)."""
    q, k, v = (t.transpose(-1, -2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)


def sinusoids(t: Tensor, width: int, last: int) -> tuple[Tensor, Tensor]:
    """Sines and cosines, (B, width / 2) each, of t (B,) at frequencies 1e4^(-k / last)."""
    k = torch.arange(width // 2, device=t.device, dtype=torch.float32)
    angles = t.float()[:, None] * torch.exp(k * (-math.log(1e4) / last))
    return angles.sin(), angles.cos()


class Lambda(nn.Module):
    """A function as a layer, to keep the published numbering of layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)
