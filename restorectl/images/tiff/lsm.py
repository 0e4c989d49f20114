"""The header of Zeiss LSM files (CZ_LSMINFO): sizes, channel names, times."""

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from restorectl.errors import InputError
from restorectl.images.header import Spacing
from restorectl.images.tiff import ifd
from restorectl.images.tiff.ifd import Ifd

_MICROMETRES = 1e6  # voxel sizes are in metres
_BYTES = 272  # of the header up to the number of positions
_COLOURS, _TIMES = 108, 132  # where the header has the offsets of other blocks in the file
_MOST = 1 << 20  # bytes of such a block


@dataclass(frozen=True)
class Info:
    """What the header says."""

    depth: int
    channels: int
    times: int
    images: int  # positions, times tiles of a mosaic
    spacing: Spacing
    names: tuple[str, ...]
    interval: float | None  # mean seconds between time points

    @property
    def planes(self) -> int:
        return self.depth * self.times


def read(path: Path, page: Ifd) -> Info:
    """The header of a file, from its first page. Raises InputError if it is damaged."""
    info, order = page.tags[ifd.LSM_INFO].data, page.order
    if len(info) < _BYTES:
        raise InputError("its LSM header is damaged: export it again")
    depth, channels, times = struct.unpack_from(order + "3i", info, 16)
    x, y, z = (
        size * _MICROMETRES if 0 < size < math.inf else None
        for size in struct.unpack_from(order + "3d", info, 40)
    )
    positions, mosaic = struct.unpack_from(order + "2i", info, 264)
    colours, stamps = (struct.unpack_from(order + "I", info, at)[0] for at in (_COLOURS, _TIMES))
    names = _names(_block(path, order, colours), order)
    return Info(
        depth=max(depth, 1),
        channels=channels,
        times=max(times, 1),
        images=max(positions, 1) * max(mosaic, 1),
        spacing=(z, y, x),
        names=names if len(names) == page.samples and any(names) else (),
        interval=_interval(_block(path, order, stamps), order, times),
    )


def _block(path: Path, order: str, offset: int) -> bytes:
    """A block that begins with its size; b"" if there is none."""
    if not offset:
        return b""
    with open(path, "rb") as file:
        file.seek(offset)
        head = file.read(4)
        size = struct.unpack(order + "i", head)[0] if len(head) == 4 else 0
        return head + file.read(size - 4) if 4 < size <= _MOST else b""


def _names(block: bytes, order: str) -> tuple[str, ...]:
    """The names of the channels: each is a length and a string that ends in NUL."""
    if len(block) < 24:
        return ()
    _, _, count, _, at = struct.unpack_from(order + "5i", block, 0)
    found: list[str] = []
    while len(found) < count and 0 < at <= len(block) - 4:
        size = struct.unpack_from(order + "i", block, at)[0]
        if not 0 < size <= len(block) - at - 4:
            break
        found.append(block[at + 4 : at + 4 + size].split(b"\0")[0].decode("cp1252", "replace"))
        at += 4 + size
    return tuple(found)


def _interval(block: bytes, order: str, times: int) -> float | None:
    """The mean of the differences between time stamps, in seconds."""
    if times < 2 or len(block) < 8 + 8 * times:
        return None
    stamps = struct.unpack_from(f"{order}{times}d", block, 8)
    mean: float = (stamps[-1] - stamps[0]) / (times - 1)
    return mean if 0 < mean < math.inf else None
