"""Planes that are never in memory as a whole: read, examined, restored and written in blocks.

Here with blocks of 2 x 4 tiles of 64 px, and a mean of 5 x 5 px in place of the network. What
counts as large is set for each test.
"""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from torch import Tensor
from torch.nn.functional import avg_pool2d

from restorectl.batch.outcome import Silent
from restorectl.engine.runner import Runner
from restorectl.images import blocks, header, image, tiles
from restorectl.images.header import Header
from restorectl.images.image import create_image, open_image, verify_image
from restorectl.images.tiff.read import TiffImage
from restorectl.images.tiles import bands, tile_grid
from restorectl.jobs import Compute, Files, RestoreJob
from restorectl.restoration.restore import restore
from restorectl.restoration.restorer import Restorer

SHAPE = (200, 290)
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]
LIGHT = 120 + 60 * np.sin(X / 9) * np.cos(Y / 11)


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def mean(self: Runner, denoiser: object, x: Tensor, sigma: object, condition: object) -> Tensor:
        return avg_pool2d(x, 5, 1, 2, count_include_pad=False)

    def grid(self: Restorer, shape: tuple[int, int], core: int = 64, halo: int = 16):
        return tile_grid(shape, 16, min(core, 64), halo, self.card.window)

    monkeypatch.setattr(Restorer, "grid", grid)
    monkeypatch.setattr(tiles, "BLOCK", (128, 256))
    monkeypatch.setattr(blocks, "BLOCK", 128)
    monkeypatch.setattr(Runner, "_evaluate", mean)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pixels of each region that is read of a TIFF."""
    found, read = [], TiffImage.read

    def noted(self: TiffImage, *region: object) -> np.ndarray:
        pixels = read(self, *region)
        found.append(pixels.size)
        return pixels

    monkeypatch.setattr(TiffImage, "read", noted)
    return found


def large(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (header, image):
        monkeypatch.setattr(module, "LARGE", 30_000)


def restored(source: Path, target: Path, **options: object) -> Path:
    files = Files((str(source),), str(target), pyramid=bool(options.pop("pyramid", False)))
    (outcome,) = restore(RestoreJob(files, Compute("cpu"), **options), Silent())
    assert outcome.status == "done", outcome.message
    return target


def pixels_of(path: Path) -> np.ndarray:
    with open_image(path) as found:
        return np.stack([found.read(plane) for plane in found.header.planes])


def noisy(light: np.ndarray = LIGHT) -> np.ndarray:
    return np.random.default_rng(0).poisson(light).astype(np.uint16)


def write(path: Path, pixels: np.ndarray, **options: object) -> Path:
    options = {"photometric": "rgb" if pixels.shape[-1] == 3 else "minisblack"} | options
    tifffile.imwrite(path, pixels, **options)
    return path


@pytest.mark.parametrize(
    ("name", "stored", "options"),
    [
        ("a.tif", {}, {}),
        ("a.tif", {"compression": "zlib"}, {}),
        ("a.tif", {"tile": (64, 64)}, {"pyramid": True}),
        ("a.ome.zarr", {}, {}),
    ],
    ids=["strips", "compressed", "pyramid", "zarr"],
)
def test_the_same_bytes_as_of_a_plane_in_memory(
    name: str,
    stored: dict[str, object],
    options: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reads: list[int],
) -> None:
    source = write(tmp_path / "in.tif", noisy(), **stored)
    whole = restored(source, tmp_path / "whole" / name, **options)
    assert max(reads) == math.prod(SHAPE)
    reads.clear()
    large(monkeypatch)
    parts = restored(source, tmp_path / "parts" / name, **options)
    assert max(reads) < math.prod(SHAPE)
    if whole.is_file():
        assert parts.read_bytes() == whole.read_bytes()
    else:
        names = sorted(each.relative_to(whole) for each in whole.rglob("*") if each.is_file())
        assert len(names) > 2
        for each in names:
            assert (parts / each).read_bytes() == (whole / each).read_bytes(), each


def test_colours_of_a_page_come_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[int]
) -> None:
    pixels = noisy(np.stack([LIGHT, LIGHT[::-1], LIGHT[:, ::-1]], -1))
    source = write(tmp_path / "in.tif", pixels)
    whole = restored(source, tmp_path / "whole.tif")
    large(monkeypatch)
    reads.clear()
    parts = restored(source, tmp_path / "parts.tif")
    assert parts.read_bytes() == whole.read_bytes()
    assert max(reads) < math.prod(SHAPE)


def test_what_is_no_measurement_is_copied_and_counted_and_not_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large(monkeypatch)
    pixels = noisy().astype(np.float32)
    pixels[:130, 200:] = np.nan  # a tile and parts of others, in two blocks
    pixels[150, 40] = 4000.0
    source, done = write(tmp_path / "in.tif", pixels), []
    monkeypatch.setattr(
        Restorer,
        "restore",
        lambda self, batch, decided, run=Restorer.restore: (
            done.extend(batch.sites) or run(self, batch, decided)
        ),
    )
    files = Files((str(source),), str(tmp_path / "out.tif"))
    (outcome,) = restore(RestoreJob(files, Compute("cpu")), Silent())
    (out,), unknown = pixels_of(tmp_path / "out.tif"), np.isnan(pixels)
    np.testing.assert_array_equal(np.isnan(out), unknown)
    assert out[150, 40] < 400
    assert outcome.details["invalid"]["0"]["kept"] == unknown.sum()
    assert outcome.details["invalid"]["0"]["repaired"] >= 1
    assert len(set(done)) == len(done) < 3 * 5, "a tile with nothing to restore is left out"


@pytest.mark.parametrize("axes", ["YX", "YXS", "SYX", "CYX"])
@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.ome.zarr", "pyramid.tif"])
def test_bands_and_whole_planes_make_the_same_file(name: str, axes: str, tmp_path: Path) -> None:
    if name == "a.png" and axes in ("SYX", "CYX"):
        return  # PNG has neither
    shape = tuple({"Y": 1100, "X": 1030}.get(axis, 3) for axis in axes)
    made = Header(axes, shape, np.dtype(np.uint8)).for_target(tmp_path / name, "p" in name[:1])
    planes = np.random.default_rng(0).integers(0, 255, (len(made.planes), 1100, 1030), np.uint8)
    found = []
    for cuts in ([0, 1100], [0, 7, 700, 1099, 1100]):
        path = tmp_path / str(len(cuts)) / name
        path.parent.mkdir()
        path.mkdir() if "zarr" in name else None
        with create_image(path, made, provenance={"tool": "restorectl"}) as writer:
            for page in tiles.chunks(planes, made.page):
                for top, bottom in pairwise(cuts):
                    for plane in page:
                        writer.put(plane[top:bottom])
        verify_image(path, made)
        np.testing.assert_array_equal(pixels_of(path), planes)
        parts = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        found.append([each.read_bytes() for each in parts])
    assert found[0] == found[1]


@pytest.mark.parametrize("shape", [(2600, 3000), (513, 9000), (5000, 40)])
def test_blocks_cover_every_tile_once(shape: tuple[int, int]) -> None:
    grid = tile_grid(shape, 16)
    blocks_of = [block for band in bands(grid, in_blocks=True) for block in band]
    assert sorted(t.core_rows + t.core_cols for b in blocks_of for t in b.tiles) == sorted(
        t.core_rows + t.core_cols for t in grid
    )
    for block in blocks_of:
        area = [span.stop - span.start for span in block.core]
        assert math.prod(area) == sum(
            math.prod(b - a for a, b in (t.core_rows, t.core_cols)) for t in block.tiles
        )
