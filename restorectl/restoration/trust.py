"""Where error bars are not to be trusted: a map of reasons beside the maps of `uncertainty`.

A pixel of the map is the sum of the REASONS that hold there; 0 = none, trusted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from restorectl.batch.plan import Record
from restorectl.images.header import Plane
from restorectl.images.image import create_image, open_written, verify_image
from restorectl.intensity.noise import BELIEVED
from restorectl.restoration.channels import ChannelGroup
from restorectl.restoration.intervals import Calibration
from restorectl.restoration.planes import Fitted, Told

BITS = tuple(1 << k for k in range(7))
NOT_MEASURED, INVALID_NEAR, STRUCTURED, NOISE, FEW_PHOTONS, OUTSIDE, UNCALIBRATED = BITS
REASONS = {
    NOT_MEASURED: "not restored",
    INVALID_NEAR: "invalid pixels near",
    STRUCTURED: "residual structured",
    NOISE: "noise model not believed",
    FEW_PHOTONS: "few photons",
    OUTSIDE: "outside the range of the weights",
    UNCALIBRATED: "outside the range of the calibration",
}
NEAR = 8  # px from an invalid pixel
AROUND = 8.0  # px, standard deviation of the window in which residuals are compared
CORRELATED = 0.15  # of neighbouring residuals; above it they hold structure
ENERGY = (0.5, 2.0)  # variance of residuals, relative to the noise model's
PHOTONS = 3.0  # below it the transform does not make noise Gaussian


@dataclass(frozen=True)
class Barred(Fitted):
    """An image that gets error bars with this calibration; None = uncalibrated."""

    calibration: Calibration | None = None


def write(fitted: Fitted, parts: Sequence[Path], part: Path, record: Record) -> Told:
    """Write the map, uint8 of the image's shape, plane by plane; tell the share of each reason.

    parts: the maps mean, std, entropy, lower and upper.
    """
    assert isinstance(fitted, Barred)
    header = fitted.image.header.with_dtype(np.uint8).for_target(Path("map.tif"))
    counts = {c: np.zeros(256, np.int64) for c in sorted({c for _, c, _ in fitted.near.group_of})}
    with (
        open_written(parts[3], header) as lower,
        open_written(parts[4], header) as upper,
        create_image(part, header, provenance=record) as writer,
    ):
        for plane in header.planes:
            codes = np.full(header.canonical_shape[3:], NOT_MEASURED, np.uint8)
            if (group := fitted.near.group_of.get(plane)) is not None:
                mean = (lower.read(plane).astype(np.float64) + upper.read(plane)) / 2
                codes = _codes(fitted, group, plane, mean)
                counts[plane[1]] += np.bincount(codes.ravel(), minlength=256)
            writer.put(codes)
    verify_image(part, header)
    return Told({"not_trusted": {str(c): shares(count) for c, count in counts.items()}})


def shares(counts: np.ndarray) -> dict[str, float]:
    """Share of the pixels with any reason, and with each; counts: (256,) pixels of each code."""
    codes, total = np.arange(256), max(int(counts.sum()), 1)
    found = {name: float(counts[codes & bit > 0].sum()) / total for bit, name in REASONS.items()}
    return {"any": float(counts[1:].sum()) / total} | {k: v for k, v in found.items() if v}


def in_words(codes: np.ndarray) -> str:
    """What is not to be trusted of a plane (Y, X) uint8, for a caption."""
    found = shares(np.bincount(codes.ravel(), minlength=256))
    reasons = ", ".join(f"{name} {share:.0%}" for name, share in found.items() if name != "any")
    return f"not to be trusted: {found['any']:.0%}" + (f" ({reasons})" if reasons else "")


def reasons_held(codes: np.ndarray) -> np.ndarray:
    """How many reasons hold at each pixel: (Y, X) uint8 -> the same."""
    return np.asarray(np.unpackbits(codes[..., None], axis=-1).sum(-1, dtype=np.uint8))


def _codes(fitted: Barred, group: ChannelGroup, plane: Plane, mean: np.ndarray) -> np.ndarray:
    """Sums of reasons at the pixels of a restored plane; mean: (Y, X), NaN where copied."""
    image, (_, channel, _) = fitted.image, plane
    k, invalid = group.channels.index(channel), image.invalid(plane)
    noise_model = group.model.noises[min(k, len(group.model.noises) - 1)]
    copied = np.isnan(mean)
    measured = ~copied if invalid is None else ~(copied | invalid)
    restored = np.nan_to_num(mean - image.zero(channel)).astype(np.float32)
    noise = group.model.noise_std(np.repeat(restored[None], len(group.channels), 0))[k]
    safe = np.where(noise > 0, noise, 1)
    residual = np.where(measured, image.read(plane) - restored, 0) / safe
    correlation, energy = residual_statistics(residual, measured)
    light = np.maximum(restored - noise_model.offset, 0) + noise_model.read_noise**2 / max(
        noise_model.gain, 1e-30
    )  # in input units, with that of which the read noise would be the noise
    distance = np.full(mean.shape, np.inf)
    if not measured.all():
        distance = ndimage.distance_transform_edt(measured)
    silent = group.decided["sigma"] <= 0  # no noise: the image is copied
    holds = {
        NOT_MEASURED: copied,
        INVALID_NEAR: distance <= NEAR,
        STRUCTURED: (correlation > CORRELATED) & (not silent),
        NOISE: ((energy < ENERGY[0]) | (energy > ENERGY[1]) | (noise_model.belief < BELIEVED))
        & (not silent),
        FEW_PHOTONS: light < PHOTONS * noise_model.gain,
        OUTSIDE: np.full(mean.shape, group.decided["sigma"] > fitted.near.restorer.card.sigma_max),
        UNCALIBRATED: np.zeros(mean.shape, bool)
        if fitted.calibration is None or silent
        else fitted.calibration.outside((restored - group.light[0, k]) / safe),
    }
    codes = np.zeros(mean.shape, np.uint8)
    for bit, where in holds.items():
        codes[where] |= bit
    codes[copied] = NOT_MEASURED
    return codes


def residual_statistics(residual: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, ...]:
    """Correlation of next neighbours and variance of residuals (Y, X), in a window around each.

    measured: the pixels that count.
    """
    weight = measured.astype(np.float64)
    energy = _around(residual**2 * weight) / np.maximum(_around(weight), 1e-9)
    products, pairs = np.zeros(residual.shape), np.zeros(residual.shape)
    most, rest, every = slice(None, -1), slice(1, None), slice(None)
    for a, b in (((most, every), (rest, every)), ((every, most), (every, rest))):
        products[a] += (residual * weight)[a] * (residual * weight)[b]
        pairs[a] += weight[a] * weight[b]
    shared = _around(products) / np.maximum(_around(pairs), 1e-9)
    return shared / np.maximum(energy, 1e-9), energy


def _around(values: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.gaussian_filter(values, AROUND))
