"""What an image is, whatever its file format: axes, shape, dtype, pixel size, channel names.

The canonical order is T, C, Z, Y, X. A 2-D plane is addressed by its canonical (t, c, z); the order
in which a file stores its planes is `Header.planes`. A sample axis S (the colours of one RGB page)
is part of C: sample s of channel c is the canonical channel c * S + s.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

import numpy as np

from restorectl.errors import InputError

CANONICAL = "TCZYX"
KNOWN = frozenset(CANONICAL + "S")
Plane = tuple[int, int, int]  # canonical (t, c, z)
Spacing = tuple[float | None, float | None, float | None]  # z, y, x in micrometres
UNKNOWN_SPACING: Spacing = (None, None, None)
# Up to this many dots per inch a resolution is meant for printing (72, 96, 300), not a pixel size.
PRINT_DPI = 1200.0


@dataclass(frozen=True)
class Header:
    """Describes an image independently of its format.

    `axes` and `shape` are the file's own, such as "TZCYX" or "YXS"; the last two axes are YX, or
    YX with S directly before or after them.
    """

    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # native byte order
    spacing: Spacing = UNKNOWN_SPACING  # None = the file does not say
    channels: tuple[str, ...] = ()  # empty, or one name for each canonical channel
    format: str = ""  # row of catalog.FORMATS that opened it, or the suffix to write it as
    # What the format needs to write the file back; opaque outside its module.
    extra: Mapping[str, Any] = field(
        default_factory=lambda: MappingProxyType({}), compare=False, repr=False
    )

    def size(self, axis: str) -> int:
        """Length of one of the file's axes; 1 for an axis that it does not have."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def canonical_shape(self) -> tuple[int, int, int, int, int]:
        """(T, C, Z, Y, X), with the samples of a pixel counted as channels."""
        t, c, z, y, x = (self.size(axis) for axis in CANONICAL)
        return t, c * self.size("S"), z, y, x

    @cached_property
    def planes(self) -> tuple[Plane, ...]:
        """(t, c, z) of every 2-D plane, in the order in which the file stores them."""
        samples = self.size("S")
        outer = [axis for axis in self.axes if axis in "TCZ"]
        found = []
        for index in itertools.product(*(range(self.size(axis)) for axis in outer)):
            at = dict(zip(outer, index, strict=True))
            for s in range(samples):  # the samples of a pixel always lie innermost
                found.append((at.get("T", 0), at.get("C", 0) * samples + s, at.get("Z", 0)))
        return tuple(found)

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels, uncompressed."""
        return math.prod(self.shape) * self.dtype.itemsize

    def chosen(self, wanted: tuple[int, ...] | None, source: PurePath) -> tuple[int, ...]:
        """The channels to work on; None = all. Raises InputError for one that is not there."""
        count = self.canonical_shape[1]
        if wanted is None:
            return tuple(range(count))
        wrong = [c for c in wanted if not 0 <= c < count]
        if wrong:
            raise InputError(
                f"{source}: `channels` {wrong[0]}: the image has channels 0..{count - 1}"
            )
        return wanted

    def require_same_shape(self, path: PurePath, other: "Header", partner: PurePath) -> None:
        """Raises InputError unless the image of `path` has the canonical shape of its partner."""
        found, wanted = (sizes(h.canonical_shape) for h in (self, other))
        if found != wanted:
            raise InputError(
                f"{path}: has shape {found} (t, c, z, y, x), but {partner} has {wanted}: crop or"
                " bin one of them to the other's size"
            )

    def with_dtype(self, dtype: np.dtype[Any] | type | str) -> "Header":
        """The same image with pixels of another type."""
        return replace(self, dtype=np.dtype(dtype).newbyteorder("="))

    def with_spacing(self, spacing: Spacing) -> "Header":
        """The same image with another pixel size: (z, y, x) in micrometres, None = unknown."""
        return replace(self, spacing=spacing)

    def for_target(self, target: PurePath) -> "Header":
        """The same image, to be written in the format of a file name's suffix."""
        return replace(self, format=target.suffix.lower())

    def with_z(self, n_z: int, z_spacing: float | None) -> "Header":
        """The same field with another number of planes, `z_spacing` micrometres apart."""
        axes, shape = self.axes, self.shape
        if "Z" not in axes:
            at = axes.index("SYX") if "SYX" in axes else axes.index("Y")
            axes, shape = axes[:at] + "Z" + axes[at:], (*shape[:at], 1, *shape[at:])
        at = axes.index("Z")
        shape = (*shape[:at], n_z, *shape[at + 1 :])
        return replace(self, axes=axes, shape=shape, spacing=(z_spacing, *self.spacing[1:]))


