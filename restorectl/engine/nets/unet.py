"""The magnitude-preserving U-Net: only convolutions, no statistics across pixels.

Weight-normalised convolutions, per-pixel channel normalisation and magnitude-preserving sums
(Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models") keep the
activations at unit size without any norm over the image, so a tile gives the same result as the
whole image. Constants (SiLU / 0.596, the weights of the sum) are part of the gain of the adjacent
convolution, and `fold` turns every convolution into a plain one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SILU_GAIN = 1 / 0.596  # SiLU of a unit normal has RMS 0.596
BALANCE = 0.3  # share of the residual branch in a magnitude-preserving sum
KEEP = (1 - BALANCE) / math.hypot(1 - BALANCE, BALANCE)
ADD = BALANCE / math.hypot(1 - BALANCE, BALANCE)
# Weights of the neighbours of a pixel, by the lines of pixels that share its noise.
RINGS = {
    "none": ((1, 2, 1), (2, 0, 2), (1, 2, 1)),
    "rows": ((1, 2, 1), (0, 0, 0), (1, 2, 1)),
    "columns": ((1, 0, 1), (2, 0, 2), (1, 0, 1)),
    "cross": ((1, 0, 1), (0, 0, 0), (1, 0, 1)),
}
KNOT = 0.125 * math.log(2)  # of the label log(sigma) / 4: half an octave between two knots


@dataclass(frozen=True)
class Told:
    """The embedded noise level: one for each item, or one for each pixel.

    emb: (B, embedding) float32; of two levels for each item (B, 2, embedding); or, for each pixel,
    of K levels of a fixed ladder (K, embedding).
    shares: of each level of the ladder at the pixels (B, K, H, W), or of the second of two levels
    (B, 1, H, W).
    """

    emb: Tensor
    shares: Tensor | None = None

    def scale(self, linear: nn.Linear, dtype: torch.dtype) -> Tensor:
        """1 + linear(emb) for each channel: (B, C, 1, 1) or (B, C, H, W)."""
        scale = (1 + linear(self.emb)).to(dtype)
        if self.shares is None:
            return scale[:, :, None, None]
        if scale.ndim == 3:
            first, second = scale[:, :, :, None, None].unbind(1)
            return first + self.shares.to(dtype) * (second - first)
        return F.conv2d(self.shares, scale.T[:, :, None, None].contiguous())

    def halved(self) -> "Told":
        """The same for a grid of half the height and width."""
        return self if self.shares is None else Told(self.emb, F.avg_pool2d(self.shares, 2))


class Conv(nn.Module):
    """k x k convolution without bias; each filter has unit RMS norm, times gain / sqrt(fan-in)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel))
        self.gain, self.folded = gain, False

    def effective(self) -> Tensor:
        """The normalised weight, as a plain convolution uses it: (c_out, c_in, k, k) float32."""
        w = self.weight.float()
        rms = w.square().mean((1, 2, 3), keepdim=True).sqrt()
        return w / (rms + 1e-4) * (self.gain / math.sqrt(w[0].numel()))

    def fold(self) -> None:
        """Normalise the stored weight once, for inference; it then is a plain convolution's."""
        self.weight.data = self.effective().contiguous(memory_format=torch.channels_last)
        self.folded = True

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight if self.folded else self.effective()
        return F.conv2d(x, w.to(x.dtype), padding=self.weight.shape[-1] // 2)


def pixel_norm(x: Tensor) -> Tensor:
    """Scale each pixel's channel vector to unit RMS, with the norm in float32."""
    mean_square = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
    return x * torch.rsqrt(mean_square.square() / x.shape[1] + 1e-4).to(x.dtype)


class Block(nn.Module):
    """Residual block; the noise embedding scales the channels between its two convolutions."""

    def __init__(self, c_in: int, c_out: int, c_emb: int, encoder: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.skip = Conv(c_in, c_out, 1) if c_in != c_out else None
        self.conv0 = Conv(c_out if encoder else c_in, c_out, 3, SILU_GAIN)
        self.conv1 = Conv(c_out, c_out, 3, SILU_GAIN * ADD)
        self.emb = nn.Linear(c_emb, c_out)

    def forward(self, x: Tensor, told: Told) -> Tensor:
        if self.encoder:
            x = pixel_norm(self.skip(x) if self.skip is not None else x)
        scale, y = told.scale(self.emb, x.dtype), self.conv0(F.silu(x))
        reuse = self.conv0.folded  # in training, gradients need what would be overwritten
        y = self.conv1(F.silu(y.mul_(scale) if reuse else y * scale, inplace=reuse))
        if not self.encoder and self.skip is not None:
            x = self.skip(x)
        return y.add_(x, alpha=KEEP) if reuse else torch.add(y, x, alpha=KEEP)


class UNet(nn.Module):
    """x (B, c_in, H, W), label (B,) -> (B, c_out, H, W); H and W are multiples of `stride`.

    label: of the noise level; (B, 1, H, W) where it differs from pixel to pixel; in training also
    (B, 2) with `share`, that of the second of two levels at each pixel (B, 1, H, W), at the cost
    of one level for each item.
    """

    everywhere = True  # takes a label for each pixel
    frequencies: Tensor
    phases: Tensor

    def __init__(
        self,
        c_in: int = 1,
        c_out: int = 1,
        channels: Sequence[int] = (64, 128, 192),
        blocks: int = 2,
        patch: int = 2,
        embedding: int = 256,
        top_skips: bool = True,  # False: nothing but the deeper levels reaches the first (N2V2)
        ring: str = "",  # row of RINGS: the network corrects this mean of the neighbours
        gain: float = 0.0,  # of the output before training; each step changes it by lr at most
    ) -> None:
        super().__init__()
        if ring and (ring not in RINGS or c_in != c_out):
            raise ValueError(f"ring '{ring}' is not one of {', '.join(RINGS)}, or c_in != c_out")
        self.ring = ring
        self.skipped = () if top_skips else (0,)  # levels without skip connections
        self.patch, self.blocks, self.levels = patch, blocks, len(channels)
        self.stride = patch * 2 ** (self.levels - 1)
        self.register_buffer("frequencies", torch.randn(embedding // 2))
        self.register_buffer("phases", torch.rand(embedding // 2))
        self.embed = nn.Sequential(
            nn.Linear(embedding // 2, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
            nn.SiLU(),
        )
        self.stem = Conv(c_in * patch * patch + 1, channels[0], 3)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        skips, c = [channels[0]], channels[0]
        for level, width in enumerate(channels):
            for _ in range(blocks):
                self.encoder.append(Block(c, width, embedding, True))
                c = width
                skips.append(c)
            if level < self.levels - 1:
                skips.append(c)
        self.middle = nn.ModuleList([Block(c, c, embedding, False) for _ in range(2)])
        for level, width in reversed(list(enumerate(channels))):
            for _ in range(blocks + 1):
                skip = skips.pop() if level not in self.skipped else 0
                self.decoder.append(Block(c + skip, width, embedding, False))
                c = width
        self.head = Conv(c, c_out * patch * patch, 3)
        self.gain = nn.Parameter(torch.tensor(gain))

    def fold(self) -> "UNet":
        """Turn all weight-normalised convolutions into plain ones (inference only)."""
        for module in self.modules():
            if isinstance(module, Conv):
                module.fold()
        return self

    def forward(self, x: Tensor, label: Tensor, share: Tensor | None = None) -> Tensor:
        dtype, base = x.dtype, _neighbours(x, self.ring) if self.ring else 0
        x = F.pixel_unshuffle(x, self.patch)  # (B, c_in * patch^2, H / patch, W / patch)
        told = self._told(label, share, dtype)
        x = self.stem(torch.cat([x, torch.ones_like(x[:, :1])], 1))
        skips, encoder, decoder = [x], iter(self.encoder), iter(self.decoder)
        for level in range(self.levels):
            for _ in range(self.blocks):
                x = next(encoder)(x, told[level])
                skips.append(x)
            if level < self.levels - 1:
                x = F.avg_pool2d(x, 2)
                skips.append(x)
        for block in self.middle:
            x = block(x, told[-1])
        for level in reversed(range(self.levels)):
            for _ in range(self.blocks + 1):
                joined = x if level in self.skipped else torch.cat([x, skips.pop()], 1)
                x = next(decoder)(joined, told[level])
            if level > 0:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
        return base + F.pixel_shuffle(self.head(x) * self.gain.to(dtype), self.patch)

    def _told(self, label: Tensor, share: Tensor | None, dtype: torch.dtype) -> list[Told]:
        """The embedded level on the grid of each level of the network."""
        if label.ndim == 1:
            return [Told(self._embedded(label))] * self.levels
        if share is not None:
            emb = self._embedded(label.flatten()).reshape(*label.shape, -1)  # (B, 2, embedding)
            return self._halved(Told(emb, F.avg_pool2d(share, self.patch).to(dtype)))
        rung = F.avg_pool2d(label.float(), self.patch) / KNOT  # (B, 1, H / patch, W / patch)
        knots = torch.arange(int(rung.min().floor()), int(rung.max().ceil()) + 1)
        knots = knots.to(rung)[:, None, None]
        shares = (1 - (rung - knots).abs()).clamp_min(0)  # (B, K, ., .), sum 1
        shares = shares.to(dtype, memory_format=torch.channels_last)
        return self._halved(Told(self._embedded(knots[:, 0, 0] * KNOT), shares))

    def _halved(self, told: Told) -> list[Told]:
        """The same on the grid of each level of the network."""
        found = [told]
        while len(found) < self.levels:
            found.append(found[-1].halved())
        return found

    def _embedded(self, label: Tensor) -> Tensor:
        """(B,) -> (B, embedding) float32."""
        waves = 2 * math.pi * (label.float()[:, None] * self.frequencies + self.phases)
        return self.embed(math.sqrt(2) * torch.cos(waves))


def _neighbours(x: Tensor, ring: str) -> Tensor:
    """The mean of each pixel's neighbours: (B, C, H, W) -> the same, float32."""
    padded, (height, width) = F.pad(x.float(), (1, 1, 1, 1), mode="reflect"), x.shape[2:]
    summed = torch.zeros_like(x, dtype=torch.float32)
    for down, row in enumerate(RINGS[ring]):
        for across, weight in enumerate(row):
            summed += weight * padded[:, :, down : down + height, across : across + width]
    return summed / sum(map(sum, RINGS[ring]))
