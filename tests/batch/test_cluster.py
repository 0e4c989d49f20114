"""A cluster of dask makes the bytes that one process makes, and never a wrong or half output."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from restorectl.batch import cluster
from restorectl.batch.outcome import Silent
from restorectl.engine.card import KEY, Card
from restorectl.engine.denoiser import build
from restorectl.engine.runner import Stopped
from restorectl.errors import ClusterError, UsageError
from restorectl.files import provenance
from restorectl.images import header, regions, tiles
from restorectl.images.tiles import tile_grid
from restorectl.jobs import (
    Compute,
    DenoiseJob,
    Files,
    RestoreJob,
    SuperresJob,
    UncertaintyJob,
)
from restorectl.restoration.denoise import denoise
from restorectl.restoration.restore import restore
from restorectl.restoration.uncertainty import uncertainty
from restorectl.volumes.superres3d import superres3d
from tests.chaos.folders import digests, leftovers
from tests.command import run as command
from tests.server import Server

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
pytest.importorskip("zarr", reason="the extra `formats` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

SMALL = {"channels": [8, 8], "blocks": 1, "embedding": 8}
PRIOR = Card("small", "prior", "unet", SMALL)
SLICES = Card("small", "slices", "unet", SMALL | {"c_in": 3}, parametrisation="x0",
              objective="slices", sigma_max=3.0, anchors="linear")  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files of two small networks with random weights, by task."""
    torch.manual_seed(1)
    place, found = tmp_path_factory.mktemp("weights"), {}
    for card in (PRIOR, SLICES):
        state = {k: torch.randn(v.shape) / 3 for k, v in build(card).net.state_dict().items()}
        (place / card.task).write_bytes(save(state, {KEY: card.to_json()}))
        found[card.task] = str(place / card.task)
    return found


