"""Blind noise estimation on images whose noise is known."""

import functools

import numpy as np
import pytest
from numpy.typing import NDArray

from restorectl.errors import InputError, UsageError
from restorectl.intensity import anscombe, noise

SIZE = 384


@functools.cache
def scene(seed: int = 0, size: int = SIZE) -> NDArray[np.float64]:
    """Smooth blobs and filaments on a dark ground, 0 to 1, nothing finer than 3 px."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    image = 0.05 + 0.05 * x / size
    for _ in range(40):
        cy, cx, r = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(8, 30)
        image = image + rng.uniform(0.1, 0.6) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / r**2)
    for _ in range(8):
        angle, shift = rng.uniform(0, np.pi), rng.uniform(-size, size)
        image = image + 0.3 * np.exp(-(((x * np.cos(angle) + y * np.sin(angle) - shift) / 4) ** 2))
    return np.asarray(image / image.max())


def blurred(noise_field: NDArray[np.float64], sigma: float, rows: bool) -> NDArray[np.float64]:
    """Gaussian filter by FFT, rescaled to unit variance; along rows only, or along both axes."""
    fy = 2 * np.pi * np.fft.fftfreq(noise_field.shape[0])[:, None] * (not rows)
    fx = 2 * np.pi * np.fft.rfftfreq(noise_field.shape[1])[None]
    kernel = np.exp(-(sigma**2) * (fx**2 + fy**2) / 2)
    out = np.fft.irfft2(np.fft.rfft2(noise_field) * kernel, s=noise_field.shape)
    return np.asarray(out / out.std())


def camera(
    peak: float, gain: float = 2.0, read: float = 1.0, offset: float = 100.0, seed: int = 0
) -> NDArray[np.float32]:
    """The scene with `peak` photons; gain, offset in grey levels, read in photons."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(scene() * peak) + read * rng.normal(size=(SIZE, SIZE))
    return (gain * counts + offset).astype(np.float32)


def true_level(model: noise.NoiseModel, peak: float, gain: float = 2.0, read: float = 1.0) -> float:
    """Std of the whitened noise in the brighter half of the scene, from two realisations."""
    args = (model.gain, model.offset, model.read_noise)
    one, two = (anscombe.forward(camera(peak, gain, read, seed=s), *args) for s in (10, 11))
    bright = scene() > np.median(scene())
    return float((one - two)[bright].std() / np.sqrt(2))


@pytest.mark.parametrize("peak", [10.0, 50.0, 300.0])
@pytest.mark.parametrize("gain", [0.5, 2.0, 20.0])
def test_poisson_gaussian_is_recovered(peak: float, gain: float) -> None:
    model = noise.estimate([camera(peak, gain)])
    assert model.kind == "poisson-gaussian"
    assert model.gain == pytest.approx(gain, rel=0.1)
    assert model.level == pytest.approx(true_level(model, peak, gain), rel=0.1)
    assert not model.correlated
    assert model.belief == 1
    assert model.photons_median == pytest.approx(np.median(scene()) * peak, rel=0.3, abs=2)


def test_low_counts_are_told() -> None:
    model = noise.estimate([camera(2.0, 20.0, read=0.0)])
    assert model.gain == pytest.approx(20.0, rel=0.1)
    assert model.low_count_fraction > 0.9
    assert model.level < 0.95
    assert any("photons" in w for w in model.warnings)


def test_gaussian_noise() -> None:
    rng = np.random.default_rng(0)
    image = (1000 * scene() + 30 * rng.normal(size=(SIZE, SIZE))).astype(np.float32)
    for kind in ("auto", "gaussian"):
        model = noise.estimate([image], kind=kind)
        assert model.kind == "gaussian"
        assert model.read_noise * model.level == pytest.approx(30, rel=0.08)


