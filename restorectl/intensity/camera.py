"""A camera whose pixels differ: what is known of each, and images as an even camera had taken them.

Each pixel of an sCMOS camera has its own amplifier, so its own offset, gain and read noise (Huang
et al., Nature Methods 10, 653, 2013). `evened` converts an image to grey levels of the camera's
typical pixel, before its noise is whitened; so one transform whitens every pixel, and what the
pixels do not share (the fixed pattern) is gone. A pixel with more read noise than the quiet ones
leans on its neighbours, until its noise is theirs.

`Series` measures gain and response from images of the same, constant light by photon transfer
(Janesick, "Photon Transfer", SPIE 2007).
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

Map = NDArray[np.float32]
Bools = NDArray[np.bool_]

# Of the variances, that of a quiet pixel. At 3 and 10 photons, a spread as published: 31.32, 31.28,
# 31.14, 30.92 dB and 34.98, 34.98, 34.97, 34.96 dB at 0.15, 0.3, 0.5, 0.7.
QUIET = 0.25
HOT = 25.0  # times the typical variance
ODD = 10.0  # standard deviations of the offsets: a dark current that light frames need not share
LIT = 30.0  # px, sigma of the Gaussian that is taken for the illumination of a flat
SCENE = 0.1  # correlation of diagonal neighbours above which a pattern is not that of pixels
SAME = 1.25  # largest ratio of the light of two frames that are compared
EXCESS = 1.25  # ratio of cumulants: 1 for photons, 1.5 for those that an EM register multiplies
SURE = 2.0  # standard errors by which that is exceeded
# Neighbours that a noisy pixel leans on: a Gaussian of 0.8 px without its centre, of sum 1.
_RING = np.exp(-np.add.outer(np.arange(-2, 3) ** 2, np.arange(-2, 3) ** 2) / (2 * 0.8**2))
_RING[2, 2] = 0.0
_RING /= _RING.sum()


@dataclass(frozen=True)
class Camera:
    """Typical values of a camera, and maps (Y, X) of its pixels; None = not known.

    offset: grey level in the dark. gain: grey levels per photo-electron. read_noise: standard
    deviation in the dark, in grey levels. excess: noise factor of an EM register, 2 for EMCCD.
    offsets, variances: of each pixel, in grey levels and their squares. response: gain of each
    pixel / typical gain. hot: pixels that are no measurement. quiet: variance of a quiet pixel.
    sha256: of all that is known.
    """

    offset: float | None = None
    gain: float | None = None
    read_noise: float | None = None
    excess: float = 1.0
    offsets: Map | None = None
    variances: Map | None = None
    response: Map | None = None
    hot: Bools | None = None
    quiet: float | None = None
    sha256: str = ""

    @property
    def maps(self) -> dict[str, Any]:
        """The maps that are known, by name."""
        names = ("offsets", "variances", "response", "hot")
        return {name: found for name in names if (found := getattr(self, name)) is not None}

    @property
    def read_noise_left(self) -> float | None:
        """Root mean square of the read noise after `evened`, where hot pixels are repaired."""
        if self.variances is None or self.quiet is None:
            return self.read_noise
        left = self.variances if self.hot is None else self.variances[~self.hot]
        return float(np.sqrt(np.minimum(left, self.quiet if self.gain else np.inf).mean()))

    def cut(self, top: int, left: int, shape: tuple[int, int]) -> "Camera":
        """The camera's region (height, width) from this row and column on."""
        rows, cols = slice(top, top + shape[0]), slice(left, left + shape[1])
        return replace(self, **{name: found[rows, cols] for name, found in self.maps.items()})


def evened(pixels: NDArray[Any], camera: Camera, unknown: Bools) -> NDArray[np.floating[Any]]:
    """A plane (Y, X) in grey levels of the typical pixel: float32, float64 from 32 bits on.

    unknown: pixels (Y, X) that nothing leans on.
    """
    wide = pixels.dtype.itemsize > (4 if pixels.dtype.kind == "f" else 2)
    x: NDArray[np.floating[Any]] = pixels.astype(np.float64 if wide else np.float32)
    zero = camera.offset or 0.0
    x -= zero if camera.offsets is None else camera.offsets  # now light, in grey levels
    variances: NDArray[Any] | None = camera.variances
    if camera.response is not None:
        x /= camera.response
        if variances is not None:
            variances = variances / np.square(camera.response)
    if variances is not None and camera.gain and camera.quiet is not None:
        quiet = np.float32(camera.quiet)
        weight = np.where(unknown, np.float32(0), 1 / np.maximum(variances + quiet, 1e-6))
        around = _around(np.where(unknown, 0, x) * weight) / np.maximum(_around(weight), 1e-12)
        shot = np.float32(camera.gain * camera.excess) * np.maximum(around, 0)
        share = np.sqrt((shot + quiet) / np.maximum(shot + variances, 1e-6))
        x = around + np.minimum(share, 1) * (x - around)
    return np.asarray(x + x.dtype.type(zero))


def _around(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Mean of a pixel's neighbours, without itself."""
    return np.asarray(ndimage.convolve(values, _RING.astype(values.dtype), mode="mirror"))


@dataclass
class Moments:
    """Mean and variance of each pixel over frames, one frame at a time (Welford 1962)."""

    count: int = 0
    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))

    def add(self, frame: NDArray[Any]) -> None:
        """Take a frame (Y, X)."""
        self.count += 1
        step = frame - self.mean
        self.mean = self.mean + step / self.count
        self.squares = self.squares + step * (frame - self.mean)

    def dark(self) -> Camera:
        """What at least two frames without light show: offsets, variances, hot pixels."""
        variances = _shrunk(self.squares / (self.count - 1), self.count - 1)
        offset, typical = float(np.median(self.mean)), float(np.median(variances))
        far = np.abs(self.mean - offset)
        odd = far > ODD * max(1.4826 * float(np.median(far)), np.sqrt(typical / self.count))
        return Camera(
            offset=offset,
            read_noise=float(np.sqrt(typical)),
            offsets=self.mean.astype(np.float32),
            variances=variances.astype(np.float32),
            hot=(variances > HOT * max(typical, 1e-6)) | odd,
        )


