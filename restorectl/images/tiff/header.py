"""From TIFF tags to a Header: which pages make the image, its axes, what one pixel is."""

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
from restorectl.images.tiff import imagej, ome
from restorectl.images.tiff.ifd import Ifd, Layout, Tag

DESCRIPTION, HISTORY, COLORMAP, EXTRA_SAMPLES = 270, 37395, 320, 338
# Tags of the file's first page that speak for the whole file
_OF_THE_FILE = frozenset({DESCRIPTION, HISTORY, 305, imagej.COUNTS, imagej.BLOCKS})
_DTYPES = frozenset({"uint8", "int8", "uint16", "int16", "uint32", "int32"}) | {
    "float16",
    "float32",
    "float64",
}
Outer = tuple[str, tuple[int, ...], list[tuple[int, int]]]  # axes, lengths, (page, byte shift)


@dataclass(frozen=True)
class TiffSource:
    """What the writer needs of the TIFF that was read."""

    kind: str  # ome, imagej, shaped, plain, or tifffile's name of another dialect
    order: str
    header: Header  # as the file says, without --axes; its extra is empty
    # All tags of the first page; of the others what differs, with None for a tag they do not have.
    pages: tuple[Mapping[int, Tag | None], ...]
    samples: int  # of one page as stored, alpha included
    planar: bool
    alpha: Path | None  # the file whose last sample is alpha


@dataclass(frozen=True)
class Described:
    header: Header
    pages: list[tuple[int, int]]  # index of the directory and byte shift, in storage order


def describe(
    path: Path, tiff: Any, layout: Layout, ifds: Sequence[Ifd], override: str | None
) -> Described:
    """Everything about the one image of an open TIFF.

    Raises InputError for several images, ambiguous axes, and pixels that are no intensities;
    IncompleteError if fewer pages are there than the metadata promise.
    """
    whole = [i for i, ifd in enumerate(ifds) if not ifd.is_reduced] or list(range(len(ifds)))
    first = ifds[whole[0]]
    keyframe = tiff.pages[whole[0]]
    dtype = _dtype(keyframe)
    samples, alpha = _samples(first)
    planar = first.integer(284, 1) == 2 and samples > 1
    description = first.tags[DESCRIPTION].text if DESCRIPTION in first.tags else b""
    kind = _kind(tiff, keyframe, description)
    outer, lengths, pages = _stack(kind, description, tiff, ifds, whole)
    _require_equal([ifds[i] for i, _ in pages])
    _refuse_palette(first, kind)
    shown = samples - alpha
    in_page = ("SYX" if planar else "YXS") if shown > 1 else "YX"
    lengths_in_page = {"S": shown, "Y": first.size[0], "X": first.size[1]}
    own = outer + in_page
    axes, shape = resolve_axes(own, (*lengths, *(lengths_in_page[a] for a in in_page)), override)
    spacing, channels = _annotations(kind, description, first, samples, axes)
    header = Header(axes, shape, dtype, spacing, (), "tiff")
    if len(channels) == header.canonical_shape[1]:
        header = Header(axes, shape, dtype, spacing, channels, "tiff")
    source = TiffSource(
        kind=kind,
        order=layout.order,
        header=replace(header, axes=own) if len(own) == len(axes) else header,
        pages=_page_tags(first, [ifds[i] for i, _ in pages], pages),
        samples=samples,
        planar=planar,
        alpha=path if alpha else None,
    )
    extra = MappingProxyType({"tiff": source})
    return Described(Header(axes, shape, dtype, spacing, header.channels, "tiff", extra), pages)


def _dtype(page: Any) -> np.dtype[Any]:
    if page.dtype is not None and page.dtype.name in _DTYPES and page.bitspersample != 1:
        native: np.dtype[Any] = page.dtype.newbyteorder("=")
        return native
    name = "pixels of an unknown type" if page.dtype is None else f"{page.dtype.name} pixels"
    if page.bitspersample == 1:
        name = "black and white (1-bit) pixels"
    raise InputError(f"has {name}, which are no intensities to restore: save it as 8 or 16 bit")


def _samples(page: Ifd) -> tuple[int, int]:
    """(samples of a pixel, how many of them are alpha: 0 or 1)"""
    samples = page.integer(277, 1)
    extra = page.tags[EXTRA_SAMPLES].integers(page.order) if EXTRA_SAMPLES in page.tags else ()
    colour = page.integer(262) == 2
    is_alpha = samples > 1 and (extra[-1:] in ((1,), (2,)) or (colour and samples == 4))
    if page.integer(32997, 1) > 1:
        raise InputError("stores a volume in one page: save it with one page for each plane")
    if page.integer(262) == 5:
        raise InputError("has CMYK colours, made for printing: save it as RGB or grey")
    return samples, int(is_alpha)


