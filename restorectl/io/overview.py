"""Several maps of one plane side by side, each with its colour bar: what one looks at first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from restorectl.io.panels import HEAT

SIDE = 512  # px, the longer side of a map in the picture
MARGIN, BAR, HEAD = 16, 14, 30  # px
INK, PAPER = (30, 30, 30), (255, 255, 255)


@dataclass(frozen=True)
class Panel:
    """A map (Y, X), and the values that its colour bar begins and ends with."""

    title: str
    values: np.ndarray
    low: float
    high: float
    heat: bool = True  # coloured, dark to bright; else grey


def thumbnail(plane: np.ndarray) -> np.ndarray:
    """A plane (Y, X) of at most SIDE px a side, float32: means over whole blocks of pixels."""
    factor = max(1, -(-max(plane.shape) // SIDE))
    height, width = (max(1, n // factor) for n in plane.shape)
    cut = plane[: height * factor, : width * factor].astype(np.float32)
    if min(plane.shape) < factor:
        return cut[:height, :width]
    return np.asarray(cut.reshape(height, factor, width, factor).mean((1, 3)))


def draw(panels: Sequence[Panel]) -> np.ndarray:
    """The picture: (height, width, 3) uint8."""
    tallest = max(panel.values.shape[0] for panel in panels)
    widths = [max(panel.values.shape[1], 160) for panel in panels]
    size = (sum(widths) + MARGIN * (len(panels) + 1), HEAD + tallest + BAR + 3 * MARGIN)
    canvas = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    left = MARGIN
    for panel, width in zip(panels, widths, strict=True):
        pen.text((left, 8), panel.title, INK, font)
        canvas.paste(Image.fromarray(_coloured(panel, panel.values)), (left, HEAD))
        ramp = np.linspace(panel.low, panel.high, width, dtype=np.float32)[None].repeat(BAR, 0)
        top = HEAD + tallest + MARGIN // 2
        canvas.paste(Image.fromarray(_coloured(panel, ramp)), (left, top))
        pen.text((left, top + BAR + 2), f"{panel.low:.4g}", INK, font)
        pen.text((left + width, top + BAR + 2), f"{panel.high:.4g}", INK, font, anchor="ra")
        left += width + MARGIN
    return np.asarray(canvas)


def _coloured(panel: Panel, values: np.ndarray) -> np.ndarray:
    """(Y, X) -> (Y, X, 3) uint8; what is not known is white."""
    span = panel.high - panel.low
    share = np.clip((values - panel.low) / span, 0, 1) if span > 0 else np.zeros(values.shape)
    stops = np.array(HEAT if panel.heat else ((0, 0, 0), (255, 255, 255)), np.float64)
    at = np.linspace(0, 1, len(stops))
    colours = np.stack([np.interp(np.nan_to_num(share), at, c) for c in stops.T], axis=-1)
    return np.where(np.isnan(values)[..., None], 255, np.rint(colours)).astype(np.uint8)
