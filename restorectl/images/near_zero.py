"""Reads an image around 0: float32 cannot hold small differences of large numbers.

Float32 has 24 bits: near 2^28 its values are 32 apart. So channels whose intensities lie far from
0, compared with how much they vary, are read as differences from one value, which is added again in
float64 when the result is converted to its dtype.
"""

from collections.abc import Sequence

import numpy as np

from restorectl.errors import InputError
from restorectl.images.blocks import sampled_pixels
from restorectl.images.header import Plane
from restorectl.images.image import ALL, Array, Derived, Image

FAR = 64.0  # distance from 0, in ranges of the values: beyond it, 6 of float32's 24 bits are lost
RANGE = (1.0, 99.0)  # percentiles
EXACT = 2.0**53  # float64, in which offsets are subtracted, holds every whole number up to this


class NearZero(Derived):
    """The image with `zero` of each channel subtracted: those channels are float32."""

    def __init__(self, source: Image, zeros: dict[int, float]) -> None:
        super().__init__(source)
        self.zeros = zeros

    def zero(self, channel: int) -> float:
        """See `Image`."""
        return self.zeros.get(channel, 0.0)

    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        """See `Image`."""
        raw = self.source.read(plane, rows, cols)
        if plane[1] not in self.zeros:
            return raw
        return (raw.astype(np.float64) - self.zeros[plane[1]]).astype(np.float32)


def near_zero(image: Image, channels: Sequence[int]) -> Image:
    """The image to restore, with each of these channels near 0.

    Up to 16 bits nothing is subtracted. The value is the rounded median of sampled pixels: it
    depends neither on tiles nor on single bright or dead pixels. Raises InputError for integers
    that float64 cannot hold.
    """
    if image.header.dtype.itemsize < 4:
        return image
    zeros = {}
    for channel in channels:
        blocks = sampled_pixels(image, channel)
        values = np.concatenate([block.ravel()[::4] for block in blocks]).astype(np.float64)
        values = values[np.isfinite(values)]
        if not values.size:
            continue
        low, middle, high = np.percentile(values, (RANGE[0], 50.0, RANGE[1]))
        if image.header.dtype.kind in "iu" and max(abs(low), abs(high)) > EXACT:
            raise InputError(
                f"{image.path}: channel {channel} has integers beyond 2^53, too large:"
                " subtract an offset first"
            )
        if abs(middle) > FAR * (high - low):
            zeros[channel] = float(np.rint(middle))
    return NearZero(image, zeros) if any(zeros.values()) else image
