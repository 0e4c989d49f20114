"""Reads an image without its stripes: row and column offsets, and periodic electrical patterns.

What the planes of a channel have in common is found in a sample of them and removed from each;
then each plane's own stripes are. Both depend on whole planes only, not on tiles, batches or the
order of reading. In large planes (`Header.is_large`), each region that is read has its own stripes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from restorectl.batch.outcome import Outcome
from restorectl.images.blocks import spread, varied
from restorectl.images.header import Plane
from restorectl.images.image import ALL, Array, Derived, Image
from restorectl.intensity import stripes
from restorectl.intensity.stripes import NONE, Stripes
from restorectl.jobs import NoiseOptions

SAMPLED = 8  # planes that show what all planes of a channel have in common


class Destriped(Derived):
    """The image with its chosen channels' stripes removed: planes that have some are float32.

    Other planes and channels are read as they are.
    """

    def __init__(self, source: Image, channels: Sequence[int]) -> None:
        super().__init__(source)
        self.channels = tuple(channels)
        self.common: dict[int, Stripes] = {}
        self.found: dict[Plane, Stripes] = {}

    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        """See `Image`. Pixels at the ends of an integer range are clipped, and stay."""
        raw = self.source.read(plane, rows, cols)
        if self.header.is_large:
            found, rows, cols = self._own(plane, raw), ALL, ALL
        else:
            whole = raw.shape == self.header.canonical_shape[3:]
            found = self._stripes(plane, raw if whole else None)
        if not found:
            return raw
        clean = stripes.remove(raw, found, rows, cols)
        if raw.dtype.kind in "iu":
            ends = np.iinfo(raw.dtype)
            clean = np.where((raw == ends.min) | (raw == ends.max), raw, clean)
        return clean.astype(np.float32, copy=False)

    def _stripes(self, plane: Plane, pixels: Array | None) -> Stripes:
        """All stripes of a plane; pixels: the whole plane, if it was read.

        Those of a channel that is copied are not looked for.
        """
        channel = plane[1]
        if channel not in self.channels:
            return NONE
        if channel not in self.common:
            self.common[channel] = self._shared(channel)
        if plane not in self.found:
            common = self.common[channel]
            pixels = self.source.read(plane) if pixels is None else pixels
            rest = stripes.remove(pixels, common) if common else pixels
            own = stripes.find([rest]) if varied(rest) and np.isfinite(rest).all() else NONE
            self.found[plane] = common + own if varied(pixels) else NONE
        return self.found[plane]

    def _own(self, plane: Plane, pixels: Array) -> Stripes:
        """The stripes of a region of a large plane; the first that are found are told."""
        if plane[1] not in self.channels or not varied(pixels) or not np.isfinite(pixels).all():
            return NONE
        found = stripes.find([pixels])
        if found:
            self.found.setdefault(plane, found)
        return found

    def _shared(self, channel: int) -> Stripes:
        """What sampled planes of a channel have in common."""
        planes = sorted(plane for plane in self.header.planes if plane[1] == channel)
        if len(planes) == 1:
            return NONE
        pixels = [self.source.read(planes[k]) for k in spread(len(planes), SAMPLED)]
        return stripes.find([p for p in pixels if np.isfinite(p).all() and varied(p)])

    def describe(self) -> dict[int, dict[str, Any]]:
        """Amplitudes of what was removed from the planes read so far, for each channel with any.

        rows, columns: standard deviation of the offsets; waves: the strongest, with its amplitude
        and its period in px; planes: how many have stripes.
        """
        told = {}
        for channel in self.channels:
            found = [s for plane, s in sorted(self.found.items()) if plane[1] == channel and s]
            if found:
                waves = max((s.waves for s in found), key=lambda w: sum(x.amplitude for x in w))
                told[channel] = {
                    "planes": len(found),
                    "rows": _rms([s.rows for s in found]),
                    "columns": _rms([s.columns for s in found]),
                    "waves": [{"amplitude": w.amplitude, "period": w.period} for w in waves],
                }
        return told


def _rms(offsets: Sequence[np.ndarray]) -> float:
    """Root mean square over the planes of the offsets' standard deviation; 0 = no offsets."""
    return float(np.sqrt(np.mean([each.var() if each.size else 0.0 for each in offsets])))


def destriped(image: Image, channels: Sequence[int], noise: NoiseOptions) -> Image:
    """The image to restore: without stripes, unless the options keep them."""
    keep = noise.destripe == "off" or noise.kind == "none"
    return image if keep else Destriped(image, channels)


def describe(outcome: Outcome, image: Image) -> None:
    """Add what was removed from the image to the noise in the outcome, and warnings."""
    removed = image.describe() if isinstance(image, Destriped) else {}
    for channel, each in removed.items():
        for name, model in outcome.details["noise"].items():
            if str(channel) in name.split("+"):
                model.setdefault("stripes", {})[str(channel)] = each
        several = image.header.canonical_shape[1] > 1
        where = f"channel {channel}: " if several else ""
        texts = [
            f"{direction} share an offset of {each[direction]:.3g} grey levels (standard deviation)"
            for direction in ("rows", "columns")
            if each[direction] > 0
        ]
        if each["waves"]:
            first = each["waves"][0]
            texts.append(
                f"a periodic pattern of {first['period']:.3g} px has an amplitude of"
                f" {first['amplitude']:.3g} grey levels"
            )
        outcome.warnings.append(f"{where}{', '.join(texts)}: removed; `destripe` off keeps it")
