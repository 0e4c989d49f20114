"""An array in memory, on disk or made on demand, as an image that is read by regions."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from restorectl.errors import InputError
from restorectl.images.header import DTYPES, Header, Plane, resolve_axes, sizes
from restorectl.images.image import ALL, Array, Image


class ArrayLike(Protocol):
    """What numpy, dask and zarr arrays have in common."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    def __getitem__(self, index: Any, /) -> Any: ...


class ArrayImage(Image):
    """An array as an image. Raises InputError if it cannot be restored, or `axes` do not fit."""

    def __init__(self, array: ArrayLike, axes: str, name: str = "array") -> None:
        self.array, self.path = array, Path(name)
        try:
            shape, dtype = tuple(map(int, array.shape)), np.dtype(array.dtype)
        except (AttributeError, TypeError) as error:
            kind = type(array).__name__
            raise InputError(
                f"{name}: is a {kind} without a shape and a numpy dtype: use numpy.asarray"
            ) from error
        if dtype.name not in DTYPES:
            raise InputError(f"{name}: has {dtype.name} pixels, which cannot be restored")
        if len(axes) != len(shape):
            raise InputError(
                f"{name}: `axes` {axes} does not fit its shape {sizes(shape)}: give one letter"
                " of T, C, Z, Y, X, S for each axis"
            )
        try:
            axes, shape = resolve_axes(axes.upper(), shape, axes)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        self.header = Header(axes, shape, dtype.newbyteorder("="))

    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        """See `Image`; the array is asked for this region alone."""
        region = np.asarray(self.array[place(self.header, plane, rows, cols)])
        return region.astype(self.header.dtype, copy=False)

    def close(self) -> None:
        """Leave the array as it is."""


def place(header: Header, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> tuple[Any, ...]:
    """The index of a region of a canonical plane in an array with this header's axes."""
    (t, c, z), samples = plane, header.size("S")
    at = {"T": t, "C": c // samples, "Z": z, "Y": rows, "X": cols, "S": c % samples}
    return tuple(at[axis] for axis in header.axes)
