"""Three views of a stack before and after, as one PNG."""

from pathlib import Path

import numpy as np

from restorectl.batch.plan import Record
from restorectl.images.header import Header
from restorectl.images.image import Image, open_image, verify_image, write_image
from restorectl.volumes import interpolation

GAP = 4  # px between views
PERCENTILES = (0.5, 99.9)  # of the middle plane: black and white
LARGEST = 1024  # px of a side of the XY view; larger ones are thinned out


def write(part: Path, source: Image, restored: Path, record: Record) -> None:
    """XY, XZ and YZ through the middle of the first stack: the input's nearest planes, the result.

    restored: the finished result, read plane by plane.
    """
    with open_image(restored, axes=_axes(source.header)) as image:
        planes, height, width = image.header.canonical_shape[2:]
        step = -(-max(height, width) // LARGEST)
        factor = (planes - 1) // max(source.header.canonical_shape[2] - 1, 1)
        row, col, middle = height // 2, width // 2, min(planes // 2 + 1, planes - 1)
        after = image.read((0, 0, middle))
        xz, yz = np.empty((2, planes), object)
        for z in range(planes):
            xz[z] = image.read((0, 0, z), slice(row, row + 1))[0]
            yz[z] = image.read((0, 0, z), slice(None), slice(col, col + 1))[:, 0]
    sides = [np.stack(list(view)).astype(np.float32) for view in (xz, yz)]  # (Z, X), (Z, Y)
    nearest = [
        interpolation.interpolated(view[::factor], factor, interpolation.nearest)
        if factor > 1
        else view
        for view in sides
    ]
    before = source.read((0, 0, min(int(middle / factor + 0.5), (planes - 1) // factor)))
    low, high = np.percentile(after, PERCENTILES)
    span = max(float(high - low), 1e-12)
    panels = [
        _panel(plane[::step, ::step], side[0][:, ::step], side[1][:, ::step])
        for plane, side in ((before.astype(np.float32), nearest), (after.astype(np.float32), sides))
    ]
    gap = np.full((panels[0].shape[0], 2 * GAP), np.nan, np.float32)
    picture = np.concatenate([panels[0], gap, panels[1]], 1)
    grey = np.where(np.isnan(picture), 1.0, np.clip((picture - low) / span, 0, 1))
    pixels = np.rint(255 * grey).astype(np.uint8)
    header = Header("YX", pixels.shape, pixels.dtype, format=".png")
    write_image(part, header, [pixels], provenance=record)
    verify_image(part, header)


def _panel(xy: np.ndarray, xz: np.ndarray, yz: np.ndarray) -> np.ndarray:
    """XY with XZ below and YZ at the right; NaN between."""
    height, width = xy.shape
    panel = np.full((height + GAP + len(xz), width + GAP + len(yz)), np.nan, np.float32)
    panel[:height, :width] = xy
    panel[height + GAP :, :width] = xz
    panel[:height, width + GAP :] = yz.T
    return panel


def _axes(header: Header) -> str:
    """Letters of the result's axes, which has a depth."""
    return "".join(a for a in header.axes if a in "YXZ" or header.size(a) > 1)
