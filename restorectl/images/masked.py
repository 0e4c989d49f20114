"""Reads an image with its invalid pixels filled in and, if its camera is known, as an even one's.

Found on whole planes, so results do not depend on tiles, batches or the order of reading. In large
planes (`Header.is_large`), each region that is read is examined as if it were a plane.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from restorectl.errors import InputError, UsageError
from restorectl.images.header import Plane
from restorectl.images.image import ALL, Array, Derived, Image, to_dtype
from restorectl.intensity import invalid
from restorectl.intensity.camera import Camera, evened

RECENT = 3  # planes of each channel that are held in memory,
HELD = 8 << 20  # px, or more, up to this many pixels


@dataclass(frozen=True)
class FilledPlane:
    """pixels: (Y, X), as read if none is invalid, else float32 with invalid ones filled in.

    found: the invalid ones; None = none. values: the pixels that are kept, in raster order.
    """

    pixels: Array
    found: invalid.Invalid | None
    values: Array


class Masked(Derived):
    """The image with the invalid pixels of its chosen channels filled in.

    which, hot: see `invalid.find`. camera: of the images' size; its hot pixels are repaired, too,
    and the others converted to grey levels of its typical pixel, see `camera.evened`.
    """

    def __init__(
        self,
        source: Image,
        channels: Sequence[int],
        *,
        which: str | float = "auto",
        hot: bool = True,
        camera: Camera | None = None,
    ) -> None:
        super().__init__(source)
        self.channels = tuple(channels)
        self.which, self.hot, self.camera = which, hot, camera
        self._recent: OrderedDict[Hashable, FilledPlane] = OrderedDict()
        self.counts: dict[Plane, tuple[int, int]] = {}  # kept, repaired
        self.in_parts: dict[Plane, tuple[int, int]] = {}  # the same of large planes

    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        """See `Image`; float32 for a plane with invalid pixels.

        Raises InputError for NaN and infinity that count as measured.
        """
        as_it_is = self.counts.get(plane) == (0, 0) and self.camera is None
        if plane[1] not in self.channels or as_it_is:
            return self.source.read(plane, rows, cols)
        filled, area = self._around(plane, rows, cols)
        return filled.pixels[area]

    def invalid(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array | None:
        """See `Image`."""
        if plane[1] not in self.channels or self.counts.get(plane) == (0, 0):
            return None
        filled, area = self._around(plane, rows, cols)
        return None if filled.found is None else filled.found.any[area]

    def kept(
        self, plane: Plane, rows: slice = ALL, cols: slice = ALL
    ) -> tuple[Array, Array] | None:
        """See `Image`."""
        if plane[1] not in self.channels or self.counts.get(plane, (1, 0))[0] == 0:
            return None
        filled, area = self._around(plane, rows, cols)
        if filled.found is None or not filled.values.size:
            return None
        if area == (ALL, ALL):
            return filled.found.kept, filled.values
        inside = np.zeros(filled.found.kept.shape, bool)
        inside[area] = True
        return filled.found.kept[area], filled.values[inside[filled.found.kept]]

    def count(self, plane: Plane, kept: int, repaired: int) -> None:
        """Take note of invalid pixels in a part of a large plane, for `describe`."""
        before = self.in_parts.get(plane, (0, 0))
        self.in_parts[plane] = before[0] + kept, before[1] + repaired

    def repaired(self, plane: Plane) -> Array:
        """The plane (Y, X) as it is, in its own dtype, but with hot and dead pixels repaired."""
        raw = self.source.read(plane)
        if plane[1] not in self.channels or self.counts.get(plane, (0, 1))[1] == 0:
            return raw
        filled = self._filled(plane)
        if filled.found is None or not filled.found.repaired.any():
            return raw
        where = filled.found.repaired
        raw = raw.copy()
        raw[where] = to_dtype(filled.pixels[where], raw.dtype)
        return raw

    def _around(
        self, plane: Plane, rows: slice, cols: slice
    ) -> tuple[FilledPlane, tuple[slice, slice]]:
        """What is examined to read a region of a plane, and where the region is in it."""
        if self.header.is_large:
            return self._filled(plane, rows, cols), (ALL, ALL)
        return self._filled(plane), (rows, cols)

    def _filled(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> FilledPlane:
        key = (plane, rows.start, rows.stop, cols.start, cols.stop)
        if key not in self._recent:
            raw = self.source.read(plane, rows, cols)
            if self.which == "none" and not np.isfinite(raw).all():
                raise InputError(
                    f"{self.path}: plane t,c,z = {plane} contains NaN or infinity: replace them"
                    " first, or use `invalid` auto"
                )
            found = invalid.find(raw, self.which, hot=self.hot)
            camera = self.camera and self.camera.cut(rows.start or 0, cols.start or 0, raw.shape)
            if self.hot and camera is not None and camera.hot is not None:
                found = replace(found, repaired=(found.repaired | camera.hot) & ~found.kept)
            counts = int(found.kept.sum()), int(found.repaired.sum())
            pixels = raw  # also a blank plane reads as it is
            if counts[0] < raw.size or not np.isfinite(raw).all():
                if camera is not None:
                    pixels = evened(raw, camera, found.any)
                if counts != (0, 0):
                    pixels = invalid.fill(pixels, found.any)
            none = counts == (0, 0)
            filled = FilledPlane(pixels, None if none else found, raw[found.kept])
            if not self.header.is_large:
                self.counts[plane] = counts
            self._recent[key] = filled
            while len(self._recent) > max(RECENT * len(self.channels), HELD // raw.size):
                self._recent.popitem(last=False)
        self._recent.move_to_end(key)
        return self._recent[key]

    def describe(self) -> dict[str, dict[str, int]]:
        """Counts of the planes read so far, for each channel with any.

        kept, repaired: invalid pixels; blank_planes: planes that have one value, not in `kept`.
        """
        size = self.header.canonical_shape[3] * self.header.canonical_shape[4]
        told = {}
        for channel in self.channels:
            every = sorted((self.counts | self.in_parts).items())
            counts = [n for plane, n in every if plane[1] == channel]
            blank = sum(kept == size for kept, _ in counts)
            kept, repaired = (sum(n[k] for n in counts) for k in (0, 1))
            if kept or repaired:
                kept -= blank * size
                told[str(channel)] = {"kept": kept, "repaired": repaired, "blank_planes": blank}
        return told

    def warnings(self) -> list[str]:
        """One warning for each channel with invalid pixels."""
        times, several, depth, *_ = self.header.canonical_shape
        return [
            (f"channel {channel}: " if several > 1 else "")
            + "; ".join(_texts(counts, counts["blank_planes"] == times * depth))
            for channel, counts in self.describe().items()
        ]


def masked(
    image: Image,
    channels: Sequence[int],
    which: str,
    *,
    hot: bool,
    camera: Camera | None = None,
) -> Masked:
    """The image to restore with invalid pixels filled in; which: text of `invalid`.

    Raises UsageError.
    """
    if which in ("auto", "none"):
        return Masked(image, channels, which=which, hot=hot, camera=camera)
    try:
        return Masked(image, channels, which=float(which), hot=hot, camera=camera)
    except ValueError as error:
        raise UsageError(f"`invalid` {which}: use auto, none or a number") from error


def _texts(counts: dict[str, Any], constant: bool) -> list[str]:
    if constant:
        return ["constant: nothing to restore, copied as it is"]
    texts = []
    if counts["kept"]:
        texts.append(
            f"{counts['kept']} pixels are no measurements (constant areas, saturation, NaN): copied"
            " as they are; `invalid` none restores them"
        )
    if counts["blank_planes"]:
        texts.append(f"{counts['blank_planes']} blank planes are copied as they are")
    if counts["repaired"]:
        texts.append(
            f"{counts['repaired']} hot or dead pixels are repaired; `hot_pixels` keep leaves them"
        )
    return texts
