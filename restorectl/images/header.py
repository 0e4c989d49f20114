"""Format-independent description of an image: axes, shape, dtype, pixel size, channel names.

The canonical order is T, C, Z, Y, X. A 2-D plane is addressed by its canonical (t, c, z); the order
in which a file stores its planes is `Header.planes`. A sample axis S (the colours of one RGB page)
belongs to C: sample s of channel c is the canonical channel c * S + s.
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
DTYPES = {f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)}
DTYPES |= {"float16", "float32", "float64"}  # names of the dtypes that can be restored
Plane = tuple[int, int, int]  # canonical (t, c, z)
Spacing = tuple[float | None, float | None, float | None]  # z, y, x in micrometres
UNKNOWN_SPACING: Spacing = (None, None, None)
# dots per inch; up to this a resolution is for printing (72, 96, 300) and not a pixel size
PRINT_DPI = 1200.0
MOST_PLANES = 1 << 20  # of one image
LARGE = 1 << 26  # px of a plane; larger ones are never in memory as a whole


@dataclass(frozen=True)
class Header:
    """Describes an image independently of its format.

    `axes` and `shape` are the file's own, such as "TZCYX" or "YXS"; the last two axes are YX, or
    YX with S directly before or after them.
    """

    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # native byte order
    spacing: Spacing = UNKNOWN_SPACING  # None = not recorded in the file
    channels: tuple[str, ...] = ()  # empty, or one name per canonical channel
    format: str = ""  # row of catalog.FORMATS it was read with, or the path to write it to
    # What the format needs to write the file again; for the format's own module only.
    extra: Mapping[str, Any] = field(
        default_factory=lambda: MappingProxyType({}), compare=False, repr=False
    )
    interval: float | None = None  # seconds between time points; None = not recorded in the file
    pyramid: bool = False  # write TIFF as tiles with smaller copies of each plane

    def size(self, axis: str) -> int:
        """Length of an axis; 1 if the file does not have it."""
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
            for s in range(samples):  # the samples of a pixel are always innermost
                found.append((at.get("T", 0), at.get("C", 0) * samples + s, at.get("Z", 0)))
        return tuple(found)

    @property
    def is_large(self) -> bool:
        """Whether planes are read, examined, restored and written in blocks; see `tiles.bands`."""
        height, width = self.canonical_shape[3:]
        return height * width > LARGE

    @property
    def page(self) -> int:
        """How many planes lie pixel by pixel side by side in the file: the colours of YXS."""
        return self.size("S") if self.axes.endswith("YXS") else 1

    @property
    def nbytes(self) -> int:
        """Size of all pixels in bytes, uncompressed."""
        return math.prod(self.shape) * self.dtype.itemsize

    def chosen(self, wanted: tuple[int | str, ...] | None, source: PurePath) -> tuple[int, ...]:
        """The channels to process, wanted by number or name; None = all.

        Raises InputError for a missing channel, and for a name of several.
        """
        count = self.canonical_shape[1]
        if wanted is None:
            return tuple(range(count))
        found = []
        for each in wanted:
            named = [k for k, name in enumerate(self.channels) if name == each]
            if isinstance(each, int) and each < count:
                found.append(each)
            elif len(named) == 1:
                found += named
            else:
                names = f" ({', '.join(self.channels)})" if self.channels else ""
                many = "several channels have that name: " if named else ""
                raise InputError(
                    f"{source}: `channels` {each}: {many}the image has channels 0..{count - 1}"
                    f"{names}"
                )
        return tuple(dict.fromkeys(found))

    def require_same_shape(self, path: PurePath, other: "Header", partner: PurePath) -> None:
        """Raises InputError unless the image of `path` has the canonical shape of its partner."""
        found, wanted = (sizes(h.canonical_shape) for h in (self, other))
        if found != wanted:
            raise InputError(
                f"{path}: has shape {found} (t, c, z, y, x), but {partner} has {wanted}: crop or"
                " bin one of them to the other's size"
            )

    def with_dtype(self, dtype: np.dtype[Any] | type | str) -> "Header":
        """The same header with another dtype."""
        return replace(self, dtype=np.dtype(dtype).newbyteorder("="))

    def with_spacing(self, spacing: Spacing) -> "Header":
        """The same header with another pixel size (z, y, x) in micrometres, None = unknown."""
        return replace(self, spacing=spacing)

    def for_target(self, target: PurePath, pyramid: bool = False) -> "Header":
        """The same header, to be written in the format of the target's name."""
        return replace(self, format=str(target), pyramid=pyramid)

    def with_z(self, n_z: int, z_spacing: float | None) -> "Header":
        """The same header with `n_z` planes, `z_spacing` micrometres apart."""
        axes, shape = self.axes, self.shape
        if "Z" not in axes:
            at = axes.index("SYX") if "SYX" in axes else axes.index("Y")
            axes, shape = axes[:at] + "Z" + axes[at:], (*shape[:at], 1, *shape[at:])
        at = axes.index("Z")
        shape = (*shape[:at], n_z, *shape[at + 1 :])
        return replace(self, axes=axes, shape=shape, spacing=(z_spacing, *self.spacing[1:]))

    def with_rows(self, n_y: int, y_spacing: float | None) -> "Header":
        """The same header with `n_y` rows in each plane, `y_spacing` micrometres apart."""
        at = self.axes.index("Y")
        shape = (*self.shape[:at], n_y, *self.shape[at + 1 :])
        return replace(self, shape=shape, spacing=(self.spacing[0], y_spacing, self.spacing[2]))


