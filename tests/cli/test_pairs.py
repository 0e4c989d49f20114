"""Training on pairs and averaging samples, with the real commands: several noisy versions of a
clean image, validation by images and folders, results on the scale of the targets."""

import csv
import json

import numpy as np
import pytest
import tifffile

from restorectl.errors import UsageError
from restorectl.training.dataset import split
from restorectl.training.pairs import PairReader, scan_pairs
from restorectl.weights.file import read
from tests import phantom
from tests.command import run

GAIN, OFFSET = 16.0, 300.0  # of the targets, which are 16 bit, over the inputs, which are 8 bit
NET = (
    "network={name: unet, config: {c_in: %d, c_out: 1, channels: [8, 8], blocks: 1, embedding: 8}}"
)
CHANGES = (
    "data.crop=32",
    "optimiser.steps=2",
    "optimiser.batch=4",
    "optimiser.micro_batch=4",
    "optimiser.warmup=1",
    "init=''",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """clean/dish1/0.tif and so on, 16 bit; two 8-bit versions in noisy/dish1/0/."""
    base = tmp_path_factory.mktemp("several")
    for k in range(4):
        name = f"dish{k // 2}/{k}"
        scene = phantom.scene("mixed", (64, 64), k)
        for version in range(2):
            noisy, truth = phantom.camera(scene, 60, 2.0, 10, 1.0, 10 * k + version)
            path = base / "noisy" / name / f"{version}.tif"
            path.parent.mkdir(parents=True) if version == 0 else None
            tifffile.imwrite(path, noisy.clip(0, 255).astype(np.uint8))
        path = base / "clean" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, (truth * GAIN + OFFSET).astype(np.uint16))
    return base / "clean", base / "noisy"


def train(recipe, folders, output, *changes, inputs=1):
    words = [word for each in (*CHANGES, NET % inputs, *changes) for word in ("-s", each)]
    given = ("--data", folders[0], "--input", folders[1], "-o", output, "--device", "cpu")
    return run("train", recipe, *given, *words, "--json", check=0)


def test_versions_of_one_image_are_held_out_together(folders):
    found = scan_pairs(*folders, 1)
    assert found.warnings == ()
    assert len(found.pairs) == 8
    reader = PairReader(found.pairs, 1 << 20)
    for by, held in (("rows", 2), ("images", 2), ("fields", 4)):  # rows: there are too few
        training, validation = split(reader, 1, 0.25, 32, by)
        assert (len(training), len(validation)) == (8 - held, held)
        shown = [{reader.scenes[r.image] for r in each} for each in (training, validation)]
        assert not shown[0] & shown[1]
    one = PairReader(found.pairs[:2], 1)
    with pytest.raises(UsageError, match="there is only one"):
        split(one, 1, 0.5, 32, "images")


def test_the_scale_of_the_targets_is_learnt(folders, tmp_path):
    """An untrained network hardly changes brightness, so all of it comes from the scale."""
    model = tmp_path / "m.safetensors"
    validation = "validation={fraction: 0.5, by: fields, crop: 32, crops: 4, every: 2}"
    told = train("care", folders, model, "data.scale=target", validation)
    assert any("validation" in json.loads(line) for line in told.stdout.splitlines())
    card, _ = read(model)
    assert card.output.dtype == "uint16"
    assert card.output.gain == pytest.approx([GAIN], rel=0.05)
    assert card.output.offset == pytest.approx([OFFSET], abs=0.05 * GAIN * 100)
    words = ("denoise", folders[1], "-o", tmp_path / "out", "--method", "care", "-w", model)
    run(*words, check=0)
    for path in folders[0].rglob("*.tif"):
        truth = tifffile.imread(path)
        version = tmp_path / "out" / path.parent.name / path.stem / "1.tif"
        made = tifffile.imread(version)
        assert made.dtype == truth.dtype
        assert made.mean() == pytest.approx(truth.mean(), rel=0.5)
    two = tmp_path / "two.tif"
    tifffile.imwrite(two, np.zeros((2, 64, 64), np.uint8), imagej=True, metadata={"axes": "CYX"})
    words = ("denoise", two, "-o", tmp_path / "2.tif", "--method", "care", "-w", model)
    done = run(*words, "--channels", "1")
    assert (done.returncode, "leave out --channels" in done.stderr) == (3, True)


def test_sampled_restorations_can_choose_the_weights(folders, tmp_path):
    validation = "validation={fraction: 0.5, by: images, crop: 32, crops: 4, every: 1, keep: best"
    chosen = {}
    for steps in (0, 3):
        model = tmp_path / f"{steps}.safetensors"
        train("conditional-pairs", folders, model, f"{validation}, sampled: {steps}}}", inputs=2)
        chosen[steps] = read(model)[0].training["best"]["error"]
    assert chosen[0] != chosen[3]


@pytest.mark.slow
def test_every_sample_can_be_kept(tmp_path):
    clean = phantom.scene("nuclei", (64, 64), 1)
    noisy, truth = phantom.camera(clean, 30, 20, 100, 1.0, 1)
    for name, image in (("noisy", noisy), ("clean", truth)):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "a.tif", image)
    words = ("denoise", "noisy", "-o", "mean", "--method", "conditional", "--steps", 2)
    words += ("--samples", 2, "--keep-samples", "each", "--dtype", "float32")
    run(*words, cwd=tmp_path, check=0)
    mean = tifffile.imread(tmp_path / "mean/a.tif")
    each = [tifffile.imread(tmp_path / f"each/{k}/a.tif") for k in (1, 2)]
    assert np.mean(each, 0) == pytest.approx(mean, rel=1e-3)
    assert not np.array_equal(*each)
    told = run("evaluate", "each", "--average", "--target", "clean", cwd=tmp_path, check=0)
    assert "mean of 2" in told.stdout
    done = run(*words, "--keep-samples", "noisy/each", cwd=tmp_path)
    assert (done.returncode, "--keep-samples noisy/each: lies inside" in done.stderr) == (2, True)


def test_scores_of_patches_are_written(tmp_path):
    for folder, kinds in (("good", ("nuclei",)), ("data", ("nuclei", "puncta"))):
        (tmp_path / folder).mkdir()
        for kind in kinds:
            image = phantom.scene(kind, (64, 64), 1) * 1000
            tifffile.imwrite(tmp_path / folder / f"{kind}.tif", image.astype(np.uint16))
    changes = (*CHANGES, NET % 1, "data.phantoms=0", "validation.fraction=0", "validation.every=0")
    changes += ("select={patch: 32, steps: 4, batch: 4, threshold: 0.0}", "data.binning=1")
    words = [word for each in changes for word in ("-s", each)]
    given = ("--data", "data", "--select-hq", "good", "-o", "w.safetensors", *words)
    run("train", "prior", *given, cwd=tmp_path, check=0)
    with (tmp_path / "w.scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {row["image"] for row in rows} == {"nuclei.tif", "puncta.tif"}
    assert all(row["kept"] == "yes" and 0 <= float(row["score"]) <= 1 for row in rows)
