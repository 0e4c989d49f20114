"""Figures: single maps as PNG bytes, maps side by side with colour bars, and a histogram.

Only the histogram needs matplotlib, an optional dependency.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from restorectl.errors import UsageError
from restorectl.files.atomic import replacing
from restorectl.images.raster import encode_png

Range = tuple[float, float]
Colour = tuple[int, int, int]
RED, BLUE = (
    (178, 24, 43),
    (33, 102, 172),
)  # ends of the diverging scale, with white in between
HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))  # even lightness
GREYS = ((0, 0, 0), (255, 255, 255))
INK, PAPER = (30, 30, 30), (255, 255, 255)  # of panels
BAR, LINE, VEIL = "#3b6ea5", "#444444", "#ffffffcc"  # of the histogram
DPI = 150
SIDE = 512  # px, the longer side of a panel
MARGIN, BAR_HEIGHT, HEAD = 16, 14, 30  # px


def grey(image: NDArray[np.floating[Any]], shown: Range) -> bytes:
    """8-bit PNG of an image (Y, X) or colours (Y, X, 3); `shown`: values of black and white."""
    low, high = shown
    scaled = (image - low) / (high - low) if high > low else np.zeros(image.shape)
    return _png(255 * np.clip(scaled, 0, 1))


def difference(image: NDArray[np.floating[Any]], limit: float) -> bytes:
    """PNG of differences (Y, X): -limit and below blue, 0 white, +limit and above red."""
    share = np.clip(image / limit, -1, 1)[..., None] if limit > 0 else np.zeros((*image.shape, 1))
    end = np.where(share > 0, np.array(RED), np.array(BLUE))
    return _png(255 + np.abs(share) * (end - 255))


def heat(image: NDArray[np.floating[Any]], top: float) -> bytes:
    """PNG of magnitudes (Y, X): 0 black, `top` bright yellow."""
    return _png(_coloured(image, (0, top), HEAT))


def data_uri(png: bytes) -> str:
    """A PNG as a data URI, for an image inside an HTML page."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _coloured(
    values: NDArray[np.floating[Any]], shown: Range, colours: Sequence[Colour]
) -> NDArray[np.floating[Any]]:
    """(Y, X) -> (Y, X, 3) in 0..255 by a colour scale; NaN is white."""
    low, high = shown
    share = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros(values.shape)
    at, channels = np.linspace(0, 1, len(colours)), np.array(colours, np.float64).T
    found = np.stack([np.interp(np.nan_to_num(share), at, c) for c in channels], axis=-1)
    return np.where(np.isnan(values)[..., None], 255, found)


def _png(values: NDArray[np.floating[Any]]) -> bytes:
    return b"".join(encode_png(np.ascontiguousarray(np.rint(values).astype(np.uint8)), ()))


@dataclass(frozen=True)
class Panel:
    """A map (Y, X), with the lowest and highest value of its colour bar."""

    title: str
    values: np.ndarray
    low: float
    high: float
    heat: bool = True  # colour scale from dark to bright, else grey

    def coloured(self, values: np.ndarray) -> np.ndarray:
        """(Y, X) -> (Y, X, 3) uint8 in the colours of the panel."""
        colours = HEAT if self.heat else GREYS
        found = np.rint(_coloured(values, (self.low, self.high), colours))
        return np.asarray(found, np.uint8)


def draw_panels(panels: Sequence[Panel]) -> np.ndarray:
    """Draw panels side by side: (height, width, 3) uint8."""
    tallest = max(panel.values.shape[0] for panel in panels)
    widths = [max(panel.values.shape[1], 160) for panel in panels]
    size = (sum(widths) + MARGIN * (len(panels) + 1), HEAD + tallest + BAR_HEIGHT + 3 * MARGIN)
    canvas = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    left = MARGIN
    for panel, width in zip(panels, widths, strict=True):
        pen.text((left, 8), panel.title, INK, font)
        canvas.paste(Image.fromarray(panel.coloured(panel.values)), (left, HEAD))
        ramp = np.linspace(panel.low, panel.high, width, dtype=np.float32)[None].repeat(
            BAR_HEIGHT, 0
        )
        top = HEAD + tallest + MARGIN // 2
        canvas.paste(Image.fromarray(panel.coloured(ramp)), (left, top))
        pen.text((left, top + BAR_HEIGHT + 2), f"{panel.low:.4g}", INK, font)
        pen.text((left + width, top + BAR_HEIGHT + 2), f"{panel.high:.4g}", INK, font, anchor="ra")
        left += width + MARGIN
    return np.asarray(canvas)


def thumbnail(plane: np.ndarray) -> np.ndarray:
    """A plane (Y, X) reduced to at most SIDE px per side by block means, float32."""
    factor = max(1, -(-max(plane.shape) // SIDE))
    height, width = (max(1, n // factor) for n in plane.shape)
    cut = plane[: height * factor, : width * factor].astype(np.float32)
    if min(plane.shape) < factor:
        return cut[:height, :width]
    return np.asarray(cut.reshape(height, factor, width, factor).mean((1, 3)))


def require_matplotlib() -> None:
    """Raises UsageError if matplotlib is missing; call it before long work."""
    _figure(1, 1)


def histogram(path: Path, values: np.ndarray, width: float, mark: tuple[float, str]) -> None:
    """Write a histogram of steps (n,) in bins of `width`; `mark`: (position, label) of a line.

    Equal arguments and library versions give equal bytes. Raises OutputError, DiskFullError.
    """
    figure = _figure(6.4, 4.0)
    axes = figure.subplots()
    place, label = mark
    top = max(float(values.max()), place)
    axes.hist(values, bins=np.arange(0, top + 2 * width, width), color=BAR, edgecolor="white")
    axes.axvline(place, color=LINE, linestyle="--", linewidth=1)
    before = place > top / 2  # put the text where there is space
    axes.annotate(
        label,
        (place, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(-5 if before else 5, 0),
        textcoords="offset points",
        ha="right" if before else "left",
        va="top",
        color=LINE,
        backgroundcolor=VEIL,
    )
    axes.set_xlim(0, top + width)
    axes.set_xlabel("steps of diffusion that are left")
    axes.set_ylabel("windows")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as part:  # without the software entry, which has a version
        figure.savefig(part, format="png", dpi=DPI, metadata={"Software": None})


def _figure(width: float, height: float) -> Any:
    """An empty figure, size in inches, drawn in memory without display or global state."""
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
