"""Inception-v3 (Szegedy et al. 2015) as the Frechet inception distance uses it (Heusel 2017).

The 2015 TensorFlow network: average pooling excludes padding, and the last block uses max pooling.
Parameter names are those of the published PyTorch port (`Mixed_5b.branch1x1.conv.weight`).
A block is a table: branches of (name, channels, kernel), each convolution followed by batch norm
and ReLU; a branch may end in two parallel convolutions.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = 299  # px; other inputs are resized
Step = tuple[str, int, tuple[int, int]]


class Norm(nn.Module):
    """Batch normalisation with fixed statistics (inference only)."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, eps=1e-3)


class Conv(nn.Module):
    """Convolution, norm, ReLU; padded to the same size unless `valid`."""

    def __init__(
        self, c_in: int, c_out: int, kernel: tuple[int, int], stride: int = 1, valid: bool = False
    ) -> None:
        super().__init__()
        padding = (0, 0) if valid else (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
        self.bn = Norm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Parallel branches on (B, c_in, H, W), concatenated along the channels, pooling last.

    `pool`: average or maximum (3 x 3, same size, then `branch_pool`), or halve: stride 2 in the
    last convolution of every branch and in the max pooling.
    """

    def __init__(self, c_in: int, pool: str, branches: Sequence[Sequence[Any]]) -> None:
        super().__init__()
        self.pool, self.branches = pool, branches
        for branch in branches:
            c = c_in
            for step in branch:
                parallel = step if isinstance(step, list) else [step]
                for name, c_out, kernel in parallel:
                    last = pool == "halve" and step is branch[-1]
                    self.add_module(name, Conv(c, c_out, kernel, 2 if last else 1, last))
                c = parallel[-1][1]

    def _run(self, x: Tensor, branch: Sequence[Any]) -> list[Tensor]:
        for step in branch:
            if isinstance(step, list):
                return [self.get_submodule(name)(x) for name, *_ in step]
            x = self.get_submodule(step[0])(x)
        return [x]

    def forward(self, x: Tensor) -> Tensor:
        pooled = x
        if self.pool == "average":
            pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        elif self.pool == "maximum":
            pooled = F.max_pool2d(x, 3, 1, 1)
        *plain, last = self.branches
        parts = [part for branch in plain for part in self._run(x, branch)]
        if self.pool == "halve":
            return torch.cat([*parts, *self._run(x, last), F.max_pool2d(x, 3, 2)], 1)
        return torch.cat([*parts, *self._run(pooled, last)], 1)


def _a(pool_channels: int) -> list[Any]:
    return [
        [("branch1x1", 64, (1, 1))],
        [("branch5x5_1", 48, (1, 1)), ("branch5x5_2", 64, (5, 5))],
        [
            ("branch3x3dbl_1", 64, (1, 1)),
            ("branch3x3dbl_2", 96, (3, 3)),
            ("branch3x3dbl_3", 96, (3, 3)),
        ],
        [("branch_pool", pool_channels, (1, 1))],
    ]


B = [
    [("branch3x3", 384, (3, 3))],
    [
        ("branch3x3dbl_1", 64, (1, 1)),
        ("branch3x3dbl_2", 96, (3, 3)),
        ("branch3x3dbl_3", 96, (3, 3)),
    ],
]


def _c(c: int) -> list[Any]:
    return [
        [("branch1x1", 192, (1, 1))],
        [("branch7x7_1", c, (1, 1)), ("branch7x7_2", c, (1, 7)), ("branch7x7_3", 192, (7, 1))],
        [
            ("branch7x7dbl_1", c, (1, 1)),
            ("branch7x7dbl_2", c, (7, 1)),
            ("branch7x7dbl_3", c, (1, 7)),
            ("branch7x7dbl_4", c, (7, 1)),
            ("branch7x7dbl_5", 192, (1, 7)),
        ],
        [("branch_pool", 192, (1, 1))],
    ]


D = [
    [("branch3x3_1", 192, (1, 1)), ("branch3x3_2", 320, (3, 3))],
    [
        ("branch7x7x3_1", 192, (1, 1)),
        ("branch7x7x3_2", 192, (1, 7)),
        ("branch7x7x3_3", 192, (7, 1)),
        ("branch7x7x3_4", 192, (3, 3)),
    ],
]
E = [
    [("branch1x1", 320, (1, 1))],
    [
        ("branch3x3_1", 384, (1, 1)),
        [("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))],
    ],
    [
        ("branch3x3dbl_1", 448, (1, 1)),
        ("branch3x3dbl_2", 384, (3, 3)),
        [("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))],
    ],
    [("branch_pool", 192, (1, 1))],
]
STEM: tuple[tuple[str, Any], ...] = (
    ("Conv2d_1a_3x3", (3, 32, (3, 3), 2, True)),
    ("Conv2d_2a_3x3", (32, 32, (3, 3), 1, True)),
    ("Conv2d_2b_3x3", (32, 64, (3, 3))),
    ("pool", None),
    ("Conv2d_3b_1x1", (64, 80, (1, 1))),
    ("Conv2d_4a_3x3", (80, 192, (3, 3), 1, True)),
    ("pool", None),
)
BODY: tuple[tuple[str, int, str, list[Any]], ...] = (
    ("Mixed_5b", 192, "average", _a(32)),
    ("Mixed_5c", 256, "average", _a(64)),
    ("Mixed_5d", 288, "average", _a(64)),
    ("Mixed_6a", 288, "halve", B),
    ("Mixed_6b", 768, "average", _c(128)),
    ("Mixed_6c", 768, "average", _c(160)),
    ("Mixed_6d", 768, "average", _c(160)),
    ("Mixed_6e", 768, "average", _c(192)),
    ("Mixed_7a", 768, "halve", D),
    ("Mixed_7b", 1280, "average", E),
    ("Mixed_7c", 2048, "maximum", E),
)


class Inception(nn.Module):
    """x (B, 3, H, W) in [0, 1] -> features (B, 2048) of the last pooling layer."""

    def __init__(self) -> None:
        super().__init__()
        for name, arguments in STEM:
            if arguments is not None:
                self.add_module(name, Conv(*arguments))
        for name, c_in, pool, branches in BODY:
            self.add_module(name, Mixed(c_in, pool, branches))

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False) * 2 - 1
        for name, arguments in STEM:
            x = F.max_pool2d(x, 3, 2) if arguments is None else self.get_submodule(name)(x)
        for name, *_ in BODY:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))
