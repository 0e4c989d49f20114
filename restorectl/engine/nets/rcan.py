"""UNet-RCAN (Ebrahimi et al. 2023): a U-Net restores the context, and then a residual channel
attention network (RCAN, Zhang et al. 2018) the detail, from the U-Net's image and the noisy one.

Sizes are those of the published code. Its U-Net ends in a leaky ReLU, for images from 0 to 1; here
images lie in [-1, 1] and it ends in a plain convolution.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorectl.engine.nets.layers import Conv2d

SLOPE = 0.3  # of the leaky ReLU below 0


class Residual(nn.Module):
    """Two convolutions and a shortcut: (B, c_in, H, W) -> (B, c_out, H, W)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv0 = Conv2d(c_in, c_out, 3, padding=1)
        self.conv1 = Conv2d(c_out, c_out, 3, padding=1)
        self.skip = Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.leaky_relu(self.conv0(x), SLOPE))
        return F.leaky_relu(y + self.skip(x), SLOPE)


class Attention(nn.Module):
    """Two convolutions whose channels are weighted by their means over the image, and a shortcut:
    (B, C, H, W) -> the same."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.conv0 = Conv2d(channels, channels, 3, padding=1)
        self.conv1 = Conv2d(channels, channels, 3, padding=1)
        self.down = Conv2d(channels, squeeze, 1)
        self.up = Conv2d(squeeze, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.leaky_relu(self.conv0(x), SLOPE))
        weight = self.up(F.leaky_relu(self.down(y.mean((2, 3), keepdim=True)), SLOPE))
        return x + y * weight.sigmoid()


class Group(nn.Module):
    """Blocks in a row, a convolution, and a shortcut: (B, C, H, W) -> the same."""

    def __init__(self, channels: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv(self.blocks(x))
        return out


class UNetRCAN(nn.Module):
    """x (B, c_in, H, W) -> (B, c_out, H, W), or with `both` the U-Net's and the final image; H and
    W are multiples of `stride`. label: not used."""

    whole = True  # means over the whole input: it keeps to one size

    def __init__(
        self,
        c_in: int = 1,
        c_out: int = 1,
        channels: Sequence[int] = (64, 128, 256),
        groups: int = 3,
        blocks: int = 8,
        squeeze: int = 4,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.stride, self.dropout, first = 2 ** len(channels), nn.Dropout(dropout), channels[0]
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        self.attention, c = nn.ModuleList(), c_in
        for width in channels:
            self.encoder.append(Residual(c, width))
            c = width
        self.bridge = nn.Sequential(Residual(c, 2 * c), Residual(2 * c, 2 * c))
        c = 2 * c
        for width in reversed(channels):
            self.attention.append(Attention(width, squeeze))
            self.decoder.append(Residual(c + width, width))
            c = width
        self.context = Conv2d(c, c_out, 1)
        self.stem = Conv2d(c_in + c_out, first, 3, padding=1)
        parts: list[nn.Module] = []
        for _ in range(groups):
            parts.append(Group(first, [Attention(first, squeeze) for _ in range(blocks)]))
            parts.append(nn.Dropout(dropout))
        self.detail = Group(first, parts)
        self.head = Conv2d(first, c_out, 1)

    def forward(
        self, x: Tensor, label: Tensor | None = None, both: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        y, skips = x, []
        for block in self.encoder:
            skips.append(self.dropout(block(y)))
            y = F.max_pool2d(skips[-1], 2)
        y = self.bridge(y)
        for attention, block in zip(self.attention, self.decoder, strict=True):
            y = F.interpolate(y, scale_factor=2, mode="nearest")
            y = self.dropout(block(torch.cat([y, attention(skips.pop())], 1)))
        context: Tensor = self.context(y)
        final: Tensor = self.head(self.detail(self.stem(torch.cat([context, x], 1))))
        return (context, final) if both else final
