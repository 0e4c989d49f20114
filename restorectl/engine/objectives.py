"""Training objectives: (denoiser, clean images, draw) -> loss of each sample (B,).

The training loop knows none of them by name. All randomness comes from `draw.generator`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from restorectl.core.recipe import Levels, Noise
from restorectl.engine.camera_noise import field, rectangles, uniform
from restorectl.engine.denoiser import PARAMETRISATIONS, Denoiser
from restorectl.engine.schedule import schedule
from restorectl.errors import UsageError


@dataclass(frozen=True)
class Draw:
    """Where an objective gets its random numbers, and the laws that they follow."""

    generator: torch.Generator
    levels: Levels
    noise: Noise
    penalty: str  # key of PENALTIES

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape of `like`, float32."""
        return torch.randn(like.shape, generator=self.generator, device=like.device)

    def sigma(self, count: int, highest: int | None = None) -> tuple[Tensor, Tensor]:
        """(B,) noise levels and (B,) steps (0 without a schedule), both float32.

        highest: last step, where it is not the cap of the recipe.
        """
        law, device = self.levels, self.generator.device
        if law.schedule:
            table = schedule(law.schedule)
            last = min(highest or law.max_step or table.steps, table.steps)
            step = torch.randint(1, last + 1, (count,), generator=self.generator, device=device)
            grid = torch.from_numpy(table.sigmas().copy()).to(device, torch.float32)
            return grid[step], step.float()
        normal = torch.randn(count, generator=self.generator, device=device)
        sigma = (law.mean + law.std * normal).exp().clamp(law.min, law.max)
        return sigma, torch.zeros_like(sigma)


PENALTIES = {
    "l2": torch.square,
    "l1": torch.abs,
    "huber": lambda d: F.huber_loss(d, torch.zeros_like(d), reduction="none"),
}


def _column(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


def _denoising(
    model: Denoiser, x0: Tensor, sigma: Tensor, condition: Tensor | None, draw: Draw
) -> Tensor:
    """Error of the network's own output at level sigma, mean over pixels.

    Dividing by c_out turns the error of x0 into that of the network's output: for `edm` that is
    the weight (sigma^2 + sd^2) / (sigma sd)^2 of Karras et al. 2022, for `eps` the plain
    |eps - eps_theta|^2 of Ho et al. 2020.
    """
    x = x0 + _column(sigma) * draw.normal(x0)
    c_out = PARAMETRISATIONS[model.card.parametrisation](sigma, model.card.sigma_data)[2]
    error = (model(x, sigma, condition) - x0) / _column(c_out)
    return PENALTIES[draw.penalty](error).mean((1, 2, 3))


def prior(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """Unconditional denoising up to level T' (paper 000, Algorithm 3). x0 (B, C, H, W)."""
    sigma, _ = draw.sigma(len(x0))
    return _denoising(model, x0, sigma, None, draw)


def conditional(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """Denoising from any level, given the image with noise up to T' (paper 000, Algorithm 4)."""
    if not draw.levels.schedule:
        raise UsageError("objective 'conditional' needs levels.schedule, e.g. cosine")
    other, _ = draw.sigma(len(x0))
    scale = _column((1 + other.square()).rsqrt())  # sqrt(abar)
    condition = scale * (x0 + _column(other) * draw.normal(x0))
    sigma, _ = draw.sigma(len(x0), highest=schedule(draw.levels.schedule).steps)
    return _denoising(model, x0, sigma, condition, draw)


def calibrator(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """How much noise is there: step t of the schedule, or log sigma where there is none.

    With probability `noise.region` a rectangle, or all but it, has a second, lower level; the
    target is the higher one (paper 000, section 3.3 and Algorithm 2). The paper's noise is white;
    here `noise.correlated` of the samples have correlated noise, and `noise.target` says whether
    its standard deviation or its low-frequency level is to be told.
    """
    count, options = len(x0), draw.noise
    sigma, step = draw.sigma(count)
    made = field((count, *x0.shape[1:]), options, draw.generator)
    level = _column(sigma).expand(-1, 1, *x0.shape[2:])
    if options.region > 0:
        second = _column(_lower(sigma, step, draw))
        where = rectangles((count, 1, *x0.shape[2:]), draw.generator)
        where &= _column(uniform(draw.generator, count) < options.region)
        level = torch.where(where, second, level)
    x = x0 + level * made.noise
    if draw.levels.schedule:
        x = x * (1 + level.square()).rsqrt()  # x_t = sqrt(abar) x0 + sqrt(1 - abar) eps
    if options.clip > 0:
        x = _clipped(x, options.clip, draw.generator)
    predicted = model.net(x)
    if draw.levels.schedule:
        return PENALTIES[draw.penalty]((predicted - step) / schedule(draw.levels.schedule).steps)
    target = sigma * made.low_frequency if options.target == "low-frequency" else sigma
    return PENALTIES[draw.penalty](predicted - target.log())


def _lower(sigma: Tensor, step: Tensor, draw: Draw) -> Tensor:
    """(B,) levels of at most sigma: t' uniform in 1..t of a schedule, else a uniform share."""
    part = uniform(draw.generator, len(sigma))
    if not draw.levels.schedule:
        return sigma * part
    grid = torch.from_numpy(schedule(draw.levels.schedule).sigmas().copy()).to(sigma)
    return grid[(part * step).long().add(1).clamp(max=step.long())]


def _clipped(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """In `share` of the samples, values below a point of the window's lower range become it."""
    lowest, mean = x.amin((1, 2, 3)), x.mean((1, 2, 3))
    point = lowest + uniform(generator, len(x)) * (mean - lowest)
    point = torch.where(uniform(generator, len(x)) < share, point, lowest)
    return torch.maximum(x, _column(point))
