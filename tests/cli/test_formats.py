"""Every command sees in an OME-Zarr what it sees in a TIFF, to the bit; a killed run is resumed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file

from restorectl.images.image import open_image, write_image
from tests.command import run

pytestmark = pytest.mark.slow
pytest.importorskip("zarr")


def pixels(path: Path) -> np.ndarray:
    with open_image(path) as image:
        return np.stack([image.read(plane) for plane in sorted(image.header.planes)])


def as_zarr(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    with open_image(source) as image:
        planes = map(image.read, image.header.planes)
        write_image(target, image.header.for_target(target), planes, provenance={})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiff/a.tif and zarr/a.zarr, a stack of four planes, and the same without noise."""
    place = tmp_path_factory.mktemp("formats")
    y, x = np.mgrid[:96, :80]
    rng = np.random.default_rng(0)
    light = [60 + 50 * np.sin(x / 7 + z / 2) * np.cos(y / 9) for z in range(4)]
    metadata = {"axes": "ZYX", "spacing": 0.6, "unit": "um"}
    for name, stack in (("clean", np.array(light)), ("tiff", rng.poisson(light))):
        (place / name).mkdir()
        resolution = (1 / 0.2, 1 / 0.2)
        tifffile.imwrite(place / name / "a.tif", stack.astype(np.uint16), imagej=True,
                         metadata=metadata, resolution=resolution)  # fmt: skip
    as_zarr(place / "tiff/a.tif", place / "zarr/a.zarr")
    as_zarr(place / "clean/a.tif", place / "clean-zarr/a.zarr")
    return place


@pytest.mark.parametrize(
    "words",
    [("restore",), ("denoise", "--samples", "2", "--steps", "2"), ("superres3d", "--factor", "2")],
    ids=lambda words: words[0],
)
def test_commands_that_write_images(place: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    run(*words, place / "tiff", "-o", tmp_path / "tiff", check=0)
    run(*words, place / "zarr", "-o", tmp_path / "zarr", check=0)
    wanted, found = tmp_path / "tiff/a.tif", tmp_path / "zarr/a.zarr"
    np.testing.assert_array_equal(pixels(found), pixels(wanted))
    with open_image(found) as image, open_image(wanted) as other:
        assert image.header.spacing == pytest.approx(other.header.spacing)


def test_uncertainty(place: Path, tmp_path: Path) -> None:
    for kind in ("tiff", "zarr"):
        how = ("--samples", "2", "--steps", "2")
        run("uncertainty", place / kind, "-o", tmp_path / kind, *how, check=0)
    for name in ("mean", "std", "lower", "upper"):
        one, two = (tmp_path / kind / f"a_{name}.tif" for kind in ("tiff", "zarr"))
        np.testing.assert_array_equal(pixels(one), pixels(two))


def test_calibrate_and_evaluate(place: Path, tmp_path: Path) -> None:
    told = [run("calibrate", place / kind, "--json", check=0) for kind in ("tiff", "zarr")]
    one, two = (json.loads(each.stdout.splitlines()[0])["details"] for each in told)
    assert one["noise"] == two["noise"]
    scores = []
    for kind, clean in (("tiff", "clean"), ("zarr", "clean-zarr"), ("tiff/a.tif", "clean-zarr")):
        target = place / clean / ("a.zarr" if "/" in kind else "")
        done = run("evaluate", place / kind, "--target", target, "--metrics", "psnr,ssim", "--json")
        assert done.returncode == 0, done.stderr
        told = json.dumps(json.loads(done.stdout))
        scores.append(re.findall(r'"(?:psnr|ssim)": (-?[\d.]+)', told))
    assert scores[0]
    assert scores[0] == scores[1] == scores[2]


def test_train(place: Path, tmp_path: Path) -> None:
    made = []
    for kind in ("clean", "clean-zarr"):
        out = tmp_path / f"{kind}.safetensors"
        small = ("optimiser.steps=1", "optimiser.batch=2", "optimiser.micro_batch=2")
        small += ("validation.fraction=0", "network.config.channels=[8, 8]")
        words = [word for each in small for word in ("-s", each)]
        run("train", "prior", *words, "--data", place / kind, "-o", out, check=0)
        made.append(load_file(out))
    assert made[0].keys() == made[1].keys()
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


def test_a_killed_run_is_resumed(place: Path, tmp_path: Path) -> None:
    """A real SIGKILL after the first plane; the next run computes only the other."""
    source = tmp_path / "a.tif"
    light = 60 + 30 * np.sin(np.arange(1100) / 9)  # planes of this size are restored one by one
    stack = np.random.default_rng(0).poisson(light, (2, 2000, 1100)).astype(np.uint16)
    tifffile.imwrite(source, stack, imagej=True, metadata={"axes": "ZYX"})
    words = [source, "-o", tmp_path / "b.ome.zarr", "--method", "tv", "--context", "none", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "restorectl", "denoise", *map(str, words)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 240
    last = "0/c/0/3/2"  # chunk of the first plane
    while not (kept := list(tmp_path.glob(f".b.ome.zarr.*/{last}"))):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "b.ome.zarr").exists()
    written = kept[0].stat()
    resumed = json.loads(run("denoise", *words, check=0).stdout)
    words[2] = tmp_path / "c.ome.zarr"
    whole = json.loads(run("denoise", *words, check=0).stdout)
    now = (tmp_path / "b.ome.zarr" / last).stat()
    assert (now.st_ino, now.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert list(resumed["outputs"].values()) == list(whole["outputs"].values())
    assert sorted(os.listdir(tmp_path)) == ["a.tif", "b.ome.zarr", "c.ome.zarr"]


def test_info(place: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.tif").write_bytes(b"II*\0")
    done = run("info", place / "tiff", place / "zarr", tmp_path / "bad.tif", check=3)
    assert "ome-zarr" in done.stdout
    assert "z 0.6 y 0.2 x 0.2" in done.stdout
    assert "ome-zarr: results lose nothing in OME-Zarr" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "bad.tif" in done.stderr
    lines = run("info", place / "zarr/a.zarr", "--json", check=0).stdout.splitlines()
    told = json.loads(lines[0])
    assert told["axes"] == "ZYX"
    assert told["shape"] == [4, 96, 80]
    assert told["spacing_um"] == {"z": 0.6, "y": 0.2, "x": 0.2}
