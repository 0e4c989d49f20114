"""Several images in a file, folders that are images, and results in another format."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from restorectl.batch import inputs, run
from restorectl.batch.inputs import Pair
from restorectl.batch.outcome import Outcome, Progress, Silent
from restorectl.batch.plan import Origin, Planned, Record, Share
from restorectl.errors import UsageError
from restorectl.images.image import Image, join_images, open_image, write_image
from restorectl.jobs import Files
from tests.images.test_zarr import PIXELS, foreign

zarr = pytest.importorskip("zarr")
yaozarrs = pytest.importorskip("yaozarrs")


@dataclass
class Copy:
    """Work that copies an image."""

    origin: Origin
    at_once: int = 2

    def plan(self, image: Image, pair: Pair) -> Planned:
        return Planned(1, 1, image.header.nbytes, 1000)

    def write(
        self,
        image: Image,
        pair: Pair,
        parts: Sequence[Path],
        record: Record,
        outcome: Outcome,
        progress: Progress,
        share: Share | None = None,
    ) -> None:
        planes = map(image.read, image.header.planes)
        write_image(parts[0], image.header.for_target(pair.target), planes, provenance=record)

    def calls(self) -> int:
        return 0


def go(given: Path, output: Path, **changes: Any) -> dict[str, str]:
    """Copy all images; returns the statuses by the path of the result."""
    files = Files((str(given),), str(output), **changes)
    work = Copy(Origin("copy", {"series": files.series}, {}))
    outcomes = run.run(files, work, inputs.resolve(files), Silent())
    assert not [o.message for o in outcomes if o.status == "failed"]
    return {o.target.removeprefix(f"{output.parent}/"): o.status for o in outcomes}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An OME-TIFF of two images, a TIFF of one, an OME-Zarr."""
    place = tmp_path / "in"
    place.mkdir()
    with tifffile.TiffWriter(place / "a.ome.tif", ome=True) as file:
        for k, name in enumerate(("Pos A/1", "")):
            file.write(PIXELS[k], metadata={"axes": "ZYX", "Name": name})
    tifffile.imwrite(place / "b.tif", PIXELS[0, 0])
    foreign(place / "c.ome.zarr")
    return tmp_path


def pixels(path: Path) -> np.ndarray:
    """(C, Z, Y, X)"""
    with open_image(path) as image:
        _, channels, depth, *size = image.header.canonical_shape
        found = [image.read((0, c, z)) for c in range(channels) for z in range(depth)]
    return np.reshape(found, (channels, depth, *size))


def test_all_images_of_a_file_become_files(folder: Path) -> None:
    """But for OME-TIFF, which holds them together."""
    with tifffile.TiffWriter(folder / "in/d.tif") as file:
        for k in (0, 1):
            file.write(PIXELS[k], photometric="minisblack", metadata={"axes": "ZYX"})
    names = ["out/a.ome.tif", "out/b.tif", "out/c.ome.zarr", "out/d_0.tif", "out/d_1.tif"]
    assert go(folder / "in", folder / "out", series="all") == dict.fromkeys(names, "done")
    for k, name in enumerate(names[3:]):
        np.testing.assert_array_equal(pixels(folder / name)[0], PIXELS[k])
    with tifffile.TiffFile(folder / names[0]) as file:
        assert [series.name for series in file.series] == ["Pos A/1", ""]
        for k, series in enumerate(file.series):
            np.testing.assert_array_equal(series.asarray(), PIXELS[k])
    assert go(folder / "in", folder / "out", series="all") == dict.fromkeys(names, "skipped")
    assert not [path for path in (folder / "out").iterdir() if path.name.endswith(".part")]
    together = go(folder / "in/d.tif", folder / "e.ome.tif", series="all")
    assert together == {"e.ome.tif": "done"}
    for k in (0, 1):
        with open_image(folder / "e.ome.tif", series=str(k)) as image:
            found = [image.read(plane) for plane in image.header.planes]
            np.testing.assert_array_equal(found, PIXELS[k])
    assert set(go(folder / "in/d.tif", folder / "f.ome.tif", series="all")) == {"f.ome.tif"}
    assert (folder / "f.ome.tif").read_bytes() == (folder / "e.ome.tif").read_bytes()