@pytest.fixture(scope="module")
def two():
    """The address of a scheduler with two workers of one thread, in this process."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as made:
        yield made.scheduler_address


def photons(shape, seed=0):
    """Spots under photon noise, uint16."""
    y, x = np.mgrid[: shape[-2], : shape[-1]]
    light = 60 + 150 * np.exp(-((x % 40 - 20) ** 2 + (y % 40 - 20) ** 2) / 60)
    return (3 * np.random.default_rng(seed).poisson(np.broadcast_to(light, shape))).astype(
        np.uint16
    )


@pytest.fixture
def stack(tmp_path):
    """A stack of 5 planes and 2 channels."""
    path = tmp_path / "stack.tif"
    meta = {"axes": "ZCYX", "spacing": 3.0, "unit": "um"}
    tifffile.imwrite(path, photons((5, 2, 48, 64)), imagej=True, metadata=meta, resolution=(1, 1))
    return path


FP32 = Compute(device="cpu", precision="fp32", threads=1)
COMMANDS = {  # name of the output -> a job of it, and what does it
    "restored.ome.zarr": (RestoreJob, restore, {"context": "z"}),
    "restored.tif": (RestoreJob, restore, {"context": "none"}),
    "denoised.ome.zarr": (DenoiseJob, denoise, {"samples": 2, "context": "none"}),
    "maps": (UncertaintyJob, uncertainty, {"samples": 2, "steps": 2, "calibration": "none"}),
    "isotropic.tif": (SuperresJob, superres3d, {}),
}


def done(name, source, out, weights, dask=None, **changes):
    """The outcome of a command on one image; its output is `out` / `name`."""
    kind, function, options = COMMANDS[name]
    task = "slices" if kind is SuperresJob else "prior"
    files = Files((str(source),), str(out / name), dask=dask, **changes)
    job = kind(files=files, compute=FP32, weights=weights[task], **options)
    (outcome,) = function(job, Silent())
    return outcome


@pytest.mark.parametrize("name", COMMANDS)
def test_the_regions_of_one_image_have_the_bytes_of_one_process(
    name, stack, tmp_path, weights, two
):
    found = {}
    for place, dask in (("alone", None), ("shared", two)):
        (tmp_path / place).mkdir()
        found[place] = done(name, stack, tmp_path / place, weights, dask)
        assert found[place].status == "done", found[place].message
    alone, shared = found["alone"], found["shared"]
    assert digests(tmp_path / "shared") == digests(tmp_path / "alone")
    assert shared.details == alone.details
    assert shared.warnings == alone.warnings
    assert leftovers(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("large", [1 << 25, 1 << 17], ids=["whole", "in blocks"])
def test_parts_of_a_plane(tmp_path, weights, two, large, monkeypatch):
    """Of one that is examined as a whole, and of one that is never in memory as a whole."""
    monkeypatch.setattr(header, "LARGE", large)
    monkeypatch.setattr(tiles, "BLOCK", (512, 512))
    monkeypatch.setattr(regions, "SIDE", 512)
    source = tmp_path / "plane.tif"
    tifffile.imwrite(source, photons((500, 1100)))
    for place, dask in (("alone", None), ("shared", two)):
        for name in ("restored.tif", "restored.ome.zarr"):
            (tmp_path / place).mkdir(exist_ok=True)
            outcome = done(name, source, tmp_path / place, weights, dask)
            assert outcome.status == "done", outcome.message
    assert digests(tmp_path / "shared") == digests(tmp_path / "alone")


def test_several_images_are_a_task_each(tmp_path, weights, two):
    (tmp_path / "in").mkdir()
    for k in range(3):
        tifffile.imwrite(tmp_path / f"in/{k}.tif", photons((48, 48), k))
    (tmp_path / "in/bad.tif").write_text("no image at all")
    found = {}
    for place, dask in (("alone", None), ("shared", two)):
        files = Files((str(tmp_path / "in"),), str(tmp_path / place), dask=dask)
        job = RestoreJob(files, FP32, weights=weights["prior"])
        found[place] = {o.source: (o.status, o.calls, o.message) for o in restore(job, Silent())}
    assert found["shared"] == found["alone"]
    assert [status for status, *_ in found["alone"].values()].count("done") == 3
    assert digests(tmp_path / "shared") == digests(tmp_path / "alone")


@pytest.mark.parametrize("name", ["out.png", "out.jpg.tif"])
def test_an_output_that_cannot_be_divided_is_refused(name, tmp_path, weights, two):
    source = tmp_path / "in.tif"
    tifffile.imwrite(source, photons((48, 48)), compression="zlib")
    files = Files((str(source),), str(tmp_path / name), dask=two)
    (outcome,) = restore(RestoreJob(files, FP32, weights=weights["prior"]), Silent())
    assert outcome.status == "failed"
    assert f": {tmp_path / name}: " in outcome.message
    assert "choose OME-Zarr" in outcome.message
    assert "\n" not in outcome.message
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("what", "value"),
    [("version", "0.0.1"), ("revision", 1), ("precision", "bfloat16"), ("weights", {})],
)
def test_a_worker_that_would_make_other_pixels_is_refused(what, value):
    record = provenance.record(
        command="restore",
        parameters={"precision": "float32"},
        weights="prior",
        weights_sha256="0",
        input_sha256="",
    )
    cluster.require_same("tcp://there", record, record)
    there = json.loads(json.dumps(record))
    (there["parameters"] if what == "precision" else there)[what] = value
    with pytest.raises(ClusterError, match=f"worker tcp://there: has {what} ") as told:
        cluster.require_same("tcp://there", there, record)
    assert "\n" not in str(told.value)


def test_another_revision_ends_the_run_before_it_begins(stack, tmp_path, weights, two, monkeypatch):
    monkeypatch.setattr(cluster, "installed", lambda: {"revision": -1})
    with pytest.raises(ClusterError, match="has revision -1"):
        done("restored.tif", stack, tmp_path, weights, two)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("address", ["local:0", "local:x", "local"])
def test_an_address_that_means_nothing(address, stack, tmp_path, weights):
    with pytest.raises(UsageError, match="use local:N"):
        done("restored.tif", stack, tmp_path, weights, address)


def test_an_interrupted_image_is_resumed(stack, tmp_path, weights, two, monkeypatch):
    """After three of ten regions the run is stopped: they stay, and are not done again."""
    name, made, limit = "restored.ome.zarr", [], [3]
    done(name, stack, tmp_path / "alone", weights)

    class Counted(cluster.Cluster):
        def each(self, function, items):
            for found in super().each(function, items):
                made.append(found)
                if len(made) == limit[0]:
                    raise Stopped
                yield found

    monkeypatch.setattr(cluster, "Cluster", Counted)
    with pytest.raises(Stopped):
        done(name, stack, tmp_path / "shared", weights, two)
    time.sleep(1)  # a worker ends what it has begun
    assert not (tmp_path / "shared" / name).exists()
    (part,) = [path for path in leftovers(tmp_path) if path.is_dir()]
    part.rename(part.with_name(part.name.replace(f"-{os.getpid()}-", "-1999999999-")))
    limit[0], before = 0, len(made)
    assert done(name, stack, tmp_path / "shared", weights, two).status == "done"
    assert len(made) - before <= 10 - 3
    assert digests(tmp_path / "shared") == digests(tmp_path / "alone")
    assert leftovers(tmp_path) == []


@settings(max_examples=100, deadline=None)
@given(
    length=st.integers(1, 9000),
    side=st.sampled_from([1, 100, 512, 700, 2048]),
    window=st.sampled_from([0, 300]),
    exact=st.booleans(),
)
def test_regions_cover_an_axis_once_and_end_between_blocks(length, side, window, exact):
    cores = {tile.core_rows[0] for tile in tile_grid((length, 64), 8, window=window)}
    spans = regions._spans(length, side, cores, exact=exact)
    assert [n for span in spans for n in range(*span)] == list(range(length))
    assert all(start % side == 0 for start, _ in spans)
    assert not exact or {start for start, _ in spans} <= cores
    assert all(stop - start >= min(length, regions.SIDE // 2) for start, stop in spans)


@pytest.mark.slow
def test_a_worker_that_is_killed(tmp_path, weights):
    """Real processes: what it had in hand is done again, by the one that takes its place."""
    source = tmp_path / "stack.tif"
    tifffile.imwrite(source, photons((24, 64, 64)), imagej=True, metadata={"axes": "ZYX"})
    line = ("restore", source, "-w", weights["prior"], "--precision", "fp32", "--context", "none")
    command(*line, "-o", tmp_path / "alone.ome.zarr", check=0)
    server = Server()
    try:
        pid = server.start(
            *(*line, "-o", tmp_path / "shared.ome.zarr", "--dask", "local:2"),
            cwd=tmp_path,
            err=tmp_path / "told",
        )
        until = time.monotonic() + 100
        while not list(tmp_path.glob(".shared*.part/0/c/*/*/*")):
            assert time.monotonic() < until, (tmp_path / "told").read_text()
            time.sleep(0.01)
        os.kill(workers(pid)[0], signal.SIGKILL)
        assert server.wait(pid) == 0, (tmp_path / "told").read_text()
    finally:
        server.close()
    assert digests(tmp_path / "shared.ome.zarr") == digests(tmp_path / "alone.ome.zarr")
    assert leftovers(tmp_path) == []


def workers(pid):
    """The processes of the workers of a run with `local:N`."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if not children.exists():
        pytest.skip("this system does not tell the children of a process")
    found = [int(child) for task in Path(f"/proc/{pid}/task").iterdir()
             for child in (task / "children").read_text().split()]  # fmt: skip
    return [
        child for child in found
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]  # fmt: skip
