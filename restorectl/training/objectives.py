"""Training objectives: (denoiser, clean images (B, C, H, W), draw) -> loss of each sample (B,).

`prior`, `conditional` and `baseline` denoise whole images, `calibrator` predicts the noise level,
and `slices`, `ms_unet` and `e2e_unet` fill in hidden rows or planes (network inputs as in
`engine.slices`). The training loop does not depend on any of them. All randomness comes from
`draw.generator`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from restorectl import catalog
from restorectl.engine import slices as masked
from restorectl.engine.conditional import ConditionalSettings, generated
from restorectl.engine.denoiser import PARAMETRISATIONS, Denoiser, fused, mixed
from restorectl.engine.schedule import schedule
from restorectl.errors import UsageError
from restorectl.training.degrade import (
    camera_noise,
    column,
    correlated_noise,
    counts,
    degrade,
    filtered,
    uniform,
)
from restorectl.training.recipe import Recipe

CELL = 8  # px, side of the squares in which a noise level is measured
LEVEL_ERROR = 0.05  # std of estimates of log sigma
LEAST_LEVEL = 1e-3  # network units
DIM = 0.15  # network units, mean background below the darkest pixel of counted images
HALF_OCTAVE = 0.35  # log, the most by which a level rises over a crop
FOURFOLD = 1.4  # log, the most by which two parts of a crop differ
PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "l2": torch.square,
    "l1": torch.abs,
    "huber": lambda d: F.huber_loss(d, torch.zeros_like(d), reduction="none"),
}


@dataclass(frozen=True)
class Draw:
    """Random numbers for an objective, distributed as its recipe says."""

    generator: torch.Generator
    recipe: Recipe
    partner: Tensor | None = None  # (B, C, H, W) inputs of pairs; None = simulated

    def penalty(self, error: Tensor) -> Tensor:
        """The recipe's loss for each pixel."""
        return PENALTIES[self.recipe.loss](error)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape of `like`, float32."""
        return torch.randn(like.shape, generator=self.generator, device=like.device)

    def sigma(self, count: int, highest: int | None = None) -> tuple[Tensor, Tensor]:
        """(B,) noise levels and (B,) steps (0 without a schedule), both float32.

        highest: last step, if not the recipe's max_step.
        """
        law, device = self.recipe.levels, self.generator.device
        if not law.schedule:
            return self._log_normal(count), torch.zeros(count, device=device)
        step = self._steps(count, highest)
        grid = torch.from_numpy(schedule(law.schedule).sigmas().copy()).to(device, torch.float32)
        return grid[step], step.float()

    def between(self, count: int) -> Tensor:
        """(B,) float32 continuous levels: t uniform in 1..max_step of the schedule, then abar
        uniform between those of t and t - 1 (the code of DDPM microscopy, after SR3), limited to
        the recipe's [min, max]; without a schedule, log-normal."""
        law, device = self.recipe.levels, self.generator.device
        if not law.schedule:
            return self._log_normal(count)
        step = self._steps(count)
        grid = torch.tensor(schedule(law.schedule).abar, dtype=torch.float64, device=device)
        part = uniform(self.generator, count).double()
        abar = grid[step] + part * (grid[step - 1] - grid[step])
        return ((1 - abar) / abar).sqrt().float().clamp(law.min, law.max)

    def _steps(self, count: int, highest: int | None = None) -> Tensor:
        law = self.recipe.levels
        steps = schedule(law.schedule).steps
        last = min(highest or law.max_step or steps, steps)
        generator = self.generator
        return torch.randint(1, last + 1, (count,), generator=generator, device=generator.device)

    def _log_normal(self, count: int) -> Tensor:
        law = self.recipe.levels
        normal = torch.randn(count, generator=self.generator, device=self.generator.device)
        return (law.mean + law.std * normal).exp().clamp(law.min, law.max)


Objective = Callable[[Denoiser, Tensor, Draw], Tensor]


def objective(name: str) -> Objective:
    """A row of catalog.OBJECTIVES. Raises UsageError for an unknown name."""
    if name not in catalog.OBJECTIVES:
        known = ", ".join(catalog.OBJECTIVES)
        raise UsageError(f"unknown objective '{name}': choose one of {known}")
    found: Objective = catalog.OBJECTIVES[name].load()
    return found


