"""Calibrated error bars: how far the truth lies from the mean, learnt from pairs of images.

The half-width of an interval is the image's noise at a pixel, times a power law of the predicted
spread (in units of that noise) and of the signal (in the same units), times a factor for the
coverage that is wanted. All three features are free of units, so a calibration holds for other
cameras. The factor is chosen over *images*, because the pixels of one are not exchangeable:
conformal risk control (Angelopoulos et al. 2022) where there are enough of them.

Statistics over repeated restorations of the same pixels, and intervals predicted from them.

Calibrations of error bars as YAML files, and the ones that come with the embedded models.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from restorectl.errors import InputError
from restorectl.files.atomic import replacing
from restorectl.files.strict import build, one_line


@dataclass(frozen=True)
class Spread:
    """What N samples (N, ...) say of each pixel, float32 in their units."""

    count: int
    mean: np.ndarray
    std: np.ndarray  # over the population, ddof = 0 (paper 002, eq. 15)
    entropy: np.ndarray  # nats, of the samples as 8-bit values (paper 002, eq. 16)


def gather(samples: Iterable[np.ndarray], low: np.ndarray, high: np.ndarray) -> Spread:
    """Statistics of a stream of samples (...) float32; one of them is held, and all as 8 bit.

    low, high: what 8-bit values call 0 and 255; they broadcast against a sample.
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
    """Of the N values at each pixel, (N, ...) integers -> (...) float32 in [0, ln N].

    -sum p ln p over the distinct values, p their shares (paper 002, eq. 16).
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
    """Half-width of the interval for one more draw, in sample standard deviations (ddof = 0).

    t * sqrt(1 + 1/N) for a normal law, with N - 1 degrees of freedom: quantiles of few samples
    cannot reach far, 15 of them not even 90 %.
    """
    t = student_quantile((1 + coverage) / 2, count - 1)
    return t * math.sqrt((1 + 1 / count) * count / (count - 1))


@lru_cache(maxsize=64)
def student_quantile(p: float, degrees: int) -> float:
    """The p-quantile of Student's t, 0.5 <= p < 1, by bisection of its distribution function."""
    low, high = 0.0, 1.0
    while _student_cdf(high, degrees) < p:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, degrees) < p else (low, middle)
    return (low + high) / 2


