"""What a report draws of images: spectra, rows, boxes, the window that is worth a look."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
GRID = 64  # px between the windows that are tried


@dataclass(frozen=True)
class Box:
    """Tukey's box plot: whiskers end at the last value within 1.5 IQR of the box."""

    low: float
    q1: float
    median: float
    q3: float
    high: float
    outliers: tuple[int, ...]  # positions of the values beyond the whiskers


def box(values: Float) -> Box:
    """The box of finite values (n,), n >= 1; quartiles are interpolated linearly."""
    q1, median, q3 = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    reach = 1.5 * (q3 - q1)
    inside = (values >= q1 - reach) & (values <= q3 + reach)
    kept = values[inside]
    outliers = tuple(int(i) for i in np.flatnonzero(~inside))
    # Rounding may put the quartile of equal values beside them
    low, high = min(float(kept.min()), q1), max(float(kept.max()), q3)
    return Box(low, q1, median, q3, high, outliers)


def radial_power(image: Float) -> tuple[Float, Float]:
    """Power per frequency, averaged over rings of one frequency step of the shorter side.

    image (Y, X), any units. Returns frequencies (n,) in cycles per pixel in (0, 0.5] and the mean
    of |DFT|² / (Y X) in each ring, (n,), in squared units: white noise of variance v gives v
    everywhere. The mean is removed and a Hann window (normalised to keep the power of noise) hides
    the jump between opposite borders.
    """
    rows, cols = image.shape
    window = np.hanning(rows + 2)[1:-1, None] * np.hanning(cols + 2)[None, 1:-1]
    window /= np.sqrt(np.mean(window**2))
    power = np.abs(np.fft.rfft2((image - image.mean()) * window)) ** 2 / image.size
    fy, fx = np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(cols)[None]
    step = 1 / min(rows, cols)
    ring = np.rint(np.hypot(fy, fx) / step).astype(np.int64)
    count = int(0.5 / step) + 1
    twice = np.ones(power.shape)  # the half plane that rfft leaves out mirrors these columns
    twice[:, 1 : (cols + 1) // 2] = 2
    total = np.bincount(ring.ravel(), (power * twice).ravel(), count)[1:count]
    number = np.bincount(ring.ravel(), twice.ravel(), count)[1:count]
    return np.arange(1, count) * step, total / number


def interesting_window(image: Float, size: int) -> tuple[slice, slice]:
    """The window of at most `size` px a side that varies most, on a grid of GRID px.

    image (Y, X). The variance tells specimen from background; ties go to the first.
    """
    tops, lefts = (_starts(length, size) for length in image.shape)
    height, width = (min(size, length) for length in image.shape)
    centred = image - image.mean()
    sums = [np.pad(np.cumsum(np.cumsum(a, 0), 1), ((1, 0), (1, 0))) for a in (centred, centred**2)]
    best, found = -np.inf, (0, 0)
    for top in tops:
        for left in lefts:
            mean, square = (
                (s[top + height, left + width] - s[top, left + width])
                - (s[top + height, left] - s[top, left])
                for s in sums
            )
            variance = float(square - mean**2 / (height * width))
            if variance > best * (1 + 1e-9) + 1e-300:
                best, found = variance, (top, left)
    top, left = found
    return slice(top, top + height), slice(left, left + width)


def interesting_row(image: Float) -> int:
    """The row of (Y, X) with the largest standard deviation, away from the outer tenth."""
    margin = image.shape[0] // 10
    spread = image[margin : image.shape[0] - margin].std(axis=1)
    return int(margin + np.argmax(spread))


def reliability(std: Float, error: Float, bins: int) -> tuple[Float, Float]:
    """Does the predicted deviation match the error? Pixels in `bins` equally full bins of std.

    std, error: (n,), std >= 0, equal units. Returns, for each bin that is not empty, the root mean
    square of std and of error: a calibrated spread gives equal numbers (Levi et al. 2022).
    """
    order = np.argsort(std, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    predicted, actual = (
        np.array([np.sqrt(np.mean(values[part] ** 2)) for part in parts]) for values in (std, error)
    )
    return predicted, actual


def _starts(length: int, size: int) -> list[int]:
    last = max(0, length - size)
    return sorted({*range(0, last + 1, GRID), last})
