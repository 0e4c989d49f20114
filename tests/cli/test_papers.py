"""The commands of the papers as processes: presets, ablations, and options that exclude others."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tifffile

from restorectl.catalog import METHODS
from restorectl.files.provenance import dumps
from tests.command import run

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture
def small(tmp_path):
    """A noisy image of 64x64 px."""
    path = tmp_path / "small.tif"
    tifffile.imwrite(path, tifffile.imread(DATA / "noisy/nuclei.tif")[96:160, 96:160])
    return path


def details(*words):
    """What a command says of its only file, which it has to finish."""
    return json.loads(run(*words, "--json", check=0).stdout)


# ---- DDPM microscopy -----------------------------------------------------------------------------
@pytest.mark.slow
def test_the_conditional_ddpm_as_published_runs(small, tmp_path):
    out = tmp_path / "out.tif"
    words = ("denoise", small, "-o", out, "--method", "conditional", "--preset", "paper")
    assert details(*words, "--steps", 2)["calls"] == 2
    assert not np.array_equal(tifffile.imread(out), tifffile.imread(small))


@pytest.mark.parametrize(
    ("method", "preset"),
    [(name, preset) for name, row in METHODS.items() for preset in row.load().presets],
)
def test_settings_of_every_preset_can_be_recorded(method, preset):
    """An output's record is JSON, which holds no infinity."""
    dumps(asdict(METHODS[method].load().presets[preset]))
