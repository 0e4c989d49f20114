"""What people read first: short and full help, examples, completion."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from restorectl.catalog import METRICS, methods
from restorectl.cli.commands import COMMANDS
from restorectl.weights.registry import models
from tests.chaos.folders import fill, image
from tests.cli.test_words import commands
from tests.command import run

WIDTH = 80
NAMES = sorted(commands())
STEP = [
    *("-s", "optimiser.steps=1", "-s", "optimiser.batch=2", "-s", "optimiser.micro_batch=2"),
    *("-s", "validation.every=0", "-s", "validation.keep=last", "-s", "data.crop=[32]"),
]
QUICK = {  # options that only cut what an example takes
    "train": STEP,
    "calibrate --fit": STEP,
    "uncertainty": ["--samples", "2", "--steps", "1"],
    "denoise": ["--steps", "1"],
}
PUBLISHED = "weights import"  # its examples need files of others


def shown(*words, width=WIDTH):
    return run(*words, env={"COLUMNS": str(width)}, check=0).stdout


def examples(name):
    listed = shown(*name.split(), "-h").partition("Examples:\n")[2].partition("\n\n")[0]
    return [line.strip() for line in listed.splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_help_fits_the_screen_and_breaks_no_word(name):
    short, full = (shown(*name.split(), flag) for flag in ("-h", "--help"))
    lines = [line for line in (short + full).splitlines() if not line.startswith("  restorectl ")]
    assert max(map(len, lines)) <= WIDTH
    assert not re.search(r"…|<bool>|\x1b|[╭│]", short + full)
    told = set(" ".join(full.split()).split())
    for parameter in commands()[name].params:
        for word in (parameter.help or "").split():
            assert {word, word.rstrip(".")} & told, f"{name}: '{word}' is broken or missing"
    for option in re.findall(r"^  (-.*?)(?:  |$)", short, re.M):
        assert option in full


@pytest.mark.parametrize("name", NAMES)
def test_short_help_has_the_options_people_use_and_two_examples(name):
    short = shown(*name.split(), "-h")
    assert len(re.findall(r"^  -", short, re.M)) <= 12
    assert len(examples(name)) == 2
    assert all(each.startswith(f"restorectl {name}") for each in examples(name))
    assert len(short) < len(shown(*name.split(), "--help"))


def test_choices_are_lists():
    full = shown("evaluate", "--help")
    assert all(re.search(rf"^ +{name}  +\S", full, re.M) for name in METRICS)
    full = shown("restore", "--help")
    assert all(re.search(rf"^ +{name}  +\S", full, re.M) for name in methods("restore"))
    assert "hf://org/name[@revision]/file.safetensors" in full
    assert "--precision auto|bf16|fp32" in full


def test_help_of_a_command_and_the_version():
    assert shown("help", "weights", "pull") == shown("weights", "pull", "--help")
    assert shown("help") == shown("--help") == shown("-h")
    assert shown("-V") == shown("--version")
    for name, line in COMMANDS.items():
        assert re.search(rf"^  {name} +{line.split()[0]}", shown("--help"), re.M)
    assert run().returncode == 2


def test_help_loads_no_large_library():
    code = (
        "import sys, atexit\n"
        "heavy = {'torch', 'numpy', 'rich', 'pydantic', 'yaml'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        "sys.argv = ['restorectl', *sys.argv[1:]]\n"
        "from restorectl.cli.app import main\n"
        "main()\n"
    )
    for words in (["--help"], ["restore", "--help"], ["evaluate", "-h"], ["weights", "-h"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "[]\n"), words


@pytest.fixture
def place(tmp_path):
    """What the examples name, as small as it can be."""
    folder = tmp_path
    for name in ("data", "clean", "other"):
        fill(folder / name, 2)
        shutil.copy(folder / name / "00.tif", folder / name / "cells.tif")
    (folder / "stacks").mkdir()
    stack = np.stack([image(k) for k in range(5)])
    spaced = {"axes": "ZYX", "spacing": 1.0, "unit": "um"}
    tifffile.imwrite(
        folder / "stacks/stack.tif", stack, imagej=True, metadata=spaced, resolution=(4, 4)
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != PUBLISHED])
def test_examples_work(place, name):
    if name == "evaluate":
        shutil.copytree(place / "other", place / "restored")
    for example in examples(name):
        words = shlex.split(example)[1:]
        words += QUICK.get(f"{words[0]} --fit" if "--fit" in words else words[0], [])
        done = run(*words, cwd=place)
        assert done.returncode == 0, f"{example}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        for option in ("-o", "--csv", "--report", "--hub"):
            if option in words:
                assert (place / words[words.index(option) + 1]).exists(), example


def test_examples_of_published_checkpoints_name_what_is_missing(tmp_path):
    for example in examples(PUBLISHED):
        words = shlex.split(example)[1:]
        done = run(*words, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (5, f"restorectl: {words[2]}: no such file\n")


def completed(*words):
    """What bash offers for the last word."""
    line = " ".join(["restorectl", *words])
    env = {
        "_RESTORECTL_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words)),
    }
    return run(env=env).stdout.split()


def test_shells_complete_names():
    assert completed("restore", "--sampler", "d") == ["ddim", "dpmpp"]
    assert set(completed("restore", "-w", "")) >= set(models())
    assert completed("train", "fine") == ["finetune"]
    assert completed("evaluate", "--metrics", "psnr,frec") == ["psnr,frechet-prior"]
    assert completed("weights", "path", "pri") == ["prior"]
    assert completed("restore", "--calib")[0] == "--calibrator"
    assert "superres3d" in completed("sup")
    assert completed("docs", "form") == ["formats"]


def test_paths_as_json(tmp_path):
    told = json.loads(run("weights", "path", "prior", "--json", check=0).stdout)
    assert Path(told["path"]).is_file()
