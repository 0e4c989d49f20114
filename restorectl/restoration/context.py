"""Decides whether neighbours in z and t help, and how far they are trusted.

On sampled tiles a plane is restored alone and together with its neighbours (see `fusion`), and the
errors are compared without a truth, by Stein's unbiased risk estimate: for white noise of a known
level, the mean squared error is what was removed, less the noise, plus twice the noise that the
restoration lets through, which is seen when a little of the noise is exchanged (after Ramani, Blu
and Unser, IEEE TIP 17(9), 2008; merely adding some would exceed the level that the network is
told). What moved or changed raises the first term more than averaging lowers the last.

Where neighbouring pixels share noise that does not hold. Then the restorations are compared with
the next plane, whose noise is independent, and the neighbours are those on the other side.

Noise that planes have in common, such as a camera's fixed pattern or that of an interpolated
stack, is seen at the highest frequencies of what the pilots removed. It is not averaged away: the
added noise is shared in the same proportion, and so is the level that the network is told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from scipy import ndimage

from restorectl.images.blocks import Planes, middle, sampled, spread, varied
from restorectl.images.header import Plane
from restorectl.images.image import Image
from restorectl.intensity.noise import NoiseModel
from restorectl.intensity.whitening import Intensity
from restorectl.restoration import fusion
from restorectl.restoration.evidence import finest
from restorectl.restoration.fusion import Expected, Floats, Seen
from restorectl.restoration.restorer import Restorer

SIDE = 192  # px, side of the sampled tiles
AREA = 3 * SIDE**2  # px that are sampled
PLACES = 8  # at most
# See `fusion.fuse`. Beyond 4, faint points that appear for one frame lose more than 5 %.
TRUSTS = (1.0, 4.0)
ADDED = 0.3  # noise exchanged to see what is let through, in units of the noise
BLOCK = 32  # px, side of the blocks whose errors count as independent
LOCAL = 6.0  # px, of the Gaussian over which noise is taken to be even
SURE = 1.0  # standard errors by which the gain has to exceed 0,
MARGIN = 0.002  # and share of the noise variance
LEAST = 0.05  # dB: a smaller gain is none
SHARED = 0.03  # smaller correlations of the noise are chance


class Clean(Protocol):
    """Restores tiles (B, Y, X); levels: of the noise at their pixels, relative to one plane's."""

    def __call__(self, tiles: Floats, levels: Floats | None = None) -> Floats: ...


@dataclass(frozen=True)
class Context:
    """How the planes of a channel use their neighbours.

    axes: z, t, zt, or empty: not at all. reach: neighbours on each side along an axis. trust,
    shared, expected: see `fusion`. change: of the mean squared error, predicted, plus its standard
    error, in squared network units; gain: the same in dB.
    """

    axes: str
    reach: int
    trust: float
    shared: float
    expected: Expected
    change: float = 0.0
    gain: float = 0.0

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        if not self.axes:
            return {"axes": "none", "predicted_gain": 0.0}
        numbers = {"shared_noise": self.shared, "predicted_gain": self.gain}
        rounded = {name: round(value, 3) for name, value in numbers.items()}
        return {"axes": self.axes, "reach": self.reach, "trust": self.trust, **rounded}

    def around(self, plane: Plane, shape: Sequence[int]) -> list[Plane]:
        """The neighbours of a plane of a (T, C, Z, ...) image."""
        return [p for axis in self.axes for p in around(plane, shape, axis, self.reach)]

    def fuse(self, own: Seen, others: Sequence[Seen], spread: Floats | float = 1.0) -> fusion.Fused:
        """A plane averaged with its neighbours; spread: its noise variance, relative to sigma's."""
        due = self.expected.at(own.pilot) * np.float32(spread)
        ready = [fusion.aligned(own, other, due) for other in others]
        return fusion.fuse(own, ready, due, self.trust, self.shared)


def around(plane: Plane, shape: Sequence[int], axis: str, reach: int) -> list[Plane]:
    """The neighbours of a plane (t, c, z) along z or t, the nearest first."""
    t, c, z = plane
    steps = [sign * k for k in range(1, reach + 1) for sign in (-1, 1)]
    if axis == "z":
        return [(t, c, z + k) for k in steps if 0 <= z + k < shape[2]]
    return [(t + k, c, z) for k in steps if 0 <= t + k < shape[0]]


@dataclass(frozen=True)
class Place:
    """A sampled tile with what surrounds it, whitened.

    again: the tile with a part of its noise, ADDED, exchanged for `numbers`, which are as strong as
    what was removed at the highest frequencies around each pixel. share: variance of the tile's
    noise relative to theirs, since not all is removed. error: mean squared error of a pilot, on the
    pilot itself. others: by axis, with their steps from the plane, the nearest first.
    """

    own: Seen
    again: Seen
    numbers: Floats
    share: Floats
    error: float
    others: dict[str, list[tuple[int, Seen]]]

    def passed(self, x0: Floats, again: Floats) -> Floats:
        """Noise variance that a restoration lets through, from those of both tiles."""
        return np.asarray(self.share * self.numbers * (again - x0) / ADDED)


