"""The calibrator network: predicts the noise level of an image tile.

RSCD's step calibrator is a ResNet-50 with a 2048-100-1 head (Table 3); this one is a small residual
network with global pooling and the same two-layer head. The noise may be a thousandth of the
image's contrast, too little for absolute values in bf16: the tile is divided by its fine-scale
activity, passed through zero-sum filters in float32 and compressed to logarithms. Scaling a tile by
a therefore adds exactly log a to the predicted log sigma.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorectl.engine.nets.unet import pixel_norm

OUTPUTS = ("log-sigma", "step")
FLOOR = 1e-12  # mean square below which a tile counts as constant


class Residual(nn.Module):
    """x + conv(silu(conv(norm(x)))), normalised per pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv1.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv1(F.silu(self.conv0(pixel_norm(x))))
        return out


class Calibrator(nn.Module):
    """x (B, c_in, H, W) in [-1, 1] of any size from 32 px -> (B,) float32.

    output: "log-sigma", the logarithm of the noise level, or "step", the step t of a schedule of
    `steps` steps (0 = clean).
    """

    stride = 1

    def __init__(
        self,
        c_in: int = 1,
        filters: int = 16,
        channels: Sequence[int] = (32, 64, 128),
        blocks: int = 1,
        hidden: int = 100,
        output: str = "log-sigma",
        steps: int = 1000,
    ) -> None:
        super().__init__()
        if output not in OUTPUTS:
            raise TypeError(f"output '{output}' is not one of {', '.join(OUTPUTS)}")
        self.output, self.steps = output, steps
        self.stem = nn.Parameter(torch.randn(filters, c_in, 5, 5))
        trunk: list[nn.Module] = []
        c = filters
        for width in channels:
            trunk.append(nn.Conv2d(c, width, 3, stride=2, padding=1))
            trunk += [Residual(width) for _ in range(blocks)]
            c = width
        self.trunk = nn.Sequential(*trunk)
        self.head0 = nn.Linear(2 * c + (output == "step"), hidden)
        self.head1 = nn.Linear(hidden, 1)
        nn.init.zeros_(self.head1.bias)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            log_scale = activity(x.float())  # (B,)
            x = x.float() * torch.exp(-log_scale)[:, None, None, None]
            stem = self.stem - self.stem.mean((2, 3), keepdim=True)
            stem = stem * torch.rsqrt(stem.square().sum((1, 2, 3), keepdim=True) + FLOOR)
            x = F.conv2d(x, stem, stride=2)
            x = torch.copysign(torch.log1p(x.abs()), x)  # asinh is ten times slower
        x = self.trunk(x.contiguous(memory_format=torch.channels_last))
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)  # (B, 2 c)
            if self.output == "step":
                pooled = torch.cat([pooled, log_scale[:, None]], 1)
            out: Tensor = self.head1(F.silu(self.head0(pooled)))[:, 0]
        return out * self.steps if self.output == "step" else log_scale + out


def activity(x: Tensor) -> Tensor:
    """(B, C, H, W) float32 -> (B,) mean log amplitude of the Laplacian, robust to edges."""
    kernel = x.new_tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]) / 6
    channels = x.shape[1]
    residual = F.conv2d(x, kernel.expand(channels, 1, 3, 3), groups=channels)
    power = F.avg_pool2d(residual.square(), 4)
    return (power + FLOOR).log().mean((1, 2, 3)) / 2
