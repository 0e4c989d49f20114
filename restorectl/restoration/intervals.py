"""Error bars: statistics over repeated restorations, and intervals calibrated on known errors.

The half-width of an interval is the noise at a pixel, times a power law of the expected error and
of the signal (both in units of that noise), times a factor for the wanted coverage. These have no
units, so a calibration holds for other cameras. The factor is chosen over *images*,
because pixels of one image are not exchangeable: by conformal risk control (Angelopoulos et al.
2022) if there are enough images. Calibrations are YAML files; some are packaged.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import yaml
from scipy import special

from restorectl.errors import InputError
from restorectl.files.atomic import replacing
from restorectl.files.strict import build, read_yaml


@dataclass(frozen=True)
class Spread:
    """Statistics of N samples (N, ...) at each pixel, float32 in the samples' units."""

    count: int
    mean: np.ndarray
    std: np.ndarray  # ddof = 0 (DDPM microscopy, eq. 15)
    entropy: np.ndarray  # nats, of the samples as 8-bit values (DDPM microscopy, eq. 16)


def gather(samples: Iterable[np.ndarray], low: np.ndarray, high: np.ndarray) -> Spread:
    """Statistics of a stream of samples (...) float32; only 8-bit copies of them stay in memory.

    low, high: values that map to 0 and 255 in 8 bit; they broadcast against a sample.
    """
    count, eight = 0, []
    for sample in samples:
        count += 1
        if count == 1:
            mean, squares = sample.astype(np.float64), np.zeros(sample.shape)
        else:  # Welford 1962
            step = sample - mean
            mean += step / count
            squares += step * (sample - mean)
        scaled = (sample - low) * (255.0 / (high - low))
        eight.append(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))
    std = np.sqrt(squares / count)
    return Spread(count, mean.astype(np.float32), std.astype(np.float32), entropy(np.stack(eight)))


def entropy(values: np.ndarray) -> np.ndarray:
    """Entropy of the N values at each pixel: (N, ...) integers -> (...) float32 in [0, ln N].

    -sum p ln p over the distinct values, p their shares (DDPM microscopy, eq. 16).
    """
    count = len(values)
    ordered = np.sort(values, axis=0)
    run = np.ones(values.shape[1:])
    total = np.zeros(values.shape[1:])  # of r ln r over runs of equal values
    for k in range(1, count):
        ends = ordered[k] != ordered[k - 1]
        total += np.where(ends, run * np.log(run), 0.0)
        run = np.where(ends, 1.0, run + 1)
    total += run * np.log(run)
    return np.maximum(math.log(count) - total / count, 0.0).astype(np.float32)


def prediction_factor(count: int, coverage: float) -> float:
    """Half-width of the prediction interval of one more sample, in standard deviations (ddof = 0).

    t * sqrt(1 + 1/N) of a normal distribution, with N - 1 degrees of freedom. Quantiles of the
    samples would not do: 15 samples do not even reach 90 %.
    """
    t = float(special.stdtrit(count - 1, (1 + coverage) / 2))
    return t * math.sqrt((1 + 1 / count) * count / (count - 1))


LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95, 0.99)  # coverages that a calibration is fitted for
ENOUGH = 9  # images needed for a finite-sample bound at 90 %: 1 / (n + 1) <= 0.1
LEAST = 1e-3  # in units of the noise
SMALLEST_ERROR = 0.05  # in units of the noise, added before taking the logarithm
ENDS = (0.001, 0.999)  # quantiles of the fitted features; there is no extrapolation beyond them


@dataclass(frozen=True)
class Pixels:
    """Pixels of one image with known errors, each array (n,), in units of the noise."""

    name: str
    error: np.ndarray  # |truth - mean|, see `unexplained`
    expected: np.ndarray  # error, see `expected.judge`
    signal: np.ndarray  # light
    level: float  # of the noise, in network units


