"""Calibrators (rows of catalog.CALIBRATORS): how strong is the noise that is left?

A row is a function (load, device) -> (problem -> calibrator). A calibrator maps windows x
(B, C, H, W), whitened, in [-1, 1], to sigma (B,), the level that a denoiser for white noise should
be told. `load` reads the calibrator's weights, for the rows that need any. Without a problem (None)
each window is measured for itself, whatever is known of its channel: see `by_window`.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from restorectl.engine.card import Card
from restorectl.engine.denoiser import build
from restorectl.engine.samplers import Calibrator, Problem
from restorectl.engine.schedule import schedule
from restorectl.errors import EngineError
from restorectl.intensity import noise
from restorectl.intensity.noise import nonparametric_level

Load = Callable[[], tuple[Card, Mapping[str, Tensor]]]
ForProblem = Callable[[Problem | None], Calibrator]


def analytic(load: Load, device: torch.device) -> ForProblem:
    """The intensity model's level at the start; for what is left later, its estimator again."""

    def measure(window: Tensor) -> float:
        planes = window.float().cpu().numpy()
        return float(np.sqrt(np.mean([_level(plane) ** 2 for plane in planes])))

    def for_problem(problem: Problem | None) -> Calibrator:
        def calibrate(x: Tensor) -> Tensor:
            if problem is not None and x.shape == problem.x.shape and torch.equal(x, problem.x):
                return problem.sigma.cpu()
            return torch.tensor([measure(window) for window in x])

        return calibrate

    return for_problem


def _level(plane: np.ndarray) -> float:
    if not plane.max() > plane.min():  # saturated or empty: no noise can be seen
        return 0.0
    model = noise.estimate([plane], kind="gaussian")
    return model.read_noise * model.level


def network(load: Load, device: torch.device) -> ForProblem:
    """The paper's way: a trained network (paper 000, section 3.3) whose output its card names."""
    card, tensors = load()
    net = build(card, dict(tensors)).net.eval().requires_grad_(False).to(device)
    in_steps = card.config.get("output") == "step"

    def calibrate(x: Tensor) -> Tensor:
        windows = x if x.shape[1] == card.channels else x.flatten(0, 1)[:, None]
        answers = torch.cat([net(window.to(device)) for window in windows.split(1)])  # as if alone
        answers = answers.reshape(len(x), -1).mean(1)  # channel by channel, where it knows only one
        if in_steps:
            levels = schedule(card.schedule).sigma(answers.double().cpu().numpy())
            return torch.from_numpy(levels).float()
        return answers.exp().float().cpu()

    return lambda problem: calibrate


def nonparametric(load: Load, device: torch.device) -> ForProblem:
    """Eigenvalues of patches (Chen et al. 2015): the ablation of paper 000; white noise only."""
    return lambda problem: lambda x: torch.tensor([nonparametric_level(w.cpu().numpy()) for w in x])


def by_window(row: ForProblem) -> Callable[[np.ndarray], float]:
    """A calibrator of single windows: x (H, W) float32, whitened, in [-1, 1] -> sigma.

    Sides are at least 32 px, for the network. Raises EngineError for an answer that is no level.
    """
    calibrate = row(None)

    @torch.inference_mode()
    def measure(x: np.ndarray) -> float:
        sigma = float(calibrate(torch.from_numpy(np.ascontiguousarray(x))[None, None])[0])
        if not 0 <= sigma < float("inf"):
            raise EngineError(f"the calibrator's answer is no noise level: {sigma}")
        return sigma

    return measure