def require_plausible(axes: str, shape: tuple[int, ...]) -> None:
    """Raises InputError for more planes than any image has: what says so is damaged."""
    outer = [n for axis, n in zip(axes, shape, strict=True) if axis not in "YXS"]
    if math.prod(outer) > MOST_PLANES:
        raise InputError(
            f"claims {math.prod(outer)} planes (axes {axes} of shape {sizes(shape)}): it is"
            " damaged, or has to be split"
        )


def resolve_axes(
    axes: str, shape: tuple[int, ...], override: str | None = None
) -> tuple[str, tuple[int, ...]]:
    """Determine the meaning of every axis.

    `axes` are the file's letters; any letter outside TCZYXS (such as tifffile's Q and I) is an axis
    of unknown kind. `override` are the user's letters. Unknown axes of length 1 are dropped.

    Returns (axes, shape) with letters of TCZYXS only.

    Raises InputError if an axis has length 0, if its kind is neither recorded nor given, or if
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
            f"axes {axes} of shape {sizes(shape)} are too many, only T, C, Z, Y and X can be"
            " restored: split the file"
        )
    raise InputError(
        f"the file does not name its axis of length {lengths} (shape {sizes(shape)}):"
        f" use `axes` {' or `axes` '.join(candidates)}"
    )


def described(
    path: PurePath, dtype: Any, axes: str, shape: tuple[int, ...], override: str | None
) -> tuple[np.dtype, str, tuple[int, ...]]:
    """The native dtype, axes and shape of an image whose file tells these; see `resolve_axes`.

    Raises InputError, which names the file, also for pixels that cannot be restored and for more
    planes than any image has.
    """
    native = np.dtype(dtype).newbyteorder("=")
    if native.name not in DTYPES:
        raise InputError(f"{path}: has {native.name} pixels, which cannot be restored")
    try:
        require_plausible(axes, shape)
        return native, *resolve_axes(axes, shape, override)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


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
            raise InputError(f"{described}: Y and X must stay at the file's positions")
    if "S" in override and override.find("S") != axes.find("S"):
        raise InputError(f"{described}: the file has no samples (S) there")
    if axes.endswith("S") and not override.endswith("S"):
        raise InputError(f"{described}: the last axis must be S (samples)")
    _require_layout(override, axes, shape)
    return override, shape


def _require_layout(axes: str, own: str, shape: tuple[int, ...]) -> None:
    """Raise unless `axes` ends in YX, YXS or SYX and repeats no letter."""
    tail = axes.removesuffix("S") if axes.endswith("YXS") else axes
    outer = tail.removesuffix("YX").removesuffix("S" if tail is axes else "")
    if not tail.endswith("YX") or set(outer) - set("TCZ") or len(set(outer)) != len(outer):
        raise InputError(
            f"axes {own} of shape {sizes(shape)} cannot be read as 2-D planes: convert the file so"
            " that each page is one 2-D plane"
        )


def _candidates(axes: str, unknown: list[int]) -> list[str]:
    """All ways to name the unknown axes, the most likely first."""
    free = [letter for letter in "ZTC" if letter not in axes]
    found = []
    for letters in itertools.permutations(free, len(unknown)):
        named = list(axes)
        for i, letter in zip(unknown, letters, strict=True):
            named[i] = letter
        found.append("".join(named))
    return found


def sizes(shape: tuple[int, ...]) -> str:
    """A shape in readable form, such as 5x64x64."""
    return "x".join(map(str, shape))
