"""Calibrators (rows of catalog.CALIBRATORS): how strong is the noise that is left?"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from restorectl.engine.card import Card
from restorectl.engine.denoiser import build
from restorectl.engine.samplers import Calibrator
from restorectl.engine.schedule import schedule
from restorectl.errors import EngineError
from restorectl.intensity import noise


class Analytic:
    """The intensity model's level where it is known, elsewhere its estimator once more."""

    def levels(self, x: Tensor, modelled: Tensor | None = None) -> Tensor:
        """See `samplers.Calibrator`. The level of a tile is the mean square over its channels."""
        if modelled is not None:
            return modelled.cpu()
        tiles = x.float().cpu().numpy()
        return torch.tensor([float(np.sqrt(np.mean([_level(c) ** 2 for c in t]))) for t in tiles])


def _level(plane: np.ndarray) -> float:
    if not plane.max() > plane.min():  # saturated or empty: no noise can be seen
        return 0.0
    model = noise.estimate([plane], kind="gaussian")
    return model.read_noise * model.level


class Network:
    """RSCD's way (section 3.3): a trained network, whose card names what it answers."""

    def __init__(self, card: Card, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.card, self.device = card, device
        self.net = build(card, dict(tensors)).net.eval().requires_grad_(False).to(device)

    def levels(self, x: Tensor, modelled: Tensor | None = None) -> Tensor:
        """See `samplers.Calibrator`. Channel by channel, where the network knows only one."""
        tiles = x if x.shape[1] == self.card.channels else x.flatten(0, 1)[:, None]
        answers = torch.cat([self.net(tile.to(self.device)) for tile in tiles.split(1)])  # as alone
        answers = answers.reshape(len(x), -1).mean(1)
        if self.card.config.get("output") == "step":
            found = schedule(self.card.schedule).sigma(answers.double().cpu().numpy())
            return torch.from_numpy(found).float()
        return answers.exp().float().cpu()


class Nonparametric:
    """Eigenvalues of patches (Chen et al. 2015): RSCD's ablation; white noise only."""

    def levels(self, x: Tensor, modelled: Tensor | None = None) -> Tensor:
        """See `samplers.Calibrator`."""
        return torch.tensor([noise.nonparametric_level(tile.cpu().numpy()) for tile in x])


@torch.inference_mode()
def level_of(calibrator: Calibrator, x: np.ndarray) -> float:
    """The level of one tile x (H, W) float32, whitened, in [-1, 1], whatever its channel is like.

    Sides are at least 32 px, for the network. Raises EngineError for an answer that is no level.
    """
    sigma = float(calibrator.levels(torch.from_numpy(np.ascontiguousarray(x))[None, None])[0])
    if not 0 <= sigma < float("inf"):
        raise EngineError(f"the calibrator's answer is no noise level: {sigma}")
    return sigma
