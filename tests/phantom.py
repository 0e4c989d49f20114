"""Synthetic fluorescence images: the specimen, the microscope's blur, the camera's noise.

The repository holds only images that this module makes; a seed always gives the same pixels.

Specimens are float64 arrays of relative fluorescence, (Y, X) or (Z, Y, X), about 1 where bright.
Lengths are lateral pixels, so is ``anisotropy``, the distance of two planes. Points are (N, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Rng = np.random.Generator
Shape = tuple[int, ...]

CELL = 46.0  # mean distance of cells, lateral pixels
KERNEL_SIGMA = 0.7  # of the noise kernel of correlation="gaussian", pixels
ROW_SHARE = 0.3  # share of the noise variance that a row has in common, correlation="rows"
MIX = {"nuclei": 0.8, "filaments": 0.3, "membranes": 0.45, "puncta": 0.5}  # of "mixed"
KINDS = (*MIX, "mixed")
_TAGS = (*MIX, "cells", "nucleus", "background")


def _rng(seed: int, purpose: str, index: int = 0) -> Rng:
    """An independent generator for each purpose (and object) of one seed."""
    return np.random.default_rng([seed, _TAGS.index(purpose), index])


def _grid(box: Sequence[slice], steps: Array) -> list[Array]:
    """D broadcastable coordinate arrays, lateral pixels."""
    axes = [np.arange(r.start, r.stop) * step for r, step in zip(box, steps, strict=True)]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def _waves(coords: list[Array], rng: Rng, low: float, high: float, count: int = 16) -> Array:
    """Smooth random field, zero mean and unit variance, wavelengths low..high lateral pixels."""
    toward = rng.normal(size=(count, len(coords)))
    toward *= 2 * np.pi / np.linalg.norm(toward, axis=1, keepdims=True)
    toward /= np.exp(rng.uniform(np.log(low), np.log(high), (count, 1)))
    field = np.zeros(np.broadcast_shapes(*(c.shape for c in coords)))
    for k, phase in zip(toward, rng.uniform(0, 2 * np.pi, count), strict=True):
        field += np.cos(sum(k[i] * c for i, c in enumerate(coords)) + phase)
    return field * np.sqrt(2 / count)


def _kernel(sigma: float) -> Array:
    """(2 h + 1,) sampled Gaussian of sum 1; sigma in pixels."""
    half = max(1, int(np.ceil(3.5 * sigma)))
    kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    return kernel / kernel.sum()


def _smooth(image: Array, sigmas: Sequence[float], mode: str = "symmetric") -> Array:
    """Separable Gaussian, one sigma in pixels per axis (0 leaves the axis), by shifted sums."""
    out = np.asarray(image, dtype=np.float64)
    for axis, sigma in enumerate(sigmas):
        if sigma > 0:
            kernel, length = _kernel(sigma), out.shape[axis]
            pad = [(len(kernel) // 2 * (a == axis),) * 2 for a in range(out.ndim)]
            source = np.moveaxis(np.pad(out, pad, mode=mode), axis, 0)
            parts = (w * source[i : i + length] for i, w in enumerate(kernel))
            out = np.moveaxis(sum(parts), 0, axis)
    return out


class Field(NamedTuple):
    """What the structures of one image share, so that channels of one seed belong together."""

    shape: Shape
    steps: Array  # (D,) voxel size, lateral pixels
    seed: int
    time: float  # frames since the start; moves cells and spots
    coords: list[Array]  # D broadcastable coordinates of the voxels, lateral pixels
    cells: Array  # (N, D) cell centres, some of them outside the image
    there: Array  # (N,) bool: the site is taken by a stained cell

    def splat(self, points: Array, weights: Array) -> Array:
        """Linear deposit of (N, D) points of (N,) weights; those outside are lost."""
        voxels = points / self.steps
        base = np.floor(voxels).astype(np.int64)
        total = np.zeros(int(np.prod(self.shape)))
        for corner in np.ndindex(*(2,) * len(self.shape)):
            index = base + corner
            share = weights * np.prod(1 - np.abs(voxels - index), axis=1)
            inside = np.all((index >= 0) & (index < self.shape), axis=1)
            places = np.ravel_multi_index(tuple(index[inside].T), self.shape)
            total += np.bincount(places, share[inside], total.size)
        return total.reshape(self.shape)

    def pool(self, weights: Array) -> Array:
        """Diffuse light around the cells, (N,) weights, brightest voxel 1."""
        image = _smooth(self.splat(self.cells, weights), 12.0 / self.steps)
        return image / max(image.max(), 1e-12)

    def count(self, per_cell: float) -> int:
        """How many objects make ``per_cell`` of them in the room of a cell."""
        return round(np.prod(self.shape * self.steps / CELL) * per_cell) + 4


def _field(shape: Shape, seed: int, anisotropy: float, time: float) -> Field:
    """Cells on a jittered brick lattice that reaches beyond the image, moving in the plane."""
    steps, rng = np.array([anisotropy, 1.0, 1.0][-len(shape) :]), _rng(seed, "cells")
    counts, margins = np.maximum(1, np.rint(shape * steps / CELL)), [0, 1, 1][-len(shape) :]
    pitch = shape * steps / counts
    axes = [np.arange(-m, n + m) + 0.5 for m, n in zip(margins, counts, strict=True)]
    mesh = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    mesh[..., -1] += 0.5 * (np.arange(len(axes[-2])) % 2)[:, None]
    lattice = mesh.reshape(-1, len(shape)) * pitch
    lattice += rng.uniform(-0.36, 0.36, lattice.shape) * np.minimum(CELL, pitch)
    lattice += time * rng.normal(0, 0.7, lattice.shape) * margins
    there = rng.random(len(lattice)) > 0.15
    there[len(there) // 2] = True  # never an empty specimen
    coords = _grid([slice(0, n) for n in shape], steps)
    return Field(shape, steps, seed, time, coords, lattice, there)


def _nucleus(coords: list[Array], radius: float, rng: Rng) -> Array:
    """One nucleus around the origin: lobed ellipse, chromatin texture, rim and dark nucleoli."""
    mitotic = rng.random() < 0.06
    angle, ratio = rng.uniform(0, np.pi), 0.35 if mitotic else rng.uniform(0.65, 0.95)
    along = coords[-1] * np.cos(angle) + coords[-2] * np.sin(angle)
    across = coords[-2] * np.cos(angle) - coords[-1] * np.sin(angle)
    r2 = (along / radius) ** 2 + (across / (radius * ratio)) ** 2
    high2 = (coords[0] / (0.7 * radius)) ** 2 if len(coords) == 3 else 0.0
    r = np.sqrt(r2 + high2) * (1 + 0.05 * _waves(coords, rng, 1.2 * radius, 3 * radius, 6))
    body = 0.5 - 0.5 * np.tanh((r - 1) * radius / 1.1)
    if mitotic:
        return 2.2 * body * (1 + 0.15 * _waves(coords, rng, 3, 8))
    chromatin = _waves(coords, rng, 3, 6, 20) + _waves(coords, rng, 7, 16, 10)
    texture = 1 + 0.16 * chromatin + 0.2 * np.exp(-(((r - 0.88) / 0.12) ** 2))
    for _ in range(rng.integers(1, 5)):
        place = rng.normal(0, 0.3 * radius, len(coords)) * ratio
        size = radius * rng.uniform(0.11, 0.24)
        away2 = sum((c - p) ** 2 for c, p in zip(coords, place, strict=True)) / size**2
        texture = texture * (1 - 0.7 * np.exp(-(away2**1.5)))
    return body * np.clip(texture, 0.12, None)


def _nuclei(field: Field) -> Array:
    """Nuclei of lognormal brightness in the cells that are there."""
    image = np.zeros(field.shape)
    for index in np.flatnonzero(field.there):
        rng, centre = _rng(field.seed, "nucleus", int(index)), field.cells[index]
        radius, brightness = rng.uniform(8.5, 16), np.exp(rng.normal(-0.4, 0.5))
        low = np.maximum(np.floor((centre - 1.4 * radius) / field.steps), 0).astype(int)
        high = np.minimum(np.ceil((centre + 1.4 * radius) / field.steps) + 1, field.shape)
        if np.all(high > low):
            box = tuple(slice(a, b) for a, b in zip(low, high.astype(int), strict=True))
            coords = [g - c for g, c in zip(_grid(box, field.steps), centre, strict=True)]
            image[box] += brightness * _nucleus(coords, radius, rng)
    return image


def _walk(start: Array, rng: Rng) -> tuple[Array, Array]:
    """One curved random walk: points (N, D) every 0.4 lateral pixels, (N,) brightness."""
    along = 0.4 * np.arange(int(rng.uniform(60, 260) / 0.4))
    push = np.convolve(rng.normal(0, 1, along.size), np.full(40, 1 / 40), mode="same")
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(0.4 * (0.12 * push + rng.normal(0, 0.004)))
    rise = 0 * angle + rng.normal(0, 0.12)
    moves = np.stack([rise, np.sin(angle), np.cos(angle)][-len(start) :], axis=1)
    beads = np.clip(1 + 0.25 * _waves([along], rng, 4, 60), 0.15, None)
    ends = np.minimum(1, np.minimum(along, along[::-1]) / 6)
    return start + 0.4 * np.cumsum(moves, axis=0), beads * ends * np.exp(rng.normal(-0.4, 0.6))


def _filaments(field: Field) -> Array:
    """Fibres in three widths, half of them grown out of cells, with the cells' diffuse pool."""
    rng, ndim = _rng(field.seed, "filaments"), len(field.shape)
    extent, image = field.shape * field.steps, np.zeros(field.shape)
    bright = np.exp(rng.normal(0, 0.7, len(field.cells))) * field.there
    for width, per_cell in ((0.55, 2.5), (0.9, 1.7), (1.7, 0.6)):
        walks = []
        for cell in rng.choice(np.flatnonzero(field.there), field.count(per_cell)):
            lone = rng.random() < 0.5
            near = field.cells[cell] + rng.normal(0, 4, ndim)
            points, weights = _walk(rng.uniform(0, extent) if lone else near, rng)
            walks.append((points, weights * (1.0 if lone else bright[cell])))
        line = field.splat(*(np.concatenate(p) for p in zip(*walks, strict=True)))
        image += _smooth(line, width / field.steps) * (2.5 * width) ** (ndim - 1)
    return image + 0.35 * field.pool(bright)


