"""Fixed offsets of rows and columns, and periodic electrical patterns: found and removed.

Some cameras add an offset to each column or row, some scanners one to each line, and interference
adds a wave of one frequency. These are no structure of the specimen, and a denoiser of white noise
takes them for edges. All are additive, and told from structure by what structure is not:

- Line offsets differ at random from line to line (all frequencies across the lines are equally
  strong up to half a cycle per pixel; optics blurs structure), are the same along the whole line
  (its segments agree), and are on most lines. The step from a line to its neighbour is a robust
  mean (Tukey's biweight) in each segment, so that edges and filaments that cross do not count.
  The sums of the steps are filtered as by Wiener: slow changes across the lines, where structure
  is stronger than offsets can be, stay. So do lines that stand out, such as a filament along them.
- A wave is a peak of one frequency bin in the spectrum of the whole plane, with the same amplitude
  and phase in most parts of the plane, in dark ones as in bright ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from restorectl.intensity.quantile import median

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]

_SEGMENTS = 8  # of each line
_LONGEST = 64  # px of a segment that are used
_SHORTEST = 8  # px; shorter lines are not examined
_FEWEST = 48  # lines
_SMOOTH = 7  # px, box that smooths a plane, twice
_DARK = 0.3  # quantile
_BIWEIGHT = 4.685  # Tukey's constant: 95 % efficient for Gaussian noise
_AGREE = 0.5  # least correlation of the two halves of the lines, in each of two bands
_CERTAIN = 5.0  # standard errors of that correlation
_OFFSETS = 0.1  # least standard deviation of offsets, in that of the noise of a pixel
_FAINT = 0.001  # the same in the range of the pixels
_FLANK = 1  # lines on either side that keep theirs too
_OUTLIER = 4.5  # robust standard deviations; such lines keep their values

_WAVY = 0.05  # least root mean square of a wave, in the noise of a pixel
_PEAK = 40.0  # power of a wave's frequency bin, relative to the bins around it
_WAVES = 8  # most waves, and most peaks that are examined in vain
_SLOWEST = 0.06  # cycles per pixel; slower waves may be structure
_LARGEST = 2048  # px; waves are sought in the middle of larger planes
_PARTS = 4  # a wave is compared in 4 x 4 parts of the plane
_PART = 512  # px, largest side of a part


@dataclass(frozen=True)
class Wave:
    """cosine * cos(2 pi (y * fy + x * fx)) + sine * sin(the same); y, x in px from the corner."""

    fy: float  # cycles per pixel
    fx: float
    cosine: float  # input units
    sine: float

    @property
    def amplitude(self) -> float:
        return float(np.hypot(self.cosine, self.sine))

    @property
    def period(self) -> float:
        """Pixels from crest to crest."""
        return float(1 / np.hypot(self.fy, self.fx))

    def at(self, rows: NDArray[Any], columns: NDArray[Any]) -> Plane:
        """(Y, X) float32 values at these row and column numbers."""
        turn = 2j * np.pi
        tall = np.exp(turn * self.fy * rows).astype(np.complex64)
        wide = np.exp(turn * self.fx * columns).astype(np.complex64)
        both = (tall * np.complex64(self.cosine - 1j * self.sine))[:, None] * wide
        return np.ascontiguousarray(both.real)


@dataclass(frozen=True)
class Stripes:
    """What is added to a plane: an offset for each row and column (empty = none), and waves."""

    rows: Plane  # (Y,) or (0,) float32, input units
    columns: Plane  # (X,) or (0,)
    waves: tuple[Wave, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rows.size or self.columns.size or self.waves)

    def __add__(self, other: "Stripes") -> "Stripes":
        rows = self.rows + other.rows if self.rows.size and other.rows.size else None
        columns = self.columns + other.columns if self.columns.size and other.columns.size else None
        return Stripes(
            np.concatenate([self.rows, other.rows]) if rows is None else rows,
            np.concatenate([self.columns, other.columns]) if columns is None else columns,
            self.waves + other.waves,
        )


NONE = Stripes(np.zeros(0, np.float32), np.zeros(0, np.float32))


def find(planes: Sequence[NDArray[Any]]) -> Stripes:
    """The stripes that planes (Y, X) of equal shape have in common; of one plane: its own.

    Finite values in input units, any real dtype. The time does not grow with the length of lines.
    """
    if not planes:
        return NONE
    waves = _waves(np.asarray(sum(plane.astype(np.float32) for plane in planes)) / len(planes))
    if waves:
        found = Stripes(NONE.rows, NONE.columns, waves)
        planes = [remove(plane, found) for plane in planes]
    return Stripes(_offsets([plane.T for plane in planes]), _offsets(planes), waves)


def remove(
    plane: NDArray[Any], stripes: Stripes, rows: slice = slice(None), cols: slice = slice(None)
) -> Plane:
    """A region of a plane, (Y, X) in input units, without its stripes: float32."""
    out = np.array(plane, np.float32)
    if stripes.rows.size:
        out -= stripes.rows[rows][:, None]
    if stripes.columns.size:
        out -= stripes.columns[cols]
    for wave in stripes.waves:
        top, left = rows.start or 0, cols.start or 0
        out -= wave.at(top + np.arange(out.shape[0]), left + np.arange(out.shape[1]))
    return out


# ---- offsets of columns --------------------------------------------------------------------------
def _offsets(planes: Sequence[NDArray[Any]]) -> Plane:
    """The offset of each column, (X,) float32, or (0,) if there are none.

    The halves of the segments must agree and, of several planes, those of the planes.
    """
    height, width = planes[0].shape
    if height < _SEGMENTS * _SHORTEST or width < _FEWEST:
        return NONE.rows
    least = float(np.median([_visible(plane, _OFFSETS) for plane in planes]))
    lines = np.concatenate([_profiles(plane) for plane in planes])  # (planes * segments, X)
    stand_out, profile = _profile(lines)
    if stand_out.mean() > 0.5:
        return NONE.rows
    kept = np.flatnonzero(~stand_out)
    level = _bridged(lines, kept)
    level = level.reshape(len(planes), _SEGMENTS, width)
    splits = [[level[:, k::2].mean((0, 1)) for k in range(2)]]
    if len(planes) > 1:
        splits.append([level[k::2].mean((0, 1)) for k in range(2)])
    middle = min(_agreement(halves, 0.25, 0.375) for halves in splits)
    finest = min(_agreement(halves, 0.375, 0.5) for halves in splits)
    power = min(middle[1], finest[1])
    agree = min(middle[0], finest[0]) > max(_AGREE, _CERTAIN / np.sqrt(width / 4))
    white = finest[1] > middle[1] * np.exp(-4 * np.sqrt(16 / width))  # four standard errors
    if not agree or not white or power <= least**2:
        return NONE.rows
    gain = middle[0] + finest[0]
    found = _filtered(np.interp(np.arange(width), kept, profile[kept]), gain / (1 + gain / 2))
    found[stand_out] = 0
    return found.astype(np.float32)


def _visible(plane: NDArray[Any], share: float) -> float:
    """The least standard deviation of what is removed: this share of the noise of a pixel.

    At least as much of the rounding step, and 1/1000 of the range of the pixels.
    """
    lines = np.asarray(plane[:: max(1, plane.size // 262144)], np.float32)
    noise = _spread(np.diff(lines, axis=1)) / np.sqrt(2)
    low, high = np.percentile(lines, (0.1, 99.9))
    return float(max(share * noise, share * _rounding(lines), _FAINT * (high - low)))


def _rounding(values: Plane) -> float:
    """Least difference of two values; 0 if almost all values differ."""
    levels = np.unique(values.ravel()[:: max(1, values.size // 65536)])
    return float(np.diff(levels).min()) if 1 < len(levels) < 16384 else 0.0


def _profiles(plane: NDArray[Any]) -> Floats:
    """Sum of the robust mean steps from column to column in each segment, (segments, X).

    Steps are taken after the smoothed plane is subtracted, so that
    gradients of structure do not add up; what its darker parts have in common is added again.
    """
    height = len(plane)
    length = min(height // _SEGMENTS, _LONGEST)
    starts = np.linspace(0, height - length, _SEGMENTS).round().astype(int)
    parts = np.stack([plane[start : start + length] for start in starts]).astype(np.float32)
    smooth = _smoothed(parts)
    common = np.quantile(smooth.reshape(-1, plane.shape[1]), _DARK, axis=0)
    steps = np.diff(parts - smooth, axis=2)
    centre = np.median(steps, axis=1, keepdims=True)
    scale = 1.4826 * np.median(np.abs(steps - centre), axis=1, keepdims=True)
    least = max(0.1 * float(np.median(scale)), _rounding(parts) / 2, 1e-12)
    scale = np.maximum(ndimage.median_filter(scale, (1, 1, 9)), least)
    for _ in range(3):
        weight = np.maximum(1 - ((steps - centre) / (_BIWEIGHT * scale)) ** 2, 0) ** 2
        total = np.maximum(weight.sum(1, keepdims=True), 1e-6)
        centre = centre + (weight * (steps - centre)).sum(1, keepdims=True) / total
    sums = np.pad(np.cumsum(centre[:, 0], -1, dtype=np.float64), ((0, 0), (1, 0)))
    return np.asarray(sums + common)


def _smoothed(parts: Plane) -> Plane:
    """Segments (n, Y, X) under a box applied twice."""
    size = (1, _SMOOTH, _SMOOTH)
    once = ndimage.uniform_filter(parts, size, mode="nearest")
    return np.asarray(ndimage.uniform_filter(once, size, mode="nearest"))


def _agreement(halves: Sequence[Floats], low: float, high: float) -> tuple[float, float]:
    """Correlation of two profiles (X,) in a band of frequencies, and common power.

    From signs and clipped standard deviations, so that a few lines do not matter. The power is the
    variance that white offsets of this strength have in all bands together.
    """
    width = len(halves[0])
    frequency = np.arange(width) / (2 * width)  # of the cosine transform, cycles per pixel
    inside = (frequency >= low) & (frequency < high)
    one, other = (
        fft.idct(np.where(inside, fft.dct(half, norm="ortho"), 0), norm="ortho") for half in halves
    )
    same = float(np.mean(np.sign(one) == np.sign(other)))
    correlation = float(np.sin(np.pi * (same - 0.5)))
    spread = [_clipped_std(half) for half in (one, other)]
    return correlation, correlation * spread[0] * spread[1] / (2 * (high - low))


def _clipped_std(values: Floats) -> float:
    """Standard deviation of values clipped at three robust standard deviations around 0."""
    limit = 3 * 1.4826 * median(np.abs(values))
    return float(np.sqrt(np.mean(np.clip(values, -limit, limit) ** 2)))


def _profile(lines: Floats) -> tuple[NDArray[np.bool_], Floats]:
    """Which columns stand out, and the profile (X,) of all segments together (n, X).

    Structure is bright and short more often than dark or long: the darker segments count.
    """
    width = lines.shape[1]
    stand_out = np.zeros(width, bool)
    for _ in range(3):
        kept = np.flatnonzero(~stand_out)
        bridged = _bridged(lines, kept)
        slow = ndimage.gaussian_filter1d(bridged, 6, mode="nearest")
        fine = np.sort(lines - slow, axis=0)[len(lines) // 8 : len(lines) // 2].mean(0)
        fine -= median(fine)
        far = np.abs(fine) > _OUTLIER * 1.4826 * median(np.abs(fine[kept]))
        stand_out = ndimage.binary_dilation(far, iterations=_FLANK)
        if stand_out.mean() > 0.5:
            break
    return stand_out, fine + slow.mean(0)


def _bridged(lines: Floats, kept: NDArray[np.intp]) -> Floats:
    """Lines (n, X) with the columns that are not kept interpolated."""
    index = np.arange(lines.shape[1])
    if len(kept) == len(index):
        return lines
    return np.stack([np.interp(index, kept, line[kept]) for line in lines])


def _filtered(profile: Floats, share: float) -> Floats:
    """The offsets in a profile (X,); share: of its finest variations that come from offsets."""
    width = len(profile)
    wave = fft.dct(profile, norm="ortho")
    index, sums = np.arange(width), np.concatenate([[0.0], np.cumsum(wave**2)])
    below, above = (0.7 * index).astype(int), np.minimum((1.4 * index).astype(int) + 1, width)
    around = (sums[above] - sums[below]) / (above - below)  # power within half an octave
    white = (sums[width] - sums[width // 2]) / (width - width // 2)  # of offsets and noise
    gain = share / np.maximum(1, around / white - 0.5)
    gain[:4] = 0
    return np.asarray(fft.idct(gain * wave, norm="ortho"))


# ---- waves ---------------------------------------------------------------------------------------
def _waves(plane: NDArray[Any]) -> tuple[Wave, ...]:
    """The waves of a plane (Y, X), strongest first."""
    if min(plane.shape) < _FEWEST or (least := _visible(plane, _WAVY)) <= 0:
        return ()
    tops = [(n - min(n, _LARGEST)) // 2 for n in plane.shape]
    middle = plane[tuple(slice(top, top + _LARGEST) for top in tops)].astype(np.float32)
    limits = np.median(middle) + np.array([-6, 6], np.float32) * _spread(middle)
    rest = np.clip(middle, *limits) - limits.mean()
    window = _hann(rest.shape[0])[:, None] * _hann(rest.shape[1])
    found: list[Wave] = []
    bins: list[tuple[int, int]] = []  # of those found
    tried: list[tuple[int, int]] = []  # of other peaks
    ratio = _peaks(rest * window)
    while len(found) < _WAVES and len(tried) < _WAVES:
        for y, x in (*tried, *bins):
            ratio[np.arange(y - 2, y + 3) % len(ratio), max(0, x - 2) : x + 3] = 0
        y, x = (int(i) for i in np.unravel_index(np.argmax(ratio), ratio.shape))
        if ratio[y, x] < _PEAK:
            break
        bin_y, bin_x = fft.fftfreq(rest.shape[0])[y], x / rest.shape[1]
        wave = _fitted(plane, limits, _refined(rest * window, bin_y, bin_x), found)
        if wave is None or wave.amplitude < np.sqrt(2) * least:
            tried.append((y, x))
            continue
        found.append(wave)
        bins.append((y, x))
        rest -= wave.at(tops[0] + np.arange(rest.shape[0]), tops[1] + np.arange(rest.shape[1]))
        ratio = _peaks(rest * window)
    return tuple(found)


def _spread(values: Plane) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _hann(length: int) -> Plane:
    phase = 2 * np.pi * (np.arange(length) + 0.5) / length
    return np.asarray(0.5 - 0.5 * np.cos(phase), np.float32)


def _peaks(windowed: Plane) -> Plane:
    """Power of each frequency over that of those around it: (Y, X // 2 + 1).

    Rows and columns of the spectrum through the origin have much structure along the axes, and are
    compared with themselves only.
    """
    power = np.log(np.abs(fft.rfft2(windowed)) ** 2 + 1e-20)
    ratio = power - ndimage.uniform_filter(power, 15, mode="wrap")
    for line in (np.s_[:, 0], np.s_[:, 1], np.s_[0], np.s_[1], np.s_[-1]):
        ratio[line] = power[line] - ndimage.median_filter(power[line], 31, mode="nearest")
    fy = np.abs(fft.fftfreq(windowed.shape[0]))[:, None]
    fx = np.arange(power.shape[1]) / windowed.shape[1]
    ratio[np.hypot(fy, fx) < _SLOWEST] = -np.inf
    # The mean log of an exponentially distributed power is that of its mean, less 0.577.
    return np.asarray(np.exp(np.minimum(ratio - 0.577, 60)), np.float32)


def _refined(windowed: Plane, fy: float, fx: float) -> tuple[float, float]:
    """The frequency of the greatest power near a bin of the spectrum, to 1/1000 of a bin."""
    height, width = windowed.shape
    for step in (1 / 8, 1 / 80, 1 / 800):
        offsets = np.arange(-5, 6) * step
        tall = np.exp(-2j * np.pi * np.outer(fy + offsets / height, np.arange(height)))
        wide = np.exp(-2j * np.pi * np.outer(np.arange(width), fx + offsets / width))
        power = np.abs(tall.astype(np.complex64) @ windowed @ wide.astype(np.complex64))
        y, x = np.unravel_index(np.argmax(power), power.shape)
        fy, fx = fy + offsets[y] / height, fx + offsets[x] / width
    return (
        0.0 if abs(fy) * height < 0.5 else float(fy),  # along an axis
        0.0 if abs(fx) * width < 0.5 else float(fx),
    )


def _fitted(
    plane: NDArray[Any],
    limits: NDArray[np.float32],
    frequency: tuple[float, float],
    others: Sequence[Wave],
) -> Wave | None:
    """The wave of this frequency; None unless it is the same in most parts of the plane.

    limits: pixels are clipped to this range. others: waves that are subtracted first.
    """
    sides = [min(n // _PARTS, _PART) for n in plane.shape]
    starts = [
        np.linspace(0, n - side, _PARTS).round().astype(int)
        for n, side in zip(plane.shape, sides, strict=True)
    ]
    window = (_hann(sides[0])[:, None] * _hann(sides[1])).astype(np.float64)
    found, light = [], []
    for top in starts[0]:
        for left in starts[1]:
            rows, columns = np.arange(top, top + sides[0]), np.arange(left, left + sides[1])
            values = plane[top : top + sides[0], left : left + sides[1]].astype(np.float64)
            values = np.clip(values, *limits)
            light.append(np.median(values))
            for other in others:
                values -= other.at(rows, columns)
            phase = 2 * np.pi * np.add.outer(frequency[0] * rows, frequency[1] * columns)
            basis = np.stack([np.ones_like(phase), np.cos(phase), np.sin(phase)])
            gram = np.einsum("iyx,jyx,yx->ij", basis, basis, window)
            right = np.einsum("iyx,yx,yx->i", basis, values, window)
            found.append(np.linalg.lstsq(gram, right, rcond=1e-6)[0][1:])
    table, order = np.array(found), np.argsort(light, kind="stable")
    cosine, sine = (float(v) for v in np.median(table, 0))
    square = cosine**2 + sine**2
    if square == 0:
        return None
    share = table @ np.array([cosine, sine]) / square  # of the wave in each part; 1 = the same
    dark, bright = (float(np.median(share[half])) for half in np.split(order, 2))
    if np.mean(share > 0.3) < 0.8 or not (0.6 < dark < 1.6 and bright > 0.6):
        return None
    return Wave(*frequency, cosine, sine)
