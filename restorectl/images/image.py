"""Open, create and check images; the formats themselves are rows of `catalog.FORMATS`.

Reading goes by a file's content, never by its name; writing goes by `Header.format`, which is the
row that opened the image or the suffix given to `Header.for_target`.

Several images written side by side from one stream of planes, so that none is held in memory.

The last step of every pixel: clip, round, cast.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePath
from queue import Full, Queue
from typing import Any, Protocol, Self

import numpy as np

from restorectl.catalog import FORMATS, Row
from restorectl.errors import IncompleteError, InputError, OutputError
from restorectl.images.header import Header, Plane, sizes

Array = np.ndarray[Any, np.dtype[Any]]
Pathlike = str | os.PathLike[str]
ALL = slice(None)
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
    # (path, header, planes, provenance); None = restorectl never writes this format
    create: Callable[[Path, Header, Iterator[Array], Mapping[str, Any]], None] | None
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


def create_image(
    path: Pathlike, header: Header, planes: Iterator[Array], *, provenance: Mapping[str, Any]
) -> None:
    """Write an image; call it inside `atomic.replacing`.

    `planes` yields arrays (Y, X) of `header.dtype` in the order of `header.planes`; one page of
    them is held at a time. Equal arguments give equal bytes.

    Raises OutputError if the format cannot hold the image. An OSError of the disk passes through
    and is named by `replacing`.
    """
    path = Path(path)
    form: Format = _row_of_format(header.format, path).load()
    if form.create is None:
        raise OutputError(f"{path}: {header.format} cannot hold a restored image: use .png or .tif")
    form.create(path, header, _checked(header, planes), provenance)


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


def _checked(header: Header, planes: Iterator[Array]) -> Iterator[Array]:
    """The planes, each with the promised shape and dtype, and exactly as many as promised."""
    count, shape = 0, header.canonical_shape[3:]
    for plane in planes:
        if count == len(header.planes) or plane.shape != shape or plane.dtype != header.dtype:
            raise ValueError(
                f"plane {count} of {len(header.planes)} is {plane.dtype} {sizes(plane.shape)},"
                f" not {header.dtype} {sizes(shape)}"
            )
        yield plane
        count += 1
    if count != len(header.planes):
        raise ValueError(f"{count} planes, not {len(header.planes)}")


_PATIENCE = 0.05  # seconds between looks at whether a writer has failed


def create_images(
    paths: Sequence[Path],
    headers: Sequence[Header],
    planes: Iterator[tuple[Array, ...]],
    provenance: Mapping[str, Any],
) -> None:
    """Write image k from the k-th array of every tuple; see `create_image` for each.

    A failed writer stops the stream, and its error is raised.
    """
    if len(paths) == 1:
        create_image(paths[0], headers[0], (each[0] for each in planes), provenance=provenance)
        return
    queues: list[Queue[Array | None]] = [Queue(1) for _ in paths]
    with ThreadPoolExecutor(len(paths)) as pool:
        writers = [
            pool.submit(create_image, path, header, _until_none(queue), provenance=provenance)
            for path, header, queue in zip(paths, headers, queues, strict=True)
        ]
        try:
            for each in planes:
                for queue, writer, plane in zip(queues, writers, each, strict=True):
                    _hand_over(queue, writer, plane)
        finally:  # a writer that gets too few planes ends with an error of its own
            for queue, writer in zip(queues, writers, strict=True):
                _hand_over(queue, writer, None)
        for writer in writers:
            writer.result()


def _until_none(queue: Queue[Array | None]) -> Iterator[Array]:
    while (plane := queue.get()) is not None:
        yield plane


def _hand_over(queue: Queue[Array | None], writer: Future[None], plane: Array | None) -> None:
    """Wait for room; a writer that has failed takes nothing more, and its error is raised."""
    while not writer.done():
        try:
            queue.put(plane, timeout=_PATIENCE)
            return
        except Full:
            continue
    if plane is not None:
        writer.result()


def to_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float values in input units -> dtype; integers are clipped to its range and rounded first."""
    if dtype.kind == "f":
        return values.astype(dtype)
    info = np.iinfo(dtype)
    wide = values.astype(np.float64) if info.bits > 16 else values
    return np.asarray(np.rint(np.clip(wide, info.min, info.max)).astype(dtype))
