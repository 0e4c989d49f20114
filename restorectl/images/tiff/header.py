"""Builds a Header from TIFF tags: the image's pages, axes, dtype and pixel size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from restorectl.errors import InputError
from restorectl.images.header import DTYPES, Header, resolve_axes
from restorectl.images.image import Array, choose_series
from restorectl.images.tiff import ifd, imagej, ycbcr
from restorectl.images.tiff.decode import decoder, storage
from restorectl.images.tiff.dialects import Place, dialect, split
from restorectl.images.tiff.ifd import Ifd, Tag, read_chain, text_tag

# Tags of the first page that apply to the whole file
_OF_THE_FILE = frozenset({ifd.DESCRIPTION, ifd.HISTORY, ifd.SOFTWARE, imagej.COUNTS, imagej.BLOCKS})
# values of PHOTOMETRIC whose samples are no intensities
_NO_INTENSITIES = {
    4: "is a transparency mask",
    5: "has CMYK colours",
    ifd.YCBCR: "has YCbCr colours",
    8: "has CIELab colours",
    9: "has ICCLab colours",
    10: "has ITULab colours",
    32803: "is a raw colour mosaic of a camera",
    32845: "has LogLuv colours",
}
JPEG_CODECS = frozenset({6, ifd.JPEG, 33007, 34892})  # they decode YCbCr to RGB


@dataclass(frozen=True)
class TiffSource:
    """What the writer needs from the input TIFF."""

    kind: str  # row of dialects.DIALECTS
    header: Header  # as recorded in the file, without the user's `axes`; `extra` is empty
    first: Ifd  # all tags of the first page
    # For each page, the tags that differ from the first page's; None = no such tag
    changes: tuple[Mapping[int, Tag | None], ...]
    planar: bool
    alpha: Path | Array | None  # a TIFF whose last sample is alpha, or alpha itself, (Y, X)
    series: str | None = None  # which of the TIFF's images it is

    @property
    def order(self) -> str:
        return self.first.order


def describe(
    path: Path, ifds: Sequence[Ifd], override: str | None, series: str | None
) -> tuple[Header, list[Place]]:
    """The header of the image in a TIFF, and its pages in storage order.

    Raises InputError for several images, ambiguous axes and pixels that are not intensities,
    IncompleteError if pages that the metadata describe are missing.
    """
    whole = _full_size(ifds)
    kind = dialect(whole[0])
    images = split(path, kind, whole)
    found = images[choose_series([each.title for each in images], series, path)].stack()
    first = found.pages[0].ifd
    _require_equal(found.pages)
    for page in {place.ifd.offset: place.ifd for place in found.pages}.values():
        _require_intensities(page, kind)
    dtype, has_alpha = _dtype(first), _has_alpha(first)
    planar = first.planar and first.samples > 1 and not found.apart
    shown = first.samples - has_alpha
    in_page = "YX" if shown == 1 or found.apart else "SYX" if planar else "YXS"
    sizes = {"S": shown, "Y": first.size[0], "X": first.size[1]}
    own = found.axes + in_page
    axes, shape = resolve_axes(own, (*found.lengths, *(sizes[a] for a in in_page)), override)
    pages = found.pages
    if "S" in own and "S" not in axes:  # the user names the samples of a pixel, say channels
        if has_alpha:
            raise InputError(f"has alpha, so its colours cannot be `axes` {axes}: use `axes` {own}")
        pages, planar = [replace(p, sample=s) for p in pages for s in range(shown)], False
    header = Header(axes, shape, dtype, found.spacing, (), "tiff", interval=found.interval)
    # ImageJ labels pages: these name channels only if every page is a channel
    if len(found.channels) == header.canonical_shape[1] and (kind != "imagej" or axes == "CYX"):
        header = replace(header, channels=found.channels)
    tags = {c: tag for c, tag in first.tags.items() if c not in _OF_THE_FILE}
    tags |= {c: tag for c, tag in whole[0].tags.items() if c in _OF_THE_FILE}
    if found.description:
        tags[ifd.DESCRIPTION] = text_tag(found.description)
    source = TiffSource(
        kind=kind,
        header=replace(header, axes=own) if len(own) == len(axes) else header,
        first=replace(whole[0], tags=tags),
        changes=_changes(tags, pages),
        planar=planar,
        alpha=path if has_alpha else None,
        series=series,
    )
    kept: dict[str, Any] = {"tiff": source}
    if kind == "ome":
        kept["ome"] = tags[ifd.DESCRIPTION].data.rstrip(b"\0")
    return replace(header, extra=MappingProxyType(kept)), pages


def titles(path: Path) -> tuple[str, ...]:
    """The names of the images in a TIFF, "" = none. Raises InputError, IncompleteError."""
    with open(path, "rb") as file:
        whole = _full_size(read_chain(file, path))
    return tuple(each.title for each in split(path, dialect(whole[0]), whole))


def _full_size(ifds: Sequence[Ifd]) -> list[Ifd]:
    """The images of a file at full size: without thumbnails, pyramid levels and masks.

    A page that is flagged as one of these but is just like the others is one of them. An image in
    a SubIFD gets the tags about the file from its parent.
    """
    images = [
        image if image is page else _inheriting(page, image)
        for page in ifds
        for image in page.images
    ]
    largest = max(images, key=lambda page: page.size[0] * page.size[1])
    first = next((page for page in images if not page.is_reduced), largest)
    return [p for p in images if not p.is_reduced or p.structure == first.structure]


def _inheriting(parent: Ifd, child: Ifd) -> Ifd:
    kept = {code: tag for code, tag in parent.tags.items() if code not in ifd.STORAGE}
    return replace(child, tags=kept | dict(child.tags), children=parent.children)


def _dtype(page: Ifd) -> np.dtype[Any]:
    found = decoder(storage(page))
    if found.dtype is not None and found.dtype.name in DTYPES and found.bitspersample != 1:
        native: np.dtype[Any] = found.dtype.newbyteorder("=")
        return native
    name = "pixels of an unknown type" if found.dtype is None else f"{found.dtype.name} pixels"
    if found.bitspersample == 1:
        name = "black and white (1-bit) pixels"
    raise InputError(f"has {name}, which cannot be restored: save it as 8 or 16 bit")


def _require_intensities(page: Ifd, kind: str) -> None:
    """Raise for colours that are no RGB. Palette indices are intensities if the palette is grey."""
    if page.integer(ifd.VOLUME_DEPTH, 1) > 1:
        raise InputError("stores a volume in one page: save it with one page per plane")
    photometric = page.integer(ifd.PHOTOMETRIC)
    in_jpeg = page.compression in JPEG_CODECS and not page.planar
    decoded = photometric == ifd.YCBCR and (in_jpeg or ycbcr.is_decoded(page))
    if photometric in _NO_INTENSITIES and not decoded:
        raise InputError(f"{_NO_INTENSITIES[photometric]}: save it as RGB or grey")
    if photometric != ifd.PALETTE or kind == "imagej":
        return
    colours = np.array(page.integers(ifd.COLORMAP) if ifd.COLORMAP in page.tags else [0])
    if colours.size % 3 or (np.diff(colours.reshape(3, -1).astype(int).sum(axis=0)) < 0).any():
        raise InputError("has a colour palette, whose indices are not intensities: save it as grey")


def _has_alpha(page: Ifd) -> bool:
    """Whether the last sample of a pixel is alpha."""
    colour = page.integer(ifd.PHOTOMETRIC) == ifd.RGB
    told = page.integers(ifd.EXTRA_SAMPLES)[-1:] in ((1,), (2,))
    return page.samples > 1 and (told or (colour and page.samples == 4))


def _require_equal(places: Sequence[Place]) -> None:
    for k, place in enumerate(places):
        if place.ifd.structure != places[0].ifd.structure:
            raise InputError(
                f"page {k} differs from page 0 in size or type: it holds several images; save each"
                " to a separate file"
            )


def _changes(
    first: Mapping[int, Tag], places: Sequence[Place]
) -> tuple[Mapping[int, Tag | None], ...]:
    """Each page's differences from the tags `first`; none for a page without a directory."""
    found: list[Mapping[int, Tag | None]] = [{}]
    for place in places[1:]:
        tags = place.ifd.tags
        codes = () if place.shift else first.keys() | tags.keys()
        found.append({c: tags.get(c) for c in codes if first.get(c) != tags.get(c)})
    return tuple(found)
