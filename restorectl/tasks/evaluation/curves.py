"""Scores against depth and against the number of averaged samples, as charts."""

from collections.abc import Iterator, Mapping

import numpy as np

from restorectl.io.html_svg import Chart, Series
from restorectl.tasks.evaluation.comparison import Comparison
from restorectl.tasks.evaluation.reread import averaged


def charts(comparison: Comparison, roles: Mapping[str, str]) -> tuple[Chart, ...]:
    """Those that the comparison has numbers for."""
    drawn = (*_depths(comparison, roles), *_sets(comparison, roles), *_averages(comparison))
    return tuple(chart for chart in drawn if any(np.isfinite(s.y).any() for s in chart.series))


def _depths(comparison: Comparison, roles: Mapping[str, str]) -> Iterator[Chart]:
    """Each metric by plane, the mean over the files (paper 000, Figure 9)."""
    for metric in comparison.metrics:
        series = []
        for method in comparison.methods:
            mine = [s.depths for s in comparison.scores if s.method == method and s.depths]
            deepest = max((len(found) for found in mine), default=0)
            values = [
                [f[z][metric] for f in mine if z < len(f) and metric in f[z]]
                for z in range(deepest)
            ]
            y = [float(np.mean(found)) if found else np.nan for found in values]
            series.append(_series(method, roles[method], y))
        yield Chart(f"{metric} by depth, mean over the files", "plane z", metric, tuple(series))


def _sets(comparison: Comparison, roles: Mapping[str, str]) -> Iterator[Chart]:
    """Frechet distances by plane."""
    names = dict.fromkeys(name for found in comparison.set_depths.values() for name in found)
    for name in names:
        series = [
            _series(method, roles[method], list(comparison.set_depths[method][name]))
            for method in comparison.methods
            if name in comparison.set_depths.get(method, {})
        ]
        yield Chart(f"{name} by depth", "plane z", name, tuple(series))


def _averages(comparison: Comparison) -> Iterator[Chart]:
    """Each metric against the number of samples in the mean."""
    for metric in comparison.metrics if averaged(comparison) else ():
        columns = [comparison.column(method, metric) for method in comparison.methods]
        y = [float(np.mean(column)) if column else np.nan for column in columns]
        series = _series("mean over the files", "m0", y, first=1)
        yield Chart(f"{metric} of the mean of N samples", "samples N", metric, (series,))


def _series(name: str, role: str, y: list[float], first: int = 0) -> Series:
    x = np.arange(first, first + len(y), dtype=np.float64)
    return Series(name, role, x, np.array(y, np.float64), points=True)