def _shrunk(variances: NDArray[np.float64], freedom: int) -> NDArray[np.float64]:
    """Variances of few frames each, drawn towards their typical value by as much as they scatter.

    As in Smyth, Stat. Appl. Genet. Mol. Biol. 3(1), 2004, by the quartiles of their logarithms: the
    hot pixels are few, and would hide how alike the others are.
    """
    logs = np.log(np.maximum(variances, 1e-12))
    low, high = np.quantile(logs, (0.25, 0.75))
    beyond = ((high - low) / 1.349) ** 2 - float(special.polygamma(1, freedom / 2))
    own = max(beyond, 0.0) / (beyond + float(special.polygamma(1, freedom / 2)))
    middle = float(np.median(logs))
    draw = own + (1 - own) * (logs > middle + 6 * (high - low))  # hot ones stay
    return np.asarray(np.exp(middle + np.clip(draw, 0, 1) * (logs - middle)))


@dataclass
class Series:
    """Photon transfer from frames of the same light, one at a time.

    Frames are compared with the one before, so neither their structure nor the fixed pattern
    counts. For any light in the pixels, sum of variances / sum of light is the gain.
    """

    dark: Camera
    count: int = 0
    total: float = 0.0  # mean light of the frames, summed
    light: NDArray[np.float64] = field(default_factory=lambda: np.zeros(()))  # of each pixel
    pairs: list[tuple[float, float, float]] = field(default_factory=list)  # light, variance, corr.
    cubes: list[float] = field(default_factory=list)  # third cumulants / light
    _before: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, frame: NDArray[Any]) -> None:
        """Take the next frame (Y, X)."""
        good = np.ones(frame.shape, bool) if self.dark.hot is None else ~self.dark.hot
        zero = (self.dark.offset or 0.0) if self.dark.offsets is None else self.dark.offsets
        x = frame.astype(np.float64) - zero
        read = (self.dark.read_noise or 0.0) ** 2
        if self.dark.variances is not None:
            read = float(self.dark.variances[good].mean())
        level = float(x[good].mean())
        before = [each for each in self._before if _alike(level, float(each[good].mean()))]
        same = [each * (level / float(each[good].mean())) for each in before]
        if same:
            ratio = level / float(before[-1][good].mean())
            d = np.where(good, x - same[-1], 0.0)
            noise = float(np.square(d[good]).mean()) - read * (1 + ratio**2)
            self.pairs.append((level, noise / (1 + ratio), _diagonal(d)))
        if len(same) == 2:
            cubed = float(((same[0] + same[1] - 2 * x)[good] ** 3).mean()) / -6
            self.cubes.append(cubed / level)
        self.count, self.total, self.light = self.count + 1, self.total + level, self.light + x
        self._before = [*self._before, x][-2:]

    @property
    def still(self) -> bool:
        """Whether frames show the same: their differences are noise."""
        return bool(self.pairs) and float(np.median([c for *_, c in self.pairs])) < SCENE

    def camera(self) -> Camera:
        """The dark frames' camera with gain, excess noise and, for even light, response."""
        light, variance, _ = np.array(self.pairs).T
        slope = float(variance.sum() / light.sum())  # excess * gain
        ratio = float(np.mean(self.cubes)) / slope**2 if self.cubes else 1.0
        # a sum of three frames: its cube scatters by 9.5 times the cube of a frame's noise
        scatter = 9.5 * np.mean(variance**1.5 / light) / np.sqrt(self.light.size) / slope**2
        sure = ratio - EXCESS > SURE * scatter / np.sqrt(max(len(self.cubes), 1))
        excess = 2.0 if sure else 1.0
        return replace(
            self.dark, gain=slope / excess, excess=excess, response=self._response(slope)
        )

    def _response(self, slope: float) -> Map | None:
        """Light of each pixel / illumination; None if that is a scene, or one value explains it."""
        good = np.ones(self.light.shape, bool) if self.dark.hot is None else ~self.dark.hot
        lit = ndimage.gaussian_filter(np.where(good, self.light, 0.0), LIT, mode="mirror")
        lit /= ndimage.gaussian_filter(good.astype(np.float64), LIT, mode="mirror")
        response = np.where(good, self.light / lit, 1.0)
        low, middle, high = np.quantile(response[good], (0.1587, 0.5, 0.8413))
        total = ((high - low) / 2) ** 2
        read = (self.dark.read_noise or 0.0) ** 2
        chance = (slope * self.total + read * self.count) / self.total**2
        if _diagonal(np.where(good, response - middle, 0.0)) > SCENE or total <= chance:
            return None
        # drawn towards 1 by as much as the scatter of the frames explains
        return np.asarray(1 + (1 - chance / total) * (response / middle - 1), np.float32)


def _alike(a: float, b: float) -> bool:
    return min(a, b) > 0 and max(a, b) <= SAME * min(a, b)


def _diagonal(values: NDArray[np.float64]) -> float:
    """Correlation of diagonal neighbours, which noise of single pixels, rows or columns lacks."""
    cut = np.clip(values, *(4 * np.quantile(values, (0.16, 0.84))))
    return float(np.corrcoef(cut[1:, 1:].ravel(), cut[:-1, :-1].ravel())[0, 1])
