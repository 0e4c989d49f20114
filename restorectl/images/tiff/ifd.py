"""TIFF's structure: the chain of page directories (IFDs), read without trust, and written.

tifffile decodes pixels, but it accepts a half-written stack as one page, drops tags it does not
know, and rounds resolutions. So the structure is read here: each tag as its bytes, each pointer
compared with the size of the file.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from restorectl.errors import IncompleteError, InputError

# TIFF type -> bytes of one value
TYPE_SIZE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
TYPE_SIZE |= {16: 8, 17: 8, 18: 8}  # BigTIFF
_INTEGER = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
SHORT, LONG, RATIONAL, ASCII, LONG8 = 3, 4, 5, 2, 16
# Tags, by the names of the TIFF specification
SUBFILE, OLD_SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = (
    254,
    255,
    256,
    257,
    258,
    259,
    262,
)
ORIENTATION, STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 266, 273, 277, 278, 279
X_RESOLUTION, Y_RESOLUTION, PLANAR, RESOLUTION_UNIT, PREDICTOR = 282, 283, 284, 296, 317
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
DESCRIPTION, SOFTWARE, COLORMAP, EXTRA_SAMPLES, SAMPLE_FORMAT = 270, 305, 320, 338, 339
JPEG_TABLES, VOLUME_DEPTH, HISTORY = 347, 32997, 37395
RGB, PALETTE, CMYK, YCBCR = 2, 3, 5, 6  # values of PHOTOMETRIC; 0 and 1 are grey
_MAX_TAG_BYTES = 1 << 30
JPEG = 7  # a value of COMPRESSION
# zlib reaches 1032:1, LZW 2700:1; above this the page size in the header is wrong
_MAX_EXPANSION = dict.fromkeys((1, 5, JPEG, 8, 32773, 32946), 5000)
_OTHER_EXPANSION = 1 << 18  # zstd, JPEG XL, LERC store an empty page in some bytes for a block


@dataclass(frozen=True)
class Tag:
    """A stored tag: TIFF type, and its values as bytes in the file's byte order."""

    type: int
    data: bytes

    @property
    def count(self) -> int:
        return len(self.data) // TYPE_SIZE[self.type]

    def integers(self, order: str) -> tuple[int, ...]:
        """The values; () if they are not unsigned integers."""
        code = _INTEGER.get(self.type)
        return struct.unpack(f"{order}{self.count}{code}", self.data) if code else ()


@dataclass(frozen=True)
class Ifd:
    """One page directory."""

    offset: int
    order: str  # "<" or ">"
    tags: Mapping[int, Tag]

    def integers(self, code: int) -> tuple[int, ...]:
        """The values of a tag; () if it is absent or does not hold unsigned integers."""
        return self.tags[code].integers(self.order) if code in self.tags else ()

    def integer(self, code: int, default: int = 0) -> int:
        return next(iter(self.integers(code)), default)

    def text(self, code: int) -> bytes:
        """The bytes of a string without the closing NUL; b"" if the tag is absent."""
        return self.tags[code].data.rstrip(b"\0") if code in self.tags else b""

    @cached_property
    def size(self) -> tuple[int, int]:
        """(rows, columns)"""
        return self.integer(HEIGHT), self.integer(WIDTH)

    @property
    def samples(self) -> int:
        """Samples of one pixel, alpha included."""
        return self.integer(SAMPLES, 1)

    @property
    def planar(self) -> bool:
        """Whether samples are stored as separate planes, one after another."""
        return self.integer(PLANAR, 1) == 2

    @cached_property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """(offset, bytes) of every strip or tile."""
        where, length = (
            (TILE_OFFSETS, TILE_BYTES)
            if TILE_OFFSETS in self.tags
            else (STRIP_OFFSETS, STRIP_BYTES)
        )
        offsets = self.integers(where)
        if length in self.tags:
            return tuple(zip(offsets, self.integers(length), strict=False))
        # old uncompressed files with one strip may lack StripByteCounts
        return ((offsets[0], self.nbytes),) if len(offsets) == 1 else ()

    @cached_property
    def nbytes(self) -> int:
        """Uncompressed bytes of the page; rows are padded to whole bytes."""
        rows, columns = self.size
        bits = self.integers(BITS) or (1,)
        bits_of_pixel = sum(bits) if len(bits) == self.samples else bits[0] * self.samples
        return rows * math.ceil(columns * bits_of_pixel / 8)

    @property
    def compression(self) -> int:
        return self.integer(COMPRESSION, 1)

    @property
    def structure(self) -> tuple[object, ...]:
        """Properties that all pages of one image must share."""
        codes = (
            BITS,
            COMPRESSION,
            ORIENTATION,
            SAMPLES,
            ROWS_PER_STRIP,
            PLANAR,
            PREDICTOR,
            TILE_WIDTH,
            TILE_HEIGHT,
            SAMPLE_FORMAT,
        )
        return (self.size, *(self.integers(code) for code in codes))

    @property
    def is_reduced(self) -> bool:
        """Whether the page is a thumbnail, a pyramid level or a mask."""
        return bool(self.integer(SUBFILE) & 0b101) or self.integer(OLD_SUBFILE) == 2

    @property
    def is_final(self) -> bool:
        """Whether the page is uncompressed and contiguous, row by row from the first strip."""
        plain = (
            self.compression == 1
            and self.integer(ORIENTATION, 1) == 1
            and self.integer(PREDICTOR, 1) == 1
        )
        whole = {*self.integers(BITS)} <= {8, 16, 32, 64} and BITS in self.tags
        joined = all(a + n == b for (a, n), (b, _) in pairwise(self.segments))
        return plain and whole and joined and TILE_WIDTH not in self.tags and bool(self.segments)


