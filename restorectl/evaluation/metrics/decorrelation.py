"""Image resolution by decorrelation analysis (Descloux, Grussmayer and Radenovic 2019).

The correlation d(r) between the Fourier transform F of an image and its phase, taken within a
radius r, has a peak where the signal ends; high-pass filters move the peak towards the cut-off
frequency. Radii are fractions of Nyquist on either axis. Here the mean is removed, the peaks of
both passes of filters count, and peaks under 0.05 are ignored. d(r) needs only |F|, since F times
the conjugate of F / |F| is |F|, and only one half of the spectrum, since the image is real.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from restorectl.evaluation.metrics.metric import Array, PairedMetric, Undefined

EDGE = 20  # px at each border that are faded out
RADII, FILTERS = 50, 10
LEAST_DROP = 0.0005  # by which d must fall after a peak
LEAST_PEAK = 0.05
NARROWEST = 0.15  # last high-pass width
AHEAD = 0.4  # the second pass searches radii up to this far above the first pass's peak
SMALLEST = 2 * EDGE + 8  # px


@dataclass(frozen=True)
class Decorrelation:
    cutoff: float  # 0..1 of Nyquist; 0 if no peak was found
    amplitude: float  # height of the unfiltered curve's peak; grows with the signal-to-noise ratio

    @property
    def resolution(self) -> float:
        """In px, 2 at best; infinite if no peak was found."""
        return 2 / self.cutoff if self.cutoff > 0 else math.inf


@dataclass(frozen=True)
class _Spectrum:
    """Half of the spectrum inside radius 1, without the mean; weight 2 stands for both halves."""

    amplitude: Array
    radius: Array
    weight: Array

    def peaks(self, radii: Array, widths: Iterable[float | None]) -> list[tuple[float, float]]:
        """The peak of d(r), floored to three decimals, after a high-pass filter of each width."""
        first = np.searchsorted(radii, self.radius, side="right")  # index of the next larger
        counts = _cumulated(first, self.weight, len(radii))
        found = []
        for width in widths:
            amplitude = self.amplitude
            if width is not None:
                amplitude = amplitude * -np.expm1(-2 * width**2 * self.radius**2)
            weighted = self.weight * amplitude
            norms = math.sqrt(np.sum(weighted * amplitude)) * np.sqrt(counts)
            sums = _cumulated(first, weighted, len(radii))
            d = np.divide(sums, norms, out=np.zeros_like(sums), where=counts > 0)
            found.append(_peak(radii, np.floor(1000 * d) / 1000))
        return found


def analyse(image: Array) -> Decorrelation:
    """Analyse an image (Y, X) float64. Raises Undefined if it is constant or under 48 px."""
    if min(image.shape) < SMALLEST:
        raise Undefined(f"planes of {image.shape[0]}x{image.shape[1]} px are under {SMALLEST} px")
    if np.ptp(image) == 0:
        raise Undefined(f"the image is constant ({image.flat[0]:g})")
    rows, cols = (side - (side + 1) % 2 for side in image.shape)
    spectrum = _spectrum(_apodised(image)[:rows, :cols])
    radii = np.linspace(0, 1, RADII)
    (first,) = spectrum.peaks(radii, [None])
    start = 2 / first[0] if first[0] > 0 else max(image.shape) / 2
    widths = np.r_[image.shape[0] / 4, _geometric(start, NARROWEST)]
    peaks = [first, *spectrum.peaks(radii, widths)]
    best = max(range(len(peaks)), key=lambda i: (peaks[i][0], i))  # of equal ones the last
    if best == 0:
        wide, narrow = float(image.shape[0]), widths[0]
    elif best >= len(peaks) - 2:
        wide, narrow = widths[best - 2], widths[best - 1]
    else:
        wide, narrow = widths[best - 1], widths[best]
    centre = peaks[best][0]
    finer = np.linspace(max(centre - radii[1], 0), min(centre + AHEAD, 1), RADII)
    peaks += spectrum.peaks(finer, _geometric(wide, narrow))
    cutoff = max(r if amplitude >= LEAST_PEAK else 0.0 for r, amplitude in peaks)
    return Decorrelation(cutoff, first[1])


def resolution(prediction: Array, target: Array, data_range: float) -> float:
    """Resolution of the prediction in px; infinite if the analysis finds no peak."""
    return analyse(prediction).resolution


def resolution_ratio(prediction: Array, target: Array, data_range: float) -> float:
    """Prediction over target (Osuna-Vargas et al., eq. 14); above 1 the prediction is coarser."""
    found, wanted = analyse(prediction).resolution, analyse(target).resolution
    if math.isinf(wanted):
        raise Undefined("no resolution was found in the target")
    return found / wanted


def _geometric(first: float, last: float) -> Array:
    return np.exp(np.linspace(math.log(first), math.log(last), FILTERS))


def _cumulated(first: Array, values: Array, count: int) -> Array:
    """(count,) sums of the values whose first index is at most 0, 1, 2 ..."""
    sums: Array = np.cumsum(np.bincount(first, values, count + 1))[:-1]
    return sums


def _peak(radii: Array, d: Array) -> tuple[float, float]:
    """Radius and height of the last local maximum that falls by LEAST_DROP after it."""
    for length in range(len(d), 1, -1):
        top = int(np.argmax(d[:length]))
        if top == 0 or (top < length - 1 and d[top] - d[top:length].min() >= LEAST_DROP):
            return float(radii[top]), float(d[top])
    return float(radii[0]), float(d[0])


def _apodised(image: Array) -> Array:
    """The image minus its mean, faded to 0 at its borders by a raised cosine."""
    ramps = []
    for side in image.shape:
        ramp = np.ones(side)
        distance = np.abs(np.linspace(-side / 2, side / 2, side))
        edge = distance > side / 2 - EDGE
        low, high = distance[edge].min(), distance[edge].max()
        ramp[edge] = 0.5 + 0.5 * np.cos(np.pi * (distance[edge] - low) / (high - low))
        ramps.append(ramp)
    faded: Array = (image - image.mean()) * np.outer(*ramps)
    return faded


def _spectrum(image: Array) -> _Spectrum:
    """The spectrum of an image (Y, X) with odd sides."""
    amplitude = np.abs(np.fft.rfft2(image))
    amplitude[0, 0] = 0
    half_y, half_x = (side // 2 for side in image.shape)
    y = np.fft.ifftshift(np.arange(-half_y, half_y + 1)) / half_y
    x = np.arange(half_x + 1) / half_x
    radius2 = y[:, None] ** 2 + x**2
    weight = np.broadcast_to(np.where(np.arange(half_x + 1) > 0, 2.0, 1.0), amplitude.shape)
    inside = (radius2 < 1) & (amplitude > 0)
    return _Spectrum(amplitude[inside], np.sqrt(radius2[inside]), weight[inside])


RESOLUTION = PairedMetric("resolution", "lower", resolution, "px", alone=True)
RESOLUTION_NM = PairedMetric("resolution-nm", "lower", resolution, "nm", alone=True, sized=True)
RESOLUTION_RATIO = PairedMetric("resolution-ratio", "", resolution_ratio)
