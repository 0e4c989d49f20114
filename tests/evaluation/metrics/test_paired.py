"""Every paired metric against an independent reference, on images made here and on real ones."""

import math
from contextlib import suppress
from functools import lru_cache

import numpy as np
import pytest
from scipy import ndimage, stats
from skimage import measure
from skimage import metrics as reference

from restorectl.catalog import METRICS
from restorectl.evaluation.metrics.metric import (
    SCALES,
    PairedMetric,
    SetMetric,
    UncertaintyMetric,
    Undefined,
)
from restorectl.images.image import open_image
from tests import phantom

FIELDS = ("Confocal_BPAE_B", "Confocal_BPAE_G", "Confocal_BPAE_R", "Confocal_FISH")
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def _scale(x, y, largest):
    """One scale of MS-SSIM, with scipy's filter over the mirrored image and its border cut off."""

    def mean(image):
        return ndimage.gaussian_filter(image, 1.5, truncate=3.5, mode="reflect")

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = (0.01 * largest) ** 2, (0.03 * largest) ** 2
    contrast = (2 * vxy + c2) / (vx + vy + c2)
    whole = contrast * (2 * mx * my + c1) / (mx**2 + my**2 + c1)
    return [each[5:-5, 5:-5].mean() for each in (whole, contrast)]


