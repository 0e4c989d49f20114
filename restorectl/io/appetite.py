"""What opening an image will hold in memory, told from its first bytes."""

import struct
from pathlib import Path

from restorectl.errors import InputError
from restorectl.io import tiff
from restorectl.io.png_chunks import SIGNATURE

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG's colour types
_HEAD = 26  # bytes, up to the colour type


def held_when_open(path: Path, size: int) -> int:
    """Bytes; `size` is the file's. TIFF is read piece by piece, PNG and JPEG as a whole.

    A PNG of a few kB may claim gigabytes, and its alpha is decoded when it is opened.
    Raises InputError for a file that cannot be read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if tiff.probe(head):
        return 0
    if not head.startswith(SIGNATURE) or len(head) < _HEAD:
        return size
    width, height, depth, colour = struct.unpack_from(">IIBB", head, 16)
    decoded: int = width * height * _SAMPLES.get(colour, 1) * depth // 8
    return size + decoded
