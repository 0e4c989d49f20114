"""Scores of one target: every method, plane by plane, averaged over the planes of the file.

Unpaired scores: Frechet distances between a method's images and a folder of good ones.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.errors import InputError
from restorectl.evaluation.metrics.calibrated import sparsification
from restorectl.evaluation.metrics.distribution import Moments, frechet, nothing
from restorectl.evaluation.metrics.metric import (
    HIGH,
    LOW,
    SCALES,
    Array,
    Calibration,
    Compute,
    Distribution,
    Features,
    Spread,
    Undefined,
)
from restorectl.evaluation.read import (
    Case,
    FileScore,
    Shape,
    check_shape,
    companions,
    pixels,
    planes,
)

EIGHT_BIT = 255.0
PROJECTIONS: dict[str, Callable[..., Array]] = {"max": np.max, "mean": np.mean}


@dataclass(frozen=True)
class Ruler:
    """How files are scored."""

    computes: Mapping[str, Compute]  # metric -> function of one plane
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    data_range: float | None = None  # None: of the target
    scale: str = "none"
    project: str = "none"
    by_z: bool = False
    average: bool = False
    interval: float = 0.9
    axes: str | None = None


@dataclass(frozen=True)
class Failure:
    """A prediction, or some metrics of one, without a score."""

    method: str
    path: Path
    message: str


@dataclass(frozen=True)
class Scored:
    scores: tuple[FileScore, ...]
    failures: tuple[Failure, ...]
    data_range: float | None = None
    dtypes: frozenset[tuple[str, str, str]] = frozenset()  # method, its dtype, the target's


@dataclass(frozen=True)
class _Volume:
    """Planes (P, Y, X) in canonical order, as they are scored."""

    path: Path
    data: Array
    shape: Shape
    dtype: np.dtype[Any]

    @property
    def places(self) -> list[tuple[int, int, int]]:
        """(t, c, z) of each plane."""
        return list(np.ndindex(*self.shape[:3]))


def score(case: Case, ruler: Ruler) -> Scored:
    """All methods of one case; what cannot be scored becomes a Failure."""
    try:
        target = None if case.target is None else _read(case.target, ruler)
    except InputError as error:
        lost = (Failure(method, path, str(error)) for method, path in _labels(case, ruler))
        return Scored((), tuple(lost))
    largest = ruler.data_range or (None if target is None else _range_of(target))
    scores: list[FileScore] = []
    failures: list[Failure] = []
    dtypes: set[tuple[str, str, str]] = set()
    for method, path, found in _predictions(case, ruler):
        try:
            if isinstance(found, InputError):
                raise found
            goal = target or found
            check_shape(path, found.shape, goal.path, goal.shape)
        except InputError as error:
            failures.append(Failure(method, path, str(error)))
            continue
        values, depths, reasons = _measure(found, goal, largest or _range_of(goal), ruler)
        curves = _calibrate(path, goal, ruler, values, reasons)
        scores.append(FileScore(method, case.name, values, path, goal.path, depths, curves))
        if reasons:
            failures.append(Failure(method, path, f"{path}: {'; '.join(reasons)}"))
        dtypes.add((method, str(found.dtype), str(goal.dtype)))
    return Scored(tuple(scores), tuple(failures), largest, frozenset(dtypes))


def mean_of(count: int) -> str:
    """The method's name of a mean of samples."""
    return f"mean of {count}"


def _labels(case: Case, ruler: Ruler) -> Iterator[tuple[str, Path]]:
    for index, (method, path) in enumerate(case.predictions):
        yield (mean_of(index + 1) if ruler.average else method), path


def _predictions(case: Case, ruler: Ruler) -> Iterator[tuple[str, Path, "_Volume | InputError"]]:
    """(method, path, image or what is wrong with it); of --average, the means so far."""
    total: Array | None = None
    for index, (method, path) in enumerate(_labels(case, ruler)):
        try:
            found = _read(path, ruler)
            if ruler.average:
                if total is not None:
                    check_shape(path, found.data.shape, case.predictions[0][1], total.shape)
                total = found.data.astype(np.float64) if total is None else total + found.data
                found = _Volume(path, total / (index + 1), found.shape, found.dtype)
        except InputError as error:
            yield method, path, error
            if ruler.average:
                return  # the means that follow would lack this sample
            continue
        yield method, path, found