def decide(
    image: Image,
    channel: int,
    planes: Planes,
    model: Intensity,
    sigma: float,
    restorer: Restorer,
) -> Context | None:
    """How the planes of a channel that share a noise model use neighbours.

    sigma: the level that the network is told. None if that is not wanted, or there are none.
    """
    times, _, depth, *_ = image.header.canonical_shape
    lengths = {"z": depth, "t": times}
    wanted = "zt" if restorer.context == "auto" else restorer.context
    axes = [axis for axis in wanted if lengths.get(axis, 1) > 1]
    if not axes or sigma <= 0:
        return None

    told = min(sigma, restorer.card.sigma_max)

    def clean(tiles: Floats, levels: Floats | None = None) -> Floats:
        tile = restorer.grid((tiles.shape[1], tiles.shape[2]), SIDE, 0)[0]
        padded = np.stack([tile.pad(each) for each in tiles])
        if levels is None:
            return tile.crop(restorer.runner.clean(padded, told))
        each_pixel = np.stack([tile.pad(each) for each in levels]) * np.float32(told)
        return tile.crop(restorer.runner.clean(padded, each_pixel))

    reach = restorer.job.reach
    places = _places(image, channel, planes, model, reach, axes, clean)
    if not places:
        return None
    predicted = _predicted if correlation_along(model.noise) is None else _foreseen
    pilots, again = (
        np.stack([seen.pilot for seen in several])
        for several in zip(*[(place.own, place.again) for place in places], strict=True)
    )
    noise = float(np.mean([np.square(place.numbers).mean() for place in places]))
    expected = fusion.expected(pilots, again, ADDED, noise)
    shared = max(_shared(places, axis) for axis in axes)
    none = Context("", reach, TRUSTS[0], shared, expected)
    auto = restorer.context == "auto"
    options = [*axes, "".join(axes)] if auto and len(axes) > 1 else ["".join(axes)]
    tried = [
        _best(lambda each: predicted(each, places, clean), replace(none, axes=option))
        for option in options
    ]
    best = min(tried, key=lambda each: each.change)
    return best if best.gain >= LEAST or not auto else none


