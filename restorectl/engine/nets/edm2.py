"""Network of DDPM microscopy (Osuna-Vargas et al.): the magnitude-preserving U-Net of Karras et
al. 2024 with attention.

64 x [1, 2, 4, 8] channels, conditioned on alpha-bar, one attention layer (at 32 x 32, 16 heads) as
in the public code. 64.07 M parameters; 135 state dict entries, named as in its checkpoints. `unet`
is the leaner variant that restorectl trains: no attention, pixel-unshuffle stem, folded constants.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorectl.engine.nets import unet
from restorectl.engine.nets.layers import attend

EPSILON = 1e-4
CLIP = 256.0  # activations stay within +-CLIP


def normalise(x: Tensor, dim: int) -> Tensor:
    """Normalise to unit RMS along `dim`, with the norm in float32 (Karras et al. 2024, eq. 30)."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float32)
    return x / (norm / math.sqrt(x.shape[dim]) + EPSILON).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU at unit magnitude (eq. 81)."""
    return F.silu(x) * unet.SILU_GAIN


def mp_sum(a: Tensor, b: Tensor, t: float = unet.BALANCE) -> Tensor:
    """Weighted sum at unit magnitude (eq. 88)."""
    return torch.lerp(a, b, t) / math.hypot(1 - t, t)


def mp_cat(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """Concatenate along the channels with weights 1 - t and t, at unit magnitude (eq. 103)."""
    n_a, n_b = a.shape[1], b.shape[1]
    scale = math.sqrt((n_a + n_b) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (scale / math.sqrt(n_a) * (1 - t)), b * (scale / math.sqrt(n_b) * t)], 1)


class Conv(unet.Conv):
    """`unet`'s convolution; in training the stored weight is normalised too (eq. 66)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.folded:
            with torch.no_grad():
                self.weight.copy_(_unit(self.weight))
        return super().forward(x)


class Linear(nn.Module):
    """(B, c_in) -> (B, c_out) without bias, each row of the weight at unit norm."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.weight.copy_(_unit(self.weight))
        return F.linear(x, _unit(self.weight) / math.sqrt(self.weight.shape[1]))


def _unit(weight: Tensor) -> Tensor:
    w = weight.float()
    rms = w.square().mean(tuple(range(1, w.ndim)), keepdim=True).sqrt()
    return w / (rms + EPSILON)


class Fourier(nn.Module):
    """(B,) -> (B, width): sqrt(2) cos of random frequencies, kept as buffers (eq. 75)."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(width))
        self.register_buffer("phases", 2 * math.pi * torch.rand(width))

    def forward(self, label: Tensor) -> Tensor:
        return math.sqrt(2) * torch.cos(label.float()[:, None] * self.freqs + self.phases)


class Block(nn.Module):
    """x (B, c_in, H, W), emb (B, c_emb) -> (B, c_out, H, W); heads = 0: no attention."""

    def __init__(self, c_in: int, c_out: int, c_emb: int, encoder: bool, heads: int = 0) -> None:
        super().__init__()
        self.encoder, self.heads, self.dropout = encoder, heads, 0.0
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = Conv(c_out if encoder else c_in, c_out, 3)
        self.emb_linear = Linear(c_emb, c_out)
        self.conv_res1 = Conv(c_out, c_out, 3)
        self.conv_skip = Conv(c_in, c_out, 1) if c_in != c_out else None
        self.attn_qkv = Conv(c_out, 3 * c_out, 1) if heads else None
        self.attn_proj = Conv(c_out, c_out, 1) if heads else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.encoder:
            x = normalise(self.conv_skip(x) if self.conv_skip is not None else x, 1)
        y = self.conv_res0(mp_silu(x))
        scale = (1 + self.emb_gain * self.emb_linear(emb)).to(y.dtype)[:, :, None, None]
        y = mp_silu(y * scale)
        if self.training and self.dropout:
            y = F.dropout(y, self.dropout)
        y = self.conv_res1(y)
        if not self.encoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, y)
        if self.attn_qkv is not None and self.attn_proj is not None:
            h = self.attn_qkv(x).flatten(2).unflatten(1, (self.heads, -1, 3))
            q, k, v = normalise(h, 2).unbind(3)  # (B, heads, d, H W) each
            y = attend(q, k, v).flatten(1, 2).unflatten(2, x.shape[2:])
            x = mp_sum(x, self.attn_proj(y))
        return x.clamp(-CLIP, CLIP)


class EDM2(nn.Module):
    """x (B, c_in, H, W), label (B,) -> (B, c_out, H, W); H and W are multiples of `stride`.

    The label is alpha-bar. `image_size` names the levels in the state dict. Input channels are
    [noisy, condition], in the published checkpoints [condition, noisy]. dropout: share of the
    features that training leaves out, 0.2 in DDPM microscopy.
    """

    def __init__(
        self,
        c_in: int = 2,
        c_out: int = 1,
        image_size: int = 256,
        width: int = 64,
        mults: Sequence[int] = (1, 2, 4, 8),
        blocks: int = 2,
        head: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths, c_emb = [width * m for m in mults], width * max(mults)
        self.stride = 2 ** (len(mults) - 1)
        self.emb_fourier = Fourier(width)
        self.emb_noise = Linear(width, c_emb)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        skips, c = [width], width
        for level, c_level in enumerate(widths):
            name = f"{image_size >> level}x{image_size >> level}"
            if level:
                self.enc[f"{name}_down"] = Block(c, c, c_emb, True)
                skips.append(c)
            else:
                self.enc[f"{name}_conv"] = Conv(c_in + 1, c, 3)
            for k in range(blocks):
                self.enc[f"{name}_block{k}"] = Block(c, c_level, c_emb, True)
                c = c_level
                skips.append(c)
        for level, c_level in reversed(list(enumerate(widths))):
            name = f"{image_size >> level}x{image_size >> level}"
            if level == len(widths) - 1:
                self.dec[f"{name}_in0"] = Block(c, c, c_emb, False, c // head)
                self.dec[f"{name}_in1"] = Block(c, c, c_emb, False)
            else:
                self.dec[f"{name}_up"] = Block(c, c, c_emb, False)
            for k in range(blocks + 1):
                self.dec[f"{name}_block{k}"] = Block(c + skips.pop(), c_level, c_emb, False)
                c = c_level
        for part in self.modules():
            if isinstance(part, Block):
                part.dropout = dropout
        self.out_gain = nn.Parameter(torch.zeros(()))  # the network starts at zero
        self.out_conv = Conv(c, c_out, 3)

    def fold(self) -> "EDM2":
        """Turn all weight-normalised convolutions into plain ones (inference only)."""
        for module in self.modules():
            if isinstance(module, Conv):
                module.fold()
        return self

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        emb = mp_silu(self.emb_noise(self.emb_fourier(label)))  # (B, c_emb) float32
        x, skips = torch.cat([x, torch.ones_like(x[:, :1])], 1), []
        for name, block in self.enc.items():
            if name.endswith("_down"):
                x = F.avg_pool2d(x, 2)
            x = block(x) if name.endswith("_conv") else block(x, emb)
            skips.append(x)
        for name, block in self.dec.items():
            if name.endswith("_up"):
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = block(mp_cat(x, skips.pop()) if "_block" in name else x, emb)
        return self.out_conv(x) * self.out_gain.to(x.dtype)
