"""Calibrators (rows of catalog.CALIBRATORS): how strong is the noise that is left?

A row is a function (load, device) -> (problem -> calibrator). A calibrator maps windows x
(B, C, H, W), whitened, in [-1, 1], to sigma (B,), the level that a denoiser for white noise should
be told. `load` reads the calibrator's weights, for the rows that need any.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from restorectl.core import noise, patch_noise
from restorectl.core.card import Card
from restorectl.engine.denoiser import build
from restorectl.engine.samplers import Calibrator, Problem
from restorectl.engine.schedule import schedule

Load = Callable[[], tuple[Card, Mapping[str, Tensor]]]
ForProblem = Callable[[Problem], Calibrator]


def analytic(load: Load, device: torch.device) -> ForProblem:
    """The intensity model's level at the start; for what is left later, its estimator again."""

    def measure(window: Tensor) -> float:
        model = noise.estimate([window[0].float().cpu().numpy()], kind="gaussian")
        return model.read_noise * model.level

    def for_problem(problem: Problem) -> Calibrator:
        def calibrate(x: Tensor) -> Tensor:
            if x.shape == problem.x.shape and torch.equal(x, problem.x):
                return problem.sigma.cpu()
            return torch.tensor([measure(window) for window in x])

        return calibrate

    return for_problem


def network(load: Load, device: torch.device) -> ForProblem:
    """The paper's way: a trained network (paper 000, section 3.3) whose output its card names."""
    card, tensors = load()
    net = build(card, dict(tensors)).net.eval().requires_grad_(False).to(device)
    in_steps = card.config.get("output") == "step"

    def calibrate(x: Tensor) -> Tensor:
        answers = torch.cat([net(window.to(device)) for window in x.split(1)])  # as if alone
        if in_steps:
            levels = schedule(card.schedule).sigma(answers.double().cpu().numpy())
            return torch.from_numpy(levels).float()
        return answers.exp().float().cpu()

    return lambda problem: calibrate


def nonparametric(load: Load, device: torch.device) -> ForProblem:
    """Eigenvalues of patches (Chen et al. 2015): the ablation of paper 000; white noise only."""
    return lambda problem: lambda x: torch.tensor([patch_noise.level(w.cpu().numpy()) for w in x])
