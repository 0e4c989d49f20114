"""Figures as PNG files: the one place that knows the plotting library, an optional dependency."""

from pathlib import Path
from typing import Any

import numpy as np

from restorectl.errors import UsageError
from restorectl.io.atomic import replacing

DPI = 150
BLUE, GREY = "#3b6ea5", "#444444"


def require() -> None:
    """Raises UsageError where figures cannot be drawn; to be called before long work."""
    _figure(1, 1)


def histogram(path: Path, values: np.ndarray, width: float, mark: tuple[float, str]) -> None:
    """Write a histogram of steps (n,) in bins of `width`; `mark`: a place and what it means.

    Equal arguments and library versions give equal bytes. Raises OutputError, DiskFullError.
    """
    figure = _figure(6.4, 4.0)
    axes = figure.subplots()
    place, label = mark
    top = max(float(values.max()), place)
    axes.hist(values, bins=np.arange(0, top + 2 * width, width), color=BLUE, edgecolor="white")
    axes.axvline(place, color=GREY, linestyle="--", linewidth=1)
    before = place > top / 2  # the text goes where there is room
    axes.annotate(
        label,
        (place, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if before else 5, 0),
        textcoords="offset points",
        ha="right" if before else "left",
        va="top",
        color=GREY,
        backgroundcolor="#ffffffcc",
    )
    axes.set_xlim(0, top + width)
    axes.set_xlabel("steps of diffusion that are left")
    axes.set_ylabel("windows")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as part:  # without a software entry, which would hold a version
        figure.savefig(part, format="png", dpi=DPI, metadata={"Software": None})


def _figure(width: float, height: float) -> Any:
    """An empty figure in inches that is drawn in memory, without a display or a global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            'figures need matplotlib: python -m pip install "restorectl[plot]"'
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
