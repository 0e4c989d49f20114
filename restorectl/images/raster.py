"""PNG (8 and 16 bit, grey and RGB) and JPEG (read only).

An image has one plane per colour. Alpha is not an intensity: it is copied unchanged into a PNG,
like the ancillary chunks (text, physical size, colour profile). imageio decodes the pixels, and
imagecodecs those of 16-bit colour, which imageio (Pillow) silently reads as 8 bit and cannot write.
Neither checks whether a file is complete. So chunks are read, checked and written here.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import imagecodecs
import imageio.v3 as iio
import numpy as np
from PIL import Image as Pillow

from restorectl import __version__
from restorectl.errors import IncompleteError, InputError, OutputError
from restorectl.files.provenance import dumps
from restorectl.files.strict import parse_json
from restorectl.images.header import PRINT_DPI, UNKNOWN_SPACING, Header, Plane, Spacing
from restorectl.images.image import (
    ALL,
    Array,
    Consumer,
    Format,
    Image,
    Record,
    choose_series,
)

Chunk = tuple[bytes, bytes]  # (type, data)
SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RECORD = b"restorectl\0"  # start of the text chunk with the provenance record
_SOFTWARE = b"Software\0"
# Text chunks that show that restorectl wrote a file, and how far into the file they may be
_MARKS = (b"tEXt" + _RECORD, b"tEXt" + _SOFTWARE + b"restorectl ")
_MARKED = 1 << 20
# Chunks that describe the stored pixels, or colours that restored pixels do not have
_DROPPED = frozenset({b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"hIST", b"sBIT", b"bKGD"})
_DROPPED |= {b"acTL", b"fcTL", b"fdAT"}  # an animation's frames; one frame is an image
_DECODED = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
)  # all that pixels need: the critical ones
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples per pixel of PNG's colour types
_PNG_EXPANSION = 1100  # zlib reaches 1032:1
_JPEG_EXPANSION = 2000  # a 16x16 block of 768 bytes takes more than 4 bits
_IDAT_BYTES = 1 << 20
Pillow.MAX_IMAGE_PIXELS = None  # sizes are compared with the file's: no alarm about large images


@dataclass(frozen=True, eq=False)
class PngExtras:
    """What a written PNG copies from the input image."""

    chunks: tuple[Chunk, ...] = ()
    alpha: Array | None = None  # (Y, X)


class RasterImage(Image):
    """An open PNG or JPEG. The pixels are decoded at the first read."""

    def __init__(self, path: Path, header: Header, data: bytes) -> None:
        self.path = path
        self.header = header
        self._data = data
        self._pixels: Array | None = None  # (Y, X, S), alpha last if there is one

    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        if plane not in self.header.planes:
            raise IndexError(f"plane t,c,z = {plane} of {self.header.canonical_shape[:3]}")
        if self._pixels is None:
            self._pixels = np.atleast_3d(_decode(self.path, self._data))
        return np.ascontiguousarray(self._pixels[rows, cols, plane[1]])

    def close(self) -> None:
        self._pixels = None


def open_png(path: Path, axes: str | None, series: str | None) -> RasterImage:
    """Open a PNG; see `image.open_image`."""
    choose_series(("",), series, path)
    data = path.read_bytes()
    chunks = read_chunks(path, data)
    width, height, depth, colour = struct.unpack_from(">IIBB", chunks[0][1])
    if depth == 1:
        raise InputError(f"{path}: is black and white (1 bit): save it as 8 bit")
    frames = sum(kind == b"fcTL" for kind, _ in chunks)
    if frames > 1 or any(kind == b"fdAT" for kind, _ in chunks):
        raise InputError(
            f"{path}: is an animation of {frames} frames: save each frame as an image, or all as a"
            " TIFF"
        )
    palette = np.frombuffer(dict(chunks).get(b"PLTE", b""), np.uint8).reshape(-1, 3)
    if colour == 3 and (palette != palette[:, :1]).any():
        raise InputError(
            f"{path}: has a colour palette, whose indices are not intensities: save it as"
            " greyscale or RGB"
        )
    data = SIGNATURE + b"".join(chunk(*item) for item in chunks if item[0] in _DECODED)
    alpha = _decode(path, data)[..., -1] if colour in (4, 6) else None
    chunks = [item for item in chunks if item[0] not in _DROPPED and not _is_record(item)]
    dtype = np.dtype(np.uint16 if depth == 16 else np.uint8)
    shape = (height, width, 3) if colour in (2, 6) else (height, width)
    header = _header(path, axes, shape, dtype, "png", PngExtras(tuple(chunks), alpha))
    return RasterImage(path, header, data)


def open_jpeg(path: Path, axes: str | None, series: str | None) -> RasterImage:
    """Open a JPEG; see `image.open_image`."""
    choose_series(("",), series, path)
    data = path.read_bytes()
    end = data.rfind(b"\xff\xd9")
    if end < 0 or end < data.rfind(b"\xff\xda"):  # the last scan has no end marker
        raise IncompleteError(f"{path}: has no JPEG end: it is cut off or still being written")
    try:
        with iio.imopen(data, "r", plugin="pillow") as image:
            found = image.metadata(index=0)
    except (OSError, SyntaxError, ValueError) as exc:
        raise InputError(f"{path}: cannot be decoded: its header is damaged") from exc
    if found["mode"] not in ("L", "RGB"):
        raise InputError(f"{path}: has {found['mode']} colours: save it as RGB or grey")
    width, height = found["shape"]
    if width * height > len(data) * _JPEG_EXPANSION:
        raise InputError(f"{path}: claims {height} x {width} pixels in a small file: it is damaged")
    shape = (height, width, 3) if found["mode"] == "RGB" else (height, width)
    kept = PngExtras(_jpeg_chunks(found))
    return RasterImage(path, _header(path, axes, shape, np.dtype(np.uint8), "jpeg", kept), data)


def _header(
    path: Path,
    axes: str | None,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    form: str,
    kept: PngExtras,
) -> Header:
    own = "YXS" if len(shape) == 3 else "YX"
    if axes is not None and axes.upper() != own:
        raise InputError(f"{path}: `axes` {axes} does not fit its axes {own} of shape {shape}")
    extra = MappingProxyType({"raster": kept})
    return Header(own, shape, dtype, _spacing(kept.chunks), (), form, extra)


def _decode(path: Path, data: bytes) -> Array:
    """Decode pixels: (Y, X) or (Y, X, samples) at the file's bit depth."""
    depth, colour = data[24:26] if data.startswith(SIGNATURE) else (8, 0)
    try:
        if depth == 16 and colour in (2, 4, 6):
            deep: Array = imagecodecs.png_decode(data)
            return deep
        mode = "L" if colour == 3 else None  # a palette of greys
        return iio.imread(data, plugin="pillow", index=0, mode=mode, writeable_output=False)
    except (OSError, SyntaxError, ValueError, zlib.error, imagecodecs.PngError) as exc:
        if "truncated" in str(exc):
            raise IncompleteError(f"{path}: its pixels are cut off: {exc}") from exc
        reason = "its header is damaged" if exc.__cause__ else exc  # imageio could not open it
        raise InputError(f"{path}: its pixels cannot be decoded: {reason}") from exc


