"""Pictures for people: single maps as PNG bytes, maps side by side with colour bars, a histogram.

The histogram alone needs matplotlib, an optional dependency.
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
RED, BLUE = (178, 24, 43), (33, 102, 172)  # ends of the diverging scale; white in the middle
HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))  # even luminance
GREYS = ((0, 0, 0), (255, 255, 255))
INK, PAPER = (30, 30, 30), (255, 255, 255)  # of panels
BAR, LINE, VEIL = "#3b6ea5", "#444444", "#ffffffcc"  # of the histogram
DPI = 150
SIDE = 512  # px, the longer side of a panel
MARGIN, BAR_HEIGHT, HEAD = 16, 14, 30  # px


def grey(image: NDArray[np.floating[Any]], shown: Range) -> bytes:
    """PNG of (Y, X), or of colours (Y, X, 3): `shown` goes from black to white, 8 bit."""
    low, high = shown
    scaled = (image - low) / (high - low) if high > low else np.zeros(image.shape)
    return _png(255 * np.clip(scaled, 0, 1))


def difference(image: NDArray[np.floating[Any]], limit: float) -> bytes:
    """PNG of differences (Y, X): -limit blue, 0 white, +limit red; beyond them the end colours."""
    share = np.clip(image / limit, -1, 1)[..., None] if limit > 0 else np.zeros((*image.shape, 1))
    end = np.where(share > 0, np.array(RED), np.array(BLUE))
    return _png(255 + np.abs(share) * (end - 255))


def heat(image: NDArray[np.floating[Any]], top: float) -> bytes:
    """PNG of magnitudes (Y, X): 0 black, `top` bright yellow."""
    return _png(_coloured(image, (0, top), HEAT))


def data_uri(png: bytes) -> str:
    """A PNG as the address of an image inside a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _coloured(
    values: NDArray[np.floating[Any]], shown: Range, colours: Sequence[Colour]
) -> NDArray[np.floating[Any]]:
    """(Y, X) -> (Y, X, 3) in 0..255 along a scale of colours; what is not known (NaN) is white."""
    low, high = shown
    share = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros(values.shape)
    at, channels = np.linspace(0, 1, len(colours)), np.array(colours, np.float64).T
    found = np.stack([np.interp(np.nan_to_num(share), at, c) for c in channels], axis=-1)
    return np.where(np.isnan(values)[..., None], 255, found)


def _png(values: NDArray[np.floating[Any]]) -> bytes:
    return b"".join(encode_png(np.ascontiguousarray(np.rint(values).astype(np.uint8)), ()))


@dataclass(frozen=True)
class Panel:
    """A map (Y, X), and the values that its colour bar begins and ends with."""

    title: str
    values: np.ndarray
    low: float
    high: float
    heat: bool = True  # coloured, dark to bright; else grey

    def coloured(self, values: np.ndarray) -> np.ndarray:
        """(Y, X) -> (Y, X, 3) uint8 in the colours of the panel."""
        colours = HEAT if self.heat else GREYS
        found = np.rint(_coloured(values, (self.low, self.high), colours))
        return np.asarray(found, np.uint8)


def draw_panels(panels: Sequence[Panel]) -> np.ndarray:
    """The picture: (height, width, 3) uint8."""
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
    """A plane (Y, X) of at most SIDE px a side, float32: means over whole blocks of pixels."""
    factor = max(1, -(-max(plane.shape) // SIDE))
    height, width = (max(1, n // factor) for n in plane.shape)
    cut = plane[: height * factor, : width * factor].astype(np.float32)
    if min(plane.shape) < factor:
        return cut[:height, :width]
    return np.asarray(cut.reshape(height, factor, width, factor).mean((1, 3)))


def require_matplotlib() -> None:
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
    axes.hist(values, bins=np.arange(0, top + 2 * width, width), color=BAR, edgecolor="white")
    axes.axvline(place, color=LINE, linestyle="--", linewidth=1)
    before = place > top / 2  # the text goes where there is room
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
