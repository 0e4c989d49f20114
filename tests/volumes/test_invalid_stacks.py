"""Stacks with pixels that are no measurements, constant parts, low counts and large offsets."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile

from restorectl.batch.outcome import Silent
from restorectl.jobs import Files, SuperresJob
from restorectl.volumes import directions, superres3d
from tests.phantom import volume
from tests.volumes.test_superres3d import read, run


def stack(shape=(5, 40, 44), seed=0):
    """A camera's stack of one specimen in all planes, (Z, Y, X) uint16 around 400."""
    rng = np.random.default_rng(seed)
    light = 8 + 60 * volume(shape, seed, 4.0, "nuclei")
    return np.round(100 + 2 * rng.poisson(light) + rng.normal(0, 1.6, shape)).astype(np.uint16)


def halfway(pixels):
    """Linear interpolation at factor 2, (2 n - 1, Y, X) float64."""
    made = np.repeat(pixels.astype(np.float64), 2, 0)[:-1]
    made[1::2] = (made[:-1:2] + made[2::2]) / 2
    return made


@pytest.mark.parametrize("held", [directions.HELD, 0])
def test_a_border_stays_and_nothing_of_it_is_in_the_planes_between(tmp_path, monkeypatch, held):
    monkeypatch.setattr(directions, "HELD", held)
    whole = stack()
    pixels = whole.copy()
    pixels[:, :9] = 0  # in all planes
    pixels[2, 20:32, 10:30] = 0  # in one
    outcome, path = run(tmp_path, pixels, factor=2, anchor="linear")
    made = read(path)
    assert np.array_equal(made[::2], pixels)
    assert not made[:, :9].any()
    assert outcome.details["invalid"]["0"]["kept"] == 5 * 9 * 44 + 12 * 20
    assert "pixels are no measurements" in outcome.warnings[0]
    usual = np.rint(halfway(pixels))
    usual[3:6:2, 20:32, 10:30] = made[3:6:2, 20:32, 10:30]
    assert np.abs(made[:, 9:] - usual[:, 9:]).max() <= 1
    across = whole[[1, 3], 20:32, 10:30].astype(float)  # linear between those beside the mask
    for z, share in ((3, 0.25), (5, 0.75)):
        expected = across[0] * (1 - share) + across[1] * share
        assert np.abs(made[z, 20:32, 10:30] - expected).max() <= 1


def test_nan_stays_nan_where_it_is_in_both_planes(tmp_path):
    pixels = stack().astype(np.float32)
    pixels[1, 3, 4], pixels[2:4, 20:25, 8:12], pixels[4, 30, 5] = np.nan, np.nan, np.inf
    _, path = run(tmp_path, pixels, factor=2, method="cubic")
    made = read(path)
    np.testing.assert_array_equal(made[::2], pixels)
    wanted = np.zeros(made.shape, bool)
    wanted[::2] = ~np.isfinite(pixels)
    wanted[5, 20:25, 8:12] = True
    assert np.array_equal(~np.isfinite(made), wanted)
    outcome, _ = run(tmp_path, pixels, factor=2, method="cubic", invalid="none")
    assert outcome.status == "failed"
    assert "contains NaN or infinity" in outcome.message


def test_hot_pixels_are_repaired_unless_they_are_to_be_kept(tmp_path):
    pixels = stack()
    pixels[:, 20, 22] = 40000
    _, path = run(tmp_path, pixels, factor=2, method="linear")
    made = read(path)
    assert made.max() < 2000
    made[:, 20, 22] = halfway(pixels)[:, 20, 22]
    assert np.abs(made - halfway(pixels)).max() <= 1
    _, path = run(tmp_path, pixels, factor=2, method="linear", hot_pixels="keep")
    assert (read(path)[:, 20, 22] == 40000).all()


def test_a_constant_channel_a_blank_time_point_and_a_blank_plane_are_copied(tmp_path):
    alive = stack()
    pixels = np.stack([[alive, alive], np.full((2, *alive.shape), 3)]).astype(np.float64)
    pixels[:, 1] = 0.1
    pixels[0, 0, 2] = 7.3
    tifffile.imwrite(tmp_path / "in.tif", pixels, metadata={"axes": "TCZYX"})
    files = Files((str(tmp_path / "in.tif"),), str(tmp_path / "out"), axes="TCZYX")
    for method in ("diffusion", "cubic"):
        job = SuperresJob(files, method=method, factor=2, steps=1)
        job = replace(job, files=replace(files, output=str(tmp_path / method)))
        (outcome,) = superres3d.superres3d(job, Silent())
        assert outcome.status == "done", outcome.message
        made = read(tmp_path / method / "in.tif")
        assert np.array_equal(made[:, :, ::2], pixels)
        assert (made[:, 1] == 0.1).all()
        assert (made[1, 0] == 3).all()
        assert (np.abs(made[0, 0, [3, 5]] - alive[[1, 3]].mean(0)).mean((1, 2)) < 15).all()
        assert "channel 1: constant: nothing to restore, copied as it is" in outcome.warnings
        assert any("6 blank planes" in text for text in outcome.warnings)


@pytest.mark.parametrize(
    ("dtype", "offset"), [("uint32", 2**28), ("int32", -(2**30)), ("float64", 1e9)]
)
@pytest.mark.parametrize("method", ["diffusion", "linear"])
def test_large_offsets_leave_no_grid(tmp_path, dtype, offset, method):
    near = stack()
    pixels = (near + float(offset)).astype(dtype)
    _, path = run(tmp_path, pixels, factor=2, anchor="linear", method=method)
    made = read(path)
    assert made.dtype == dtype
    assert np.array_equal(made[::2], pixels)
    assert np.abs(made - float(offset) - halfway(near)).max() <= 1


@pytest.mark.parametrize(
    ("mean", "method"),
    [(0.05, "diffusion"), (0.05, "cubic"), (0.3, "linear"), (1, "diffusion"), (3, "cubic")],
)
def test_low_counts_keep_their_mean(tmp_path, mean, method):
    light = 0.05 + volume((6, 150, 160), 1, 4.0, "nuclei")
    pixels = np.random.default_rng(2).poisson(mean * light / light.mean()).astype(np.uint8)
    outcome, path = run(tmp_path, pixels, factor=2, method=method, anchor="linear")
    made = read(path)
    assert np.array_equal(made[::2], pixels)
    pairs = (pixels[1:].mean() + pixels[:-1].mean()) / 2
    assert made[1::2].mean() / pairs == pytest.approx(1, abs=0.03)
    assert any("dithered" in text for text in outcome.warnings) == (mean < 3)
    outcome, path = run(tmp_path, pixels, factor=2, method=method, dtype="float32")
    assert read(path).dtype == np.float32
    assert np.array_equal(read(path)[::2], pixels)
    assert read(path)[1::2].mean() / pairs == pytest.approx(1, abs=0.03)


def test_smooth_images_are_rounded(tmp_path):
    z, y, x = np.meshgrid(*(np.arange(n) for n in (5, 60, 64)), indexing="ij")
    pixels = np.round(60 + 40 * np.sin(z / 3 + y / 19) * np.cos(x / 23)).astype(np.uint8)
    outcome, path = run(tmp_path, pixels, factor=2, method="linear")
    assert np.array_equal(read(path), np.rint(halfway(pixels)))
    assert not outcome.warnings
