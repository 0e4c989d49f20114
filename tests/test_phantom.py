"""The phantom and the committed images that it made."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from tests import make_data, phantom

SIDES = ("noisy", "clean")
made = cache(make_data.make)


def read(path: Path) -> np.ndarray:
    return iio.imread(path) if path.suffix == ".png" else tifffile.imread(path)


def relative(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("side", SIDES)
def test_committed_names_are_those_of_make_data(side: str) -> None:
    assert relative(make_data.DATA / side) == set(make_data.FILES)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(make_data.FILES))
def test_committed_pixels_are_those_of_make_data(name: str) -> None:
    for side, expected in zip(SIDES, made()[name], strict=True):
        image = read(make_data.DATA / side / name)
        assert image.dtype == expected.dtype
        np.testing.assert_array_equal(image, expected)


def test_committed_files_are_small() -> None:
    files = [p for side in SIDES for p in (make_data.DATA / side).rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 1_000_000


@pytest.mark.slow
def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        make_data.write(tmp_path / folder)
    names = relative(tmp_path / "one")
    assert names == {f"{side}/{name}" for side in SIDES for name in make_data.FILES}
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_metadata_of_the_committed_files() -> None:
    folder = make_data.DATA / "noisy"
    with tifffile.TiffFile(folder / "cells.ome.tif") as tif:
        assert tif.is_ome
        assert tif.series[0].axes == "CYX"
        assert tif.ome_metadata is not None
        for text in ('Name="nuclei"', 'Name="membranes"', 'PhysicalSizeX="0.13"'):
            assert text in tif.ome_metadata
    for name, axes, key, value in (
        ("stack.tif", "ZYX", "spacing", 0.52),
        ("series/t_series.tif", "TYX", "finterval", 2.5),
    ):
        with tifffile.TiffFile(folder / name) as tif:
            assert tif.series[0].axes == axes
            assert tif.imagej_metadata is not None
            assert tif.imagej_metadata[key] == pytest.approx(value)
    with tifffile.TiffFile(folder / "nuclei.tif") as tif:
        across, by = tif.pages[0].tags["XResolution"].value
        assert 1e4 / (across / by) == pytest.approx(0.13, rel=1e-4)


@pytest.mark.parametrize("name", list(make_data.FILES))
def test_committed_noise_is_neither_trifling_nor_hopeless(name: str) -> None:
    noisy, clean = (image.astype(float) for image in made()[name])
    psnr = 10 * np.log10(np.ptp(clean) ** 2 / np.mean((noisy - clean) ** 2))
    assert 20 < psnr < 28
    assert abs(np.mean(noisy - clean)) < 0.03 * np.std(clean)


@pytest.mark.parametrize("kind", phantom.KINDS)
@pytest.mark.parametrize("shape", [(64, 72), (3, 40, 48), (20, 24)])
def test_scene_is_a_function_of_its_seed(kind: str, shape: tuple[int, ...]) -> None:
    image = phantom.scene(kind, shape, 3, anisotropy=3.0)
    assert image.shape == shape
    assert np.isfinite(image).all()
    assert image.min() > 0
    np.testing.assert_array_equal(image, phantom.scene(kind, shape, 3, anisotropy=3.0))
    assert not np.array_equal(image, phantom.scene(kind, shape, 4, anisotropy=3.0))


def test_channels_and_volume_are_scenes() -> None:
    pair = phantom.channels(["nuclei", "puncta"], (48, 48), 5)
    np.testing.assert_array_equal(pair[1], phantom.scene("puncta", (48, 48), 5))
    deep = phantom.volume((3, 32, 32), 5, 2.0, "membranes")
    np.testing.assert_array_equal(deep, phantom.scene("membranes", (3, 32, 32), 5, 2.0))


def test_blur_keeps_the_light_and_has_a_halo() -> None:
    point = np.zeros((81, 81))
    point[40, 40] = 1
    spread = phantom.blur(point, 1.2)
    assert spread.sum() == pytest.approx(1)
    bare = phantom.blur(point, 1.2, halo=0)
    y = np.arange(81) - 40
    assert (bare.sum(axis=1) * y**2).sum() == pytest.approx(1.2**2, rel=0.02)
    assert spread[40, 48] > 100 * bare[40, 48]
    flat = phantom.blur(np.full((3, 9, 11), 2.0), (0.5, 3, 3))
    np.testing.assert_allclose(flat, 2.0)


def plateaus(photons: float, correlation: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Camera image of 8 uniform planes, relative light 0.05..1, shape (8, 2048, 32), float."""
    light = np.broadcast_to(np.linspace(0.05, 1, 8)[:, None, None], (8, 2048, 32))
    return phantom.camera(light, photons, 2.5, 100, 3.0, 9, correlation, np.float64)


@pytest.mark.parametrize("correlation", [None, "gaussian", "rows"])
def test_variance_grows_with_the_mean_by_the_gain(correlation: str | None) -> None:
    noisy, clean = plateaus(60, correlation)
    means, variances = noisy.mean(axis=(1, 2)), (noisy - clean).var(axis=(1, 2))
    np.testing.assert_allclose(means, clean[:, 0, 0], rtol=0.01)
    slope, at_offset = np.polyfit(means - 100, variances, 1)
    assert slope == pytest.approx(2.5, rel=0.05)
    assert at_offset == pytest.approx((2.5 * 3.0) ** 2, rel=0.1)


@pytest.mark.parametrize("correlation", [None, "gaussian", "rows"])
def test_neighbours_are_correlated_as_asked(correlation: str | None) -> None:
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / phantom.KERNEL_SIGMA) ** 2)
    near = np.correlate(kernel, kernel, "full")[11] / np.sum(kernel**2)
    asked = {None: (0, 0), "gaussian": (near, near), "rows": (0, phantom.ROW_SHARE)}[correlation]
    noisy, clean = plateaus(60, correlation)
    z = (noisy - clean) / (noisy - clean).std(axis=(1, 2), keepdims=True)
    assert np.mean(z[:, 1:] * z[:, :-1]) == pytest.approx(asked[0], abs=0.015)
    assert np.mean(z[:, :, 1:] * z[:, :, :-1]) == pytest.approx(asked[1], abs=0.015)
    assert np.mean(z[1:] * z[:-1]) == pytest.approx(0, abs=0.015)


def test_camera_rounds_and_clips_integers() -> None:
    light = np.linspace(0, 4, 64 * 64).reshape(64, 64)
    noisy, clean = phantom.camera(light, 50, 2.0, 3, 2.0, 1, dtype=np.uint8)
    assert noisy.dtype == clean.dtype == np.uint8
    assert noisy.min() == 0
    assert noisy.max() == clean.max() == 255
    again, _ = phantom.camera(light, 50, 2.0, 3, 2.0, 1, dtype=np.uint8)
    np.testing.assert_array_equal(noisy, again)
    other, _ = phantom.camera(light, 50, 2.0, 3, 2.0, 2, dtype=np.uint8)
    assert not np.array_equal(noisy, other)
