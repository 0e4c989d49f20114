"""CONTRIBUTING.md is followed on throw-away rows; architecture.md names what is there."""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from restorectl import catalog
from restorectl.batch.outcome import Silent
from restorectl.cli import app as command_line
from restorectl.cli import commands
from restorectl.jobs import Compute, EvaluateJob, Files, RestoreJob
from tests.phantom import scene

ROOT = Path(__file__).parent.parent
TABLES = ("METHODS", "METRICS", "FORMATS")


@pytest.fixture
def followed(monkeypatch):
    """Follow the recipe of that title: its module exists, and its row or command is registered."""

    def follow(title):
        text = (ROOT / ".github/CONTRIBUTING.md").read_text("utf-8")
        section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        module, row = re.findall(r"```python\n# (restorectl/\S+)\.py\n(.*?)```", section, re.S)
        made = ModuleType(module[0].replace("/", "."))
        monkeypatch.setitem(sys.modules, made.__name__, made)
        exec(module[1], vars(made))
        scope = dict(vars(importlib.import_module(row[0].replace("/", "."))))
        exec(row[1], scope | {made.__name__.rpartition(".")[2]: made})
        return made

    before = {name: dict(getattr(catalog, name)) for name in TABLES}
    names = dict(commands.COMMANDS)
    yield follow
    for name, rows in before.items():
        getattr(catalog, name).clear()
        getattr(catalog, name).update(rows)
    commands.COMMANDS.clear()
    commands.COMMANDS.update(names)


@pytest.mark.slow
def test_a_sampler(followed, tmp_path):
    from restorectl.restoration.restore import restore

    followed("A sampler")
    clean = 200 + 800 * scene("nuclei", (96, 96), 0)
    noisy = clean + np.random.default_rng(0).normal(0, 40, clean.shape)
    tifffile.imwrite(tmp_path / "a.tif", noisy.astype(np.float32))
    errors = {}
    for sampler in ("halfway", "ddim"):
        files = Files((str(tmp_path / "a.tif"),), str(tmp_path / f"{sampler}.tif"))
        (outcome,) = restore(RestoreJob(files, Compute("cpu", "fp32"), sampler=sampler), Silent())
        assert outcome.status == "done", outcome.message
        errors[sampler] = np.std(tifffile.imread(files.output) - clean)
    assert errors["ddim"] < errors["halfway"] < 0.8 * np.std(noisy - clean)


def test_a_metric(followed, tmp_path):
    from restorectl.evaluation.evaluate import prepare, run

    followed("A metric")
    for name, offset in (("target", 0), ("prediction", 3)):
        (tmp_path / name).mkdir()
        pixels = np.arange(400, dtype=np.uint16).reshape(20, 20) + offset
        tifffile.imwrite(tmp_path / name / "a.tif", pixels.astype(np.uint16))
    job = EvaluateJob((str(tmp_path / "prediction"),), str(tmp_path / "target"), metrics=("bias",))
    found = run(prepare(job), Silent())
    assert found.scores[0].values["bias"] == 3


def test_a_format(followed, tmp_path):
    from restorectl.images.image import is_image_name, open_image

    followed("A file format")
    stack = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    np.save(tmp_path / "a.npy", stack)
    assert is_image_name("a.npy")
    with open_image(tmp_path / "a.npy") as image:
        assert image.header.axes == "ZYX"
        np.testing.assert_array_equal(image.read((0, 0, 2), slice(1, 3)), stack[2, 1:3])


def test_a_command(followed, tmp_path):
    followed("A command")
    stack = np.zeros((4, 8, 9), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    done = CliRunner().invoke(command_line.app, ["planes", str(tmp_path / "a.tif")])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path / 'a.tif'}\t4\n"


def test_the_architecture_names_what_is_there():
    text = (ROOT / "restorectl/docs/architecture.md").read_text("utf-8")
    for folder in re.findall(r"^\| `(\w+)/`", text, re.M):
        assert (ROOT / "restorectl" / folder).is_dir(), folder
    places = re.findall(r"`([\w/]+)\.py: ([\w.]+)`", text)
    assert len(places) > 15
    for module, name in places:
        thing = importlib.import_module("restorectl." + module.replace("/", "."))
        for part in name.split("."):
            thing = getattr(thing, part)
        assert callable(thing), f"{module}: {name}"
