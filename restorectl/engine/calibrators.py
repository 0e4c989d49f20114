"""Calibrators (rows of catalog.CALIBRATORS) estimate the noise level left in an image."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from restorectl.engine.card import Card
from restorectl.engine.denoiser import build
from restorectl.engine.samplers import Calibrator
from restorectl.engine.schedule import schedule
from restorectl.errors import EngineError, UsageError
from restorectl.intensity import noise


class AnalyticCalibrator:
    """The intensity model's noise level if known, else a new noise estimate of the tile."""

    counts_steps = False

    def levels(self, x: Tensor, modelled: Tensor | None = None) -> Tensor:
        """See `samplers.Calibrator`. The level of a tile is the RMS of its channels' levels."""
        if modelled is not None:
            return modelled.cpu()
        tiles = x.float().cpu().numpy()
        return torch.tensor([float(np.sqrt(np.mean([_level(c) ** 2 for c in t]))) for t in tiles])


def _level(plane: np.ndarray) -> float:
    if not plane.max() > plane.min():  # saturated or empty: no visible noise
        return 0.0
    model = noise.estimate([plane], kind="gaussian")
    return model.read_noise * model.level


class NetworkCalibrator:
    """RSCD's trained calibrator (section 3.3); its card says if it predicts steps or levels."""

    def __init__(self, card: Card, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.card, self.device = card, device
        self.counts_steps = card.config.get("output") == "step"
        self.net = build(card, dict(tensors)).net.eval().requires_grad_(False).to(device)

    def levels(self, x: Tensor, modelled: Tensor | None = None) -> Tensor:
        """See `samplers.Calibrator`. A one-channel network runs channel by channel."""
        tiles = x if x.shape[1] == self.card.channels else x.flatten(0, 1)[:, None]
        answers = torch.cat([self.net(tile.to(self.device)) for tile in tiles.split(1)])  # singly
        answers = answers.reshape(len(x), -1).mean(1)
        if self.counts_steps:
            found = schedule(self.card.schedule).sigma(answers.cpu().double().numpy())
            return torch.from_numpy(found)
        return answers.exp().float().cpu()


class FixedStep:
    """No calibration, an ablation of RSCD: every image is said to be at step `step`."""

    counts_steps = True

    def __init__(self, step: float, schedule_name: str, sigma_max: float) -> None:
        """sigma_max: largest noise level of the weights. Raises UsageError for a step above it."""
        table = schedule(schedule_name)
        highest = math.floor(float(table.step(sigma_max)) + 1e-6)
        if not 1 <= step <= highest:
            raise UsageError(
                f"`start_step` {step:g}: these weights were trained for steps 1..{highest} of the"
                f" {schedule_name} schedule"
            )
        self.level = float(table.sigma(step))

    def levels(self, x: Tensor, modelled: Tensor | None = None) -> Tensor:
        """See `samplers.Calibrator`."""
        return torch.full((len(x),), self.level, dtype=torch.float64)


class NonparametricCalibrator:
    """Patch eigenvalues (Chen et al. 2015), an ablation of RSCD; for white noise only."""

    counts_steps = False

    def levels(self, x: Tensor, modelled: Tensor | None = None) -> Tensor:
        """See `samplers.Calibrator`."""
        return torch.tensor([noise.nonparametric_level(tile.cpu().numpy()) for tile in x])


@torch.inference_mode()
def level_of(calibrator: Calibrator, x: np.ndarray) -> float:
    """The noise level of one tile x (C, H, W) float32 in [-1, 1], sides at least 32 px.

    Raises EngineError if the calibrator returns a negative or non-finite level.
    """
    sigma = float(calibrator.levels(torch.from_numpy(np.ascontiguousarray(x))[None])[0])
    if not 0 <= sigma < float("inf"):
        raise EngineError(f"the calibrator returned an invalid noise level: {sigma}")
    return sigma
