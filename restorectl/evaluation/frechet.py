"""Frechet distances between a method's images and images of high quality (Heusel et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from restorectl.errors import InputError, blamed
from restorectl.evaluation.metrics.metric import (
    HIGH,
    LOW,
    Array,
    Features,
    SetMetric,
    Undefined,
)
from restorectl.evaluation.read import load
from restorectl.intensity import value_range
from restorectl.jobs import EvaluateJob

# a file -> (kind, (P, Y, X) or, in colour, (P, 3, Y, X), float64 in [0, 1])
Slicing = Callable[[Path, EvaluateJob], Iterator[tuple[str, Array]]]
DIRECTIONS = ("xy", "xz", "yz")
BITS = (7.5, 8.0, 8.0)  # of the equalised red, green and blue


@dataclass(frozen=True)
class Moments:
    """Count, mean (D,) and scatter (D, D), all float64, of features seen so far."""

    count: int
    mean: Array
    scatter: Array  # sum of (f - mean)(f - mean)ᵀ

    @property
    def covariance(self) -> Array:
        """(D, D), unbiased. Raises Undefined for fewer than 2 samples."""
        if self.count < 2:
            raise Undefined(f"{self.count} image gives no covariance: use at least 2")
        return self.scatter / (self.count - 1)

    @cached_property
    def root(self) -> Array:
        """(D, rank): the covariance is this times its transpose. Cached for the reference."""
        values, vectors = np.linalg.eigh(self.covariance)
        kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
        factor: Array = vectors[:, kept] * np.sqrt(values[kept])
        return factor

    def joined(self, features: Array) -> Moments:
        """The moments of these and further features (N, D), by Chan's update."""
        more = len(features)
        mean = features.mean(0)
        apart = mean - self.mean
        total = self.count + more
        centred = features - mean
        scatter = self.scatter + centred.T @ centred
        scatter += np.outer(apart, apart) * (self.count * more / total)
        return Moments(total, self.mean + apart * (more / total), scatter)


def nothing(dimensions: int) -> Moments:
    """The moments of no samples."""
    return Moments(0, np.zeros(dimensions), np.zeros((dimensions, dimensions)))


def frechet(a: Moments, b: Moments) -> float:
    """|mean a - mean b|² + tr(A + B - 2 (A B)^½), at least 0.

    With B = R Rᵀ, (A B)^½ has the trace of (Rᵀ A R)^½, which is symmetric: eigenvalues in float64
    and no complex square root. Raises Undefined for fewer than 2 samples.
    """
    first, second = a.covariance, b.covariance
    middle = np.linalg.eigvalsh(b.root.T @ first @ b.root)
    cross = float(np.sqrt(np.clip(middle, 0, None)).sum())
    apart = float(np.sum((a.mean - b.mean) ** 2))
    return max(apart + float(np.trace(first) + np.trace(second)) - 2 * cross, 0.0)


@dataclass
class SetDistances:
    """The distances of all methods; each warning or failure is one line."""

    values: dict[str, dict[str, float]]  # method -> metric -> distance
    depths: dict[str, dict[str, tuple[float, ...]]]  # the same for each z; empty without `by` z
    warnings: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def set_distances(
    files: Mapping[str, Sequence[Path]],
    reference: Sequence[Path],
    metrics: Sequence[tuple[SetMetric, Features]],
    job: EvaluateJob,
) -> SetDistances:
    """Distances from each method's images to the reference; a failure does not stop the others."""
    found = SetDistances({m: {} for m in files}, {m: {} for m in files} if job.by_z else {})
    for metric, features in metrics:
        of_files = slices if metric.slices else _by_depth if job.by_z else _together
        of_reference = _together
        if metric.colour:
            of_files, of_reference = colour_slices, colours
        wanted = _collect(reference, features, job, of_reference, found, "reference").get("")
        for method, paths in files.items():
            groups = _collect(paths, features, job, of_files, found, f"{method}: {metric.name}")
            try:
                _compare(metric, method, groups, wanted, found)
            except Undefined as error:
                found.failures.append(f"{method}: {metric.name}: {error}")
    return found


def _compare(
    metric: SetMetric,
    method: str,
    groups: Mapping[str, Moments],
    wanted: Moments | None,
    found: SetDistances,
) -> None:
    """Add one metric of one method to `found`. Raises Undefined."""
    if wanted is None or not groups:
        raise Undefined("no image could be used")
    values = {kind: frechet(moments, wanted) for kind, moments in groups.items() if kind}
    if metric.slices:
        found.values[method][metric.name] = sum(values.values()) / len(values)
        found.values[method] |= {f"{metric.name}-{kind}": value for kind, value in values.items()}
    else:
        found.values[method][metric.name] = frechet(groups[""], wanted)
        if found.depths:
            found.depths[method][metric.name] = tuple(values.values())
    for kind, moments in {**groups, "reference": wanted}.items():
        if moments.count < len(moments.mean):
            found.warnings.append(
                f"{method}: {metric.name}{f' ({kind})' if kind else ''}: {moments.count} images are"
                f" fewer than the {len(moments.mean)} features: the distance is biased"
            )