def test_pyramids_and_what_the_documents_tell_are_joined(tmp_path: Path) -> None:
    """Instruments that all images have are there once; each keeps its own comment."""
    parts, planes = [], np.random.default_rng(0).integers(0, 4000, (3, 1030, 1100)).astype("u2")
    for k, plane in enumerate(planes):
        source, part = tmp_path / f"{k}.tif", tmp_path / f"part{k}.ome.tif"
        tifffile.imwrite(source, plane, description=f"mine {k}")
        with open_image(source) as image:
            header = image.header.for_target(part, pyramid=k > 0)
            write_image(part, header, [plane], provenance={"tool": f"restorectl {k}"})
        mark = "<Instrument ID='Instrument:1'/>"
        text = tifffile.tiffcomment(part).replace("<Image ", f"{mark}<Image ", 1)
        tifffile.tiffcomment(part, text.encode())
        parts.append(part)
    join_images(tmp_path / "all.ome.tif", parts, tmp_path / "all.ome.tif")
    with tifffile.TiffFile(tmp_path / "all.ome.tif") as file:
        xml = file.ome_metadata
        assert [len(series.levels) for series in file.series] == [1, 2, 2]
        for series, plane in zip(file.series, planes, strict=True):
            np.testing.assert_array_equal(series.asarray(), plane)
        small = file.series[2].levels[1].asarray()
        np.testing.assert_allclose(small, planes[2].reshape(515, 2, 550, 2).mean((1, 3)), atol=1)
    assert xml.count("Instrument:1") == 1
    assert all(xml.count(f"mine {k}") == 1 for k in range(3))
    ids = re.findall(r'<(?!\w*Ref)\w+ ID="([^"]+)"', xml)
    assert len(set(ids)) == len(ids) >= 9


@pytest.mark.parametrize("how", ["to", "output"])
def test_all_images_of_a_file_are_together_in_ome_zarr(folder: Path, how: str) -> None:
    if how == "to":
        found = go(folder / "in", folder / "out", series="all", to="ome-zarr")
        names = ["out/a.ome.zarr/0", "out/a.ome.zarr/1", "out/b.ome.zarr", "out/c.ome.zarr"]
    else:
        found = go(folder / "in/a.ome.tif", folder / "out.zarr", series="all")
        names = ["out.zarr/0", "out.zarr/1"]
    assert found == dict.fromkeys(names, "done")
    for k in (0, 1):
        np.testing.assert_array_equal(pixels(folder / names[k])[0], PIXELS[k])
    group = (folder / names[0]).parent
    yaozarrs.validate_zarr_store(str(group))
    assert json.loads((group / "zarr.json").read_text())["attributes"]["ome"]
    assert set(go(group, folder / "again.zarr")) == {"again.zarr/0", "again.zarr/1"}
    yaozarrs.validate_zarr_store(str(folder / "again.zarr"))


def test_one_file_cannot_take_several_images(folder: Path) -> None:
    with pytest.raises(UsageError, match="is one file, but the input has 2 images"):
        go(folder / "in/a.ome.tif", folder / "out.tif", series="all")


def test_one_of_the_images(folder: Path) -> None:
    assert go(folder / "in/a.ome.tif", folder / "out", series="Pos A/1") == {
        "out/a.ome.tif": "done"
    }
    np.testing.assert_array_equal(pixels(folder / "out/a.ome.tif")[0], PIXELS[0])