@dataclass(frozen=True)
class Calibration:
    """Relates the expected error to the true one, for one model and way of sampling."""

    weights_sha256: str
    sampling: Mapping[str, Any]  # settings that the spread depends on: source, steps, samples, ...
    constant: float  # coefficients of the power law, in logarithms
    expected: float
    signal: float
    expected_range: tuple[float, float]  # of the fitted pixels, in logarithms
    signal_range: tuple[float, float]
    level_range: tuple[float, float]  # of the images' noise, in network units
    factors: Mapping[str, float]  # coverage -> factor
    images: int
    guarantee: bool  # `images` are enough for the finite-sample bound at 90 %
    coverage: Mapping[str, float]  # of each image at 90 %, by a fit to the other images
    scale: str  # how true images were fitted to the restored ones: none, affine
    truth: str  # that the errors are from: images, self, repeats

    def half_width(
        self, expected: np.ndarray, signal: np.ndarray, removed: np.ndarray | float, coverage: float
    ) -> np.ndarray:
        """Half-width of the interval, (...) float32; all in units of the noise.

        removed: height of structures that were removed: they are errors, too.
        """
        law = np.exp(_law(self, expected, signal))
        return np.asarray(np.hypot(law * self.factor(coverage), removed), np.float32)

    def outside(self, signal: np.ndarray) -> np.ndarray:
        """Where the signal, in units of the noise, is beyond those it was made from: bool."""
        low, high = self.signal_range
        x = np.log1p(np.maximum(signal, 0))
        return np.asarray((x < low) | (x > high))

    def factor(self, coverage: float) -> float:
        """Factor for a coverage, interpolated between the fitted ones in normal quantiles."""
        known = sorted((float(level), value) for level, value in self.factors.items())
        if not known[0][0] <= coverage <= known[-1][0]:
            raise InputError(
                f"`interval` {coverage:g}: this calibration covers {known[0][0]:g} to"
                f" {known[-1][0]:g}: choose a value in this range, or use `calibration` none"
            )
        levels = special.ndtri([(1 + level) / 2 for level, _ in known])
        level = special.ndtri((1 + coverage) / 2)
        return float(np.interp(level, levels, [value for _, value in known]))