def _places(
    image: Image,
    channel: int,
    planes: Planes,
    model: Intensity,
    reach: int,
    axes: Sequence[str],
    clean: Clean,
) -> list[Place]:
    """Sampled tiles of equal size with their neighbours; without those that have none."""
    shape = image.header.canonical_shape
    blocks = sampled(shape, channel, planes)
    count = -(-AREA // (min(shape[3], SIDE) * min(shape[4], SIDE)))
    random, along = np.random.default_rng(0), correlation_along(model.noise)
    places = []
    for i in spread(len(blocks), min(count, PLACES, len(blocks))):
        plane, rows, cols = blocks[i]
        area = middle(rows, SIDE), middle(cols, SIDE)
        near = {
            (axis, p[2] - plane[2] + p[0] - plane[0]): p
            for axis in axes
            for p in around(plane, shape, axis, reach)
            if planes is None or (p[0], p[2]) in planes
        }
        found = {key: image.read(p, *area) for key, p in near.items()}
        found = {key: pixels for key, pixels in found.items() if varied(pixels)}
        centre = image.read(plane, *area)
        if not found or not varied(centre):
            continue
        every = [plane, *(near[key] for key in found)]
        x = np.stack([model.forward(pixels) for pixels in (centre, *found.values())])
        pilots = clean(x)
        numbers = random.standard_normal((2, *x.shape[1:]), np.float32)
        if along is None:  # differences of differences of white noise: 4 times its variance
            numbers *= np.sqrt(_local(finest(x[0] - pilots[0])) / 4)
        else:
            numbers = coloured(numbers, along) * np.sqrt(_local(x[0] - pilots[0]))
        again = pilots[0] + np.float32(np.sqrt(1 - ADDED**2)) * (x[0] - pilots[0])
        again += np.float32(ADDED) * numbers[0]
        tried = clean(np.stack([again, pilots[0] + numbers[1]]))
        error = float(np.mean(np.square(tried[1] - pilots[0])))
        due = _local(finest(numbers[0] - (tried[0] - pilots[0]) / np.float32(ADDED)))
        share = _local(finest(numbers[0])) / np.maximum(due, 1e-12)
        invalid = [image.invalid(each) for each in every]
        valid = [None if each is None else ~each[area] for each in invalid]
        own, *rest = map(Seen, x, pilots, valid)
        others: dict[str, list[tuple[int, Seen]]] = {axis: [] for axis in axes}
        for (axis, step), seen in zip(found, rest, strict=True):
            others[axis].append((step, seen))
        places.append(Place(own, Seen(again, tried[0]), numbers[0], share, error, others))
    return places


def correlation_along(noise: NoiseModel) -> tuple[float, float] | None:
    """Correlation of neighbouring pixels' noise along y and x; None for white noise."""
    if noise.along is None and noise.correlated:
        return noise.correlation, noise.correlation
    return noise.along


def coloured(numbers: Floats, along: tuple[float, float]) -> Floats:
    """White noise (B, Y, X) as correlated as the image's, of unit variance."""
    widths = [0.5 / np.sqrt(-np.log(np.clip(each, 1e-3, 0.95))) for each in along]
    smooth = ndimage.gaussian_filter(numbers, (0, *widths))
    return np.asarray(smooth / smooth.std())


def _shared(places: Sequence[Place], axis: str) -> float:
    """Correlation of the noise of a plane and its next neighbours, from the highest frequencies."""
    products, squares = 0.0, 0.0
    for place in places:
        own, *others = (
            finest(seen.x - seen.pilot)
            for step, seen in [(1, place.own), *place.others[axis]]
            if abs(step) == 1
        )
        for other in others:
            products += float(np.vdot(own, other))
            squares += float(np.linalg.norm(own) * np.linalg.norm(other))
    found = products / max(squares, 1e-30)
    return found if found > SHARED else 0.0


def _local(values: Floats) -> Floats:
    """Mean square around each pixel, (Y, X)."""
    return np.asarray(np.maximum(ndimage.gaussian_filter(np.square(values), LOCAL), 1e-12))


def _best(predicted: Callable[[Context], Context], context: Context) -> Context:
    """The context with the trust that predicts the largest gain."""
    found = [predicted(replace(context, trust=trust)) for trust in TRUSTS]
    return min(found, key=lambda each: each.change)


def _predicted(context: Context, places: Sequence[Place], clean: Clean) -> Context:
    """The context with the gain that the risk estimate predicts."""
    differences, levels = [], []
    for place in places:
        others = [seen for axis in context.axes for _, seen in place.others[axis]]
        fused = context.fuse(place.own, others)
        added = np.float32(context.shared * ADDED) * place.numbers
        also = [replace(other, x=other.x + added) for other in others]
        again = context.fuse(place.again, also)
        x0, x0_again = clean(np.stack([fused.x, again.x]), np.stack([fused.level, again.level]))
        pilot = place.own.pilot
        risk = np.square(x0 - place.own.x) + 2 * place.passed(x0, x0_again)
        risk -= np.square(pilot - place.own.x) + 2 * place.passed(pilot, place.again.pilot)
        differences.append(risk)
        levels.append(fused.level)
    return _told(context, places, differences, levels)


def _foreseen(context: Context, places: Sequence[Place], clean: Clean) -> Context:
    """The context with the gain at predicting the next planes from the other side."""
    differences, levels = [], []
    for place in places:
        near = [(a, step, seen) for a in context.axes for step, seen in place.others[a]]
        for axis, left_out, target in near:
            if abs(left_out) == 1:
                used = [seen for a, step, seen in near if a != axis or step * left_out < 0]
                used = used or [seen for _, _, seen in near if seen is not target]
                fused = context.fuse(place.own, used)
                x0 = clean(fused.x[None], fused.level[None])[0]
                risk = np.square(x0 - target.x) - np.square(place.own.pilot - target.x)
                differences.append(risk)
                levels.append(fused.level)
    return _told(context, places, differences, levels)


def _told(
    context: Context,
    places: Sequence[Place],
    differences: Sequence[Floats],
    levels: Sequence[Floats],
) -> Context:
    """The context with what it changes, from differences of squared errors at each pixel.

    levels: of the averages. The gain is at most that of averaging alone.
    """
    found = np.concatenate([_blocks(each) for each in differences])
    noise = np.mean([np.mean(place.share * np.square(place.numbers)) for place in places])
    change = float(found.mean() + SURE * found.std() / np.sqrt(len(found)) + MARGIN * noise)
    alone = float(np.mean([place.error for place in places]))
    averaged = float(np.mean(np.square(levels)))
    share = 1 + change / max(alone, -change / max(1 - averaged, 1e-6), 1e-12)
    return replace(context, change=change, gain=float(-10 * np.log10(share)))


def _blocks(values: Floats) -> Floats:
    """Means over blocks, (n,)."""
    rows, cols = (max(1, length // BLOCK) for length in values.shape)
    parts = [np.array_split(part, cols, 1) for part in np.array_split(values, rows, 0)]
    return np.array([float(each.mean()) for part in parts for each in part])
