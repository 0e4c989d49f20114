"""OME-Zarr: what is written is valid, opens elsewhere, and has the pixels and metadata of TIFF."""

import json
import os
import shutil
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from restorectl.errors import IncompleteError, InputError
from restorectl.files.atomic import part_path
from restorectl.images.header import Header
from restorectl.images.image import (
    create_image,
    is_image_folder,
    look,
    open_image,
    planes_there,
    publishing,
    read_provenance,
    verify_image,
    write_image,
)

zarr = pytest.importorskip("zarr")
yaozarrs = pytest.importorskip("yaozarrs")

MADE = {"tool": "restorectl", "input": "x", "parameters": {}}
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 4000, (2, 3, 40, 60)).astype(np.uint16)  # C Z Y X
AXES = [{"name": "c", "type": "channel"}] + [
    {"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"
]


def written(path: Path, header: Header, pixels: np.ndarray = PIXELS) -> Path:
    """Write canonical (C, Z, Y, X) pixels; returns the path."""
    if path.suffix == ".zarr":
        path.mkdir()
    header = header.for_target(path)
    write_image(path, header, (pixels[c, z] for _, c, z in header.planes), provenance=MADE)
    verify_image(path, header)
    return path


def stack(**changes: object) -> Header:
    header = Header(
        "CZYX", PIXELS.shape, PIXELS.dtype, (0.5, 0.1, 0.2), ("DAPI", "GFP"), interval=2.5
    )
    return replace(header, **changes)


def foreign(path: Path, version: str = "0.5", chunks: tuple[int, ...] = (1, 2, 16, 32)) -> Path:
    """An OME-Zarr of another program: odd sizes, two levels, z-chunks, a label and a table."""
    kind = 2 if version == "0.4" else 3
    factors = ([1, 0.5, 0.1, 0.2], [1, 0.5, 0.2, 0.4])
    levels = [
        {"path": f"s{k}", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        for k, scale in enumerate(factors)
    ]
    told = {"axes": AXES, "datasets": levels, "name": "cells"}
    window = {"min": 0, "max": 4095, "start": 0, "end": 4000}
    channels = [{"label": n, "color": "FF0000", "window": window} for n in ("DAPI", "GFP")]
    omero = {"channels": channels, "rdefs": {"model": "color"}}
    ome = {"multiscales": [told], "omero": omero}
    if kind == 2:
        told["version"] = "0.4"
    attributes = ome if kind == 2 else {"ome": {"version": "0.5", **ome}}
    group = zarr.open_group(path, mode="w", zarr_format=kind, attributes={**attributes, "own": 7})
    names = {"dimension_names": list("czyx")} if kind == 3 else {}
    shards = {"shards": (1, 2, 32, 64)} if kind == 3 else {}
    first = group.create_array(
        "s0", shape=PIXELS.shape, dtype="u2", chunks=chunks, **names, **shards
    )
    first[...] = PIXELS
    group.create_array("s1", shape=(2, 3, 20, 30), dtype="u2", chunks=chunks, **names)[...] = 1
    sizes = [
        {"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": scale[1:]}]}
        for k, scale in enumerate(factors)
    ]
    outlines = {"axes": AXES[1:], "datasets": sizes}
    of_label = {"multiscales": [outlines], "image-label": {}}
    listed = {"labels": ["nuclei"]}
    if kind == 3:
        listed, of_label = ({"ome": {"version": "0.5", **each}} for each in (listed, of_label))
    else:
        outlines["version"] = "0.4"
    labels = group.create_group("labels", attributes=listed)
    label = labels.create_group("nuclei", attributes=of_label)
    named = {"dimension_names": list("zyx")} if kind == 3 else {}
    for name, shape in (("0", (3, 40, 60)), ("1", (3, 20, 30))):
        array = label.create_array(name, shape=shape, dtype="u1", chunks=shape, **named)
        array[...] = 5
    (path / "table.csv").write_text("a,b\n")
    return path


