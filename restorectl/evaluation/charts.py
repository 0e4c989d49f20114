"""The geometry of the report's charts: line charts and box plots, which charts.html draws as SVG.

A series' `role` is "input", "target", "guide" (a dashed line to compare with) or one of "m0" to
"m7" for the methods; the page's style gives each role a colour for light and dark. Places are in
px of a chart WIDTH px wide.
"""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
WIDTH, HEIGHT = 480, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 44  # margins around the plot, for ticks and labels
NAMES, LETTERS = 132, 20  # left margin of box plots in px, which holds names in lines of letters
ROW = 34  # height of one box
SHOWN = 80  # with more values than this, a box plot shows only those beyond the whiskers as dots
ROLES = 8  # colours of methods


def role(method: int) -> str:
    """The colour class of the i-th method."""
    return f"m{method % ROLES}"


@dataclass(frozen=True)
class Series:
    """One line of a chart: x and y (n,), drawn where both are finite."""

    name: str
    role: str
    x: Float
    y: Float
    points: bool = False  # dots at the values


@dataclass(frozen=True)
class Chart:
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log: bool = False  # logarithmic y axis; values of 0 and below are left out


@dataclass(frozen=True)
class Group:
    """The values of one method in a box plot, each with the name of its file."""

    name: str
    role: str
    values: Float
    names: tuple[str, ...]


def number(value: float) -> str:
    """A value for people: integers whole, else four significant digits; 1e-3 to 1e6 as decimals."""
    if not math.isfinite(value):
        return {True: "∞", False: "−∞"}[value > 0] if not math.isnan(value) else "–"
    if value == round(value) and abs(value) < 1e6:
        shown = str(round(value))
    elif not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        shown = f"{mantissa}e{int(exponent)}"
    else:
        digits = 3 - math.floor(math.log10(abs(value)))
        shown = f"{value:.{max(0, digits)}f}"
    return shown.replace("-", "−")


@dataclass(frozen=True)
class Tick:
    at: float
    label: str
    exponent: str = ""  # of the label 10, on a logarithmic axis


@dataclass(frozen=True)
class Dot:
    """A value at its place; `tip` is shown when the mouse points at it."""

    x: float
    y: float
    tip: str


@dataclass(frozen=True)
class LineDrawing:
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[tuple[Series, list[Dot]]]


def draw_lines(chart: Chart) -> LineDrawing | None:
    """Where the axes and lines lie; None if no series has a value to draw."""
    series = [s for s in (_drawable(s, chart.log) for s in chart.series) if len(s.x)]
    if not series:
        return None
    x0, x1 = min(s.x.min() for s in series), max(s.x.max() for s in series)
    y0, y1 = min(s.y.min() for s in series), max(s.y.max() for s in series)
    across = _Scale(float(x0), float(x1), LEFT, WIDTH - RIGHT)
    pad = 0.04 * (y1 - y0) or 0.5
    upwards = _Scale(float(y0 - pad), float(y1 + pad), HEIGHT - BOTTOM, TOP)
    drawn = []
    for each in series:
        dots = [
            Dot(across(x), upwards(y), f"{each.name}: {number(x)}, {number(y)}")
            for x, y in zip(each.x, each.y, strict=True)
        ]
        drawn.append((each, dots))
    y_ticks = _decades(upwards) if chart.log else _ticks(upwards, 5)
    return LineDrawing(_ticks(across, 6), y_ticks, drawn)


@dataclass(frozen=True)
class Box:
    """Tukey's box plot: whiskers end at the last value within 1.5 IQR of the box."""

    low: float
    q1: float
    median: float
    q3: float
    high: float
    outliers: tuple[int, ...]  # positions of the values beyond the whiskers


def box(values: Float) -> Box:
    """The box of finite values (n,), n >= 1; quartiles are interpolated linearly."""
    q1, median, q3 = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    reach = 1.5 * (q3 - q1)
    inside = (values >= q1 - reach) & (values <= q3 + reach)
    kept = values[inside]
    outliers = tuple(int(i) for i in np.flatnonzero(~inside))
    # Rounding may put the quartile of equal values beside them
    low, high = min(float(kept.min()), q1), max(float(kept.max()), q3)
    return Box(low, q1, median, q3, high, outliers)


