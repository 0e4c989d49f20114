"""YCbCr colours outside JPEG, as RGB (TIFF 6.0, section 21)."""

import numpy as np
import tifffile

from restorectl.images.image import Array
from restorectl.images.tiff import ifd
from restorectl.images.tiff.ifd import Ifd

COEFFICIENTS, SUBSAMPLING, REFERENCE = 529, 530, 532
_LUMA = (0.299, 0.587, 0.114)  # red, green, blue
_RANGES = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)  # black and white of Y, Cb, Cr


def is_decoded(page: Ifd) -> bool:
    """Whether `rgb` decodes the strips and tiles of a page."""
    return not page.planar and page.samples == 3 and {*page.integers(ifd.BITS)} == {8}


def rgb(page: Ifd, data: bytes) -> Array:
    """A strip or tile as (rows, columns, 3) uint8; rows that are not stored are left out.

    Blocks of subsampled pixels are stored as all their Y, then Cb, then Cr.
    """
    if page.compression != 1:
        data = tifffile.TIFF.DECOMPRESSORS[page.compression](data)
    across, down = (*page.integers(SUBSAMPLING), 2, 2)[:2] if SUBSAMPLING in page.tags else (2, 2)
    columns = -(-page.segment_size[1] // across)
    unit = across * down + 2
    rows = len(data) // (columns * unit)
    blocks = np.frombuffer(data, np.uint8, rows * columns * unit).reshape(rows, columns, unit)
    tiled = blocks[..., :-2].reshape(rows, columns, down, across).transpose(0, 2, 1, 3)
    luma = tiled.reshape(rows * down, columns * across)
    chroma = blocks[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
    limits = _fractions(page, REFERENCE) or _RANGES
    black, white = np.array(limits[::2]), np.array(limits[1::2])
    scale = np.array([255.0, 127.0, 127.0]) / (white - black)
    y, cb, cr = np.moveaxis((np.dstack([luma, chroma]) - black) * scale, -1, 0)
    of_red, of_green, of_blue = _fractions(page, COEFFICIENTS) or _LUMA
    red, blue = y + cr * (2 - 2 * of_red), y + cb * (2 - 2 * of_blue)
    green = (y - of_red * red - of_blue * blue) / of_green
    found: Array = np.rint(np.clip(np.dstack([red, green, blue]), 0, 255)).astype(np.uint8)
    return found[: page.segment_size[0], : page.segment_size[1]]


def _fractions(page: Ifd, code: int) -> tuple[float, ...]:
    """The values of a tag of fractions; () if it is absent or not usable."""
    tag = page.tags.get(code)
    if tag is None or tag.type != ifd.RATIONAL:
        return ()
    above, below = np.frombuffer(tag.data, page.order + "u4").reshape(-1, 2).T
    return tuple((above / below).tolist()) if below.all() else ()