@dataclass(frozen=True)
class Layout:
    """How a file's directories are stored."""

    order: str
    big: bool

    def unpack(self, what: str, data: bytes, at: int = 0) -> int:
        value: int = struct.unpack_from(self.order + what, data, at)[0]
        return value


def read_chain(file: BinaryIO, path: Path) -> tuple[Layout, list[Ifd]]:
    """All page directories of a TIFF, in the file's order.

    Raises IncompleteError if a directory, tag, strip or tile lies beyond the end of the file or was
    not written yet, InputError if the structure is invalid.
    """
    file.seek(0, 2)
    end = file.tell()
    file.seek(0)
    head = file.read(16)
    if len(head) < 8:
        raise IncompleteError(f"{path}: ends within its first 8 bytes")
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", head, 2)[0] == 43
    layout = Layout(order, big)
    if big and len(head) < 16:
        raise IncompleteError(f"{path}: ends within its first 16 bytes")
    offset = layout.unpack("Q", head, 8) if big else layout.unpack("I", head, 4)
    if offset == 0:
        raise IncompleteError(f"{path}: has no page yet: it was not closed by its writer")
    pages: list[Ifd] = []
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise InputError(f"{path}: page {len(pages)} points back to an earlier one: damaged")
        seen.add(offset)
        page, offset = _read_ifd(file, path, layout, offset, end, len(pages))
        _check_segments(page, path, len(pages), end)
        pages.append(page)
    return layout, pages


def _read_ifd(
    file: BinaryIO, path: Path, layout: Layout, offset: int, end: int, index: int
) -> tuple[Ifd, int]:
    cut = IncompleteError(
        f"{path}: page {index} lies beyond the end of the file ({end} bytes): it is cut off or"
        " still being written"
    )
    counter, entry, pointer = (8, 20, "Q") if layout.big else (2, 12, "I")
    if offset >= end:  # a 64-bit offset may be too large for seek
        raise cut
    file.seek(offset)
    head = file.read(counter)
    if len(head) < counter:
        raise cut
    n_tags = layout.unpack("Q" if layout.big else "H", head)
    if n_tags == 0:
        raise IncompleteError(f"{path}: page {index} is blank: the file is still being copied")
    if n_tags > 4096:
        raise InputError(f"{path}: page {index} claims {n_tags} tags: the file is damaged")
    table = file.read(n_tags * entry + struct.calcsize(pointer))
    if len(table) < n_tags * entry + struct.calcsize(pointer):
        raise cut
    tags: dict[int, Tag] = {}
    for at in range(0, n_tags * entry, entry):
        code, kind = struct.unpack_from(layout.order + "HH", table, at)
        if kind not in TYPE_SIZE:
            continue  # the TIFF specification asks readers to skip types they do not know
        nbytes = layout.unpack(pointer, table, at + 4) * TYPE_SIZE[kind]
        inline = at + 4 + struct.calcsize(pointer)
        if nbytes <= struct.calcsize(pointer):
            tags.setdefault(code, Tag(kind, table[inline : inline + nbytes]))
            continue
        start = layout.unpack(pointer, table, inline)
        if start + nbytes > end:
            raise cut
        if nbytes > _MAX_TAG_BYTES:
            raise InputError(f"{path}: tag {code} of page {index} has {nbytes} bytes: damaged")
        file.seek(start)
        tags.setdefault(code, Tag(kind, file.read(nbytes)))  # Micro-Manager writes 270 twice
    following = layout.unpack(pointer, table, n_tags * entry)
    return Ifd(offset, layout.order, tags), following


