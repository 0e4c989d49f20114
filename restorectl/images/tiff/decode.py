"""Decodes strips and tiles: tifffile with the codecs of imagecodecs.

tifffile is given only the tags that decoding needs, as read and mended by `ifd`, in a small TIFF of
its own: what is damaged elsewhere in a file cannot mislead it, and each page is decoded as that
page is stored.
"""

import io
import logging
from typing import Any

import tifffile

from restorectl.errors import InputError
from restorectl.images.tiff import ifd
from restorectl.images.tiff.ifd import Ifd, Layout, integers_tag, pack_head, pack_ifd

# Problems that tifffile warns about raise errors here instead.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_SUBSAMPLING, _NO_DATA, _LERC = 530, 42113, 50674
_ONE_NUMBER = (
    ifd.WIDTH,
    ifd.HEIGHT,
    ifd.COMPRESSION,
    ifd.PHOTOMETRIC,
    ifd.FILL_ORDER,
    ifd.SAMPLES,
    ifd.ROWS_PER_STRIP,
    ifd.PLANAR,
    ifd.PREDICTOR,
    ifd.TILE_WIDTH,
    ifd.TILE_HEIGHT,
)
_OTHERS = (
    ifd.BITS,
    ifd.SAMPLE_FORMAT,
    ifd.EXTRA_SAMPLES,
    ifd.JPEG_TABLES,
    _SUBSAMPLING,
    _NO_DATA,
    _LERC,
)
Key = tuple[object, ...]


def storage(page: Ifd) -> Key:
    """What decoding depends on; equal for pages that one decoder can decode."""
    return (page.order, *(page.tags.get(code) for code in (*_ONE_NUMBER, *_OTHERS)))


def decoder(page: Ifd) -> Any:
    """A tifffile page whose `decode` takes the bytes of a strip or tile, and its index.

    Raises InputError if the tags are damaged or the compression is unknown.
    """
    numbers = {c: page.integer(c) for c in _ONE_NUMBER if page.integers(c)}
    too_large = next((c for c, n in numbers.items() if n >= 1 << 32), None)
    if too_large is not None:
        raise InputError(f"tag {too_large} is {numbers[too_large]}: the file is damaged")
    tags = {code: integers_tag(page.order, ifd.LONG, n) for code, n in numbers.items()}
    tags |= {code: page.tags[code] for code in _OTHERS if code in page.tags}
    tiled = ifd.TILE_OFFSETS in page.tags
    for code in (
        (ifd.TILE_OFFSETS, ifd.TILE_BYTES) if tiled else (ifd.STRIP_OFFSETS, ifd.STRIP_BYTES)
    ):
        tags[code] = integers_tag(page.order, ifd.LONG, 8)
    layout = Layout(page.order, big=False)
    small = io.BytesIO(pack_head(layout, 8) + pack_ifd(layout, tags, 8, False, {}))
    try:
        if page.compression != 1:
            tifffile.TIFF.DECOMPRESSORS[page.compression]
        return tifffile.TiffFile(small).pages.first
    except KeyError as exc:
        raise InputError(
            f"has pixels of compression {page.compression}, which is not read: save it with LZW,"
            " zlib or no compression"
        ) from exc
    except Exception as exc:  # tifffile raises various errors
        reason = " ".join(str(exc).split()) or type(exc).__name__
        raise InputError(f"cannot be read as TIFF: {reason}") from exc
