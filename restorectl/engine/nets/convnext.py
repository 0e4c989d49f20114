"""RSCD's diffusion U-Net (Table 3): ConvNeXt blocks and attention.

Blocks after Liu et al. 2022 ("A ConvNet for the 2020s") with 3x3 instead of 1x1 convolutions,
linear attention after Shen et al. 2021. Normalisation is over the whole input, so the
network runs at one window size. Parameter names are those of the published checkpoints: 288
tensors. The published base width, 256, is its image size; "init dim 128" is the stem only.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from restorectl.engine.nets.layers import (
    Conv2d,
    ConvTranspose2d,
    GroupNorm,
    Lambda,
    attend,
    sinusoids,
)

HEADS, HEAD_WIDTH = 4, 32


class Block(nn.Module):
    """x (B, c_in, H, W), emb (B, c_emb) -> (B, c_out, H, W); c_emb = 0: no time embedding."""

    def __init__(self, c_in: int, c_out: int, c_emb: int, mult: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.GELU(), nn.Linear(c_emb, c_in)) if c_emb else None
        self.ds_conv = Conv2d(c_in, c_in, 7, padding=3, groups=c_in)
        self.net = nn.Sequential(
            GroupNorm(1, c_in),
            Conv2d(c_in, c_out * mult, 3, padding=1),
            nn.GELU(),
            GroupNorm(1, c_out * mult),
            Conv2d(c_out * mult, c_out, 3, padding=1),
        )
        self.res_conv = Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.ds_conv(x)
        if self.mlp is not None:
            h = h + self.mlp(emb).to(x.dtype)[:, :, None, None]
        return self.net(h) + self.res_conv(x)


def _heads(projected: Tensor) -> tuple[Tensor, ...]:
    """(B, 3 heads d, H, W) -> queries, keys, values (B, heads, d, H W)."""
    parts = projected.flatten(2).chunk(3, 1)
    return tuple(part.reshape(len(part), HEADS, HEAD_WIDTH, -1) for part in parts)


class Attention(nn.Module):
    """Softmax attention over all pixels: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_qkv = Conv2d(channels, 3 * HEADS * HEAD_WIDTH, 1, bias=False)
        self.to_out = Conv2d(HEADS * HEAD_WIDTH, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = attend(*_heads(self.to_qkv(x)))
        return self.to_out(y.flatten(1, 2).unflatten(2, x.shape[2:]))


class LinearAttention(nn.Module):
    """Linear-cost attention: queries normalised over channels, keys over pixels; same shapes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_qkv = Conv2d(channels, 3 * HEADS * HEAD_WIDTH, 1, bias=False)
        self.to_out = nn.Sequential(Conv2d(HEADS * HEAD_WIDTH, channels, 1), GroupNorm(1, channels))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.float() for t in _heads(self.to_qkv(x)))
        q, k = q.softmax(2) * HEAD_WIDTH**-0.5, k.softmax(3)
        context = k @ v.transpose(2, 3)  # (B, heads, d, d)
        y = (context.transpose(2, 3) @ q).to(x.dtype)
        return self.to_out(y.flatten(1, 2).unflatten(2, x.shape[2:]))


class Normed(nn.Module):
    def __init__(self, channels: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = GroupNorm(1, channels), fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class Residual(nn.Module):
    def __init__(self, channels: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = Normed(channels, fn)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(x)


class ConvNextUNet(nn.Module):
    """x (B, c_in, H, W), 0-based step (B,) -> noise (B, c_in, H, W).

    H and W are multiples of `stride`; the published network runs at 256 x 256.
    """

    whole = True  # statistics and attention over the whole input: it keeps to one size

    def __init__(
        self,
        c_in: int = 2,
        dim: int = 256,
        init_dim: int = 128,
        dim_mults: Sequence[int] = (1, 2, 2, 4),
        convnext_mult: int = 2,
    ) -> None:
        super().__init__()
        widths = [init_dim, *(dim * mult for mult in dim_mults)]
        pairs, c_emb = list(pairwise(widths)), 4 * dim
        self.dim, self.stride = dim, 2 ** (len(dim_mults) - 1)
        self.init_conv = Conv2d(c_in, init_dim, 7, padding=3)
        self.time_mlp = nn.Sequential(
            Lambda(lambda t: torch.cat(sinusoids(t, dim, dim // 2 - 1), 1)),
            nn.Linear(dim, c_emb),
            nn.GELU(),
            nn.Linear(c_emb, c_emb),
        )

        def level(c_from: int, c_to: int, resample: nn.Module) -> nn.ModuleList:
            blocks = [Block(c, c_to, c_emb, convnext_mult) for c in (c_from, c_to)]
            return nn.ModuleList([*blocks, Residual(c_to, LinearAttention(c_to)), resample])

        last, c = len(pairs) - 1, widths[-1]
        self.downs = nn.ModuleList(
            level(a, b, Conv2d(b, b, 4, 2, 1) if i < last else nn.Identity())
            for i, (a, b) in enumerate(pairs)
        )
        self.mid_block1 = Block(c, c, c_emb, convnext_mult)
        self.mid_attn = Residual(c, Attention(c))
        self.mid_block2 = Block(c, c, c_emb, convnext_mult)
        self.ups = nn.ModuleList(
            level(2 * b, a, ConvTranspose2d(a, a)) for a, b in reversed(pairs[1:])
        )
        self.final_conv = nn.Sequential(
            Block(widths[1], widths[1], 0, convnext_mult), Conv2d(widths[1], c_in, 1)
        )

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        emb, skips = self.time_mlp(label), []
        x = self.init_conv(x)
        level: Any
        for level in self.downs:
            x = _through(level, x, emb)
            skips.append(x)
            x = level[3](x)
        x = self.mid_block2(self.mid_attn(self.mid_block1(x, emb)), emb)
        for level in self.ups:  # the skip of the finest level is not used
            x = level[3](_through(level, torch.cat([x, skips.pop()], 1), emb))
        return self.final_conv(x)


def _through(level: Any, x: Tensor, emb: Tensor) -> Tensor:
    """Run the two blocks and the attention of a level."""
    return level[2](level[1](level[0](x, emb), emb))