def _kind(tiff: Any, page: Any, description: bytes) -> str:
    if page.is_ome:
        return "ome"
    if imagej.is_imagej(description):
        return "imagej"
    if page.is_shaped:
        return "shaped"
    for kind in ("lsm", "mmstack", "ndtiff", "fluoview", "stk", "sis", "svs", "scn", "qpi", "ndpi"):
        if getattr(tiff, f"is_{kind}"):
            return kind
    return "scanimage" if tiff.is_scanimage else "plain"


def _stack(
    kind: str, description: bytes, tiff: Any, ifds: Sequence[Ifd], whole: list[int]
) -> Outer:
    """The axes above the page's own, and the pages in their order."""
    first = ifds[whole[0]]
    pages = [(i, 0) for i in whole]
    if kind == "ome":
        return _ome_stack(description, first, whole)
    if kind == "imagej":
        axes, lengths, declared = imagej.outer_axes(
            description, first.integer(277, 1), first.integer(284, 1) == 2, len(whole)
        )
        if len(whole) == 1 and declared > 1:
            return axes, lengths, _virtual_pages(tiff, first, whole[0], declared)
        _require_count(len(whole), declared, "ImageJ")
        return axes, lengths, pages
    if kind == "shaped":
        return _shaped_stack(description, tiff, first, whole)
    if kind in ("plain", "scanimage"):
        return ("I" if len(pages) > 1 else ""), ((len(pages),) if len(pages) > 1 else ()), pages
    return _foreign_stack(kind, tiff, ifds)


def _ome_stack(description: bytes, first: Ifd, whole: list[int]) -> Outer:
    samples = first.integer(277, 1)
    image = ome.parse(description, samples, len(whole))
    missing = sum(page < 0 for page in image.pages)
    if missing:
        raise IncompleteError(
            f"{missing} of the {len(image.pages)} planes in its OME header are missing: it is cut"
            " off, still being written, or one of several files"
        )
    _require_count(len(whole), len(image.pages), "OME")
    keep = [i for i, n in enumerate(image.shape) if n > 1]
    axes = "".join(image.axes[i] for i in keep)
    return axes, tuple(image.shape[i] for i in keep), [(whole[i], 0) for i in image.pages]


def _shaped_stack(description: bytes, tiff: Any, first: Ifd, whole: list[int]) -> Outer:
    """tifffile's own files: a JSON object with the shape of the array, and perhaps its axes."""
    found = json.loads(description)
    shape = tuple(int(n) for n in found["shape"])
    if math.prod(shape) == 0:
        raise InputError(f"no pixels: the shape in its header is {list(shape)}")
    in_page = math.prod(first.size) * first.integer(277, 1)
    declared, rest = divmod(math.prod(shape), in_page)
    if rest or not declared:
        raise InputError(f"the shape in its header, {list(shape)}, is not that of its pages")
    one_page = len(whole) == 1 and declared > 1
    if not one_page:
        _require_count(len(whole), declared, "tifffile")
    pages = _virtual_pages(tiff, first, whole[0], declared) if one_page else [(i, 0) for i in whole]
    axes = found.get("axes", "")
    n_outer = len(shape) - (3 if first.integer(277, 1) > 1 else 2)
    if len(axes) != len(shape) or n_outer < 0 or math.prod(shape[:n_outer]) != declared:
        return ("I" if declared > 1 else ""), ((declared,) if declared > 1 else ()), pages
    keep = [i for i in range(n_outer) if shape[i] > 1]
    return "".join(axes[i] for i in keep), tuple(shape[i] for i in keep), pages


def _virtual_pages(tiff: Any, first: Ifd, index: int, declared: int) -> list[tuple[int, int]]:
    """The pages of a stack with one directory: their pixels follow those of the first."""
    end = tiff.filehandle.size
    if not first.is_final or first.segments[0][0] + declared * first.nbytes > end:
        raise IncompleteError(
            f"1 of the {declared} pages in its header is there: it is cut off or still being"
            " written"
        )
    return [(index, k * first.nbytes) for k in range(declared)]