def _membranes(field: Field) -> Array:
    """Outlines of warped Voronoi cells: each border its brightness, gaps, dim cytoplasm."""
    rng, coords = _rng(field.seed, "membranes"), field.coords
    bent = [c + 2.6 * _waves(coords, rng, 22, 80) for c in coords]
    near, far = np.full((2, *field.shape), np.inf)  # squared distances to the closest two cells
    one, two = np.zeros((2, *field.shape), dtype=np.int64)  # and which they are
    for index, centre in enumerate(field.cells):
        distance2 = sum((b - c) ** 2 for b, c in zip(bent, centre, strict=True))
        first, second = distance2 < near, distance2 < far
        far = np.where(first, near, np.where(second, distance2, far))
        two = np.where(first, one, np.where(second, index, two))
        near, one = np.where(first, distance2, near), np.where(first, index, one)
    border = (far - near) / (2 * np.linalg.norm(field.cells[one] - field.cells[two], axis=-1))
    pair = np.exp(rng.normal(-0.3, 0.45, (len(field.cells),) * 2))
    pair = (pair + pair.T) / 2 * (field.there[:, None] | field.there[None, :])
    width = 0.95 * np.exp(0.25 * _waves(coords, rng, 30, 90))
    gate = 0.5 + 0.5 * np.tanh(2.5 * _waves(coords, rng, 12, 50) + 2.2)
    gate *= np.clip(1 + 0.25 * _waves(coords, rng, 4, 14, 24), 0.1, None)
    line = np.exp(-0.5 * (border / width) ** 2) * pair[one, two] * gate
    inside = np.exp(rng.normal(-2.6, 0.5, len(field.cells))) * field.there
    return line + inside[one] * np.clip(1 + 0.3 * _waves(coords, rng, 5, 20, 24), 0, None)


