"""Two channels restored jointly by weights that say so: the path of stimulated Raman histology."""

import json

import numpy as np
import pytest
import tifffile

from restorectl.weights.file import read
from tests.command import run
from tests.phantom import channels

pytestmark = pytest.mark.slow


def images(count, seed, noise=0.0, shape=(96, 96)):
    """Two-channel uint16 phantoms (2, Y, X) with noise of this standard deviation."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        clean = channels(("nuclei", "filaments"), shape, seed + k)
        clean = 8000 + 30000 * clean / clean.max()
        yield np.clip(np.rint(clean + rng.normal(0, noise, clean.shape)), 0, 65535).astype("uint16")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("srh")
    (folder / "clean").mkdir()
    for k, image in enumerate(images(12, 0)):
        path = folder / "clean" / f"{k}.tif"
        tifffile.imwrite(path, image, imagej=True, metadata={"axes": "CYX"})
    settings = (
        "network.config={c_in: 2, c_out: 2, channels: [16, 24], blocks: 1, embedding: 32}",
        "optimiser.steps=400",
        "optimiser.batch=16",
        "optimiser.micro_batch=16",
        "optimiser.ema=0.98",
        "optimiser.warmup=20",
        "optimiser.lr=1e-2",
        "data.crop=[32]",
        "validation.every=0",
    )
    out = folder / "srh.safetensors"
    changes = [word for each in settings for word in ("-s", each)]
    done = run("train", "srh", "--data", folder / "clean", "-o", out, "-q", *changes)
    assert done.returncode == 0, done.stderr
    return out


def test_the_card_says_range_and_channels(weights):
    card, _ = read(weights)
    assert (card.channels, card.value_range, card.recipe) == (2, "uint16-centred", "identity")
    assert card.schedule == "rscd"


@pytest.mark.parametrize("axes", ["CYX", "ZCYX"])
def test_both_channels_get_closer_to_the_truth(weights, tmp_path, axes):
    (clean,) = images(1, 100, 0.0)
    (noisy,) = images(1, 100, 2000.0)
    if axes == "ZCYX":
        clean, noisy = np.stack([clean] * 3), np.stack([noisy] * 3)
    source, out = tmp_path / "in.tif", tmp_path / "out.tif"
    tifffile.imwrite(source, noisy, imagej=True, metadata={"axes": axes})
    done = run("restore", source, "-o", out, "-w", weights)
    assert done.returncode == 0, done.stderr
    restored = tifffile.imread(out)
    assert restored.shape == noisy.shape
    assert restored.dtype == np.uint16
    before = np.std(noisy - clean.astype(float), axis=(-1, -2))
    after = np.std(restored - clean.astype(float), axis=(-1, -2))
    assert (after < 0.75 * before).all()


def test_the_step_calibrated_loop_runs_jointly(weights, tmp_path):
    (noisy,) = images(1, 100, 2000.0)
    source, out = tmp_path / "in.tif", tmp_path / "out.tif"
    tifffile.imwrite(source, noisy, imagej=True, metadata={"axes": "CYX"})
    command = ("restore", source, "-o", out, "-w", weights, "--sampler", "rscd", "--json")
    done = run(*command, "--recalibrate", 0)
    assert done.returncode == 0, done.stderr
    decided = json.loads(done.stdout)["details"]["method"]["0+1"]
    assert decided["rounds"] == [[pytest.approx(31, abs=3)] * 2]  # sigma 2000 / 32768: step 31
    assert not np.array_equal(tifffile.imread(out)[0], noisy[0])


def test_a_constant_channel_is_copied_and_the_other_restored(weights, tmp_path):
    (clean,), (noisy,) = images(1, 100), images(1, 100, 2000.0)
    noisy[1] = 9000
    blank = np.full_like(noisy, 77)
    for name, pixels in (("in.tif", noisy), ("blank.tif", blank)):
        tifffile.imwrite(tmp_path / name, pixels, imagej=True, metadata={"axes": "CYX"})
    sources = tmp_path / "in.tif", tmp_path / "blank.tif"
    done = run("restore", *sources, "-o", tmp_path / "out", "-w", weights, check=0)
    assert "channel 1: constant: nothing to restore, copied as it is" in done.stderr
    out = tifffile.imread(tmp_path / "out/in.tif")
    assert np.array_equal(out[1], noisy[1])
    before, after = (np.std(each[0] - clean[0].astype(float)) for each in (noisy, out))
    assert after < before
    assert np.array_equal(tifffile.imread(tmp_path / "out/blank.tif"), blank)


def test_an_image_without_the_channels_says_so(weights, tmp_path):
    (image,) = images(1, 5)
    tifffile.imwrite(tmp_path / "one.tif", image[0])
    done = run("restore", tmp_path / "one.tif", "-o", tmp_path / "out", "-w", weights)
    assert done.returncode == 3
    assert "for 2 channels together" in done.stderr
