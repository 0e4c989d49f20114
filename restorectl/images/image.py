"""Open, write and check image files and folders of any format.

Each row of `catalog.FORMATS` is a `Format`. Reading identifies the format by content, never by
name; writing uses `Header.format`, which is the row that opened the image or the path given to
`Header.for_target`. A writer takes planes one by one, so several images can be written at once
without holding them in memory.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Self

import numpy as np

from restorectl.catalog import FORMATS, Row
from restorectl.errors import IncompleteError, InputError, OutputError
from restorectl.files.atomic import replacing, replacing_folder
from restorectl.files.provenance import file_sha256
from restorectl.images.header import LARGE, Header, Plane, sizes
from restorectl.images.regions import Divided

Array = np.ndarray[Any, np.dtype[Any]]
Pathlike = str | os.PathLike[str]
ALL = slice(None)
Consumer = Generator[None, Array]  # receives the rows of one image, see `ImageWriter.put`
Record = Mapping[str, Any]  # files.provenance.record: how an output was made
_HEAD = 64  # bytes that identify the format
_MAGIC = 8  # bytes, minimum of any image file


class Image(ABC):
    """An open image; pixels are read only by `read`."""

    path: Path
    header: Header
    unusual: tuple[
        str, ...
    ] = ()  # warnings: what is unusual about the file and changes what is read
    doubtful: bool = False  # whether what is unusual may be that it is still being written

    @abstractmethod
    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        """A region of the canonical plane (t, c, z): shape (Y, X), source dtype, native order.

        Raises InputError if the pixels cannot be decoded, IncompleteError if they are cut off.
        """

    def invalid(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array | None:
        """Where pixels of a region are known to be no measurements, (Y, X) bool; None = nowhere."""
        return None

    def kept(
        self, plane: Plane, rows: slice = ALL, cols: slice = ALL
    ) -> tuple[Array, Array] | None:
        """The invalid pixels that are copied: where (Y, X) bool, and their values (n,) in order.

        None = nowhere.
        """
        return None

    def zero(self, channel: int) -> float:
        """The input value that `read` gives as 0; not 0 for images read around a large offset."""
        return 0.0

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Derived(Image):
    """An image that is read through another, `source`; what it does not change is as there."""

    def __init__(self, source: Image) -> None:
        self.source, self.path, self.header = source, source.path, source.header

    def invalid(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array | None:
        """See `Image`."""
        return self.source.invalid(plane, rows, cols)

    def kept(
        self, plane: Plane, rows: slice = ALL, cols: slice = ALL
    ) -> tuple[Array, Array] | None:
        """See `Image`: values of the file."""
        return self.source.kept(plane, rows, cols)

    def zero(self, channel: int) -> float:
        """See `Image`."""
        return self.source.zero(channel)

    def close(self) -> None:
        """See `Image`."""
        self.source.close()


def _file_size(path: Path) -> int:
    return path.stat().st_size


@dataclass(frozen=True)
class Format:
    """The functions of a file format; the target of a FORMATS row.

    An image is a file or a folder. The defaults suit a format that restorectl never writes and
    whose files are decoded as a whole.
    """

    # (path, first 64 bytes, b"" for a folder) -> is it an image of this format?
    probe: Callable[[Path, bytes], bool]
    # (path, `axes`, `series`); IncompleteError if data that the metadata describe are missing
    open: Callable[[Path, str | None, str | None], Image]
    # (path, header, provenance), and `first` if `resume` found planes: writes from there on
    create: Callable[..., Consumer] | None = None
    # Raises OutputError if the format cannot hold the image.
    check: Callable[[Path, Header], object] = lambda path, header: None
    # The provenance record of an image; None if damaged or not written by restorectl.
    record: Callable[[Path], dict[str, Any] | None] = lambda path: None
    # Whether restorectl wrote this file, even if it is cut off and the record is lost.
    has_mark: Callable[[Path], bool] = lambda path: False
    held_when_open: Callable[[Path], int] = _file_size  # bytes of memory when open
    in_bands: bool = False  # whether bands of large planes are written as they come
    content_hash: Callable[[Path], str] = file_sha256  # SHA-256 in hexadecimal
    stored: Callable[[Header], Header] = lambda header: header  # as a written image has it
    # (temporary path, header, provenance) -> how many planes an interrupted run left there
    resume: Callable[[Path, Header, Record], int] = lambda path, header, provenance: 0
    # (temporary path, header): for several processes; OutputError if they cannot write it
    divided: Callable[[Path, Header], Divided] | None = None
    # (source, target): writes what belongs to the folders around the target
    surround: Callable[[Path, Path], None] = lambda source, target: None
    titles: Callable[[Path], Sequence[str]] = lambda path: ("",)  # of the images in a file
    # (path, files of one image each): writes one of several
    join: Callable[[Path, Sequence[Path]], None] | None = None


def format_of(path: Pathlike) -> Format:
    """The format of an image, identified by content.

    Raises InputError if the path is missing or not an image, IncompleteError if cut off.
    """
    path, head = Path(path), b""
    is_folder = path.is_dir()
    if not is_folder:
        try:
            with open(path, "rb") as file:
                head = file.read(_HEAD)
        except FileNotFoundError as exc:
            raise InputError(f"{path}: no such file") from exc
        except OSError as exc:
            raise InputError(f"{path}: cannot be read: {exc.strerror}") from exc
    for form in (row.load() for row in FORMATS.values()):
        if form.probe(path, head):
            found: Format = form
            return found
    if is_folder:
        raise InputError(f"{path}: is a folder, not an image")
    if not head:
        raise IncompleteError(f"{path}: is empty (0 bytes): copy it again or remove it")
    if len(head) < _MAGIC or not any(head):
        what = f"ends after {len(head)} bytes" if len(head) < _MAGIC else "starts with zeros"
        raise IncompleteError(f"{path}: {what}: wait until it is copied completely")
    known = ", ".join(name.upper() for name in FORMATS)
    raise InputError(f"{path}: is not an image that restorectl reads ({known}): convert it")


def is_image_name(path: str | PurePath) -> bool:
    """Whether a file name has the suffix of a readable format; does not access the file."""
    return _row_of_name(PurePath(path)) is not None


def is_image_folder(path: Path) -> bool:
    """Whether a folder is one image, and not a folder of images."""
    return any(row.load().probe(path, b"") for row in FORMATS.values() if row.is_folder)


def is_one_image(path: Path) -> bool:
    """Whether a path is a file or a folder that is one image."""
    return path.is_file() or is_image_folder(path)


def takes_several(path: str | PurePath) -> bool:
    """Whether a file of that name can hold several images: OME-TIFF."""
    return str(path).lower().endswith((".ome.tif", ".ome.tiff"))


def join_images(path: Path, parts: Sequence[Path], target: Path) -> None:
    """Write images, a written file for each, into one file of the target's format.

    Raises OutputError if it does not hold them as they are.
    """
    row = _row_of_name(target)
    form: Format | None = row.load() if row is not None else None
    assert form is not None
    assert form.join is not None
    form.join(path, parts)
    for k, part in enumerate(parts):
        try:
            with open_image(part) as one, open_image(path, series=str(k)) as same:
                _require_equal(path, same.header, one.header)
                last = one.header.planes[-1]
                if not np.array_equal(one.read(last), same.read(last), equal_nan=True):
                    raise OutputError(f"{path}: was not written correctly: image {k} differs")
        except InputError as exc:
            raise OutputError(f"{path}: was not written correctly: {exc}") from exc


def is_folder_name(path: str | PurePath) -> bool:
    """Whether a name has the suffix of a format whose images are folders."""
    suffixes = tuple(s for row in FORMATS.values() if row.is_folder for s in row.suffixes)
    return PurePath(path).name.lower().endswith(suffixes)


def result_ending(path: PurePath) -> str:
    """The ending of the result of an image whose format is only read; "" for other formats."""
    row = _row_of_name(path)
    return row.result if row is not None else ""


def base_name(path: PurePath) -> str:
    """The file name without the suffix of its format, and without .ome."""
    name = path.name.lower()
    known = {suffix for row in FORMATS.values() for suffix in row.suffixes if name.endswith(suffix)}
    suffix = max(known, key=len, default="")
    return path.name[: len(path.name) - len(suffix)].removesuffix(".ome") if suffix else path.stem


def open_image(path: Pathlike, *, axes: str | None = None, series: str | None = None) -> Image:
    """Open an image lazily.

    axes: the user's names of its axes. series: which of several images in the file, by number or
    name.

    Raises InputError if the file is missing, not an image, damaged, ambiguous or of a kind that
    cannot be restored, IncompleteError if it is cut off or still being written.
    """
    path = Path(path)
    try:
        return format_of(path).open(path, axes, series)
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc}") from exc


def choose_series(titles: Sequence[str], series: str | None, path: Path) -> int:
    """The number of the chosen image of a file; `titles`: their names, "" = none.

    series: a number or a name. Raises InputError if there are several and none is chosen, or the
    chosen one is missing.
    """
    if len(titles) == 1 and series is None:
        return 0
    wanted = [k for k, title in enumerate(titles) if series in (str(k), title)]
    if len(wanted) == 1:
        return wanted[0]
    listed = ", ".join(f"{k} ({title})" if title else str(k) for k, title in enumerate(titles))
    if series is None:
        raise InputError(f"{path}: holds {len(titles)} images: choose a `series` of {listed}")
    raise InputError(f"{path}: has no `series` {series}: choose one of {listed}")


@dataclass
class ImageWriter:
    """Writes an image, plane by plane or in bands of rows."""

    header: Header
    consumer: Consumer
    received: int = 0  # rows of all planes

    def put(self, rows: Array) -> None:
        """Take the next rows of a plane, (h, X) of the header's dtype, best all of them.

        In the order of `header.planes`; if they are not all, those of a page (`Header.page`) in
        turns.
        """
        header, (height, width) = self.header, self.header.canonical_shape[3:]
        fits = rows.ndim == 2 and rows.shape[1] == width and rows.dtype == header.dtype
        total = len(header.planes) * height
        if not fits or self.received + len(rows) > total:
            raise ValueError(
                f"after {self.received} of the {total} rows of all planes come {rows.dtype}"
                f" {sizes(rows.shape)}, not {header.dtype} {sizes((height, width))} or less"
            )
        self.received += len(rows)
        with suppress(StopIteration):  # the last rows complete the file
            self.consumer.send(rows)


def require_writable(path: Path, header: Header) -> Format:
    """The format that writes an image of this header; reads and writes nothing.

    Raises OutputError if no format has the path's suffix, or if its format cannot hold the image.
    """
    row = FORMATS.get(header.format) or _row_of_name(PurePath(header.format))
    if row is None:
        known = " ".join(suffix for row in FORMATS.values() for suffix in row.suffixes)
        raise OutputError(
            f"{path}: '{PurePath(header.format).name}' is not an image format: end the name in one"
            f" of {known}"
        )
    form: Format = row.load()
    if form.create is None:
        shown = PurePath(header.format).suffix or header.format
        raise OutputError(f"{path}: {shown} cannot hold a restored image: use .png or .tif")
    form.check(path, header)
    return form


def divided(path: Path, header: Header) -> Divided:
    """The image that several processes write. Raises OutputError if they cannot."""
    make = require_writable(path, header).divided
    if make is None:
        shown = PurePath(header.format).suffix or header.format
        raise OutputError(
            f"{path}: {shown} cannot be written by several processes: choose OME-Zarr or an"
            " uncompressed TIFF as `output`, or leave out `dask`"
        )
    return make(path, header)


@contextmanager
def create_image(
    path: Pathlike, header: Header, *, provenance: Record, first: int = 0
) -> Iterator[ImageWriter]:
    """Write an image plane by plane; call it inside `publishing`.

    Only one page is in memory at a time, or what it comes in. Equal arguments and planes give equal
    bytes, whether these come whole or in bands.
    first: the planes before it are there already (see `planes_there`).

    Raises OutputError if the format cannot hold the image, ValueError for planes that do not match
    the header. `replacing` converts any OSError of the disk.
    """
    path = Path(path)
    create, more = require_writable(path, header).create, {"first": first} if first else {}
    assert create is not None
    height = header.canonical_shape[3]
    writer = ImageWriter(header, create(path, header, provenance, **more), first * height)
    next(writer.consumer)
    try:
        yield writer
        if writer.received != len(header.planes) * height:
            planes = writer.received / height
            raise ValueError(f"{planes:g} planes, not {len(header.planes)}")
    finally:
        writer.consumer.close()


def write_image(
    path: Pathlike, header: Header, planes: Iterable[Array], *, provenance: Record
) -> None:
    """Write an image from its planes; see `create_image`."""
    with create_image(path, header, provenance=provenance) as writer:
        for plane in planes:
            writer.put(plane)


def verify_image(path: Pathlike, header: Header) -> None:
    """Reopen an image after writing and compare it with the header that it was written from.

    Checks shape, dtype, order of planes and z spacing, and decodes the last plane.

    Raises OutputError if anything differs.
    """
    path = Path(path)
    try:
        stored = format_of(path).stored(header)
        with open_written(path, header) as image:
            _require_equal(path, image.header, stored)
            height, width = stored.canonical_shape[3:]
            step = max(1, LARGE // width)
            for top in range(0, height, step):
                image.read(stored.planes[-1], slice(top, min(top + step, height)))
    except InputError as exc:
        raise OutputError(f"{path}: was not written correctly: {exc}") from exc


def open_written(path: Path, header: Header) -> Image:
    """Open an image that was written from this header."""
    stored = format_of(path).stored(header)
    axes = "".join(axis for axis in stored.axes if axis in "YX" or stored.size(axis) > 1)
    return open_image(path, axes=axes)


def planes_there(path: Path, header: Header, provenance: Record) -> int:
    """How many planes of an image an interrupted run left at its temporary path.

    The last one is never counted: what is written after all planes is written again.
    """
    found = require_writable(path, header).resume(path, header, provenance)
    return min(found, len(header.planes) - 1)


def publishing(
    source: Path,
    target: Path,
    check: Callable[[], None],
    provenance: Record,
    keep: tuple[type[BaseException], ...] = (),
) -> AbstractContextManager[Path]:
    """A temporary sibling of `target`, a file or folder, that becomes it; see `files.atomic`.

    A folder that an interrupted run left there, with the same provenance, is resumed. keep: what
    leaves it there.
    """
    row = _row_of_name(target)
    if row is None or not row.is_folder:
        return replacing(target, check)
    form: Format = row.load()
    form.surround(source, target)
    return replacing_folder(target, check, lambda part: form.record(part) == provenance, keep)


def _require_equal(path: Path, found: Header, header: Header) -> None:
    for what, have, want in (
        ("shape", found.canonical_shape, header.canonical_shape),
        ("dtype", found.dtype, header.dtype),
        ("plane order", found.planes, header.planes),
    ):
        if have != want:
            raise OutputError(f"{path}: was not written correctly: {what} {have}, not {want}")
    z, wanted = found.spacing[0], header.spacing[0]
    if header.size("Z") > 1 and wanted and not (z and math.isclose(z, wanted, rel_tol=1e-6)):
        raise OutputError(f"{path}: was not written correctly: z spacing {z}, not {wanted}")


def read_provenance(path: Pathlike) -> dict[str, Any] | None:
    """The provenance record in an image; None if there is none, or the image is unreadable."""
    try:
        return format_of(path).record(Path(path))
    except InputError:
        return None


@dataclass(frozen=True)
class Existing:
    """What exists at the path of an output."""

    ours: bool
    record: Record | None  # None = missing or damaged: never up to date


def look(path: Path) -> Existing | None:
    """What exists at the path of an output, or None. Reads no pixels.

    Raises OutputError for a folder that is not an image.
    """
    if not os.path.lexists(path):
        return None
    if not path.is_file() and not path.is_dir():
        return Existing(False, None)  # a dangling link, a pipe, a device
    try:
        form = format_of(path)
        record = form.record(path)
        ours = record is not None or form.has_mark(path)
    except (InputError, OSError) as error:
        if path.is_dir():
            raise OutputError(
                f"{path}: is a folder: remove it or choose another `output`"
            ) from error
        return Existing(False, None)  # unreadable, so not written by restorectl
    if record is not None:
        try:
            form.open(path, (record.get("parameters") or {}).get("axes"), None).close()
        except IncompleteError:
            record = None
        except (InputError, OSError):
            pass  # complete, though as an input it would need `axes`
    return Existing(ours, record)


def _row_of_name(path: PurePath) -> Row | None:
    """The format with the longest suffix of a name; all in a folder of a format is of that."""
    name = path.name.lower()
    found = [
        (len(suffix), row)
        for row in FORMATS.values()
        for suffix in row.suffixes
        if name.endswith(suffix)
    ]
    if found:
        return max(found, key=lambda item: item[0])[1]
    around = {parent.suffix.lower() for parent in path.parents}
    folders = (row for row in FORMATS.values() if row.is_folder and not path.suffix)
    return next((row for row in folders if around & {*row.suffixes}), None)


def to_dtype(values: np.ndarray, dtype: np.dtype, dither: np.ndarray | None = None) -> np.ndarray:
    """Convert float values in input units to dtype; for integers, clip and round them.

    dither: uniform numbers in [0, 1) of the same shape. A value is then rounded up with the
    probability of its fraction, so that means are kept where values are finer than one grey level.
    """
    if dtype.kind == "f" or values.dtype == dtype:
        return values.astype(dtype)
    info = np.iinfo(dtype)
    wide = values.astype(np.float64) if info.bits > 16 or dither is not None else values
    whole = np.rint(wide) if dither is None else np.floor(wide + dither)
    if info.bits <= 32:
        return np.asarray(np.clip(whole, info.min, info.max).astype(dtype))
    top = np.nextafter(float(info.max), 0.0)  # info.max itself is no float64
    inside = np.clip(whole, info.min, top).astype(dtype)
    return np.asarray(np.where(whole > top, info.max, inside), dtype)