def _foreign_stack(kind: str, tiff: Any, ifds: Sequence[Ifd]) -> Outer:
    """Other dialects, as far as tifffile sees one array of ordinary pages in this file."""
    found = [series for series in tiff.series if not series.keyframe.is_reduced]
    at = {ifd.offset: i for i, ifd in enumerate(ifds)}
    pages = [(at.get(page.offset, -1), 0) for page in found[0].pages if page is not None]
    inner = found[0].keyframe.ndim
    shape, axes = found[0].shape[:-inner], found[0].axes[:-inner]
    if len(found) != 1 or math.prod(shape) != len(pages) or (-1, 0) in pages:
        raise InputError(f"is a {kind.upper()} file that cannot be read: save it as OME-TIFF")
    return axes, tuple(shape), pages


def _require_count(found: int, declared: int, header: str) -> None:
    if found < declared:
        raise IncompleteError(
            f"{found} of the {declared} pages in its {header} header are there: it is cut off or"
            " still being written"
        )
    if found > declared:
        raise InputError(
            f"has {found} pages but its {header} header describes {declared}: save the others to"
            " files of their own"
        )


def _require_equal(pages: Sequence[Ifd]) -> None:
    for k, page in enumerate(pages):
        if page.structure != pages[0].structure:
            raise InputError(
                f"page {k} differs from page 0 in size, type or compression: it holds several"
                " images; save each to a file of its own"
            )


def _refuse_palette(page: Ifd, kind: str) -> None:
    """Indices into colours are intensities only where the colours are a ramp of brightness."""
    if page.integer(262) != 3 or kind == "imagej":
        return
    colours = np.array(page.tags[COLORMAP].integers(page.order) if COLORMAP in page.tags else [0])
    if colours.size % 3 or (np.diff(colours.reshape(3, -1).astype(int).sum(axis=0)) < 0).any():
        raise InputError("has a colour palette whose indices are no intensities: save it as grey")


def _annotations(
    kind: str, description: bytes, page: Ifd, samples: int, axes: str
) -> tuple[Spacing, tuple[str, ...]]:
    """(spacing, channel names)"""
    resolution = (ratio(page, 283), ratio(page, 282))
    if kind == "ome":
        image = ome.parse(description, samples, 1)
        return image.spacing, image.channels
    if kind == "imagej":
        names = imagej.labels(page.tags, page.order) if axes == "CYX" else ()
        return imagej.spacing(description, resolution), names
    spacing = _printed(resolution, page.integer(296, 2))
    if kind == "shaped":
        found = json.loads(description)
        factor = imagej.MICROMETRES.get(imagej.unit_name(str(found.get("unit", ""))))
        z = found.get("spacing")
        if factor is not None and isinstance(z, int | float) and z > 0:
            spacing = (z * factor, *spacing[1:])
        if factor is not None and page.integer(296, 2) == 1:
            y, x = (factor / value if value else None for value in resolution)
            spacing = (spacing[0], y, x)
    return spacing, ()


def _printed(resolution: tuple[float, float], unit: int) -> Spacing:
    """(None, y, x) in micrometres from pixels per inch (unit 2) or per centimetre (unit 3)."""
    length = {2: 25400.0, 3: 10000.0}.get(unit)
    if length is None or min(resolution) * 25400.0 / length <= PRINT_DPI:
        return UNKNOWN_SPACING
    return None, length / resolution[0], length / resolution[1]


def ratio(page: Ifd, code: int) -> float:
    """A rational tag as a number; 0 if it is absent or undefined."""
    if code not in page.tags or page.tags[code].type != 5:
        return 0.0
    above, below = np.frombuffer(page.tags[code].data[:8], page.order + "u4").tolist()
    return above / below if below else 0.0


def _page_tags(
    opening: Ifd, ifds: Sequence[Ifd], pages: Sequence[tuple[int, int]]
) -> tuple[Mapping[int, Tag | None], ...]:
    """The tags of each page in storage order; `opening` is the first page of the file."""
    first = {c: tag for c, tag in ifds[0].tags.items() if c not in _OF_THE_FILE}
    first |= {c: tag for c, tag in opening.tags.items() if c in _OF_THE_FILE}
    found: list[Mapping[int, Tag | None]] = [first]
    for ifd, (_, shift) in zip(ifds[1:], pages[1:], strict=True):
        codes = () if shift else first.keys() | ifd.tags.keys()
        found.append({c: ifd.tags.get(c) for c in codes if first.get(c) != ifd.tags.get(c)})
    return tuple(found)
