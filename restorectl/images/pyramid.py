"""Smaller copies of an image, for viewers."""

from collections.abc import Sequence

import numpy as np

from restorectl.images.image import Array

SMALLEST = 1024  # px; a pyramid ends when no side is larger


def halves(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes (..., Y, X) of all levels, the first of full size, each half as wide and tall."""
    found = [shape]
    while max(found[-1][-2:]) > SMALLEST:
        *deep, y, x = found[-1]
        found.append((*deep, max(1, y // 2), max(1, x // 2)))
    return found


def borders(n: int, m: int) -> list[int]:
    """The borders of m blocks of about equal length of n pixels: m + 1 numbers."""
    return [k * n // m for k in range(m + 1)]


def means(pixels: Array, edges: Sequence[Sequence[int]]) -> Array:
    """The means of the blocks between the edges along each axis, in the pixels' dtype.

    The first edges are where `pixels` begin.
    """
    found = pixels.astype(np.float64)
    for axis, each in enumerate(edges):
        counts = np.diff(each).astype(np.float64)
        shape = [1] * found.ndim
        shape[axis] = len(counts)
        starts = np.asarray(each[:-1]) - each[0]
        found = np.add.reduceat(found, starts, axis=axis) / counts.reshape(shape)
    return (found if pixels.dtype.kind == "f" else np.rint(found)).astype(pixels.dtype)