@pytest.mark.parametrize("name", ["a.ome.zarr", "a.zarr.zip", "a.ozx"])
@pytest.mark.parametrize("axes", ["CZYX", "ZCYX"])
def test_written_and_read_again(tmp_path: Path, name: str, axes: str) -> None:
    shape = tuple(dict(zip("CZYX", PIXELS.shape, strict=True))[a] for a in axes)
    path = written(tmp_path / name, stack(axes=axes, shape=shape))
    with open_image(path) as image:
        header = image.header
        assert (header.axes, header.shape, header.dtype) == ("CZYX", PIXELS.shape, np.uint16)
        assert header.spacing == (0.5, 0.1, 0.2)
        assert header.interval is None  # there is no time axis
        assert header.channels == ("DAPI", "GFP")
        for _, c, z in header.planes:
            assert (image.read((0, c, z)) == PIXELS[c, z]).all()
        assert (image.read((0, 1, 2), slice(5, 33), slice(31, 60)) == PIXELS[1, 2, 5:33, 31:]).all()
    assert read_provenance(path) == MADE


def test_time_points_keep_their_interval(tmp_path: Path) -> None:
    header = stack(axes="TZYX", channels=())
    path = tmp_path / "a.zarr"
    path.mkdir()
    planes = (PIXELS[t, z] for t, _, z in header.planes)
    write_image(path, header.for_target(path), planes, provenance=MADE)
    with open_image(path) as image:
        assert (image.header.axes, image.header.interval) == ("TZYX", 2.5)


@pytest.mark.parametrize("version", ["new", "0.4", "0.5"])
def test_valid_and_opened_by_another_reader(tmp_path: Path, version: str) -> None:
    ome_zarr_io = pytest.importorskip("ome_zarr.io")
    from ome_zarr.reader import Reader

    header = stack()
    if version != "new":
        with open_image(foreign(tmp_path / "in.zarr", version)) as image:
            header = image.header
    path = written(tmp_path / "out.ome.zarr", header)
    yaozarrs.validate_zarr_store(str(path))
    node = next(iter(Reader(ome_zarr_io.parse_url(path))()))
    assert (np.asarray(node.data[0]) == PIXELS).all()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_chunks_levels_metadata_and_labels_pass(tmp_path: Path, version: str) -> None:
    source = foreign(tmp_path / "in.zarr", version)
    with open_image(source) as image:
        path = written(tmp_path / "out.zarr", image.header)
    was, now = (zarr.open_group(each, mode="r") for each in (source, path))
    for level in ("s0", "s1"):
        for what in ("shape", "chunks", "shards", "compressors", "filters", "dtype"):
            assert getattr(now[level], what) == getattr(was[level], what), (level, what)
    means = PIXELS.reshape(2, 3, 20, 2, 30, 2).mean((3, 5))
    assert (now["s1"][...] == np.rint(means)).all()
    attributes = dict(now.attrs)
    assert attributes.pop("restorectl") == MADE
    assert attributes == dict(was.attrs)
    assert (now["labels/nuclei/0"][...] == 5).all()
    assert (path / "table.csv").read_text() == "a,b\n"


def test_equal_images_give_equal_bytes(tmp_path: Path) -> None:
    one = written(tmp_path / "a.zarr.zip", stack())
    two = written(tmp_path / "b.zarr.zip", stack())
    assert one.read_bytes() == two.read_bytes()
    with zipfile.ZipFile(one) as file:
        assert {each.date_time for each in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert file.namelist()[0] == "zarr.json"
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]


def test_colours_become_channels(tmp_path: Path) -> None:
    pixels = PIXELS[0].astype(np.uint8)  # three planes
    header = Header("YXS", (40, 60, 3), np.dtype(np.uint8))
    path = written(tmp_path / "a.zarr", header, pixels[:, None])
    with open_image(path) as image:
        assert image.header.axes == "CYX"
    colours = [c["color"] for c in zarr.open_group(path).attrs["ome"]["omero"]["channels"]]
    assert colours == ["FF0000", "00FF00", "0000FF"]


