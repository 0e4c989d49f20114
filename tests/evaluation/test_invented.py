"""Features that appear in one of several restorations of one field."""

import json

import numpy as np
import pytest
import tifffile

from restorectl.evaluation import invented
from tests.command import run


def exposures(count=3):
    """Restorations of one field whose light differs, and the half-widths of their error bars."""
    y, x = np.mgrid[:40, :40]
    field = 50 + 20 * np.sin(x / 5) * np.cos(y / 7)
    means = [field * (1 + 0.2 * k) + 3 * k for k in range(count)]
    return means, [np.full(field.shape, 2.0)] * count


def test_the_same_field_holds_no_invented_feature():
    assert invented.features(*exposures()) == [0, 0, 0]


def test_what_only_one_restoration_shows_is_counted():
    means, halves = exposures()
    means[1][5:8, 5:8] += 30
    means[1][30, 30] += 30  # a single pixel is no feature
    means[2][20:22, 20:24] += 30
    means[2][5:8, 30:33] += 4  # within the error bars
    assert invented.features(means, halves) == [0, 1, 1]
    halves[1] = np.where(means[1] > 90, np.nan, 2.0)  # copied pixels have no error bars
    assert invented.features(means, halves) == [0, 0, 1]


@pytest.mark.slow
def test_the_command_counts_them(tmp_path):
    means, halves = exposures()
    means[2][20:23, 20:23] += 30
    for k, (mean, half) in enumerate(zip(means, halves, strict=True)):
        maps = {"mean": mean, "std": half, "lower": mean - half, "upper": mean + half}
        for name, values in maps.items():
            tifffile.imwrite(tmp_path / f"{k}_{name}.tif", values.astype(np.float32))
    done = run("evaluate", tmp_path, "--repeats", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["methods"].values()
    assert (found["features"], found["each"]) == (1, {"0": 0, "1": 0, "2": 1})
    assert "1" in run("evaluate", tmp_path, "--repeats").stdout.splitlines()[-1]
    (tmp_path / "alone").mkdir()
    refused = run("evaluate", tmp_path / "alone", "--repeats")
    assert refused.returncode == 3
    assert "2 or more" in refused.stderr