def _collect(
    paths: Sequence[Path],
    features: Features,
    job: EvaluateJob,
    slicing: Slicing,
    found: SetDistances,
    what: str,
) -> dict[str, Moments]:
    """Moments of each kind of plane, with one file in memory at a time."""
    groups: dict[str, Moments] = {}
    for path in paths:
        try:
            for kind, planes in slicing(path, job):
                vectors = features(planes)
                before = groups.get(kind) or nothing(vectors.shape[1])
                groups[kind] = before.joined(vectors)
        except Undefined as error:
            found.failures.append(f"{what}: {path}: {error}")
        except Exception as error:
            found.failures.append(f"{what}: {blamed(path, error)}")
    return groups


def _in_unit_range(path: Path, job: EvaluateJob) -> Array:
    """The pixels (T, C, Z, Y, X) float64, scaled and clipped to [0, 1].

    0 to the data range becomes [0, 1]; without one, the file's 0.1 to 99.9 percentile.
    Raises InputError.
    """
    pixels = load(path, job.axes).pixels
    low, high = 0.0, job.data_range
    if high is None:
        low, high = (float(v) for v in np.percentile(pixels, (LOW, HIGH)))
    if not high > low:
        raise InputError(f"{path}: nearly all pixels are equal ({low:g}): nothing to compare")
    return np.clip((pixels.astype(np.float64) - low) / (high - low), 0, 1)


def _together(path: Path, job: EvaluateJob) -> Iterator[tuple[str, Array]]:
    volume = _in_unit_range(path, job)
    yield "", volume.reshape(-1, *volume.shape[3:])


def _by_depth(path: Path, job: EvaluateJob) -> Iterator[tuple[str, Array]]:
    """All planes, and those of each z."""
    volume = _in_unit_range(path, job)
    yield "", volume.reshape(-1, *volume.shape[3:])
    for z in range(volume.shape[2]):
        yield f"z {z}", volume[:, :, z].reshape(-1, *volume.shape[3:])


def slices(path: Path, job: EvaluateJob) -> Iterator[tuple[str, Array]]:
    """The slices of each stack along its three directions (MSDSR, section 4.3)."""
    volume = _in_unit_range(path, job)
    for kind, planes in along_axes(volume):
        yield kind, planes.reshape(-1, *planes.shape[2:])


def along_axes(volume: Array) -> Iterator[tuple[str, Array]]:
    """(T, C, Z, Y, X) -> the slices in each direction, (T * P, C, h, w). Raises Undefined."""
    if volume.shape[2] < 2:
        raise Undefined("has one plane, slices need a volume: use `axes` or another metric")
    for kind, axis in zip(DIRECTIONS, (2, 3, 4), strict=True):
        planes = np.moveaxis(volume, axis, 1)
        yield kind, np.ascontiguousarray(planes.reshape(-1, *planes.shape[2:]))


def colours(path: Path, job: EvaluateJob) -> Iterator[tuple[str, Array]]:
    """Every plane in colour."""
    volume = np.moveaxis(_in_colour(path, job), 2, 1)  # (T, Z, 3, Y, X)
    yield "", equalised(volume.reshape(-1, *volume.shape[2:]))


def colour_slices(path: Path, job: EvaluateJob) -> Iterator[tuple[str, Array]]:
    """The slices in colour along the three directions, each equalised by itself."""
    for kind, planes in along_axes(_in_colour(path, job)):
        yield kind, equalised(planes)


def _in_colour(path: Path, job: EvaluateJob) -> Array:
    """The virtual colours (T, 3, Z, Y, X) float64 of two channels, CH2 and CH3, or of three.

    Raises Undefined for another number of channels.
    """
    pixels = load(path, job.axes).pixels.astype(np.float64)
    count = pixels.shape[1]
    if count not in (2, 3):
        raise Undefined(f"has {count} channels: colour is made of 2 (CH2, CH3) or 3")
    if count == 2:
        made = [value_range.RECIPES["srh-3"].forward(volume) for volume in pixels]
        pixels = np.stack(made).clip(0, 65535)
    return pixels


def equalised(planes: Array) -> Array:
    """Planes (P, 3, h, w) with the histogram of each channel made even: in [0, 1], 8 bit.

    As MSDSR's code does before it compares volumes, by its bins: 181 of red, 256 of green and blue.
    """
    found = np.empty_like(planes)
    for plane, result in zip(planes, found, strict=True):
        for channel, bits, even in zip(plane, BITS, result, strict=True):
            bins = int(2**bits)
            counts, edges = np.histogram(channel, bins)
            counts[0] = 0
            share = counts.cumsum() / max(counts.sum(), 1)
            even[:] = np.floor(np.interp(channel, edges[:-1], (bins - 1) * share)) / 255
    return found
