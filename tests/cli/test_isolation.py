"""A file that meets a bug, or is damaged beyond what was foreseen, ends only its own turn."""

import json
import logging

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from restorectl.cli.app import app
from restorectl.images.tiff.read import TiffImage
from restorectl.training.dataset import scan
from tests.chaos.folders import fill, image

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Folders `in` and `true`, where opening 01.tif of `in` is a bug."""
    for name in ("in", "true"):
        fill(tmp_path / name, 3)
    opened = TiffImage._open

    def fail(self, *words):
        if self.path.parent.name == "in" and self.path.name == "01.tif":
            raise RecursionError("too deep")
        opened(self, *words)

    monkeypatch.setattr(TiffImage, "_open", fail)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    logging.getLogger("restorectl").handlers.clear()


DRAWN = ("--samples", "2", "--steps", "1")
LINES = {  # and the number of files that are made
    "restore": (["restore", "in", "-o", "out"], 2),
    "denoise": (["denoise", "in", "-o", "out"], 2),
    "uncertainty": (["uncertainty", "in", "-o", "out", *DRAWN], 14),
    "error bars": (
        [
            "uncertainty",
            "in",
            "-o",
            "out.yaml",
            "--calibrate",
            "true",
            "--samples",
            "2",
            "--steps",
            "1",
        ],
        0,
    ),
    "calibrate": (["calibrate", "in", "--csv", "out.csv"], 0),
    "evaluate": (["evaluate", "in", "--target", "true"], 0),
    "set": (["evaluate", "in", "--reference", "true"], 0),
}


@pytest.mark.parametrize("name", LINES)
def test_the_others_are_done(place, name):
    words, made = LINES[name]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 3, done.output
    (line,) = (line for line in done.stderr.splitlines() if "01.tif" in line)
    assert "01.tif: met a bug, please report it (RecursionError: too deep)" in line
    assert "Traceback" not in done.output
    assert len(list(place.glob("out/[!.]*"))) == made
    if name in ("error bars", "calibrate"):
        assert "00.tif" in done.stdout
        assert "02.tif" in done.stdout
    again = CliRunner().invoke(app, [*words, "--debug"])
    assert again.exit_code == 3
    assert again.stderr.count("Traceback (most recent call last)") == 1
    assert "RecursionError: too deep" in again.stderr


def test_the_traceback_is_in_the_manifest_and_in_json(place, monkeypatch):
    words = ["restore", "in", "-o", "out", "--log-format", "json", "--manifest", "run.json"]
    monkeypatch.setattr("sys.argv", ["restorectl", *words])
    for more in ([], ["--debug"]):
        done = CliRunner().invoke(app, [*words, *more])
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        (failed,) = (line for line in lines if line.get("status") == "failed")
        (told,) = (
            f
            for f in json.loads((place / "run.json").read_text())["files"]
            if f["status"] == "failed"
        )
        for found in (failed, told):
            assert found["traceback"].startswith("Traceback")
            assert found["traceback"].endswith("RecursionError: too deep\n")
        shown = [line for line in lines if line["event"] == "traceback"]
        assert len(shown) == len(more)


def test_training_leaves_it_out(place):
    found = scan(place / "in", 1)
    assert [image.name for image in found.images] == ["00.tif", "02.tif"]
    (warning,) = found.warnings
    assert "01.tif: met a bug" in warning


def test_superres3d(place):
    for k in range(3):
        stack = np.stack([image(k), image(k + 1), image(k + 2)])
        tifffile.imwrite(place / f"in/0{k}.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    done = CliRunner().invoke(app, ["superres3d", "in", "-o", "out", "--factor", "2",
                                    "--method", "linear"])  # fmt: skip
    assert done.exit_code == 3, done.output
    assert "01.tif: met a bug" in done.stderr
    assert len(list(place.glob("out/[!.]*"))) == 2