@pytest.mark.parametrize(
    ("to", "names"),
    [
        ("ome-tiff", ["a.ome.tif", "b.ome.tif", "c.ome.tif"]),
        ("ome-zarr", ["a.ome.zarr", "b.ome.zarr", "c.ome.zarr"]),
    ],
)
def test_results_in_another_format(folder: Path, to: str, names: list[str]) -> None:
    names = [f"out/{name}" for name in names]
    assert go(folder / "in", folder / "out", to=to, series="0") == dict.fromkeys(names, "done")
    np.testing.assert_array_equal(pixels(folder / names[2]), PIXELS)
    if to == "ome-tiff":
        for name in names:
            with tifffile.TiffFile(folder / name) as file:
                assert file.is_ome
    with pytest.raises(UsageError, match="`to` ome-tiff: has no effect"):
        go(folder / "in/b.tif", folder / "b.png", to="ome-tiff")


def test_chunks_that_are_missing_may_still_come(folder: Path) -> None:
    """A folder that changed within the hour waits; later it is taken, with a warning."""
    image = folder / "in/c.ome.zarr"
    next(path for path in (image / "s0/c").rglob("*") if path.is_file()).unlink()
    assert go(image, folder / "out") == {"out/c.ome.zarr": "deferred"}
    assert go(image, folder / "out", defer_for=0.0) == {"out/c.ome.zarr": "done"}


# ---- plates
@pytest.fixture
def plate(tmp_path: Path) -> Path:
    """A plate of two wells, one with two fields."""
    path = tmp_path / "p.ome.zarr"
    wells = [
        {"path": f"{row}/1", "rowIndex": k, "columnIndex": 0} for k, row in enumerate(("A", "B"))
    ]
    about = {
        "rows": [{"name": "A"}, {"name": "B"}],
        "columns": [{"name": "1"}],
        "wells": wells,
        "name": "test",
        "version": "0.5",
    }
    root = zarr.open_group(
        path, mode="w", zarr_format=3, attributes={"ome": {"version": "0.5", "plate": about}}
    )
    for row, fields in (("A", 2), ("B", 1)):
        images = [{"path": str(k)} for k in range(fields)]
        told = {"ome": {"version": "0.5", "well": {"images": images, "version": "0.5"}}}
        root.create_group(row).create_group("1", attributes=told)
        for k in range(fields):
            foreign(path / row / "1" / str(k))
    return path


@pytest.mark.parametrize("how", ["folder", "output"])
def test_a_plate_is_a_folder_of_images(tmp_path: Path, plate: Path, how: str) -> None:
    output = tmp_path / ("out" if how == "folder" else "q.ome.zarr")
    made = output / plate.name if how == "folder" else output
    fields = ["A/1/0", "A/1/1", "B/1/0"]
    shown = [str((made / field).relative_to(tmp_path)) for field in fields]
    assert go(plate, output) == dict.fromkeys(shown, "done")
    yaozarrs.validate_zarr_store(str(made))
    for name in ("zarr.json", "A/zarr.json", "A/1/zarr.json"):
        assert (made / name).read_bytes() == (plate / name).read_bytes()
    assert (made / "A/1/1/labels/nuclei/0").is_dir()
    assert go(plate, output) == dict.fromkeys(shown, "skipped")


def test_a_plate_becomes_tiffs_and_a_pattern_means_the_plate(tmp_path: Path, plate: Path) -> None:
    names = [f"out/p/{field}.ome.tif" for field in ("A/1/0", "A/1/1", "B/1/0")]
    found = go(tmp_path, tmp_path.parent / "out", to="ome-tiff", pattern="p.*")
    assert found == dict.fromkeys(names, "done")


def test_a_field_alone(tmp_path: Path, plate: Path) -> None:
    assert go(plate / "A/1/0", tmp_path / "x.ome.zarr") == {"x.ome.zarr": "done"}
    assert not (tmp_path / "zarr.json").exists()


def test_an_output_within_an_input(tmp_path: Path, plate: Path) -> None:
    for output in (plate, plate / "x", plate / "A/1/0"):
        with pytest.raises(UsageError, match="lies inside the input folder"):
            go(plate, output)
