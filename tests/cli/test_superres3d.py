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


def test_e2e_unet_learns_channels_together_from_stacks(tmp_path):
    stack = np.stack([phantom((5, 64, 64), k, 1.0, "nuclei") * 1000 for k in (1, 2)], 1)
    options = {"imagej": True, "metadata": {"axes": "ZCYX"}}
    (tmp_path / "stacks").mkdir()
    tifffile.imwrite(tmp_path / "stacks/s.tif", stack.astype(np.uint16), **options)
    net = "{c_in: 4, c_out: 2, channels: [8], blocks: 1, embedding: 8}"
    changes = ("data.channels=2", "optimiser.steps=2", "optimiser.batch=4", "validation.every=0")
    changes += ("optimiser.micro_batch=4", f"network.config={net}")
    words = [word for each in changes for word in ("-s", each)]
    model = ("e2e-unet", "--data", "stacks", "-o", "e2e.safetensors")
    run("train", *model, *words, cwd=tmp_path, check=0)
    made = ("stacks/s.tif", "-o", "made.tif", "-w", "e2e.safetensors", "--factor", 2.5)
    run("superres3d", *made, cwd=tmp_path, check=0)
    result = tifffile.imread(tmp_path / "made.tif")
    assert result.shape == (11, 2, 64, 64)
    assert np.array_equal(result[::5], stack.astype(np.uint16)[::2])


def test_rows_of_an_image_are_made(truth, tmp_path):
    tifffile.imwrite(tmp_path / "rows.tif", truth[10, ::2][:32])
    run("superres3d", "rows.tif", "-o", "o.tif", "--rows", "--factor", 2, cwd=tmp_path, check=0)
    result = tifffile.imread(tmp_path / "o.tif")
    assert result.shape == (63, 64)
    assert np.array_equal(result[::2], truth[10, ::2][:32])
    plain = interpolation.interpolated(truth[10, ::2][:32], 2, interpolation.linear)
    assert psnr(result[1::2], truth[10, 1:63:2]) > psnr(plain[1::2], truth[10, 1:63:2]) - 0.3
    for words in (("--sweeps", "yz"), ("--smooth",), ("--preview",)):
        done = run("superres3d", "rows.tif", "-o", "p.tif", "--rows", *words, cwd=tmp_path)
        assert (done.returncode, "--rows" in done.stderr) == (2, True)
