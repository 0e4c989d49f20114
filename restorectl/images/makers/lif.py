"""Leica LIF, with the library liffile."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from restorectl.images.extra import library
from restorectl.images.image import Array, Format, Image, choose_series
from restorectl.images.makers.base import Found, image, opening

_MICROMETRES = 1e6  # lengths are in metres
_MAGIC = b"\x70\0\0\0"


def open_lif(path: Path, axes: str | None, series: str | None) -> Image:
    """Open an image of a LIF file; see `image.open_image`."""
    liffile = library("liffile", path, "LIF")
    with opening(path, "LIF"):
        file = liffile.LifFile(path)
    try:
        with opening(path, "LIF"):
            names = [each.name for each in file.images]
            found = _found(file, file.images[choose_series(names, series, path)])
        return image(path, "LIF", found, axes, file.close, "lif")
    except BaseException:
        file.close()
        raise


def titles(path: Path) -> tuple[str, ...]:
    liffile = library("liffile", path, "LIF")
    with opening(path, "LIF"), liffile.LifFile(path) as file:
        return tuple(each.name for each in file.images)


def _channels(file: Any, lif: Any) -> list[str]:
    """The names of the colours in which the channels are shown; LIF has no others for all."""
    for element in file.xml_element.iter("Element"):
        memory = element.find("Memory")
        if memory is not None and memory.get("MemoryBlockID") == lif.memory_block.id:
            path = "Data/Image/ImageDescription/Channels/ChannelDescription"
            return [each.get("LUTName", "") for each in element.findall(path)]
    return []


def _found(file: Any, lif: Any) -> Found:
    sizes: dict[str, int] = dict(lif.sizes)
    stored = list(sizes)  # the library's names of the axes
    tail = 3 if stored[-1] == "S" else 2
    y, x = stored[-tail : len(stored) - tail + 2]  # of an xz scan they are Z and X
    outer = stored[:-tail]
    # the planes of an xz scan follow in y
    letters = ["Z" if axis == "Y" else axis if axis in ("Z", "C", "T") else "I" for axis in outer]

    def read(index: Sequence[int], rows: slice, cols: slice) -> Array:
        frame: Array = lif.frame(**dict(zip(outer, index, strict=True)))
        return frame[rows, cols]

    def step(axis: str | None, factor: float) -> float | None:
        along = lif.coords.get(axis)
        if along is None or len(along) < 2:
            return None
        return abs(float(along[-1] - along[0])) / (len(along) - 1) * factor

    depth = dict(zip(letters, outer, strict=True)).get("Z")
    return Found(
        "".join(letters) + ("YXS" if tail == 3 else "YX"),
        tuple(sizes.values()),
        lif.dtype,
        read,
        (step(depth, _MICROMETRES), step(y, _MICROMETRES), step(x, _MICROMETRES)),
        _channels(file, lif) if tail == 2 else (),
        step("T", 1.0),
    )


FORMAT = Format(
    probe=lambda path, head: head.startswith(_MAGIC) and head[8:9] == b"\x2a",
    open=open_lif,
    held_when_open=lambda path: 0,  # read by planes
    titles=titles,
)