def _read(path: Path, ruler: Ruler) -> _Volume:
    data, shape = pixels(path, ruler.axes)
    dtype = data.dtype
    if ruler.project != "none":
        project = PROJECTIONS[ruler.project]
        data = project(data.reshape(shape), axis=2).reshape(-1, *shape[3:])
        shape = (*shape[:2], 1, *shape[3:])
    return _Volume(path, data, shape, dtype)


def _range_of(target: _Volume) -> float:
    """255 for 8-bit targets, else the largest minus the smallest value."""
    if target.dtype == np.uint8:
        return EIGHT_BIT
    return float(target.data.max()) - float(target.data.min())


def _measure(
    found: _Volume, target: _Volume, data_range: float, ruler: Ruler
) -> tuple[dict[str, float], tuple[dict[str, float], ...], list[str]]:
    """Mean scores, the same for each z where asked for, and why a metric has none."""
    reasons: list[str] = []
    try:
        fits = _fits(found, target, ruler)
    except Undefined as error:
        return {}, (), [str(error)]
    scores: dict[str, list[float]] = {}
    for metric, compute in ruler.computes.items():
        try:
            scores[metric] = []
            for at, x, y in zip(found.places, found.data, target.data, strict=True):
                gain, offset = fits[at[1]]
                x = x.astype(np.float64) * gain + offset
                scores[metric].append(compute(x, y.astype(np.float64), data_range))
        except Undefined as error:
            del scores[metric]
            where = f"plane t{at[0]} c{at[1]} z{at[2]}: " if len(found.data) > 1 else ""
            reasons.append(f"{metric}: {where}{error}")
    depths = []
    for z in range(found.shape[2] if ruler.by_z else 0):
        chosen = [index for index, at in enumerate(found.places) if at[2] == z]
        depths.append({m: _mean([each[i] for i in chosen]) for m, each in scores.items()})
    return {m: _mean(each) for m, each in scores.items()}, tuple(depths), reasons


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _fits(found: _Volume, target: _Volume, ruler: Ruler) -> list[tuple[float, float]]:
    """(gain, offset) of each channel, over all its planes. Raises Undefined."""
    if ruler.scale == "none":
        return [(1.0, 0.0)] * found.shape[1]
    fit = SCALES[ruler.scale]
    x, y = (np.moveaxis(v.data.reshape(v.shape), 1, 0) for v in (found, target))
    return [fit(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(x, y, strict=True)]


def _calibrate(
    path: Path, target: _Volume, ruler: Ruler, values: dict[str, float], reasons: list[str]
) -> dict[str, tuple[float, ...]]:
    """Adds the scores of the uncertainty set that `path` is the mean of; returns its curves."""
    parts = companions(path) if ruler.calibrations and not ruler.average else None
    if parts is None:
        return {}
    try:
        read = {name: planes(file, ruler.axes) for name, file in parts.items()}
        mean, shape = planes(path, ruler.axes)
        for name, (_, size) in read.items():
            check_shape(parts[name], size, path, shape)
        if ruler.project != "none":
            raise Undefined("uncertainty cannot be scored after --project")
        arrays = {name: data for name, (data, _) in read.items()}
        goal = target.data.astype(np.float64)
        spread = Spread(mean, target=goal, interval=ruler.interval, **arrays)
        found, best = sparsification(spread)
    except (InputError, Undefined) as error:
        reasons.append(str(error))
        return {}
    for metric, calibration in ruler.calibrations.items():
        try:
            values[metric] = calibration.compute(spread)
        except Undefined as error:
            reasons.append(f"{metric}: {error}")
    return {"sparsification": tuple(found.tolist()), "oracle": tuple(best.tolist())}


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