@dataclass(frozen=True)
class DrawnBox:
    """One row of a box plot; `box` is None if the group has no finite value."""

    group: Group
    label: list[str]  # the group's name, in up to two lines
    y: float
    box: Box | None = None  # in px
    tip: str = ""
    dots: tuple[Dot, ...] = ()


@dataclass(frozen=True)
class BoxDrawing:
    height: int
    x_ticks: list[Tick]
    rows: list[DrawnBox]
    left_out: int  # values that are not finite


def draw_boxes(groups: Sequence[Group]) -> BoxDrawing | None:
    """Horizontal box plots, one row per group; None if no group has a finite value."""
    groups = [group for group in groups if len(group.values)]
    finite = [group.values[np.isfinite(group.values)] for group in groups]
    if not any(map(len, finite)):
        return None
    pooled = np.concatenate(finite)
    low, high = float(pooled.min()), float(pooled.max())
    pad = 0.04 * (high - low) or max(abs(low), 1.0) * 0.01
    across = _Scale(low - pad, high + pad, NAMES, WIDTH - RIGHT)
    rows = [_row(group, across, TOP + ROW * (i + 0.5)) for i, group in enumerate(groups)]
    left_out = sum(len(group.values) for group in groups) - len(pooled)
    return BoxDrawing(TOP + ROW * len(groups) + BOTTOM, _ticks(across, 6), rows, left_out)


def _row(group: Group, across: "_Scale", y: float) -> DrawnBox:
    label = textwrap.wrap(group.name, LETTERS)
    if len(label) > 2:
        label = [label[0], label[1][: LETTERS - 1] + "…"]
    kept = np.flatnonzero(np.isfinite(group.values))
    if not len(kept):
        return DrawnBox(group, label, y)
    values = group.values[kept]
    found = box(values)
    quartiles = f"{number(found.q1)} to {number(found.q3)}"
    tip = f"{group.name}: median {number(found.median)}, quartiles {quartiles}"
    in_px = Box(
        across(found.low),
        across(found.q1),
        across(found.median),
        across(found.q3),
        across(found.high),
        found.outliers,
    )
    shown = range(len(values)) if len(values) <= SHOWN else found.outliers
    dots = tuple(
        Dot(
            across(values[i]),
            y + 14 * (_van_der_corput(i) - 0.5),
            f"{group.names[kept[i]]}: {number(values[i])}",
        )
        for i in shown
    )
    return DrawnBox(group, label, y, in_px, tip, dots)


@dataclass(frozen=True)
class _Scale:
    """A linear map of low..high to start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return self.start + share * (self.end - self.start)

    def round_values(self, count: int) -> list[float]:
        """About `count` round values within low..high."""
        span = self.high - self.low
        if not span:
            return [self.low]
        raw = span / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def _drawable(series: Series, log: bool) -> Series:
    """The finite part; with `log`, log10 of the positive part."""
    good = np.isfinite(series.x) & np.isfinite(series.y)
    if log:
        good &= series.y > 0
    y = np.log10(series.y[good]) if log else series.y[good]
    return Series(series.name, series.role, series.x[good], y, series.points)


def _ticks(scale: _Scale, count: int) -> list[Tick]:
    return [Tick(scale(value), _label(value)) for value in scale.round_values(count)]


def _decades(scale: _Scale) -> list[Tick]:
    """Ticks at powers of ten; of a scale that holds fewer than two, at values in between."""
    first, last = math.ceil(scale.low), math.floor(scale.high)
    step = max(1, math.ceil((last - first) / 6))
    powers = range(first, last + 1, step)
    if len(powers) < 2:
        values = [(value, float(f"{10**value:.3g}")) for value in scale.round_values(4)]
        return [Tick(scale(value), _label(shown)) for value, shown in values]
    return [Tick(scale(power), "10", str(power)) for power in powers]


def _label(value: float) -> str:
    rounded = float(f"{value:.6g}")
    return (f"{rounded:g}" if abs(rounded) < 1e6 else f"{rounded:.3g}").replace("-", "−")


def _van_der_corput(i: int) -> float:
    """The i-th of an even spread over [0, 1), so that dots lie apart without random numbers."""
    share, part = 0.0, 0.5
    i += 1
    while i:
        share += part * (i & 1)
        i, part = i >> 1, part / 2
    return share
