"""Phantoms: clean structures drawn for training, so that some targets have no noise at all.

Puncta, filaments, membranes, nuclei and textures, sharp and oversampled, dense and sparse. Every
number is drawn from the given generator, on its device, for all crops of a micro-batch at once.
Lengths are pixels. Structures are drawn on a larger square, which repeats itself at its borders
where that makes drawing simpler, and the crop is its middle.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from restorectl.training.degrade import column, uniform

Kind = Callable[[int, int, torch.Generator], Tensor]
MARGIN = 16  # px around the crop
POINTS = 512  # most puncta of a square
LINES, BEADS, PACE = 20, 160, 0.8  # most filaments, points on each, their distance in px
CELLS = 24  # most cells or nuclei
GLOW = 10.0  # px, extent of the light from other planes


def draw(
    count: int,
    side: int,
    gamma: tuple[float, ...],
    generator: torch.Generator,
    kinds: Sequence[Kind] | None = None,
) -> Tensor:
    """Clean crops (count, 1, side, side) float32 in the square-root domain, -1 without light.

    gamma: range of the exponent of intensity, as for the crops of images. The brightest pixel of
    the square around a crop is at +1 or below, in sparse fields up to about +2.
    """
    size = side + 2 * MARGIN
    kinds = kinds or KINDS
    each = -(-count // len(kinds))
    image = _bright(torch.cat([kind(each, size, generator) for kind in kinds]))
    order = torch.randperm(len(image), generator=generator, device=image.device)
    other = image.roll(len(image) // 2, 0)[order[:count]]  # of another kind
    image = image[order[:count]]  # (count, size, size), relative fluorescence
    second = uniform(generator, (count, 1, 1)) * _some(0.3, count, generator)
    image = _bright(_seen(image + second * other, generator))
    image = image[:, None, MARGIN:-MARGIN, MARGIN:-MARGIN] * _log(0.1, 2.0, count, generator)
    dark = _log(0.002, 0.5, count, generator)  # background, of the upper end of the range
    power = uniform(generator, (count, 1, 1, 1), *gamma)
    low, high = dark**power, (1 + dark) ** power
    return ((image + dark) ** power - low) * (2 / (high - low)) - 1


def puncta(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Spots of one size or several, spread evenly or in clusters: (count, size, size) >= 0."""
    at = uniform(generator, (count, POINTS, 2)) * size
    centres = uniform(generator, (count, 8, 2)) * size
    which = torch.randint(8, (count, POINTS), generator=generator, device=generator.device)
    spread = _log(2, 20, count, generator)[:, 0] * _normal((count, POINTS, 2), generator)
    near = centres.gather(1, which[:, :, None].expand(-1, -1, 2)) + spread
    at = torch.where(_some(0.4, count, generator) > 0, near, at)
    width = _log(0.45, 2.5, count, generator)[:, 0, 0] * _varied((count, POINTS), 0.2, generator)
    bright = _varied((count, POINTS), 0.7, generator) * _first(POINTS, count, generator, 3)
    return _spots(at, bright, width, size)


