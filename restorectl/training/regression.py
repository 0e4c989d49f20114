"""Objectives of networks that restore in one call, the methods that diffusion is compared with.

As in `objectives`: (denoiser, images (B, C, H, W), draw) -> loss of each sample (B,). `care` and
`unet_rcan` learn from clean images, `noise2noise`, `n2v` and `dip` from noisy ones only.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from restorectl.engine.denoiser import Denoiser
from restorectl.engine.direct import estimate
from restorectl.training.degrade import column, degrade, uniform
from restorectl.training.objectives import Draw
from restorectl.training.recipe import Blind

LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
EDGES = 0.05  # weight of their error


def pair(x0: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Target and input (B, C, H, W): a pair or, without one, the image and itself with simulated
    noise."""
    if draw.partner is not None:
        return x0, draw.partner
    return degrade(x0, draw.recipe.degradation, draw.recipe.noise, draw.generator)


def care(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """Map an image to its pair (Weigert et al. 2018), real or simulated. Deep Image Prior (Ulyanov
    et al. 2018) is the same: the image is the noisy one, its partner is fixed random noise."""
    target, seen = pair(x0, draw)
    return draw.penalty(estimate(model, seen) - target).mean((1, 2, 3))


def unet_rcan(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """The same for both images of UNet-RCAN (Ebrahimi et al. 2023): root mean squared errors, of
    the pixels and of the edges."""
    target, seen = pair(x0, draw)
    found = []
    for made in model.net(seen, both=True):
        error = (made.float() - target).flatten(0, 1)[:, None]  # (B C, 1, H, W)
        edges = F.conv2d(error, LAPLACIAN.to(error))
        rms = [(e.square().mean((1, 2, 3)) + 1e-6).sqrt() for e in (error, edges)]
        found.append(rms[0] + EDGES * rms[1])
    return (found[0] + found[1]).reshape(len(x0), -1).mean(1)


def noise2noise(model: Denoiser, x0: Tensor, draw: Draw) -> Tensor:
    """Map one noisy exposure of a field to another, either way (Lehtinen et al. 2018)."""
    assert draw.partner is not None
    turned = column(uniform(draw.generator, len(x0)) < 0.5)
    seen = torch.where(turned, x0, draw.partner)
    wanted = torch.where(turned, draw.partner, x0)
    return draw.penalty(estimate(model, seen) - wanted).mean((1, 2, 3))


def n2v(model: Denoiser, x: Tensor, draw: Draw) -> Tensor:
    """Predict hidden pixels of a noisy image from their surroundings (Krull et al. 2019).

    A hidden pixel gets the value of a neighbour, or the neighbours' median (N2V2, Hoeck et al.
    2022). If noise is shared along rows or columns, the pixels of the line around it get random
    values too, but only it is predicted (structN2V, Broaddus et al. 2020).
    """
    options, generator = draw.recipe.blind, draw.generator
    rows, columns = spots(x, options, generator)  # (B, S) each
    values = _around(x, rows, columns, options)  # (B, C, S, K)
    if options.replace == "median":
        chosen = values.median(-1).values
    else:
        which = torch.randint(
            values.shape[-1], values.shape[:3], generator=generator, device=x.device
        )
        chosen = values.gather(-1, which[..., None])[..., 0]
    seen = x.flatten(2).clone()  # (B, C, H W); turned crops are not contiguous
    for down, across in line(options):
        place = _index(rows + down, columns + across, x)  # (B, C, S)
        random = torch.randint(x[0, 0].numel(), place.shape, generator=generator, device=x.device)
        seen.scatter_(2, place, x.flatten(2).gather(2, random))
    place = _index(rows, columns, x)
    seen.scatter_(2, place, chosen)
    error = (estimate(model, seen.reshape(x.shape)) - x).flatten(2).gather(2, place)
    return draw.penalty(error).mean((1, 2))


def spots(x: Tensor, options: Blind, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows and columns (B, S) of pixels, one at a random place of each square cell, with all their
    neighbours in the image."""
    side = max(2, round(options.share**-0.5))
    high, wide = max(1, x.shape[2] // side), max(1, x.shape[3] // side)
    cells = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
    corner = torch.stack(cells).flatten(1).to(x.device)[:, None] * side  # (2, 1, S)
    shape = (2, len(x), high * wide)
    inside = torch.randint(side, shape, generator=generator, device=x.device)
    rows, columns = corner + inside
    near = options.around
    return rows.clamp(near, x.shape[2] - 1 - near), columns.clamp(near, x.shape[3] - 1 - near)


def line(options: Blind) -> list[tuple[int, int]]:
    """Offsets (y, x) of the pixels that are hidden with each pixel."""
    steps = [k for k in range(-options.reach, options.reach + 1) if k]
    across = [(0, k) for k in steps] if options.mask in ("rows", "cross") else []
    return across + ([(k, 0) for k in steps] if options.mask in ("columns", "cross") else [])


def _around(x: Tensor, rows: Tensor, columns: Tensor, options: Blind) -> Tensor:
    """The neighbours (B, C, S, K) of pixels that are not hidden with them."""
    span, hidden = range(-options.around, options.around + 1), {(0, 0), *line(options)}
    places = [offset for offset in itertools.product(span, span) if offset not in hidden]
    down, across = torch.tensor(places, device=x.device).T
    where = _index(rows[..., None] + down, columns[..., None] + across, x)
    return x.flatten(2).gather(2, where.flatten(2)).reshape(where.shape)


def _index(rows: Tensor, columns: Tensor, x: Tensor) -> Tensor:
    """Positions (B, ...) as indices (B, C, ...) of the flattened planes of x, within them."""
    flat = rows.clamp(0, x.shape[2] - 1) * x.shape[3] + columns.clamp(0, x.shape[3] - 1)
    return flat[:, None].expand(-1, x.shape[1], *flat.shape[1:])
