"""PNG (8 and 16 bit, grey and RGB) and JPEG (read only).

One image has one plane for each colour. Alpha is not an intensity: it is carried unchanged into a
PNG. Ancillary chunks (text, physical size, colour profile) are copied as bytes.

PNG as chunks: checked when read, kept when written, and an encoder for 8 and 16 bits.

Pillow decodes pixels, but it cannot write 16-bit colour, and reads it as 8 bits without a word.
"""

import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from restorectl import __version__
from restorectl.errors import IncompleteError, InputError, OutputError
from restorectl.files.provenance import dumps
from restorectl.images.header import UNKNOWN_SPACING, Header, Plane, Spacing
from restorectl.images.image import ALL, Array, Consumer, Format
from restorectl.images.tiff.header import PRINT_DPI

SIGNATURE = b"\x89PNG\r\n\x1a\n"
Chunk = tuple[bytes, bytes]  # (type, data)
_IDAT_BYTES = 1 << 20
_MOST_EXPANSION = 1100  # zlib reaches 1032:1


def read_chunks(path: Path) -> list[Chunk]:
    """All chunks of a PNG, pixels included.

    Raises IncompleteError if the file ends before its IEND chunk, InputError if a checksum is
    wrong or the header cannot be true. OSError passes through.
    """
    data = path.read_bytes()
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
        found.append((kind, body))
        at += 12 + n
    if found[0][0] != b"IHDR" or len(found[0][1]) != 13:
        raise InputError(f"{path}: does not begin with a PNG header: it is damaged")
    _check_size(path, found)
    return found


def _check_size(path: Path, chunks: Sequence[Chunk]) -> None:
    width, height, depth = struct.unpack_from(">IIB", chunks[0][1])
    stored = sum(len(data) for kind, data in chunks if kind == b"IDAT")
    if not width or not height:
        raise InputError(f"{path}: has no pixels ({height} rows, {width} columns)")
    if width * height * depth // 8 > max(stored, 64) * _MOST_EXPANSION:
        raise InputError(
            f"{path}: claims {height} x {width} pixels but stores only {stored} bytes: damaged"
        )


