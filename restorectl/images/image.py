"""Open, write and check image files and folders of any format.

Each row of `catalog.FORMATS` is a `Format`. Reading identifies the format by content, never by
name; writing uses `Header.format`, which is the row that opened the image or the suffix given to
`Header.for_target`. A writer takes planes one by one, so several images can be written at once
without holding them in memory.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Self

import numpy as np

from restorectl.catalog import FORMATS, Row
from restorectl.errors import IncompleteError, InputError, OutputError
from restorectl.files.provenance import file_sha256
from restorectl.images.header import Header, Plane, sizes

Array = np.ndarray[Any, np.dtype[Any]]
Pathlike = str | os.PathLike[str]
ALL = slice(None)
Consumer = Generator[None, Array]  # receives the planes of one image, in the file's order
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

    @abstractmethod
    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        """A region of the canonical plane (t, c, z): shape (Y, X), source dtype, native order.

        Raises InputError if the pixels cannot be decoded, IncompleteError if they are cut off.
        """

    def invalid(self, plane: Plane) -> Array | None:
        """Where a plane's pixels are known to be no measurements, (Y, X) bool; None = nowhere."""
        return None

    def kept(self, plane: Plane) -> tuple[Array, Array] | None:
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
    create: Callable[[Path, Header, Record], Consumer] | None = None
    # Raises OutputError if the format cannot hold the image.
    check: Callable[[Path, Header], object] = lambda path, header: None
    # The provenance record of an image; None if damaged or not written by restorectl.
    record: Callable[[Path], dict[str, Any] | None] = lambda path: None
    # Whether restorectl wrote this file, even if it is cut off and the record is lost.
    has_mark: Callable[[Path], bool] = lambda path: False
    held_when_open: Callable[[Path], int] = _file_size  # bytes of memory when open
    content_hash: Callable[[Path], str] = file_sha256  # SHA-256 in hexadecimal


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
    return _row_of_suffix(PurePath(path).suffix) is not None


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
    """Writes an image, plane by plane."""

    header: Header
    consumer: Consumer
    received: int = 0

    def put(self, plane: Array) -> None:
        """Take the next plane, (Y, X) of the header's dtype, in the order of `header.planes`."""
        header, shape = self.header, self.header.canonical_shape[3:]
        fits = plane.shape == shape and plane.dtype == header.dtype
        if self.received == len(header.planes) or not fits:
            raise ValueError(
                f"plane {self.received} of {len(header.planes)} is {plane.dtype}"
                f" {sizes(plane.shape)}, not {header.dtype} {sizes(shape)}"
            )
        self.received += 1
        with suppress(StopIteration):  # the last plane completes the file
            self.consumer.send(plane)


def require_writable(path: Path, header: Header) -> Callable[[Path, Header, Record], Consumer]:
    """The function that writes an image of this header; reads and writes nothing.

    Raises OutputError if no format has the path's suffix, or if its format cannot hold the image.
    """
    row = FORMATS.get(header.format) or _row_of_suffix(header.format)
    if row is None:
        known = " ".join(suffix for row in FORMATS.values() for suffix in row.suffixes)
        raise OutputError(
            f"{path}: '{header.format}' is not an image format: end the name in one of {known}"
        )
    form: Format = row.load()
    if form.create is None:
        raise OutputError(f"{path}: {header.format} cannot hold a restored image: use .png or .tif")
    form.check(path, header)
    return form.create


@contextmanager
def create_image(path: Pathlike, header: Header, *, provenance: Record) -> Iterator[ImageWriter]:
    """Write an image plane by plane; call it inside `atomic.replacing`.

    Only one page is in memory at a time. Equal arguments and planes give equal bytes.

    Raises OutputError if the format cannot hold the image, ValueError for planes that do not match
    the header. `replacing` converts any OSError of the disk.
    """
    path = Path(path)
    writer = ImageWriter(header, require_writable(path, header)(path, header, provenance))
    next(writer.consumer)
    try:
        yield writer
        if writer.received != len(header.planes):
            raise ValueError(f"{writer.received} planes, not {len(header.planes)}")
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
    squeezed = "".join(axis for axis in header.axes if axis in "YX" or header.size(axis) > 1)
    try:
        with open_image(path, axes=squeezed) as image:
            _require_equal(path, image.header, header)
            image.read(header.planes[-1])
    except InputError as exc:
        raise OutputError(f"{path}: was not written correctly: {exc}") from exc


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


def _row_of_suffix(suffix: str) -> Row | None:
    return next((row for row in FORMATS.values() if suffix.lower() in row.suffixes), None)


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
