"""PNG as chunks: checked when read, kept when written, and an encoder for 8 and 16 bits.

Pillow decodes pixels, but it cannot write 16-bit colour, and reads it as 8 bits without a word.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from restorectl.errors import IncompleteError, InputError
from restorectl.io.image import Array

SIGNATURE = b"\x89PNG\r\n\x1a\n"
Chunk = tuple[bytes, bytes]  # (type, data)
_IDAT_BYTES = 1 << 20
_MAX_EXPANSION = 1100  # zlib reaches 1032:1


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
    if width * height * depth // 8 > max(stored, 64) * _MAX_EXPANSION:
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
