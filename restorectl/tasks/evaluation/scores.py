"""Scores of one target: every method, plane by plane, averaged over the planes of the file."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.core.metrics.calibrated import sparsification
from restorectl.core.metrics.metric import Array, Calibration, Compute, Spread, Undefined
from restorectl.core.metrics.scaling import SCALES
from restorectl.errors import InputError
from restorectl.tasks.evaluation.comparison import FileScore, Shape, pixels, planes
from restorectl.tasks.evaluation.match import Case, check_shape, companions

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
