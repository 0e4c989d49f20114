"""Makes rows between the recorded rows of single images (MSDSR, Table 1).

Each plane is one slice of the kind that the networks are trained on: a stack whose planes have one
row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from restorectl.images.header import Header, Plane, Spacing
from restorectl.images.image import Image, to_dtype
from restorectl.volumes import interpolation
from restorectl.volumes.directions import XZ, RowStack, SliceDirection, Stack
from restorectl.volumes.volume import Made, Volumes, between


@dataclass(frozen=True)
class Rows(Volumes):
    """The `Work` of `superres3d` with `rows`: longer planes, not more of them."""

    unit: ClassVar[str] = "row"

    @property
    def directions(self) -> tuple[SliceDirection, ...]:
        return (XZ,)

    def _distances(self, header: Header) -> Spacing:
        _, y, x = super()._distances(header)
        return y, x, x

    def _stacks(self, header: Header) -> tuple[int, tuple[int, int, int, int]]:
        times, channels, depth, height, width = header.canonical_shape
        return times * depth, (channels, height, 1, width)

    def _longer(self, header: Header, factor: float) -> Header:
        y = header.spacing[1]
        count = interpolation.count(header.canonical_shape[3], factor)
        return header.with_rows(count, None if y is None else y / factor)

    def _opened(
        self, image: Image, volume: np.ndarray, folder: Path
    ) -> Iterator[tuple[str, Callable[[Sequence[int]], Stack], np.ndarray]]:
        times, _, depth, *_ = volume.shape
        for t, z in np.ndindex(times, depth):
            name = f"@t{t}" * (times > 1) + f"@z{z}" * (depth > 1)
            yield name, partial(RowStack, image, t, z=z), volume[t, :, z, :, None]

    def _plane(self, made: Made, plane: Plane, dtype: np.dtype[Any]) -> np.ndarray:
        t, c, z = plane
        height = made.source.header.canonical_shape[3]
        rows = np.arange(interpolation.count(height, made.factor))
        step, zero = made.factor / self._first(made.factor), made.source.zero(c)
        values = between(made.volume[t, c, z], interpolation.positions(rows, step))
        place = interpolation.positions(rows, made.factor)  # in recorded rows
        if c not in made.coarse:
            result = to_dtype(values.astype(np.float64) + zero, dtype)
        else:
            seen = np.asarray(made.source.read(plane), np.float32)
            measured = interpolation.interpolated(seen, made.factor, interpolation.linear) + zero
            exact = values.astype(np.float64) + zero
            result = self._dithered(exact, measured, made.source, plane, dtype)
        recorded = place == np.rint(place)
        original = made.known.repaired(plane)
        result[recorded] = original[place[recorded].astype(int)].astype(dtype, copy=False)
        if (kept := made.known.kept(plane)) is not None:
            before, after = np.floor(place).astype(int), np.ceil(place).astype(int)
            both = kept[0][before] & kept[0][after]
            nearest = made.known.source.read(plane)[np.floor(place + 0.5).astype(int)]
            result[both] = nearest[both]
        return result