def _denoising(
    model: Denoiser, x0: Tensor, sigma: Tensor, condition: Tensor | None, draw: Draw
) -> Tensor:
    """Error of the network's raw output at level sigma, mean over pixels.

    Dividing by c_out converts the error of x0 to that of the network's output: for `edm` that is
    the weight (sigma^2 + sd^2) / (sigma sd)^2 of Karras et al. 2022, for `eps` the plain
    |eps - eps_theta|^2 of Ho et al. 2020.
    """
    x = x0 + column(sigma) * draw.normal(x0)
    level = sigma
    if condition is not None and model.card.fusion:
        _, level, _ = fused(x, condition, sigma)
    c_out = PARAMETRISATIONS[model.card.parametrisation](level, model.card.sigma_data)[2]
    error = (model(x, sigma, condition) - x0) / column(c_out)
    return draw.penalty(error).mean((1, 2, 3))


def prior(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """Unconditional denoising: with a schedule, of white noise up to level T' (RSCD, Algorithm 3);
    without one, of white noise, low counts and correlated noise, as the recipe shares them out."""
    sigma, step = draw.sigma(len(x0))
    if draw.recipe.levels.schedule:
        if getattr(model.net, "learn_variance", False):
            return _hybrid(model, x0, sigma, step, draw)
        return _denoising(model, x0, sigma, None, draw)
    with torch.autocast(x0.device.type, enabled=False):  # noise in float32
        seen = observed(x0, sigma, draw)
    if seen.share is None:
        made, level = model(seen.x, seen.told[:, 0]), column(seen.told)
    else:
        made, level = model(seen.x, seen.told, share=seen.share), mixed(seen.told, seen.share)
    c_out = PARAMETRISATIONS[model.card.parametrisation](level, model.card.sigma_data)[2]
    return draw.penalty((made - x0) / c_out).mean((1, 2, 3))


def _hybrid(model: Denoiser, x0: Tensor, sigma: Tensor, step: Tensor, draw: Draw) -> Tensor:
    """Error of the noise, plus the variational bound of a learned variance times steps / 1000 (the
    rescaled hybrid loss of Nichol and Dhariwal 2021, section 3.1; Baikal).

    The bound trains the variance only: the noise counts as known in it. step: (B,) from 1.
    """
    noise, root = draw.normal(x0), column((1 + sigma.square()).rsqrt())  # root = sqrt(abar)
    both = model.net((x0 + column(sigma) * noise) * root, step - 1, variance=True).float()
    eps, share = both.chunk(2, 1)
    made = x0 + column(sigma) * (noise - eps.detach())  # the network's x0
    with torch.autocast(x0.device.type, enabled=False):
        bound = variational(x0, made, (share + 1) / 2, step.long(), draw.recipe.levels.schedule)
    rest = schedule(draw.recipe.levels.schedule).steps / 1000
    return draw.penalty(eps - noise).mean((1, 2, 3)) + rest * bound


def variational(x0: Tensor, made: Tensor, share: Tensor, step: Tensor, name: str) -> Tensor:
    """The variational bound (B,) of a step back, bits per pixel: the divergence of the network's
    Gaussian from the true one or, at step 1, the cost of x0 in 256 grey levels.

    x0, made: (B, C, H, W), the true and the network's clean image. share: (B, C, H, W), where the
    network's log variance lies between that of the true step (0) and beta (1), Nichol and Dhariwal
    2021, eq. 15. step: (B,) int64 of the schedule `name`.
    """
    abar = torch.tensor(schedule(name).abar, dtype=torch.float64, device=x0.device)
    beta, past = 1 - abar[step] / abar[step - 1], abar[step - 1]
    spread = beta * (1 - abar[step - 1]) / (1 - abar[step])
    second = 1 - abar[2] / abar[1]  # at step 1 the true variance is 0: that of step 2 stands for it
    spread = torch.where(step > 1, spread, second * (1 - abar[1]) / (1 - abar[2]))
    least, most = (column(v.log().float()) for v in (spread, beta))
    log_var = least + share * (most - least)
    error = column((beta * past.sqrt() / (1 - abar[step])).float()) * (x0 - made)  # of the mean
    divergence = log_var - least + (least - log_var).exp() + error.square() * (-log_var).exp() - 1
    normal = torch.distributions.Normal(0.0, (log_var / 2).exp())
    above, below = normal.cdf(error + 1 / 255), normal.cdf(error - 1 / 255)
    above, below = torch.where(x0 > 0.999, 1.0, above), torch.where(x0 < -0.999, 0.0, below)
    cost = -(above - below).clamp_min(1e-12).log()
    bound = torch.where(column(step) > 1, divergence / 2, cost)
    return bound.mean((1, 2, 3)) / np.log(2)


@dataclass(frozen=True)
class Observed:
    """Images as a camera sees them (B, C, H, W), and what the network is told of their noise.

    told: levels (B, 1), or (B, 2) with the share of the second at each pixel (B, 1, H, W).
    """

    x: Tensor
    told: Tensor
    share: Tensor | None


def observed(x0: Tensor, sigma: Tensor, draw: Draw) -> Observed:
    """Add noise of levels sigma (B,) to clean images (B, C, H, W), all float32.

    The first samples are low counts, told the level of many photons; the next have correlated
    noise, told its low-frequency level; the others white noise. In a share of those with noise the
    level differs in and around a rectangle, or rises across the image.
    """
    options, generator, count = draw.recipe.noise, draw.generator, len(x0)
    few = round(options.counts * count)
    coloured = few + round(options.correlated * (count - few))
    levels, share, level = sigma[:, None], None, column(sigma)
    if options.region > 0:
        levels, share = _two_levels(sigma, x0, draw)
        level = mixed(levels, share)
    noise, factor = draw.normal(x0), torch.ones_like(sigma)
    if coloured > few:
        made = correlated_noise((coloured - few, *x0.shape[1:]), options, generator)
        noise[few:coloured], factor[few:coloured] = made.noise, made.low_frequency
    x, levels = x0 + level * noise, levels.clone()
    if few:
        low, high = options.photons
        photons = low * (high / low) ** uniform(generator, few)
        light = x0[:few] - x0[:few].amin((1, 2, 3), keepdim=True) + DIM  # whitened: 2 sqrt(photons)
        levels[:few] = (light.square().mean((1, 2, 3)) / (4 * photons)).sqrt()[:, None]
        read = draw.recipe.degradation.read
        x[:few] = counts(x0[:few], column(levels[:few, 0]), read, generator)
    error = options.jitter * torch.randn(count, generator=generator, device=x0.device)
    return Observed(x, levels * (factor * error.exp())[:, None], share)


def _two_levels(sigma: Tensor, x0: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Two levels of each sample (B, 2), equal in most, and the share of the second (B, 1, H, W)."""
    generator, law, (count, _, height, width) = draw.generator, draw.recipe.levels, x0.shape
    angle = column(2 * np.pi * uniform(generator, count))
    down = torch.linspace(-0.5, 0.5, height, device=x0.device)[:, None]
    across = torch.linspace(-0.5, 0.5, width, device=x0.device)
    ramp = (0.5 + down * angle.sin() + across * angle.cos()).clamp(0, 1)
    inside = rectangles((count, 1, height, width), generator)
    sharp = uniform(generator, count) < 0.5
    varies = uniform(generator, count) < draw.recipe.noise.region
    step = uniform(generator, count, -1, 1) * torch.where(sharp, FOURFOLD, HALF_OCTAVE)
    second = (sigma * (step * varies).exp()).clamp(law.min, law.max)
    return torch.stack([sigma, second], 1), torch.where(column(sharp), inside.float(), ramp)


def conditional(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """Denoising from any level, given another image of the field: the pair's, or a degraded x0
    (DDPM microscopy, Osuna-Vargas et al., section 3.2)."""
    target, condition = _given(model, x0, draw)
    return _denoising(model, target, draw.between(len(x0)), condition, draw)


def restoration(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """Mean absolute error (B,) of a `conditional` restoration from pure noise, in one call or in
    the steps that the recipe says."""
    target, condition = _given(model, x0, draw)
    name, highest = draw.recipe.levels.schedule or "cosine200", model.card.sigma_max
    steps = draw.recipe.validation.sampled
    settings = ConditionalSettings(name, eta=1.0 if steps else 0.0, highest=highest)
    restored = generated(
        model, condition, settings, steps or 1, lambda _, some: draw.normal(x0[some])
    )
    return (restored - target).abs().mean((1, 2, 3))


def _given(model: Denoiser, x0: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Target and condition; with fusion, the condition has its noise level as a channel."""
    if draw.partner is None:
        target, y = degrade(x0, draw.recipe.degradation, draw.recipe.noise, draw.generator)
    else:
        target, y = x0, filtered(draw.partner, draw.recipe.degradation, draw.generator)
    if not model.card.fusion:
        return target, y
    jitter = torch.randn(len(y), generator=draw.generator, device=y.device) * LEVEL_ERROR
    level = (noise_level(y - target) * jitter.exp()).clamp_min(LEAST_LEVEL)
    return target, torch.cat([y, column(level).expand_as(y[:, :1])], 1)


def noise_level(error: Tensor) -> Tensor:
    """Noise level (B,) of an error (B, C, H, W) for a denoiser of white noise: from its low
    frequencies, which matter most if noise is correlated between pixels."""
    cells = F.avg_pool2d(error, CELL)
    return CELL * cells.var((1, 2, 3), unbiased=True).sqrt()


VALIDATION_ERRORS = {"conditional": restoration}  # validation errors other than the loss


def baseline(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """Denoising from any level, given the image with noise up to T' (RSCD, Algorithm 4)."""
    if not draw.recipe.levels.schedule:
        raise UsageError("objective 'conditional-baseline' needs levels.schedule, e.g. cosine")
    other, _ = draw.sigma(len(x0))
    scale = column((1 + other.square()).rsqrt())  # sqrt(abar)
    condition = scale * (x0 + column(other) * draw.normal(x0))
    sigma, _ = draw.sigma(len(x0), highest=schedule(draw.recipe.levels.schedule).steps)
    return _denoising(model, x0, sigma, condition, draw)


def calibrator(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """Predict the noise level: step t of the schedule or, without one, log sigma.

    With probability `noise.region` the inside or outside of a rectangle has a second, lower level;
    the target is the higher one (RSCD, section 3.3 and Algorithm 2). The paper's noise is white;
    here a share `noise.correlated` of the samples has correlated noise, and `noise.target` chooses
    whether to predict its standard deviation or its low-frequency level.
    """
    count, options = len(x0), draw.recipe.noise
    sigma, step = draw.sigma(count)
    made = camera_noise((count, *x0.shape[1:]), options, draw.generator)
    level = column(sigma).expand(-1, 1, *x0.shape[2:])
    if options.region > 0:
        second = column(_lower(sigma, step, draw))
        where = rectangles((count, 1, *x0.shape[2:]), draw.generator)
        where &= column(uniform(draw.generator, count) < options.region)
        level = torch.where(where, second, level)
    x = x0 + level * made.noise
    if draw.recipe.levels.schedule:
        x = x * (1 + level.square()).rsqrt()  # x_t = sqrt(abar) x0 + sqrt(1 - abar) eps
    if options.clip > 0:
        x = _clipped(x, options.clip, draw.generator)
    predicted = model.net(x)
    if draw.recipe.levels.schedule:
        return draw.penalty((predicted - step) / schedule(draw.recipe.levels.schedule).steps)
    target = sigma * made.low_frequency if options.target == "low-frequency" else sigma
    return draw.penalty(predicted - target.log())


def _lower(sigma: Tensor, step: Tensor, draw: Draw) -> Tensor:
    """Noise levels (B,) up to sigma: t' uniform in 1..t of a schedule, else a uniform share."""
    part = uniform(draw.generator, len(sigma))
    if not draw.recipe.levels.schedule:
        return sigma * part
    grid = torch.from_numpy(schedule(draw.recipe.levels.schedule).sigmas().copy()).to(sigma)
    return grid[(part * step).long().add(1).clamp(max=step.long())]


def rectangles(shape: tuple[int, int, int, int], generator: torch.Generator) -> Tensor:
    """(B, 1, H, W) bool: inside or outside of a random rectangle of 1/8 to 3/4 of each side.

    The published code uses 30 to 180 of 256 px.
    """
    count, _, height, width = shape
    spans = []
    for length in (height, width):
        size = (uniform(generator, count, 0.125, 0.75) * length).round()
        start = (uniform(generator, count) * (length - size)).round()
        at = torch.arange(length, device=generator.device)
        spans.append((at >= start[:, None]) & (at < (start + size)[:, None]))
    inside = (spans[0][:, :, None] & spans[1][:, None, :])[:, None]
    return inside ^ (uniform(generator, count) < 0.5)[:, None, None, None]


def _clipped(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """In a share of the samples, clip values below a random threshold in the lower range."""
    lowest, mean = x.amin((1, 2, 3)), x.mean((1, 2, 3))
    point = lowest + uniform(generator, len(x)) * (mean - lowest)
    point = torch.where(uniform(generator, len(x)) < share, point, lowest)
    return torch.maximum(x, column(point))


def slices(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """Denoise hidden rows at any level, given the others: (B, C, H, W) -> loss (B,).

    The loss is the mean error of the network's output in hidden rows (MSDSR, eq. 6 with the mask
    inverted). For residuals, the base interpolation is part of the input, linear or cubic at
    random.
    """
    card = model.card
    known = masked.base_interpolations(card)
    sigma, _ = draw.sigma(len(x0))
    observed, base, marked = _rows(x0, known or ("linear",), draw)
    hidden = 1 - observed
    noise = column(sigma) * draw.normal(x0)
    if known:
        target = (x0 - base) * hidden
        made = model(target + noise * hidden, sigma, torch.cat([base, marked], 1))
    else:
        target = x0
        made = model(masked.interlaced(x0 + noise, x0, observed, sigma, card), sigma)
    c_out = PARAMETRISATIONS[card.parametrisation](sigma, card.sigma_data)[2]
    return _hidden_mean(draw.penalty((made - target) / column(c_out)), hidden)


def ms_unet(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """Predict the image in one step from observed rows, with noise in hidden ones (MS-UNet)."""
    observed, _, _ = _rows(x0, ("linear",), draw)
    x = observed * x0 + (1 - observed) * draw.normal(x0)
    made = model.net(x, torch.zeros(len(x0), device=x0.device))
    return _hidden_mean(draw.penalty(made - x0), 1 - observed)


def e2e_unet(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """Predict the plane between two (E2E-UNet). x0 (B, 3 C, H, W): the C channels of three
    consecutive planes, one plane after the other."""
    before, wanted, after = x0.chunk(3, 1)
    made = model.net(torch.cat([before, after], 1), torch.zeros(len(x0), device=x0.device))
    return draw.penalty(made - wanted).mean((1, 2, 3))


def _hidden_mean(error: Tensor, hidden: Tensor) -> Tensor:
    """Means over hidden rows (B,); error (B, C, H, W), hidden (B, 1, H, 1)."""
    rows = hidden.sum((1, 2, 3)) * error.shape[1] * error.shape[3]
    return (error * hidden).sum((1, 2, 3)) / rows


def _rows(x0: Tensor, known: tuple[str, ...], draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """Observed rows (B, 1, H, 1), the base interpolation (B, C, H, W), the marks (B, 1, H, W).

    known: interpolations to choose from. Rows form regular grids of any phase, as at inference, or
    are random as in MSDSR and then interpolated linearly, because cubic convolution needs a grid.
    """
    law, count, height = draw.recipe.slices, len(x0), x0.shape[2]
    chance = uniform(draw.generator, (4, count)).cpu().numpy()
    low, high = law.factors
    made, observed, codes = [], np.zeros((count, height), np.float32), []
    for k, (size, phase, grid, which) in enumerate(chance.T):
        factor = low + int(size * (high - low + 1))
        if grid < law.grids:
            kind = known[int(which * len(known))]
            rows = np.arange(int(phase * factor), height, factor)
        else:
            kind = "linear" if "linear" in known else known[0]
            order = torch.rand(height, generator=draw.generator, device=draw.generator.device)
            fewest, most = law.rows or (max(2, height // factor),) * 2
            kept = fewest + int(size * (most - fewest + 1))
            rows = np.sort(order.argsort().cpu().numpy()[:kept])
        observed[k, rows] = 1
        found = catalog.INTERPOLATIONS[kind].load()(
            np.interp(np.arange(height), rows, np.arange(len(rows))), len(rows)
        )
        dense = np.zeros((height, height), np.float32)
        np.add.at(dense, (np.arange(height)[:, None], rows[found.index]), found.weight)
        made.append(dense)
        codes.append(masked.CODES[kind])
    shown = torch.from_numpy(observed).to(x0)[:, None, :, None]  # (B, 1, H, 1)
    base = torch.einsum("brs,bcsw->bcrw", torch.from_numpy(np.stack(made)).to(x0), x0)
    code = column(torch.tensor(codes, device=x0.device))
    marked = (shown + (1 - shown) * code).expand(-1, -1, -1, x0.shape[3])
    return shown, base, marked
