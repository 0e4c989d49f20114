"""Discrete diffusion schedules: conversion between a step t and a noise level sigma.

The engine works in sigma, the standard deviation of the noise on a clean image in [-1, 1]
("variance exploding": x = x0 + sigma * n). A variance-preserving schedule with cumulative product
abar_t describes the same state scaled by sqrt(abar_t), with sigma_t = sqrt((1 - abar_t) / abar_t).
t = 0 is clean; the steps are 1..T.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from restorectl.errors import UsageError


@dataclass(frozen=True)
class Schedule:
    """abar: (T + 1,) float64, abar[0] = 1, strictly decreasing."""

    name: str
    abar: tuple[float, ...]

    @property
    def steps(self) -> int:
        return len(self.abar) - 1

    def sigmas(self) -> np.ndarray:
        """(T + 1,) float64 noise levels, sigmas()[0] = 0, strictly increasing."""
        return _sigmas(self.abar)

    def sigma(self, t: float | np.ndarray) -> np.ndarray:
        """Noise level of step t in 0..T; fractions interpolate log sigma (sigma itself below 1)."""
        grid = self.sigmas()
        steps = np.arange(len(grid))
        t = np.clip(np.asarray(t, np.float64), 0, self.steps)
        upper = np.exp(np.interp(np.maximum(t, 1), steps[1:], np.log(grid[1:])))
        return np.asarray(np.where(t >= 1, upper, t * grid[1]))

    def step(self, sigma: float | np.ndarray) -> np.ndarray:
        """The fractional step in 0..T whose noise level is sigma: the inverse of `sigma`."""
        grid = self.sigmas()
        sigma = np.asarray(sigma, np.float64)
        logs = np.log(np.maximum(sigma, 1e-300))
        upper = np.interp(logs, np.log(grid[1:]), np.arange(1, len(grid)))
        return np.asarray(np.where(sigma >= grid[1], upper, sigma / grid[1]))


@lru_cache(maxsize=16)
def _sigmas(abar: tuple[float, ...]) -> np.ndarray:
    table = np.asarray(abar, np.float64)
    sigmas = np.sqrt((1 - table) / table)
    sigmas.setflags(write=False)
    return sigmas


def _from_betas(name: str, betas: np.ndarray) -> Schedule:
    return Schedule(name, (1.0, *np.cumprod(1 - betas).tolist()))


def cosine(
    steps: int = 1000, s: float = 0.008, beta_min: float = 0.0, beta_max: float = 0.999
) -> Schedule:
    """Nichol and Dhariwal 2021, eq. 17, with betas clipped to [beta_min, beta_max]."""
    u = np.arange(steps + 1) / steps
    f = np.cos((u + s) / (1 + s) * np.pi / 2) ** 2
    return _from_betas("cosine", np.clip(1 - f[1:] / f[:-1], beta_min, beta_max))


def linear(steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> Schedule:
    """Ho et al. 2020: betas evenly spaced from beta_min to beta_max."""
    return _from_betas("linear", np.linspace(beta_min, beta_max, steps))


def rscd() -> Schedule:
    """Schedule of RSCD's published code: cosine, T = 1000, betas clipped to [1e-4, 0.9999].

    The lower clip changes the first 13 betas, which restoration uses most; the paper describes
    the plain cosine schedule.
    """
    return Schedule("rscd", cosine(1000, 0.008, 1e-4, 0.9999).abar)


def cosine200() -> Schedule:
    """Schedule of DDPM microscopy (Osuna-Vargas et al.): cosine with T = 200."""
    return Schedule("cosine200", cosine(200).abar)


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "rscd": rscd,
    "cosine": cosine,
    "cosine200": cosine200,
    "linear": linear,
}


@lru_cache(maxsize=8)
def schedule(name: str) -> Schedule:
    """The schedule of that name. Raises UsageError for an unknown one."""
    if name not in SCHEDULES:
        raise UsageError(f"unknown schedule '{name}': choose one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name]()