def test_memory_does_not_grow_with_the_planes(tmp_path: Path) -> None:
    plane, peaks = RNG.integers(0, 4000, (200, 200)).astype(np.uint16), []
    for count in (30, 300):  # 2.4 and 24 MB
        path = tmp_path / f"{count}.zarr"
        path.mkdir()
        header = Header("ZYX", (count, 200, 200), plane.dtype).for_target(path)
        tracemalloc.start()
        write_image(path, header, (plane for _ in header.planes), provenance=MADE)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 5e6


def test_names_of_many_channels(tmp_path: Path) -> None:
    names = tuple(f"marker {k}" for k in range(40))
    pixels = RNG.integers(0, 255, (40, 1, 8, 9)).astype(np.uint8)
    header = Header("CYX", (40, 8, 9), pixels.dtype, (None, 0.1, 0.1), names)
    path = written(tmp_path / "a.zarr", header, pixels)
    with open_image(path) as image:
        assert image.header.channels == names
    yaozarrs.validate_zarr_store(str(path))


def test_a_smaller_level_is_the_mean_also_of_odd_sizes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).random((1, 1, 2051, 13), np.float32)
    path = written(tmp_path / "a.zarr", Header("YX", (2051, 13), np.dtype("f4")), pixels)
    group = zarr.open_group(path)
    half, quarter = group["1"][...], group["2"][...]
    assert (half.shape, quarter.shape) == ((1025, 6), (512, 3))
    assert half[:-1, :-1] == pytest.approx(
        pixels[0, 0, :2048, :10].reshape(1024, 2, 5, 2).mean((1, 3))
    )
    assert half[-1, -1] == pytest.approx(pixels[0, 0, 2048:, 10:].mean())


# ---- what is not complete or no image --------------------------------------------------------
def test_missing_chunks(tmp_path: Path) -> None:
    """Others may leave out empty chunks; of an output of ours they are missing."""
    theirs, ours = foreign(tmp_path / "a.zarr", "0.4"), written(tmp_path / "b.zarr", stack())
    (theirs / "s0" / "0.0.0.0").unlink()
    (ours / "0" / "c" / "0" / "0" / "0" / "0").unlink()
    with open_image(theirs) as image:
        assert "1 of 24 chunk files" in image.unusual[0]
        assert (image.read((0, 0, 0), slice(0, 16), slice(0, 32)) == 0).all()
    with pytest.raises(IncompleteError, match="5 of the 6 chunk files"):
        open_image(ours)
    found = look(ours)
    assert found is not None
    assert found.ours
    assert found.record is None
    shutil.rmtree(theirs / "s0")
    with pytest.raises(IncompleteError, match="s0 is missing"):
        open_image(theirs)


