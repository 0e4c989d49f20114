"""Charts as inline SVG, drawn from data: lines and box plots, each a figure of an HTML page.

A series' `role` is one of "input", "target", "guide" or "m0", "m1", ...: the page's style gives it
a colour for light and dark. Coordinates have one decimal, so that equal data give equal bytes.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
WIDTH, HEIGHT = 480, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 44  # margins around the plot, for ticks and labels
ROW = 34  # height of one box
SHOWN = 80  # values of a box that are drawn one by one; of more only those beyond the whiskers
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
    points: bool = False  # marks at the values


@dataclass(frozen=True)
class Chart:
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log: bool = False  # y axis in decades


@dataclass(frozen=True)
class Group:
    """The values of one method in a box plot, each with the name of its file."""

    name: str
    role: str
    values: Float
    names: tuple[str, ...]


def text(value: object) -> str:
    """Any text, such as a file name, as HTML text or attribute; undecodable bytes become '?'."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


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


def lines(chart: Chart) -> str:
    """A line chart with a legend below."""
    series = [s for s in (_drawable(s, chart.log) for s in chart.series) if len(s.x)]
    if not series:
        return f'<p class="none">{text(chart.title)}: nothing to draw.</p>'
    x0, x1 = min(s.x.min() for s in series), max(s.x.max() for s in series)
    y0, y1 = min(s.y.min() for s in series), max(s.y.max() for s in series)
    across = _Scale(float(x0), float(x1), LEFT, WIDTH - RIGHT)
    pad = 0.04 * (y1 - y0) or 0.5
    upwards = _Scale(float(y0 - pad), float(y1 + pad), HEIGHT - BOTTOM, TOP)
    drawn = [_x_axis(across, chart.x_label, HEIGHT), _y_axis(upwards, chart)]
    for each in series:
        at = [f"{across(x):.1f},{upwards(y):.1f}" for x, y in zip(each.x, each.y, strict=True)]
        drawn.append(f'<polyline class="line {each.role}" points="{" ".join(at)}"/>')
        if each.points:
            drawn += [_dot(place, each, i) for i, place in enumerate(at)]
    legend = "".join(
        f'<span><i class="key {s.role}"></i>{text(s.name)}</span>' for s in chart.series
    )
    return (
        f'<figure class="chart">{_svg(HEIGHT, chart.title, drawn)}'
        f'<figcaption><b>{text(chart.title)}</b><span class="legend">{legend}</span></figcaption>'
        "</figure>"
    )


def boxes(label: str, caption: str, groups: Sequence[Group]) -> str:
    """Horizontal box plots, one row a group; values that are not finite are counted."""
    finite = [g.values[np.isfinite(g.values)] for g in groups]
    if not any(len(values) for values in finite):
        return f'<p class="none">{text(label)}: no finite value.</p>'
    height = TOP + ROW * len(groups) + BOTTOM
    low = min(float(values.min()) for values in finite if len(values))
    high = max(float(values.max()) for values in finite if len(values))
    pad = 0.04 * (high - low) or max(abs(low), 1.0) * 0.01
    across = _Scale(low - pad, high + pad, 132, WIDTH - RIGHT)
    drawn = [_x_axis(across, label, height)]
    for i, group in enumerate(groups):
        drawn.append(_box(group, across, TOP + ROW * (i + 0.5)))
    left_out = sum(len(g.values) - len(values) for g, values in zip(groups, finite, strict=True))
    note = f" {left_out} values that are not finite are left out." if left_out else ""
    return (
        f'<figure class="chart">{_svg(height, f"Box plots of {label}", drawn)}'
        f"<figcaption><b>{text(label)}</b>{text(caption)}{note}</figcaption></figure>"
    )


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

    def ticks(self, count: int) -> list[float]:
        """About `count` round values inside."""
        span = self.high - self.low
        if not span:
            return [self.low]
        raw = span / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def _drawable(series: Series, log: bool) -> Series:
    """The finite part; with `log`, the positive part in decades."""
    good = np.isfinite(series.x) & np.isfinite(series.y)
    if log:
        good &= series.y > 0
    y = np.log10(series.y[good]) if log else series.y[good]
    return Series(series.name, series.role, series.x[good], y, series.points)