def resolve_axes(
    axes: str, shape: tuple[int, ...], override: str | None = None
) -> tuple[str, tuple[int, ...]]:
    """Settle the meaning of every axis.

    `axes` are the letters that the file gives, with anything outside TCZYXS (such as tifffile's Q
    and I) for an axis of unknown kind; `override` is what the user says. Unknown axes of length 1
    are dropped, since they are ambiguous only in name.

    Returns (axes, shape) with letters of TCZYXS only.

    Raises InputError if an axis has no length, if its kind is neither recorded nor given, or if
    `override` does not fit.
    """
    if 0 in shape:
        raise InputError(f"no pixels: axes {axes} have shape {sizes(shape)}")
    if override is not None:
        return _overridden(axes, shape, override.upper())
    keep = [i for i, axis in enumerate(axes) if axis in KNOWN or shape[i] > 1]
    axes, shape = "".join(axes[i] for i in keep), tuple(shape[i] for i in keep)
    unknown = [i for i, axis in enumerate(axes) if axis not in KNOWN]
    if not unknown:
        _require_layout(axes, axes, shape)
        return axes, shape
    candidates = _candidates(axes, unknown)
    lengths = ", ".join(str(shape[i]) for i in unknown)
    if not candidates:
        raise InputError(
            f"axes {axes} of shape {sizes(shape)} are more than time, channel, depth, rows and"
            " columns: split the file"
        )
    raise InputError(
        f"the file does not say what its axis of length {lengths} is (shape {sizes(shape)}):"
        f" use `axes` {' or `axes` '.join(candidates)}"
    )


def _overridden(axes: str, shape: tuple[int, ...], override: str) -> tuple[str, tuple[int, ...]]:
    if len(override) != len(shape):  # a file may or may not list axes of length 1
        keep = [i for i, axis in enumerate(axes) if axis in "YX" or shape[i] > 1]
        axes, shape = "".join(axes[i] for i in keep), tuple(shape[i] for i in keep)
    described = f"`axes` {override} does not fit the file's axes {axes} of shape {sizes(shape)}"
    if len(override) != len(shape):
        raise InputError(f"{described}: {len(override)} letters for {len(shape)} axes")
    if set(override) - KNOWN or len(set(override)) != len(override):
        raise InputError(f"{described}: use each of T, C, Z, Y, X, S at most once")
    for axis in "YX":
        if override.find(axis) != axes.find(axis):
            raise InputError(f"{described}: rows and columns (YX) are where the file has them")
    if "S" in override and override.find("S") != axes.find("S"):
        raise InputError(f"{described}: it has no samples (S) there")
    if axes.endswith("S") and not override.endswith("S"):
        raise InputError(f"{described}: the samples of a pixel are S")
    _require_layout(override, axes, shape)
    return override, shape


def _require_layout(axes: str, own: str, shape: tuple[int, ...]) -> None:
    """Raise unless `axes` ends in YX, YXS or SYX and repeats no letter."""
    tail = axes.removesuffix("S") if axes.endswith("YXS") else axes
    outer = tail.removesuffix("YX").removesuffix("S" if tail is axes else "")
    if not tail.endswith("YX") or set(outer) - set("TCZ") or len(set(outer)) != len(outer):
        raise InputError(
            f"axes {own} of shape {sizes(shape)} cannot be read as 2-D planes: convert the file so"
            " that each page holds rows and columns"
        )


def _candidates(axes: str, unknown: list[int]) -> list[str]:
    """Every way to name the unknown axes, the likeliest first."""
    free = [letter for letter in "ZTC" if letter not in axes]
    found = []
    for letters in itertools.permutations(free, len(unknown)):
        named = list(axes)
        for i, letter in zip(unknown, letters, strict=True):
            named[i] = letter
        found.append("".join(named))
    return found


def sizes(shape: tuple[int, ...]) -> str:
    """A shape for people: 5x64x64."""
    return "x".join(map(str, shape))