def unexplained(error: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """The part of an error that has to be predicted: without structures that were removed."""
    return np.asarray(np.sqrt(np.maximum(np.square(error) - np.square(removed), 0)))


def uncalibrated(spread: np.ndarray, count: int, coverage: float) -> np.ndarray:
    """Half-width if the truth were one more sample of the same normal distribution."""
    return np.asarray(spread * np.float32(prediction_factor(count, coverage)))


def fit(
    images: Sequence[Pixels],
    weights_sha256: str,
    sampling: Mapping[str, Any],
    scale: str = "none",
    truth: str = "images",
) -> Calibration:
    """Fit the power law and the factors. Raises InputError for fewer than two images."""
    if len(images) < 2:
        raise InputError(f"{len(images)} images with noise: at least 2 are needed")
    made = alone(images, weights_sha256, sampling, scale, truth)
    left_out = {
        image.name: _covered(alone([*images[:k], *images[k + 1 :]]), image, 0.9)
        for k, image in enumerate(images)
    }
    return replace(made, coverage=left_out)


def alone(
    images: Sequence[Pixels],
    weights_sha256: str = "",
    sampling: Mapping[str, Any] = MappingProxyType({}),
    scale: str = "none",
    truth: str = "images",
) -> Calibration:
    """As `fit`, without the coverage of images by the others; one image is enough."""
    features = [_features(image.expected, image.signal) for image in images]
    least = min(len(image.error) for image in images)  # every image has the same weight
    picked = [np.linspace(0, len(i.error) - 1, least).astype(int) for i in images]
    x = np.concatenate([f[p] for f, p in zip(features, picked, strict=True)])
    y = np.concatenate(
        [np.log(i.error[p] + SMALLEST_ERROR) for i, p in zip(images, picked, strict=True)]
    )
    columns = np.column_stack([np.ones(len(x)), x])
    constant, expected, signal = np.linalg.lstsq(columns, y, rcond=None)[0]
    ranges = np.quantile(x, ENDS, axis=0)
    law = Calibration(
        weights_sha256,
        dict(sampling),
        float(constant),
        float(max(expected, 0.0)),  # a larger spread never predicts a smaller error
        float(signal),
        (float(ranges[0, 0]), float(ranges[1, 0])),
        (float(ranges[0, 1]), float(ranges[1, 1])),
        (min(i.level for i in images), max(i.level for i in images)),
        {},
        len(images),
        len(images) >= ENOUGH,
        {},
        scale,
        truth,
    )
    scores = [np.sort(i.error / np.exp(_law(law, i.expected, i.signal))) for i in images]
    factors = np.maximum.accumulate([_factor(scores, level) for level in LEVELS])
    named = {f"{level:g}": float(value) for level, value in zip(LEVELS, factors, strict=True)}
    return replace(law, factors=named)


def _features(expected: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """The features (..., 2): log expected error, log (1 + signal)."""
    return np.stack([np.log(np.maximum(expected, LEAST)), np.log1p(np.maximum(signal, 0))], axis=-1)


def _law(c: Calibration, expected: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """Logarithm of the error in units of the noise."""
    x = _features(expected, signal)
    return np.asarray(
        c.constant
        + c.expected * np.clip(x[..., 0], *c.expected_range)
        + c.signal * np.clip(x[..., 1], *c.signal_range)
    )


def _factor(scores: Sequence[np.ndarray], level: float) -> float:
    """The factor that gives the wanted share of misses over images.

    With n images, conformal risk control requires (sum of misses + 1) / (n + 1) <= 1 - level; if n
    is too small for that, or below ENOUGH, the mean share of misses is 1 - level.
    scores: for each image, sorted ratios of the error to the power law.
    """
    count = len(scores)
    allowed = (1 - level) * count
    if count >= ENOUGH and (bound := (1 - level) * (count + 1) - 1) > -1e-9:
        allowed = max(bound, 0.0)
    low, high = 0.0, max(float(score[-1]) for score in scores)
    for _ in range(60):
        middle = (low + high) / 2
        misses = sum(1 - np.searchsorted(s, middle, side="right") / len(s) for s in scores)
        low, high = (middle, high) if misses > allowed else (low, middle)
    return high


def _covered(calibration: Calibration, image: Pixels, level: float) -> float:
    law = np.exp(_law(calibration, image.expected, image.signal))
    return float(np.mean(image.error <= law * calibration.factor(level)))


def plain(calibration: Calibration) -> dict[str, Any]:
    """The calibration as plain YAML values, rounded to six digits."""

    def simple(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: simple(item) for key, item in value.items()}
        if isinstance(value, tuple):
            return [simple(item) for item in value]
        return float(f"{value:.6g}") if isinstance(value, float) else value

    return {key: simple(value) for key, value in asdict(calibration).items()}


PACKAGED = Path(__file__).resolve().parent.parent / "pretrained"
SUFFIX = ".errorbars.yaml"


def read_calibration(path: Path) -> Calibration:
    """Read a calibration of error bars. Raises InputError if the file is invalid."""
    raw = read_yaml(path, f"calibration {path}", InputError)
    return build(Calibration, raw, f"calibration {path}", InputError)


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration as YAML. Raises OutputError, DiskFullError."""
    text = yaml.safe_dump(plain(calibration), sort_keys=False, allow_unicode=True)
    with replacing(path) as part:
        part.write_text(text, "utf-8")


def packaged_calibrations() -> list[Calibration]:
    """The calibrations of the packaged models."""
    return [read_calibration(path) for path in sorted(PACKAGED.glob(f"*{SUFFIX}"))]
