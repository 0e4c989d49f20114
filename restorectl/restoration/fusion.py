"""Averages a plane with its neighbours where they show the same.

All values are whitened, so noise has the same level in every plane. A pilot restoration of each
plane shows what there is to see. At each pixel a neighbour counts by how much its pilot differs
from the plane's own, over a small patch, beyond what noise alone makes of two pilots of one scene:
exp(-(d^2 - e) / (trust e)) for a squared difference d^2 where e is expected, at most 1; the largest
difference within two pixels counts, or the flanks of what appears would be averaged away. The
*noisy* planes are averaged with these weights, so that what is left is white noise of a level that
is known at each pixel, and a network that is told it restores the average.

Before, a neighbour is shifted by the fraction of pixels that a drifting stage moved it, and scaled
where bleaching or a lamp changed the whole plane, if it then fits better. What moves, appears or
changes its brightness by itself differs from its neighbours, and is left as it is.

After: Coupe et al. 2008 and Boulanger et al. 2010 (ndsafir), who weight patches of the noisy
planes; here the pilots are compared, and their expected difference is measured (see `expected`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft, ndimage

from restorectl.images.blocks import middle

Floats = np.ndarray

PATCH = 1.5  # px, of the Gaussian over which pilots are compared
WIDEST = 5  # px, side of the square whose largest difference counts
AROUND = 7  # px, side of the square in which texture is measured
PARTS = 8  # groups of pixels by texture
UNSEEN = 0.05  # variance of a small point's height in white noise of variance 1, at least
FARTHEST = 32  # px, the largest shift
SIDE = 512  # px, side of the middle part on which a shift is found
BAND = (1.0, 6.0)  # px, Gaussians between which structure shows a shift
TAPS = 6  # px on each side of the interpolation kernel
LEAST = 0.05  # px: smaller shifts are none
ALIKE = 0.65  # misfit up to which nothing has to be aligned: noise alone makes 0.5 to 0.6
BETTER = 0.97  # an alignment has to reduce the misfit to this share
SCALES = 0.7, 1.4  # limits of the factor between whitened planes
AGREE = 2.0  # median differences up to which pixels decide on the factor


@dataclass(frozen=True)
class Seen:
    """A plane or a part of it: whitened pixels and their pilot restoration, (Y, X) float32.

    valid: (Y, X) bool, where the pixels were measured; None = everywhere. variance: of the noise,
    relative to that of a plane as it was measured.
    """

    x: Floats
    pilot: Floats
    valid: Floats | None = None
    variance: float = 1.0


@dataclass(frozen=True)
class Expected:
    """Squared difference of two pilots of one scene, by local texture: noise alone makes it.

    texture, difference: logarithms, both of the same length.
    """

    texture: tuple[float, ...]
    difference: tuple[float, ...]

    def at(self, pilot: Floats) -> Floats:
        """(Y, X) -> (Y, X) float32."""
        found = np.interp(_texture(pilot), self.texture, self.difference)
        return np.asarray(np.exp(found), np.float32)


@dataclass(frozen=True)
class Fused:
    """x: the weighted average (Y, X) float32. level: of its noise, relative to one plane's.

    weight: sum of the neighbours' weights, mean over the pixels.
    """

    x: Floats
    level: Floats
    weight: float


def expected(pilots: Floats, again: Floats, added: float, noise: float = 0.0) -> Expected:
    """Measure how noise changes pilots (B, Y, X).

    again: pilots of the same planes with a part of their noise, `added`, exchanged. Their squared
    difference, scaled to all of the noise and doubled, is that of pilots of static planes. noise:
    its variance; a difference that could not be seen as a point in it is always expected.
    """
    texture = np.concatenate([_texture(pilot).ravel() for pilot in pilots])
    squares = np.square(again - pilots).ravel() * (2 / added**2)
    parts = np.array_split(np.argsort(texture, kind="stable"), PARTS)
    means = [(texture[part].mean(), squares[part].mean()) for part in parts]
    knots, values = np.array(means, np.float64).T
    logs = np.log(np.maximum(values, max(UNSEEN * noise, 1e-12)))
    return Expected(tuple(np.round(knots, 4).tolist()), tuple(np.round(logs, 4).tolist()))


def fuse(
    own: Seen, others: Sequence[Seen], due: Floats, trust: float, shared: float = 0.0
) -> Fused:
    """Average a plane with aligned others.

    due: (Y, X), `Expected.at` of the own pilot. trust: excess of the squared difference, in units
    of the expected one, at which a weight falls to 1 / e. shared: share of the noise variance that
    all planes have in common, such as a camera's pattern: it is not averaged away.
    """
    total, weights = own.x.astype(np.float32), np.ones(own.x.shape, np.float32)
    squares, smooth = np.ones_like(weights), _patch(due)
    for other in others:
        beyond = np.maximum(_patch(np.square(own.pilot - other.pilot)) / smooth - 1, 0)
        weight = np.exp(ndimage.maximum_filter(beyond, WIDEST) * np.float32(-1 / trust))
        if other.valid is not None:
            weight = weight * other.valid
        total += weight * other.x
        weights += weight
        squares += np.square(weight) * np.float32(other.variance)
    alone = (1 - shared) * squares / np.square(weights)
    level = np.sqrt(np.minimum(alone + shared, 1))
    return Fused(total / weights, level.astype(np.float32), float(weights.mean()) - 1)


def aligned(own: Seen, other: Seen, due: Floats) -> Seen:
    """Another plane, shifted and scaled to its neighbour where that makes it fit better."""
    if misfit(own, other, due) <= ALIKE:
        return other
    shift = shift_between(own.pilot, other.pilot)
    if max(map(abs, shift)) >= LEAST:
        other = _better(own, other, moved(other, shift), due)
    return _better(own, other, _scaled(own, other), due)


def misfit(own: Seen, other: Seen, due: Floats) -> float:
    """Mean of log(1 + squared difference of the pilots / the expected one), where it is valid."""
    found = np.log1p(np.square(own.pilot - other.pilot) / due)
    if other.valid is None:
        return float(found.mean())
    return float(found[other.valid].mean()) if other.valid.any() else 0.0


def _better(own: Seen, now: Seen, then: Seen, due: Floats) -> Seen:
    return then if misfit(own, then, due) < BETTER * misfit(own, now, due) else now


def _scaled(own: Seen, other: Seen) -> Seen:
    """The other plane with the mean and standard deviation of its neighbour, where they agree."""
    where = np.ones(own.x.shape, bool) if other.valid is None else other.valid
    factor, added, agree = np.float32(1), np.float32(0), where
    for _ in range(3):
        mine, its = own.pilot[agree], other.pilot[agree]
        ratio = mine.std() / max(float(its.std()), 1e-6)
        factor = np.float32(np.clip(ratio, *SCALES))
        added = mine.mean() - factor * its.mean()
        apart = np.abs(own.pilot - factor * other.pilot - added)
        agree = where & (apart <= AGREE * np.median(apart[where]))
    return replace(
        other,
        x=other.x * factor + added,
        pilot=other.pilot * factor + added,
        variance=other.variance * float(factor) ** 2,
    )


# ---- shifts --------------------------------------------------------------------------------------
def shift_between(own: Floats, other: Floats) -> tuple[float, float]:
    """By how many pixels (y, x) to move `other` so that it lies on `own`, both (Y, X).

    The peak of the cross-correlation of middle parts, refined by Gauss-Newton steps (Lucas, Kanade
    1981).
    """
    rows, cols = (middle(slice(0, length), SIDE) for length in own.shape)
    mine, its = (_band(each[rows, cols]) for each in (own, other))
    window = np.hanning(mine.shape[0] + 2)[1:-1, None] * np.hanning(mine.shape[1] + 2)[1:-1]
    window = window.astype(np.float32)
    size = tuple(fft.next_fast_len(length + FARTHEST, real=True) for length in mine.shape)
    spectra = [fft.rfft2(each * window, size) for each in (mine, its)]
    cross = fft.irfft2(spectra[0] * spectra[1].conj(), size)
    reach = [min(FARTHEST, length // 4) for length in mine.shape]
    near = np.roll(cross, reach, (0, 1))[: 2 * reach[0] + 1, : 2 * reach[1] + 1]
    peak = np.unravel_index(np.argmax(near), near.shape)
    shift = np.array([float(p) - r for p, r in zip(peak, reach, strict=True)])
    for _ in range(3):
        there = _resampled(its, (shift[0], shift[1]))
        slopes = np.stack([g * window for g in np.gradient(there)]).reshape(2, -1)
        error = ((mine - there) * window).ravel()
        normal = slopes @ slopes.T + np.eye(2) * 1e-12
        shift -= np.clip(np.linalg.solve(normal, slopes @ error), -1, 1)
    if np.any(np.abs(shift) > np.array(reach) + 1):
        return 0.0, 0.0
    return round(float(shift[0]), 3), round(float(shift[1]), 3)


def moved(seen: Seen, shift: tuple[float, float]) -> Seen:
    """A plane moved by (y, x) px; pixels from beyond its borders are not valid."""
    inside = np.ones(seen.x.shape, bool) if seen.valid is None else seen.valid
    variance = seen.variance
    for axis, by in enumerate(shift):
        places = np.arange(seen.x.shape[axis]) - by
        seeing = (places > -0.5) & (places < seen.x.shape[axis] - 0.5)
        nearest = np.clip(np.rint(places).astype(int), 0, seen.x.shape[axis] - 1)
        inside = np.take(inside, nearest, axis) & np.expand_dims(seeing, 1 - axis)
        variance *= float(np.square(_kernel(by)).sum())
    return Seen(_resampled(seen.x, shift), _resampled(seen.pilot, shift), inside, variance)


def _resampled(values: Floats, shift: tuple[float, float]) -> Floats:
    """Values (Y, X) moved by (y, x) px: windowed sinc, which hardly changes white noise."""
    for axis, by in enumerate(shift):
        places = np.arange(values.shape[axis]) - round(by)
        values = np.take(values, np.clip(places, 0, values.shape[axis] - 1), axis)
        values = ndimage.correlate1d(values, _kernel(by), axis, mode="nearest")
    return values


def _kernel(by: float) -> Floats:
    """Weights (2 TAPS + 1,) of the neighbours of a pixel for the fractional part of a shift."""
    places = np.arange(-TAPS, TAPS + 1) + (by - round(by))
    kernel = np.sinc(places) * np.cos(places * (np.pi / 2 / (TAPS + 1))) ** 2
    return np.asarray(kernel / kernel.sum())


def _band(values: Floats) -> Floats:
    low, high = BAND
    smooth = ndimage.gaussian_filter(values.astype(np.float32), low)
    return np.asarray(smooth - ndimage.gaussian_filter(smooth, high))


def _patch(values: Floats) -> Floats:
    return np.asarray(ndimage.gaussian_filter(values, PATCH))


def _texture(pilot: Floats) -> Floats:
    """Log of the local standard deviation around each pixel, (Y, X)."""
    pilot = pilot.astype(np.float32)
    mean = ndimage.uniform_filter(pilot, AROUND)
    square = ndimage.uniform_filter(np.square(pilot), AROUND)
    return np.asarray(0.5 * np.log(np.maximum(square - np.square(mean), 1e-8)))
