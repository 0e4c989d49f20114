"""What lies in an OME-Zarr: its JSON metadata and chunk files, read without the library zarr.

An image is a group of arrays, one for each level of a pyramid, whose attributes have `multiscales`.
In a plate, or in a file that bioformats2raw made, images are groups within groups.
"""

import json
import os
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from restorectl.errors import IncompleteError, InputError
from restorectl.files.atomic import replacing
from restorectl.images.header import Spacing
from restorectl.images.tiff import ome

OURS = "restorectl"  # attribute of an image with its provenance record
DOCUMENT = "OME/METADATA.ome.xml"
METADATA = ("zarr.json", ".zgroup", ".zattrs", ".zarray", ".zmetadata")
MICROMETRES = {
    "angstrom": 1e-4,
    "centimeter": 1e4,
    "inch": 25400.0,
    "meter": 1e6,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "nanometer": 1e-3,
    "picometer": 1e-6,
}
SECONDS = {
    "day": 86400.0,
    "hour": 3600.0,
    "microsecond": 1e-6,
    "millisecond": 1e-3,
    "minute": 60.0,
    "nanosecond": 1e-9,
    "second": 1.0,
}
_SURROUNDING = threading.Lock()  # images of a plate that are written side by side
_SEVERAL = {"version": "0.5", "bioformats2raw.layout": 3}  # attributes of a group of images
# what reading from a zip file raises if it is damaged, encrypted, or packed in an unknown way
_DAMAGED = (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError)
_LETTERS = {"time": "T", "channel": "C"}


