"""`calibrate --camera`, `--camera` in the commands that whiten, `--compare`, `--plot-noise`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from restorectl.images.image import open_image, read_provenance
from restorectl.images.masked import masked
from restorectl.jobs import NoiseOptions
from restorectl.restoration import camera as cameras
from tests import sensor
from tests.cli.test_calibrate import refused
from tests.command import run
from tests.phantom import scene

pytestmark = pytest.mark.slow

SHAPE = (128, 128)
NOISY = Path(__file__).parent.parent / "data/noisy"
TAKEN = sensor.scmos(SHAPE)
LIGHT = 10 * scene("nuclei", SHAPE, 1) / scene("nuclei", SHAPE, 1).mean()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A measured camera, an image that it took, and true maps."""
    folder, rng = tmp_path_factory.mktemp("camera"), np.random.default_rng(1)
    for kind, count, light in (("dark", 50, 0.0), ("flat", 20, 500.0)):
        (folder / kind).mkdir()
        frames = np.stack([TAKEN.exposed(light, rng) for _ in range(count)])
        tifffile.imwrite(folder / kind / "frames.tif", frames, metadata={"axes": "TYX"})
    tifffile.imwrite(folder / "image.tif", TAKEN.exposed(LIGHT, rng))
    tifffile.imwrite(folder / "part.tif", tifffile.imread(folder / "image.tif")[32:, 16:112])
    for kind in ("offset", "gain", "variance"):
        tifffile.imwrite(folder / f"{kind}.tif", getattr(TAKEN, kind).astype(np.float32))
    tifffile.imwrite(folder / "small.tif", np.ones((8, 8), np.float32))
    words = ("--camera", folder / "dark", "--flat", folder / "flat", "-o", folder / "camera.yaml")
    done = run("calibrate", *words, check=0)
    found = dict(line.split()[:2] for line in done.stdout.splitlines())
    assert float(found["gain"]) == pytest.approx(2, rel=0.02)
    assert float(found["offset"]) == pytest.approx(100, abs=0.5)
    assert (found["dark_frames"], found["flat_frames"]) == ("50", "20")
    return folder


def pattern_left(result):
    pattern = TAKEN.pattern(LIGHT)
    error = result.astype(float) - (100 + 2 * LIGHT)
    return float((pattern * error).sum() / (pattern**2).sum())


def test_the_fixed_pattern_is_gone_with_the_file_and_with_maps(place, tmp_path):
    maps = [f"--{kind}-map={place}/{kind}.tif" for kind in ("offset", "gain", "variance")]
    ways = {"file": ("--camera", place / "camera.yaml"), "maps": maps, "blind": ()}
    errors = {}
    for name, words in ways.items():
        run("restore", place / "image.tif", "-o", tmp_path / f"{name}.tif", *words, check=0)
        result = tifffile.imread(tmp_path / f"{name}.tif")
        errors[name] = float(np.mean((result - (100 + 2 * LIGHT)) ** 2))
        if name != "blind":
            assert abs(pattern_left(result)) < 0.05
    assert pattern_left(tifffile.imread(place / "image.tif")) == pytest.approx(1, abs=0.05)
    assert max(errors["file"], errors["maps"]) < errors["blind"]


def test_outputs_follow_the_camera_and_name_no_path(place, tmp_path):
    for path in place.glob("camera.*"):
        shutil.copy(path, tmp_path)
    words = ("restore", place / "image.tif", "-o", tmp_path / "out")
    run(*words, "--camera", place / "camera.yaml", check=0)
    assert "1 skipped" in run(*words, "--camera", tmp_path / "camera.yaml", check=0).stderr
    told = yaml.safe_load((tmp_path / "camera.yaml").read_text())
    (tmp_path / "camera.yaml").write_text(yaml.safe_dump(told | {"gain": 2.2}))
    assert "1 done" in run(*words, "--camera", tmp_path / "camera.yaml", check=0).stderr
    made = json.dumps(read_provenance(tmp_path / "out/image.tif"))
    assert "camera.yaml" not in made
    assert "gain_map" not in made


