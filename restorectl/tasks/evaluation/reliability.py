"""Predicted deviation against error over all files that have an uncertainty set."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from restorectl.core.inspection import reliability
from restorectl.io.html_report import Cell, Table
from restorectl.io.html_svg import Chart, Series
from restorectl.io.image import read_provenance
from restorectl.tasks.evaluation.comparison import Comparison, FileScore, planes
from restorectl.tasks.evaluation.match import companions
from restorectl.tasks.evaluation.reread import averaged

PIXELS = 2_000_000  # of all files of a method that the curve is made of
BINS = 20


@dataclass(frozen=True)
class Measured:
    """Nothing where no folder holds uncertainty sets."""

    table: Table | None
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class _File:
    std: np.ndarray  # (n,) sampled pixels
    error: np.ndarray
    inside: int  # pixels of the target within lower..upper
    pixels: int  # all of them
    nominal: float | None  # the coverage that was asked for


def measure(comparison: Comparison, roles: Mapping[str, str]) -> Measured:
    """Coverage, and the error in bins of predicted deviation, of each method that has sets.

    Everything in the units of the predictions, before any fit. Raises InputError.
    """
    rows, series = [], []
    whole = comparison.project == "none" and not averaged(comparison)
    for method in comparison.methods if whole else ():
        mine = [s for s in comparison.scores if s.method == method]
        found = [file for s in mine if (file := _file(s, comparison, PIXELS // len(mine)))]
        if not found:
            continue
        std, error = (np.concatenate([getattr(f, k) for f in found]) for k in ("std", "error"))
        predicted, actual = reliability(std, error, BINS)
        series.append(Series(method, roles[method], predicted, actual, points=True))
        rows.append((method, roles[method], _cells(found, std, error)))
    if not rows:
        return Measured(None, _sparsification(comparison, roles))
    top = max(float(s.x.max()) for s in series)
    guide = Series("equal", "guide", np.array([0.0, top]), np.array([0.0, top]))
    chart = Chart(
        f"Error in {BINS} bins of predicted deviation",
        "predicted deviation (root mean square of the bin)",
        "error (root mean square)",
        (*series, guide),
    )
    names = ("files", "coverage", "asked for", "predicted deviation", "error", "error / deviation")
    head = tuple((name, "") for name in names)
    caption = (
        "Coverage: share of the target's pixels within lower..upper. Root mean squares over pixels."
    )
    table = Table("Uncertainty", "Method", head, tuple(rows), caption)
    return Measured(table, (chart, *_sparsification(comparison, roles)))


def _cells(found: list[_File], std: np.ndarray, error: np.ndarray) -> tuple[Cell, ...]:
    coverage = sum(file.inside for file in found) / sum(file.pixels for file in found)
    asked = {file.nominal for file in found}
    nominal = asked.pop() if len(asked) == 1 else None
    rms = [float(np.sqrt(np.mean(values**2))) for values in (std, error)]
    ratio = rms[1] / rms[0] if rms[0] else None
    values = (len(found), coverage, nominal, *rms, ratio)
    return tuple(Cell(value) for value in values)


def _file(score: FileScore, comparison: Comparison, most: int) -> _File | None:
    files = companions(score.prediction)
    if files is None or score.target == score.prediction:
        return None
    mean, std, target = (
        planes(path, comparison.axes)[0] for path in (score.prediction, files["std"], score.target)
    )
    # A fixed sample, spread over the file; odd, so that it has no period in step with the rows
    stride = -(-mean.size // max(1, most)) | 1
    picked = slice(None, None, stride)
    lower, upper = (planes(files[part], comparison.axes)[0] for part in ("lower", "upper"))
    inside = int(np.sum((lower <= target) & (target <= upper)))
    made = read_provenance(files["lower"]) or {}
    asked = made.get("parameters", {}).get("interval")
    nominal = float(asked) if isinstance(asked, int | float) else None
    error = (mean - target).ravel()[picked]
    return _File(std.ravel()[picked], error, inside, target.size, nominal)


def _sparsification(comparison: Comparison, roles: Mapping[str, str]) -> tuple[Chart, ...]:
    """Mean curves over the files, where the comparison holds them."""
    series = []
    for method in comparison.methods:
        curves: dict[str, list[tuple[float, ...]]] = {}
        for score in comparison.scores:
            if score.method == method:
                for name, curve in score.curves.items():
                    curves.setdefault(name, []).append(curve)
        for name, found in curves.items():
            y = np.mean(found, axis=0)
            x = np.arange(len(y)) / len(y)
            kind = roles[method] if name == next(iter(curves)) else "guide"
            series.append(Series(f"{method}: {name}", kind, x, y))
    if not series:
        return ()
    return (
        Chart(
            "Sparsification, mean over the files",
            "share of pixels taken away, the most uncertain first",
            "mean error of the rest, relative",
            tuple(series),
        ),
    )
