"""Selects the pixels that an intensity model is fitted to, spread over a channel's planes."""

import itertools
from collections.abc import Iterator

import numpy as np

from restorectl.images.header import Plane
from restorectl.images.image import Array, Image

BLOCK = 512  # px, side of a block
BUDGET = 4 << 20  # px, most pixels sampled

Planes = frozenset[tuple[int, int]] | None  # (t, z) of each plane of a channel; None = all


def sampled_pixels(image: Image, channel: int, planes: Planes = None) -> list[Array]:
    """The sampled blocks of one channel, each (Y, X) of the image's dtype.

    A block with pixels that are copied is float32 with NaN in their place. Where all these blocks
    are constant, others are searched.
    """
    shape = image.header.canonical_shape
    found = [_block(image, *block) for block in sampled(shape, channel, planes)]
    if any(map(varied, found)):
        return found
    others = (_block(image, *block) for block in every(shape, channel, planes))
    most = max(1, BUDGET // found[0].size)
    return list(itertools.islice(filter(varied, others), most)) or found


def _block(image: Image, plane: Plane, rows: slice, cols: slice) -> Array:
    pixels, kept = image.read(plane, rows, cols), image.kept(plane, rows, cols)
    if kept is not None and kept[0].any():
        return np.where(kept[0], np.float32(np.nan), pixels)
    return pixels


def varied(pixels: Array) -> bool:
    """Whether there are two different numbers."""
    numbers = pixels[~np.isnan(pixels)] if pixels.dtype.kind == "f" else pixels
    return numbers.size > 0 and bool(numbers.min() != numbers.max())


def varies(image: Image, channel: int) -> bool:
    """Whether any plane of a channel has two different valid pixels; of large ones, any block."""
    if any(map(varied, sampled_pixels(image, channel))):
        return True
    if image.header.is_large:
        return False  # all blocks were looked at
    for plane in image.header.planes:
        if plane[1] != channel:
            continue
        kept, pixels = image.kept(plane), image.read(plane)
        if varied(pixels if kept is None else pixels[~kept[0]]):
            return True
    return False


def every(
    shape: tuple[int, int, int, int, int], channel: int, only: Planes = None
) -> Iterator[tuple[Plane, slice, slice]]:
    """All blocks (plane, rows, cols) of a channel of a (T, C, Z, Y, X) image."""
    times, _, depth, height, width = shape
    places = itertools.product(range(times), range(depth)) if only is None else sorted(only)
    for t, z in places:
        for top in range(0, height, BLOCK):
            for left in range(0, width, BLOCK):
                rows, cols = slice(top, top + BLOCK), slice(left, left + BLOCK)
                yield (t, channel, z), rows, cols


def sampled(
    shape: tuple[int, int, int, int, int], channel: int, only: Planes = None
) -> list[tuple[Plane, slice, slice]]:
    """Blocks (plane, rows, cols) with at most BUDGET pixels of a (T, C, Z, Y, X) image.

    Depends on the shape and the planes alone, so shards and repeated runs fit the same model.
    """
    times, _, depth, height, width = shape
    places = itertools.product(range(times), range(depth)) if only is None else sorted(only)
    planes = [(t, channel, z) for t, z in places]
    per_plane = min(height, BLOCK) * min(width, BLOCK)
    corners = [(top, left) for top in _starts(height) for left in _starts(width)]
    room = max(1, BUDGET // per_plane)
    n_planes = min(len(planes), max(1, room // len(corners)) if len(corners) <= room else 1)
    n_planes = max(n_planes, min(len(planes), 8, room))
    n_corners = max(1, min(len(corners), room // n_planes))
    picked = []
    for k, p in enumerate(spread(len(planes), n_planes)):
        for q in spread(len(corners), n_corners, shift=k):
            top, left = corners[q]
            rows = slice(top, min(top + BLOCK, height))
            picked.append((planes[p], rows, slice(left, min(left + BLOCK, width))))
    return picked


def middle(span: slice, most: int) -> slice:
    """At most `most` px in the middle of a range."""
    length = min(span.stop - span.start, most)
    start = span.start + (span.stop - span.start - length) // 2
    return slice(start, start + length)


def _starts(length: int) -> list[int]:
    """Starts of blocks along an axis; the last block ends at the image border."""
    count = max(1, length // BLOCK)
    return [round(start) for start in np.linspace(0, max(0, length - BLOCK), count)]


def spread(total: int, count: int, shift: int = 0) -> list[int]:
    """At most `count` evenly spaced indices below `total`; `shift` moves them."""
    step = total / count
    return sorted({int((k + 0.5) * step + shift * 0.618 * step) % total for k in range(count)})
