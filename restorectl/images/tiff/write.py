"""Writes TIFF: new pixels with the input's tags and metadata, updated, plus provenance.

The output keeps the dialect of the input if that can hold the new pixels:

    ome       the OME-XML, edited to match the new image
    imagej    the ImageJ header; only uint8, uint16 and float32, and below 4 GB, else new-ome
    shaped    tifffile's JSON header
    plain     the description unchanged; new-ome if depth or z spacing changed
    new-ome   a new OME-XML with the input's description as a comment
    new-plain only the pixel size; for single pages of images that were not TIFF

After the header come the provenance record (so that a cut-off output is recognised), all pixels,
page after page (ImageJ wants that), and all directories. There is no time, host or random number.

tifffile's TiffWriter cannot lay this out: pixels that follow each other get copies of the first
page's tags, so that descriptions, names, dates and Micro-Manager's record (51123) of other pages
are lost. It also leaves out 284 and 339 where they are 1, and invents a resolution (282, 283, 296)
of 1 where there was none.
"""

import json
import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from restorectl import __version__
from restorectl.errors import OutputError
from restorectl.files.provenance import dumps
from restorectl.files.strict import parse_json
from restorectl.images.header import LARGE, Header, Plane, Spacing
from restorectl.images.image import Array, Consumer, Format, Record
from restorectl.images.pyramid import borders, halves, means
from restorectl.images.regions import Divided, Region
from restorectl.images.tiff import ifd, imagej, ome
from restorectl.images.tiff.dialects import shaped
from restorectl.images.tiff.header import TiffSource, titles
from restorectl.images.tiff.ifd import (
    Ifd,
    Layout,
    Tag,
    integers_tag,
    pack_head,
    pack_ifd,
    text_tag,
)
from restorectl.images.tiff.join import join
from restorectl.images.tiff.picture import of_document, of_picture
from restorectl.images.tiff.read import TiffImage, read_record

# Classic TIFF has 32-bit offsets; the margin is for readers that use signed offsets.
CLASSIC_LIMIT = (1 << 32) - (32 << 20)
_RECORDS = (b'{"previous":', b'{"restorectl":')  # how the ImageHistory of an output begins
_STRIP_BYTES = 1 << 20  # size of compressed strips, so that a region does not decode a whole page
_TILE = 512  # px, sides of the tiles of a pyramid
_LEVEL = 6  # zlib compression level
_KEPT_DIALECTS = frozenset({"plain", "scanimage", "fluoview", "sis"})
_OF_ONE_PAGE = frozenset({285, 297, 306, 51123})  # name, number, date, Micro-Manager's page record
_RANGE = frozenset({280, 281, 340, 341})  # smallest and largest values of the samples
_RESOLUTION = frozenset({ifd.X_RESOLUTION, ifd.Y_RESOLUTION, ifd.RESOLUTION_UNIT})


Span = tuple[int, int]  # offset and bytes of a strip or tile


