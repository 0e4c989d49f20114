"""LPIPS with AlexNet (Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features").

Parameter names are those of the published files: `features.N.*` of AlexNet (Krizhevsky 2014, one
tower) and `linN.model.1.weight`, the learned channel weights of the five stages.
"""

import torch.nn.functional as F
from torch import Tensor, nn

STAGES = (  # layer number, input and output channels, kernel, stride, padding
    (0, 3, 64, 11, 4, 2),
    (3, 64, 192, 5, 1, 2),
    (6, 192, 384, 3, 1, 1),
    (8, 384, 256, 3, 1, 1),
    (10, 256, 256, 3, 1, 1),
)
POOLED = (3, 6)  # layers preceded by 3 x 3 max pooling of stride 2
SHIFT = (-0.030, -0.088, -0.188)  # mean of ImageNet's colours, for values in [-1, 1]
SCALE = (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """a, b (B, 3, H, W) in [-1, 1], at least 31 px -> distance (B,), 0 for equal images."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict(
            {str(n): nn.Conv2d(a, b, k, s, p) for n, a, b, k, s, p in STAGES}
        )
        for stage, (_, _, channels, *_) in enumerate(STAGES):
            head = nn.ModuleDict({"1": nn.Conv2d(channels, 1, 1, bias=False)})
            self.add_module(f"lin{stage}", nn.ModuleDict({"model": head}))

    def stages(self, x: Tensor) -> list[Tensor]:
        """The five stages' activations, each pixel's channel vector scaled to unit length."""
        found = []
        x = (x - x.new_tensor(SHIFT)[:, None, None]) / x.new_tensor(SCALE)[:, None, None]
        for number, *_ in STAGES:
            if number in POOLED:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(self.features[str(number)](x))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        distance = a.new_zeros(len(a))
        for stage, (f, g) in enumerate(zip(self.stages(a), self.stages(b), strict=True)):
            weight = self.get_parameter(f"lin{stage}.model.1.weight")
            distance = distance + F.conv2d((f - g).square(), weight).mean((1, 2, 3))
        return distance
