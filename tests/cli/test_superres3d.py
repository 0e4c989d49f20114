"""`restorectl superres3d` as a process, with the embedded weights."""

import json

import numpy as np
import pytest
import tifffile

from restorectl.cli import superres3d
from restorectl.errors import UsageError
from restorectl.volumes import interpolation
from tests.cli.test_restore import pixels, psnr
from tests.command import run
from tests.phantom import camera
from tests.phantom import volume as phantom

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def truth():
    """Cells 49x64x64 on one scale in all directions, with some noise: (Z, Y, X) uint16."""
    clean = phantom((49, 64, 64), 3, 1.0, "nuclei")
    return camera(clean, 400, 10, 100, 1, 0)[0]


@pytest.fixture(scope="module")
def done(truth, tmp_path_factory):
    folder = tmp_path_factory.mktemp("superres")
    tifffile.imwrite(folder / "cells.tif", truth[::4], imagej=True, resolution=(5, 5),
                     metadata={"axes": "ZYX", "spacing": 0.8, "unit": "um"})  # fmt: skip
    found = run("superres3d", folder / "cells.tif", "-o", folder / "out", "--json", "--preview")
    assert found.returncode == 0, found.stderr
    return folder, json.loads(found.stdout)


def test_hidden_planes_are_as_near_to_the_truth_as_by_the_best_interpolation(done, truth):
    folder, line = done
    made, hidden = pixels(folder / "out/cells.tif"), np.arange(49) % 4 != 0
    assert made.shape == truth.shape
    assert np.array_equal(made[::4], truth[::4])
    plain = max(
        psnr(interpolation.interpolated(truth[::4], 4, kind)[hidden], truth[hidden])
        for kind in (interpolation.nearest, interpolation.linear, interpolation.cubic)
    )
    assert psnr(made[hidden], truth[hidden]) > plain - 0.3
    assert line["details"]["factor"] == 4
    assert line["status"] == "done"


def test_a_second_run_is_skipped(done):
    folder, _ = done
    again = run("superres3d", folder / "cells.tif", "-o", folder / "out", "--preview")
    assert again.returncode == 0
    assert "up to date" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--factor", "9"), "--factor 9: must be from 1 to 8"),
        (("-w", "prior"), "are for prior: slices weights are needed here"),
    ],
)
def test_wrong_options_are_one_line(done, arguments, text):
    folder, _ = done
    found = run("superres3d", folder / "cells.tif", "-o", folder / "x", *arguments)
    assert found.returncode in (2, 5)
    assert text in found.stderr
    assert "Traceback" not in found.stderr
    assert not (folder / "x").exists()


@pytest.mark.parametrize("text", ["1,2", "1,2,x", "", "1,2,3,4"])
def test_spacing_is_three_numbers(text):
    with pytest.raises(UsageError, match="--spacing"):
        superres3d.spacing_numbers("--spacing", text)
    assert superres3d.spacing_numbers("--spacing", "1,0.25,0.5") == (1.0, 0.25, 0.5)


def test_weights_that_were_just_trained_are_taken(done, tmp_path):
    folder, _ = done
    (tmp_path / "data").mkdir()
    image = np.random.default_rng(0).integers(0, 999, (96, 96)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "data/a.tif", image)
    few = ("optimiser.steps=1", "optimiser.batch=2", "optimiser.micro_batch=2",
           "validation.every=0", "data.crop=32", "validation.crop=32",
           "network.config.channels=[8]", "network.config.blocks=1")  # fmt: skip
    options = [word for setting in few for word in ("-s", setting)]
    weights = tmp_path / "w.safetensors"
    trained = run("train", "slices", "--data", tmp_path / "data", "-o", weights, *options)
    assert trained.returncode == 0, trained.stderr
    found = run("superres3d", folder / "cells.tif", "-o", tmp_path / "out", "-w", weights,
                "--anchor", "cubic", "--steps", 2)  # fmt: skip
    assert found.returncode == 0, found.stderr
