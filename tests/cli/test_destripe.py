"""Stripes are removed before the noise is, told, and kept on request: the real command."""

import json

import numpy as np
import pytest
import tifffile

from tests.command import run
from tests.phantom import scene

pytestmark = pytest.mark.slow

SHAPE = (200, 280)


@pytest.fixture(scope="module")
def striped(tmp_path_factory):
    """(path, clean, offsets): photons of gain 2 with column offsets."""
    rng = np.random.default_rng(0)
    light = 8 + 50 * scene("nuclei", SHAPE, 3)
    offsets = rng.normal(0, 4, SHAPE[1])
    noisy = 100 + 2 * rng.poisson(light / 2) + rng.normal(0, 1.6, SHAPE) + offsets
    path = tmp_path_factory.mktemp("striped") / "image.tif"
    tifffile.imwrite(path, np.round(noisy).astype(np.uint16))
    return path, 100 + light, offsets


def test_restore_removes_column_offsets_and_says_so(striped, tmp_path):
    path, clean, offsets = striped
    errors = {}
    for choice in ("auto", "off"):
        out = tmp_path / f"{choice}.tif"
        done = run("restore", path, "-o", out, "--destripe", choice, "--json", check=0)
        told = json.loads(done.stdout)
        found = told["details"]["noise"]["0"].get("stripes")
        warned = [text for text in told["warnings"] if "columns share an offset" in text]
        assert bool(found) == bool(warned) == (choice == "auto")
        if found:
            assert found["0"]["columns"] == pytest.approx(offsets.std(), rel=0.15)
            assert found["0"]["rows"] == 0
            assert "--destripe off" in warned[0]
        result = tifffile.imread(out)
        assert result.dtype == np.uint16
        errors[choice] = np.sqrt(np.mean((result - clean) ** 2))
    assert errors["auto"] < 0.6 * errors["off"]


def test_batches_and_other_planes_do_not_change_the_result(striped, tmp_path):
    """Each plane of a stack has its own offsets: it is restored alike in any grouping."""
    path, *_ = striped
    plane = tifffile.imread(path)
    stack = tmp_path / "stack.tif"
    rolled = np.stack([plane[:128, :144], plane[-128:, -144:]])
    tifffile.imwrite(stack, rolled, photometric="minisblack", metadata={"axes": "ZYX"})
    for name, batch in (("a", 1), ("b", 7)):
        run("restore", stack, "-o", tmp_path / f"{name}.tif", "--precision", "fp32",
            "--batch", batch, check=0)  # fmt: skip
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_uncertainty_and_calibrate_see_the_destriped_image(striped, tmp_path):
    path, _, offsets = striped
    words = ("--samples", 2, "--steps", 2, "--json")
    done = run("uncertainty", path, "-o", tmp_path, *words, check=0)
    assert "columns share an offset" in done.stdout
    mean = tifffile.imread(tmp_path / "image_mean.tif").astype(float)
    left = np.median(np.diff(mean, axis=1), axis=0)
    assert left.std() < 0.25 * np.diff(offsets).std()
    levels = {}
    for choice in ("auto", "off"):
        done = run("calibrate", path, "--destripe", choice, "--json", check=0)
        told = json.loads(done.stdout)
        assert ("columns share" in done.stdout) == (choice == "auto")
        levels[choice] = told["details"]["channels"][0]["std"]
    assert levels["auto"] < levels["off"]