@pytest.mark.parametrize(("sigma", "rows"), [(0.5, False), (0.7, False), (1.0, False), (1.0, True)])
def test_correlated_noise_is_detected(sigma: float, rows: bool) -> None:
    rng = np.random.default_rng(3)
    field = blurred(rng.normal(size=(SIZE, SIZE)), sigma, rows)
    image = (200 * scene() + 100 + 10 * field).astype(np.float32)
    model = noise.estimate([image])
    lags = (field[:, 1:] * field[:, :-1]).mean(), (field[1:] * field[:-1]).mean()
    assert model.correlated
    assert model.correlation == pytest.approx(np.mean(lags), abs=0.12)
    # what a white-noise denoiser must be told: the power at low frequencies
    binned = field.reshape(SIZE // 4, 4, SIZE // 4, 4).mean((1, 3)).std() * 4
    assert model.level * model.read_noise == pytest.approx(10 * binned, rel=0.25)
    assert any("correlated" in w for w in model.warnings)


def test_texture_is_not_noise() -> None:
    clean = camera(200_000.0, gain=0.05, read=0.5)
    model = noise.estimate([clean])
    span = float(np.ptp(clean))
    noise_at_peak = np.sqrt(model.gain * span + model.read_noise**2) * model.level
    assert noise_at_peak < 0.01 * span


def test_scaling_and_shift() -> None:
    image = camera(50.0)
    one = noise.estimate([image])
    for factor, shift in [(257.0, 0.0), (0.01, 0.0), (1.0, 5000.0)]:
        other = noise.estimate([image * np.float32(factor) + np.float32(shift)])
        assert other.gain == pytest.approx(one.gain * factor, rel=0.02)
        assert other.offset == pytest.approx(one.offset * factor + shift, rel=0.02)
        assert other.level == pytest.approx(one.level, rel=0.02)


def test_quantised_to_eight_bits() -> None:
    fine = camera(200.0, gain=0.4, offset=10.0)
    coarse = np.clip(np.round(fine), 0, 255)
    model = noise.estimate([coarse])
    assert model.gain == pytest.approx(0.4, rel=0.15)
    assert model.level == pytest.approx(1.0, abs=0.1)


def test_saturation_and_clipping() -> None:
    image = camera(50.0)
    model = noise.estimate([np.clip(image, 105, 160)])
    assert model.gain == pytest.approx(2.0, rel=0.3)
    padded = np.zeros((SIZE + 128, SIZE), dtype=np.float32)
    padded[:SIZE] = image
    assert noise.estimate([padded]).gain == pytest.approx(2.0, rel=0.15)


def test_known_values_win() -> None:
    model = noise.estimate([camera(50.0)], gain=2.0, offset=100.0, read_noise=2.0)
    assert (model.gain, model.offset, model.read_noise) == (2.0, 100.0, 2.0)
    assert noise.estimate([camera(50.0)], offset=100.0).read_noise == pytest.approx(2.0, abs=1.5)


def test_none_removes_nothing() -> None:
    model = noise.estimate([camera(50.0)], kind="none")
    assert (model.kind, model.level, model.belief) == ("none", 0.0, 1)


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf])
def test_hopeless_images(value: float) -> None:
    image = np.full((64, 64), value, dtype=np.float32)
    with pytest.raises(InputError):
        noise.estimate([image])
    with pytest.raises(InputError):
        noise.estimate([])


@pytest.mark.parametrize(
    "options", [{"kind": "salt"}, {"gain": 0.0}, {"gain": float("nan")}, {"read_noise": -1.0}]
)
def test_senseless_options(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        noise.estimate([camera(50.0)], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (5, 7), (8, 8), (16, 24), (24, 24), (64, 64)])
def test_tiny_images(shape: tuple[int, int]) -> None:
    image = camera(50.0)[: shape[0], : shape[1]]
    if image.size == 1:
        with pytest.raises(InputError):
            noise.estimate([image])
        return
    model = noise.estimate([image])
    assert np.isfinite([model.gain, model.offset, model.read_noise, model.level]).all()
    assert model.kind != "none" or model.warnings


def test_odd_images_do_not_crash() -> None:
    rng = np.random.default_rng(0)
    sparse = np.zeros((128, 128), dtype=np.float32)
    sparse[40, 50] = 1000
    checker = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.float32)
    ramp = np.tile(np.arange(128, dtype=np.float32), (128, 1))
    binary = (rng.random((128, 128)) < 0.01).astype(np.float32)
    huge = camera(50.0) * np.float32(1e15)
    for image in (sparse, checker, ramp, binary, huge, -camera(50.0)):
        model = noise.estimate([image])
        assert np.isfinite([model.gain, model.offset, model.read_noise, model.level]).all()
        assert model.gain >= 0


@pytest.mark.parametrize("mean", [0.05, 0.3, 1, 3, 30])
def test_photon_counts_are_recognised(mean):
    light = scene()
    counts = np.random.default_rng(1).poisson(mean * light / light.mean())
    for dtype in (np.uint8, np.float32):
        found = noise.estimate([counts.clip(0, 255).astype(dtype)])
        assert found.photon_counts
        assert (found.gain, found.offset, found.read_noise) == (1, 0, 0)
    assert not noise.estimate([counts.astype(float)], gain=1.2).photon_counts


def test_other_images_are_no_photon_counts():
    rng, light = np.random.default_rng(2), 20 * scene()
    counts = rng.poisson(light).astype(float)
    others = {
        "gain": 2 * counts,
        "half": np.floor(counts / 2),
        "offset": counts + 1,
        "fractions": counts + 0.5 * (counts > 3),
        "read noise": np.rint(counts + rng.normal(0, 1.6, counts.shape)).clip(0),
        "smoothed": np.rint((counts + np.roll(counts, 1, 1)) / 2),
        "texture": np.rint(light * (1 + 0.9 * (np.indices(light.shape).sum(0) % 2))),
    }
    for name, image in others.items():
        assert not noise.estimate([image]).photon_counts, name
