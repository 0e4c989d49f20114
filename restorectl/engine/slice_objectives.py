"""Objectives that fill in hidden rows and planes; see `engine.objectives` and `engine.slices`."""

import numpy as np
import torch
from torch import Tensor

from restorectl import catalog
from restorectl.engine import slices as masked
from restorectl.engine.camera_noise import uniform
from restorectl.engine.denoiser import PARAMETRISATIONS, Denoiser
from restorectl.engine.objectives import PENALTIES, Draw
from restorectl.errors import UsageError


def slices(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """Denoise the hidden rows at any level, given the others: (B, C, H, W) -> loss (B,).

    The loss is the network's own error in hidden rows only, their mean (paper 003, eq. 6 with the
    mask the right way round). Where a residual is predicted, its interpolation is part of the
    input, linear or cubic by chance.
    """
    card = model.card
    known = masked.anchors(card)
    sigma, _ = draw.sigma(len(x0))
    level = sigma.reshape(-1, 1, 1, 1)
    observed, anchor, marked = _rows(x0, known or ("linear",), draw)
    hidden = 1 - observed
    if known:
        target = (x0 - anchor) * hidden
        x = target + level * draw.normal(x0) * hidden
        made = model(x, sigma, torch.cat([anchor, marked], 1))
    else:
        target = x0
        x = masked.interlaced(x0 + level * draw.normal(x0), x0, observed, sigma, card)
        made = model(x, sigma)
    c_out = PARAMETRISATIONS[card.parametrisation](sigma, card.sigma_data)[2].reshape(-1, 1, 1, 1)
    return _hidden_mean(PENALTIES[draw.penalty]((made - target) / c_out), hidden)


def ms_unet(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """The image from its observed rows and noise in the hidden ones, in one step (MS-UNet)."""
    observed, _, _ = _rows(x0, ("linear",), draw)
    x = observed * x0 + (1 - observed) * draw.normal(x0)
    made = model.net(x, torch.zeros(len(x0), device=x0.device))
    return _hidden_mean(PENALTIES[draw.penalty](made - x0), 1 - observed)


def e2e_unet(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """The plane between two others (E2E-UNet). x0 (B, 3, H, W): consecutive planes as channels."""
    if x0.shape[1] != 3:
        raise UsageError("objective 'e2e-unet' needs data.channels=3: three consecutive planes")
    made = model.net(x0[:, [0, 2]], torch.zeros(len(x0), device=x0.device))
    return PENALTIES[draw.penalty](made - x0[:, 1:2]).mean((1, 2, 3))


def _hidden_mean(error: Tensor, hidden: Tensor) -> Tensor:
    """(B,) means over hidden rows; error (B, C, H, W), hidden (B, 1, H, 1)."""
    rows = hidden.sum((1, 2, 3)) * error.shape[1] * error.shape[3]
    return (error * hidden).sum((1, 2, 3)) / rows


def _rows(x0: Tensor, known: tuple[str, ...], draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """Observed rows (B, 1, H, 1), the interpolation (B, C, H, W), the marks (B, 1, H, W).

    Regular grids of any phase as at inference, or random rows as in the paper; those are
    interpolated on straight lines, since cubic convolution needs a grid.
    """
    law, count, height = draw.slices, len(x0), x0.shape[2]
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
            rows = np.sort(order.argsort().cpu().numpy()[: max(2, height // factor)])
        observed[k, rows] = 1
        found = catalog.INTERPOLATIONS[kind].load()(
            np.interp(np.arange(height), rows, np.arange(len(rows))), len(rows)
        )
        dense = np.zeros((height, height), np.float32)
        np.add.at(dense, (np.arange(height)[:, None], rows[found.index]), found.weight)
        made.append(dense)
        codes.append(masked.CODES[kind])
    shown = torch.from_numpy(observed).to(x0)[:, None, :, None]  # (B, 1, H, 1)
    anchor = torch.einsum("brs,bcsw->bcrw", torch.from_numpy(np.stack(made)).to(x0), x0)
    code = torch.tensor(codes, device=x0.device).reshape(-1, 1, 1, 1)
    marked = (shown + (1 - shown) * code).expand(-1, -1, -1, x0.shape[3])
    return shown, anchor, marked
