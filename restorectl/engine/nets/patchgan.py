"""The discriminator of pix2pix and CycleGAN (Isola et al. 2017): how real each part of 70 px is."""

from itertools import pairwise

from torch import Tensor, nn

from restorectl.engine.nets.layers import Conv2d


class PatchGAN(nn.Module):
    """(B, c_in, H, W), from 24 px -> (B, 1, H / 8 - 2, W / 8 - 2), high for real ones.

    Normalised over each image, which is what the published batch normalisation is at batch 1.
    """

    def __init__(self, c_in: int, channels: int = 64) -> None:
        super().__init__()
        widths = [c_in, channels, 2 * channels, 4 * channels, 8 * channels]
        layers: list[nn.Module] = []
        for k, (before, after) in enumerate(pairwise(widths)):
            layers.append(Conv2d(before, after, 4, 2 if k < 3 else 1, 1))
            layers += [nn.InstanceNorm2d(after)] if k else []
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, Conv2d(widths[-1], 1, 4, 1, 1))
        for module in self.layers:
            if isinstance(module, Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        judged: Tensor = self.layers(x)
        return judged
