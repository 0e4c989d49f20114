"""What stands where an output would go: nothing, a file of ours, whole or not, or somebody's.

What opening an image will hold in memory, told from its first bytes.
"""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from restorectl.errors import IncompleteError, InputError, OutputError
from restorectl.images.image import open_image, read_provenance
from restorectl.images.raster import SIGNATURE
from restorectl.images.tiff import format
from restorectl.images.tiff.write import MARK

# A file that is cut off has lost its record, but not its first bytes
_HEAD = 1 << 20
_PNG_MARKS = (b"tEXtrestorectl\0", b"tEXtSoftware\0restorectl ")


@dataclass(frozen=True)
class Existing:
    """A file at the path of an output."""

    ours: bool
    record: Mapping[str, Any] | None  # core.provenance.record; None = foreign or damaged


def look(path: Path) -> Existing | None:
    """None if nothing is there.

    A damaged file of ours has no record, so it cannot count as up to date. Costs the headers, not
    the pixels. Raises OutputError for a folder.
    """
    if not os.path.lexists(path):
        return None
    if path.is_dir():
        raise OutputError(f"{path}: is a folder: remove it or choose another -o")
    try:
        record = read_provenance(path) if path.is_file() else None
        return Existing(_has_mark(path), None) if record is None else _checked(path, record)
    except (InputError, OSError):
        return Existing(False, None)  # not readable for us, so not ours either


def _checked(path: Path, record: Mapping[str, Any]) -> Existing:
    """Page count against metadata; `read_provenance` has seen that every strip is there."""
    try:
        with open_image(path, axes=(record.get("parameters") or {}).get("axes")):
            return Existing(True, record)
    except IncompleteError:
        return Existing(True, None)
    except InputError:
        return Existing(True, record)  # whole, though as an input it would need other axes


def _has_mark(path: Path) -> bool:
    if not path.is_file():
        return False  # a dangling link, a pipe, a device
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    tiff = MARK in (head[8:24], head[16:32])  # after the header of a TIFF or a BigTIFF
    return tiff or (head.startswith(b"\x89PNG") and any(mark in head for mark in _PNG_MARKS))


_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG's colour types
_PNG_HEAD = 26  # bytes, up to the colour type


def held_when_open(path: Path, size: int) -> int:
    """Bytes; `size` is the file's. TIFF is read piece by piece, PNG and JPEG as a whole.

    A PNG of a few kB may claim gigabytes, and its alpha is decoded when it is opened.
    Raises InputError for a file that cannot be read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_PNG_HEAD)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if format.probe(head):
        return 0
    if not head.startswith(SIGNATURE) or len(head) < _PNG_HEAD:
        return size
    width, height, depth, colour = struct.unpack_from(">IIBB", head, 16)
    decoded: int = width * height * _PNG_SAMPLES.get(colour, 1) * depth // 8
    return size + decoded
