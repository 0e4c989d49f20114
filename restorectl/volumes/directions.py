"""Slices of a volume through a slice network: windows, units, samples, the mix with interpolation.

Arrays of slices are (C, D, H, L): channels, slices, planes, and the lateral axis within a slice.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from restorectl import catalog
from restorectl.engine import slices
from restorectl.engine.card import Card
from restorectl.engine.noise_field import Share, Site, SliceNoise
from restorectl.engine.runner import Runner
from restorectl.engine.samplers import Sampler
from restorectl.images import tiles
from restorectl.jobs import Compute
from restorectl.volumes import interpolation
from restorectl.volumes.stack import Units

SWEEPS = {"both": ("xz", "yz"), "xz": ("xz",), "yz": ("yz",)}


@dataclass(frozen=True)
class Mix:
    """base + share * (network - base): what a stack's left-out planes say is best."""

    anchor: str = "linear"  # row of catalog.INTERPOLATIONS: what the network adds to
    base: str = "cubic"  # row of catalog.INTERPOLATIONS
    share: float = 1.0


@dataclass(frozen=True)
class Network:
    """A slice network and how it is sampled."""

    runner: Runner
    card: Card
    sampler: Sampler
    share: Share  # of noise between neighbouring slices
    compute: Compute
    steps: int | None = None
    samples: int = 1

    @property
    def stride(self) -> int:
        return self.runner.denoiser().stride

    def windows(self, shape: tuple[int, int]) -> tuple[tiles.Tile, ...]:
        """The windows of a slice (planes, lateral)."""
        return tiles.tile_grid(shape, self.stride, window=self.card.window)


@dataclass(frozen=True)
class Sweep:
    """One direction over one stack; slices are numbered along the axis that they are cut across."""

    network: Network
    units: Units
    factor: int
    slices: int  # in all
    number: int  # 0: XZ, 1: YZ
    plane: tuple[int, int]  # time, first channel: the noise's place

    def fill(self, observed: np.ndarray, first: int, mix: Mix) -> np.ndarray:
        """Observed planes of slices `first`, ... (C, D, N, L) -> (C, D, (N - 1) * factor + 1, L).

        float32 in input units, the mean of all samples.
        """
        planes = interpolation.count(observed.shape[2], self.factor)
        base = _between(observed, mix.base, self.factor, 0, planes)
        if mix.share == 0:
            return base
        for window in self.network.windows((planes, observed.shape[3])):
            made = window.crop(self._window(observed, first, window, planes, mix.anchor))
            target = base[:, :, window.core[0], window.core[1]]
            target += np.float32(mix.share) * (made - target)
        return base

    def _window(
        self, observed: np.ndarray, first: int, window: tiles.Tile, planes: int, anchor: str
    ) -> np.ndarray:
        """(C, D, h, w) in input units: the network's answer for one window of every slice."""
        height, width = window.shape
        top, left = window.rows[0], window.cols[0]
        seen = observed[..., slice(*window.cols)]
        seen = np.pad(seen, [(0, 0)] * 3 + [(0, width - seen.shape[3])], mode="symmetric")
        start = _between(seen, anchor, self.factor, top, top + height)
        x = self.units.forward(start)  # (C_net, D, h, w)
        rows = interpolation.is_observed(self.factor, top, top + height, planes)
        made = np.zeros_like(start)
        for part in _parts(start.shape[1], self.network.compute, window.shape):
            sites = [
                Site((*self.plane, first + d), top, left) for d in range(*part.indices(1 << 62))
            ]
            mean = np.mean(
                [
                    self.units.inverse(self._sample(x[:, part], rows, sites, anchor, k))
                    for k in range(self.network.samples)
                ],
                axis=0,
            )
            # as a difference, so that values which the units cannot tell apart stay as they are
            made[:, part] = start[:, part] + mean - self.units.inverse(x[:, part])
        return made

    def _sample(
        self, x: np.ndarray, rows: np.ndarray, sites: list[Site], anchor: str, sample: int
    ) -> np.ndarray:
        """(C_net, D, h, w) in network units: one restoration of these slices."""
        network = self.network
        batch = np.ascontiguousarray(x.swapaxes(0, 1))
        guide = np.zeros((len(batch), 1, *batch.shape[2:]), np.float32)
        guide[:, :, rows] = 1
        field = SliceNoise(network.compute.seed, sample, network.share, self.slices, self.number)
        problem = network.runner.problem(
            batch, np.ones(len(batch), np.float32), sites, field, guide, steps=network.steps
        )
        made = network.runner.sample(
            lambda part: slices.run(part, network.sampler, network.runner.denoiser(), anchor),
            problem,
        )
        return made.swapaxes(0, 1)


def _between(observed: np.ndarray, kind: str, factor: int, start: int, stop: int) -> np.ndarray:
    """Planes start..stop, interpolated: (C, D, N, L) -> (C, D, stop - start, L) float32."""
    taps = interpolation.taps(
        catalog.INTERPOLATIONS[kind].load(), observed.shape[2], factor, start, stop
    )
    return np.moveaxis(interpolation.apply(taps, np.moveaxis(observed, 2, 0)), 0, 2)


def _parts(count: int, compute: Compute, shape: tuple[int, int]) -> Iterator[slice]:
    """Slices that go through the network together: bounded by --tile's area and by --batch."""
    area = (compute.tile or 1024) ** 2 // (shape[0] * shape[1])
    size = max(1, min(area, compute.batch or 64))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def every_nth(length: int, every: int) -> slice:
    """So manieth pixels of an axis, not from its border where there is room."""
    return slice(min(every, length) // 2, None, every)


def lattice(
    network: Network,
    units: Units,
    observed: np.ndarray,
    factor: int,
    directions: tuple[str, ...],
    every: int,
    anchor: str,
) -> np.ndarray:
    """The network's answer where every so manieth XZ and YZ slice of a small stack cross.

    observed (C, N, Y, X) -> (C, (N - 1) * factor + 1, Y', X') float32 at the pixels `every_nth`
    of both axes.
    """
    answers = []
    for number, axis in ((0, 2), (1, 3)):
        if ("xz", "yz")[number] in directions:
            across, along = (every_nth(observed.shape[k], every) for k in (axis, 5 - axis))
            cut = np.moveaxis(observed, axis, 1)[:, across]  # (C, D, N, L)
            sweep = Sweep(network, units, factor, cut.shape[1], number, (0, 0))
            filled = sweep.fill(cut, 0, Mix(anchor))[..., along]
            answers.append(np.moveaxis(filled, 1, axis))
    return np.asarray(np.mean(answers, axis=0), np.float32)