def filaments(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Lines from straight to curly, thin to thick, in any direction or side by side."""
    bend = _log(0.002, 0.3, count, generator)[:, 0]  # radians per point
    steps = bend * _normal((count, LINES, BEADS), generator)
    spread = torch.where(_some(0.3, count, generator)[:, :, 0] > 0, 0.05, 1.0)
    start = 2 * math.pi * uniform(generator, (count, 1))
    start = start + spread * math.pi * uniform(generator, (count, LINES), -1, 1)
    angle = start[:, :, None] + steps.cumsum(2)
    forward = PACE * torch.stack([angle.sin(), angle.cos()], -1)
    at = uniform(generator, (count, LINES, 1, 2)) * size + forward.cumsum(2)
    at = at - forward.sum(2, keepdim=True) / 2
    length = uniform(generator, (count, LINES, 1), 0.1, 1.0) * BEADS
    bright = _varied((count, LINES, 1), 0.5, generator)
    bright = bright * (torch.arange(BEADS, device=at.device) < length)
    bright = bright * _first(LINES, count, generator)[:, :, None]
    width = _log(0.45, 2.5, count, generator)[:, 0].expand(-1, LINES * BEADS, -1)[:, :, 0]
    return _spots(at.flatten(1, 2), bright.flatten(1), width, size)


def membranes(count: int, size: int, generator: torch.Generator) -> Tensor:
    """The borders of cells, their insides at levels of their own, or both."""
    seeds = uniform(generator, (count, CELLS, 2)) * size
    away = _away(seeds, size).square().sum(1).sqrt()  # (count, CELLS, size, size)
    away = away + 0.05 * size * _normal((count, CELLS, 1, 1), generator)  # curved borders
    away = away + 1e6 * (1 - _first(CELLS, count, generator, 4))[:, :, None, None]
    nearest, which = away.min(1, keepdim=True)
    second = away.scatter(1, which, torch.inf).amin(1)
    border = (second - nearest[:, 0]) / (2 * _log(0.45, 2.5, count, generator)[:, 0])
    level = _varied((count, CELLS), 0.6, generator)
    inside = level.gather(1, which[:, 0].flatten(1)).unflatten(1, (size, size))
    edges = 1 - _some(0.25, count, generator)
    fill = uniform(generator, (count, 1, 1)) * _some(0.5, count, generator)
    return edges * (-border.square() / 2).exp() + torch.where(edges > 0, fill, 1.0) * inside


def nuclei(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Soft-edged ellipses from bacteria to nuclei, filled or hollow, plain or with texture."""
    away = _away(uniform(generator, (count, CELLS, 2)) * size, size)
    angle = math.pi * uniform(generator, (count, CELLS, 1, 1))
    along = away[:, 0] * angle.sin() + away[:, 1] * angle.cos()
    across = away[:, 0] * angle.cos() - away[:, 1] * angle.sin()
    radius = _log(2.0, 20.0, count, generator) * _varied((count, CELLS, 1, 1), 0.2, generator)
    slim = uniform(generator, (count, 1, 1, 1), 1.0, 3.0)
    distance = ((along / slim).square() + across.square()).sqrt()
    soft = _log(0.3, 2.0, count, generator)
    filled = ((radius - distance) / soft).sigmoid()
    hollow = 4 * filled * (1 - filled)
    filled = torch.where(_some(0.25, count, generator)[..., None] > 0, hollow, filled)
    level = _varied((count, CELLS), 0.4, generator) * _first(CELLS, count, generator)
    image = (filled * level[:, :, None, None]).amax(1)
    grain = uniform(generator, (count, 1, 1), 0.0, 0.5) * _field(count, size, generator)
    return image * (1 + grain).clamp_min(0)


def textures(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Irregular fields from coarse to fine, speckled or in two levels, and gratings."""
    field = _field(count, size, generator)
    strength = _log(0.2, 4.0, count, generator)[:, 0]
    smooth, steep = (strength.clamp_max(1.2) * field).exp(), (3 * strength * field).sigmoid()
    image = torch.where(_some(0.3, count, generator) > 0, steep, smooth)
    angle = math.pi * uniform(generator, (count, 1, 1))
    axis = torch.arange(size, device=field.device, dtype=torch.float32)
    along = axis[:, None] * angle.sin() + axis * angle.cos()
    period = _log(2.5, 20.0, count, generator)[:, 0]
    wave = (
        1 + (2 * math.pi * along / period + uniform(generator, (count, 1, 1)) * field).cos()
    ) / 2
    return torch.where(_some(0.25, count, generator) > 0, wave**strength, image)


KINDS: tuple[Kind, ...] = (
    puncta,
    filaments,
    membranes,
    nuclei,
    textures,
)


def _seen(image: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images through a wider point spread, and half with light from other planes."""
    count, size = image.shape[:2]
    width = _log(0.5, 3.5, count, generator)[:, 0] * _some(0.5, count, generator)
    glow = uniform(generator, (count, 1, 1), 0.0, 0.6) * _some(0.5, count, generator)
    power = -2 * math.pi**2 * _frequency(size, image.device).square()
    passed = (power * width.square()).exp() + glow * (power * GLOW**2).exp()
    return torch.fft.irfft2(torch.fft.rfft2(image) * passed, s=(size, size)).clamp_min(0)


def _field(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Random fields (count, size, size) of mean 0 and variance 1, power ~ frequency ** -slope."""
    slope = uniform(generator, (count, 1, 1), 1.0, 4.0)
    frequency = _frequency(size, generator.device)
    shaped = (
        frequency.clamp_min(1 / 32) ** (-slope / 2) * (-2 * (0.7 * math.pi * frequency) ** 2).exp()
    )
    noise = torch.fft.rfft2(_normal((count, size, size), generator)) * shaped * (frequency > 0)
    field = torch.fft.irfft2(noise, s=(size, size))
    return field / field.square().mean((1, 2), keepdim=True).sqrt()


def _frequency(size: int, device: torch.device) -> Tensor:
    """(size, size // 2 + 1) cycles per px of the real Fourier transform."""
    down, across = torch.fft.fftfreq(size, device=device), torch.fft.rfftfreq(size, device=device)
    return torch.hypot(down[:, None], across)


def _spots(at: Tensor, bright: Tensor, width: Tensor, size: int) -> Tensor:
    """Sums of Gaussians: at (B, P, 2), bright and width (B, P) -> (B, size, size)."""
    axis = torch.arange(size, device=at.device, dtype=torch.float32)
    lines = (-((axis - at[..., None]) / width[:, :, None, None]).square() / 2).exp()
    return torch.einsum("bpy,bpx->byx", lines[:, :, 0] * bright[..., None], lines[:, :, 1])


def _away(points: Tensor, size: int) -> Tensor:
    """Offsets in y and x from points (B, P, 2) to all pixels: (B, 2, P, size, size)."""
    axis = torch.arange(size, device=points.device, dtype=torch.float32)
    offset = axis - points[..., None]  # (B, P, 2, size)
    down = offset[:, :, 0, :, None].expand(-1, -1, -1, size)
    return torch.stack([down, offset[:, :, 1, None, :].expand_as(down)], 1)


def _bright(image: Tensor) -> Tensor:
    """Scale images (B, H, W) to a maximum of 1."""
    return image / image.amax((1, 2), keepdim=True).clamp_min(1e-6)


def _first(most: int, count: int, generator: torch.Generator, least: float = 1.0) -> Tensor:
    """(count, most) 1 for the first n objects and 0 for the others, n log-uniform."""
    number = _log(least, most + 1, count, generator)[:, :, 0, 0]
    return (torch.arange(most, device=number.device) < number).float()


def _log(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    """(count, 1, 1, 1) log-uniform numbers."""
    return column(low * (high / low) ** uniform(generator, count))


def _some(share: float, count: int, generator: torch.Generator) -> Tensor:
    """(count, 1, 1) 1 for a share of the crops and 0 for the others."""
    return (uniform(generator, (count, 1, 1)) < share).float()


def _varied(shape: tuple[int, ...], spread: float, generator: torch.Generator) -> Tensor:
    """Log-normal numbers around 1."""
    return (spread * _normal(shape, generator)).exp()


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)
