"""Reads OME-Zarr lazily, chunk by chunk."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from restorectl.errors import IncompleteError, InputError, one_line
from restorectl.images.extra import library
from restorectl.images.header import KNOWN, Header, Plane, described
from restorectl.images.image import ALL, Array, Image, choose_series
from restorectl.images.recent import Recent
from restorectl.images.zarr import layout
from restorectl.images.zarr.layout import OURS, Multiscales, Tree, ZarrSource


class ZarrImage(Image):
    """An open OME-Zarr."""

    def __init__(self, path: Path, axes: str | None, series: str | None = None) -> None:
        self.path = path
        self._tree = Tree(path)
        try:
            self._open(axes, series)
        except BaseException:
            self.close()
            raise

    def _open(self, axes: str | None, series: str | None) -> None:
        path, found = self.path, layout.images(self._tree)
        if not found:
            if self._tree.attributes() is None:
                raise IncompleteError(f"{path}: has no zarr.json or .zgroup: it is still copied")
            raise InputError(f"{path}: is Zarr without the metadata of an image (multiscales)")
        number = choose_series([each.name for each in found], series, path)
        image = found[number]
        arrays = open_arrays(self._tree, image)
        self._array = arrays[0]
        own, lengths = image.letters, tuple(self._array.shape)
        if not all((*self._array.chunks, *(self._array.shards or ()))):
            raise InputError(f"{path}: has chunks of shape {self._array.chunks}: damaged")
        if len(own) != len(lengths):
            raise InputError(f"{path}: has axes {own}, but arrays of {len(lengths)} axes: damaged")
        dtype, named, shape = described(path, self._array.dtype, own, lengths, axes)
        self._letters = _letter_of_each(own, lengths, named)
        source = ZarrSource(
            path,
            image,
            self._letters,
            dtype,
            tuple(tuple(array.shape) for array in arrays),
            tuple(_storage(array) for array in arrays),
            self._array.metadata.zarr_format,
        )
        xml = layout.document(self._tree, number)
        self.header = Header(
            named,
            shape,
            dtype,
            image.spacing,
            (),
            "ome-zarr",
            extra=MappingProxyType({"zarr": source} | ({"ome": xml} if xml else {})),
            interval=image.interval,
        )
        if len(image.channels) == self.header.size("C"):
            self.header = replace(self.header, channels=image.channels)
        self._planes = frozenset(self.header.planes)
        self._recent = Recent()
        self._require_chunks(image, arrays)

    def _require_chunks(self, image: Multiscales, arrays: Sequence[Any]) -> None:
        """Warn of chunks that were never written. Raises IncompleteError if none was."""
        for name, array in zip(image.paths[:1], arrays, strict=False):
            sides = array.shards or array.chunks
            wanted = math.prod(-(-n // c) for n, c in zip(array.shape, sides, strict=True))
            files = (file.rpartition("/")[2] for file in self._tree.names(f"{name}/"))
            there = sum(not file.startswith((".", "zarr.json")) for file in files)
            missing = wanted - there
            if not there or (missing > 0 and OURS in image.attributes):
                raise IncompleteError(
                    f"{self.path}: {there} of the {wanted} chunk files of its image exist: it is"
                    " cut off or still being written"
                )
            if missing > 0:
                told = f"{missing} of {wanted} chunk files were never written and are read as"
                self.doubtful = True
                self.unusual = (f"sparse OME-Zarr: {told} {array.fill_value}",)

    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        if plane not in self._planes:
            shape = self.header.canonical_shape[:3]
            raise IndexError(f"plane t,c,z = {plane} of an image with T,C,Z = {shape}")
        height, width = self.header.canonical_shape[3:]
        r0, r1, row_step = rows.indices(height)
        c0, c1, col_step = cols.indices(width)
        if row_step != 1 or col_step != 1:
            raise IndexError("regions are read without steps")
        out: Array = np.empty((max(r1 - r0, 0), max(c1 - c0, 0)), self.header.dtype)
        *deep, tall, wide = self._array.chunks
        at = dict(zip("TCZ", plane, strict=True))
        place = [at.get(letter, 0) for letter in self._letters[:-2]]
        outer = tuple(k // n for k, n in zip(place, deep, strict=True))
        inside = tuple(k % n for k, n in zip(place, deep, strict=True))
        for i in range(r0 // tall, -(-r1 // tall) if out.size else 0):
            for j in range(c0 // wide, -(-c1 // wide)):
                index = (*outer, i, j)
                chunk = self._recent.get(index, partial(self._chunk, index))
                pixels = chunk[inside]  # (Y, X) of the plane
                top, left = i * tall, j * wide
                a, b = max(top, r0), min(top + pixels.shape[0], r1)
                c, d = max(left, c0), min(left + pixels.shape[1], c1)
                out[a - r0 : b - r0, c - c0 : d - c0] = pixels[
                    a - top : b - top, c - left : d - left
                ]
        return out

    def _chunk(self, index: tuple[int, ...]) -> Array:
        """A decoded chunk, with all axes of the array."""
        spans = tuple(
            slice(k * n, (k + 1) * n) for k, n in zip(index, self._array.chunks, strict=True)
        )
        try:
            return np.asarray(self._array[spans])
        except Exception as exc:  # codecs raise various errors
            raise InputError(
                f"{self.path}: chunk {index} cannot be decoded: {one_line(exc)}"
            ) from exc

    def close(self) -> None:
        self._tree.close()


def open_arrays(tree: Tree, image: Multiscales) -> list[Any]:
    """The zarr arrays of the levels of an image. Raises InputError, IncompleteError."""
    zarr = library("zarr", tree.path, "OME-Zarr")
    store: Any = tree.path
    if tree.zipped is not None:
        store = zarr.storage.ZipStore(tree.path, mode="r")
    found = []
    for name in image.paths:
        try:
            with warnings.catch_warnings(action="ignore"):  # about what others wrote
                found.append(zarr.open_array(store, path=tree.prefix + name, mode="r"))
        except FileNotFoundError as exc:
            raise IncompleteError(f"{tree.path}: its array {name} is missing") from exc
        except Exception as exc:  # zarr raises various errors
            raise InputError(f"{tree.path}: its array {name} cannot be read: {exc}") from exc
    return found


def _letter_of_each(own: str, lengths: tuple[int, ...], named: str) -> str:
    """The header's letter of each axis of the arrays; "-" for those of length 1 it leaves out."""
    if len(own) == len(named):
        return named
    kept = [axis in KNOWN or n > 1 for axis, n in zip(own, lengths, strict=True)]
    if sum(kept) != len(named):
        kept = [axis in "YX" or n > 1 for axis, n in zip(own, lengths, strict=True)]
    letters = iter(named)
    return "".join(next(letters) if keep else "-" for keep in kept)


def _storage(array: Any) -> dict[str, Any]:
    """How an array is stored, as arguments of zarr.create_array."""
    found: dict[str, Any] = {
        "chunks": array.chunks,
        "filters": array.filters or None,
        "compressors": array.compressors or None,
        "fill_value": array.fill_value,
    }
    if array.metadata.zarr_format == 3:
        encoding = array.metadata.chunk_key_encoding
        return found | {"shards": array.shards, "chunk_key_encoding": encoding}
    separator = array.metadata.dimension_separator
    return found | {"chunk_key_encoding": {"name": "v2", "separator": separator}}


def titles(path: Path) -> tuple[str, ...]:
    tree = Tree(path)
    try:
        return tuple(each.name for each in layout.images(tree)) or ("",)
    finally:
        tree.close()


def read_record(path: Path) -> dict[str, Any] | None:
    """The provenance record among the attributes; None if there is none."""
    tree = Tree(path)
    try:
        record = (tree.attributes() or {}).get(OURS)
    except InputError:
        return None  # damaged
    finally:
        tree.close()
    return record if isinstance(record, dict) else None
