"""Planes whose noise differs are restored as each would be alone; planes that agree, together."""

import json
from contextlib import ExitStack

import numpy as np
import pytest
import tifffile

from restorectl.engine.runner import make_runner
from restorectl.images.header import Header
from restorectl.images.image import open_image
from restorectl.jobs import Compute, NoiseOptions, WeightsOptions
from restorectl.restoration import channels, plane_noise
from restorectl.weights.file import load
from tests.command import run
from tests.phantom import scene
from tests.restoration.test_evidence import filaments

SIDE = 128
CLEAN = 100 + 800 * scene("mixed", (SIDE, SIDE), 3)
RISING = np.linspace(3, 45, 8)
BLIND = NoiseOptions()


def noisy(sigmas, seed=0):
    """(Z, Y, X) uint16: the phantom with Gaussian noise of these standard deviations."""
    normal = np.random.default_rng(seed).normal(size=(len(sigmas), SIDE, SIDE))
    return np.rint(CLEAN + np.reshape(sigmas, (-1, 1, 1)) * normal).clip(0).astype(np.uint16)


@pytest.fixture
def opened(tmp_path):
    """A function that writes planes to a file and opens it."""

    with ExitStack() as stack:

        def write(planes, axes="ZYX"):
            path = tmp_path / f"{len(list(tmp_path.iterdir()))}.tif"
            tifffile.imwrite(path, planes, imagej=True, metadata={"axes": axes})
            return stack.enter_context(open_image(path))

        yield write


def parts(image):
    """The z (or t) of each group's planes."""
    found = channels.fit_alike(image, (0,), BLIND)
    return [None if p is None else sorted(t + z for t, z in p) for p, _ in found]


@pytest.mark.parametrize("sigma", [4, 20])
@pytest.mark.parametrize("axes", ["ZYX", "TYX"])
def test_planes_that_agree_keep_the_model_of_all(opened, sigma, axes):
    image = opened(noisy([sigma] * 20), axes)
    pooled = channels.fit(image, 0, BLIND)
    assert channels.fit_alike(image, (0,), BLIND) == [(None, (pooled,))]


def test_each_plane_of_rising_noise_has_the_model_of_the_plane_alone(opened):
    planes = noisy(RISING)
    found = channels.fit_alike(opened(planes), (0,), BLIND)
    assert [sorted(part) for part, _ in found] == [[(0, z)] for z in range(len(RISING))]
    for (_, (model,)), plane in zip(found, planes, strict=True):
        assert model == channels.fit(opened(plane, "YX"), 0, BLIND)


def test_a_gain_that_compensates_for_depth_is_noticed(opened):
    light = np.exp(-np.linspace(0, 1.6, 8))[:, None, None]
    rng = np.random.default_rng(1)
    signal = 2 * rng.poisson(light * scene("filaments", (SIDE, SIDE), 1) * 400)
    planes = (signal + 1.6 * rng.normal(size=signal.shape)) / light + 100
    found = parts(opened(np.rint(planes).clip(0).astype(np.uint16)))
    assert len(found) >= 7
    assert all(part[-1] - part[0] <= 1 for part in found)


def test_a_jump_is_kept_and_a_single_odd_plane_found(opened):
    for part in (jump := parts(opened(noisy([10] * 4 + [16] * 4), "TYX"))):
        assert set(part) <= set(range(4)) or set(part) <= set(range(4, 8))
    assert len(jump) > 1
    assert parts(opened(noisy([10] * 4 + [20] + [10] * 5))) == [[0, 1, 2, 3, 5, 6, 7, 8, 9], [4]]


def test_blank_planes_go_with_their_neighbours(opened):
    planes = noisy([10] * 6)
    planes[[0, 3]] = 100
    assert parts(opened(planes)) == [None]
    planes = noisy([10] * 3 + [30] * 3)
    planes[[0, 4]] = 100
    for part in (found := parts(opened(planes))):
        assert set(part) <= {0, 1, 2} or set(part) <= {3, 4, 5}
    assert len(found) > 1


def test_a_known_camera_is_not_questioned(opened):
    image = opened(noisy(RISING))
    known = NoiseOptions(gain=2.0, offset=100.0, read_noise=3.0)
    ((planes, _),) = channels.fit_alike(image, (0,), known)
    assert planes is None


def test_correlated_noise_differs_only_if_both_estimators_say_so():
    levels = np.tile([0.0, -1.0], (6, 1))
    levels[2] = [0.1, -2.0]  # they disagree
    levels[3] = [-0.2, -1.8]
    assert plane_noise._deviation(levels).round(3).tolist() == [0, 0, 0, -0.2, 0, 0]


def test_texture_does_not_hide_that_planes_differ(opened):
    """Dense filaments look like noise of 30 grey levels in both planes; the prior sees 3 and 12."""
    normal = np.random.default_rng(0).normal(size=(2, 256, 256))
    planes = 300 + 900 * filaments(3) + np.reshape([3, 12], (-1, 1, 1)) * normal
    image = opened(np.rint(planes).clip(0).astype(np.uint16))
    assert len(channels.fit_alike(image, (0,), BLIND)) == 1
    weights = load("prior", "prior", WeightsOptions())
    prior = make_runner(weights.card, weights.tensors, Compute())
    found = channels.fit_alike(image, (0,), BLIND, prior)
    assert [sorted(part) for part, _ in found] == [[(0, 0)], [(0, 1)]]
    deviations = [model.noise_std(np.float32(500)) for _, (model,) in found]
    assert deviations[0] < 8 < deviations[1] < 20


