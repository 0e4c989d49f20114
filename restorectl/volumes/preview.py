"""A picture of a stack before and after: XY, XZ and YZ views through its middle."""

from pathlib import Path

import numpy as np

from restorectl.images.header import Spacing
from restorectl.images.image import ALL, Image, Record, open_written
from restorectl.images.pictures import GREYS, Panel, pixel_size, reduction, write_panels
from restorectl.volumes import interpolation

PERCENTILES = (0.5, 99.9)  # of the middle plane, shown as black and white
LARGEST = 1024  # px, largest side of the XY view; larger images are subsampled


def write_preview(part: Path, source: Image, restored: Path, record: Record) -> None:
    """Write a PNG with three views of the first stack, before and after.

    Before: the nearest observed planes. restored: file of the result, read by planes.
    """
    # the result has a depth axis, whatever the input's axes are
    header = source.header.with_z(source.header.size("Z"), source.header.spacing[0])
    with open_written(restored, header) as image:
        planes, height, width = image.header.canonical_shape[2:]
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
    low, high = map(float, np.percentile(numbers if numbers.size else 0.0, PERCENTILES))
    rows = {
        "before": _views([before, *nearest], (low, high), spacing),
        "after": _views([after, *sides], (low, high), spacing),
    }
    write_panels(part, rows, record)


def _views(views: list[np.ndarray], shown: tuple[float, float], spacing: Spacing) -> list[Panel]:
    """XY (Y, X), XZ (Z, X) and YZ (Z, Y); lateral pixels are subsampled."""
    step = reduction(views[0].shape, LARGEST)
    xy, xz, yz = views[0][::step, ::step], views[1][:, ::step], views[2][:, ::step]
    _, y, x = spacing
    return [
        Panel(name, view, *shown, GREYS, ramp=False, pixel=pixel_size(each, step))
        for name, view, each in (("XY", xy, x), ("XZ", xz, x), ("YZ", yz, y))
    ]
