"""Decodes strips and tiles: tifffile with the codecs of imagecodecs.

tifffile is given only the tags that decoding needs, as read and mended by `ifd`, in a small TIFF of
its own: what is damaged elsewhere in a file cannot mislead it, and each page is decoded as that
page is stored.
"""

import io
import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import tifffile

from restorectl.errors import InputError, one_line
from restorectl.images.tiff import ifd
from restorectl.images.tiff.ifd import Ifd, Layout, Tag, integers_tag, pack_head, pack_ifd

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


@dataclass(frozen=True)
class Storage:
    """How a page is stored: all that decoding depends on."""

    order: str
    tiled: bool
    tags: tuple[tuple[int, Tag], ...]


def storage(page: Ifd) -> Storage:
    found = ((code, page.tags.get(code)) for code in (*_ONE_NUMBER, *_OTHERS))
    tags = tuple((code, tag) for code, tag in found if tag is not None)
    return Storage(page.order, ifd.TILE_OFFSETS in page.tags, tags)


@lru_cache(maxsize=64)
def decoder(stored: Storage) -> Any:
    """A tifffile page whose `decode` takes the bytes of a strip or tile, and its index.

    Raises InputError if the tags are damaged or the compression is unknown.
    """
    order, tags = stored.order, dict(stored.tags)
    for code in _ONE_NUMBER:
        number = next(iter(tags[code].integers(order)), None) if code in tags else None
        if number is None:
            tags.pop(code, None)
        elif number >= 1 << 32:
            raise InputError(f"tag {code} is {number}: the file is damaged")
        else:
            tags[code] = integers_tag(order, ifd.LONG, number)
    at = (
        (ifd.TILE_OFFSETS, ifd.TILE_BYTES) if stored.tiled else (ifd.STRIP_OFFSETS, ifd.STRIP_BYTES)
    )
    tags |= {code: integers_tag(order, ifd.LONG, 8) for code in at}
    layout, compression = Layout(order, big=False), Ifd(0, order, tags).compression
    small = io.BytesIO(pack_head(layout, 8) + pack_ifd(layout, tags, 8, False, {}))
    try:
        if compression != 1:
            tifffile.TIFF.DECOMPRESSORS[compression]
        return tifffile.TiffFile(small).pages.first
    except KeyError as exc:
        raise InputError(
            f"has pixels of compression {compression}, which is not read: save it with LZW, zlib or"
            " no compression"
        ) from exc
    except Exception as exc:  # tifffile raises various errors
        raise InputError(f"cannot be read as TIFF: {one_line(exc)}") from exc
