"""Writes OME-Zarr: chunks, shards, codecs, pyramid and metadata as in the input, plus provenance.

What was no OME-Zarr becomes version 0.5 with chunks of 512 x 512 and levels of half the size. All
else in an input's group, such as labels and tables, is copied, as long as the shape stays.

The metadata and the provenance record are written first, then all planes, then the smaller levels:
so planes of a run that was killed can be found and kept. A zip file is packed when all is complete,
with fixed times.
"""

import itertools
import math
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.errors import InputError, OutputError
from restorectl.files.atomic import part_path
from restorectl.files.provenance import folder_sha256
from restorectl.images import pyramid
from restorectl.images.extra import library
from restorectl.images.header import CANONICAL, Header, Plane
from restorectl.images.image import Array, Consumer, Format, Record
from restorectl.images.regions import Divided, Region
from restorectl.images.tiff import ome
from restorectl.images.tiles import chunks
from restorectl.images.zarr import layout
from restorectl.images.zarr.layout import MICROMETRES, OURS, SECONDS, Tree, ZarrSource
from restorectl.images.zarr.read import ZarrImage, read_record, titles

_CHUNK, _SHARD = 512, 2048  # px, sides of new chunks, and of shards of planes that are larger
_SLABS_BYTES = 512 << 20  # of planes that wait until a chunk is complete
_TYPES = {"T": "time", "C": "channel"}
_COLOURS = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")
_RGB = ("FF0000", "00FF00", "0000FF")
_TIME = (1980, 1, 1, 0, 0, 0)  # of every file in a zip file

Slab = tuple[int, int, int]  # (t, c, z) of a chunk or shard, in chunks


