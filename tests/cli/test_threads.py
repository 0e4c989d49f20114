"""Any number of threads writes the same bytes, in every command."""

import numpy as np
import pytest
import tifffile

from restorectl.batch.outcome import Silent
from restorectl.images import tiles
from restorectl.jobs import (
    CalibrateJob,
    Compute,
    DenoiseJob,
    Files,
    RestoreJob,
    SuperresJob,
    UncertaintyJob,
)
from restorectl.restoration import calibrate, denoise, restore, uncertainty
from restorectl.volumes import superres3d


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Two small images and a stack, cut into several tiles each."""
    monkeypatch.setattr(tiles.tile_grid, "__defaults__", (48, 16, 0))
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    light = 20 + 200 * np.kron(rng.random((12, 16)), np.ones((8, 8)))  # (96, 128)
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / f"in/{name}.tif", rng.poisson(light).astype(np.float32))
    stack = rng.poisson(np.stack([light] * 3)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "in/s.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    return tmp_path


FP32 = {"device": "cpu", "precision": "fp32"}
WAYS = {
    "restore": lambda files, compute: restore.restore(
        RestoreJob(files, compute, context="z", steps=2, sampler="ancestral"), Silent()
    ),
    "denoise": lambda files, compute: denoise.denoise(
        DenoiseJob(files, compute, method="mixing", samples=2, steps=2), Silent()
    ),
    "uncertainty": lambda files, compute: uncertainty.uncertainty(
        UncertaintyJob(files, compute, samples=2, steps=2, calibration="none"), Silent()
    ),
    "superres3d": lambda files, compute: superres3d.superres3d(
        SuperresJob(
            Files((files.inputs[0] + "/s.tif",), files.output), compute, factor=2, strength=1.0
        ),
        Silent(),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", WAYS)
def test_any_number_of_threads_writes_the_same_bytes(source, command):
    made = []
    for threads in (1, 3):
        out = source / f"out{threads}"
        files = Files((str(source / "in"),), str(out))
        outcomes = WAYS[command](files, Compute(threads=threads, **FP32))
        assert {outcome.status for outcome in outcomes} == {"done"}, outcomes
        images = {p.relative_to(out): p.read_bytes() for p in out.rglob("*.tif")}
        made.append((images, [outcome.calls for outcome in outcomes]))
    assert made[0] == made[1]
    assert len(made[0][0]) in (1, 3, 18)


def test_calibrate_measures_the_same_on_any_number_of_threads(source):
    found = []
    for threads in (1, 3):
        job = CalibrateJob(Files((str(source / "in"),), ""), device="cpu", threads=threads)
        found.append(calibrate.run(calibrate.prepare(job), Silent()))
    assert found[0] == found[1]
    assert found[0].windows == 5
