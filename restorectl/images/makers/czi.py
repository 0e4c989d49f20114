"""Zeiss CZI, with Zeiss's library pylibCZIrw: each scene is an image, its tiles joined.

The library czifile (BSD) would be lighter, but its last release, 2019.7.2.3, lacks zstd, with which
newer microscopes compress (KeyError: 6), and gives all scenes as one array, whole.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.errors import InputError
from restorectl.images.extra import library
from restorectl.images.header import Spacing
from restorectl.images.image import Array, Format, Image, choose_series
from restorectl.images.makers.base import Found, image, opening

_MICROMETRES = 1_000_000  # lengths are in metres
_OUTER = "TZC"
_KNOWN = {*"TZCXYSMB"}  # dimensions of a file; scenes, tiles and blocks are dealt with
_DTYPES = {"Gray8": "u1", "Gray16": "u2", "Gray32Float": "f4", "Bgr24": "u1", "Bgr48": "u2"}


def open_czi(path: Path, axes: str | None, series: str | None) -> Image:
    """Open a scene of a CZI file; see `image.open_image`."""
    czi = library("pylibCZIrw.czi", path, "CZI")
    with opening(path, "CZI"):
        manager = czi.open_czi(str(path))
        file = manager.__enter__()
    try:
        with opening(path, "CZI"):
            scenes = _scenes(file)
            scene = sorted(scenes)[choose_series(list(scenes.values()), series, path)]
            found = _found(path, file, scene)
        return image(path, "CZI", found, axes, lambda: manager.__exit__(None, None, None), "czi")
    except BaseException:
        manager.__exit__(None, None, None)
        raise


def titles(path: Path) -> tuple[str, ...]:
    czi = library("pylibCZIrw.czi", path, "CZI")
    with opening(path, "CZI"), czi.open_czi(str(path)) as file:
        return tuple(_scenes(file).values())


def _scenes(file: Any) -> dict[int, str]:
    """The names of the scenes by their numbers."""
    numbers = sorted(file.scenes_bounding_rectangle_no_pyramid) or [0]
    told = _listed(_get(_dimensions(file), "S", "Scenes", "Scene"))
    names = {int(each.get("@Index", k)): each.get("@Name", "") for k, each in enumerate(told)}
    named = {number: names.get(number) or "" for number in numbers}
    return named if len({*named.values()}) == len(named) else dict.fromkeys(numbers, "")


def _found(path: Path, file: Any, scene: int) -> Found:
    box: Mapping[str, tuple[int, int]] = file.total_bounding_box_no_pyramid
    beyond = [axis for axis, (_, n) in box.items() if axis not in _KNOWN and n > 1]
    if beyond:
        raise InputError(
            f"{path}: has dimensions {', '.join(beyond)} (such as views or phases), which are not"
            " read: split it"
        )
    kinds = {*file.pixel_types.values()}
    if len(kinds) != 1 or not kinds <= _DTYPES.keys():
        shown = ", ".join(sorted(kinds))
        raise InputError(f"{path}: has pixels {shown}: only {', '.join(_DTYPES)} are read")
    (kind,) = kinds
    areas = file.scenes_bounding_rectangle_no_pyramid
    area = areas[scene] if areas else file.total_bounding_rectangle_no_pyramid
    outer = [axis for axis in _OUTER if axis in box]
    colour = kind.startswith("Bgr")

    def read(index: Sequence[int], rows: slice, cols: slice) -> Array:
        place = (area.x + cols.start, area.y + rows.start)
        size = (cols.stop - cols.start, rows.stop - rows.start)
        at = {axis: k + box[axis][0] for axis, k in zip(outer, index, strict=True)}
        pixels: Array = file.read(
            roi=(*place, *size), plane=at, scene=scene if areas else None, pixel_type=kind
        )
        return pixels[..., ::-1] if colour else pixels[..., 0]

    shape = [box[axis][1] for axis in outer] + [area.h, area.w] + [3] * colour
    return Found(
        "".join(outer) + ("YXS" if colour else "YX"),
        tuple(shape),
        np.dtype(_DTYPES[kind]),
        read,
        _spacing(file),
        _channels(file) if not colour else (),
        _interval(file),
        by_region=True,
    )


def _spacing(file: Any) -> Spacing:
    told = _listed(_get(file.metadata, "ImageDocument", "Metadata", "Scaling", "Items", "Distance"))
    sizes = {e.get("@Id"): float(Decimal(e.get("Value") or "0") * _MICROMETRES) for e in told}
    return sizes.get("Z"), sizes.get("Y"), sizes.get("X")


def _channels(file: Any) -> list[str]:
    told = _listed(_get(_dimensions(file), "Channels", "Channel"))
    return [str(each.get("@Name") or "") for each in told]


def _interval(file: Any) -> float | None:
    step = _get(_dimensions(file), "T", "Positions", "Interval", "Increment")
    return float(step) if isinstance(step, str) else None


def _dimensions(file: Any) -> Any:
    return _get(file.metadata, "ImageDocument", "Metadata", "Information", "Image", "Dimensions")


def _get(told: Any, *keys: str) -> Any:
    """An element of nested metadata; None if there is none."""
    for key in keys:
        told = told.get(key) if isinstance(told, dict) else None
    return told


def _listed(told: Any) -> list[dict[str, Any]]:
    """Elements of one name: the library gives a list only of several."""
    return [each for each in (told if isinstance(told, list) else [told]) if isinstance(each, dict)]


FORMAT = Format(
    probe=lambda path, head: head.startswith(b"ZISRAWFILE"),
    open=open_czi,
    held_when_open=lambda path: 0,  # read by regions
    titles=titles,
)
