"""`--orientations 8` as a process: the mean over eight orientations, on tiles of any shape."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from restorectl.images.image import read_provenance
from tests.command import run
from tests.phantom import scene

pytestmark = pytest.mark.slow

DATA = Path(__file__).parent.parent / "data"
EIGHT = ("--orientations", 8)
CAMERA = ("--gain", 2, "--offset", 100, "--read-noise", 3)


@pytest.fixture(scope="module")
def oblong(tmp_path_factory):
    """(path, clean): two tiles, neither square nor a multiple of the network's stride."""
    clean = 200 + 800 * scene("mixed", (70, 790), 3)
    noisy = clean + np.random.default_rng(0).normal(0, 60, clean.shape)
    path = tmp_path_factory.mktemp("oblong") / "image.tif"
    tifffile.imwrite(path, noisy.astype(np.float32))
    return path, clean


def test_the_mean_is_better_costs_eight_times_the_calls_and_is_recorded(oblong, tmp_path):
    path, clean = oblong
    command = ("restore", path, "-o", tmp_path / "out.tif", "--noise", "gaussian", "--json")
    errors = {}
    for words in ((), EIGHT):
        planned = json.loads(run(*command, *words, "-n", check=0).stdout)
        assert planned["status"] == "planned", "an output of other orientations is made again"
        done = json.loads(run(*command, *words, check=0).stdout)
        errors[words] = np.std(tifffile.imread(tmp_path / "out.tif") - clean)
        made = read_provenance(tmp_path / "out.tif")["parameters"]
        assert made.get("orientations", 1) == (8 if words else 1)
        assert done["calls"] == planned["details"]["calls"] == (16 if words else 2)
    assert errors[EIGHT] < 0.995 * errors[()], errors


@pytest.mark.parametrize(
    "words",
    [
        ("restore", "--steps", 2),
        ("denoise", "--samples", 2, "--steps", 1),
    ],
    ids=lambda words: words[1].lstrip("-"),
)
def test_results_do_not_depend_on_batches_and_threads(oblong, tmp_path, words):
    path, _ = oblong
    made = []
    for batch, threads in ((1, 1), (3, 2)):
        out = tmp_path / f"{batch}.tif"
        command = (*words, path, "-o", out, *EIGHT, "--precision", "fp32")
        run(*command, "--batch", batch, "--threads", threads, check=0)
        made.append(tifffile.imread(out))
    assert np.array_equal(*made)


def test_a_turned_image_gives_the_turned_result(tmp_path):
    image = tifffile.imread(DATA / "noisy/nuclei.tif")[:96, :128]
    errors = {}
    for orientations in (1, 8):
        results = []
        for name, pixels in (("plain", image), ("turned", np.rot90(image))):
            tifffile.imwrite(tmp_path / f"{name}.tif", np.ascontiguousarray(pixels))
            out = tmp_path / f"{name}_{orientations}.tif"
            words = (*CAMERA, "--precision", "fp32", "--orientations", orientations)
            run("restore", tmp_path / f"{name}.tif", "-o", out, *words, check=0)
            results.append(tifffile.imread(out).astype(float))
        errors[orientations] = np.abs(results[1] - np.rot90(results[0]))
    assert errors[8].max() <= 1, "more than rounding"
    assert errors[1].max() > 10 * errors[8].max()


@pytest.mark.parametrize(
    "words", [("restore", "--orientations", 3), ("uncertainty", *EIGHT), ("superres3d", *EIGHT)]
)
def test_what_cannot_be_is_refused(words, tmp_path):
    done = run(*words, DATA / "noisy/nuclei.tif", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "--orientations" in done.stderr
