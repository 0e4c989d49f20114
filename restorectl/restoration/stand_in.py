"""Errors of a restoration where no truth is known, measured on the noisy image itself.

Parts of the image are restored, and one posterior sample of each stands in for the truth. It gets
new noise of the fitted model and is restored as the command would: that shows how errors depend on
what the samples predict (a parametric bootstrap). How much larger they are on the real image is
then measured without a truth, in one of two ways:

- on the image alone: what was removed from it, less what was removed from the stand-in, after both
  are averaged over a few pixels. Noise averages out, structure stays. (Stein's unbiased risk
  estimate compares single pixels; the level of the noise is not known well enough for that.)
- on other exposures: their squared difference from the restoration, less the variance of their
  noise, which is half of the mean squared difference of two exposures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from restorectl.images import tiles
from restorectl.images.blocks import sampled, spread
from restorectl.images.header import CANONICAL, Plane
from restorectl.images.image import ALL, Array, Image
from restorectl.restoration import intervals
from restorectl.restoration.channels import ChannelGroup, by_plane
from restorectl.restoration.context import coloured, correlation_along
from restorectl.restoration.intervals import Pixels
from restorectl.restoration.neighbours import Neighbours
from restorectl.restoration.planes import restore_planes
from restorectl.restoration.restorer import MEAN, Restorer

SIDE = 128  # px, of a part
PARTS = 4  # of the planes of a group of channels
WIDE = 2.0  # px, of the Gaussian over which noise averages out
# Error in units of the noise that one noisy image does not show, such as a fixed pattern, or light
# that is not proportional: that of five FMD fields where nothing is to be seen, less the noise of
# the means of 50 exposures that are their truth.
UNSEEN = 0.2
LEAST = 0.1  # of the risk of the stand-in: repeats cannot tell less

Maps = tuple[np.ndarray, ...]  # (Y, X) each: the products of `expected.JUDGED`


class Part(Image):
    """A rectangle of an image, float32; `replaced`: pixels (Y, X) in place of a plane's own."""

    def __init__(self, source: Image, rows: slice, cols: slice) -> None:
        self.source, self.rows, self.cols = source, rows, cols
        outer = source.header.canonical_shape[:3]
        shape = (*outer, rows.stop - rows.start, cols.stop - cols.start)
        self.path = source.path
        self.header = replace(
            source.header, axes=CANONICAL, shape=shape, dtype=np.dtype(np.float32)
        )
        self.replaced: dict[Plane, Array] = {}

    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        """See `Image`."""
        if plane in self.replaced:
            return self.replaced[plane][rows, cols]
        return self.source.read(plane, self.rows, self.cols)[rows, cols].astype(np.float32)

    def invalid(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array | None:
        """See `Image`."""
        found = self.source.invalid(plane, self.rows, self.cols)
        return None if found is None else found[rows, cols]

    def close(self) -> None:
        """The source stays open."""


def errors(
    restorer: Restorer, image: Image, group: ChannelGroup, repeats: Sequence[Image] = ()
) -> list[Pixels]:
    """Errors in sampled parts of a group's planes, in units of the noise; empty without noise.

    restorer: with the reduction `expected.JUDGED`. image: as it is restored. repeats: other
    exposures of the same field; without any, the image alone says how large the errors are.
    """
    if group.decided["sigma"] <= 0:
        return []
    random = np.random.default_rng(restorer.job.compute.seed)
    found = []
    for plane, rows, cols in _places(image, group):
        part, again = Part(image, rows, cols), Part(image, rows, cols)
        others = [Part(each, rows, cols) for each in repeats]
        planes = [(plane[0], c, plane[2]) for c in group.channels]
        real = _restored(restorer, part, group, planes)
        truths = _drawn(restorer, part, group, planes)
        for (t, c, z), truth in truths.items():
            noise = _noise(truth, group, group.channels.index(c), random)
            if correlation_along(group.model.noises[0]) is not None:  # the model says its level
                noise *= _residual(part, planes[0], real).std()  # for a denoiser of white noise
            again.replaced[t, c, z] = truth + noise
        simulated = _restored(restorer, again, group, planes)
        for p in planes:
            _, mean, expected, signal, noise, removed, _ = simulated[p]
            unseen = UNSEEN * random.standard_normal(mean.shape)
            error, known = np.abs((truths[p] - mean) / noise + unseen), _known(part, p)
            if known.sum() < SIDE:  # too few to tell anything
                continue
            risk = max(float(np.mean(error[known] ** 2)), 1e-12)
            if repeats:
                larger = max(_repeated(part, others, p, real, known) / risk, LEAST)
            else:
                before = _structure(_residual(part, p, real), known)
                after = _structure(_residual(again, p, simulated), known)
                larger = 1 + max(before - after, 0.0) / risk
            error = intervals.unexplained(error * np.sqrt(larger), removed)[known]
            level = group.decided["sigma"]
            found.append(Pixels(str(p), error, expected[known], signal[known], level))
    return found


def _places(image: Image, group: ChannelGroup) -> list[tuple[Plane, slice, slice]]:
    """Up to PARTS rectangles of the planes of a group's first channel, spread evenly."""
    shape = image.header.canonical_shape
    cells = [
        (plane, slice(top, min(top + SIDE, rows.stop)), slice(left, min(left + SIDE, cols.stop)))
        for plane, rows, cols in sampled(shape, group.channels[0], group.planes)
        for top in range(rows.start, max(rows.stop - SIDE, rows.start) + 1, SIDE)
        for left in range(cols.start, max(cols.stop - SIDE, cols.start) + 1, SIDE)
    ]
    return [cells[k] for k in spread(len(cells), min(PARTS, len(cells)))]


def _restored(
    restorer: Restorer, image: Image, group: ChannelGroup, planes: Sequence[Plane]
) -> dict[Plane, Maps]:
    """All products of planes that are restored together."""
    *_, height, width = image.header.canonical_shape
    kinds = restorer.dtypes(image.header)
    found = {p: tuple(np.empty((height, width), kind) for kind in kinds) for p in planes}
    block = tiles.Block(restorer.grid((height, width)))
    near = Neighbours(restorer, image, by_plane(image.header, [group]))
    restore_planes(near, None, {tuple(planes): group}, block, found)
    return found


def _drawn(
    restorer: Restorer, part: Part, group: ChannelGroup, planes: Sequence[Plane]
) -> dict[Plane, np.ndarray]:
    """A sample of each plane, and of the neighbours that help to restore it, (Y, X) float32."""
    one = replace(restorer, job=replace(restorer.job, samples=1), reduction=MEAN)
    wanted = [tuple(planes)]
    if group.context is not None and group.context.axes:  # such channels are restored one by one
        around = group.context.around(planes[0], part.header.canonical_shape)
        wanted += [(p,) for p in around if group.planes is None or p[::2] in group.planes]
    return {
        p: drawn for each in wanted for p, (drawn, *_) in _restored(one, part, group, each).items()
    }


def _noise(
    truth: np.ndarray, group: ChannelGroup, k: int, random: np.random.Generator
) -> np.ndarray:
    """New noise of the k-th channel's model for its clean plane (Y, X)."""
    model = group.model.noises[min(k, len(group.model.noises) - 1)]
    along = correlation_along(model)
    if along is None and model.gain > 0:
        light = np.maximum(truth - model.offset, 0) / model.gain
        noise = model.gain * (random.poisson(light) - light)
        noise += model.read_noise * random.standard_normal(truth.shape)
        return np.asarray(noise * max(model.level, 1.0), np.float32)
    numbers = random.standard_normal((1, *truth.shape), np.float32)
    numbers = (numbers if along is None else coloured(numbers, along))[0]
    planes = np.repeat(truth[None].astype(np.float32), len(group.channels), 0)
    return np.asarray(numbers * group.model.noise_std(planes)[k])


def _known(part: Part, plane: Plane) -> np.ndarray:
    """The measured pixels, (Y, X) bool."""
    invalid = part.invalid(plane)
    return np.ones(part.header.shape[-2:], bool) if invalid is None else ~invalid


def _residual(part: Part, plane: Plane, restored: Mapping[Plane, Maps]) -> np.ndarray:
    """What was removed, in units of the noise, (Y, X)."""
    _, mean, _, _, noise, *_ = restored[plane]
    return np.asarray((part.read(plane) - mean) / noise)


def _structure(residual: np.ndarray, known: np.ndarray) -> float:
    """Mean square of what is left of a residual that is averaged over a few pixels."""
    weight = np.maximum(ndimage.gaussian_filter(known.astype(np.float32), WIDE), 1e-3)
    smooth = ndimage.gaussian_filter(np.where(known, residual, 0), WIDE) / weight
    return float(np.mean(smooth[known] ** 2))


def _repeated(
    part: Part,
    repeats: Sequence[Part],
    plane: Plane,
    restored: Mapping[Plane, Maps],
    known: np.ndarray,
) -> float:
    """Mean squared error of a restoration, in units of its noise, from other exposures."""
    _, mean, _, _, noise, *_ = (each[known].astype(np.float64) for each in restored[plane])
    own, others = part.read(plane)[known].astype(np.float64), []
    for each in repeats:
        pixels = each.read(plane)[known].astype(np.float64)
        slope, shift = np.polyfit(mean, pixels, 1)  # exposures differ in their light
        others.append((pixels - shift) / slope)
    pairs = zip(others, [*others[1:], own if len(others) == 1 else others[0]], strict=True)
    found = [((a - mean) / noise) ** 2 - ((a - b) / noise) ** 2 / 2 for a, b in pairs]
    return float(np.mean(found))
