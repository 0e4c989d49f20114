"""Builds a Header from TIFF tags: the image's pages, axes, dtype and pixel size."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from restorectl.errors import IncompleteError, InputError
from restorectl.images.header import PRINT_DPI, UNKNOWN_SPACING, Header, Spacing, resolve_axes
from restorectl.images.tiff import ifd, imagej, ome
from restorectl.images.tiff.ifd import Ifd, Tag

# Tags of the first page that apply to the whole file
_OF_THE_FILE = frozenset({ifd.DESCRIPTION, ifd.HISTORY, ifd.SOFTWARE, imagej.COUNTS, imagej.BLOCKS})
_DTYPES = {f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)}
_DTYPES |= {"float16", "float32", "float64"}
_DIALECTS = ("lsm", "mmstack", "ndtiff", "fluoview", "stk", "sis", "svs", "scn", "qpi", "ndpi")
PageAt = tuple[int, int]  # (index of a directory, offset in bytes from its pixels to the page's)


@dataclass(frozen=True)
class TiffSource:
    """What the writer needs from the input TIFF."""

    kind: str  # ome, imagej, shaped, plain, or tifffile's name of another dialect
    header: Header  # as recorded in the file, without the user's `axes`; `extra` is empty
    first: Ifd  # all tags of the first page
    # For each page, the tags that differ from the first page's; None = no such tag
    changes: tuple[Mapping[int, Tag | None], ...]
    planar: bool
    alpha: Path | None  # file whose last sample is alpha

    @property
    def order(self) -> str:
        return self.first.order


@dataclass(frozen=True)
class PageStack:
    """How the pages of a file form one image, according to its TIFF dialect."""

    axes: str  # axes outside a page
    lengths: tuple[int, ...]
    pages: list[PageAt]  # in storage order
    spacing: Spacing = UNKNOWN_SPACING
    channels: tuple[str, ...] = ()


def describe(
    path: Path, tiff: Any, ifds: Sequence[Ifd], override: str | None
) -> tuple[Header, list[PageAt]]:
    """The header of the image in an open TIFF, and its pages in storage order.

    Raises InputError for several images, ambiguous axes and pixels that are not intensities,
    IncompleteError if pages that the metadata describe are missing.
    """
    whole = [i for i, page in enumerate(ifds) if not page.is_reduced] or list(range(len(ifds)))
    first, keyframe = ifds[whole[0]], tiff.pages[whole[0]]
    dtype = _dtype(keyframe)
    has_alpha = _has_alpha(first)
    kind = _kind(tiff, keyframe, first.text(ifd.DESCRIPTION))
    stack = _stack(kind, tiff, ifds, whole)
    pages = [ifds[i] for i, _ in stack.pages]
    _require_equal(pages)
    _refuse_palette(first, kind)
    planar, shown = first.planar and first.samples > 1, first.samples - has_alpha
    in_page = ("SYX" if planar else "YXS") if shown > 1 else "YX"
    lengths = {"S": shown, "Y": first.size[0], "X": first.size[1]}
    own = stack.axes + in_page
    axes, shape = resolve_axes(own, (*stack.lengths, *(lengths[a] for a in in_page)), override)
    header = Header(axes, shape, dtype, stack.spacing, (), "tiff")
    # ImageJ labels pages: these name channels only if every page is a channel
    if len(stack.channels) == header.canonical_shape[1] and (kind != "imagej" or axes == "CYX"):
        header = replace(header, channels=stack.channels)
    tags = {c: tag for c, tag in pages[0].tags.items() if c not in _OF_THE_FILE}
    tags |= {c: tag for c, tag in first.tags.items() if c in _OF_THE_FILE}
    source = TiffSource(
        kind=kind,
        header=replace(header, axes=own) if len(own) == len(axes) else header,
        first=replace(first, tags=tags),
        changes=_changes(tags, pages, stack.pages),
        planar=planar,
        alpha=path if has_alpha else None,
    )
    return replace(header, extra=MappingProxyType({"tiff": source})), stack.pages


def _dtype(page: Any) -> np.dtype[Any]:
    if page.dtype is not None and page.dtype.name in _DTYPES and page.bitspersample != 1:
        native: np.dtype[Any] = page.dtype.newbyteorder("=")
        return native
    name = "pixels of an unknown type" if page.dtype is None else f"{page.dtype.name} pixels"
    if page.bitspersample == 1:
        name = "black and white (1-bit) pixels"
    raise InputError(f"has {name}, which cannot be restored: save it as 8 or 16 bit")


def _has_alpha(page: Ifd) -> bool:
    """Whether the last sample of a pixel is alpha."""
    if page.integer(ifd.VOLUME_DEPTH, 1) > 1:
        raise InputError("stores a volume in one page: save it with one page per plane")
    if page.integer(ifd.PHOTOMETRIC) == ifd.CMYK:
        raise InputError("has CMYK colours: save it as RGB or grey")
    colour = page.integer(ifd.PHOTOMETRIC) == ifd.RGB
    told = page.integers(ifd.EXTRA_SAMPLES)[-1:] in ((1,), (2,))
    return page.samples > 1 and (told or (colour and page.samples == 4))


def _kind(tiff: Any, page: Any, description: bytes) -> str:
    if page.is_ome:
        return "ome"
    if imagej.is_imagej(description):
        return "imagej"
    if page.is_shaped:
        return "shaped"
    return next(
        (kind for kind in (*_DIALECTS, "scanimage") if getattr(tiff, f"is_{kind}")), "plain"
    )


def _stack(kind: str, tiff: Any, ifds: Sequence[Ifd], whole: list[int]) -> PageStack:
    """How the pages form an image; `whole`: pages that are not thumbnails."""
    first = ifds[whole[0]]
    if kind == "ome":
        return _ome_stack(first, whole)
    if kind == "imagej":
        return _imagej_stack(tiff, first, whole)
    if kind == "shaped":
        return _shaped_stack(tiff, first, whole)
    spacing = _printed_spacing(first)
    if kind in ("plain", "scanimage"):
        return _unnamed([(i, 0) for i in whole], spacing)
    # Other dialects, if tifffile finds one array of ordinary pages in this file
    found = [series for series in tiff.series if not series.keyframe.is_reduced]
    at = {page.offset: i for i, page in enumerate(ifds)}
    pages = [(at.get(page.offset, -1), 0) for page in found[0].pages if page is not None]
    inner = found[0].keyframe.ndim
    shape, axes = found[0].shape[:-inner], found[0].axes[:-inner]
    if len(found) != 1 or math.prod(shape) != len(pages) or (-1, 0) in pages:
        raise InputError(f"is a {kind.upper()} file that cannot be read: save it as OME-TIFF")
    return PageStack(axes, tuple(shape), pages, spacing)


def _ome_stack(first: Ifd, whole: list[int]) -> PageStack:
    image = ome.parse(first.text(ifd.DESCRIPTION), first.samples, len(whole))
    missing = sum(page < 0 for page in image.pages)
    if missing:
        raise IncompleteError(
            f"{missing} of the {len(image.pages)} planes in its OME header are missing: it is cut"
            " off, still being written, or one of several files"
        )
    _require_count(len(whole), len(image.pages), "OME")
    keep = [i for i, n in enumerate(image.shape) if n > 1]
    axes, lengths = "".join(image.axes[i] for i in keep), tuple(image.shape[i] for i in keep)
    pages = [(whole[i], 0) for i in image.pages]
    return PageStack(axes, lengths, pages, image.spacing, image.channels)


def _imagej_stack(tiff: Any, first: Ifd, whole: list[int]) -> PageStack:
    description = first.text(ifd.DESCRIPTION)
    axes, lengths, declared = imagej.outer_axes(
        description, first.samples, first.planar, len(whole)
    )
    pages = _declared_pages(tiff, first, whole, declared, "ImageJ")
    spacing = imagej.spacing(description, _resolution(first))
    return PageStack(axes, lengths, pages, spacing, imagej.labels(first.tags, first.order))


def _shaped_stack(tiff: Any, first: Ifd, whole: list[int]) -> PageStack:
    """tifffile's own dialect: a JSON object with the shape and perhaps the axes of the array."""
    found = json.loads(first.text(ifd.DESCRIPTION))
    shape = tuple(int(n) for n in found["shape"])
    if math.prod(shape) == 0:
        raise InputError(f"no pixels: the shape in its header is {list(shape)}")
    declared, rest = divmod(math.prod(shape), math.prod(first.size) * first.samples)
    if rest or not declared:
        raise InputError(f"the shape in its header, {list(shape)}, does not match its pages")
    pages = _declared_pages(tiff, first, whole, declared, "tifffile")
    spacing = _printed_spacing(first)
    factor = imagej.MICROMETRES.get(imagej.unit_name(str(found.get("unit", ""))))
    if factor is not None:
        z = found.get("spacing")
        z = z * factor if isinstance(z, int | float) and z > 0 else None
        yx = spacing[1:]
        if first.integer(ifd.RESOLUTION_UNIT, 2) == 1:
            y, x = (factor / value if value else None for value in _resolution(first))
            yx = y, x
        spacing = (z, *yx)
    axes = found.get("axes", "")
    n_outer = len(shape) - (3 if first.samples > 1 else 2)
    if len(axes) != len(shape) or n_outer < 0 or math.prod(shape[:n_outer]) != declared:
        return _unnamed(pages, spacing)
    keep = [i for i in range(n_outer) if shape[i] > 1]
    lengths = tuple(shape[i] for i in keep)
    return PageStack("".join(axes[i] for i in keep), lengths, pages, spacing)