def _puncta(field: Field) -> Array:
    """Spots in three sizes, lognormal brightness, most of them around cells, all drifting."""
    rng, ndim = _rng(field.seed, "puncta"), len(field.shape)
    extent, image = field.shape * field.steps, np.zeros(field.shape)
    for width, per_cell, light in ((0.6, 8, 0.6), (1.0, 5, 1.0), (2.2, 1.2, 0.5)):
        homes = field.cells[rng.choice(np.flatnonzero(field.there), field.count(per_cell))]
        free = rng.uniform(-4, extent + 4, homes.shape)
        homes = homes + rng.normal(0, 9, homes.shape)
        points = np.where(rng.random((len(homes), 1)) < 0.75, homes, free)
        points += field.time * rng.normal(0, 0.8, points.shape)
        light = light * np.exp(rng.normal(-0.4, 0.5, len(homes))) * (2.5 * width) ** ndim
        image += _smooth(field.splat(points, light / np.prod(field.steps)), width / field.steps)
    return image + 0.08 * field.pool(field.there * 1.0)


def scene(kind: str, shape: Shape, seed: int, anisotropy: float = 1, time: float = 0) -> Array:
    """Specimen of one of KINDS, shape (Y, X) or (Z, Y, X), relative fluorescence 0..about 1.

    With light from out of focus and uneven illumination; ``time`` (frames) moves cells and spots.
    """
    field, rng = _field(shape, seed, anisotropy, time), _rng(seed, "background")
    painters = dict(zip(MIX, (_nuclei, _filaments, _membranes, _puncta), strict=True))
    image = np.zeros(shape)
    for part, weight in (MIX if kind == "mixed" else {kind: 1.0}).items():
        layer = painters[part](field)
        image += weight * layer / max(np.quantile(layer, 0.998), 0.2 * layer.max(), 1e-12)
    haze = _smooth(image, 15.0 / field.steps)
    glow = np.clip(1 + 0.3 * _waves(field.coords, rng, shape[-1] / 2, shape[-1] * 2, 8), 0.3, None)
    flat = zip(field.coords[-2:], shape[-2:], rng.uniform(0.4, 0.6, 2), strict=True)
    vignette = 1 - 0.5 * sum((c / n - middle) ** 2 for c, n, middle in flat)
    return (image + 0.3 * haze / max(haze.max(), 1e-12) + 0.05 * glow) * vignette / 1.15