@dataclass(frozen=True)
class Tree:
    """The files of a zarr group, in a folder or in a zip file."""

    path: Path

    @cached_property
    def zipped(self) -> zipfile.ZipFile | None:
        """The open zip file; None for a folder. Raises IncompleteError, InputError."""
        if self.path.is_dir():
            return None
        try:
            return zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as exc:
            raise IncompleteError(
                f"{self.path}: the directory of the zip file is missing: it is cut off or still"
                " being written"
            ) from exc

    @cached_property
    def prefix(self) -> str:
        """Where the group is in a zip file: at the top, or in a folder ("name/")."""
        names = self.zipped.namelist() if self.zipped is not None else []
        heads = [n.rpartition("/")[0] for n in names if n.rpartition("/")[2] in METADATA]
        first = min(heads, key=len, default="")
        return first + "/" if first else ""

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None if it does not exist."""
        try:
            if self.zipped is None:
                return (self.path / name).read_bytes()
            return self.zipped.read(self.prefix + name)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, KeyError):
            return None
        except _DAMAGED as exc:
            raise InputError(f"{self.path}: {name} in the zip file cannot be read: {exc}") from exc

    def names(self, below: str = "") -> Iterator[str]:
        """All files below a folder, relative to the group, sorted."""
        if self.zipped is not None:
            start = self.prefix + below
            listed = (n for n in self.zipped.namelist() if n.startswith(start) and n[-1] != "/")
            yield from sorted(name.removeprefix(self.prefix) for name in listed)
            return
        for base, folders, names in os.walk(self.path / below):
            folders.sort()
            yield from sorted(Path(base, name).relative_to(self.path).as_posix() for name in names)

    def attributes(self, below: str = "") -> dict[str, Any] | None:
        """The attributes of a group or array; None if it is neither. Raises InputError."""
        new, group, array = (
            self.read(below + name) for name in ("zarr.json", ".zgroup", ".zarray")
        )
        if new is None and group is None and array is None:
            return None
        found = self._json(below + "zarr.json", new)
        own = found.get("attributes", {}) if new else self._json(below + ".zattrs")
        return own if isinstance(own, dict) else {}

    def _json(self, name: str, data: bytes | None = None) -> dict[str, Any]:
        data = self.read(name) if data is None else data
        try:
            found = json.loads(data) if data else {}
        except ValueError as exc:
            raise IncompleteError(f"{self.path}: {name} is damaged or not complete") from exc
        return found if isinstance(found, dict) else {}

    def close(self) -> None:
        if self.zipped is not None:
            self.zipped.close()


@dataclass(frozen=True)
class Multiscales:
    """The OME metadata of one image."""

    version: str  # of OME-Zarr
    told: Mapping[str, Any]  # the element of `multiscales`
    attributes: Mapping[str, Any]  # all of the group

    @property
    def name(self) -> str:
        return str(self.told.get("name") or "")

    @property
    def ome(self) -> Mapping[str, Any]:
        """The attributes of OME-Zarr; in version 0.4 they are among the others."""
        found: Mapping[str, Any] = self.attributes.get("ome", self.attributes)
        return found

    @property
    def paths(self) -> list[str]:
        """The arrays of the pyramid, the largest first."""
        return [str(level["path"]) for level in self.told["datasets"]]

    @cached_property
    def axes(self) -> list[dict[str, Any]]:
        """Name, type and unit of each axis; before version 0.4 there are fewer."""
        given = self.told.get("axes") or list("tczyx")
        return [axis if isinstance(axis, dict) else {"name": str(axis)} for axis in given]

    @cached_property
    def letters(self) -> str:
        """The axes as letters of the header; I for those of other kinds."""
        found: list[str] = []
        for axis in self.axes:
            name = str(axis.get("name", "")).upper()
            letter = _LETTERS.get(str(axis.get("type", "")), name)
            found.append(letter if letter in {*"TCZYX"} - {*found} else "I")
        return "".join(found)

    def scale(self, level: int) -> list[float]:
        """The sizes of a pixel of a level along all axes, in their own units."""
        sizes = [1.0] * len(self.axes)
        for part in (self.told["datasets"][level], self.told):
            for step in part.get("coordinateTransformations", ()):
                if step.get("type") == "scale" and len(step.get("scale", ())) == len(sizes):
                    sizes = [a * float(b) for a, b in zip(sizes, step["scale"], strict=True)]
        return sizes

    @property
    def spacing(self) -> Spacing:
        """(z, y, x) in micrometres. Without units, 1 is no size and others are micrometres."""
        found: dict[str, float] = {}
        for axis, letter, size in zip(self.axes, self.letters, self.scale(0), strict=True):
            factor = MICROMETRES.get(str(axis.get("unit", "micrometer")))
            if letter in "ZYX" and factor is not None and 0 < size < float("inf"):
                found[letter] = size * factor
        if not any("unit" in axis for axis in self.axes) and {*found.values()} == {1.0}:
            return None, None, None
        return found.get("Z"), found.get("Y"), found.get("X")

    @property
    def interval(self) -> float | None:
        """Seconds between time points; None if there is no unit."""
        for axis, letter, size in zip(self.axes, self.letters, self.scale(0), strict=True):
            if letter == "T" and axis.get("unit") in SECONDS and size > 0:
                return size * SECONDS[axis["unit"]]
        return None

    @property
    def channels(self) -> tuple[str, ...]:
        told = self.ome.get("omero")
        listed = told.get("channels", ()) if isinstance(told, dict) else ()
        labels = tuple(str(c.get("label", "")) for c in listed if isinstance(c, dict))
        return labels if any(labels) else ()


def images(tree: Tree) -> list[Multiscales]:
    """The images that a group describes, usually one; [] if it is no image."""
    attributes = tree.attributes() or {}
    ome = attributes.get("ome", attributes)
    listed = ome.get("multiscales") if isinstance(ome, dict) else None
    found = []
    for told in listed if isinstance(listed, list) else ():
        try:
            each = Multiscales(
                str(ome.get("version", told.get("version", "0.4"))), told, attributes
            )
            each.paths, each.letters, each.spacing, each.interval, each.channels  # noqa: B018
        except (AttributeError, LookupError, TypeError, ValueError) as exc:
            raise InputError(f"{tree.path}: its OME-Zarr metadata are damaged: {exc!r}") from exc
        found.append(each)
    return found


def document(tree: Tree, number: int) -> bytes | None:
    """The OME-XML of an image of a group, of its own or that of bioformats2raw around it.

    number: of the image in its group. None if there is none, or it is damaged.
    """
    own, around = tree.read(DOCUMENT), None
    if own is None and tree.zipped is None and tree.path.name.isdecimal():
        around, number = Tree(tree.path.parent).read(DOCUMENT), int(tree.path.name)
    xml = own or around
    try:
        listed = ome.own_images(xml, "", "") if xml else []
        if xml is None or number >= len(listed):
            return None
        ome.told(alone := ome.alone(xml, listed[number]))
        return alone
    except InputError:
        return None  # it says nothing about the pixels


def is_image(path: Path) -> bool:
    """Whether a folder is one image: not a plate, or another group of images.

    A folder with the name of an OME-Zarr is one, even if nothing is in it yet.
    """
    tree = Tree(path)
    try:
        attributes = tree.attributes()
    except InputError:
        return True  # damaged
    except OSError:
        return False
    if attributes is None:
        return path.suffix.lower() == ".zarr" and not _has_groups(path)
    ome = attributes.get("ome", attributes)
    if isinstance(ome, dict) and "multiscales" in ome:
        return True
    is_array = (path / ".zarray").exists() or b'"array"' in (tree.read("zarr.json") or b"")
    return is_array or (path.suffix.lower() == ".zarr" and not _has_groups(path))


def _has_groups(path: Path) -> bool:
    """Whether there are groups in a folder."""
    return any(
        (each / name).exists() for each in path.iterdir() for name in ("zarr.json", ".zgroup")
    )


def surround(source: Path, target: Path) -> None:
    """Copy the metadata of the groups around an image, such as wells and the plate.

    The groups around the target have the names of those around the source. Images of another kind
    of file become a group as that of bioformats2raw.
    """
    with _SURROUNDING:
        _surround(source, target)


def _surround(source: Path, target: Path) -> None:
    own = Tree(source.parent).attributes()
    if own is None and target.parent.suffix.lower() == ".zarr":
        made = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": _SEVERAL}}
        _put(target.parent / "zarr.json", json.dumps(made, indent=2).encode())
    copied = []
    while Tree(source.parent).attributes() is not None and target.parent.name:
        source, target = source.parent, target.parent
        copied.append((source, target))
    if not copied or copied[-1][1].suffix.lower() != ".zarr":
        return  # a single image of a plate, written elsewhere
    for group, there in reversed(copied):
        for name in ("zarr.json", ".zgroup", ".zattrs", DOCUMENT, "OME/zarr.json"):
            data = Tree(group).read(name)
            if data is not None:
                _put(there / name, data)


def _put(path: Path, data: bytes) -> None:
    """Write a file, unless it is there."""
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_bytes(data)


def others(tree: Tree, levels: Sequence[str]) -> Iterator[str]:
    """All files of an image that belong to none of its levels: labels, tables."""
    for name in tree.names():
        of_level = any(PurePosixPath(name).is_relative_to(path) for path in levels)
        if not of_level and name not in METADATA:
            yield name


@dataclass(frozen=True)
class ZarrSource:
    """What the writer needs from the input OME-Zarr."""

    path: Path
    image: Multiscales
    letters: str  # axes of the arrays; "-" for one of length 1 that the header does not have
    dtype: np.dtype[Any]
    shapes: tuple[tuple[int, ...], ...]  # of the arrays of the pyramid
    storage: tuple[Mapping[str, Any], ...]  # arguments of zarr.create_array of each
    zarr_format: int
