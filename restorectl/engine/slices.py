"""Fill in the hidden rows of a slice from the observed ones: masked-slice diffusion (MSDSR).

A network works in one of two ways. Residuals: it predicts the difference between the slice and a
base interpolation. Its inputs are x_t, the interpolation, and a mask that is 1 in observed rows and
the code of the interpolation in hidden rows. Pixels, as in MSDSR (Jiang et al.): it predicts the
slice from x_t with the clean observed rows inserted. After equal training, residuals were 10 dB
better. MS-UNet and E2E-UNet are MSDSR's baselines without diffusion.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from restorectl.engine.card import Card
from restorectl.engine.denoiser import PARAMETRISATIONS, Denoiser
from restorectl.engine.runner import Runner
from restorectl.engine.samplers import Decided, Denoise, Problem, Sampler, ddim_rule, walk
from restorectl.engine.schedule import schedule

CODES = {"linear": 0.0, "cubic": -1.0}  # mask values of the base interpolations in hidden rows
START = 2.0  # starting noise level of residuals: 17 times their standard deviation
START_PIXELS = 80.0  # starting noise level of pixels (Karras et al. 2022)
BEGIN = -1  # step number of the starting noise
# MSDSR as printed, all steps at random, and as in its code: DDIM, also at random (eta = 1)
PRESETS = {"paper": 1000, "official": 200}


def base_interpolations(card: Card) -> tuple[str, ...]:
    """The base interpolations of a network's residuals; () = it predicts pixels."""
    return tuple(card.anchors.split(",")) if card.anchors else ()


def is_drawn(card: Card) -> bool:
    """Whether a network generates pixels from noise, for which one call is too few."""
    return card.objective == "slices" and not base_interpolations(card)


def inputs(channels: int, residual: bool) -> int:
    """Number of input channels of a network for `channels` image channels."""
    return 2 * channels + 1 if residual else channels


def marks(observed: Tensor, base: str) -> Tensor:
    """observed (B, 1, H, 1 or W), 1 or 0 -> the same with the code of `base` in place of 0."""
    return observed + (1 - observed) * CODES[base]


def interlaced(x: Tensor, clean: Tensor, observed: Tensor, sigma: Tensor, card: Card) -> Tensor:
    """x with the observed rows of `clean`, scaled so that the network gets them unchanged."""
    scale = PARAMETRISATIONS[card.parametrisation](sigma.float(), card.sigma_data)[0]
    return observed * clean / scale.reshape(-1, 1, 1, 1) + (1 - observed) * x


def residual_denoise(denoise: Denoise, base: Tensor, marked: Tensor) -> Denoise:
    """Denoise the residual of `base`; observed rows have neither residual nor noise.

    The interpolation base (B, C, H, W) and the mask marked (B, 1, H, W) are the condition.
    """
    condition, hidden = torch.cat([base, marked], 1), (marked != 1).float()

    def free(x: Tensor, sigma: Tensor, _condition: Tensor | None) -> Tensor:
        return denoise(x * hidden, sigma, condition) * hidden

    return free


def pixel_denoise(denoise: Denoise, clean: Tensor, observed: Tensor, card: Card) -> Denoise:
    """Denoise pixels, with the observed rows inserted at every call (MSDSR, eq. 5)."""

    def free(x: Tensor, sigma: Tensor, _condition: Tensor | None) -> Tensor:
        x0 = denoise(interlaced(x, clean, observed, sigma, card), sigma, None)
        return observed * clean + (1 - observed) * x0

    return free


def along_schedule(name: str, steps: int) -> Sampler:
    """MSDSR's sampler: random steps, evenly spaced in the discrete schedule `name`."""

    def run(p: Problem, decided: Decided) -> Tensor:
        table, count = schedule(name), p.steps or steps
        numbers = np.linspace(table.steps, 0, count + 1)
        levels = torch.from_numpy(table.sigma(numbers)).to(p.sigma)
        sigmas = levels[:, None].expand(-1, len(p.x)).contiguous()  # (K + 1, B)
        x = p.x * (levels[0] / p.sigma).reshape(-1, 1, 1, 1)
        return walk(p.denoise, x, sigmas, ddim_rule(eta=1.0), p.draw)

    return Sampler(run, calls=lambda count: count or steps)


def run(problem: Problem, sampler: Sampler, model: Denoiser, base: str) -> Tensor:
    """Fill in the hidden rows of a batch of slices.

    problem.x: (B, C, H, W) slices in the network's units, interpolated by `base`; problem.guide:
    (B, 1, H, W), 1 in observed rows. Returns slices like x with the observed rows unchanged.
    """
    assert problem.guide is not None
    x, observed, card = problem.x, problem.guide, model.card
    noise = problem.draw(BEGIN, torch.arange(len(x))).to(x)
    if card.objective == "ms-unet":  # in one step (MSDSR, section 4.2)
        noisy = observed * x + (1 - observed) * noise
        label = torch.zeros(len(x), device=x.device)
        made = model.net(noisy.to(model.dtype, memory_format=torch.channels_last), label).float()
        return torch.where(observed > 0, x, made)
    if base_interpolations(card):
        free, highest = residual_denoise(problem.denoise, x, marks(observed, base)), START
    else:
        free, highest = pixel_denoise(problem.denoise, x, observed, card), START_PIXELS
    level = min(highest, card.sigma_max)
    start = replace(
        problem,
        denoise=free,
        x=noise * (1 - observed) * level,
        sigma=torch.full_like(problem.sigma, level),
        guide=None,
    )
    made = sampler.run(start, {})
    return torch.where(observed > 0, x, x + made if base_interpolations(card) else made)


@torch.inference_mode()
def between(runner: Runner, planes: np.ndarray, factor: int) -> np.ndarray:
    """E2E-UNet (MSDSR, section 4.2): (N, C, Y, X) -> ((N - 1) * factor + 1, C, Y, X) float32.

    Predicts the plane between two neighbours repeatedly; factor is a power of two.
    """
    model, known = runner.denoiser(), torch.from_numpy(planes).to(runner.device)
    label = torch.zeros(1, device=runner.device)

    def middle(pair: Tensor) -> Tensor:
        x = pair[None].to(model.dtype, memory_format=torch.channels_last)
        made = model.net(x, label).float()[0]
        runner.count(1, (planes.shape[2], planes.shape[3]))
        return made

    while factor > 1:
        doubled = known.new_empty(2 * len(known) - 1, *known.shape[1:])
        doubled[::2] = known
        pairs = torch.cat([known[:-1], known[1:]], 1)
        doubled[1::2] = torch.stack(runner.workers.each(middle, pairs))
        known, factor = doubled, factor // 2
    return known.cpu().numpy()
