"""Nikon ND2, with the library nd2."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.errors import IncompleteError
from restorectl.images.extra import library
from restorectl.images.image import Array, Format, Image, choose_series
from restorectl.images.makers.base import Found, image, opening

_MAGICS = (b"\xda\xce\xbe\x0a", b"\x00\x00\x00\x0cjP  \r\n\x87\n")
_FRAME = "CYXS"  # axes within a frame of the library


def open_nd2(path: Path, axes: str | None, series: str | None) -> Image:
    """Open a position of an ND2 file; see `image.open_image`."""
    nd2 = library("nd2", path, "ND2")
    with opening(path, "ND2"):
        file = nd2.ND2File(path)
    try:
        with opening(path, "ND2"):
            position = choose_series(_positions(file), series, path)
            missing = _missing(path, file)
            found = _found(file, position)
        opened = image(path, "ND2", found, axes, file.close, "nd2")
        if missing:
            told = f"{missing} frames of the ND2 file were never recorded and are read as 0"
            opened.unusual = (told,)
        return opened
    except BaseException:
        file.close()
        raise


def titles(path: Path) -> tuple[str, ...]:
    nd2 = library("nd2", path, "ND2")
    with opening(path, "ND2"), nd2.ND2File(path) as file:
        return tuple(_positions(file))


def _positions(file: Any) -> list[str]:
    """The names of the positions."""
    count = file.sizes.get("P", 1)
    names = [""] * count
    for loop in file.experiment:
        points = getattr(loop.parameters, "points", None)
        if loop.type == "XYPosLoop" and points and len(points) == count:
            names = [point.name or "" for point in points]
    return names if len({*names}) == count else [""] * count


def _missing(path: Path, file: Any) -> int:
    """How many frames were never recorded, as of a stopped experiment.

    The library reads them, and those that are cut off, as 0. Raises IncompleteError for the latter.
    """
    offsets = getattr(file._rdr, "_frame_offsets", None)  # there is no public way
    if offsets is None:
        return 0
    frame = math.prod(n for axis, n in file.sizes.items() if axis in _FRAME) * file.dtype.itemsize
    packed = file.attributes.compressionType is not None
    if max(offsets.values(), default=0) + (0 if packed else frame) > path.stat().st_size:
        raise IncompleteError(f"{path}: its last frames are cut off: copy it again")
    frames = math.prod(n for axis, n in file.sizes.items() if axis not in _FRAME)
    return len({*range(frames)} - offsets.keys())


def _found(file: Any, position: int) -> Found:
    sizes: Mapping[str, int] = file.sizes
    loops = [axis for axis in sizes if axis not in _FRAME]  # a frame for each of their places
    inside = [axis for axis in sizes if axis in _FRAME]
    outer = [axis for axis in loops if axis != "P"]
    letters = [*outer, *inside]

    def read(index: Sequence[int], rows: slice, cols: slice) -> Array:
        at = {"P": position} | dict(zip(letters, index, strict=False))
        number = np.ravel_multi_index(
            [at.get(axis, 0) for axis in loops], [sizes[axis] for axis in loops]
        )
        frame = file.read_frame(int(number) if loops else 0)
        picked = {"C": at.get("C", 0), "Y": rows, "X": cols, "S": slice(None)}
        frame = frame.reshape([sizes[axis] for axis in inside])
        pixels: Array = frame[tuple(picked[axis] for axis in inside)]
        return pixels

    size = file.voxel_size()
    period = None
    for loop in file.experiment:
        if loop.type == "TimeLoop":
            period = (loop.parameters.periodMs or loop.parameters.periodDiff.avg) / 1000
    described = getattr(file.metadata, "channels", None) or ()
    return Found(
        "".join(letters),
        tuple(sizes[axis] for axis in letters),
        file.dtype,
        read,
        (size.z if "Z" in sizes else None, size.y, size.x),
        [str(each.channel.name or "") for each in described] if "S" not in sizes else (),
        period if "T" in sizes else None,
    )


FORMAT = Format(
    probe=lambda path, head: (
        head.startswith(_MAGICS[0])
        or (head.startswith(_MAGICS[1]) and path.suffix.lower() == ".nd2")
    ),
    open=open_nd2,
    held_when_open=lambda path: 0,  # read by planes
    titles=titles,
)
