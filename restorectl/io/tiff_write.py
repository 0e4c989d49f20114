"""TIFF out: the input's tags and metadata around new pixels (see `tiff_plan` for the dialects).

All pixels come first, page after page (ImageJ wants that), then all directories. There is no time,
host or random number in the file.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from restorectl.core.axes import Header
from restorectl.errors import OutputError
from restorectl.io.image import Array
from restorectl.io.tiff_header import COLORMAP, EXTRA_SAMPLES
from restorectl.io.tiff_ifd import LONG, LONG8, SHORT, Layout, Tag, pack_ifd
from restorectl.io.tiff_ifd import integers_tag as numbers
from restorectl.io.tiff_plan import Plan, make_plan
from restorectl.io.tiff_read import TiffImage
from restorectl.io.tiff_tags import first_tags, page_tags

_STRIP_BYTES = 1 << 20  # of compressed strips, so that a region need not decode a whole page
_LEVEL = 6
MARK = b"restorectl".ljust(16, b"\0")  # after the header: tells whose a file is that was cut off


def create(
    path: Path, header: Header, planes: Iterator[Array], provenance: Mapping[str, Any]
) -> None:
    """Write a TIFF; the row's `create`, see `image.create_image`."""
    plan = make_plan(path, header)
    first = first_tags(plan, provenance)
    with open(path, "wb") as file:
        file.write(_file_head(plan.layout, 0) + MARK)
        spans = [_write_page(file, plan, page) for page in _pages(plan, planes)]
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


def _pages(plan: Plan, planes: Iterator[Array]) -> Iterator[Array]:
    """Whole pages: (Y, X), (Y, X, samples), or (samples, Y, X) if planar."""
    shown = plan.header.size("S")
    with ExitStack() as stack:
        alpha = None
        if plan.source is not None and plan.source.alpha is not None:
            alpha = stack.enter_context(TiffImage(plan.source.alpha, plan.header.axes))
        for k in range(plan.n_pages):
            samples = [next(planes) for _ in range(shown)]
            if alpha is not None:
                samples.append(alpha.read_sample(k, shown).astype(plan.header.dtype))
            if plan.samples == 1:
                yield samples[0].reshape(plan.header.canonical_shape[3:])
            else:
                yield np.stack(samples, axis=0 if plan.planar else -1)
    for _ in planes:  # lets the iterator find that it holds too many
        raise ValueError("more planes than the header has")


def _strip_rows(plan: Plan) -> int:
    height, width = plan.header.canonical_shape[3:]
    if not plan.compressed:
        return height
    row = width * plan.header.dtype.itemsize * (1 if plan.planar else plan.samples)
    return max(1, min(height, _STRIP_BYTES // row))


def _write_page(file: BinaryIO, plan: Plan, page: Array) -> list[tuple[int, int]]:
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


def _structure(plan: Plan, spans: Sequence[tuple[int, int]]) -> dict[int, Tag]:
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