def volume(zyx: tuple[int, int, int], seed: int, anisotropy: float, kind: str = "mixed") -> Array:
    """Specimen of shape (Z, Y, X); planes are ``anisotropy`` lateral pixels apart."""
    return scene(kind, zyx, seed, anisotropy)


def channels(kinds: Sequence[str], shape: Shape, seed: int, anisotropy: float = 1) -> Array:
    """The same cells in several stains: (C, Y, X) or (C, Z, Y, X), one per kind."""
    return np.stack([scene(kind, shape, seed, anisotropy) for kind in kinds])


def blur(image: Array, sigma: float | Sequence[float], halo: float = 0.12) -> Array:
    """Point spread: Gaussian of ``sigma`` pixels, and a share ``halo`` five times as wide.

    A number blurs the last two axes; a sequence gives one sigma per axis (0 leaves it alone).
    The image is mirrored at its borders and its total light is kept.
    """
    each = [0.0] * (image.ndim - 2) + [sigma] * 2 if np.isscalar(sigma) else list(sigma)
    return (1 - halo) * _smooth(image, each) + halo * _smooth(image, [5 * s for s in each])


def _correlate(white: Array, correlation: str | None, rng: Rng) -> Array:
    """Unit-variance noise (..., Y, X) with the spatial correlation asked for."""
    if correlation == "gaussian":
        plane = [0.0] * (white.ndim - 2) + [KERNEL_SIGMA] * 2
        return _smooth(white, plane, mode="wrap") / np.sum(_kernel(KERNEL_SIGMA) ** 2)
    if correlation == "rows":
        rows = rng.standard_normal((*white.shape[:-1], 1))
        return np.sqrt(1 - ROW_SHARE) * white + np.sqrt(ROW_SHARE) * rows
    assert correlation is None, correlation
    return white


def camera(
    clean: Array,
    photons: float,
    gain: float,
    offset: float,
    read_noise: float,
    seed: int,
    correlation: str | None = None,
    dtype: type = np.uint16,
) -> tuple[Array, Array]:
    """Record relative fluorescence ``clean`` (..., Y, X); returns (noisy, clean) in grey levels.

    ``photons`` (at clean == 1) and ``read_noise`` (deviation) in photoelectrons, ``gain`` in grey
    levels per photoelectron, ``offset`` in grey levels. However correlated, the variance is
    gain (mean - offset) + (gain read_noise)². Integer types are rounded and clipped.
    """
    rng = np.random.default_rng(seed)
    light = np.maximum(np.asarray(clean, dtype=np.float64), 0) * photons
    deviation = np.sqrt(np.maximum(light + read_noise**2, 1e-12))
    white = rng.poisson(light) + read_noise * rng.standard_normal(light.shape) - light
    white = _correlate(white / deviation, correlation, rng)
    levels = np.stack([light + deviation * white, light]) * gain + offset
    if np.issubdtype(dtype, np.integer):
        levels = np.clip(np.rint(levels), np.iinfo(dtype).min, np.iinfo(dtype).max)
    return levels[0].astype(dtype), levels[1].astype(dtype)
