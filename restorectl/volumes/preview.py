"""A picture of a stack before and after: labelled XY, XZ and YZ views with scale bars."""

from pathlib import Path

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from restorectl.batch.plan import Record
from restorectl.images.header import Header, Spacing
from restorectl.images.image import ALL, Image, open_image, verify_image, write_image
from restorectl.volumes import interpolation

PERCENTILES = (0.5, 99.9)  # of the middle plane, shown as black and white
LARGEST = 1024  # px, largest side of the XY view; larger images are subsampled
EDGE, STRIP = 8, 18  # px: white around views, and what a line of text takes
NARROW = 64  # px that a label needs; a narrower view is followed by white
BAR = 3  # px, thickness of a scale bar
PAPER, INK = 255, 0


def write_preview(part: Path, source: Image, restored: Path, record: Record) -> None:
    """Write a PNG with three views through the middle of the first stack, before and after.

    Before: the nearest observed planes. restored: file of the result, read by planes.
    """
    # the result has a depth axis, whatever the input's axes are
    axes = "".join(a for a in source.header.axes if a in "YXZ" or source.header.size(a) > 1)
    with open_image(restored, axes=axes) as image:
        planes, height, width = image.header.canonical_shape[2:]
        step = -(-max(height, width) // LARGEST)
        factor = (planes - 1) // max(source.header.canonical_shape[2] - 1, 1)
        row, col, middle = height // 2, width // 2, min(planes // 2 + 1, planes - 1)
        after = image.read((0, 0, middle))
        lines = [
            (image.read((0, 0, z), slice(row, row + 1))[0],
             image.read((0, 0, z), ALL, slice(col, col + 1))[:, 0])
            for z in range(planes)
        ]  # fmt: skip
        spacing = image.header.spacing
    sides = [np.stack(view) for view in zip(*lines, strict=True)]  # (Z, X), (Z, Y)
    nearest = [
        interpolation.interpolated(s[::factor], factor, interpolation.nearest) for s in sides
    ]
    before = source.read((0, 0, min(int(middle / factor + 0.5), (planes - 1) // factor)))
    numbers = after[np.isfinite(after)]
    low, high = np.percentile(numbers if numbers.size else 0.0, PERCENTILES)
    span = max(float(high - low), 1e-12)
    panels = []
    for title, xy, (xz, yz) in (("before", before, nearest), ("after", after, sides)):
        views = (xy[::step, ::step], xz[:, ::step], yz[:, ::step].T)
        grey = [np.where(np.isnan(v), 1.0, np.clip((v - low) / span, 0, 1)) for v in views]
        shown = [np.rint(255 * view).astype(np.uint8) for view in grey]
        panels.append(_panel(title, shown, spacing, step))
    pixels = np.concatenate(panels, 1)
    header = Header("YX", pixels.shape, pixels.dtype, format=".png")
    write_image(part, header, [pixels], provenance=record)
    verify_image(part, header)


def _panel(title: str, views: list[np.ndarray], spacing: Spacing, step: int) -> np.ndarray:
    """XY with XZ below and YZ on the right, all uint8; lateral pixels are `step` apart."""
    xy, xz, yz = views
    (height, width), depth = xy.shape, len(xz)
    right, below = EDGE + max(width, NARROW) + EDGE, 2 * STRIP + height + STRIP
    size = (right + max(depth, NARROW) + EDGE, below + depth + EDGE + BAR + STRIP)
    canvas = Picture.new("L", size, PAPER)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    pen.text((EDGE, 1), title, INK, font)
    for label, view, left, top in (
        ("XY", xy, EDGE, 2 * STRIP), ("XZ", xz, EDGE, below), ("YZ", yz, right, 2 * STRIP)
    ):  # fmt: skip
        pen.text((left, top - STRIP + 1), label, INK, font)
        canvas.paste(Picture.fromarray(np.ascontiguousarray(view)), (left, top))
    length, text = _bar(width, None if spacing[2] is None else spacing[2] * step, step)
    under = below + depth + EDGE // 2
    pen.rectangle((EDGE, under, EDGE + length - 1, under + BAR - 1), INK)
    pen.text((EDGE, under + BAR + 1), text, INK, font)
    length, text = _bar(depth, spacing[0], 1)
    pen.rectangle((right, below, right + BAR - 1, below + length - 1), INK)
    pen.text((right + BAR + 4, below - 2), text, INK, font)
    return np.asarray(canvas)


def _bar(pixels: int, spacing: float | None, step: int) -> tuple[int, str]:
    """Length in px, at most half of a view, and text of a scale bar: 1, 2 or 5 times 10^k.

    The font has no micro sign.
    """
    unit, each = ("px", float(step)) if spacing is None else ("um", spacing)
    most = pixels * each / 2
    ten = 10.0 ** np.floor(np.log10(most))
    length = max(n * ten for n in (1, 2, 5) if n * ten <= most)
    return max(1, round(length / each)), f"{length:g} {unit}"
