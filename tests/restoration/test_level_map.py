"""Noise that varies over an image is met by a smooth map of levels, and leaves no seam."""

import json

import numpy as np
import pytest
import tifffile

from restorectl.restoration import level_map
from tests.command import run
from tests.phantom import scene

FP32 = ("--precision", "fp32")


@pytest.fixture(scope="module")
def varying(tmp_path_factory):
    """(path, clean, strength): Gaussian noise four times as strong on the right as on the left."""
    shape = (160, 1040)
    clean = 200 + 800 * scene("mixed", shape, 3)
    strength = np.broadcast_to(np.geomspace(15, 60, shape[1]), shape)
    noisy = clean + strength * np.random.default_rng(0).normal(size=shape)
    path = tmp_path_factory.mktemp("varying") / "image.tif"
    tifffile.imwrite(path, noisy.astype(np.float32))
    return path, clean, strength


@pytest.mark.slow
def test_a_map_follows_the_noise_and_beats_one_level(varying, tmp_path):
    path, clean, strength = varying
    errors = {}
    for level in ("auto", "image"):
        out = tmp_path / f"{level}.tif"
        done = run("restore", path, "-o", out, "--level", level, "--noise", "gaussian", "--json")
        assert done.returncode == 0, done.stderr
        decided = json.loads(done.stdout)["details"]["method"]["0"]
        assert ("log_levels" in decided) == (level == "auto")
        error = tifffile.imread(out) - clean
        errors[level] = [np.sqrt(np.mean(error[:, part] ** 2))
                         for part in (slice(0, 300), slice(740, None))]  # fmt: skip
        if level == "auto":
            found = np.mean(decided["log_levels"], axis=0)
            truth = np.log(np.interp(decided["cols"], np.arange(strength.shape[1]), strength[0]))
            assert np.std(found - truth) < 0.08  # of a range of log 4
    assert errors["auto"][0] < 0.95 * errors["image"][0], errors  # one level smooths the left
    assert errors["auto"][1] < 1.05 * errors["image"][1], errors


@pytest.mark.slow
def test_grouping_windows_does_not_change_a_mapped_result(varying, tmp_path):
    path = tmp_path / "part.tif"
    tifffile.imwrite(path, tifffile.imread(varying[0])[:64, 200:800])
    for name, grouping in (("a", ("--batch", 1)), ("b", ("--batch", 3))):
        done = run(
            "restore", path, "-o", tmp_path / f"{name}.tif", "--level", "map", *FP32, *grouping
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_weights_of_the_ladder_add_up_to_one():
    rng = np.random.default_rng(2)
    maps = [rng.uniform(-1, 1, (8, 9)).astype(np.float32) for _ in range(3)]
    total = sum(np.stack(weights) for _, weights in level_map.ladder(maps))
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_the_map_is_one_function_of_the_place():
    shared = {"rows": [100.0, 300.0], "cols": [50.0, 150.0], "log_levels": [[0, 1], [2, 3]]}
    whole = level_map.at(shared, 0, 0, (400, 200))
    part = level_map.at(shared, 120, 40, (100, 90))
    assert np.array_equal(part, whole[120:220, 40:130])
    assert whole[0, 0] == 0
    assert whole[399, 199] == 3
