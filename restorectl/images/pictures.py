"""Pictures for people: single maps as PNG bytes, sheets of labelled panels, and a histogram.

Panels have colour bars and scale bars. Only the histogram needs matplotlib, an optional dependency.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from restorectl.errors import UsageError
from restorectl.files.atomic import replacing
from restorectl.images.header import Header
from restorectl.images.image import Record, verify_image, write_image
from restorectl.images.raster import encode_png

Range = tuple[float, float]
Colour = tuple[int, int, int]
RED, BLUE = (
    (178, 24, 43),
    (33, 102, 172),
)  # ends of the diverging scale, with white in between
HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))  # even lightness
GREYS = ((0, 0, 0), (255, 255, 255))
SIGNS = (BLUE, (255, 255, 255), RED)  # below 0, 0, above
INK, PAPER = (30, 30, 30), (255, 255, 255)  # of panels
BAR, LINE, VEIL = "#3b6ea5", "#444444", "#ffffffcc"  # of the histogram
DPI = 150
SIDE = 512  # px, the longer side of a panel
MARGIN, NARROWEST = 16, 160  # px, around panels; what a title needs
TITLE, RAMP, SCALE, WORDS = 22, 14, 3, 20  # px, height of what belongs to a panel


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
    """A map (Y, X) with its title above, and a colour bar and a scale bar below."""

    title: str
    values: np.ndarray
    low: float
    high: float
    colours: Sequence[Colour] = HEAT
    ramp: bool = True  # a colour bar with the lowest and highest value
    pixel: tuple[float, str] | None = None  # width and its unit, for a scale bar

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px, with all that is drawn."""
        below = self.ramp * (RAMP + WORDS) + (self.pixel is not None) * (SCALE + WORDS)
        height, width = self.values.shape
        return max(width, NARROWEST), TITLE + height + MARGIN // 2 + below

    def draw(self, canvas: Image.Image, left: int, top: int) -> None:
        """Draw everything with its upper left corner at this place."""
        pen, font, (width, _) = ImageDraw.Draw(canvas), ImageFont.load_default(13), self.size
        pen.text((left, top), self.title, INK, font)
        canvas.paste(self._painted(self.values), (left, top + TITLE))
        top += TITLE + self.values.shape[0] + MARGIN // 2
        if self.ramp:
            values = np.linspace(self.low, self.high, width, dtype=np.float32)[None]
            canvas.paste(self._painted(values.repeat(RAMP, 0)), (left, top))
            top += RAMP + 2
            pen.text((left, top), f"{self.low:.4g}", INK, font)
            pen.text((left + width, top), f"{self.high:.4g}", INK, font, anchor="ra")
            top += WORDS - 2
        if self.pixel is not None:
            length, text = scale_bar(self.values.shape[1], *self.pixel)
            pen.rectangle((left, top, left + length - 1, top + SCALE - 1), INK)
            pen.text((left, top + SCALE + 1), text, INK, font)

    def _painted(self, values: np.ndarray) -> Image.Image:
        found = np.rint(_coloured(values, (self.low, self.high), self.colours))
        return Image.fromarray(found.astype(np.uint8))


def draw_panels(rows: Mapping[str, Sequence[Panel]]) -> np.ndarray:
    """Draw rows of panels, each below its caption ("" = none): (height, width, 3) uint8."""
    columns = zip_longest(*rows.values())
    widths = [max(panel.size[0] for panel in column if panel is not None) for column in columns]
    heights = [max(panel.size[1] for panel in row) for row in rows.values()]
    height = sum(heights) + MARGIN * (len(rows) + 1) + TITLE * sum(map(bool, rows))
    canvas = Image.new("RGB", (sum(widths) + MARGIN * (len(widths) + 1), height), PAPER)
    pen, font, top = ImageDraw.Draw(canvas), ImageFont.load_default(15), MARGIN
    for (caption, row), tall in zip(rows.items(), heights, strict=True):
        pen.text((MARGIN, top - 2), caption, INK, font)
        top, left = top + TITLE * bool(caption), MARGIN
        for panel, wide in zip(row, widths, strict=False):
            panel.draw(canvas, left, top)
            left += wide + MARGIN
        top += tall + MARGIN
    return np.asarray(canvas)


def scale_bar(width: int, pixel: float, unit: str) -> tuple[int, str]:
    """Length in px, at most half of `width`, and text of a scale bar: 1, 2 or 5 times 10^k."""
    most = width * pixel / 2
    ten = 10.0 ** np.floor(np.log10(most))
    length = max(n * ten for n in (1, 2, 5) if n * ten <= most)
    return max(1, round(length / pixel)), f"{length:g} {unit}"


def pixel_size(spacing: float | None, step: float = 1) -> tuple[float, str]:
    """A pixel's width and its unit, in a picture whose pixels are `step` pixels of an image wide.

    spacing: micrometres; None = unknown, the bar is then in pixels. The font has no micro sign.
    """
    return (float(step), "px") if spacing is None else (spacing * step, "um")


def write_panels(path: Path, rows: Mapping[str, Sequence[Panel]], record: Record) -> None:
    """Write a sheet of panels as PNG with its provenance. Raises OutputError."""
    picture = draw_panels(rows)
    header = Header("YXS", picture.shape, picture.dtype, format=".png")
    colours = (np.ascontiguousarray(picture[..., c]) for c in range(3))
    write_image(path, header, colours, provenance=record)
    verify_image(path, header)


def thumbnail(plane: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A plane (Y, X) reduced to at most `side` px per side by block means; of integers float32, or
    float64 where that cannot hold them."""
    factor = reduction(plane.shape, side)
    height, width = (max(1, n // factor) for n in plane.shape)
    cut = plane[: height * factor, : width * factor]
    cut = cut.astype(np.result_type(plane.dtype, np.float32))
    if min(plane.shape) < factor:
        return cut[:height, :width]
    return np.asarray(cut.reshape(height, factor, width, factor).mean((1, 3)))


def reduction(shape: tuple[int, ...], side: int = SIDE) -> int:
    """Side in px of the blocks that become one pixel of a `thumbnail`."""
    return max(1, -(-max(shape) // side))


def require_matplotlib() -> None:
    """Raises UsageError if matplotlib is missing; call it before long work."""
    figure(1, 1)


def histogram(path: Path, values: np.ndarray, width: float, mark: tuple[float, str]) -> None:
    """Write a histogram of steps (n,) in bins of `width`; `mark`: (position, label) of a line.

    Equal arguments and library versions give equal bytes. Raises OutputError, DiskFullError.
    """
    drawn = figure(6.4, 4.0)
    axes = drawn.subplots()
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
        drawn.savefig(part, format="png", dpi=DPI, metadata={"Software": None})


def figure(width: float, height: float) -> Any:
    """An empty figure, size in inches, drawn in memory without display or global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            'figures need matplotlib: python -m pip install "restorectl[plot]"'
        ) from error
    empty = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(empty)
    return empty
