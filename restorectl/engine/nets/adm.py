"""The U-Net of "Diffusion Models Beat GANs" (Dhariwal and Nichol 2021), as in latent diffusion and
DifFace: residual blocks with group norm, softmax attention at the coarse levels.

One class serves MSDSR (274.06 M parameters, 368 tensors) and Baikal (151.6 M, 606 tensors);
parameter names are those of their checkpoints.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorectl.engine.nets.layers import Conv2d, GroupNorm, attend, sinusoids


class ResBlock(nn.Module):
    """x (B, c_in, H, W), emb (B, c_emb) -> (B, c_out, H, W).

    The embedding is added; with `scale_shift` it scales and shifts the second norm instead.
    """

    def __init__(self, c_in: int, c_out: int, c_emb: int, groups: int, scale_shift: bool) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(
            GroupNorm(groups, c_in), nn.SiLU(), Conv2d(c_in, c_out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(c_emb, 2 * c_out if scale_shift else c_out)
        )
        self.out_layers = nn.Sequential(
            GroupNorm(groups, c_out),
            nn.SiLU(),
            nn.Identity(),  # in the place of dropout (0 in both networks) in the checkpoints
            zeroed(Conv2d(c_out, c_out, 3, padding=1)),
        )
        self.skip_connection = Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x)
        shift = self.emb_layers(emb).to(x.dtype)[:, :, None, None]
        if self.scale_shift:
            scale, shift = shift.chunk(2, 1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + shift)
        return self.skip_connection(x) + h


class AttentionBlock(nn.Module):
    """Softmax attention over all pixels in heads of `head` channels: (B, C, H, W) -> the same."""

    def __init__(self, channels: int, head: int, groups: int) -> None:
        super().__init__()
        self.head = head
        self.norm = GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor, _emb: Tensor) -> Tensor:
        h = self.qkv(self.norm(x).flatten(2).float())  # (B, heads * 3 * head, H W), float32
        q, k, v = h.unflatten(1, (-1, 3, self.head)).unbind(2)
        y = self.proj_out(attend(q, k, v).flatten(1, 2))
        return x + y.unflatten(2, x.shape[2:]).to(x.dtype)


class Stem(Conv2d):
    def forward(self, input: Tensor, _emb: Tensor | None = None) -> Tensor:
        return super().forward(input)


class Downsample(nn.Module):
    """Halve height and width by a strided 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = Conv2d(channels, channels, 3, 2, 1)

    def forward(self, x: Tensor, _emb: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Double height and width: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, _emb: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class ADM(nn.Module):
    """x (B, c_in, H, W), 0-based step (B,) -> noise (B, c_out, H, W).

    H and W are multiples of `stride`. `attention` lists the downsampling factors of the levels
    with attention. With `learn_variance` the network has c_out further outputs that place the
    step's variance between beta and beta-tilde (Nichol and Dhariwal 2021, eq. 15); `forward`
    returns them too if asked, (B, 2 c_out, H, W).
    """

    whole = True  # statistics and attention over the whole input: it keeps to one size

    def __init__(
        self,
        c_in: int = 3,
        c_out: int = 3,
        width: int = 224,
        mults: Sequence[int] = (1, 2, 3, 4),
        blocks: int | Sequence[int] = 2,
        attention: Sequence[int] = (2, 4, 8),
        head: int = 32,
        groups: int = 32,
        scale_shift: bool = False,
        learn_variance: bool = False,
    ) -> None:
        super().__init__()
        counts = [blocks] * len(mults) if isinstance(blocks, int) else list(blocks)
        self.learn_variance = learn_variance
        self.width, self.c_out, self.stride = width, c_out, 2 ** (len(mults) - 1)
        c_emb = 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, c_emb), nn.SiLU(), nn.Linear(c_emb, c_emb))

        def layer(c_from: int, c_to: int, level: int) -> list[nn.Module]:
            made: list[nn.Module] = [ResBlock(c_from, c_to, c_emb, groups, scale_shift)]
            if 2**level in attention:
                made.append(AttentionBlock(c_to, head, groups))
            return made

        inner: list[list[nn.Module]] = [[Stem(c_in, width, 3, padding=1)]]
        skips, c, deepest = [width], width, len(mults) - 1
        for level, (mult, count) in enumerate(zip(mults, counts, strict=True)):
            for _ in range(count):
                inner.append(layer(c, mult * width, level))
                c = mult * width
                skips.append(c)
            if level < deepest:
                inner.append([Downsample(c)])
                skips.append(c)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, inner))
        self.middle_block = nn.ModuleList(
            [
                ResBlock(c, c, c_emb, groups, scale_shift),
                AttentionBlock(c, head, groups),
                ResBlock(c, c, c_emb, groups, scale_shift),
            ]
        )
        outer = []
        for level, (mult, count) in reversed(list(enumerate(zip(mults, counts, strict=True)))):
            for i in range(count + 1):
                outer.append(layer(c + skips.pop(), mult * width, level))
                c = mult * width
                if level and i == count:
                    outer[-1].append(Upsample(c))
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, outer))
        head_channels = 2 * c_out if learn_variance else c_out
        self.out = nn.Sequential(
            GroupNorm(groups, c), nn.SiLU(), zeroed(Conv2d(c, head_channels, 3, padding=1))
        )

    def forward(self, x: Tensor, label: Tensor, variance: bool = False) -> Tensor:
        sine, cosine = sinusoids(label, self.width, self.width // 2)
        emb, skips = self.time_embed(torch.cat([cosine, sine], 1)), []
        for block in self.input_blocks:
            x = _through(block, x, emb)
            skips.append(x)
        x = _through(self.middle_block, x, emb)
        for block in self.output_blocks:
            x = _through(block, torch.cat([x, skips.pop()], 1), emb)
        x = self.out(x)
        return x if variance else x[:, : self.c_out]


def _through(layers: nn.Module, x: Tensor, emb: Tensor) -> Tensor:
    assert isinstance(layers, nn.ModuleList)
    for layer in layers:
        x = layer(x, emb)
    return x


def zeroed(layer: nn.Conv2d | nn.Conv1d) -> nn.Module:
    """Set a layer's weights to zero, as at the end of every residual branch."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


BAIKAL = partial(
    ADM,
    c_in=1,
    c_out=1,
    width=32,
    mults=(1, 2, 4, 8, 8, 16, 16),
    blocks=(1, 2, 2, 2, 2, 3, 4),
    attention=(8, 16, 32),
    head=64,
    groups=16,
    scale_shift=True,
    learn_variance=True,
)
