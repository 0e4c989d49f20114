"""Pixels that are no measurements, and what is constant, are copied: the real command."""

import json

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from tests.command import run
from tests.defects import KINDS, REPAIRED, spoiled
from tests.phantom import scene

pytestmark = pytest.mark.slow

SEEDS = range(len(KINDS))


def camera(seed, shape=(96, 112)):
    rng = np.random.default_rng(seed)
    light = 8 + 60 * scene("nuclei", shape, seed)
    noisy = 100 + 2 * rng.poisson(light / 2) + rng.normal(0, 1.6, shape)
    return np.round(noisy).astype(np.uint16)


def told(done):
    return {
        each["source"].rpartition("/")[2]: each
        for each in map(json.loads, done.stdout.splitlines())
    }


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("defects")
    for seed in SEEDS:
        tifffile.imwrite(folder / f"{seed}.tif", spoiled(seed).noisy)
    return folder


def test_defects_change_nothing_around_them(cases, tmp_path):
    found = told(run("restore", cases, "-o", tmp_path, "--json", check=0))
    for seed in SEEDS:
        case, restored = spoiled(seed), tifffile.imread(tmp_path / f"{seed}.tif")
        assert abs(case.error(restored)) < 2, case.kind
        assert case.psnr(restored) > case.psnr(case.noisy), case.kind
        which = "repaired" if case.kind in REPAIRED else "kept"
        counts = found[f"{seed}.tif"]["details"]["invalid"]["0"]
        assert abs(counts[which] - case.invalid.sum()) <= 1
        if case.kind not in REPAIRED:
            assert restored[case.invalid].tobytes() == case.noisy[case.invalid].tobytes()
        (warning,) = found[f"{seed}.tif"]["warnings"][-1:]
        assert ("--hot-pixels keep" if case.kind in REPAIRED else "--invalid none") in warning


def test_error_bars_hold_beside_defects(cases, tmp_path):
    seeds = [KINDS.index(kind) for kind in ("border", "lines", "nan")]
    images = [cases / f"{seed}.tif" for seed in seeds]
    run("uncertainty", *images, "-o", tmp_path, "--samples", 8, check=0)
    for seed in seeds:
        case = spoiled(seed)
        mean, low, high = (
            tifffile.imread(tmp_path / f"{seed}_{name}.tif") for name in ("mean", "lower", "upper")
        )
        inside = (low <= case.clean) & (case.clean <= high)
        assert inside[case.near].mean() >= 0.8, case.kind
        copied = case.invalid & (case.kind not in REPAIRED)
        assert mean[copied].tobytes() == case.noisy[copied].tobytes()
        assert np.array_equal(np.isnan(low), copied)


def test_what_is_constant_is_copied(tmp_path):
    """A channel, a frame of a movie, a whole image; the others are restored as if alone."""
    source = tmp_path / "in"
    source.mkdir()
    colours = np.stack([np.full((96, 112), 5, np.uint16), camera(1)])
    movie = np.stack([camera(1), np.full((96, 112), 3, np.uint16), camera(2)])
    options = {"photometric": "minisblack"}
    tifffile.imwrite(source / "colours.tif", colours, metadata={"axes": "CYX"}, **options)
    tifffile.imwrite(source / "movie.tif", movie, metadata={"axes": "TYX"}, **options)
    tifffile.imwrite(source / "blank.tif", movie[1])
    for command in ("restore", "uncertainty", "calibrate"):
        out = () if command == "calibrate" else ("-o", tmp_path / command)
        few = ("--samples", 2, "--steps", 2) if command == "uncertainty" else ()
        found = told(run(command, source, *out, *few, "--json", check=0))
        assert all(each["status"] == "done" for each in found.values())
        assert "channel 0: constant: nothing to restore" in str(found["colours.tif"]["warnings"])
        assert "1 blank planes are copied" in str(found["movie.tif"]["warnings"])
        assert "constant: nothing to restore" in str(found["blank.tif"]["warnings"])
    for command, end in (("restore", ""), ("uncertainty", "_mean")):
        read = {
            n: tifffile.imread(tmp_path / command / f"{n}{end}.tif")
            for n in ("colours", "movie", "blank")
        }
        assert np.array_equal(read["colours"][0], colours[0])
        assert not np.array_equal(read["colours"][1], colours[1])
        assert np.array_equal(read["movie"][1], movie[1])
        assert read["movie"][0].std() < movie[0].std()
        assert np.array_equal(read["blank"], movie[1])


def test_a_few_pixels_of_a_large_image_are_found(tmp_path):
    """Constant is judged on all pixels, in all planes."""
    stack = np.zeros((12, 600, 1100), np.uint16)
    stack[7, 530:550, 20:40] = np.random.default_rng(0).normal(300, 17, (20, 20))
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, stack, metadata={"axes": "ZYX"}, photometric="minisblack")
    run("restore", path, "-o", tmp_path / "out.tif", "--invalid", "none", check=0)
    out = tifffile.imread(tmp_path / "out.tif")
    assert np.array_equal(np.delete(out, 7, 0), np.delete(stack, 7, 0))


def test_the_options(tmp_path):
    image = camera(3)
    image[20:40, 30:60] = 777
    image[70, 80] = 40000
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, image)
    made = {}
    for words in ((), ("--invalid", "777"), ("--invalid", "none"), ("--hot-pixels", "keep")):
        out = tmp_path / f"out{len(made)}.tif"
        run("restore", path, "-o", out, *words, check=0)
        made[words] = tifffile.imread(out)
        kept = np.array_equal(made[words][20:40, 30:60], image[20:40, 30:60])
        assert kept == ("none" not in words)
        assert (made[words][70, 80] < 1000) == ("keep" not in words)
    done = run("restore", path, "-o", tmp_path / "bad.tif", "--invalid", "often", check=3)
    assert "--invalid often: use auto, none or a number" in done.stderr


def test_a_wrong_pixel_pulls_no_halo(tmp_path):
    """Where the network removes most of it, what is left out is not spread around it."""
    image = camera(5)
    wrong = image.copy()
    wrong[40, 50:52] = 60000
    tifffile.imwrite(tmp_path / "image.tif", image)
    tifffile.imwrite(tmp_path / "wrong.tif", wrong)
    sources = tmp_path / "image.tif", tmp_path / "wrong.tif"
    run("restore", *sources, "-o", tmp_path / "out", "--hot-pixels", "keep", check=0)
    plain, other = (tifffile.imread(tmp_path / f"out/{k}.tif") for k in ("image", "wrong"))
    away = ndimage.distance_transform_edt(wrong == image)
    halo = (other.astype(float) - plain)[(away > 6) & (away < 12)]
    assert abs(halo.mean()) < 2  # 48 if the two pixels count


def test_nan_is_refused_only_if_it_is_said_to_be_measured(tmp_path):
    image = camera(4).astype(np.float32)
    image[5, 6], image[50:60, 20:30] = np.inf, np.nan
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, image)
    run("restore", path, "-o", tmp_path / "out.tif", check=0)
    out = tifffile.imread(tmp_path / "out.tif")
    assert np.array_equal(np.isfinite(out), np.isfinite(image))
    done = run("restore", path, "-o", tmp_path / "no.tif", "--invalid", "none", check=3)
    assert "contains NaN or infinity" in done.stderr
    assert "--invalid auto" in done.stderr
