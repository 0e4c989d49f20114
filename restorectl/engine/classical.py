"""Classical denoisers of whitened tiles: median, Gaussian, non-local means, wavelets, TV.

Each has one strength. That of an image is the one with the lowest estimated error on sampled tiles:
Stein's unbiased risk estimate, whose divergence is measured by one random probe (Ramani et al.
2008), for white noise of the level that a diffusion model would be told. Filters look no further
than a tile's halo; wavelet thresholds are those of a tile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from restorectl.engine.samplers import (
    Calibrator,
    Decided,
    Method,
    Plain,
    Problem,
    Sampler,
    start_level,
)
from restorectl.errors import UsageError

PROBE = 0.1  # standard deviation of the probe, in that of the noise
PROBE_DRAW = 1 << 24  # step number of the probe's random numbers
TV_STEPS = 50  # iterations, each of which looks one pixel further

Filter = Callable[[np.ndarray, float, float], np.ndarray]  # (image (Y, X), noise, strength)


def median(image: np.ndarray, sigma: float, side: float) -> np.ndarray:
    """Median of side x side px."""
    return ndimage.median_filter(image, int(side))


def gaussian(image: np.ndarray, sigma: float, width: float) -> np.ndarray:
    """Gaussian of standard deviation `width` px."""
    return ndimage.gaussian_filter(image, width)


def nl_means(image: np.ndarray, sigma: float, h: float) -> np.ndarray:
    """Non-local means (Buades et al. 2011): patches of 5 px within 7 px; h in that of noise."""
    from skimage.restoration import denoise_nl_means

    return denoise_nl_means(
        image, patch_size=5, patch_distance=7, h=h * sigma, sigma=sigma, fast_mode=True
    )


def wavelet(image: np.ndarray, sigma: float, factor: float) -> np.ndarray:
    """Soft thresholds on the coefficients of four levels of Daubechies' wavelets (BayesShrink,
    Chang et al. 2000), mean of 2 x 2 shifts."""
    from skimage.restoration import denoise_wavelet

    options = {"sigma": factor * sigma, "wavelet": "db2", "wavelet_levels": 4}
    shifts = ((0, 0), (0, 1), (1, 0), (1, 1))
    moved = [denoise_wavelet(np.roll(image, (y, x), (0, 1)), **options) for y, x in shifts]
    back = [np.roll(m, (-y, -x), (0, 1)) for m, (y, x) in zip(moved, shifts, strict=True)]
    return np.asarray(np.mean(back, axis=0))


def tv(image: np.ndarray, sigma: float, weight: float) -> np.ndarray:
    """Total variation (Chambolle 2004); weight in units of the noise."""
    from skimage.restoration import denoise_tv_chambolle

    return denoise_tv_chambolle(image, weight=weight * sigma, eps=0.0, max_num_iter=TV_STEPS)


def require(*libraries: str) -> None:
    """Raises UsageError for a library that is not installed."""
    for name in libraries:
        if find_spec(name) is None:
            raise UsageError(
                f'this `method` needs {name}: python -m pip install "restorectl[classical]"'
            )


@dataclass(frozen=True)
class Classical:
    """A filter for all tiles of a channel, as strong as is best on some of them."""

    filter: Filter
    strengths: Sequence[float]

    def run(self, p: Problem, decided: Decided) -> Tensor:
        """The filtered tiles (B, C, H, W)."""
        return self._filtered(p.x, p.sigma, decided["filter"])

    def decide(self, pilot: Problem, calibrator: Calibrator) -> Decided:
        """The noise level, and the strength of the filter with the lowest estimated risk."""
        found = start_level(pilot, calibrator)
        sigma = torch.full((len(pilot.x),), found["sigma"], device=pilot.x.device)
        probe = pilot.draw(PROBE_DRAW, torch.arange(len(pilot.x))).to(pilot.x)
        risks = [self._risk(pilot.x, sigma, probe, strength) for strength in self.strengths]
        return found | {"filter": self.strengths[int(np.argmin(risks))]}

    def _risk(self, x: Tensor, sigma: Tensor, probe: Tensor, strength: float) -> float:
        """Stein's estimate of the mean squared error, without its constant part."""
        step = PROBE * float(sigma[0])
        restored = self._filtered(x, sigma, strength)
        moved = self._filtered(x + step * probe, sigma, strength)
        divergence = float((probe * (moved - restored)).double().mean()) / step
        return (
            float((x - restored).double().square().mean()) + 2 * float(sigma[0]) ** 2 * divergence
        )

    def _filtered(self, x: Tensor, sigma: Tensor, strength: float) -> Tensor:
        planes = zip(x.cpu().numpy(), sigma.tolist(), strict=True)
        made = [[self.filter(c, level, strength) for c in tile] for tile, level in planes]
        return torch.from_numpy(np.asarray(made, np.float32)).to(x)


def _method(filter: Filter, strengths: Sequence[float], *libraries: str) -> Method:
    made = Classical(filter, strengths)
    sampler = Sampler(made.run, made.decide, lambda steps: 0)
    return Method(
        lambda settings, samples: sampler,
        {"restorectl": Plain()},
        check=lambda settings, sigma_max: require(*libraries),
        stepwise=False,
    )


MEDIAN = _method(median, (3, 5, 7))
GAUSSIAN = _method(gaussian, (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0))
NL_MEANS = _method(nl_means, (0.4, 0.6, 0.8, 1.0), "skimage")
WAVELET = _method(wavelet, (0.7, 1.0, 1.4), "skimage", "pywt")
TV = _method(tv, (0.5, 0.7, 1.0, 1.4, 2.0), "skimage")