def _check_segments(page: Ifd, path: Path, index: int, end: int) -> None:
    """Raise unless all strips or tiles of the page exist and are large enough for its pixels."""
    rows, columns = page.size
    if rows == 0 or columns == 0:
        raise InputError(f"{path}: page {index} has no pixels ({rows} rows, {columns} columns)")
    stored = sum(n for _, n in page.segments)
    missing = f"{path}: page {index} is not complete: "
    expected = _expected_segments(page)
    if len(page.segments) < expected:
        raise IncompleteError(f"{missing}{len(page.segments)} of {expected} strips or tiles exist")
    for offset, n in page.segments:
        if offset == 0 or n == 0:
            raise IncompleteError(f"{missing}a strip or tile was never written")
        if offset + n > end:
            raise IncompleteError(f"{missing}its pixels reach byte {offset + n} of a file of {end}")
    subsampled = page.integer(PHOTOMETRIC) == YCBCR
    if page.compression == 1 and stored < page.nbytes and not subsampled:
        raise IncompleteError(f"{missing}{stored} bytes of pixels, but {page.nbytes} are needed")
    expansion = _MAX_EXPANSION.get(page.compression, _OTHER_EXPANSION)
    if page.nbytes > max(stored, 4096) * expansion:
        raise InputError(
            f"{path}: page {index} claims {rows} x {columns} pixels but stores only {stored} bytes:"
            " the file is damaged"
        )


def _expected_segments(page: Ifd) -> int:
    """How many strips or tiles the page must have."""
    rows, columns = page.size
    if TILE_OFFSETS in page.tags:
        height, width = page.integer(TILE_HEIGHT), page.integer(TILE_WIDTH)
        if not height or not width:
            return 0
        count = math.ceil(rows / height) * math.ceil(columns / width)
    else:
        count = math.ceil(rows / min(rows, page.integer(ROWS_PER_STRIP, rows) or rows))
    return count * (page.samples if page.planar else 1)


def pack_ifd(
    layout: Layout, tags: Mapping[int, Tag], at: int, following: bool, placed: Mapping[int, int]
) -> bytes:
    """The bytes of a directory and its out-of-line values, to be written at offset `at`.

    `following`: another directory follows directly. `placed`: offsets of values already written,
    by tag.
    """
    order, pointer = layout.order, "Q" if layout.big else "I"
    inline = struct.calcsize(pointer)
    entry = 4 + 2 * inline
    head = struct.pack(order + ("Q" if layout.big else "H"), len(tags))
    beyond = at + len(head) + len(tags) * entry + inline
    table, values = [head], bytearray()
    for code, tag in sorted(tags.items()):
        table.append(struct.pack(order + "HH" + pointer, code, tag.type, tag.count))
        if len(tag.data) <= inline:
            table.append(tag.data.ljust(inline, b"\0"))
            continue
        if code in placed:
            table.append(struct.pack(order + pointer, placed[code]))
            continue
        values += b"\0" * ((beyond + len(values)) % 2)
        table.append(struct.pack(order + pointer, beyond + len(values)))
        values += tag.data
    values += b"\0" * ((beyond + len(values)) % 2)
    table.append(struct.pack(order + pointer, beyond + len(values) if following else 0))
    return b"".join(table) + bytes(values)


def integers_tag(order: str, kind: int, *values: int) -> Tag:
    """A tag of unsigned integers."""
    return Tag(kind, struct.pack(f"{order}{len(values)}{_INTEGER[kind]}", *values))


def text_tag(text: bytes) -> Tag:
    """A string tag, closed by NUL."""
    return Tag(ASCII, text + b"\0")
