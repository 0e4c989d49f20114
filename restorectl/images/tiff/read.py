"""Reads TIFF lazily, with its dialects: plain, ImageJ hyperstacks, OME-TIFF, BigTIFF.

`decode` decodes strips and tiles. Structure and metadata are read by `ifd`, `header` and one module
for each dialect, which refuse files that are cut off, and keep every tag for the output.
"""

from collections.abc import Iterator
from functools import partial
from operator import lt
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from restorectl.errors import IncompleteError, InputError, one_line
from restorectl.files.strict import parse_json
from restorectl.images.header import Plane
from restorectl.images.image import ALL, Array, Image
from restorectl.images.recent import Recent
from restorectl.images.tiff import ifd, ycbcr
from restorectl.images.tiff.decode import decoder, storage
from restorectl.images.tiff.header import JPEG_CODECS, describe
from restorectl.images.tiff.ifd import read_chain

FEW_BYTES = 16 << 20  # of lines that are read whole though only a part of each is wanted


class TiffImage(Image):
    """An open TIFF."""

    def __init__(self, path: Path, axes: str | None, series: str | None = None) -> None:
        self.path = path
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 (closed by close)
        try:
            self._open(axes, series)
        except BaseException:
            self.close()
            raise

    def _open(self, axes: str | None, series: str | None) -> None:
        ifds = read_chain(self._file, self.path)
        try:
            self.header, self._pages = describe(self.path, ifds, axes, series)
            for stored in {storage(page.ifd) for page in self._pages}:
                decoder(stored)  # raises
        except InputError as exc:
            text = str(exc)
            prefixed = text if text.startswith(f"{self.path}: ") else f"{self.path}: {text}"
            raise type(exc)(prefixed) from exc
        self._index = {plane: k for k, plane in enumerate(self.header.planes)}
        self._recent = Recent()
        sparse = sum(page.ifd.segments.count(ifd.SPARSE) for page in self._pages)
        if sparse:
            told = f"sparse TIFF: {sparse} strips or tiles were never written and are read as 0"
            self.unusual = (told,)

    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        if plane not in self._index:
            shape = self.header.canonical_shape[:3]
            raise IndexError(f"plane t,c,z = {plane} of an image with T,C,Z = {shape}")
        page, sample = divmod(self._index[plane], self.header.size("S"))
        return self.read_sample(page, self._pages[page].sample + sample, rows, cols)

    def read_sample(self, page: int, sample: int, rows: slice = ALL, cols: slice = ALL) -> Array:
        """One sample of one page, alpha included: shape (Y, X), source dtype, native order."""
        height, width = self.header.canonical_shape[3:]
        r0, r1, row_step = rows.indices(height)
        c0, c1, col_step = cols.indices(width)
        if row_step != 1 or col_step != 1:
            raise IndexError("regions are read without steps")
        shape = (max(r1 - r0, 0), max(c1 - c0, 0))
        out: Array = np.empty(shape, self.header.dtype)
        if out.size == 0:
            return out
        at = self._pages[page].ifd
        if at.is_final and (at.samples == 1 or at.integer(ifd.PHOTOMETRIC) != ifd.YCBCR):
            line = width * at.samples * self.header.dtype.itemsize
            step = r1 - r0 if c1 - c0 == width or (r1 - r0) * line <= FEW_BYTES else 1
            for top in range(r0, r1, step):
                part = self._stored(page, sample, (top, min(top + step, r1)), (c0, c1))
                out[top - r0 : top - r0 + len(part)] = part
            return out
        for (top, left), pixels in self._decoded(page, sample, (r0, r1), (c0, c1)):
            a, b = max(top, r0), min(top + pixels.shape[0], r1)
            c, d = max(left, c0), min(left + pixels.shape[1], c1)
            out[a - r0 : b - r0, c - c0 : d - c0] = pixels[a - top : b - top, c - left : d - left]
        return out

    def _stored(
        self, page: int, sample: int, rows: tuple[int, int], cols: tuple[int, int]
    ) -> Array:
        """A region of an uncompressed page: whole lines of the file, or the pixels of one line."""
        height, width = self.header.canonical_shape[3:]
        at, (r0, r1), (c0, c1) = self._pages[page], rows, cols
        dtype = self.header.dtype.newbyteorder("<" if at.ifd.order == "<" else ">")
        beside = 1 if at.ifd.planar else at.ifd.samples
        first, count = (
            (r0 * width, (r1 - r0) * width) if r1 - r0 > 1 else (r0 * width + c0, c1 - c0)
        )
        first += sample * height * width if at.ifd.planar else 0
        start = at.ifd.segments[0][0] + at.shift + first * beside * dtype.itemsize
        data = np.frombuffer(self._bytes(start, count * beside * dtype.itemsize, page), dtype)
        lines = data.reshape(r1 - r0, -1, beside)[:, :, 0 if at.ifd.planar else sample]
        return lines[:, c0:c1] if r1 - r0 > 1 else lines

    def _bytes(self, offset: int, size: int, page: int) -> bytes:
        try:
            self._file.seek(offset)
            data = self._file.read(size)
        except OSError as exc:
            raise InputError(f"{self.path}: page {page} cannot be read: {exc.strerror}") from exc
        if len(data) != size:
            raise IncompleteError(f"{self.path}: page {page} is cut off: did the file change?")
        return data

    def _decoded(
        self, page: int, sample: int, rows: tuple[int, int], cols: tuple[int, int]
    ) -> Iterator[tuple[tuple[int, int], Array]]:
        """Yield ((row, column), pixels of the sample) of each strip or tile in the region."""
        at = self._pages[page].ifd
        height, width = at.size
        tall, wide = at.segment_size
        down, across = -(-height // tall), -(-width // wide)
        planar = at.planar and at.samples > 1
        base = sample * down * across if planar else 0
        for i in range(rows[0] // tall, -(-rows[1] // tall)):
            for j in range(cols[0] // wide, -(-cols[1] // wide)):
                pixels = self._segment(page, base + i * across + j)
                inside = min(tall, height - i * tall), min(wide, width - j * wide)
                needed = (*inside, 1 if planar else at.samples)
                if any(map(lt, pixels.shape, needed)):
                    raise InputError(
                        f"{self.path}: page {page} cannot be decoded: a strip or tile has"
                        f" {pixels.shape} pixels, not {needed}: the file is damaged"
                    )
                yield (i * tall, j * wide), pixels[:, :, 0 if planar else sample]

    def _segment(self, page: int, index: int) -> Array:
        """A strip or tile: (rows, columns, samples)."""
        at = self._pages[page]
        offset, size = at.ifd.segments[index]
        if (offset, size) == ifd.SPARSE:
            shape = (*at.ifd.segment_size, 1 if at.ifd.planar else at.ifd.samples)
            return np.full(shape, decoder(storage(at.ifd)).nodata, self.header.dtype)
        return self._recent.get((offset + at.shift, index), partial(self._decode, page, index))

    def _decode(self, page: int, index: int) -> Array:
        """A strip or tile as it lies in the file, decoded."""
        at = self._pages[page]
        offset, size = at.ifd.segments[index]
        decoding = decoder(storage(at.ifd))
        data = self._bytes(offset + at.shift, size, page)
        if at.ifd.compression == ifd.JPEG and b"\xff\xd9" not in data:
            # The decoder would fill what is missing with grey
            raise IncompleteError(f"{self.path}: page {page} has no end of its JPEG: it is cut off")
        tables = at.ifd.tags[ifd.JPEG_TABLES].data if ifd.JPEG_TABLES in at.ifd.tags else None
        is_ycbcr = at.ifd.integer(ifd.PHOTOMETRIC) == ifd.YCBCR
        try:
            if is_ycbcr and at.ifd.compression not in JPEG_CODECS:
                return ycbcr.rgb(at.ifd, data)
            return np.asarray(decoding.decode(data, index, jpegtables=tables)[0][0])
        except Exception as exc:  # codecs raise various errors
            raise InputError(
                f"{self.path}: page {page} cannot be decoded: {one_line(exc)}"
            ) from exc

    def close(self) -> None:
        self._file.close()


def read_record(path: Path) -> dict[str, Any] | None:
    """The provenance record in the first page's ImageHistory; None if there is none."""
    try:
        with open(path, "rb") as file:
            pages = read_chain(file, path)
        found = parse_json(pages[0].text(ifd.HISTORY))
    except (InputError, ValueError):
        return None  # damaged, or no record of restorectl
    record = found.get("restorectl") if isinstance(found, dict) else None
    return record if isinstance(record, dict) else None
