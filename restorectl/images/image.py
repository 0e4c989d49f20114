"""Open, create and check images; the formats themselves are rows of `catalog.FORMATS`.

Reading goes by a file's content, never by its name; writing goes by `Header.format`, which is the
row that opened the image or the suffix given to `Header.for_target`.
A writer takes planes one by one, so several images can be written side by side, none in memory.
"""

import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Protocol, Self

import numpy as np

from restorectl.catalog import FORMATS, Row
from restorectl.errors import IncompleteError, InputError, OutputError
from restorectl.images.header import Header, Plane, sizes

Array = np.ndarray[Any, np.dtype[Any]]
Pathlike = str | os.PathLike[str]
ALL = slice(None)
Consumer = Generator[None, Array]  # is sent the planes of one image, in the order of the file
_HEAD = 64  # bytes that tell one format from another
_MAGIC = 8  # bytes that every image has at least


class Image(AbstractContextManager["Image"], Protocol):
    """An open image. Nothing but its header is read before `read` asks for it."""

    @property
    def path(self) -> Path: ...

    @property
    def header(self) -> Header: ...

    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        """A region of the canonical plane (t, c, z): shape (Y, X), source dtype, native order.

        Raises InputError if the pixels cannot be decoded, IncompleteError if they are cut off.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...


@dataclass(frozen=True)
class Format:
    """What one file format does; the target of a FORMATS row."""

    probe: Callable[[bytes], bool]  # do these first bytes of a file belong to the format?
    open: Callable[[Path, str | None], Image]  # (path, --axes)
    # (path, header, provenance); None = restorectl never writes this format
    create: Callable[[Path, Header, Mapping[str, Any]], Consumer] | None
    provenance: Callable[[Path], dict[str, Any] | None]


def is_image_name(path: str | PurePath) -> bool:
    """Whether a file name ends like an image that restorectl reads; the file is not touched."""
    return _row_of_suffix(PurePath(path).suffix) is not None


def open_image(path: Pathlike, *, axes: str | None = None) -> Image:
    """Open an image lazily; `axes` is the user's `--axes`.

    Raises InputError if the file is missing, not an image, damaged, ambiguous or of a kind that
    cannot be restored, IncompleteError if it is cut off or still being written.
    """
    path = Path(path)
    name, row = _row_of_content(path)
    form: Format = row.load()
    try:
        return form.open(path, axes)
    except OSError as exc:
        raise InputError(f"{path}: cannot be read as {name.upper()}: {exc}") from exc


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
def create_image(
    path: Pathlike, header: Header, *, provenance: Mapping[str, Any]
) -> Iterator[ImageWriter]:
    """Write an image plane by plane; call it inside `atomic.replacing`.

    One page of planes is held at a time. Equal arguments and planes give equal bytes.

    Raises OutputError if the format cannot hold the image, ValueError for planes that are not
    those of the header. An OSError of the disk passes through and is named by `replacing`.
    """
    path = Path(path)
    form: Format = _row_of_format(header.format, path).load()
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
    path: Pathlike, header: Header, planes: Iterable[Array], *, provenance: Mapping[str, Any]
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
    """The record that restorectl left in an image; None if the file is damaged or not its own.

    Raises InputError if the file cannot be opened at all.
    """
    path = Path(path)
    found = _row_of_head(_head(path))
    if found is None:
        return None
    form: Format = found[1].load()
    return form.provenance(path)


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except FileNotFoundError as exc:
        raise InputError(f"{path}: no such file") from exc
    except IsADirectoryError as exc:
        raise InputError(f"{path}: is a folder, not an image") from exc
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc.strerror}") from exc


def _row_of_head(head: bytes) -> tuple[str, Row] | None:
    return next(((name, row) for name, row in FORMATS.items() if row.load().probe(head)), None)


def _row_of_content(path: Path) -> tuple[str, Row]:
    head = _head(path)
    found = _row_of_head(head)
    if found is not None:
        return found
    if not head:
        raise IncompleteError(f"{path}: is empty (0 bytes): copy it again or remove it")
    if len(head) < _MAGIC or not any(head):
        what = f"ends after {len(head)} bytes" if len(head) < _MAGIC else "starts with zeros"
        raise IncompleteError(f"{path}: {what}, as if it were still being copied")
    known = ", ".join(name.upper() for name in FORMATS)
    raise InputError(f"{path}: is not an image that restorectl reads ({known}): convert it")


def _row_of_suffix(suffix: str) -> Row | None:
    return next((row for row in FORMATS.values() if suffix.lower() in row.suffixes), None)


def _row_of_format(name: str, path: Path) -> Row:
    row = FORMATS.get(name) or _row_of_suffix(name)
    if row is None:
        known = " ".join(suffix for row in FORMATS.values() for suffix in row.suffixes)
        raise OutputError(f"{path}: '{name}' is no image format: end the name in one of {known}")
    return row


def to_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float values in input units -> dtype; integers are clipped to its range and rounded first."""
    if dtype.kind == "f":
        return values.astype(dtype)
    info = np.iinfo(dtype)
    wide = values.astype(np.float64) if info.bits > 16 else values
    return np.asarray(np.rint(np.clip(wide, info.min, info.max)).astype(dtype))