def _check_png(path: Path, header: Header) -> None:
    """Raises OutputError if PNG cannot hold the image."""
    samples = header.size("S")
    if len(header.planes) != samples or samples not in (1, 3) or "SYX" in header.axes:
        raise OutputError(f"{path}: PNG holds one grey or RGB plane, not {header.axes}: use .tif")
    if header.dtype.name not in ("uint8", "uint16"):
        raise OutputError(f"{path}: PNG cannot hold {header.dtype.name} pixels: use .tif")


def create_png(path: Path, header: Header, provenance: Record) -> Consumer:
    """Write a PNG from the planes that are sent; see `image.create_image`."""
    kept = header.extra.get("raster", PngExtras())
    height, width = header.canonical_shape[3:]
    stack = [np.empty((height, width), header.dtype) for _ in header.planes]
    top = 0
    while top < height:
        for plane in stack:
            rows = yield
            plane[top : top + len(rows)] = rows
        top += len(rows)
    if kept.alpha is not None and kept.alpha.dtype == header.dtype:
        stack.append(kept.alpha)
    pixels = np.stack(stack, axis=-1) if len(stack) > 1 else stack[0]
    chunks, (_, y, x) = list(kept.chunks), header.spacing
    if _spacing(chunks) != header.spacing and x is not None and y is not None:
        size = struct.pack(">IIB", round(1e6 / x), round(1e6 / y), 1)
        chunks = [(b"pHYs", size), *(item for item in chunks if item[0] != b"pHYs")]
    if not any(kind == b"tEXt" and data.startswith(_SOFTWARE) for kind, data in chunks):
        chunks.append((b"tEXt", _SOFTWARE + b"restorectl " + __version__.encode()))
    chunks.append((b"tEXt", _RECORD + dumps(provenance).encode()))
    with open(path, "wb") as file:
        file.writelines(encode_png(pixels, chunks))