def test_pixels_do_not_depend_on_the_region_that_is_read(place):
    camera = cameras.load(NoiseOptions(camera=str(place / "camera.yaml")))
    with open_image(place / "image.tif") as image, open_image(place / "part.tif") as part:
        whole = masked(image, (0,), "auto", hot=True, camera=cameras.region(camera, image, (0, 0)))
        plane = whole.read((0, 0, 0))
        assert np.array_equal(whole.read((0, 0, 0), slice(9, 70), slice(3, 50)), plane[9:70, 3:50])
        found = masked(part, (0,), "none", hot=False, camera=cameras.region(camera, part, (32, 16)))
        inside = found.read((0, 0, 0))[4:-4, 4:-4]
        difference = np.abs(inside - plane[36:-4, 20:108])
        assert np.median(difference) < 1e-3  # the part knows the pixels' own maps


def test_every_command_that_whitens_takes_the_camera(place, tmp_path):
    words = (place / "image.tif", "--camera", place / "camera.yaml")
    run("denoise", *words, "-o", tmp_path / "a.tif", "--steps", 1, check=0)
    quick = ("--samples", 2, "--steps", 1)
    run("uncertainty", *words, "-o", tmp_path / "maps", *quick, check=0)
    assert abs(pattern_left(tifffile.imread(tmp_path / "a.tif"))) < 0.05
    assert abs(pattern_left(tifffile.imread(tmp_path / "maps/image_mean.tif"))) < 0.05
    done = run("calibrate", *words, "--excess-noise", 2, "--json", check=0)
    (channel,) = json.loads(done.stdout)["details"]["channels"]
    assert channel["gain"] == pytest.approx(2, rel=0.02)
    assert channel["photons"] == pytest.approx(np.median(LIGHT), abs=2)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("{restore} --camera {p}/dark", 2, "is a folder"),
        ("{restore} --camera {p}/gone.yaml", 2, "gone"),
        ("{restore} --camera {p}/camera.yaml --gain 2", 2, "--gain"),
        ("{restore} --gain-map {p}/gain.tif", 2, "--offset-map"),
        ("{restore} --offset-map {p}/offset.tif --offset 1", 2, "same"),
        ("{restore} --variance-map {p}/dark/frames.tif", 2, "planes"),
        ("{restore} --offset-map {p}/offset.tif --variance-map {p}/small.tif", 2, "same size"),
        ("{restore} --excess-noise 0", 2, "--excess-noise"),
        ("{restore} --camera-corner 5", 2, "a row and a column"),
        ("calibrate --camera {p}/dark", 2, "-o camera.yaml"),
        ("calibrate --camera {p}/dark -o {t}/c.txt", 2, ".yaml"),
        ("calibrate --camera {p}/flat -o {t}/no/c.yaml", 3, "does not exist"),
        ("calibrate {p}/image.tif --flat {p}/flat", 2, "--camera DARK_DIR"),
        ("calibrate --compare {p}/camera.yaml", 2, "two"),
        ("calibrate {p}/image.tif --plot-noise {p}/image.tif", 2, "folder"),
    ],
)
def test_what_cannot_be_meant_is_one_line(place, tmp_path, words, code, said):
    restore = f"restore {place}/image.tif -o {tmp_path}/o"
    found, text = refused(words.format(p=place, t=tmp_path, restore=restore).split())
    assert found == code
    assert said in text
    assert not list(tmp_path.iterdir())


def test_maps_of_another_size_are_refused_file_by_file(place, tmp_path):
    words = ("--camera", place / "camera.yaml", "-o", tmp_path / "out")
    done = run("restore", place / "part.tif", place / "image.tif", *words)
    assert done.returncode == 3
    assert "has 96 x 96 pixels, the camera's maps 128 x 128" in done.stderr
    assert "--camera-corner" in done.stderr
    assert (tmp_path / "out/image.tif").exists()
    run("restore", place / "part.tif", *words, "--camera-corner", "32,16", check=0)


