"""`denoise` with the methods that diffusion models are compared with, as a process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from restorectl.images.image import read_provenance
from tests import phantom
from tests.command import run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one noisy image, and its clean image."""
    base = tmp_path_factory.mktemp("methods")
    noisy, clean = phantom.camera(phantom.scene("mixed", (96, 96), 3), 40, 20, 100, 1.0, 3)
    (base / "in").mkdir()
    iio.imwrite(base / "in/cells.tif", noisy)
    return base, noisy, clean


def error(image, clean):
    return float(np.mean((image.astype(float) - clean) ** 2))


@pytest.mark.parametrize("name", ["median", "gaussian", "nl-means", "tv"])
def test_classical_methods_denoise_and_record_their_strength(folder, name):
    base, noisy, clean = folder
    words = ("denoise", base / "in", "-o", base / name, "--method", name)
    done = run(*words, "--json", check=0)
    (line,) = map(json.loads, done.stdout.splitlines())
    assert line["details"]["method"]["0"]["filter"] > 0
    assert line["calls"] == 0
    restored = iio.imread(base / name / "cells.tif")
    assert restored.dtype == noisy.dtype
    assert error(restored, clean) < 0.5 * error(noisy, clean)
    assert read_provenance(base / name / "cells.tif")["parameters"]["method"] == name
    assert "every output is up to date" in run(*words, check=0).stderr


def test_classical_methods_refuse_what_has_no_effect(folder):
    base, *_ = folder
    for words in (["--steps", 2], ["--samples", 2]):
        done = run("denoise", base / "in", "-o", base / "no", "--method", "tv", *words, check=2)
        assert f"{words[0]} 2 has no effect with --method tv" in done.stderr


QUICK = ("--train-steps", 8)


@pytest.mark.parametrize("name", ["n2v", "dip"])
def test_a_network_is_trained_on_each_image_kept_and_used_again(folder, name, tmp_path):
    base, *_ = folder
    words = ("denoise", base / "in", "--method", name, *QUICK, "--cache", tmp_path / "cache")
    outputs = []
    for out in ("a", "b"):
        target = tmp_path / out
        run(*words, "-o", target, "--manifest", tmp_path / "m.json", check=0)
        (line,) = json.loads((tmp_path / "m.json").read_text())["files"]
        assert line["details"]["training"]["steps"] == 8
        outputs.append((target / "cells.tif").read_bytes())
        (kept,) = (tmp_path / "cache").iterdir()
        outputs.append(kept.stat().st_mtime_ns)
    assert outputs[:2] == outputs[2:]
    record = read_provenance(tmp_path / "a/cells.tif")
    assert record["training"] == line["details"]["training"]
    assert record["parameters"]["training"]["fit_on"] == "image"
    assert "up to date" in run(*words, "-o", tmp_path / "a", check=0).stderr


def test_one_network_for_a_folder_does_not_depend_on_shards(folder, tmp_path):
    _, noisy, _ = folder
    (tmp_path / "in").mkdir()
    for k in range(2):
        iio.imwrite(tmp_path / f"in/{k}.tif", np.roll(noisy, 7 * k))
    words = ("denoise", tmp_path / "in", "--method", "n2v", *QUICK, "--fit-on", "folder")
    run(*words, "-o", tmp_path / "all", check=0)
    for k in (1, 2):
        run(*words, "-o", tmp_path / "parts", "--shard", f"{k}/2", check=0)
    for k in range(2):
        name = f"{k}.tif"
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    networks = {
        read_provenance(p)["training"]["sha256"]
        for p in (tmp_path / "all").iterdir()
        if p.suffix == ".tif"
    }
    assert len(networks) == 1


def test_noise2noise_takes_second_exposures_or_neighbouring_frames(folder, tmp_path):
    base, noisy, _ = folder
    words = ("denoise", base / "in", "-o", tmp_path / "out", "--method", "noise2noise", *QUICK)
    done = run(*words, check=3)
    assert "needs a second exposure or another frame" in done.stderr
    (tmp_path / "second").mkdir()
    iio.imwrite(tmp_path / "second/cells.tif", np.roll(noisy, 1))
    run(*words, "--guide", tmp_path / "second", check=0)
    assert set(read_provenance(tmp_path / "out/cells.tif")["input"]) == {"image", "guide"}
    tifffile.imwrite(
        tmp_path / "movie.tif", np.stack([noisy] * 3), metadata={"axes": "TYX"}, imagej=True
    )
    run(
        "denoise",
        tmp_path / "movie.tif",
        "-o",
        tmp_path / "m.tif",
        "--method",
        "noise2noise",
        *QUICK,
        check=0,
    )
    assert iio.imread(tmp_path / "m.tif").shape == (3, 96, 96)


def test_another_method_makes_the_guide_in_the_same_command(folder, tmp_path):
    base, *_ = folder
    words = ("denoise", base / "in", "--method", "mixing", "--steps", 2)
    run(*words, "-o", tmp_path / "one", "--guide", "gaussian", check=0)
    run(
        "denoise",
        base / "in",
        "-o",
        tmp_path / "g",
        "--method",
        "gaussian",
        "--dtype",
        "float32",
        check=0,
    )
    run(*words, "-o", tmp_path / "two", "--guide", tmp_path / "g", check=0)
    one, two = (iio.imread(tmp_path / name / "cells.tif") for name in ("one", "two"))
    assert np.array_equal(one, two)
    done = run(*words, "-o", tmp_path / "n", "--guide", "n2v", *QUICK, "--json", check=0)
    assert json.loads(done.stdout)["details"]["guide"]["training"]["steps"] == 8


def test_what_has_no_effect_is_refused(folder, tmp_path):
    base, *_ = folder
    for words, told in (
        (["--method", "care"], "needs --weights"),
        (["--method", "tv", "--train-steps", 9], "has no effect with --method tv"),
        (["--method", "dip", "--fit-on", "folder"], "has no effect with --method dip"),
        (["--method", "dip", "--mask", "rows"], "--mask has no effect with --method dip"),
        (["--method", "n2v", "--guide", "no"], "has no effect with --method n2v"),
        (["--method", "mixing", "--guide", "no"], "is not a folder, nor one of posterior"),
    ):
        done = run("denoise", base / "in", "-o", tmp_path / "out", *words, check=2)
        assert told in done.stderr


def test_the_script_of_the_documentation_makes_a_table_and_a_report(folder, tmp_path):
    _, noisy, clean = folder
    text = (ROOT / "restorectl/docs/methods.md").read_text("utf-8")
    (script,) = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    for name, image in (("noisy_images", noisy), ("clean_images", clean.astype(np.float32))):
        (tmp_path / name).mkdir()
        iio.imwrite(tmp_path / name / "cells.tif", image)
    tool = tmp_path / "restorectl"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m restorectl "$@"\n')
    tool.chmod(0o755)
    short = script.replace("posterior n2v median gaussian nl-means tv", "n2v median")
    assert short != script
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "STEPS": "8"}
    command = ["bash", "-c", short]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"n2v", "median"} <= set(done.stdout.split())
    assert (tmp_path / "compared/report.html").exists()