def _svg(height: float, title: str, drawn: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{text(title)}">'
        f"{''.join(drawn)}</svg>"
    )


def _x_axis(scale: _Scale, label: str, height: float) -> str:
    base = height - BOTTOM
    drawn = []
    for value in scale.ticks(6):
        x = f"{scale(value):.1f}"
        drawn.append(f'<path class="grid" d="M{x} {TOP}V{base:g}"/>')
        drawn.append(f'<text class="tick mid" x="{x}" y="{base + 15:g}">{_tick(value)}</text>')
    middle = (scale.start + scale.end) / 2
    drawn.append(f'<text class="label mid" x="{middle:g}" y="{base + 35:g}">{text(label)}</text>')
    return "".join(drawn)


def _y_axis(scale: _Scale, chart: Chart) -> str:
    drawn = []
    if chart.log:
        first, last = math.ceil(scale.low), math.floor(scale.high)
        step = max(1, math.ceil((last - first) / 6))
        marks = [
            (float(k), f"10<tspan dy='-4' font-size='8'>{k}</tspan>")
            for k in range(first, last + 1, step)
        ]
        if len(marks) < 2:
            marks = [(v, _tick(10**v)) for v in scale.ticks(4)]
    else:
        marks = [(value, _tick(value)) for value in scale.ticks(5)]
    for value, shown in marks:
        y = scale(value)
        drawn.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        drawn.append(f'<text class="tick end" x="{LEFT - 6}" y="{y + 3.5:.1f}">{shown}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    drawn.append(
        f'<text class="label mid" transform="translate(13 {middle:g}) rotate(-90)">'
        f"{text(chart.y_label)}</text>"
    )
    return "".join(drawn)


def _tick(value: float) -> str:
    rounded = float(f"{value:.6g}")
    return (f"{rounded:g}" if abs(rounded) < 1e6 else f"{rounded:.3g}").replace("-", "−")


def _dot(place: str, series: Series, i: int) -> str:
    x, y = place.split(",")
    told = f"{series.name}: {number(series.x[i])}, {number(series.y[i])}"
    return (
        f'<circle class="dot {series.role}" cx="{x}" cy="{y}" r="3"><title>{text(told)}</title>'
        "</circle>"
    )


def _box(group: Group, scale: _Scale, y: float) -> str:
    name = group.name if len(group.name) <= 20 else group.name[:9] + "…" + group.name[-10:]
    drawn = [
        f'<text class="label end" x="124" y="{y + 4:g}">{text(name)}'
        f"<title>{text(group.name)}</title></text>"
    ]
    kept = np.flatnonzero(np.isfinite(group.values))
    if not len(kept):
        return "".join(drawn)
    values = group.values[kept]
    found = box(values)
    low, q1, median, q3, high = (
        f"{scale(v):.1f}" for v in (found.low, found.q1, found.median, found.q3, found.high)
    )
    quartiles = f"{number(found.q1)} to {number(found.q3)}"
    told = f"{group.name}: median {number(found.median)}, quartiles {quartiles}"
    wide = max(1.0, float(q3) - float(q1))
    drawn.append(
        f'<g class="{group.role}"><title>{text(told)}</title>'
        f'<path class="whisker" d="M{low} {y:g}H{q1}M{q3} {y:g}H{high}'
        f'M{low} {y - 5:g}v10M{high} {y - 5:g}v10"/>'
        f'<rect class="box" x="{q1}" y="{y - 10:g}" width="{wide:.1f}" height="20" rx="2"/>'
        f'<path class="median" d="M{median} {y - 10:g}v20"/></g>'
    )
    for i in range(len(values)) if len(values) <= SHOWN else found.outliers:
        place = y + 14 * (_van_der_corput(i) - 0.5)
        told = f"{group.names[kept[i]]}: {number(values[i])}"
        drawn.append(
            f'<circle class="dot faint {group.role}" cx="{scale(values[i]):.1f}" cy="{place:.1f}"'
            f' r="2.2"><title>{text(told)}</title></circle>'
        )
    return "".join(drawn)


def _van_der_corput(i: int) -> float:
    """The i-th of an even spread over [0, 1): points apart without chance."""
    share, part = 0.0, 0.5
    i += 1
    while i:
        share += part * (i & 1)
        i, part = i >> 1, part / 2
    return share