def test_maps_that_are_not_the_file_s_own_are_refused(place, tmp_path):
    shutil.copy(place / "camera.yaml", tmp_path)
    shutil.copy(place / "offset.tif", tmp_path / "camera.tif")
    done = run(
        "restore", place / "image.tif", "-o", tmp_path / "o", "--camera", tmp_path / "camera.yaml"
    )
    assert done.returncode == 2
    assert "is not its own" in done.stderr


def test_a_file_that_is_no_camera_is_not_replaced(place, tmp_path):
    (tmp_path / "mine.yaml").write_text("notes: keep\n")
    done = run("calibrate", "--camera", place / "dark", "-o", tmp_path / "mine.yaml")
    assert done.returncode == 2
    assert (tmp_path / "mine.yaml").read_text() == "notes: keep\n"


def test_a_changed_detector_ends_with_code_6(place, tmp_path):
    rng = np.random.default_rng(2)
    (tmp_path / "dark").mkdir()
    warmer = TAKEN._replace(offset=TAKEN.offset + 8)
    frames = np.stack([warmer.exposed(0.0, rng) for _ in range(30)])
    tifffile.imwrite(tmp_path / "dark/frames.tif", frames, metadata={"axes": "TYX"})
    run("calibrate", "--camera", tmp_path / "dark", "-o", tmp_path / "new.yaml", check=0)
    pair = (place / "camera.yaml", tmp_path / "new.yaml")
    done = run("calibrate", "--compare", *pair)
    assert done.returncode == 6
    assert "offset" in done.stderr
    assert "read_noise" not in done.stderr
    assert run("calibrate", "--compare", *pair, "--tolerance", 0.5).returncode == 0
    told = json.loads(run("calibrate", "--compare", *pair, "--json").stdout)
    assert told["changed"] == ["offset"]
    run("calibrate", "--compare", NOISY / "nuclei.tif", NOISY / "nuclei.tif", check=0)


def test_the_noise_of_each_channel_is_drawn(tmp_path):
    done = run("calibrate", NOISY / "cells.ome.tif", "--plot-noise", tmp_path / "noise", check=0)
    assert len(done.stdout.splitlines()) == 3
    names = [f"cells.ome.tif_c{channel}_noise.png" for channel in (0, 1)]
    assert sorted(path.name for path in (tmp_path / "noise").iterdir()) == names
    with Image.open(tmp_path / "noise" / names[0]) as picture:
        assert picture.size == (2400, 1500)
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (np.abs(colours - np.array((0xB2, 0x18, 0x2B))).max(1) < 8).mean() > 5e-4  # the fit


def test_the_table_tells_light_camera_and_belief():
    done = run("calibrate", NOISY / "widefield.tif", NOISY / "nuclei.tif", check=0)
    head, *lines = done.stdout.splitlines()
    names = head.split()
    wide, nuclei = (
        dict(zip(names, line.split(maxsplit=len(names) - 1), strict=True)) for line in lines
    )
    assert float(wide["level"]) > 2 > float(nuclei["level"])
    assert float(wide["corr_y"]) > 0.3 > float(nuclei["corr_y"])
    assert float(wide["belief"]) < float(nuclei["belief"]) == 1
    assert float(nuclei["photons"]) == pytest.approx(7, rel=0.3)
    assert nuclei["planes"] == "all"
    assert nuclei["invalid"] == "0"


def test_the_axes_of_dark_frames_can_be_told(place, tmp_path):
    frames = tifffile.imread(place / "dark/frames.tif")
    (tmp_path / "dark").mkdir()
    tifffile.imwrite(tmp_path / "dark/frames.tif", frames, metadata=None)
    words = ("--camera", tmp_path / "dark", "--axes", "TYX", "-o", tmp_path / "camera.yaml")
    assert "50" in run("calibrate", *words, check=0).stdout
