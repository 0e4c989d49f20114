"""Imaris IMS and other HDF5, with the library h5py; each data set of others is an image."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.errors import InputError
from restorectl.images.extra import library
from restorectl.images.header import UNKNOWN_SPACING, Spacing
from restorectl.images.image import Array, Format, Image, choose_series
from restorectl.images.makers.base import Found, image, opening

_IMARIS = "DataSet/ResolutionLevel 0"


def open_hdf5(path: Path, axes: str | None, series: str | None) -> Image:
    """Open an Imaris image, or a data set of a HDF5 file; see `image.open_image`."""
    h5py = library("h5py", path, "HDF5")
    with opening(path, "HDF5"):
        file = h5py.File(path, "r")
    try:
        with opening(path, "HDF5"):
            if _IMARIS in file:
                choose_series(("",), series, path)
                found = _imaris(file)
            else:
                names = _datasets(file)
                if not names:
                    raise InputError(f"{path}: has no data set of two or more axes")
                found = _plain(file[names[choose_series(names, series, path)]])
        return image(path, "HDF5", found, axes, file.close, "hdf5")
    except BaseException:
        file.close()
        raise


def titles(path: Path) -> tuple[str, ...]:
    h5py = library("h5py", path, "HDF5")
    with opening(path, "HDF5"), h5py.File(path, "r") as file:
        return ("",) if _IMARIS in file else tuple(_datasets(file))


def _imaris(file: Any) -> Found:
    """Data sets of one time point and channel, (Z, Y, X), filled up at their ends."""
    told = file["DataSetInfo/Image"].attrs
    z, y, x = (int(_text(told[axis])) for axis in "ZYX")
    low = [float(_text(told[f"ExtMin{k}"])) for k in (2, 1, 0)]
    high = [float(_text(told[f"ExtMax{k}"])) for k in (2, 1, 0)]
    spacing = [abs(b - a) / n for a, b, n in zip(low, high, (z, y, x), strict=True)]
    level = file[_IMARIS]
    times = sum(name.startswith("TimePoint ") for name in level)
    count = sum(name.startswith("Channel ") for name in level["TimePoint 0"])
    names = []
    for c in range(count):
        attributes = getattr(file.get(f"DataSetInfo/Channel {c}"), "attrs", {})
        names.append(_text(attributes["Name"]) if "Name" in attributes else "")

    def read(index: Sequence[int], rows: slice, cols: slice) -> Array:
        t, c, z = index
        pixels: Array = level[f"TimePoint {t}/Channel {c}/Data"][z, rows, cols]
        return pixels

    dtype = level["TimePoint 0/Channel 0/Data"].dtype
    shape = (times, count, z, y, x)
    return Found(
        "TCZYX", shape, dtype, read, (spacing[0], spacing[1], spacing[2]), names, None, True
    )


def _text(attribute: Any) -> str:
    """Imaris stores strings as arrays of single characters."""
    return np.asarray(attribute).tobytes().decode("utf-8", "replace").strip("\0 ")


def _datasets(file: Any) -> list[str]:
    """The data sets of numbers with two or more axes."""
    found: list[str] = []

    def look(name: str, item: Any) -> None:
        if getattr(item, "ndim", 0) >= 2 and item.dtype.kind in "uif":
            found.append(name)

    file.visititems(look)
    return found


def _plain(data: Any) -> Found:
    """A data set; its axes are those that ilastik or h5py's dimension labels name."""
    letters = ["I"] * (data.ndim - 2) + ["Y", "X"]
    labels = [dimension.label for dimension in data.dims]
    if "axistags" in data.attrs:
        told = json.loads(data.attrs["axistags"])
        labels = [str(axis.get("key", "")) for axis in told.get("axes", ())]
    if len(labels) == data.ndim and all(labels):
        letters = [name.upper() if name.upper() in {*"TCZYX"} else "I" for name in labels]
    if letters[-1] == "C" and letters[-3:-1] == ["Y", "X"] and data.shape[-1] == 3:
        letters[-1] = "S"

    def read(index: Sequence[int], rows: slice, cols: slice) -> Array:
        pixels: Array = data[(*index, rows, cols)]
        return pixels

    return Found(
        "".join(letters), tuple(data.shape), data.dtype, read, _element_size(data), by_region=True
    )


def _element_size(data: Any) -> Spacing:
    """The attribute of Fiji's HDF5 plugin: z, y, x in micrometres."""
    size = np.asarray(data.attrs.get("element_size_um", ()), np.float64).ravel()
    return (size[0], size[1], size[2]) if size.size == 3 else UNKNOWN_SPACING


FORMAT = Format(
    probe=lambda path, head: head.startswith(b"\x89HDF\r\n\x1a\n"),
    open=open_hdf5,
    held_when_open=lambda path: 0,  # read by regions
    titles=titles,
)