def encode(pixels: Array, kept: Sequence[Chunk]) -> Iterator[bytes]:
    """The bytes of a PNG of `pixels`, (Y, X) or (Y, X, 2..4), uint8 or uint16.

    `kept` are the ancillary chunks, in order.
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
    """Rows with PNG's filter byte: of none, left, up and average, the one with smallest residue."""
    up = np.concatenate([above, block[:-1]])
    left = np.zeros_like(block)
    left[:, step:] = block[:, :-step]
    mean = ((left.astype(np.uint16) + up) // 2).astype(np.uint8)
    tried = np.stack([block, block - left, block - up, block - mean])  # modulo 256, as PNG wants
    residue = np.abs(tried.view(np.int8).astype(np.int16)).sum(axis=2)
    best = residue.argmin(axis=0)
    chosen = tried[best, np.arange(len(block))]
    return np.concatenate([best[:, None].astype(np.uint8), chosen], axis=1).tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


KEY = b"restorectl"
_MAX_EXPANSION = 2000  # of JPEG: an 16x16 block of 768 bytes takes more than 4 bits
# Chunks that describe stored pixels, or colours that restored pixels no longer have
_DROPPED = frozenset({b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"hIST", b"sBIT", b"bKGD"})


class RasterImage:
    """An open PNG or JPEG; see `image.Image`. The pixels are decoded at the first read."""

    def __init__(self, path: Path, header: Header, data: bytes) -> None:
        self.path = path
        self.header = header
        self._data = data
        self._pixels: Array | None = None

    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        if plane not in self.header.planes:
            raise IndexError(f"plane t,c,z = {plane} of {self.header.canonical_shape[:3]}")
        if self._pixels is None:
            self._pixels = _colours(_decode(self.path, self._data), self.header)
        return np.ascontiguousarray(self._pixels[rows, cols, plane[1]])

    def close(self) -> None:
        self._pixels = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _colours(pixels: Array, header: Header) -> Array:
    """(Y, X, S) without alpha."""
    return pixels.reshape(*pixels.shape[:2], -1)[:, :, : header.size("S")]


def open_png(path: Path, axes: str | None) -> RasterImage:
    """Open a PNG; see `image.open_image`."""
    chunks = read_chunks(path)
    _, _, depth, colour = struct.unpack_from(">IIBB", chunks[0][1])
    if depth == 1:
        raise InputError(f"{path}: is black and white (1 bit), no intensities: save it as 8 bit")
    if colour == 3:
        _require_grey_palette(path, dict(chunks).get(b"PLTE", b""))
    data = path.read_bytes()
    kept = tuple(item for item in chunks if item[0] not in _DROPPED)
    kept = tuple(item for item in kept if not _is_ours(item))
    alpha = _decode(path, data)[..., -1] if colour in (4, 6) else None
    spacing = _spacing(dict(kept).get(b"pHYs"))
    width, height = struct.unpack_from(">II", chunks[0][1])
    dtype = np.dtype(np.uint16 if depth == 16 else np.uint8)
    shape = (height, width, 3) if colour in (2, 6) else (height, width)
    extra = {"chunks": kept, "alpha": alpha}
    header = _header(path, shape, dtype, axes, Header("", (), dtype, spacing, (), "png", extra))
    return RasterImage(path, header, data)


def open_jpeg(path: Path, axes: str | None) -> RasterImage:
    """Open a JPEG; see `image.open_image`."""
    data = path.read_bytes()
    end = data.rfind(b"\xff\xd9")
    if end < 0 or end < data.rfind(b"\xff\xda"):  # the last scan has no end marker
        raise IncompleteError(f"{path}: has no end of a JPEG: it is cut off or still being written")
    with _pillow(path, data) as image:
        if image.mode not in ("L", "RGB"):
            raise InputError(f"{path}: has {image.mode} colours: save it as RGB or grey")
        width, height = image.size
        if width * height > len(data) * _MAX_EXPANSION:
            raise InputError(f"{path}: claims {height} x {width} pixels: it is damaged")
        shape = (height, width, 3) if image.mode == "RGB" else (height, width)
        kept = _jpeg_chunks(image.info)
    spacing = _spacing(dict(kept).get(b"pHYs"))
    dtype = np.dtype(np.uint8)
    extra = {"chunks": kept, "alpha": None}
    header = _header(path, shape, dtype, axes, Header("", (), dtype, spacing, (), "jpeg", extra))
    return RasterImage(path, header, data)


def _header(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], axes: str | None, given: Header
) -> Header:
    own = "YXS" if len(shape) == 3 else "YX"
    if axes is not None and axes.upper() != own:
        raise InputError(f"{path}: --axes {axes} does not fit its axes {own} of shape {shape}")
    extra = MappingProxyType({"raster": MappingProxyType(dict(given.extra))})
    return Header(own, shape, dtype, given.spacing, (), given.format, extra)


def _pillow(path: Path, data: bytes) -> Any:
    # The headers were compared with the file's size, so Pillow's guess at bombs is not needed
    Pillow.MAX_IMAGE_PIXELS = None
    try:
        return Pillow.open(io.BytesIO(data))
    except UnidentifiedImageError as exc:
        raise InputError(f"{path}: cannot be decoded: its header is damaged") from exc
    except (OSError, SyntaxError, ValueError) as exc:
        raise InputError(f"{path}: cannot be decoded: {exc}") from exc


def _decode(path: Path, data: bytes) -> Array:
    """(Y, X) or (Y, X, samples) in the file's own depth."""
    with _pillow(path, data) as image:
        deep = image.format == "PNG" and data[24] == 16
        colour = data[25] if image.format == "PNG" else 0
        try:
            if not deep or colour == 0:
                if image.mode == "P":
                    image = image.convert("L")
                return np.asarray(image)
            return _decode_deep(data, colour)
        except (OSError, SyntaxError, ValueError, zlib.error) as exc:
            if "truncated" in str(exc):
                raise IncompleteError(f"{path}: its pixels are cut off: {exc}") from exc
            raise InputError(f"{path}: its pixels cannot be decoded: {exc}") from exc


