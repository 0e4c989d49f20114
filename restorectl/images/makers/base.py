"""What the files of all makers share: an image whose planes a library reads."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from restorectl.errors import IncompleteError, InputError, RestorectlError, one_line
from restorectl.images.header import Header, Plane, Spacing, described
from restorectl.images.image import ALL, Array, Image
from restorectl.images.recent import Recent


@dataclass(frozen=True)
class Found:
    """One image of a file, in the words of its library."""

    axes: str  # all of its axes, ending in YX or YXS
    shape: tuple[int, ...]
    dtype: np.dtype
    # index on each axis before YX, rows, columns -> (Y, X) or (Y, X, S)
    read: Callable[[Sequence[int], slice, slice], Array]
    spacing: Spacing
    channels: Sequence[str] = ()
    interval: float | None = None
    by_region: bool = False  # whether `read` of a region reads less than the plane


@dataclass
class MakersImage(Image):
    """An open image of a maker's file."""

    path: Path
    header: Header
    found: Found
    outer: tuple[str, ...]  # the header's letter of each axis before YX; "" = of length 1
    closer: Callable[[], object]
    kind: str
    _recent: Recent = field(default_factory=Recent)

    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        t, channel, z = plane
        c, sample = divmod(channel, self.header.size("S"))
        if any(k >= n for k, n in zip(plane, self.header.canonical_shape, strict=False)):
            shape = self.header.canonical_shape[:3]
            raise IndexError(f"plane t,c,z = {plane} of an image with T,C,Z = {shape}")
        height, width = self.header.canonical_shape[3:]
        area = slice(*rows.indices(height)), slice(*cols.indices(width))
        if self.found.by_region:
            pixels = self._read((t, c, z), *area)
        else:
            pixels = self._recent.get((t, c, z), partial(self._whole, (t, c, z)))[area]
        return np.array(pixels[..., sample] if "S" in self.header.axes else pixels, order="C")

    def _whole(self, place: tuple[int, int, int]) -> Array:
        """A whole plane with all its samples."""
        height, width = self.header.canonical_shape[3:]
        return self._read(place, slice(0, height), slice(0, width))

    def _read(self, place: tuple[int, int, int], rows: slice, cols: slice) -> Array:
        """A region of a plane with all its samples, native byte order."""
        at = dict(zip("TCZ", place, strict=True))
        index = [at.get(letter, 0) for letter in self.outer]
        with _decoding(self.path, self.kind):
            return self.found.read(index, rows, cols).astype(self.header.dtype, copy=False)

    def close(self) -> None:
        self.closer()


def image(
    path: Path, kind: str, found: Found, axes: str | None, closer: Callable[[], object], row: str
) -> MakersImage:
    """An image with the header that the library's words amount to. Raises InputError.

    axes: the user's names of its axes. row: of catalog.FORMATS.
    """
    keep = [i for i, n in enumerate(found.shape) if n > 1 or found.axes[i] in "YX"]
    own, lengths = "".join(found.axes[i] for i in keep), tuple(found.shape[i] for i in keep)
    dtype, named, shape = described(path, found.dtype, own, lengths, axes)
    z, y, x = (n if n is not None and 0 < n < math.inf else None for n in found.spacing)
    header = Header(named, shape, dtype, (z, y, x), (), row, interval=found.interval or None)
    if any(found.channels) and len(found.channels) == header.canonical_shape[1]:
        header = replace(header, channels=tuple(found.channels))
    letters = dict(zip(keep, named, strict=True))
    outer = tuple(letters.get(i, "") for i in range(found.axes.index("YX")))
    return MakersImage(path, header, found, outer, closer, kind)


@contextmanager
def opening(path: Path, kind: str) -> Iterator[None]:
    """Whatever a library raises when it opens a file: damaged, or still being written."""
    try:
        yield
    except RestorectlError:
        raise
    except Exception as exc:  # libraries raise various errors
        raise IncompleteError(
            f"{path}: cannot be read as {kind} ({one_line(exc)}): it is damaged or still being"
            " written"
        ) from exc


@contextmanager
def _decoding(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        raise InputError(f"{path}: its {kind} pixels cannot be decoded: {one_line(exc)}") from exc
