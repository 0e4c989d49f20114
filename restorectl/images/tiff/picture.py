"""What a TIFF keeps of the PNG, JPEG or OME-Zarr that it is made from."""

import zlib
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType

from restorectl.errors import InputError
from restorectl.images.header import UNKNOWN_SPACING, Header
from restorectl.images.raster import PngExtras
from restorectl.images.tiff import ifd, ome
from restorectl.images.tiff.header import TiffSource
from restorectl.images.tiff.ifd import Ifd, Tag, integers_tag, read_directory, text_tag

_ICC_PROFILE, _UNDEFINED, _BESIDE_COLOURS = 34675, 7, 2


def of_document(header: Header) -> TiffSource | None:
    """The OME-XML of an image that was no TIFF; None if there is none."""
    if "ome" not in header.extra:
        return None
    xml: bytes = header.extra["ome"]
    first = Ifd(0, "<", {ifd.DESCRIPTION: text_tag(xml)})
    return TiffSource("ome", ome.told(xml), first, (), planar=False, alpha=None)


def of_picture(header: Header) -> TiffSource | None:
    """The EXIF tags (with the orientation), colour profile and alpha of a PNG or JPEG.

    None for other images.
    """
    kept = header.extra.get("raster")
    if not isinstance(kept, PngExtras):
        return None
    chunks, first = dict(kept.chunks), Ifd(0, "<", {})
    with suppress(InputError):  # damaged EXIF data have no influence on the pixels
        first = read_directory(chunks.get(b"eXIf", b""), "EXIF")
    size = {ifd.X_RESOLUTION, ifd.Y_RESOLUTION, ifd.RESOLUTION_UNIT}  # the header has them
    tags = {c: tag for c, tag in first.tags.items() if c not in ifd.STORAGE | size}
    with suppress(zlib.error, IndexError):
        profile = chunks.get(b"iCCP", b"").split(b"\0", 1)[1]
        tags[_ICC_PROFILE] = Tag(_UNDEFINED, zlib.decompress(profile[1:]))
    if kept.alpha is not None:
        tags[ifd.EXTRA_SAMPLES] = integers_tag(first.order, ifd.SHORT, _BESIDE_COLOURS)
    return TiffSource(
        kind="plain",
        header=replace(header, spacing=UNKNOWN_SPACING, extra=MappingProxyType({})),
        first=replace(first, tags=tags),
        changes=({},),
        planar=False,
        alpha=kept.alpha,
    )
