"""TIFF and its dialects: plain, ImageJ hyperstacks, OME-TIFF, BigTIFF."""

import json
from pathlib import Path
from typing import Any

from restorectl.errors import InputError
from restorectl.images.image import Format
from restorectl.images.tiff.header import HISTORY
from restorectl.images.tiff.ifd import read_chain
from restorectl.images.tiff.read import TiffImage
from restorectl.images.tiff.write import create

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def probe(head: bytes) -> bool:
    """Whether a file that begins with `head` is a TIFF."""
    return head[:4] in _MAGIC


def provenance(path: Path) -> dict[str, Any] | None:
    """The record in the first page's ImageHistory; None if there is none that is ours."""
    try:
        with open(path, "rb") as file:
            _, pages = read_chain(file, path)
    except InputError:
        return None  # damaged, so it cannot count as done
    if HISTORY not in pages[0].tags:
        return None
    try:
        found = json.loads(pages[0].tags[HISTORY].text)
    except ValueError:
        return None  # another program's history
    record = found.get("restorectl") if isinstance(found, dict) else None
    return record if isinstance(record, dict) else None


FORMAT = Format(probe, TiffImage, create, provenance)
