"""What an image file or folder is: opened, written and checked, whatever its format.

The formats are rows of `catalog.FORMATS`, each one `Format`. Reading goes by content, never by
name; writing goes by `Header.format`, which is the row that opened the image or the suffix given to
`Header.for_target`. A writer takes planes one by one, so several images can be written side by
side, none in memory.
"""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
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
Consumer = Generator[None, Array]  # is sent the planes of one image, in the order of the file
Record = Mapping[str, Any]  # files.provenance.record: how an output was made
_HEAD = 64  # bytes that tell one format from another
_MAGIC = 8  # bytes that every image file has at least


class Image(ABC):
    """An open image. Nothing but its header is read before `read` asks for it."""

    path: Path
    header: Header

    @abstractmethod
    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        """A region of the canonical plane (t, c, z): shape (Y, X), source dtype, native order.

        Raises InputError if the pixels cannot be decoded, IncompleteError if they are cut off.
        """

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
    """Everything that differs between file formats; the target of a FORMATS row.

    An image is a file or a folder. The defaults are those of one file that is decoded as a whole
    and that restorectl never writes.
    """

    # Is this path such an image? Given are a file's first 64 bytes, b"" of a folder.
    probe: Callable[[Path, bytes], bool]
    # (path, `axes`). Raises IncompleteError where anything is missing that the metadata promise.
    open: Callable[[Path, str | None], Image]
    create: Callable[[Path, Header, Record], Consumer] | None = None
    # The record in an image that restorectl wrote; None if it is damaged or another program's.
    record: Callable[[Path], dict[str, Any] | None] = lambda path: None
    # Did restorectl write this, though the record is lost because the file is cut off?
    has_mark: Callable[[Path], bool] = lambda path: False
    held_when_open: Callable[[Path], int] = _file_size  # bytes of memory, told before opening
    content_hash: Callable[[Path], str] = file_sha256  # SHA-256 in hexadecimal


def format_of(path: Pathlike) -> Format:
    """The format of an image by its content.

    Raises InputError if it is missing or no image, IncompleteError if it is still being copied.
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
        raise IncompleteError(f"{path}: {what}, as if it were still being copied")
    known = ", ".join(name.upper() for name in FORMATS)
    raise InputError(f"{path}: is not an image that restorectl reads ({known}): convert it")


def is_image_name(path: str | PurePath) -> bool:
    """Whether a file name ends like an image that restorectl reads; the file is not touched."""
    return _row_of_suffix(PurePath(path).suffix) is not None


def open_image(path: Pathlike, *, axes: str | None = None) -> Image:
    """Open an image lazily; `axes`: what the user says of them.

    Raises InputError if the file is missing, not an image, damaged, ambiguous or of a kind that
    cannot be restored, IncompleteError if it is cut off or still being written.
    """
    path = Path(path)
    try:
        return format_of(path).open(path, axes)
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc}") from exc


@dataclass
class ImageWriter:
    """An image that is being written; it takes its planes one by one."""

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


@contextmanager
def create_image(path: Pathlike, header: Header, *, provenance: Record) -> Iterator[ImageWriter]:
    """Write an image plane by plane; call it inside `atomic.replacing`.

    One page of planes is held at a time. Equal arguments and planes give equal bytes.

    Raises OutputError if the format cannot hold the image, ValueError for planes that are not
    those of the header. An OSError of the disk passes through and is named by `replacing`.
    """
    path = Path(path)
    row = FORMATS.get(header.format) or _row_of_suffix(header.format)
    if row is None:
        known = " ".join(suffix for row in FORMATS.values() for suffix in row.suffixes)
        raise OutputError(
            f"{path}: '{header.format}' is no image format: end the name in one of {known}"
        )
    form: Format = row.load()
    if form.create is None:
        raise OutputError(f"{path}: {header.format} cannot hold a restored image: use .png or .tif")
    writer = ImageWriter(header, form.create(path, header, provenance))
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
    """Write an image whose planes are at hand, or come one by one; see `create_image`."""
    with create_image(path, header, provenance=provenance) as writer:
        for plane in planes:
            writer.put(plane)


def verify_image(path: Pathlike, header: Header) -> None:
    """Reopen an image that was just written and compare it with the header it was written from.

    Checks shape, dtype, the order of the planes and z spacing, and decodes the last plane.

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
    """The record that restorectl left in an image; None if it has none, is damaged or no image."""
    try:
        return format_of(path).record(Path(path))
    except InputError:
        return None


@dataclass(frozen=True)
class Existing:
    """What stands where an output would go."""

    ours: bool
    record: Record | None  # None = another program's, or damaged: it cannot count as up to date


def look(path: Path) -> Existing | None:
    """What stands at the path of an output; None if nothing does. Reads no pixels.

    Raises OutputError for a folder that is no image.
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
        return Existing(False, None)  # not readable for us, so not ours either
    if record is not None:
        try:
            form.open(path, (record.get("parameters") or {}).get("axes")).close()
        except IncompleteError:
            record = None
        except (InputError, OSError):
            pass  # whole, though as an input it would need other axes
    return Existing(ours, record)


def _row_of_suffix(suffix: str) -> Row | None:
    return next((row for row in FORMATS.values() if suffix.lower() in row.suffixes), None)


def to_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float values in input units -> dtype; integers are clipped to its range and rounded first."""
    if dtype.kind == "f":
        return values.astype(dtype)
    info = np.iinfo(dtype)
    wide = values.astype(np.float64) if info.bits > 16 else values
    return np.asarray(np.rint(np.clip(wide, info.min, info.max)).astype(dtype))