@dataclass(frozen=True)
class ZarrOutput:
    """How an image will be stored; decided before writing."""

    header: Header  # canonical axes
    source: ZarrSource | None
    is_colour: bool

    @property
    def axes(self) -> str:
        return self.header.axes

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of all levels; each as many times smaller as in the input."""
        shape = self.header.shape
        if self.source is not None:
            first, *_ = shapes = [self._canonical(each) for each in self.source.shapes]
            return [
                tuple(max(1, round(n * a / b)) for n, a, b in zip(shape, each, first, strict=True))
                for each in shapes
            ]
        return pyramid.halves(shape)

    def _canonical(self, lengths: Sequence[Any]) -> tuple[Any, ...]:
        """Numbers of the axes of the input, for those of the output; 1 for new ones."""
        assert self.source is not None
        given = dict(zip(self.source.letters, lengths, strict=True))
        return tuple(given.get(axis, 1) for axis in self.axes)

    @cached_property
    def storage(self) -> list[dict[str, Any]]:
        """Arguments of zarr.create_array of each level."""
        found = []
        for k, shape in enumerate(self.shapes):
            *deep, y, x = shape
            stored: dict[str, Any] = {
                "chunks": (*(1 for _ in deep), min(y, _CHUNK), min(x, _CHUNK))
            }
            if self.source is not None:
                stored = dict(self.source.storage[k])
                stored["chunks"] = self._canonical(stored["chunks"])
                if self.header.dtype != self.source.dtype:  # they may not fit other numbers
                    del stored["filters"], stored["fill_value"]
                if stored.get("shards"):
                    stored["shards"] = self._canonical(stored["shards"])
            elif max(y, x) > _SHARD:
                sides = (
                    c * -(-min(n, _SHARD) // c)
                    for n, c in zip(shape, stored["chunks"], strict=True)
                )
                stored["shards"] = tuple(sides)
            found.append(stored)
        if self._waiting(found[0]) > _SLABS_BYTES:  # chunks of many large planes
            for stored in found:
                stored["chunks"] = (*(1 for _ in deep), *stored["chunks"][-2:])
                if stored.get("shards"):
                    stored["shards"] = (*(1 for _ in deep), *stored["shards"][-2:])
        return found

    def _waiting(self, stored: Mapping[str, Any]) -> int:
        """The most bytes of planes that wait at any time, if planes come in canonical order."""
        deep = (stored.get("shards") or stored["chunks"])[:-2]
        at = dict(zip(self.axes[:-2], deep, strict=True))
        t, c, z, *plane = self.header.canonical_shape[:3] + self.header.shape[-2:]
        planes = at.get("Z", 1)
        if at.get("C", 1) > 1:
            planes = max(planes, z) * at["C"]
        if at.get("T", 1) > 1:
            planes = c * z * at["T"]
        return int(min(planes, t * c * z) * math.prod(plane) * self.header.dtype.itemsize)

    @property
    def sides(self) -> tuple[int, ...]:
        """Of a chunk of the first level, or of a shard if there are any."""
        found: tuple[int, ...] = self.storage[0].get("shards") or self.storage[0]["chunks"]
        return found

    def slab(self, plane: Plane) -> Slab:
        """The chunk or shard that a plane is in."""
        depth = dict(zip(self.axes, self.sides, strict=True))
        t, c, z = (k // depth.get(axis, 1) for axis, k in zip("TCZ", plane, strict=True))
        return t, c, z

    def span(self, slab: Slab) -> tuple[slice, ...]:
        """Where a slab is in the array: slices of all axes but Y and X."""
        at = dict(zip("TCZ", slab, strict=True))
        outer = zip(self.axes[:-2], self.sides, self.header.shape, strict=False)
        return tuple(
            slice(at[axis] * n, min((at[axis] + 1) * n, length)) for axis, n, length in outer
        )

    @property
    def paths(self) -> list[str]:
        if self.source is not None:
            return self.source.image.paths
        return [str(k) for k in range(len(self.shapes))]

    @property
    def document(self) -> bytes | None:
        """The OME-XML of another kind of file, or of an OME-Zarr whose shape has changed."""
        xml = self.header.extra.get("ome")
        if xml is None or (self.source is not None and _shape_kept(self)):
            return None
        return ome.edited(xml, ome.told(xml), self.header, None)

    @property
    def zarr_format(self) -> int:
        return self.source.zarr_format if self.source is not None else 3

    def attributes(self, provenance: Record) -> dict[str, Any]:
        """The attributes of the group: those of the input, with new sizes and provenance."""
        if self.source is not None:
            image, spacing = self.source.image, self.header.spacing
            told = dict(image.told)
            if self.axes != self.source.letters or spacing != image.spacing:
                told.pop("coordinateTransformations", None)  # those of the levels are complete
                told |= self._multiscales(image)
            own = {**image.ome, "multiscales": [told]}
            if "ome" in image.attributes:
                own = {**image.attributes, "ome": own}
            return {**own, OURS: dict(provenance)}
        own = {"version": "0.5", "multiscales": [self._multiscales(None)]}
        return {"ome": own, OURS: dict(provenance)}

    def _multiscales(self, image: layout.Multiscales | None) -> dict[str, Any]:
        """Axes and sizes of pixels of all levels."""
        axes, sizes = [], []
        known = dict(zip("ZYX", self.header.spacing, strict=True)) | {"T": self.header.interval}
        given = dict(zip(image.letters, image.axes, strict=True)) if image is not None else {}
        for axis in self.axes:
            told = dict(given.get(axis, {}))
            told |= {"name": axis.lower(), "type": _TYPES.get(axis, "space")}
            units = {"T": SECONDS}.get(axis, MICROMETRES)
            size = known.get(axis)
            if size is not None:
                told.setdefault("unit", "second" if axis == "T" else "micrometer")
                size /= units.get(told["unit"], 1.0)
            axes.append(told)
            sizes.append(1.0 if size is None else size)
        levels = []
        for path, shape in zip(self.paths, self.shapes, strict=True):
            factors = [a / b for a, b in zip(self.header.shape, shape, strict=True)]
            scale = [size * factor for size, factor in zip(sizes, factors, strict=True)]
            shift = [size * (f - 1) / 2 for size, f in zip(sizes, factors, strict=True)]
            steps: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
            if any(shift):
                steps.append({"type": "translation", "translation": shift})
            levels.append({"path": path, "coordinateTransformations": steps})
        return {"axes": axes, "datasets": levels}

    def omero(self, smallest: Any) -> dict[str, Any]:
        """How viewers show the channels; `smallest`: the array of the smallest level."""
        info = np.iinfo(self.header.dtype) if self.header.dtype.kind in "iu" else None
        c_at = self.axes.find("C")
        ranges: list[list[float]] = [[] for _ in range(self.header.size("C"))]
        for place in np.ndindex(smallest.shape[:-2]):  # a plane at a time
            pixels = np.asarray(smallest[place])
            if info is None:
                pixels = pixels[np.isfinite(pixels)]
            if pixels.size:
                seen = ranges[place[c_at] if c_at >= 0 else 0]
                seen[:] = min([*seen, float(pixels.min())]), max([*seen, float(pixels.max())])
        colours = _RGB if self.is_colour else _COLOURS if len(ranges) > 1 else ("FFFFFF",)
        channels = []
        for c, (seen, colour) in enumerate(zip(ranges, itertools.cycle(colours), strict=False)):
            low, high = seen or (0.0, 1.0)
            most = (low, high) if info is None else (float(info.min), float(info.max))
            window = {"min": most[0], "max": most[1], "start": low, "end": high}
            named = {"label": self.header.channels[c]} if self.header.channels else {}
            channels.append({**named, "color": colour, "active": True, "window": window})
        return {"channels": channels}


def output_for(path: Path, header: Header) -> ZarrOutput:
    """Decide how an image is stored. Raises OutputError if that is impossible."""
    try:
        library("zarr", path, "OME-Zarr")
    except InputError as exc:
        raise OutputError(str(exc)) from exc
    return ZarrOutput(stored(header), header.extra.get("zarr"), "S" in header.axes)


def stored(header: Header) -> Header:
    """The header with the axes in the order of OME-Zarr, and colours as channels."""
    shape = dict(zip(CANONICAL, header.canonical_shape, strict=True))
    source = header.extra.get("zarr")
    given = source.letters if source is not None else ""
    axes = [a for a in CANONICAL if a in "YX" or a in header.axes or a in given or shape[a] > 1]
    return replace(header, axes="".join(axes), shape=tuple(shape[axis] for axis in axes))


def create(path: Path, header: Header, provenance: Record, first: int = 0) -> Consumer:
    """Write an OME-Zarr into an empty folder from the planes that are sent.

    first: the planes before it are there. See `image.create_image`.
    """
    zarr = library("zarr", path, "OME-Zarr")
    out = output_for(path, header)
    group, arrays, ready = _begin(zarr, path, out, provenance, first)
    slabs = Slabs(out, arrays[0], Counter(map(out.slab, header.planes)))
    for page in chunks(header.planes[first:], header.page):
        top = 0
        while top < header.canonical_shape[3]:
            for plane in page:
                rows = yield
                if out.slab(plane) not in ready:
                    slabs.take(plane, top, rows)
            top += len(rows)
    _finish(out, group, arrays, provenance)


@dataclass(frozen=True)
class Slabs:
    """Rows of planes that wait until all of a row of chunks or shards is there."""

    out: ZarrOutput
    array: Any
    planes: Mapping[Slab, int]  # how many of them each has
    waiting: dict[tuple[Slab, int], Array] = field(default_factory=dict)  # (..., Y, X)
    missing: dict[tuple[Slab, int], int] = field(default_factory=dict)  # rows of planes

    def take(self, plane: Plane, top: int, rows: Array) -> None:
        """Take the rows (h, X) of a plane from row `top` on; write what is complete."""
        slab, (height, width) = self.out.slab(plane), self.out.header.shape[-2:]
        span, at = self.out.span(slab), dict(zip("TCZ", plane, strict=True))
        inside = tuple(at[a] - s.start for a, s in zip(self.out.axes[:-2], span, strict=True))
        tall, below = self.out.sides[-2], top + len(rows)
        for k in range(top // tall, -(-below // tall)):
            start, stop = k * tall, min((k + 1) * tall, height)
            if (slab, k) not in self.waiting:
                deep = (each.stop - each.start for each in span)
                self.waiting[slab, k] = np.empty((*deep, stop - start, width), rows.dtype)
                self.missing[slab, k] = self.planes[slab] * (stop - start)
            a, b = max(start, top), min(stop, below)
            self.waiting[slab, k][(*inside, slice(a - start, b - start))] = rows[a - top : b - top]
            self.missing[slab, k] -= b - a
            if not self.missing[slab, k]:
                self.array[(*span, slice(start, stop))] = self.waiting.pop((slab, k))


def _begin(
    zarr: Any, path: Path, out: ZarrOutput, provenance: Record, first: int
) -> tuple[Any, list[Any], frozenset[Slab]]:
    """The group, its arrays, and the slabs of the first array that are complete."""
    if first:
        for left in path.rglob("*.partial"):  # files that zarr did not complete
            left.unlink()
        group = zarr.open_group(path, mode="r+", zarr_format=out.zarr_format)
        return group, [group[name] for name in out.paths], frozenset(_complete(path, out))
    for each in path.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    if out.source is not None and _shape_kept(out):
        tree = Tree(out.source.path)
        for name in layout.others(tree, out.paths):
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(tree.read(name) or b"")
        tree.close()
    group = zarr.create_group(
        path, zarr_format=out.zarr_format, attributes=out.attributes(provenance)
    )
    if (xml := out.document) is not None:
        (path / layout.DOCUMENT).parent.mkdir(exist_ok=True)
        (path / layout.DOCUMENT).write_bytes(xml)
    arrays = []
    for name, shape, stored in zip(out.paths, out.shapes, out.storage, strict=True):
        named = {"dimension_names": [a.lower() for a in out.axes]} if out.zarr_format == 3 else {}
        made = group.create_array(
            name,
            shape=shape,
            dtype=out.header.dtype,
            config={"write_empty_chunks": True},
            **stored,
            **named,
        )
        arrays.append(made)
    return group, arrays, frozenset()


def _finish(out: ZarrOutput, group: Any, arrays: Sequence[Any], provenance: Record) -> None:
    """Write what depends on all pixels: the smaller levels, and how viewers show the channels."""
    for larger, smaller in itertools.pairwise(arrays):
        _shrink(larger, smaller)
    if out.source is None:
        attributes = out.attributes(provenance)
        attributes["ome"] |= {"omero": out.omero(arrays[-1])}
        group.attrs.update(attributes)


def _shape_kept(out: ZarrOutput) -> bool:
    assert out.source is not None
    return math.prod(out.header.shape) == math.prod(out.source.shapes[0])


def resume(path: Path, header: Header, provenance: Record) -> int:
    """How many planes, in the order of the header, an interrupted run completed."""
    out = output_for(path, header)
    if not _begun(path, out, provenance):
        return 0
    ready = frozenset(_complete(path, out))
    return sum(1 for _ in itertools.takewhile(lambda p: out.slab(p) in ready, header.planes))


def _begun(path: Path, out: ZarrOutput, provenance: Record) -> bool:
    """Whether a run that was interrupted made the arrays of this image."""
    return read_record(path) == provenance and all((path / name).is_dir() for name in out.paths)


def _complete(path: Path, out: ZarrOutput) -> set[Slab]:
    """The slabs of the first array of which all chunk files exist."""
    missing, whole = _missing(path, out), (slice(None), slice(None))
    return {slab for slab in map(out.slab, out.header.planes) if not missing(slab, whole)}


def _missing(path: Path, out: ZarrOutput) -> Callable[[Slab, tuple[slice, slice]], bool]:
    """Tells whether a chunk file of rows and columns of a slab does not exist."""
    encoding = library("zarr", path, "OME-Zarr").open_array(path / out.paths[0], mode="r").metadata
    there = {*Tree(path).names(f"{out.paths[0]}/")}

    def missing(slab: Slab, area: tuple[slice, slice]) -> bool:
        at = dict(zip("TCZ", slab, strict=True))
        outer = [at[axis] for axis in out.axes[:-2]]
        spans = [span.indices(n) for span, n in zip(area, out.header.shape[-2:], strict=True)]
        rows, cols = (
            range(start // side, -(-stop // side))
            for (start, stop, _), side in zip(spans, out.sides[-2:], strict=True)
        )
        keys = (encoding.encode_chunk_key((*outer, i, j)) for i in rows for j in cols)
        return any(f"{out.paths[0]}/{key}" not in there for key in keys)

    return missing


class DividedZarr(Divided):
    """An OME-Zarr that several processes write, by whole chunks or shards of its first array."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.out = path, output_for(path, header)
        *_, rows, cols = self.out.sides
        self.sides = rows, cols
        self._zarr = library("zarr", path, "OME-Zarr")
        self._missing: Callable[[Slab, tuple[slice, slice]], bool] | None = None

    def slab(self, plane: Plane) -> Slab:
        """See `Divided`."""
        return self.out.slab(plane)

    def begin(self, provenance: Record) -> None:
        """See `Divided`."""
        kept = _begun(self.path, self.out, provenance)
        _begin(self._zarr, self.path, self.out, provenance, int(kept))
        self._missing = _missing(self.path, self.out) if kept else None

    def has(self, region: Region) -> bool:
        """See `Divided`."""
        missing, slabs = self._missing, {self.slab(plane) for plane in region.planes}
        return missing is not None and not any(missing(slab, region.area) for slab in slabs)

    def put(self, region: Region, pixels: np.ndarray) -> None:
        """See `Divided`."""
        span = self.out.span(self.slab(region.planes[0]))
        block = np.empty((*(s.stop - s.start for s in span), *pixels.shape[1:]), pixels.dtype)
        for plane, values in zip(region.planes, pixels, strict=True):
            at = dict(zip("TCZ", plane, strict=True))
            inside = (at[a] - s.start for a, s in zip(self.out.axes[:-2], span, strict=True))
            block[tuple(inside)] = values
        self._array[(*span, *region.area)] = block

    @cached_property
    def _array(self) -> Any:
        return self._zarr.open_array(self.path / self.out.paths[0], mode="r+")

    def finish(self, provenance: Record) -> None:
        """See `Divided`."""
        group = self._zarr.open_group(self.path, mode="r+", zarr_format=self.out.zarr_format)
        _finish(self.out, group, [group[name] for name in self.out.paths], provenance)


