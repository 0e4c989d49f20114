"""Aligns two images of one field: sub-pixel shift, rigid and affine transforms.

Coordinates are (row, column) of pixel centres. A `Transform` maps pixels of the
fixed image to the moving image, so resampling needs no inversion.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from restorectl.images.interpolate import cubic_weights

Array = NDArray[np.float64]

ALIGNMENTS = ("rigid", "affine")  # kinds of `register`
UPSAMPLING = 20  # the correlation is evaluated on a grid of 1/20 px around its peak
PASS = 0.15  # cycles/px; width of the Gaussian low-pass
ANGLES = np.radians(np.arange(-12.0, 12.1, 3.0))  # rad; starting angles of the search
SMALLEST = 48  # px; shorter side of the coarsest pyramid level
LARGEST = 1200  # px; larger images are aligned on 2x2 means
ITERATIONS = 30
SPAN, REACH = 0.7, 2  # px; standard deviation and radius of the Gaussian at each level
BORDER = 4  # px; margin affected by mirroring in the smoothing


@dataclass(frozen=True)
class Transform:
    """x -> matrix (x - centre) + centre + shift, from fixed to moving pixels."""

    matrix: tuple[tuple[float, float], tuple[float, float]]
    shift: tuple[float, float]
    centre: tuple[float, float]

    def __call__(self, rows: Array, columns: Array) -> tuple[Array, Array]:
        """Coordinates of any broadcastable shapes -> coordinates in the moving image."""
        y, x = rows - self.centre[0], columns - self.centre[1]
        (a, b), (c, d) = self.matrix
        return (
            a * y + b * x + self.centre[0] + self.shift[0],
            c * y + d * x + self.centre[1] + self.shift[1],
        )


@dataclass(frozen=True)
class Shift:
    """moving is at fixed + (dy, dx) px; score: correlation peak divided by its rms."""

    dy: float
    dx: float
    score: float

    @property
    def length(self) -> float:
        return float(np.hypot(self.dy, self.dx))


def phase_shift(fixed: NDArray[np.floating], moving: NDArray[np.floating]) -> Shift:
    """Sub-pixel translation by phase correlation (Kuglin and Hines 1975).

    fixed, moving: (Y, X) of equal shape. The peak is refined by a Fourier sum on a grid of 1/20 px
    (Guizar-Sicairos et al. 2008) and a parabola. High frequencies, mostly noise, count little.
    """
    a, b = (np.fft.fft2(_windowed(image)) for image in (fixed, moving))
    cross = np.conj(a) * b
    cross /= np.maximum(np.abs(cross), 1e-12 * np.abs(cross).max() + 1e-300)
    fy, fx = np.fft.fftfreq(a.shape[0])[:, None], np.fft.fftfreq(a.shape[1])[None]
    cross *= np.exp(-0.5 * (fy**2 + fx**2) / PASS**2)
    return _peak(cross)


def matched_shift(fixed: NDArray[np.floating], moving: NDArray[np.floating]) -> Shift:
    """Sub-pixel translation by cross-correlation, the most likely one if white noise is strong.

    fixed, moving: (Y, X) of equal shape, one of them without noise, in equal units. Less exact than
    `phase_shift` for images with little noise, whose large structures dominate here.
    """
    a, b = (np.fft.fft2(_windowed(image)) for image in (fixed, moving))
    return _peak(np.conj(a) * b)


def shift_error(clean: NDArray[np.floating], noise: float) -> float:
    """Standard deviation in px of the best estimate of a shift against `clean` (Y, X).

    noise: standard deviation of the white noise, in units of clean; the Cramer-Rao bound.
    """
    slopes = np.gradient(_windowed(clean))
    return noise * float(np.sqrt(sum(1 / max(float(np.sum(s**2)), 1e-300) for s in slopes)))


def _peak(cross: NDArray[np.complexfloating]) -> Shift:
    """The maximum of the correlation with the spectrum `cross` (Y, X), refined to 1/20 px."""
    fy, fx = np.fft.fftfreq(cross.shape[0])[:, None], np.fft.fftfreq(cross.shape[1])[None]
    cross[0, 0] = 0.0
    correlation = np.fft.ifft2(cross).real
    peak = np.unravel_index(int(correlation.argmax()), correlation.shape)
    score = float(correlation[peak] / max(float(correlation.std()), 1e-300))
    coarse = [int((p + n // 2) % n - n // 2) for p, n in zip(peak, cross.shape, strict=True)]
    offsets = np.arange(-UPSAMPLING, UPSAMPLING + 1) / UPSAMPLING
    left = np.exp(2j * np.pi * (coarse[0] + offsets)[:, None] * fy.T)
    right = np.exp(2j * np.pi * fx.T * (coarse[1] + offsets)[None])
    fine = (left @ cross @ right).real
    row, column = np.unravel_index(int(fine.argmax()), fine.shape)
    dy = coarse[0] + (row + _vertex(fine[:, column], int(row))) / UPSAMPLING - 1
    dx = coarse[1] + (column + _vertex(fine[row], int(column))) / UPSAMPLING - 1
    return Shift(float(dy), float(dx), score)


def register(fixed: NDArray[np.floating], moving: NDArray[np.floating], kind: str) -> Transform:
    """The transform that aligns `moving` to `fixed`, both (Y, X) of equal shape.

    kind: "rigid" (rotation and translation) or "affine". Coarse to fine; at every level
    Gauss-Newton steps minimise the squared difference, with a free gain and offset of intensity
    (Lucas and Kanade 1981). Rotations up to about 13 degrees and large shifts are found.
    """
    levels, centre = _pyramid(fixed, moving)
    matrix, shift = _start(*levels[-1])
    for level, (a, b) in reversed(list(enumerate(levels))):
        if level == 0 and len(levels) > 1 and min(a.shape) > LARGEST:
            break
        matrix, shift = _refined(a, b, matrix, shift / 2**level, kind == "rigid")
        shift = shift * 2**level
    (p, q), (r, s) = matrix.tolist()
    return Transform(((p, q), (r, s)), (float(shift[0]), float(shift[1])), centre)


def resample(image: NDArray[np.floating], transform: Transform) -> NDArray[np.float32]:
    """Resample image (Y, X) on the fixed grid by Catmull-Rom interpolation: (Y, X) float32.

    Outside, the border pixels are repeated.
    """
    rows, columns = transform(*_grid(image.shape))
    return _sample(np.asarray(image, np.float64), rows, columns, _cubic).astype(np.float32)


def valid_area(shape: tuple[int, int], transform: Transform) -> tuple[int, int, int, int]:
    """The area (first, last, left, right) of the fixed image that lies inside the moving one.

    Repeatedly cuts off the side with the largest share of pixels outside.
    """
    height, width = shape
    rows, columns = transform(*_grid(shape))
    tolerance = 0.01  # px
    outside = (rows < -tolerance) | (rows > height - 1 + tolerance)
    outside |= (columns < -tolerance) | (columns > width - 1 + tolerance)
    first, last, left, right = 0, height, 0, width
    while first < last and left < right:
        sides = (
            outside[first, left:right],
            outside[last - 1, left:right],
            outside[first:last, left],
            outside[first:last, right - 1],
        )
        shares = [float(side.mean()) for side in sides]
        worst = int(np.argmax(shares))
        if shares[worst] == 0:
            break
        first, last = first + (worst == 0), last - (worst == 1)
        left, right = left + (worst == 2), right - (worst == 3)
    return first, last, left, right


# ---- phase correlation ---------------------------------------------------------------------------
def _windowed(image: NDArray[np.floating]) -> Array:
    """Remove the mean and fade out towards the borders."""
    values = np.asarray(image, np.float64)
    fade = np.outer(np.hanning(values.shape[0] + 2)[1:-1], np.hanning(values.shape[1] + 2)[1:-1])
    mean = float((values * fade).sum() / fade.sum())
    return np.asarray((values - mean) * fade)


def _vertex(values: Array, at: int) -> float:
    """Sub-grid position of the parabola through three values around a maximum."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = values[at - 1 : at + 2]
    bend = before - 2 * here + after
    return float((before - after) / (2 * bend)) if bend < 0 else 0.0


