"""A simulated sCMOS camera: each pixel has its own offset, gain and read noise.

The spreads are published ones: read noise of 1.0 electrons (median) and 1.6 (root mean square) is
that of the Hamamatsu ORCA-Flash4.0, so its variance is log-normal and hot pixels reach hundreds of
squared grey levels; offsets differ by 2 grey levels, and columns by 0.5; gains by 5 %.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

OFFSET, GAIN, READ = 100.0, 2.0, 2.0  # grey levels, grey levels per electron, grey levels (median)


class Sensor(NamedTuple):
    """Maps (Y, X) of every pixel: grey levels, their squares, grey levels per photo-electron."""

    offset: np.ndarray
    variance: np.ndarray
    gain: np.ndarray
    multiplied: bool = False  # by an EM register: an EMCCD

    def exposed(self, light: np.ndarray | float, rng: np.random.Generator) -> np.ndarray:
        """A frame (Y, X) uint16; light: mean photo-electrons per pixel."""
        counts = rng.poisson(np.broadcast_to(light, self.gain.shape))
        if self.multiplied:  # each electron becomes an exponential number of them
            counts = np.where(counts > 0, rng.gamma(np.maximum(counts, 1)), 0)
        noise = np.sqrt(self.variance) * rng.standard_normal(self.gain.shape)
        grey = counts * self.gain + self.offset + noise
        return np.clip(np.rint(grey), 0, 65535).astype(np.uint16)

    def pattern(self, light: np.ndarray) -> np.ndarray:
        """The fixed pattern (Y, X) on an image of this light, in grey levels."""
        found = self.offset + (self.gain - GAIN) * light
        return found - found.mean()


def scmos(shape: tuple[int, int], seed: int = 0) -> Sensor:
    """A camera with different pixels."""
    rng = np.random.default_rng(seed)
    offset = OFFSET + 2 * rng.standard_normal(shape) + 0.5 * rng.standard_normal(shape[1])
    variance = READ**2 * np.exp(1.37 * rng.standard_normal(shape))
    return Sensor(offset, variance, GAIN * (1 + 0.05 * rng.standard_normal(shape)))


def even(shape: tuple[int, int]) -> Sensor:
    """A camera whose pixels are all typical ones."""
    return Sensor(*(np.full(shape, value) for value in (OFFSET, READ**2, GAIN)))


def record(folder: Path) -> None:
    """Frames of a small camera: in the dark, of an even light, and one image."""
    taken, rng = scmos((64, 64)), np.random.default_rng(1)
    y, x = np.mgrid[:64, :64]
    spots = 10 * (1 + np.sin(x / 9) * np.cos(y / 7))
    for name, count, light in (("dark", 20, 0.0), ("flat", 6, 500.0), ("images", 1, spots)):
        place = folder / (f"{name}_frames" if name != "images" else "camera_images")
        place.mkdir()
        frames = np.stack([taken.exposed(light, rng) for _ in range(count)])
        tifffile.imwrite(place / "frames.tif", frames, metadata={"axes": "TYX"})