def _shrink(larger: Any, smaller: Any) -> None:
    """Fill a level of a pyramid with the means of the pixels of the larger one, by chunks."""
    bounds = [pyramid.borders(n, m) for n, m in zip(larger.shape, smaller.shape, strict=True)]
    sides = smaller.shards or smaller.chunks
    starts = (range(0, n, side) for n, side in zip(smaller.shape, sides, strict=True))
    for corner in itertools.product(*starts):
        ends = (min(a + n, m) for a, n, m in zip(corner, sides, smaller.shape, strict=True))
        spans = tuple(slice(a, b) for a, b in zip(corner, ends, strict=True))
        edges = [b[span.start : span.stop + 1] for b, span in zip(bounds, spans, strict=True)]
        block = np.asarray(larger[tuple(slice(e[0], e[-1]) for e in edges)])
        smaller[spans] = pyramid.means(block, edges)


def create_zip(path: Path, header: Header, provenance: Record) -> Consumer:
    """Write an OME-Zarr in a zip file: a folder beside it, packed when it is complete."""
    folder = part_path(path.with_name(f"{path.name.strip('.')}.folder"))
    folder.mkdir()
    try:
        yield from create(folder, header, provenance)
        tree = Tree(folder)
        names = sorted(tree.names(), key=lambda name: (name.count("/"), name))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
            for name in names:  # metadata first
                file.writestr(zipfile.ZipInfo(name, _TIME), tree.read(name) or b"")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_zip(path: Path, head: bytes) -> bool:
    if not head.startswith(b"PK\3\4"):
        return False
    try:
        with zipfile.ZipFile(path) as file:
            ends = {name.rpartition("/")[2] for name in file.namelist()}
    except zipfile.BadZipFile:  # cut off
        return path.name.lower().endswith((".zarr.zip", ".ozx"))
    return not ends.isdisjoint(("zarr.json", ".zgroup"))


FOLDER = Format(
    probe=lambda path, head: path.is_dir() and layout.is_image(path),
    open=ZarrImage,
    create=create,
    check=output_for,
    record=read_record,
    has_mark=lambda path: OURS in (Tree(path).attributes() or {}),
    held_when_open=lambda path: 0,  # read in parts
    content_hash=folder_sha256,
    in_bands=True,
    stored=stored,
    resume=resume,
    divided=DividedZarr,
    surround=layout.surround,
    titles=titles,
)
ZIP = Format(
    probe=_is_zip,
    open=ZarrImage,
    create=create_zip,
    check=output_for,
    record=read_record,
    has_mark=lambda path: read_record(path) is not None,
    held_when_open=lambda path: 0,
    in_bands=True,
    stored=stored,
    titles=titles,
)