def test_planes_are_named_by_their_axes():
    def words(shape, planes):
        return channels.planes_text(Header("TZYX", (*shape, 8, 8), np.dtype("u1")), planes)

    assert words((1, 9), frozenset({(0, 0), (0, 1), (0, 2), (0, 7)})) == "z 0-2, 7"
    assert words((9, 1), frozenset({(3, 0), (4, 0)})) == "t 3-4"
    assert words((3, 4), frozenset({(0, 1), (1, 1), (2, 0)})) == "t 0-1 z 1; t 2 z 0"


def psnr(image, clean):
    return 10 * np.log10(np.ptp(clean) ** 2 / np.mean((image - clean) ** 2))


@pytest.fixture(scope="module")
def restored(tmp_path_factory):
    """(folder, outcome of the stack): the stack and each plane alone, restored."""
    folder = tmp_path_factory.mktemp("rising")
    (folder / "in").mkdir()
    planes = noisy(RISING)
    tifffile.imwrite(folder / "in/stack.tif", planes, imagej=True, metadata={"axes": "ZYX"})
    for z, plane in enumerate(planes):
        tifffile.imwrite(folder / f"in/{z}.tif", plane)
    done = run("restore", folder / "in", "-o", folder / "out", "--json", check=0)
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    return folder, next(each for each in outcomes if each["source"].endswith("stack.tif"))


@pytest.mark.slow
def test_every_plane_is_restored_as_well_as_alone(restored):
    folder, _ = restored
    for z, plane in enumerate(tifffile.imread(folder / "out/stack.tif")):
        alone = psnr(tifffile.imread(folder / f"out/{z}.tif"), CLEAN)
        assert psnr(plane, CLEAN) == pytest.approx(alone, abs=0.5), z


@pytest.mark.slow
def test_the_manifest_and_one_warning_tell_of_it(restored):
    _, outcome = restored
    models = outcome["details"]["noise"]["0"]["groups"]
    assert [model["planes"] for model in models] == [f"z {z}" for z in range(8)]
    assert all(set(model) == {"planes", "noise", "low", "high", "sigma"} for model in models)
    levels = outcome["details"]["method"]["0"]["groups"]
    assert [level["planes"] for level in levels] == [f"z {z}" for z in range(8)]
    told = [text for text in outcome["warnings"] if "noise differs between planes" in text]
    assert len(told) == 1
    assert told[0].endswith("each is restored with its own")


@pytest.mark.slow
def test_batches_and_shards_do_not_change_a_pixel(restored, tmp_path):
    folder, _ = restored
    words = ("restore", folder / "in", "--pattern", "stack.tif", "--precision", "fp32")
    shards = [("b", ("--batch", 5, "--shard", f"{part}/2")) for part in (1, 2)]
    for name, more in (("a", ("--batch", 1)), *shards):
        run(*words, "-o", tmp_path / name, *more, check=0)
    assert (tmp_path / "a/stack.tif").read_bytes() == (tmp_path / "b/stack.tif").read_bytes()


@pytest.mark.slow
def test_calibrate_and_a_step_map_use_the_model_of_each_plane(restored, tmp_path):
    folder, _ = restored
    source, table = folder / "in/stack.tif", tmp_path / "windows.csv"
    done = run("calibrate", source, "--csv", table, check=0)
    assert "noise differs between planes" in done.stderr
    assert len(done.stdout.splitlines()) > 2  # the heading, and a line for each group of planes
    lines = [line.split(",") for line in table.read_text().splitlines()]
    named = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    assert [int(row["z"]) for row in named] == list(range(8))
    relative = [float(row["relative"]) for row in named]
    assert 1 <= relative[0] < 2  # where noise is weak, a window's estimate takes texture for it
    assert relative[1:] == pytest.approx([1] * 7, abs=0.35)
    noise = [float(row["std"]) for row in named]
    assert np.corrcoef(noise, RISING)[0, 1] > 0.97
    out = tmp_path / "out.tif"
    run("restore", source, "-o", out, "--step-map", tmp_path / "maps", check=0)
    steps = tifffile.imread(tmp_path / "maps/out_steps.tif")
    assert (np.diff(steps.mean((1, 2))) > 0).sum() >= 5


@pytest.mark.slow
def test_error_bars_follow_each_plane(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noisy([10, 40]), imagej=True, metadata={"axes": "ZYX"})
    words = ("uncertainty", tmp_path / "a.tif", "-o", tmp_path / "out")
    done = run(*words, "--samples", 3, "--steps", 3, "--json", check=0)
    details = json.loads(done.stdout)["details"]
    assert list(details["uncertainty"]) == ["0"]
    spread = tifffile.imread(tmp_path / "out/a_std.tif").mean((1, 2))
    assert spread[1] > 1.5 * spread[0]