def ms_ssim(y, x, largest):
    product = 1.0
    for level, weight in enumerate(WEIGHTS):
        whole, contrast = _scale(x, y, largest)
        product *= max(whole if level == 4 else contrast, 0) ** weight
        rows, cols = (side // 2 * 2 for side in x.shape)
        x, y = (measure.block_reduce(v[:rows, :cols], (2, 2), np.mean) for v in (x, y))
    return product


def decorrelation(image):
    """Resolution as published, on the whole complex spectrum, radius by radius."""
    return _decorrelation(image.tobytes(), image.shape)


@lru_cache
def _decorrelation(pixels, shape):
    image = np.frombuffer(pixels).reshape(shape)
    n, m = (side - (side + 1) % 2 for side in image.shape)

    def edge(side):
        x = np.abs(np.linspace(-side / 2, side / 2, side))
        far = x > side / 2 - 20
        fade = np.interp(-x, [-x[far].max(), -x[far].min()], [-np.pi / 2, np.pi / 2])
        return np.where(far, (np.sin(fade) + 1) / 2, 1)

    faded = ((image - image.mean()) * edge(image.shape[0])[:, None] * edge(image.shape[1]))[:n, :m]
    spectrum = np.fft.fftshift(np.fft.fft2(faded - faded.mean()))
    spectrum[n // 2, m // 2] = 0
    y, x = np.linspace(-1, 1, n)[:, None], np.linspace(-1, 1, m)
    r2 = x**2 + y**2
    spectrum = np.where(r2 < 1, spectrum, 0)
    size = np.abs(spectrum)
    phase = np.divide(spectrum, size, out=np.zeros_like(spectrum), where=size > 0)

    def peak(radii, width=None):
        high = spectrum if width is None else spectrum * (1 - np.exp(-2 * width**2 * r2))
        curve = []
        for r in radii:
            inside = r2 < r**2
            norm = np.linalg.norm(high) * np.linalg.norm(phase[inside])
            d = np.sum((high * phase.conj()).real[inside]) / norm if norm else 0.0
            curve.append(math.floor(1000 * d) / 1000)
        while len(curve) > 1:
            top = int(np.argmax(curve))
            if top == 0 or (top < len(curve) - 1 and curve[top] - min(curve[top:]) >= 0.0005):
                return radii[top], curve[top]
            curve.pop()
        return radii[0], curve[0]

    radii = np.linspace(0, 1, 50)
    found = [peak(radii)]
    start = 2 / found[0][0] if found[0][0] else max(image.shape) / 2
    widths = [image.shape[0] / 4, *np.geomspace(start, 0.15, 10)]
    found += [peak(radii, g) for g in widths]
    last = max(i for i, (r, _) in enumerate(found) if r == max(r for r, _ in found))
    if last == 0:
        ends = image.shape[0], widths[0]
    elif last >= len(widths) - 1:
        ends = widths[last - 2], widths[last - 1]
    else:
        ends = widths[last - 1], widths[last]
    centre = found[last][0]
    finer = np.linspace(max(centre - 1 / 49, 0), min(centre + 0.4, 1), 50)
    found += [peak(finer, g) for g in np.geomspace(*ends, 10)]
    best = max(r if height >= 0.05 else 0 for r, height in found)
    return 2 / best if best else math.inf


def _nrmse(kind):
    return lambda y, x, _: reference.normalized_root_mse(y, x, normalization=kind)


def _relative(y, x, largest):
    return np.mean((x - y) ** 2) / largest**2


REFERENCES = {  # metric -> (what it is held against, function of target, prediction, data range)
    "mae": ("numpy definition", lambda y, x, _: np.abs(x - y).mean()),
    "mse": ("scikit-image", lambda y, x, _: reference.mean_squared_error(y, x)),
    "rmse": ("scikit-image", lambda y, x, _: reference.mean_squared_error(y, x) ** 0.5),
    "nrmse": ("scikit-image, mean", _nrmse("mean")),
    "nrmse-range": ("scikit-image, min-max", _nrmse("min-max")),
    "nrmse-norm": ("scikit-image, euclidean", _nrmse("euclidean")),
    "psnr": (
        "scikit-image",
        lambda y, x, largest: reference.peak_signal_noise_ratio(y, x, data_range=largest),
    ),
    "psnr-volume": ("numpy, of one plane", _relative),
    "psnr-made": ("numpy, of one plane", _relative),
    "ssim": (
        "scikit-image, Gaussian weights, population covariance",
        lambda y, x, largest: reference.structural_similarity(
            y, x, data_range=largest, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        ),
    ),
    "ms-ssim": ("definition with scipy.ndimage filters", ms_ssim),
    "pearson": ("scipy", lambda y, x, _: stats.pearsonr(x.ravel(), y.ravel()).statistic),
    "resolution": ("definition, radius by radius", lambda y, x, _: decorrelation(x)),
    "resolution-ratio": (
        "definition, radius by radius",
        lambda y, x, _: decorrelation(x) / decorrelation(y),
    ),
}


def compute(name, prediction, target, data_range=255.0):
    return METRICS[name].load().compute(prediction, target, data_range)


@lru_cache
def made(kind, seed, shape=(200, 233)):
    """(prediction, target): a blurred, noisy phantom and the phantom, 8-bit values."""
    clean = phantom.scene(kind, shape, seed)
    camera = {"photons": 60, "gain": 1.5, "offset": 12, "read_noise": 2, "dtype": np.uint8}
    noisy, _ = phantom.camera(phantom.blur(clean, 0.8), seed=seed, **camera)
    _, sharp = phantom.camera(clean, seed=seed, **camera)
    return noisy.astype(float), sharp.astype(float)


@pytest.mark.parametrize("name", METRICS)
def test_the_row_of_a_metric_tells_its_kind(name):
    kinds = {"paired": PairedMetric, "uncertainty": UncertaintyMetric, "set": SetMetric}
    assert isinstance(METRICS[name].load(), kinds[METRICS[name].kind])


def test_planes_of_a_volume_are_combined_before_the_logarithm():
    volume, made = (METRICS[name].load().combine for name in ("psnr-volume", "psnr-made"))
    assert volume([0.01, 0.0, 0.03, 0.0]) == pytest.approx(20.0)
    assert made([0.001, 0.0, 0.019, 0.0]) == pytest.approx(20.0)
    assert volume([0.0, 0.0]) == made([0.0, 0.0]) == np.inf


def test_every_paired_metric_but_lpips_has_a_reference():
    paired = {n for n, row in METRICS.items() if isinstance(row.load(), PairedMetric)}
    assert paired - {"lpips", "resolution-nm"} == REFERENCES.keys()


@pytest.mark.parametrize("name", REFERENCES)
def test_equals_its_reference_on_phantoms(name):
    for seed, kind in enumerate(("nuclei", "filaments")):
        prediction, target = made(kind, seed)
        expected = REFERENCES[name][1](target, prediction, 255.0)
        assert compute(name, prediction, target) == pytest.approx(expected, rel=1e-4)


@pytest.mark.realdata
@pytest.mark.parametrize("name", REFERENCES)
def test_equals_its_reference_on_ten_real_images(real_data, name):
    pairs = [f"{field}_noisy_{k}.png" for field in FIELDS for k in (1, 2)]
    for file in (*pairs, "WideField_BPAE_R_noisy_1.png", "WideField_BPAE_R_noisy_2.png"):
        images = []
        for folder in ("noisy", "clean"):
            with open_image(real_data / "pairs" / folder / "fmd" / file) as image:
                images.append(image.read((0, 0, 0))[:256, 128:400].astype(float))
        expected = REFERENCES[name][1](images[1], images[0], 255.0)
        assert compute(name, *images) == pytest.approx(expected, rel=1e-4), file


def test_equal_images():
    image = made("mixed", 3)[1]
    assert compute("psnr", image, image) == math.inf
    assert compute("ssim", image, image) == pytest.approx(1)
    assert compute("ms-ssim", image, image) == pytest.approx(1)
    assert compute("pearson", image, image) == pytest.approx(1)
    assert compute("mae", image, image) == 0


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_nothing_is_nan_in_silence(name):
    """A constant target, a constant prediction, both: a number or a reason."""
    image, flat = made("puncta", 1)[1], np.full((200, 233), 7.0)
    for prediction, target in ((image, flat), (flat, image), (flat, flat), (flat, flat * 0)):
        for data_range in (255.0, 0.0):
            with suppress(Undefined):
                assert not math.isnan(compute(name, prediction, target, data_range))


def test_what_has_no_value_says_why():
    image, flat = made("puncta", 1)[1], np.full((200, 233), 7.0)
    with pytest.raises(Undefined, match="`data_range`"):
        compute("psnr", image, flat, 0.0)
    with pytest.raises(Undefined, match="under 176 px"):
        compute("ms-ssim", image[:175], image[:175])
    with pytest.raises(Undefined, match="under 11 px"):
        compute("ssim", image[:10], image[:10])
    with pytest.raises(Undefined, match="target is constant"):
        compute("pearson", image, flat)
    with pytest.raises(Undefined, match="mean is 0"):
        compute("nrmse", image, flat * 0)


def test_scales():
    target = made("mixed", 5)[1]
    prediction = (target - 20) / 3
    gain, offset = SCALES["affine"](prediction, target)
    assert (gain, offset) == (pytest.approx(3), pytest.approx(20))
    prediction[0, 0] = 1e6  # one bright pixel ruins the fit, not the percentiles
    gain, offset = SCALES["percentile"](prediction, target)
    assert gain == pytest.approx(3, rel=0.05)
    assert abs(SCALES["affine"](prediction, target)[0]) < 0.1
    assert SCALES["none"](prediction, target) == (1, 0)
    for scale in ("affine", "percentile"):
        with pytest.raises(Undefined, match=scale):
            SCALES[scale](np.ones_like(target), target)