def _spacing(chunks: Sequence[Chunk]) -> Spacing:
    """(None, y, x) in micrometres from the pHYs chunk; printing resolutions are ignored."""
    size = dict(chunks).get(b"pHYs", b"")
    if len(size) != 9:
        return UNKNOWN_SPACING
    x, y, unit = struct.unpack(">IIB", size)
    if unit != 1 or min(x, y) * 0.0254 <= PRINT_DPI:
        return UNKNOWN_SPACING
    return None, 1e6 / y, 1e6 / x


def _jpeg_chunks(info: Mapping[str, Any]) -> tuple[Chunk, ...]:
    """A JPEG's metadata as PNG chunks."""
    found: list[Chunk] = []
    if info.get("icc_profile"):
        found.append((b"iCCP", b"ICC\0\0" + zlib.compress(info["icc_profile"])))
    unit, density = info.get("jfif_unit", 0), info.get("jfif_density", (0, 0))
    if unit in (1, 2) and min(density) > 0:
        per_metre = [round(n * {1: 1 / 0.0254, 2: 100.0}[unit]) for n in density]
        found.append((b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if info.get("exif"):
        found.append((b"eXIf", info["exif"].removeprefix(b"Exif\0\0")))
    if info.get("comment"):
        text = info["comment"].decode("latin-1").replace("\0", " ").encode("latin-1")
        found.append((b"tEXt", b"Comment\0" + text))
    return tuple(found)


def _record_in_png(path: Path) -> dict[str, Any] | None:
    """The record in the text chunk "restorectl"; None if there is none."""
    try:
        chunks = read_chunks(path, path.read_bytes())
        text = next((data for kind, data in chunks if _is_record((kind, data))), _RECORD + b"null")
        found = parse_json(text.removeprefix(_RECORD))
    except (InputError, ValueError):
        return None  # damaged, so never up to date
    return found if isinstance(found, dict) else None


def _is_record(item: Chunk) -> bool:
    return item[0] == b"tEXt" and item[1].startswith(_RECORD)


def _png_has_mark(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(_MARKED)
    return any(mark in head for mark in _MARKS)


def _png_held_when_open(path: Path) -> int:
    """Bytes of the file plus its pixels, because alpha is decoded on opening.

    A PNG of a few kB may decode to gigabytes.
    """
    with open(path, "rb") as file:
        head = file.read(26)  # up to the colour type
    size = path.stat().st_size
    if len(head) < 26:
        return size
    width, height, depth, colour = struct.unpack_from(">IIBB", head, 16)
    decoded: int = width * height * _SAMPLES.get(colour, 1) * depth // 8
    return size + decoded


def read_chunks(path: Path, data: bytes) -> list[Chunk]:
    """All chunks of a PNG, pixels included; `data` are the bytes of the file.

    Raises IncompleteError if the file ends before the IEND chunk, InputError for a wrong checksum
    or an impossible header.
    """
    found: list[Chunk] = []
    at = len(SIGNATURE)
    while not found or found[-1][0] != b"IEND":
        cut = IncompleteError(
            f"{path}: ends at byte {len(data)} within a PNG chunk: it is cut off or still being"
            " written"
        )
        if at + 12 > len(data):
            raise cut
        n, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + n > len(data):
            raise cut
        body = data[at + 8 : at + 8 + n]
        if zlib.crc32(kind + body) != struct.unpack_from(">I", data, at + 8 + n)[0]:
            if not any(data[at:]):
                raise cut
            raise InputError(f"{path}: the checksum of its {kind!r} chunk is wrong: it is damaged")
        if not kind.isalpha() or (kind[:1].isupper() and kind not in _DECODED):
            raise InputError(f"{path}: has a chunk of an unknown kind, {kind!r}: it is damaged")
        found.append((kind, body))
        at += 12 + n
    if found[0][0] != b"IHDR" or len(found[0][1]) != 13:
        raise InputError(f"{path}: does not begin with a PNG header: it is damaged")
    width, height, depth = struct.unpack_from(">IIB", found[0][1])
    stored = sum(len(body) for kind, body in found if kind == b"IDAT")
    if not width or not height:
        raise InputError(f"{path}: has no pixels ({height} rows, {width} columns)")
    if width * height * depth // 8 > max(stored, 64) * _PNG_EXPANSION:
        raise InputError(
            f"{path}: claims {height} x {width} pixels but stores only {stored} bytes: damaged"
        )
    return found


def encode_png(pixels: Array, kept: Sequence[Chunk]) -> Iterator[bytes]:
    """The bytes of a PNG of `pixels`, (Y, X) or (Y, X, 2..4), uint8 or uint16.

    `kept`: the ancillary chunks, in order.
    """
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[samples]
    height, width = pixels.shape[:2]
    depth = pixels.dtype.itemsize * 8
    yield SIGNATURE
    yield chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    for kind, data in kept:
        yield chunk(kind, data)
    step = samples * pixels.dtype.itemsize
    big = pixels.dtype.newbyteorder(">")
    raw = np.ascontiguousarray(pixels, big).reshape(height, -1).view(np.uint8)
    packer, rows = zlib.compressobj(6), max(1, _IDAT_BYTES // raw.shape[1])
    above = np.zeros_like(raw[:1])
    for top in range(0, height, rows):
        block = raw[top : top + rows]
        data = packer.compress(_filtered(block, above, step))
        above = block[-1:]
        if data:
            yield chunk(b"IDAT", data)
    yield chunk(b"IDAT", packer.flush())
    yield chunk(b"IEND", b"")


def _filtered(block: Array, above: Array, step: int) -> bytes:
    """Filter rows as PNG: none, left, up or average, whichever has the smallest residue."""
    up = np.concatenate([above, block[:-1]])
    left = np.zeros_like(block)
    left[:, step:] = block[:, :-step]
    mean = ((left.astype(np.uint16) + up) // 2).astype(np.uint8)
    tried = np.stack([block, block - left, block - up, block - mean])  # modulo 256, as PNG requires
    residue = np.abs(tried.view(np.int8).astype(np.int16)).sum(axis=2)
    best = residue.argmin(axis=0)
    chosen = tried[best, np.arange(len(block))]
    return np.concatenate([best[:, None].astype(np.uint8), chosen], axis=1).tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    """The bytes of a chunk in the file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PNG = Format(
    probe=lambda path, head: head.startswith(SIGNATURE),
    open=open_png,
    create=create_png,
    check=_check_png,
    record=_record_in_png,
    has_mark=_png_has_mark,
    held_when_open=_png_held_when_open,
)
JPEG = Format(probe=lambda path, head: head.startswith(b"\xff\xd8\xff"), open=open_jpeg)
