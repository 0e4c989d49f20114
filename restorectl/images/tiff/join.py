"""Joins OME-TIFFs of one image each, which restorectl has written, into one of several images."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from restorectl.images.tiff import ifd, ome
from restorectl.images.tiff.ifd import Ifd, Layout, Tag, integers_tag, pack_head, pack_ifd, text_tag

_PIECE = 16 << 20  # bytes that are copied at a time


def join(path: Path, parts: Sequence[Path], limit: int) -> None:
    """Write the images of `parts` to `path`, their pages one after the other, stored as they are.

    The first page has the OME-XML of all; the first page of each image has its own provenance.
    limit: bytes from which on it is a BigTIFF.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open(path, "wb"))
        sources = [stack.enter_context(open(part, "rb")) for part in parts]
        chains = [ifd.read_chain(source, part) for source, part in zip(sources, parts, strict=True)]
        first = chains[0][0]
        big = sum(part.stat().st_size for part in parts) >= limit
        layout = Layout(first.order, big or any(_is_big(source) for source in sources))
        document = text_tag(ome.joined([pages[0].text(ifd.DESCRIPTION) for pages in chains]))
        file.write(pack_head(layout, 0))
        placed = {ifd.HISTORY: file.tell()}  # also in an output that is cut off
        file.write(first.tags[ifd.HISTORY].data)
        file.write(b"\0" * (-file.tell() % 8))
        found: list[dict[int, Tag]] = []
        for source, pages in zip(sources, chains, strict=True):
            for page in pages:
                tags = _copied(source, file, layout, page)
                if page is pages[0]:
                    tags.pop(ifd.DESCRIPTION, None)
                found.append(tags)
        found[0][ifd.DESCRIPTION] = document
        file.write(b"\0" * (file.tell() % 2))
        start = at = file.tell()
        for k, tags in enumerate(found):
            packed = pack_ifd(layout, tags, at, k + 1 < len(found), {} if k else placed)
            file.write(packed)
            at += len(packed)
        file.seek(0)
        file.write(pack_head(layout, start))


def _is_big(source: BinaryIO) -> bool:
    source.seek(0)
    return 43 in source.read(4)[2:]


def _copied(source: BinaryIO, file: BinaryIO, layout: Layout, page: Ifd) -> dict[int, Tag]:
    """Copy the pixels of a page and the directories that it points to; returns its new tags."""
    tags = dict(page.tags)
    code = ifd.TILE_OFFSETS if ifd.TILE_OFFSETS in tags else ifd.STRIP_OFFSETS
    kind = ifd.LONG8 if layout.big else ifd.LONG
    if code in tags:
        starts = []
        for offset, count in page.segments:
            starts.append(file.tell())
            source.seek(offset)
            for begin in range(0, count, _PIECE):
                file.write(source.read(min(_PIECE, count - begin)))
        tags[code] = integers_tag(layout.order, kind, *starts)
    for pointer, children in page.children.items():
        offsets = []
        for child in children:
            inner = _copied(source, file, layout, child)
            file.write(b"\0" * (file.tell() % 2))
            offsets.append(file.tell())
            file.write(pack_ifd(layout, inner, file.tell(), False, {}))
        if offsets:
            kind_of = kind if pointer == ifd.SUB_IFDS else ifd.LONG
            tags[pointer] = integers_tag(layout.order, kind_of, *offsets)
    return tags