@dataclass(frozen=True)
class TiffOutput:
    """How an image will be stored; decided before writing."""

    dialect: str
    layout: Layout
    header: Header
    source: TiffSource | None
    compressed: bool

    @property
    def levels(self) -> list[tuple[int, ...]]:
        """(Y, X) of a page and its smaller copies."""
        size = self.header.canonical_shape[3:]
        return halves(size) if self.header.pyramid else [size]

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

    @property
    def one_strip(self) -> bool:
        """Whether the pixels of a page, or of a sample of it, are one strip."""
        return not self.compressed and not self.header.pyramid

    @property
    def rows_per_strip(self) -> int:
        height, width = self.header.canonical_shape[3:]
        row = width * self.header.dtype.itemsize * (1 if self.planar else self.samples)
        return max(1, min(height, _STRIP_BYTES // row)) if self.compressed else height


def create(path: Path, header: Header, provenance: Record) -> Consumer:
    """Write a TIFF from the planes that are sent; see `image.create_image`."""
    out = output_for(path, header)
    first = _first_tags(out, provenance)
    with open(path, "wb") as file, ExitStack() as stack:
        alpha = out.source.alpha if out.source is not None else None
        beside = None
        if out.source is not None and isinstance(alpha, Path):
            beside = stack.enter_context(TiffImage(alpha, header.axes, out.source.series))
        file.write(pack_head(out.layout, 0))
        placed = {ifd.HISTORY: file.tell()}  # also in an output that is cut off later
        file.write(first[ifd.HISTORY].data)
        if out.source is not None:
            first |= _write_children(file, out.layout, out.source.first)
        file.write(b"\0" * (-file.tell() % 8))
        spans = []
        for k in range(out.n_pages):

            def transparency(rows: slice, page: int = k) -> list[Array]:
                if beside is not None:
                    found = beside.read_sample(page, header.size("S"), rows)
                    return [found.astype(header.dtype)]
                if isinstance(alpha, np.ndarray):
                    return [alpha[rows].astype(header.dtype)]
                return []

            spans.append((yield from _page(file, out, transparency)))
        file.write(b"\0" * (file.tell() % 2))
        smaller = [_write_smaller(file, out, levels, k) for k, levels in enumerate(spans)]
        start = at = file.tell()
        for k, (full, *_) in enumerate(spans):
            tags = _structure(out, full, k) | _page_tags(out, first, k) | smaller[k]
            following = k + 1 < len(spans)
            packed = pack_ifd(out.layout, tags, at, following, {} if k else placed)
            file.write(packed)
            at += len(packed)
        if not out.layout.big and at >= 1 << 32:
            raise OutputError(f"{path}: does not fit into a classic TIFF of 4 GB")
        file.seek(0)
        file.write(pack_head(out.layout, start))


class DividedTiff(Divided):
    """An uncompressed TIFF of grey images that several processes write, by rows of its pages."""

    sides = (1, 1)

    def __init__(self, path: Path, header: Header) -> None:
        out = output_for(path, header)
        if out.compressed or header.pyramid or out.samples > 1:
            raise OutputError(
                f"{path}: several processes can write a TIFF only if it has no compression, pyramid"
                " or colours: choose OME-Zarr as `output`, or leave out `dask`"
            )
        self.path, self.header, self.out = path, header, out
        self._page = {plane: k for k, plane in enumerate(header.planes)}

    def slab(self, plane: Plane) -> Plane:
        """See `Divided`."""
        return plane

    def begin(self, provenance: Record) -> None:
        """See `Divided`; the pixels are 0. Nothing is kept of an interrupted run."""
        writer = create(self.path, self.header, provenance)
        next(writer)
        height, width = self.header.canonical_shape[3:]
        blank = np.zeros((min(height, max(1, LARGE // width)), width), self.header.dtype)
        with suppress(StopIteration):  # the last rows complete the file
            for _ in self.header.planes:
                for top in range(0, height, len(blank)):
                    writer.send(blank[: height - top])

    def has(self, region: Region) -> bool:
        """See `Divided`."""
        return False

    def put(self, region: Region, pixels: np.ndarray) -> None:
        """See `Divided`."""
        dtype = self.header.dtype.newbyteorder("<" if self.out.layout.order == "<" else ">")
        width, (left, right) = self.header.canonical_shape[4], region.cols
        lines = np.ascontiguousarray(pixels, dtype)
        with open(self.path, "r+b") as file:
            for plane, rows in zip(region.planes, lines, strict=True):
                start = self._starts[self._page[plane]]
                each = rows.reshape(1, -1) if right - left == width else rows
                for row, line in enumerate(each, region.rows[0]):
                    file.seek(start + (row * width + left) * dtype.itemsize)
                    file.write(line.data.cast("B"))
            file.flush()
            os.fsync(file.fileno())

    @cached_property
    def _starts(self) -> list[int]:
        """Where the pixels of each page begin."""
        with open(self.path, "rb") as file:
            return [page.segments[0][0] for page in ifd.read_chain(file, self.path)]

    def finish(self, provenance: Record) -> None:
        """See `Divided`."""


def output_for(path: Path, header: Header) -> TiffOutput:
    """Decide dialect, byte order and size. Raises OutputError if TIFF cannot hold the image."""
    source = header.extra.get("tiff") or of_picture(header) or of_document(header)
    assert source is None or isinstance(source, TiffSource)
    if source is not None and source.alpha is not None and header.shape != source.header.shape:
        if header.size("S") == source.header.size("S"):
            raise OutputError(f"{path}: alpha cannot be resized: remove it from the input")
        source = replace(source, alpha=None)  # colours and alpha are gone
    nbytes = _file_bytes(header, source)
    dialect = _dialect(header, source, nbytes)
    if dialect.endswith("ome") and header.dtype.name not in ome.TYPES:
        raise OutputError(f"{path}: OME-TIFF has no {header.dtype.name}: save the input as float32")
    compressed = source is not None and source.first.compression != 1 and dialect != "imagej"
    is_big = nbytes >= CLASSIC_LIMIT or header.pyramid
    layout = Layout(source.order if source is not None else "<", is_big)
    return TiffOutput(dialect, layout, header, source, compressed)


def _file_bytes(header: Header, source: TiffSource | None) -> int:
    """An upper bound of the uncompressed file size in bytes."""
    pixels = header.nbytes
    if source is None:
        return pixels + 1024 * len(header.planes) + (1 << 16)
    pixels += pixels // header.size("S") if source.alpha is not None else 0
    common = sum(len(tag.data) + 32 for tag in source.first.tags.values())
    n_pages = max(len(header.planes) // header.size("S"), len(source.changes))
    rest = sum(len(t.data) for page in source.changes for t in page.values() if t is not None)
    return pixels + n_pages * (common + 1024) + rest + (1 << 16)


def _dialect(header: Header, source: TiffSource | None, nbytes: int) -> str:
    outer = "".join(axis for axis in header.axes if axis in "TCZ")
    is_ome = header.format.lower().endswith((".ome.tif", ".ome.tiff")) or header.pyramid
    if source is None:
        return "new-ome" if outer or is_ome else "new-plain"
    if is_ome and source.kind != "ome" and header.dtype.name in ome.TYPES:
        return "new-ome"
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


def _first_tags(out: TiffOutput, provenance: Record) -> dict[int, Tag]:
    """The tags of the first page, without those on pixel storage."""
    source, header, order = out.source, out.header, out.layout.order
    tags = {code: tag for code, tag in _input_tags(out, 0).items() if code not in ifd.STORAGE}
    was = source.first.text(ifd.DESCRIPTION) if source else b""
    text = _description(out, was)
    if not text:
        tags.pop(ifd.DESCRIPTION, None)
    elif text != was:
        tags[ifd.DESCRIPTION] = text_tag(text)
    if out.dialect == "imagej" and source and header.size("Z") != source.header.size("Z"):
        tags = imagej.without_slices(tags, order)
    if out.dialect == "new-ome":
        tags = {c: tag for c, tag in tags.items() if c not in (imagej.COUNTS, imagej.BLOCKS)}
    if source is None or header.spacing[1:] != source.header.spacing[1:]:
        tags |= _resolution(header.spacing, order, micrometres=out.dialect == "imagej")
    elif out.dialect == "new-ome" and source.kind == "imagej":
        # ImageJ's unit is in the description, which the new file lacks
        tags |= _resolution(header.spacing, order, micrometres=False)
    history: dict[str, Any] = {"restorectl": provenance}
    if source and (previous := _foreign_history(source.first.text(ifd.HISTORY))):
        history["previous"] = previous
    tags[ifd.HISTORY] = text_tag(dumps(history).encode())
    if out.dialect != "plain" or source is None or source.kind != "scanimage":
        tags[ifd.SOFTWARE] = text_tag(_software(source.first.text(ifd.SOFTWARE) if source else b""))
    return tags


def _description(out: TiffOutput, was: bytes) -> bytes:
    source, header, order = out.source, out.header, out.layout.order
    if out.dialect == "new-ome":
        return ome.new_document(header, order, _comments(source, was))
    if source is None or out.dialect in ("plain", "new-plain"):
        return was
    old = source.header
    if out.dialect == "ome":
        return ome.edited(was, old, header, order)
    if out.dialect == "imagej":
        return _imagej_description(was, old, header)
    if (header.axes, header.shape, header.spacing) == (old.axes, old.shape, old.spacing):
        return was
    found = shaped(was)
    if (header.axes, header.shape) != (old.axes, old.shape):
        found |= {"axes": header.axes, "shape": list(header.shape)}
    if header.spacing[0] is not None and header.spacing[0] != old.spacing[0]:
        found |= {"spacing": header.spacing[0], "unit": "um"}
    return json.dumps(found).encode()


def _comments(source: TiffSource | None, was: bytes) -> tuple[str, ...]:
    """Text of the old header to keep in a new OME-XML."""
    if source is None:
        return ()
    tags, order = source.first.tags, source.order
    labels = "\n".join(imagej.labels(tags, order))
    texts = (was.decode("utf-8", "replace"), imagej.info(tags, order), labels)
    return tuple(text for text in texts if text.strip())


def _imagej_description(was: bytes, old: Header, new: Header) -> bytes:
    changes: dict[str, str | None] = {}
    found = imagej.fields(was)
    if (new.axes, new.shape) != (old.axes, old.shape):
        outer = [axis for axis in new.axes if axis in "TCZ"]
        lengths = tuple(new.size(axis) for axis in outer)
        pages = len(new.planes) // new.size("S")
        changes |= imagej.stack_changes("".join(outer), lengths, pages)
        if len(outer) > 1:
            changes["hyperstack"] = "true"
    if new.spacing != old.spacing:
        unit = imagej.units(found)[0]
        if unit is None or new.spacing[1:] != old.spacing[1:]:
            unit = 1.0
            changes |= {"unit": "micron"} | {k: None for k in ("yunit", "zunit") if k in found}
        z = new.spacing[0]
        changes["spacing"] = None if z is None else ome.number(z / unit)
    elif new.size("Z") != old.size("Z"):
        changes["spacing"] = _rescaled(found.get("spacing"), old, new)
    if new.dtype != old.dtype:  # the calibration of grey values applies to the old type
        changes |= {k: None for k in ("cf", "c0", "c1", "c2", "c3", "c4", "vunit") if k in found}
    return imagej.edited(was, changes) if changes else was


def _rescaled(spacing: str | None, old: Header, new: Header) -> str | None:
    """The plane distance, in the file's unknown unit, that keeps the total depth."""
    try:
        return ome.number(float(spacing or "") * (old.size("Z") - 1) / (new.size("Z") - 1))
    except (ValueError, ZeroDivisionError):
        return None


def _resolution(spacing: Spacing, order: str, *, micrometres: bool) -> dict[int, Tag]:
    """Resolution tags in pixels per micrometre (for ImageJ) or per centimetre."""
    if spacing[1] is None or spacing[2] is None:
        return {}
    per_unit = Fraction(1 if micrometres else 10000)
    tags = {ifd.RESOLUTION_UNIT: integers_tag(order, ifd.SHORT, 1 if micrometres else 3)}
    for code, length in ((ifd.X_RESOLUTION, spacing[2]), (ifd.Y_RESOLUTION, spacing[1])):
        exact = per_unit / Fraction(ome.number(length))
        short = exact.limit_denominator(1_000_000)
        if not 0 < short.numerator < 1 << 32:
            raise OutputError(f"a pixel size of {length} micrometres does not fit into TIFF")
        data = struct.pack(order + "II", short.numerator, short.denominator)
        tags[code] = Tag(ifd.RATIONAL, data)
    return tags


def _software(was: bytes) -> bytes:
    """The Software tag: restorectl, and once the program that wrote the input."""
    own = f"restorectl {__version__}".encode()
    if was.startswith(b"restorectl "):
        before = was.partition(b" (input: ")[2]
        return own + (b" (input: " + before if before else b"")
    return own + (b" (input: " + was + b")" if was.strip() else b"")


def _foreign_history(text: bytes) -> str:
    """Another program's ImageHistory, unwrapped from restorectl's record if necessary."""
    try:
        found = parse_json(text)
    except ValueError:
        return text.decode("latin-1")
    if isinstance(found, dict) and "restorectl" in found:
        return str(found.get("previous", ""))
    return text.decode("latin-1")


def _input_tags(out: TiffOutput, k: int) -> dict[int, Tag]:
    """The tags of page k of the input, or what all its pages share if the number has changed."""
    source = out.source
    if source is None:
        return {}
    found: dict[int, Tag | None] = dict(source.first.tags)
    if len(source.changes) == out.n_pages:
        found |= source.changes[k]
    elif k:
        found = {c: tag for c, tag in found.items() if c not in _OF_ONE_PAGE}
    same = out.header.dtype == source.header.dtype and out.samples == source.first.samples
    return {c: t for c, t in found.items() if t is not None and (same or c not in _RANGE)}


def _page_tags(out: TiffOutput, first: Mapping[int, Tag], k: int) -> dict[int, Tag]:
    """The tags of page k, without those on pixel storage; `first`: tags of the new first page."""
    if k == 0:
        return dict(first)
    resolution = {c: tag for c, tag in first.items() if c in _RESOLUTION}
    if out.source is None:
        return resolution
    # page k as in the input, then changes of the whole file
    tags = {c: tag for c, tag in _input_tags(out, k).items() if c not in ifd.STORAGE}
    if tags.get(ifd.DESCRIPTION) == out.source.first.tags.get(ifd.DESCRIPTION):
        tags.pop(ifd.DESCRIPTION, None)
        if out.dialect in ("imagej", "plain") and ifd.DESCRIPTION in first:
            tags[ifd.DESCRIPTION] = first[ifd.DESCRIPTION]
    for code in (imagej.COUNTS, imagej.BLOCKS, ifd.HISTORY):  # these apply to the whole file
        tags.pop(code, None)
    return tags | resolution


def _write_children(file: BinaryIO, layout: Layout, page: Ifd) -> dict[int, Tag]:
    """Write the EXIF and GPS directories of a page; returns the tags that point to them."""
    found = {}
    for code, children in page.children.items():
        if code == ifd.SUB_IFDS or not children:
            continue
        inner = _write_children(file, layout, children[0])
        tags = {c: t for c, t in children[0].tags.items() if c != ifd.INTEROPERABILITY} | inner
        file.write(b"\0" * (file.tell() % 2))
        found[code] = integers_tag(layout.order, ifd.LONG, file.tell())
        file.write(pack_ifd(layout, tags, file.tell(), False, {}))
    return found


def _page(
    file: BinaryIO, out: TiffOutput, transparency: Callable[[slice], list[Array]]
) -> Generator[None, Array, list[list[Span]]]:
    """Write a page from the rows that are sent; returns where each strip or tile is, by level.

    transparency: rows -> (h, X) of alpha, if there is any.
    """
    height, colours = out.header.canonical_shape[3], out.header.size("S")
    found: list[list[Span]] = [[] for _ in out.levels]
    for each in range(out.samples if out.planar else 1):  # one after the other
        spans: list[list[Span]] = [[] for _ in out.levels]
        level = _level(file, out, 0, spans)
        next(level)
        top = 0
        while top < height:
            samples = []
            if not out.planar:
                for _ in range(colours):
                    samples.append((yield))
                samples += transparency(slice(top, top + len(samples[0])))
            elif each < colours:
                samples.append((yield))
            else:
                samples += transparency(slice(top, min(top + _TILE, height)))
            # (h, X) or (h, X, samples)
            level.send(np.stack(samples, -1) if len(samples) > 1 else samples[0])
            top += len(samples[0])
        for all_of_it, part in zip(found, spans, strict=True):
            all_of_it += part
    return found


def _level(
    file: BinaryIO, out: TiffOutput, k: int, spans: list[list[Span]]
) -> Generator[None, Array]:
    """Write the rows (h, X) or (h, X, samples) that are sent, and the smaller copies of them.

    As they come, so that no level is in memory. spans: where each strip or tile is, by level.
    """
    (height, _), more = out.levels[k], out.levels[k + 1 : k + 2]
    edges = [borders(n, m) for n, m in zip(out.levels[k], *more, strict=True)] if more else []
    smaller = _level(file, out, k + 1, spans)
    next(smaller, None) if more else None
    rest = over = None  # rows that wait to be written; and to be averaged, from edge `first` on
    written = first = 0
    while True:
        rows = yield
        rest = rows if rest is None else np.concatenate([rest, rows])
        tall = len(rest) if out.one_strip else _TILE if out.header.pyramid else out.rows_per_strip
        while len(rest) >= tall or written + len(rest) == height > written:
            block, rest = rest[:tall], rest[tall:]
            _write_block(file, out, block, spans[k])
            written += len(block)
            if not more:
                continue
            over = block if over is None else np.concatenate([over, block])
            last = bisect_right(edges[0], written) - 1
            if last > first:
                start, stop = edges[0][first], edges[0][last]
                others = [range(n + 1) for n in over.shape[2:]]
                made = means(over[: stop - start], [edges[0][first : last + 1], edges[1], *others])
                smaller.send(made)
                over, first = over[stop - start :], last


def _write_block(file: BinaryIO, out: TiffOutput, rows: Array, spans: list[Span]) -> None:
    """Write a strip or a row of tiles; appends the (offset, bytes) of each."""
    stored = out.header.dtype.newbyteorder("<" if out.layout.order == "<" else ">")
    for block in _tiles(rows) if out.header.pyramid else (rows,):
        if out.compressed and block.dtype.kind != "f":  # horizontal differences, modulo
            left = block[:, :-1]
            block = block.copy()
            block[:, 1:] -= left
        data: bytes | memoryview = np.ascontiguousarray(block, stored).data.cast("B")
        if out.compressed:
            data = zlib.compress(data, _LEVEL)
        if out.one_strip and spans:
            spans[-1] = (spans[-1][0], spans[-1][1] + len(data))
        else:
            spans.append((file.tell(), len(data)))
        file.write(data)


def _tiles(pixels: Array) -> Iterator[Array]:
    """A row of tiles of equal size; at the right and the bottom they are filled up with 0."""
    width, *rest = pixels.shape[1:]
    for left in range(0, width, _TILE):
        part = pixels[:, left : left + _TILE]
        missing = [(0, _TILE - n) for n in part.shape[:2]] + [(0, 0) for _ in rest]
        yield np.pad(part, missing)


def _write_smaller(
    file: BinaryIO, out: TiffOutput, levels: Sequence[Sequence[tuple[int, int]]], k: int
) -> dict[int, Tag]:
    """Write the directories of the smaller copies of page k; returns the tag that lists them."""
    offsets = []
    for size, spans in list(zip(out.levels, levels, strict=True))[1:]:
        offsets.append(file.tell())
        tags = _structure(out, spans, k, size)
        file.write(pack_ifd(out.layout, tags, file.tell(), False, {}))
    kind = ifd.LONG8 if out.layout.big else ifd.LONG
    return {ifd.SUB_IFDS: integers_tag(out.layout.order, kind, *offsets)} if offsets else {}


def _structure(
    out: TiffOutput,
    spans: Sequence[tuple[int, int]],
    k: int,
    reduced: tuple[int, ...] | None = None,
) -> dict[int, Tag]:
    """The tags on the pixel storage of page k, or of its smaller copy of this size."""
    order, header, samples = out.layout.order, out.header, out.samples
    height, width = reduced or header.canonical_shape[3:]
    old = Ifd(0, order, _input_tags(out, k))
    colour = ifd.RGB if header.size("S") == 3 else 1
    photometric = old.integer(ifd.PHOTOMETRIC, colour)
    same = out.source is not None and header.dtype == out.source.header.dtype
    unfit = photometric == ifd.PALETTE and not (same and ifd.COLORMAP in old.tags)
    if photometric == ifd.YCBCR or (photometric == ifd.RGB and samples < 3) or unfit:
        photometric = colour  # YCbCr was decoded to RGB
    short, long, offset = ifd.SHORT, ifd.LONG, ifd.LONG8 if out.layout.big else ifd.LONG
    kind = {"u": 1, "i": 2, "f": 3}[header.dtype.kind]
    values = {
        ifd.SUBFILE: (long, 0 if reduced is None else 1),
        ifd.WIDTH: (long, width),
        ifd.HEIGHT: (long, height),
        ifd.BITS: (short, *([header.dtype.itemsize * 8] * samples)),
        ifd.COMPRESSION: (short, 8 if out.compressed else 1),
        ifd.PHOTOMETRIC: (short, photometric),
        ifd.SAMPLES: (short, samples),
        ifd.PLANAR: (short, 2 if out.planar else 1),
        ifd.SAMPLE_FORMAT: (short, *([kind] * samples)),
    }
    starts, counts = (offset, *(at for at, _ in spans)), (offset, *(n for _, n in spans))
    if header.pyramid:
        values |= {ifd.TILE_WIDTH: (long, _TILE), ifd.TILE_HEIGHT: (long, _TILE)}
        values |= {ifd.TILE_OFFSETS: starts, ifd.TILE_BYTES: counts}
    else:
        values |= {ifd.ROWS_PER_STRIP: (long, out.rows_per_strip)}
        values |= {ifd.STRIP_OFFSETS: starts, ifd.STRIP_BYTES: counts}
    if out.compressed and header.dtype.kind != "f":
        values[ifd.PREDICTOR] = (short, 2)
    extra = samples - (3 if photometric == ifd.RGB else 1)
    if extra > 0:
        given = old.integers(ifd.EXTRA_SAMPLES)
        known = len(given) == extra and max(given) <= 2
        values[ifd.EXTRA_SAMPLES] = (short, *(given if known else (0,) * extra))
    tags = {code: integers_tag(order, *value) for code, value in values.items()}
    if photometric == ifd.PALETTE:
        tags[ifd.COLORMAP] = old.tags[ifd.COLORMAP]
    return tags


def _has_mark(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(32)
    return any(head.startswith(_RECORDS, at) for at in (8, 16))  # after the header: TIFF, BigTIFF


# Makers' TIFFs, by their suffixes: FORMAT reads them, but their names promise what is not written
INPUT_ONLY = Format(probe=lambda path, head: False, open=TiffImage)
FORMAT = Format(
    probe=lambda path, head: head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    open=TiffImage,
    create=create,
    check=output_for,
    divided=DividedTiff,
    record=read_record,
    has_mark=_has_mark,
    held_when_open=lambda path: 0,  # read in parts
    in_bands=True,
    join=lambda path, parts: join(path, parts, CLASSIC_LIMIT),
    titles=titles,
)
