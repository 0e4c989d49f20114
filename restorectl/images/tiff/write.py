"""TIFF out: the input's tags and metadata around new pixels (see `tiff_plan` for the dialects).

All pixels come first, page after page (ImageJ wants that), then all directories. There is no time,
host or random number in the file.

What an output TIFF will be, decided before a byte is written: dialect, byte order, size.

The output keeps the dialect of the input wherever that can hold the new pixels:

    ome       the OME-XML, edited where it would no longer be true
    imagej    the ImageJ header; only uint8, uint16 and float32, and below 4 GB, else new-ome
    shaped    tifffile's JSON header
    plain     the description as it was; new-ome if depth or z spacing changed
    new-ome   a new OME-XML with the input's description as a comment
    new-plain nothing but pixel size; single pages of images that were not TIFF

The tags of an output TIFF apart from its pixels: the input's, made true, plus provenance.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from restorectl import __version__
from restorectl.errors import OutputError
from restorectl.files.provenance import dumps
from restorectl.images.header import Header, Spacing
from restorectl.images.image import Array, Consumer, Format
from restorectl.images.tiff import imagej, ome
from restorectl.images.tiff.header import COLORMAP, DESCRIPTION, EXTRA_SAMPLES, HISTORY, TiffSource
from restorectl.images.tiff.ifd import LONG, LONG8, RATIONAL, SHORT, Layout, Tag, pack_ifd, text_tag
from restorectl.images.tiff.ifd import integers_tag as numbers
from restorectl.images.tiff.read import TiffImage, read_record

# Classic TIFF has 32-bit offsets; the margin is for readers that count in signed steps of a page.
CLASSIC_LIMIT = (1 << 32) - (32 << 20)
_KEPT_DIALECTS = frozenset({"plain", "scanimage", "fluoview", "sis"})


@dataclass(frozen=True)
class TiffPlan:
    """How one output is stored."""

    dialect: str
    layout: Layout
    header: Header
    source: TiffSource | None
    compressed: bool

    @property
    def samples(self) -> int:
        """Samples of a stored pixel, alpha included."""
        return self.header.size("S") + (self.source is not None and self.source.alpha is not None)

    @property
    def planar(self) -> bool:
        source = self.source
        beside = source is not None and source.alpha is not None and source.planar
        return "SYX" in self.header.axes or beside

    @property
    def n_pages(self) -> int:
        return len(self.header.planes) // self.header.size("S")


def make_plan(path: Path, header: Header) -> TiffPlan:
    source = header.extra.get("tiff")
    assert source is None or isinstance(source, TiffSource)
    if source is not None and source.alpha is not None and header.shape != source.header.shape:
        if header.size("S") != source.header.size("S"):
            source = replace(source, alpha=None)  # the colours are gone, and alpha with them
        else:
            raise OutputError(f"{path}: alpha cannot be resampled: remove it from the input")
    order = source.order if source is not None else "<"
    nbytes = _file_bytes(header, source)
    dialect = _dialect(header, source, nbytes)
    if dialect.endswith("ome") and header.dtype.name not in ome.TYPES:
        header_type = header.dtype.name
        raise OutputError(f"{path}: OME-TIFF has no {header_type}: save the input as float32")
    compressed = source is not None and source.pages[0].get(259) is not None
    if compressed and source is not None:
        compression = source.pages[0][259]
        compressed = compression is not None and compression.integers(order)[:1] not in ((1,), ())
    return TiffPlan(
        dialect,
        Layout(order, nbytes >= CLASSIC_LIMIT),
        header,
        source,
        compressed and dialect != "imagej",
    )


def _file_bytes(header: Header, source: TiffSource | None) -> int:
    """An upper bound of the file's size, were it not compressed."""
    pixels = header.nbytes
    if source is None:
        return pixels + 1024 * len(header.planes) + (1 << 16)
    pixels += pixels // header.size("S") if source.alpha is not None else 0
    common = sum(len(tag.data) + 32 for tag in source.pages[0].values() if tag is not None)
    per_page = max(len(header.planes) // header.size("S"), len(source.pages)) * (common + 1024)
    rest = sum(len(t.data) for page in source.pages[1:] for t in page.values() if t is not None)
    return pixels + per_page + rest + (1 << 16)


def _dialect(header: Header, source: TiffSource | None, nbytes: int) -> str:
    outer = "".join(axis for axis in header.axes if axis in "TCZ")
    if source is None:
        return "new-ome" if outer else "new-plain"
    old = source.header
    same = header.axes == old.axes and header.shape == old.shape
    if source.kind == "ome":
        return "ome"
    if source.kind == "imagej":
        ordered = same or list(outer) == [axis for axis in "TZC" if axis in outer]
        stored = header.dtype.name in imagej.DTYPES or header.dtype == old.dtype
        colour = "S" in header.axes and header.dtype != old.dtype
        fits = nbytes < CLASSIC_LIMIT
        return "imagej" if ordered and stored and fits and not colour else "new-ome"
    if source.kind == "shaped":
        return "shaped"
    if source.kind in _KEPT_DIALECTS and header.spacing[0] == old.spacing[0]:
        return "plain" if header.shape == old.shape else "new-ome"
    return "new-ome"


SOFTWARE = 305
# Tags that describe how pixels are stored, or point into the old file: written anew or left out.
_STRUCTURE = frozenset({254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284})
_STRUCTURE |= {288, 289, 317, 320, 322, 323, 324, 325, 330, 338, 339, 340, 341, 347, 512, 513, 514}
_STRUCTURE |= {515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 34665, 34853, 40965, 34412, 33628}
_STRUCTURE |= {33629, 33630, 33631, 32997, 32998}
_OF_ONE_PAGE = frozenset({285, 297, 306, 51123})  # name, number, date, Micro-Manager's page record
_RESOLUTION = frozenset({282, 283, 296})


def first_tags(plan: TiffPlan, provenance: Mapping[str, Any]) -> dict[int, Tag]:
    """The tags of the first page apart from its structure."""
    source, header, order = plan.source, plan.header, plan.layout.order
    old = {c: tag for c, tag in source.pages[0].items() if tag is not None} if source else {}
    tags = {code: tag for code, tag in old.items() if code not in _STRUCTURE}
    was = old[DESCRIPTION].text if DESCRIPTION in old else b""
    text = _description(plan, was)
    if text:
        tags[DESCRIPTION] = old[DESCRIPTION] if text == was else text_tag(text)
    else:
        tags.pop(DESCRIPTION, None)
    if plan.dialect == "imagej" and source and header.size("Z") != source.header.size("Z"):
        tags = imagej.without_slices(tags, order)
    if plan.dialect == "new-ome":
        tags = {c: tag for c, tag in tags.items() if c not in (imagej.COUNTS, imagej.BLOCKS)}
    if source is None or header.spacing[1:] != source.header.spacing[1:]:
        tags |= _resolution(header.spacing, order, micrometres=plan.dialect == "imagej")
    elif plan.dialect == "new-ome" and source.kind == "imagej":
        # ImageJ keeps the unit in its description, which the new file does not have
        tags |= _resolution(header.spacing, order, micrometres=False)
    history: dict[str, Any] = {"restorectl": provenance}
    if HISTORY in old and (previous := _foreign_history(old[HISTORY].text)):
        history["previous"] = previous
    tags[HISTORY] = text_tag(dumps(history).encode())
    tags[SOFTWARE] = text_tag(_software(old[SOFTWARE].text if SOFTWARE in old else b""))
    return tags


def _description(plan: TiffPlan, was: bytes) -> bytes:
    source, header, order = plan.source, plan.header, plan.layout.order
    if plan.dialect == "new-ome":
        return ome.new_document(header, order, _comments(source, was))
    if source is None or plan.dialect in ("plain", "new-plain"):
        return was
    old = source.header
    if plan.dialect == "ome":
        return ome.edited(was, old, header, order)
    if plan.dialect == "imagej":
        return _imagej_description(was, old, header)
    if (header.axes, header.shape, header.spacing) == (old.axes, old.shape, old.spacing):
        return was
    found = json.loads(was)
    if (header.axes, header.shape) != (old.axes, old.shape):
        found |= {"axes": header.axes, "shape": list(header.shape)}
    if header.spacing[0] is not None and header.spacing[0] != old.spacing[0]:
        found |= {"spacing": header.spacing[0], "unit": "um"}
    return json.dumps(found).encode()


def _imagej_description(was: bytes, old: Header, new: Header) -> bytes:
    changes: dict[str, str | None] = {}
    if (new.axes, new.shape) != (old.axes, old.shape):
        outer = [axis for axis in new.axes if axis in "TCZ"]
        lengths = tuple(new.size(axis) for axis in outer)
        pages = len(new.planes) // new.size("S")
        changes |= imagej.stack_changes("".join(outer), lengths, pages)
        if len(outer) > 1:
            changes["hyperstack"] = "true"
    if new.spacing != old.spacing:
        unit = imagej.MICROMETRES.get(imagej.unit_name(imagej.fields(was).get("unit", "")))
        if unit is None or new.spacing[1:] != old.spacing[1:]:
            unit, changes["unit"] = 1.0, "micron"
        z = new.spacing[0]
        changes["spacing"] = None if z is None else ome.number(z / unit)
    elif new.size("Z") != old.size("Z"):
        changes["spacing"] = _rescaled(imagej.fields(was).get("spacing"), old, new)
    if new.dtype != old.dtype:  # a calibration of grey values belongs to the old type
        found = imagej.fields(was)
        changes |= {k: None for k in ("cf", "c0", "c1", "c2", "c3", "c4", "vunit") if k in found}
    return imagej.edited(was, changes) if changes else was


def _rescaled(spacing: str | None, old: Header, new: Header) -> str | None:
    """A distance between planes in a unit that the file does not name; the depth stays."""
    try:
        return ome.number(float(spacing or "") * (old.size("Z") - 1) / (new.size("Z") - 1))
    except (ValueError, ZeroDivisionError):
        return None


def _comments(source: TiffSource | None, was: bytes) -> tuple[str, ...]:
    """What a new OME-XML keeps of the old header, as text."""
    if source is None:
        return ()
    first = {c: tag for c, tag in source.pages[0].items() if tag is not None}
    texts = [was.decode("utf-8", "replace"), imagej.info(first, source.order)]
    texts += ["\n".join(imagej.labels(first, source.order))]
    return tuple(text for text in texts if text.strip())


def _resolution(spacing: Spacing, order: str, *, micrometres: bool) -> dict[int, Tag]:
    """Resolution tags in pixels per micrometre (for ImageJ) or per centimetre."""
    if spacing[1] is None or spacing[2] is None:
        return {}
    per_unit = Fraction(1 if micrometres else 10000)
    tags = {296: numbers(order, SHORT, 1 if micrometres else 3)}
    for code, length in ((282, spacing[2]), (283, spacing[1])):
        exact = per_unit / Fraction(ome.number(length))
        short = exact.limit_denominator(1_000_000)
        if not 0 < short.numerator < 1 << 32:
            raise OutputError(f"a pixel size of {length} micrometres does not fit into TIFF")
        tags[code] = Tag(RATIONAL, struct.pack(order + "II", short.numerator, short.denominator))
    return tags


def _software(was: bytes) -> bytes:
    """Who wrote the file; the input's writer stays named, restorectl itself is not repeated."""
    own = f"restorectl {__version__}".encode()
    if was.startswith(b"restorectl "):
        before = was.partition(b" (input: ")[2]
        return own + (b" (input: " + before if before else b"")
    return own + (b" (input: " + was + b")" if was.strip() else b"")


def _foreign_history(text: bytes) -> str:
    """Another program's ImageHistory, also where our own record wraps it already."""
    try:
        found = json.loads(text)
    except ValueError:
        return text.decode("latin-1")
    if isinstance(found, dict) and "restorectl" in found:
        return str(found.get("previous", ""))
    return text.decode("latin-1")


def page_tags(plan: TiffPlan, first: Mapping[int, Tag], k: int) -> dict[int, Tag]:
    """The tags of page k apart from its structure."""
    source = plan.source
    if k == 0:
        return dict(first)
    if source is None:
        return {c: tag for c, tag in first.items() if c in _RESOLUTION}
    # Page k as it was, then what changed for the whole file
    own = source.pages[k] if len(source.pages) == plan.n_pages else {}
    kept = {c: t for c, t in source.pages[0].items() if c not in _OF_ONE_PAGE | {HISTORY}}
    if len(source.pages) == plan.n_pages:
        kept = {**source.pages[0], **own}
    tags = {c: t for c, t in kept.items() if t is not None and c not in _STRUCTURE}
    if tags.get(DESCRIPTION) == source.pages[0].get(DESCRIPTION):
        tags.pop(DESCRIPTION, None)
        if plan.dialect in ("imagej", "plain") and DESCRIPTION in first:
            tags[DESCRIPTION] = first[DESCRIPTION]
    for code in (imagej.COUNTS, imagej.BLOCKS, HISTORY):  # these belong to the whole file
        tags.pop(code, None)
    return tags | {c: tag for c, tag in first.items() if c in _RESOLUTION}


_STRIP_BYTES = 1 << 20  # of compressed strips, so that a region need not decode a whole page
_LEVEL = 6
MARK = b"restorectl".ljust(16, b"\0")  # after the header: tells whose a file is that was cut off


def create(path: Path, header: Header, provenance: Mapping[str, Any]) -> Consumer:
    """Write a TIFF from the planes that are sent; the row's `create`, see `image.create_image`."""
    plan = make_plan(path, header)
    first = first_tags(plan, provenance)
    with open(path, "wb") as file, ExitStack() as stack:
        alpha = None
        if plan.source is not None and plan.source.alpha is not None:
            alpha = stack.enter_context(TiffImage(plan.source.alpha, header.axes))
        file.write(_file_head(plan.layout, 0) + MARK)
        spans = []
        for k in range(plan.n_pages):
            samples = []
            for _ in range(header.size("S")):
                samples.append((yield))
            if alpha is not None:
                samples.append(alpha.read_sample(k, len(samples)).astype(header.dtype))
            # (Y, X), (Y, X, samples), or (samples, Y, X) if planar
            page = np.stack(samples, 0 if plan.planar else -1) if len(samples) > 1 else samples[0]
            spans.append(_write_page(file, plan, page))
        file.write(b"\0" * (file.tell() % 2))
        start = at = file.tell()
        for k, span in enumerate(spans):
            tags = _structure(plan, span) | page_tags(plan, first, k)
            packed = pack_ifd(plan.layout, tags, at, following=k + 1 < len(spans))
            file.write(packed)
            at += len(packed)
        if not plan.layout.big and at >= 1 << 32:
            raise OutputError(f"{path}: does not fit into a classic TIFF of 4 GB")
        file.seek(0)
        file.write(_file_head(plan.layout, start))


def _file_head(layout: Layout, first: int) -> bytes:
    """The file's first bytes; `first` is the offset of the first directory."""
    mark = b"II" if layout.order == "<" else b"MM"
    if layout.big:
        return mark + struct.pack(layout.order + "HHHQ", 43, 8, 0, first)
    return mark + struct.pack(layout.order + "HI", 42, first)


def _strip_rows(plan: TiffPlan) -> int:
    height, width = plan.header.canonical_shape[3:]
    if not plan.compressed:
        return height
    row = width * plan.header.dtype.itemsize * (1 if plan.planar else plan.samples)
    return max(1, min(height, _STRIP_BYTES // row))


def _write_page(file: BinaryIO, plan: TiffPlan, page: Array) -> list[tuple[int, int]]:
    """Write the strips of one page; returns (offset, bytes) of each."""
    stored = plan.header.dtype.newbyteorder("<" if plan.layout.order == "<" else ">")
    rows, spans = _strip_rows(plan), []
    for part in page if plan.planar else (page,):
        for top in range(0, part.shape[0], rows):
            strip = part[top : top + rows]
            if plan.compressed and strip.dtype.kind != "f":  # differences of neighbours, modulo
                strip = strip.copy()
                strip[:, 1:] -= part[top : top + rows, :-1]
            data: bytes | memoryview = np.ascontiguousarray(strip, stored).data.cast("B")
            if plan.compressed:
                data = zlib.compress(data, _LEVEL)
            spans.append((file.tell(), len(data)))
            file.write(data)
    return spans


def _structure(plan: TiffPlan, spans: Sequence[tuple[int, int]]) -> dict[int, Tag]:
    """The tags that say how a page's pixels are stored."""
    order, header, source = plan.layout.order, plan.header, plan.source
    height, width = header.canonical_shape[3:]
    samples, dtype = plan.samples, header.dtype
    old = {c: t for c, t in source.pages[0].items() if t is not None} if source is not None else {}
    photometric = old[262].integers(order)[0] if 262 in old else 1
    if source is None:
        photometric = 2 if header.size("S") == 3 else 1
    elif photometric == 6:
        photometric = 2  # decoded to RGB
    elif photometric == 3 and (dtype != source.header.dtype or COLORMAP not in old):
        photometric = 1
    tags = {
        254: numbers(order, LONG, 0),
        256: numbers(order, LONG, width),
        257: numbers(order, LONG, height),
        258: numbers(order, SHORT, *([dtype.itemsize * 8] * samples)),
        259: numbers(order, SHORT, 8 if plan.compressed else 1),
        262: numbers(order, SHORT, photometric),
        273: numbers(order, LONG8 if plan.layout.big else LONG, *(a for a, _ in spans)),
        277: numbers(order, SHORT, samples),
        278: numbers(order, LONG, _strip_rows(plan)),
        279: numbers(order, LONG8 if plan.layout.big else LONG, *(n for _, n in spans)),
        284: numbers(order, SHORT, 2 if plan.planar else 1),
        339: numbers(order, SHORT, *([{"u": 1, "i": 2, "f": 3}[dtype.kind]] * samples)),
    }
    if plan.compressed and dtype.kind != "f":
        tags[317] = numbers(order, SHORT, 2)
    if photometric == 3:
        tags[COLORMAP] = old[COLORMAP]
    extra = samples - (3 if photometric == 2 else 1)
    if extra > 0:
        given = old[EXTRA_SAMPLES].integers(order) if EXTRA_SAMPLES in old else ()
        values = given if len(given) == extra else (0,) * extra
        tags[EXTRA_SAMPLES] = numbers(order, SHORT, *values)
    return tags


def _has_mark(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(32)
    return MARK in (head[8:24], head[16:32])  # after the header of a TIFF or a BigTIFF


FORMAT = Format(
    probe=lambda path, head: head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    open=TiffImage,
    create=create,
    record=read_record,
    has_mark=_has_mark,
    held_when_open=lambda path: 0,  # read piece by piece
)