def _decode_deep(data: bytes, colour: int) -> Array:
    """16-bit PNG with several samples, which Pillow only offers cut to 8 bits.

    Grey with alpha has the layout of 8-bit RGBA. For the others, Pillow's unpackers of either byte
    order each give one of the two bytes.
    """
    if colour == 4:
        start = len(SIGNATURE)
        ihdr = data[start + 8 : start + 16] + bytes([8, 6]) + data[start + 18 : start + 21]
        with Pillow.open(
            io.BytesIO(SIGNATURE + chunk(b"IHDR", ihdr) + data[start + 25 :])
        ) as image:
            return np.asarray(image).view(">u2").astype(np.uint16)
    halves = []
    for order in "BL":
        with Pillow.open(io.BytesIO(data)) as image:
            mode = {2: "RGB", 6: "RGBA"}[colour]
            image.tile = [image.tile[0]._replace(args=f"{mode};16{order}")]
            halves.append(np.asarray(image).astype(np.uint16))
    high, low = halves
    deep: Array = high << 8 | low
    return deep


def _require_grey_palette(path: Path, palette: bytes) -> None:
    colours = np.frombuffer(palette, np.uint8).reshape(-1, 3)
    if (colours != colours[:, :1]).any():
        raise InputError(
            f"{path}: has a colour palette, whose indices are no intensities: save it as greyscale"
            " or RGB"
        )


def create_png(path: Path, header: Header, provenance: Mapping[str, Any]) -> Consumer:
    """Write a PNG from the planes that are sent; see `image.create_image`."""
    samples = header.size("S")
    if len(header.planes) != samples or samples not in (1, 3) or "SYX" in header.axes:
        raise OutputError(f"{path}: PNG holds one grey or RGB plane, not {header.axes}: use .tif")
    if header.dtype.name not in ("uint8", "uint16"):
        raise OutputError(f"{path}: PNG cannot hold {header.dtype.name} pixels: use .tif")
    raster = header.extra.get("raster", {})
    stack = []
    for _ in header.planes:
        stack.append((yield))
    alpha = raster.get("alpha")
    if alpha is not None and alpha.dtype == header.dtype:
        stack.append(alpha)
    pixels = np.stack(stack, axis=-1) if len(stack) > 1 else stack[0]
    kept = _true_size(raster.get("chunks", ()), header.spacing)
    record = KEY + b"\0" + dumps(provenance).encode()
    software = b"Software\0restorectl " + __version__.encode()
    if not any(kind == b"tEXt" and data.startswith(b"Software\0") for kind, data in kept):
        kept = [*kept, (b"tEXt", software)]
    with open(path, "wb") as file:
        file.writelines(encode(pixels, [*kept, (b"tEXt", record)]))


def _true_size(chunks: Sequence[Chunk], spacing: Spacing) -> list[Chunk]:
    """The chunks with the pixel size of the header, and its old bytes where they still say so."""
    size = dict(chunks).get(b"pHYs")
    if _spacing(size) == spacing or spacing[1] is None or spacing[2] is None:
        return list(chunks)
    per_metre = [round(1e6 / length) for length in (spacing[2], spacing[1])]
    made = (b"pHYs", struct.pack(">IIB", *per_metre, 1))
    return [made, *(item for item in chunks if item[0] != b"pHYs")]


def _spacing(size: bytes | None) -> Spacing:
    """(None, y, x) in micrometres from a pHYs chunk; resolutions for printing do not count."""
    if size is None or len(size) != 9:
        return UNKNOWN_SPACING
    x, y, unit = struct.unpack(">IIB", size)
    if unit != 1 or min(x, y) * 0.0254 <= PRINT_DPI:
        return UNKNOWN_SPACING
    return None, 1e6 / y, 1e6 / x


def _jpeg_chunks(info: Mapping[str, Any]) -> tuple[Chunk, ...]:
    """What a JPEG says about itself, as PNG chunks."""
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


def _is_ours(item: Chunk) -> bool:
    return item[0] == b"tEXt" and item[1].startswith(KEY + b"\0")


def provenance_png(path: Path) -> dict[str, Any] | None:
    """The record in the text chunk "restorectl"; None if there is none."""
    try:
        chunks = read_chunks(path)
    except InputError:
        return None  # damaged, so it cannot count as done
    for item in chunks:
        if _is_ours(item):
            try:
                found = json.loads(item[1].partition(b"\0")[2])
            except ValueError:
                return None
            return found if isinstance(found, dict) else None
    return None


PNG = Format(lambda head: head.startswith(SIGNATURE), open_png, create_png, provenance_png)
JPEG = Format(lambda head: head.startswith(b"\xff\xd8\xff"), open_jpeg, None, lambda path: None)
