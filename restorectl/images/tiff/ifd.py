"""TIFF's structure: the chain of page directories (IFDs), read without trust, and written.

tifffile decodes pixels, but it accepts a half-written stack as one page, drops tags it does not
know, and rounds resolutions. So the structure is read here: each tag as its bytes, each pointer
compared with the size of the file. What writers are known to get wrong is mended: byte counts
(`Ifd.segments`) and the bits of LSM files.
"""

import io
import itertools
import math
import struct
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from operator import le
from pathlib import Path
from types import MappingProxyType
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
FILL_ORDER, STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 266, 273, 277, 278, 279
X_RESOLUTION, Y_RESOLUTION, PLANAR, RESOLUTION_UNIT, PREDICTOR = 282, 283, 284, 296, 317
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
DESCRIPTION, SOFTWARE, COLORMAP, EXTRA_SAMPLES, SAMPLE_FORMAT = 270, 305, 320, 338, 339
JPEG_TABLES, VOLUME_DEPTH, LSM_INFO, HISTORY = 347, 32997, 34412, 37395
SUB_IFDS, EXIF, GPS, INTEROPERABILITY = 330, 34665, 34853, 40965  # pointers to other directories
RGB, PALETTE, YCBCR = 2, 3, 6  # values of PHOTOMETRIC; 0 and 1 are grey
_MAX_TAG_BYTES = 1 << 30
JPEG = 7  # a value of COMPRESSION
# Tags on pixel storage or with offsets into the file: they describe this file alone
STORAGE = frozenset({254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 288, 289})
STORAGE |= {317, 320, 322, 323, 324, 325, 330, 338, 339, 347, 512, 513, 514, 515, 517, 518, 519}
STORAGE |= {520, 521, 529, 530, 531, 532, 34665, 34853, 40965, 34412, 33628, 33629, 33630, 33631}
STORAGE |= {32997, 32998}
_BILEVEL = (2, 3, 4)  # values of COMPRESSION
# Tags on storage that hold numbers, and the largest possible ones
_NUMBERS = dict.fromkeys((BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR), 0xFFFF)
_NUMBERS |= dict.fromkeys((PREDICTOR, SAMPLE_FORMAT), 0xFFFF)
_NUMBERS |= dict.fromkeys((WIDTH, HEIGHT, ROWS_PER_STRIP, TILE_WIDTH, TILE_HEIGHT), 0xFFFFFFFF)
SPARSE = (0, 0)  # a strip or tile that was never written: it holds no measurements
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
    end: int = 0  # bytes of the file
    counted: bool = True  # whether the byte counts are those of the stored bytes
    # The directories that SUB_IFDS, EXIF, GPS and INTEROPERABILITY point to
    children: Mapping[int, tuple["Ifd", ...]] = field(default_factory=lambda: MappingProxyType({}))

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
    def segment_size(self) -> tuple[int, int]:
        """(rows, columns) of a strip or tile; (0, n) or (n, 0) if the tags are damaged."""
        rows, columns = self.size
        if TILE_OFFSETS in self.tags:
            return self.integer(TILE_HEIGHT), self.integer(TILE_WIDTH)
        return min(self.integer(ROWS_PER_STRIP, rows) or rows, rows), columns

    @cached_property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """(offset, bytes) of every strip or tile, or SPARSE.

        Where byte counts are missing, 0, too small or not of the stored bytes, but the pixels fit
        before what comes next in the file, that is how many there are.
        """
        tiled = TILE_OFFSETS in self.tags
        offsets = self.integers(TILE_OFFSETS if tiled else STRIP_OFFSETS)
        given = self.integers(TILE_BYTES if tiled else STRIP_BYTES)
        given += (0,) * (len(offsets) - len(given))
        needed = self.segment_bytes
        least = needed if self.compression == 1 else (1,) * len(given)
        if self.counted and all(map(le, least, given)):
            return tuple(zip(offsets, given, strict=False))
        borders = sorted({*offsets, self.offset, self.end})
        found = []
        for offset, count, size in zip(offsets, given, needed, strict=False):
            room = next((b for b in borders if b > offset), offset) - offset
            if offset and self.compression != 1 and not (count and self.counted):
                count = room
            elif offset and count < size <= room:
                count = size
            found.append((offset, count))
        return tuple(found)

    @cached_property
    def segment_bytes(self) -> tuple[int, ...]:
        """The uncompressed bytes of each strip or tile; 0 if they may be subsampled."""
        tiled = TILE_OFFSETS in self.tags
        count = len(self.integers(TILE_OFFSETS if tiled else STRIP_OFFSETS))
        tall, wide = self.segment_size
        if self.integer(PHOTOMETRIC) == YCBCR or not tall:
            return (0,) * count
        row = math.ceil(wide * (self.pixel_bits // (self.samples if self.planar else 1)) / 8)
        if tiled:
            return (tall * row,) * count
        rows = self.size[0]
        down = math.ceil(rows / tall)
        return tuple(min(tall, rows - k % down * tall) * row for k in range(count))

    @property
    def pixel_bits(self) -> int:
        """Bits of one pixel, all samples together."""
        bits = self.integers(BITS) or (1,)
        return sum(bits) if len(bits) == self.samples else bits[0] * self.samples

    @cached_property
    def nbytes(self) -> int:
        """Uncompressed bytes of the page; rows are padded to whole bytes."""
        rows, columns = self.size
        return rows * math.ceil(columns * self.pixel_bits / 8)

    @property
    def compression(self) -> int:
        return self.integer(COMPRESSION, 1)

    @property
    def structure(self) -> tuple[object, ...]:
        """Properties that all pages of one image must share; how they are stored may differ."""
        codes = (BITS, SAMPLES, SAMPLE_FORMAT)
        planar = self.planar and self.samples > 1
        return (self.size, planar, self.samples, *(self.integers(code)[:1] for code in codes))

    @property
    def images(self) -> tuple["Ifd", ...]:
        """The page, and images as large in its SubIFDs; only these if the page is a thumbnail."""
        rows, columns = self.size
        inside = tuple(
            child
            for child in self.children.get(SUB_IFDS, ())
            if not child.is_reduced and math.prod(child.size) >= rows * columns
        )
        return inside if inside and self.is_reduced else (self, *inside)

    @property
    def is_reduced(self) -> bool:
        """Whether the page is a thumbnail, a pyramid level or a mask."""
        return bool(self.integer(SUBFILE) & 0b101) or self.integer(OLD_SUBFILE) == 2

    @property
    def is_final(self) -> bool:
        """Whether the page is uncompressed and contiguous, row by row from the first strip."""
        plain = (
            self.compression == 1
            and self.integer(FILL_ORDER, 1) == 1
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


def read_directory(data: bytes, name: str) -> Ifd:
    """The first directory of a TIFF in memory, such as EXIF data. Raises InputError."""
    if len(data) < 8 or data[:2] not in (b"II", b"MM"):
        raise InputError(f"{name} is no TIFF")
    layout = Layout("<" if data[:2] == b"II" else ">", big=False)
    file, path = io.BytesIO(data), Path(name)
    page, _ = _read_ifd(file, path, layout, layout.unpack("I", data, 4), len(data), name)
    return _with_children(file, path, layout, page, (EXIF, GPS))


def read_chain(file: BinaryIO, path: Path) -> list[Ifd]:
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
        name = f"page {len(pages)}"
        page, offset = _read_ifd(file, path, layout, offset, end, name)
        page = _with_children(file, path, layout, page, (SUB_IFDS, EXIF, GPS))
        if LSM_INFO in (pages[0] if pages else page).tags:
            page = _mended_lsm(file, page)
        for k, image in enumerate(page.images):
            _check_segments(image, path, name if k == 0 else f"SubIFD {k} of {name}")
        pages.append(page)
    _check_overlap(pages, path)
    return pages


def _read_ifd(
    file: BinaryIO, path: Path, layout: Layout, offset: int, end: int, name: str
) -> tuple[Ifd, int]:
    cut = IncompleteError(
        f"{path}: {name} lies beyond the end of the file ({end} bytes): it is cut off or"
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
        raise IncompleteError(f"{path}: {name} is blank: the file is still being copied")
    if n_tags > 4096:
        raise InputError(f"{path}: {name} claims {n_tags} tags: the file is damaged")
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
            raise InputError(f"{path}: tag {code} of {name} has {nbytes} bytes: damaged")
        file.seek(start)
        tags.setdefault(code, Tag(kind, file.read(nbytes)))  # Micro-Manager writes 270 twice
    following = layout.unpack(pointer, table, n_tags * entry)
    return Ifd(offset, layout.order, tags, end), following


def _with_children(
    file: BinaryIO, path: Path, layout: Layout, page: Ifd, codes: tuple[int, ...]
) -> Ifd:
    """The page with the directories that its tags point to.

    SubIFDs have to be whole, as they may hold the image; damaged EXIF and GPS data are left out.
    """
    children: dict[int, tuple[Ifd, ...]] = {}
    for code in codes:
        with suppress(InputError) if code != SUB_IFDS else nullcontext():
            found = []
            for offset in filter(None, page.integers(code)):
                child, _ = _read_ifd(file, path, layout, offset, page.end, f"tag {code}")
                if code == EXIF:
                    child = _with_children(file, path, layout, child, (INTEROPERABILITY,))
                found.append(child)
            children[code] = tuple(found)
    return replace(page, children=MappingProxyType(children))


def _mended_lsm(file: BinaryIO, page: Ifd) -> Ifd:
    """A page of an LSM file with its true bits per sample.

    Two values would fit into the tag, but some versions of the software store their offset there.
    The counts of compressed strips are those of the uncompressed bytes.
    """
    tags = dict(page.tags)
    bits = page.integers(BITS)
    if len(bits) == 2 and not {*bits} <= {8, 16, 32}:
        file.seek(struct.unpack(page.order + "I", tags[BITS].data)[0])
        tags[BITS] = Tag(SHORT, file.read(4).ljust(4, b"\0"))
    if page.compression == 1 and page.integer(PREDICTOR, 1) != 1:
        del tags[PREDICTOR]
    return replace(page, tags=tags, counted=page.compression == 1)


def _contradiction(page: Ifd) -> str:
    """What the tags on the storage of a page say that cannot be true; "" if there is nothing."""
    for code, most in _NUMBERS.items():
        numbers = page.integers(code)
        if code in page.tags and not (numbers and max(numbers) <= most):
            return f"has no usable number in tag {code}"
    if page.integer(PLANAR, 1) not in (1, 2):
        return f"has an unknown layout of samples ({page.integer(PLANAR)})"
    if page.samples < 3 and page.integer(PHOTOMETRIC) in (RGB, YCBCR):
        return f"has colours, but {page.samples} samples of a pixel"
    if page.compression in _BILEVEL and {*page.integers(BITS)} - {1}:
        return f"has a compression for black and white ({page.compression}), but other pixels"
    given = page.integers(TILE_BYTES if TILE_OFFSETS in page.tags else STRIP_BYTES)
    if COMPRESSION not in page.tags and sum(given) != sum(page.segment_bytes):
        return "does not say how it is compressed"
    return ""


def _check_overlap(pages: Sequence[Ifd], path: Path) -> None:
    """Raises InputError if uncompressed pixels lie over one another or over a directory."""
    spans = {(page.offset, page.offset + 12 * len(page.tags)) for page in pages}
    for image in itertools.chain.from_iterable(page.images for page in pages):
        if image.compression == 1:
            for (start, n), size in zip(image.segments, image.segment_bytes, strict=True):
                spans.add((start, start + min(n, size)))
    for (_, stop), (start, _) in pairwise(sorted(spans)):
        if start < stop:
            raise InputError(f"{path}: its parts overlap at byte {start}: the file is damaged")


def _check_segments(page: Ifd, path: Path, name: str) -> None:
    """Raise unless all strips or tiles of the page exist and are large enough for its pixels."""
    rows, columns = page.size
    if rows == 0 or columns == 0 or page.samples == 0:
        raise InputError(
            f"{path}: {name} has no pixels ({rows} rows, {columns} columns, {page.samples} samples"
            " of a pixel): the file is damaged"
        )
    contradiction = _contradiction(page)
    if contradiction:
        raise InputError(f"{path}: {name} {contradiction}: the file is damaged")
    tall, wide = page.segment_size
    if not tall or not wide:
        raise InputError(f"{path}: {name} has tiles of {tall} x {wide} pixels: the file is damaged")
    missing = f"{path}: {name} is not complete: "
    count = math.ceil(rows / tall) * math.ceil(columns / wide)
    expected = count * (page.samples if page.planar else 1)
    if len(page.segments) < expected:
        raise IncompleteError(f"{missing}{len(page.segments)} of {expected} strips or tiles exist")
    if {*page.segments} == {SPARSE}:
        raise IncompleteError(f"{missing}none of its strips or tiles was written")
    for (offset, n), size in zip(page.segments, page.segment_bytes, strict=True):
        if (offset == 0 or n == 0) and (offset, n) != SPARSE:
            raise IncompleteError(f"{missing}a strip or tile was never written")
        if offset + n > page.end:
            raise IncompleteError(
                f"{missing}its pixels reach byte {offset + n} of a file of {page.end}"
            )
        if page.compression == 1 and n < size and n:
            raise IncompleteError(f"{missing}{n} of the {size} bytes of a strip or tile exist")
    stored = sum(n for _, n in page.segments)
    expansion = _MAX_EXPANSION.get(page.compression, _OTHER_EXPANSION)
    if page.nbytes > max(stored, 4096) * expansion and SPARSE not in page.segments:
        raise InputError(
            f"{path}: {name} claims {rows} x {columns} pixels but stores only {stored} bytes:"
            " the file is damaged"
        )


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


def pack_head(layout: Layout, first: int) -> bytes:
    """The file header; `first`: the offset of the first directory."""
    mark = b"II" if layout.order == "<" else b"MM"
    if layout.big:
        return mark + struct.pack(layout.order + "HHHQ", 43, 8, 0, first)
    return mark + struct.pack(layout.order + "HI", 42, first)


def integers_tag(order: str, kind: int, *values: int) -> Tag:
    """A tag of unsigned integers."""
    return Tag(kind, struct.pack(f"{order}{len(values)}{_INTEGER[kind]}", *values))


def text_tag(text: bytes) -> Tag:
    """A string tag, closed by NUL."""
    return Tag(ASCII, text + b"\0")
