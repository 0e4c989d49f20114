"""Unpaired scores: Frechet distances between a method's images and a folder of good ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from restorectl.core.metrics.distribution import Moments, frechet, nothing
from restorectl.core.metrics.metric import Array, Distribution, Features, Undefined
from restorectl.core.metrics.scaling import HIGH, LOW
from restorectl.errors import InputError
from restorectl.tasks.evaluation.comparison import Shape, pixels

Cut = Callable[[Array, Shape], Iterator[tuple[str, Array]]]  # volume -> (kind, planes (P, Y, X))
DIRECTIONS = ("xy", "xz", "yz")


@dataclass
class Found:
    """Distances of all methods; what went wrong is a line each."""

    sets: dict[str, dict[str, float]] = field(default_factory=dict)
    depths: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Lens:
    """How images are shown to a network."""

    axes: str | None
    data_range: float | None  # 0..data_range becomes 0..1; None: percentiles of each file
    by_z: bool


def distances(
    files: Mapping[str, Sequence[Path]],
    reference: Sequence[Path],
    metrics: Sequence[tuple[Distribution, Features]],
    lens: Lens,
) -> Found:
    """Of each method's files to the reference; methods and files that fail do not stop others."""
    found = Found({m: {} for m in files}, {m: {} for m in files} if lens.by_z else {})
    for metric, features in metrics:
        wanted = _collect(reference, features, lens, _all, found, "reference").get("")
        for method, paths in files.items():
            cut = _slices if metric.slices else _by_depth if lens.by_z else _all
            groups = _collect(paths, features, lens, cut, found, f"{method}: {metric.name}")
            try:
                _compare(metric, method, groups, wanted, found)
            except Undefined as error:
                found.failures.append(f"{method}: {metric.name}: {error}")
    return found


def _compare(
    metric: Distribution,
    method: str,
    groups: Mapping[str, Moments],
    wanted: Moments | None,
    found: Found,
) -> None:
    """Fill in one metric of one method. Raises Undefined."""
    if wanted is None or not groups:
        raise Undefined("no image could be used")
    values = {kind: frechet(moments, wanted) for kind, moments in groups.items() if kind}
    named = found.sets[method]
    if metric.slices:
        named[metric.name] = sum(values.values()) / len(values)
        named |= {f"{metric.name}-{kind}": value for kind, value in values.items()}
    else:
        named[metric.name] = frechet(groups[""], wanted)
        if found.depths:
            found.depths[method][metric.name] = tuple(values.values())
    for kind, moments in {**groups, "reference": wanted}.items():
        if moments.count < len(moments.mean):
            found.warnings.append(
                f"{method}: {metric.name}{f' ({kind})' if kind else ''}: {moments.count} images are"
                f" fewer than the {len(moments.mean)} features: the distance is biased"
            )


def _collect(
    paths: Sequence[Path], features: Features, lens: Lens, cut: Cut, found: Found, what: str
) -> dict[str, Moments]:
    """Moments of each kind of plane, streamed: one file is held at a time."""
    groups: dict[str, Moments] = {}
    for path in paths:
        try:
            for kind, planes in cut(*_unit(path, lens)):
                vectors = features(planes)
                before = groups.get(kind) or nothing(vectors.shape[1])
                groups[kind] = before.joined(vectors)
        except InputError as error:
            found.failures.append(f"{what}: {error}")
        except Undefined as error:
            found.failures.append(f"{what}: {path}: {error}")
    return groups


def _unit(path: Path, lens: Lens) -> tuple[Array, Shape]:
    """The planes of a file, float64 in [0, 1]. Raises InputError."""
    data, shape = pixels(path, lens.axes)
    low, high = 0.0, lens.data_range
    if high is None:
        low, high = (float(v) for v in np.percentile(data, (LOW, HIGH)))
    if not high > low:
        raise InputError(f"{path}: nearly all pixels are equal ({low:g}): nothing to compare")
    return np.clip((data.astype(np.float64) - low) / (high - low), 0, 1), shape


def _all(data: Array, shape: Shape) -> Iterator[tuple[str, Array]]:
    yield "", data


def _by_depth(data: Array, shape: Shape) -> Iterator[tuple[str, Array]]:
    """All planes, and those of each z."""
    yield "", data
    volume = data.reshape(shape)
    for z in range(shape[2]):
        yield f"z {z}", volume[:, :, z].reshape(-1, *shape[3:])


def _slices(data: Array, shape: Shape) -> Iterator[tuple[str, Array]]:
    """The slices of each volume (Z, Y, X) along its three directions (paper 003, 4.3)."""
    if shape[2] < 2:
        raise Undefined("has one plane, slices need a volume: use --axes or another metric")
    for volume in data.reshape(-1, *shape[2:]):
        for kind, axis in zip(DIRECTIONS, (0, 1, 2), strict=True):
            yield kind, np.ascontiguousarray(np.moveaxis(volume, axis, 0))