# ---- Gauss-Newton --------------------------------------------------------------------------------
def _pyramid(
    fixed: NDArray[np.floating], moving: NDArray[np.floating]
) -> tuple[list[tuple[Array, Array]], tuple[float, float]]:
    """Smoothed block means of 1, 2, 4, ... px, the finest pair first, and the centre in px.

    Sides are cropped to multiples of the coarsest pixel, so all levels share a centre.
    """
    depth = max(0, int(np.log2(min(fixed.shape) / SMALLEST)))
    sides = [n >> depth << depth for n in fixed.shape]
    starts = [(n - side) // 2 for n, side in zip(fixed.shape, sides, strict=True)]
    middle_part = tuple(slice(s, s + side) for s, side in zip(starts, sides, strict=True))
    images = [np.asarray(image, np.float64)[middle_part] for image in (fixed, moving)]
    levels = []
    for level in range(depth + 1):
        if level:
            images = [
                i.reshape(i.shape[0] // 2, 2, i.shape[1] // 2, 2).mean((1, 3)) for i in images
            ]
        a, b = (gaussian_filter(i, SPAN, mode="mirror", radius=REACH) for i in images)
        levels.append((a, b))
    middle = [s + (side - 1) / 2 for s, side in zip(starts, sides, strict=True)]
    return levels, (middle[0], middle[1])


def _turn(angle: float) -> Array:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _start(fixed: Array, moving: Array) -> tuple[Array, Array]:
    """Matrix and shift of the starting angle with the strongest correlation peak."""
    found = []
    for angle in ANGLES:
        matrix = _turn(angle)
        warped = _sample(moving, *_moved(fixed.shape, matrix, np.zeros(2)), _linear)
        shift = phase_shift(fixed, warped)
        found.append((shift.score, matrix, matrix @ (shift.dy, shift.dx)))
    _, matrix, offset = max(found, key=lambda each: each[0])
    return matrix, offset


def _grid(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Row (Y, 1) and column (1, X) coordinates."""
    rows, columns = (np.arange(n, dtype=np.float64) for n in shape)
    return rows[:, None], columns[None]


def _moved(shape: tuple[int, ...], matrix: Array, shift: Array) -> tuple[Array, Array]:
    """Coordinates of a grid of `shape` in the moving image, relative to the centre."""
    centre = ((shape[0] - 1) / 2, (shape[1] - 1) / 2)
    (a, b), (c, d) = matrix.tolist()
    transform = Transform(((a, b), (c, d)), (float(shift[0]), float(shift[1])), centre)
    return transform(*_grid(shape))


def _refined(
    fixed: Array, moving: Array, matrix: Array, shift: Array, rigid: bool
) -> tuple[Array, Array]:
    """Gauss-Newton from (matrix, shift) until no corner moves by more than 1/1000 px."""
    slopes = np.gradient(moving)
    y, x = (np.arange(n) - (n - 1) / 2 for n in fixed.shape)
    fresh = np.zeros(fixed.shape, bool)
    fresh[BORDER:-BORDER, BORDER:-BORDER] = True
    for _ in range(ITERATIONS):
        rows, columns = _moved(fixed.shape, matrix, shift)
        inside = fresh & (rows >= BORDER) & (rows <= fixed.shape[0] - 1 - BORDER)
        inside &= (columns >= BORDER) & (columns <= fixed.shape[1] - 1 - BORDER)
        rows, columns = rows[inside], columns[inside]
        if rows.size < 64:
            break
        gy, gx = (_sample(np.asarray(slope), rows, columns, _linear) for slope in slopes)
        v, h = (np.broadcast_to(a, fixed.shape)[inside] for a in (y[:, None], x[None]))
        if rigid:
            turned = np.array([[0.0, -1.0], [1.0, 0.0]]) @ matrix  # d matrix / d angle
            down, right = turned[0, 0] * v + turned[0, 1] * h, turned[1, 0] * v + turned[1, 1] * h
            columns_of = [gy * down + gx * right, gy, gx]
        else:
            columns_of = [gy * v, gy * h, gx * v, gx * h, gy, gx]
        seen = _sample(moving, rows, columns, _cubic)
        system = np.stack([*columns_of, seen, np.ones_like(seen)])
        normal = system @ system.T
        normal += np.diag(1e-9 * np.diag(normal) + 1e-300)
        solution = np.linalg.solve(normal, system @ fixed[inside])
        step = solution[:-2] / (solution[-2] if abs(solution[-2]) > 1e-6 else 1.0)
        change = _turn(float(step[0])) @ matrix - matrix if rigid else step[:4].reshape(2, 2)
        matrix, shift = matrix + change, shift + step[-2:]
        if np.abs(change).sum() * max(fixed.shape) / 2 + np.abs(step[-2:]).max() < 1e-3:
            break
    return matrix, shift


# ---- interpolation -------------------------------------------------------------------------------
Weights = Callable[[Array], list[tuple[int, Array]]]  # fraction -> (tap, its weight)


def _linear(t: Array) -> list[tuple[int, Array]]:
    return [(0, 1 - t), (1, t)]


def _cubic(t: Array) -> list[tuple[int, Array]]:
    weights = cubic_weights(t)
    return [(k - 1, weights[..., k]) for k in range(4)]


def _sample(image: Array, rows: Array, columns: Array, weights: Weights) -> Array:
    """`image` at real-valued coordinates; outside, the nearest border pixels."""
    height, width = image.shape
    rows, columns = np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)
    y, x = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    across = [(np.clip(x + k, 0, width - 1), w) for k, w in weights(columns - x)]
    result = np.zeros(np.broadcast_shapes(rows.shape, columns.shape))
    for j, down in weights(rows - y):
        line = np.clip(y + j, 0, height - 1)
        result += down * sum(image[line, column] * weight for column, weight in across)
    return result
