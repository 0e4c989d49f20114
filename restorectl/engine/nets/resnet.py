"""RSCD's step calibrator (Table 3): ResNet-50 (He et al. 2016) with a head of two layers.

Parameter names are those of the published file. As in its code, normalisation always uses stored
means and variances, so one image is judged alike alone and in a batch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5
PLANES = 3  # input channels of the published network; missing ones are zeros in front


class Norm(nn.Module):
    """Batch normalisation with stored statistics: (B, C, H, W) -> the same."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), weight))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        stored = self.running_mean, self.running_var
        return F.batch_norm(x, *stored, self.weight, self.bias, False, 0.0, EPSILON)


class Convolved(nn.Module):
    """Convolution, normalisation and, if `active`, ReLU; a branch that ends in one of `weight` 0
    starts as nothing."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int, active: bool, weight: float = 1.0
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out", nonlinearity="relu")
        self.normalization = Norm(c_out, weight)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.normalization(self.convolution(x))
        return y.relu() if self.active else y


class Bottleneck(nn.Module):
    """Three convolutions beside a shortcut: (B, c_in, H, W) -> (B, c_out, H / stride, W / stride).

    The second convolution has the stride (ResNet v1.5).
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        inner = c_out // 4
        changes = c_in != c_out or stride != 1
        self.shortcut = Convolved(c_in, c_out, 1, stride, False) if changes else nn.Identity()
        self.layer = nn.Sequential(
            Convolved(c_in, inner, 1, 1, True),
            Convolved(inner, inner, 3, stride, True),
            Convolved(inner, c_out, 1, 1, False, 0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) + self.shortcut(x)
        return y.relu()


class Stage(nn.Module):
    """Bottlenecks one after another."""

    def __init__(self, layers: Sequence[Bottleneck]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class ResNetCalibrator(nn.Module):
    """x (B, c_in, H, W) in [-1, 1] of any size from 32 px -> (B,) float32, the step of a schedule.

    c_in: up to 3. The published network has two image channels after one of zeros.
    """

    stride = 1
    output = "step"

    def __init__(
        self,
        c_in: int = 2,
        width: int = 64,
        blocks: Sequence[int] = (3, 4, 6, 3),
        hidden: int = 100,
        output: str = "step",
    ) -> None:
        super().__init__()
        if not 1 <= c_in <= PLANES or output != "step":
            raise TypeError(f"c_in {c_in}, output '{output}': up to {PLANES} channels, output step")
        self.blank = PLANES - c_in
        stages: list[nn.Module] = []
        c = width
        for level, count in enumerate(blocks):
            c_out, first = 4 * width << level, 1 if level == 0 else 2
            layers = [Bottleneck(c, c_out, first)]
            layers += [Bottleneck(c_out, c_out, 1) for _ in range(count - 1)]
            stages.append(Stage(layers))
            c = c_out
        stem = nn.ModuleDict({"embedder": Convolved(PLANES, width, 7, 2, True)})
        encoder = nn.ModuleDict({"stages": nn.Sequential(*stages)})
        self.resnet = nn.ModuleDict({"embedder": stem, "encoder": encoder})
        self.head = nn.Sequential(nn.Linear(c, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x.float(), (0, 0, 0, 0, self.blank, 0))
        x = self.resnet.get_submodule("embedder.embedder")(x)
        x = self.resnet.get_submodule("encoder.stages")(F.max_pool2d(x, 3, 2, 1))
        out: Tensor = self.head(x.float().mean((2, 3)))[:, 0]
        return out.float()