def _unnamed(pages: list[PageAt], spacing: Spacing) -> PageStack:
    """A stack of pages along an axis without a name: tifffile's I."""
    return (
        PageStack("I", (len(pages),), pages, spacing)
        if len(pages) > 1
        else PageStack("", (), pages, spacing)
    )


def _declared_pages(
    tiff: Any, first: Ifd, whole: list[int], declared: int, header: str
) -> list[PageAt]:
    """The pages; in a stack with a single directory, all pixels follow those of page 0."""
    if len(whole) > 1 or declared == 1:
        _require_count(len(whole), declared, header)
        return [(i, 0) for i in whole]
    end = tiff.filehandle.size
    if not first.is_final or first.segments[0][0] + declared * first.nbytes > end:
        raise IncompleteError(
            f"1 of the {declared} pages in its header exists: it is cut off or still being written"
        )
    return [(whole[0], k * first.nbytes) for k in range(declared)]


def _require_count(found: int, declared: int, header: str) -> None:
    if found < declared:
        raise IncompleteError(
            f"{found} of the {declared} pages in its {header} header exist: it is cut off or"
            " still being written"
        )
    if found > declared:
        raise InputError(
            f"has {found} pages but its {header} header describes {declared}: save the others to"
            " separate files"
        )


def _require_equal(pages: Sequence[Ifd]) -> None:
    for k, page in enumerate(pages):
        if page.structure != pages[0].structure:
            raise InputError(
                f"page {k} differs from page 0 in size, type or compression: it holds several"
                " images; save each to a separate file"
            )