def test_damaged_chunk(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zarr", stack())
    (path / "0" / "c" / "1" / "2" / "0" / "0").write_bytes(b"nonsense")
    with open_image(path) as image, pytest.raises(InputError, match="cannot be decoded"):
        image.read((0, 1, 2))


def test_empty_damaged_and_other_folders(tmp_path: Path) -> None:
    empty, other = tmp_path / "a.zarr", tmp_path / "b"
    empty.mkdir()
    other.mkdir()
    assert is_image_folder(empty)
    assert not is_image_folder(other)
    with pytest.raises(IncompleteError, match="no zarr"):
        open_image(empty)
    (empty / "zarr.json").write_text('{"node_type": "gro')
    with pytest.raises(IncompleteError, match=r"zarr.json is damaged"):
        open_image(empty)
    (empty / "zarr.json").write_text('{"node_type": "array"}')
    with pytest.raises(InputError, match="multiscales"):
        open_image(empty)
    for told in ({}, [], [7], [{"datasets": 3}], [{"datasets": [{}]}]):
        text = {"node_type": "group", "attributes": {"ome": {"multiscales": told}}}
        (empty / "zarr.json").write_text(json.dumps(text))
        with pytest.raises(InputError):
            open_image(empty)


def places(told: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in nested JSON."""
    inside = told.items() if isinstance(told, dict) else enumerate(told)
    for key, value in inside:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


WRONG = (None, 0, -1, 1e300, 10**12, "", "x", [], {}, True, [1], {"a": 1}, float("nan"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("share", [pytest.param(1, marks=pytest.mark.slow), 25])
@pytest.mark.parametrize(
    ("version", "names"),
    [("0.4", (".zattrs", "s0/.zarray", "s1/.zarray")), ("0.5", ("zarr.json", "s0/zarr.json"))],
)
def test_no_value_of_the_metadata_is_a_bug(
    tmp_path: Path, version: str, names: tuple[str, ...], share: int
) -> None:
    """Each value replaced by each wrong one: the image opens, or is refused in one line."""
    path = foreign(tmp_path / "a.zarr", version)
    for name in names:
        text = (path / name).read_text()
        tried = [(place, wrong) for place in places(json.loads(text)) for wrong in WRONG]
        refused = []
        for place, wrong in tried[::share]:
            told = json.loads(text)
            inner = told
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = wrong
            (path / name).write_text(json.dumps(told))
            assert is_image_folder(path) in (True, False)
            try:
                with open_image(path) as image:
                    image.read(image.header.planes[-1], slice(0, 10), slice(0, 10))
            except InputError as error:
                refused.append(str(error))
        assert refused
        assert all(str(path) in message for message in refused)
        (path / name).write_text(text)


def test_more_planes_than_any_image_has(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.zarr", "0.4")
    array = json.loads((path / "s0/.zarray").read_text())
    array["shape"][1] = 10**9
    (path / "s0/.zarray").write_text(json.dumps(array))
    with pytest.raises(InputError, match="claims 2000000000 planes"):
        open_image(path)


def test_a_zip_that_is_cut_off(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zarr.zip", stack())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(IncompleteError, match="cut off"):
        open_image(path)


def test_a_zipped_folder_is_read(tmp_path: Path) -> None:
    foreign(tmp_path / "in" / "cells.zarr")
    shutil.make_archive(str(tmp_path / "cells.zarr"), "zip", tmp_path / "in")
    with open_image(tmp_path / "cells.zarr.zip") as image:
        assert (image.read((0, 1, 1)) == PIXELS[1, 1]).all()
        path = written(tmp_path / "out.zarr", image.header)
    assert (zarr.open_group(path)["labels/nuclei/0"][...] == 5).all()


# ---- resuming --------------------------------------------------------------------------------
class KilledError(Exception):
    pass


def leave(path: Path, header: Header, count: int) -> Path:
    """What a killed process leaves that has written `count` planes."""
    part = part_path(path, pid=2**22 + 1)
    part.mkdir()
    with suppress(KilledError), create_image(part, header, provenance=MADE) as writer:
        for _, c, z in header.planes[:count]:
            writer.put(PIXELS[c, z])
        raise KilledError
    return part


@pytest.mark.parametrize(("depth", "kept"), [(1, 4), (2, 3)])
def test_planes_of_a_killed_run_are_kept(tmp_path: Path, depth: int, kept: int) -> None:
    with open_image(foreign(tmp_path / "in.zarr", "0.4", (1, depth, 16, 32))) as image:
        header = image.header.for_target(tmp_path / "out.zarr")
    whole = written(tmp_path / "whole.zarr", header)
    part = leave(tmp_path / "out.zarr", header, 4)
    (part / "s0" / "1.0.0.0.abc.partial").write_bytes(b"half a chunk")
    with publishing(tmp_path / "in.zarr", tmp_path / "out.zarr", lambda: None, MADE) as mine:
        assert not part.exists()
        assert planes_there(mine, header, MADE) == kept
        assert planes_there(mine, header, {**MADE, "input": "y"}) == 0
        with create_image(mine, header, provenance=MADE, first=kept) as writer:
            for _, c, z in header.planes[kept:]:
                writer.put(PIXELS[c, z])
    files = [
        {p.relative_to(top): p.read_bytes() for p in top.rglob("*") if p.is_file()}
        for top in (whole, tmp_path / "out.zarr")
    ]
    assert files[0] == files[1]


def test_what_was_made_otherwise_is_removed(tmp_path: Path) -> None:
    target, header = tmp_path / "out.zarr", stack(format="out.zarr")
    part = leave(target, header, 4)
    with publishing(tmp_path / "a.tif", target, lambda: None, {**MADE, "input": "y"}) as mine:
        assert not os.listdir(mine)
        assert not part.exists()
        planes = [PIXELS[c, z] for _, c, z in header.planes]
        write_image(mine, header, planes, provenance={**MADE, "input": "y"})
    with publishing(tmp_path / "a.tif", target, lambda: None, MADE) as mine:  # replaces it
        write_image(mine, header, planes, provenance=MADE)
    assert read_provenance(target) == MADE
    assert os.listdir(tmp_path) == ["out.zarr"]


def test_the_whole_ome_xml_goes_from_tiff_to_zarr_and_back(tmp_path: Path) -> None:
    """Zipped, with another depth, and from a group of bioformats2raw, where the document lies."""
    tiff, there, group = (tmp_path / name for name in ("a.ome.tif", "b.ome.zarr", "c.zarr"))
    tifffile.imwrite(tiff, PIXELS, ome=True, metadata={"axes": "CZYX", "PhysicalSizeX": 0.25})
    marks = ("<Instrument ID='Instrument:7'><Microscope Model='Mine'/></Instrument>", "<!-- ü -->")
    old = tifffile.tiffcomment(tiff).replace("<Image ", "".join(marks) + "<Image ", 1)
    tifffile.tiffcomment(tiff, old.encode())
    with open_image(tiff) as image:
        written(there, image.header)
        written(tmp_path / "z.zarr.zip", image.header)
        deep = image.header.with_z(2, 1.0)
    xml = (there / "OME/METADATA.ome.xml").read_text("utf-8")
    assert "MetadataOnly" in xml
    assert "TiffData" not in xml
    assert 'DimensionOrder="XYZCT"' in xml
    written(tmp_path / "deep.zarr", deep, PIXELS[:, :2])
    several = xml.replace("<Image ", "<Image ID='Image:9' Name='x'><Pixels/></Image><Image ", 1)
    (group / "OME").mkdir(parents=True)
    (group / "OME/METADATA.ome.xml").write_text(several, "utf-8")
    shutil.copytree(there, group / "1")
    shutil.rmtree(group / "1/OME")
    for k, source in enumerate(
        [there, tmp_path / "z.zarr.zip", tmp_path / "deep.zarr", group / "1"]
    ):
        with open_image(source) as image:
            back = written(tmp_path / f"{k}.ome.tif", image.header, PIXELS)
        found = tifffile.tiffcomment(back)
        assert all(mark in found for mark in marks), source
        assert "Name='x'" not in found
        assert "MetadataOnly" not in found
        with tifffile.TiffFile(back) as file:
            depth = 2 if "deep" in source.name else 3
            np.testing.assert_array_equal(file.series[0].asarray(), PIXELS[:, :depth])
    (there / "OME/METADATA.ome.xml").write_text("<OME>")
    with open_image(there) as image:
        assert "ome" not in image.header.extra


def test_from_tiff_and_back(tmp_path: Path) -> None:
    tiff, there, back = (tmp_path / name for name in ("a.ome.tif", "b.ome.zarr", "c.ome.tif"))
    metadata = {"axes": "CZYX", "PhysicalSizeX": 0.2, "PhysicalSizeY": 0.1, "PhysicalSizeZ": 0.5}
    metadata["Channel"] = {"Name": ["DAPI", "GFP"]}
    tifffile.imwrite(tiff, PIXELS, ome=True, metadata=metadata)
    for source, target in ((tiff, there), (there, back)):
        with open_image(source) as image:
            written(target, image.header)
    with open_image(tiff) as before, open_image(back) as after:
        assert before.header == after.header
        assert all((before.read(p) == after.read(p)).all() for p in before.header.planes)
