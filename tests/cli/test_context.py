"""`--context`: planes that show the same gain from one another, others stay as they are."""

import json

import numpy as np
import pytest
import tifffile

from tests.command import run
from tests.phantom import scene

pytestmark = pytest.mark.slow

SIZE = (128, 128)
PLANES = 5
FP32 = ("--precision", "fp32")


def noisy(clean, seed=0):
    """A camera's image of up to 25 photons, (..., Y, X) uint16."""
    random = np.random.default_rng(seed)
    light = 2.0 * random.poisson(np.clip(clean, 0, None) * 25)
    return np.rint(light + 100 + random.normal(0, 1.6, light.shape)).astype(np.uint16)


def truth(clean):
    return 2.0 * 25 * np.clip(clean, 0, None) + 100


def write(path, stack, axes="TYX"):
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": axes})
    return path


def restored(path, out, *options):
    """The image and the manifest's details."""
    done = run("restore", path, "-o", out, "--json", *options, check=0)
    return tifffile.imread(out), json.loads(done.stdout)["details"]


def error(image, clean):
    return float(np.mean((image.astype(float) - truth(clean)) ** 2))


@pytest.fixture(scope="module")
def static():
    return np.repeat(scene("mixed", SIZE, 3)[None], PLANES, 0)


def test_a_static_series_gains(static, tmp_path):
    path = write(tmp_path / "in.tif", noisy(static), "ZYX")
    alone, told = restored(path, tmp_path / "none.tif", "--context", "none")
    assert "context" not in told
    together, told = restored(path, tmp_path / "auto.tif")
    found = told["context"]["0"]
    assert (found["axes"], found["reach"]) == ("z", 2)
    assert found["mean_weight"] > 2
    assert found["predicted_gain"] > 1
    assert error(together, static) < 0.7 * error(alone, static)


def test_planes_that_have_nothing_in_common_stay_as_they_are(tmp_path):
    clean = np.stack([scene("mixed", SIZE, seed) for seed in range(PLANES)])
    path = write(tmp_path / "in.tif", noisy(clean))
    alone, _ = restored(path, tmp_path / "none.tif", "--context", "none")
    auto, told = restored(path, tmp_path / "auto.tif")
    assert told["context"]["0"]["axes"] == "none"
    assert np.array_equal(alone, auto)


def test_a_flash_keeps_its_brightness_and_leaves_no_ghost(static, tmp_path):
    flash = static.copy()
    places = np.add(np.mgrid[20:128:40, 20:128:40].reshape(2, -1).T, 3)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for row, col in places:
        flash[2] += 2.0 * np.exp(-((y - row) ** 2 + (x - col) ** 2) / 8)
    path = write(tmp_path / "in.tif", noisy(flash))
    alone, _ = restored(path, tmp_path / "none.tif", "--context", "none")
    together, told = restored(path, tmp_path / "auto.tif")
    assert told["context"]["0"]["axes"] == "t"

    def height(image, k):
        return np.array([image[k, r - 1 : r + 2, c - 1 : c + 2].mean() for r, c in places])

    added = height(truth(flash), 2) - height(truth(static), 2)
    kept, usual = (
        (height(each, 2) - height(truth(static), 2)) / added for each in (together, alone)
    )
    assert kept.mean() > 0.95 * usual.mean()
    for k in (1, 3):
        ghosts = (height(together, k) - height(truth(static), k)) / added
        assert abs(ghosts.mean()) < 0.03


def test_a_drift_is_followed(tmp_path):
    whole = scene("mixed", (180, 180), 5)
    clean = np.stack([whole[4 * k : 4 * k + 128, 7 * k : 7 * k + 128] for k in range(PLANES)])
    path = write(tmp_path / "in.tif", noisy(clean))
    alone, _ = restored(path, tmp_path / "none.tif", "--context", "none")
    together, told = restored(path, tmp_path / "auto.tif")
    assert told["context"]["0"]["axes"] == "t"
    assert error(together, clean) < 0.85 * error(alone, clean)


def test_results_do_not_depend_on_how_many_planes_are_held(static, tmp_path, monkeypatch):
    from restorectl.batch.outcome import Silent
    from restorectl.jobs import Compute, Files, RestoreJob
    from restorectl.restoration import neighbours, planes
    from restorectl.restoration.restore import restore

    path = write(tmp_path / "in.tif", noisy(np.concatenate([static, static[:1]])[:, :96, :64]))
    for name, together, held in (("all", 4 << 20, 64 << 20), ("one", 1, 1)):
        monkeypatch.setattr(planes, "PLANE_PIXELS", together)
        monkeypatch.setattr(neighbours, "HELD", held)
        files = Files((str(path),), str(tmp_path / f"{name}.tif"))
        job = RestoreJob(files, Compute(precision="fp32"), context="t", reach=1)
        restore(job, Silent())
    assert (tmp_path / "all.tif").read_bytes() == (tmp_path / "one.tif").read_bytes()


def test_what_cannot_use_neighbours_says_so(static, tmp_path):
    path = write(tmp_path / "in.tif", noisy(static[:2]))
    for command, *options in (("restore", "--sampler", "rscd"), ("denoise", "--method", "mixing")):
        done = run(command, path, "-o", tmp_path / "o.tif", "--context", "t", *options)
        assert done.returncode == 2
        assert "--context t" in done.stderr
    run("denoise", path, "-o", tmp_path / "o.tif", "--method", "mixing", "--steps", 2, check=0)