def _refuse_palette(page: Ifd, kind: str) -> None:
    """Palette indices are intensities only if the palette is a grey ramp."""
    if page.integer(ifd.PHOTOMETRIC) != ifd.PALETTE or kind == "imagej":
        return
    colours = np.array(page.integers(ifd.COLORMAP) if ifd.COLORMAP in page.tags else [0])
    if colours.size % 3 or (np.diff(colours.reshape(3, -1).astype(int).sum(axis=0)) < 0).any():
        raise InputError("has a colour palette, whose indices are not intensities: save it as grey")


def _printed_spacing(page: Ifd) -> Spacing:
    """(None, y, x) in micrometres from pixels per inch (unit 2) or per centimetre (unit 3)."""
    resolution = _resolution(page)
    length = {2: 25400.0, 3: 10000.0}.get(page.integer(ifd.RESOLUTION_UNIT, 2))
    if length is None or min(resolution) * 25400.0 / length <= PRINT_DPI:
        return UNKNOWN_SPACING
    return None, length / resolution[0], length / resolution[1]


def _resolution(page: Ifd) -> tuple[float, float]:
    """Pixels per unit in y and x; 0 if the tag is absent or undefined."""
    found = []
    for code in (ifd.Y_RESOLUTION, ifd.X_RESOLUTION):
        above = below = 0
        if code in page.tags and page.tags[code].type == ifd.RATIONAL:
            above, below = np.frombuffer(page.tags[code].data[:8], page.order + "u4").tolist()
        found.append(above / below if below else 0.0)
    return found[0], found[1]


def _changes(
    first: Mapping[int, Tag], pages: Sequence[Ifd], places: Sequence[PageAt]
) -> tuple[Mapping[int, Tag | None], ...]:
    """Each page's differences from the tags `first`; none for a page without a directory."""
    found: list[Mapping[int, Tag | None]] = [{}]
    for page, (_, shift) in zip(pages[1:], places[1:], strict=True):
        codes = () if shift else first.keys() | page.tags.keys()
        found.append({c: page.tags.get(c) for c in codes if first.get(c) != page.tags.get(c)})
    return tuple(found)