def _student_cdf(t: float, degrees: int) -> float:
    """P(T <= t) for t >= 0: the finite series of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    theta = math.atan(t / math.sqrt(degrees))
    cosine, odd = math.cos(theta), degrees % 2
    term, total = (cosine, cosine) if odd else (1.0, 1.0)
    if degrees == 1:
        total = 0.0
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    inside = math.sin(theta) * total
    return 0.5 + ((theta + inside) / math.pi if odd else inside / 2)


LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95, 0.99)  # coverages that a calibration knows
ENOUGH = 9  # images that a finite-sample bound at 90 % takes: 1 / (n + 1) <= 0.1
LEAST_SPREAD = 1e-3  # of the noise
SMALLEST_ERROR = 0.05  # of the noise, added before logarithms are taken
ENDS = (0.001, 0.999)  # quantiles of the features seen: beyond them nothing is extrapolated


@dataclass(frozen=True)
class Pixels:
    """Pixels of one image where the truth is known, each (n,) float32."""

    name: str
    error: np.ndarray  # |truth - mean|, in units of the noise
    spread: np.ndarray  # standard deviation of the samples, in units of the noise
    signal: np.ndarray  # mean over noise


@dataclass(frozen=True)
class Calibration:
    """How much wider the truth lies than the samples say; for one model and way of sampling."""

    weights_sha256: str
    sampling: Mapping[str, Any]  # source, steps, variance, samples: what the spread depends on
    constant: float  # the power law, in logarithms
    spread: float
    signal: float
    spread_range: tuple[float, float]
    signal_range: tuple[float, float]
    factors: Mapping[str, float]  # coverage -> factor
    images: int
    guarantee: bool  # whether `images` are enough for the finite-sample bound at 90 %
    coverage: Mapping[str, float]  # of each image at 90 %, the image itself left out of the fit
    scale: str  # how truth was fitted to the restorations before errors were taken

    def half_width(
        self, spread: np.ndarray, mean: np.ndarray, noise: np.ndarray, coverage: float
    ) -> np.ndarray:
        """(...) float32 in input units; spread, mean and noise likewise."""
        safe = np.where(noise > 0, noise, 1)  # where there is none, the width is 0
        law = np.exp(_law(self, spread / safe, mean / safe))
        return np.asarray(noise * law * self.factor(coverage), np.float32)

    def factor(self, coverage: float) -> float:
        """For a coverage between those that were fitted, by interpolation of normal quantiles."""
        known = sorted((float(level), value) for level, value in self.factors.items())
        if not known[0][0] <= coverage <= known[-1][0]:
            raise InputError(
                f"`interval` {coverage:g}: this calibration knows {known[0][0]:g} to"
                f" {known[-1][0]:g}; use one of these, or `calibration` none"
            )
        at = [_normal_quantile(level) for level, _ in known]
        return float(np.interp(_normal_quantile(coverage), at, [value for _, value in known]))


def uncalibrated(spread: np.ndarray, count: int, coverage: float) -> np.ndarray:
    """Half-width if the truth were one more sample of the same normal law."""
    return np.asarray(spread * np.float32(prediction_factor(count, coverage)))


def fit(
    images: Sequence[Pixels],
    weights_sha256: str,
    sampling: Mapping[str, Any],
    scale: str = "none",
) -> Calibration:
    """Fit the power law and the factors. Raises InputError for fewer than two images."""
    if len(images) < 2:
        raise InputError(f"{len(images)} image: at least 2 pairs are needed, 9 for a guarantee")
    made = _fit(images, weights_sha256, sampling, scale)
    left_out = {
        image.name: _covered(_fit([*images[:k], *images[k + 1 :]], "", {}, scale), image, 0.9)
        for k, image in enumerate(images)
    }
    return replace(made, coverage=left_out)


def _fit(
    images: Sequence[Pixels], weights_sha256: str, sampling: Mapping[str, Any], scale: str
) -> Calibration:
    features = [_features(image.spread, image.signal) for image in images]
    least = min(len(image.error) for image in images)  # each image counts the same
    picked = [np.linspace(0, len(i.error) - 1, least).astype(int) for i in images]
    x = np.concatenate([f[p] for f, p in zip(features, picked, strict=True)])
    y = np.concatenate(
        [np.log(i.error[p] + SMALLEST_ERROR) for i, p in zip(images, picked, strict=True)]
    )
    columns = np.column_stack([np.ones(len(x)), x])
    constant, spread, signal = np.linalg.lstsq(columns, y, rcond=None)[0]
    ranges = np.quantile(x, ENDS, axis=0)
    law = Calibration(
        weights_sha256,
        dict(sampling),
        float(constant),
        float(max(spread, 0.0)),  # more spread never means less error
        float(signal),
        (float(ranges[0, 0]), float(ranges[1, 0])),
        (float(ranges[0, 1]), float(ranges[1, 1])),
        {},
        len(images),
        len(images) >= ENOUGH,
        {},
        scale,
    )
    scores = [np.sort(i.error / np.exp(_law(law, i.spread, i.signal))) for i in images]
    factors = np.maximum.accumulate([_factor(scores, level) for level in LEVELS])
    named = {f"{level:g}": float(value) for level, value in zip(LEVELS, factors, strict=True)}
    return replace(law, factors=named)


def _features(spread: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """(..., 2): log spread, log (1 + signal)."""
    return np.stack(
        [np.log(np.maximum(spread, LEAST_SPREAD)), np.log1p(np.maximum(signal, 0))], axis=-1
    )


def _law(c: Calibration, spread: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """Logarithm of the expected error in units of the noise."""
    x = _features(spread, signal)
    return np.asarray(
        c.constant
        + c.spread * np.clip(x[..., 0], *c.spread_range)
        + c.signal * np.clip(x[..., 1], *c.signal_range)
    )


def _factor(scores: Sequence[np.ndarray], level: float) -> float:
    """The factor whose share of misses, over images, is the wanted one.

    With n images, conformal risk control wants (sum of misses + 1) / (n + 1) <= 1 - level; where n
    is too small for a bound at 90 %, the mean of the misses is what is wanted, without one.
    scores: error over the law, sorted, of each image.
    """
    count = len(scores)
    allowed = (1 - level) * count
    if count >= ENOUGH:
        allowed = max((1 - level) * (count + 1) - 1, 0.0)
    low, high = 0.0, max(float(score[-1]) for score in scores)
    for _ in range(60):
        middle = (low + high) / 2
        misses = sum(1 - np.searchsorted(s, middle, side="right") / len(s) for s in scores)
        low, high = (middle, high) if misses > allowed else (low, middle)
    return high


def _covered(calibration: Calibration, image: Pixels, level: float) -> float:
    law = np.exp(_law(calibration, image.spread, image.signal))
    return float(np.mean(image.error <= law * calibration.factor(level)))


def _normal_quantile(coverage: float) -> float:
    """z with P(|Z| <= z) = coverage, by bisection."""
    low, high = 0.0, 10.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle / 2**0.5) < coverage else (low, middle)
    return (low + high) / 2


def plain(calibration: Calibration) -> dict[str, Any]:
    """As plain YAML values, rounded to six digits."""

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
    """A calibration of error bars from its file. Raises InputError for a file that is none."""
    try:
        raw: Any = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from error
    return build(Calibration, raw, f"calibration {path}", InputError)


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Raises OutputError, DiskFullError."""
    text = yaml.safe_dump(plain(calibration), sort_keys=False, allow_unicode=True)
    with replacing(path) as part:
        part.write_text(text, "utf-8")


def packaged_calibrations() -> list[Calibration]:
    """Those that come with the embedded models."""
    return [read_calibration(path) for path in sorted(PACKAGED.glob(f"*{SUFFIX}"))]
