"""Files whose header is damaged anywhere: restored right, or one line that says what is wrong."""

import logging

import pytest
import tifffile

from restorectl.errors import InputError
from restorectl.images.image import open_image
from restorectl.images.tiff import ifd
from tests.mutations import STACK, fields, samples, verdicts

# No reader can check where uncompressed pixels are, and what the colours of a JPEG are
UNKNOWABLE = tuple(f"tag {code} " for code in (ifd.STRIP_OFFSETS, ifd.PHOTOMETRIC))
BYTES = 2 << 30


@pytest.mark.slow
def test_a_thousand_damaged_headers(tmp_path):
    logging.disable()  # of tifffile, which reads them for comparison
    try:
        run = verdicts(tmp_path / "place", 1000)
    finally:
        logging.disable(logging.NOTSET)
    assert run.code == 3
    assert not run.traceback
    assert len(run.verdicts) == 1000
    wrong = [v for v in run.verdicts if v.kind in ("bug", "silent")]
    wrong += [
        v for v in run.verdicts if v.kind == "alone" and not any(map(v.damage.count, UNKNOWABLE))
    ]
    assert wrong == []
    assert min(run.counts()[kind] for kind in ("same", "failed")) > 250
    assert run.peak < BYTES


def test_the_generator_finds_the_fields_of_every_format(tmp_path):
    counts = {
        name: len(fields(path.read_bytes())) for name, path in samples(tmp_path / "a").items()
    }
    assert len(counts) == 16
    assert min(counts.values()) > 25
    for path in (tmp_path / "a").iterdir():
        open_image(path).close()


def changed(path, code, value=None, kind=None, count=None):
    """Write a TIFF of one page, with one entry of its directory changed."""
    tifffile.imwrite(path, STACK[0], metadata=None, **({"compression": 8} if code == 259 else {}))
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[0].tags[code].offset
    data = bytearray(path.read_bytes())
    for place, length, new in ((2, 2, kind), (4, 4, count), (8, 4, value)):
        if new is not None:
            data[at + place : at + place + length] = new.to_bytes(length, "little")
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"code": ifd.ROWS_PER_STRIP, "kind": 2}, "no usable number in tag 278"),
        ({"code": ifd.BITS, "count": 0}, "no usable number in tag 258"),
        ({"code": ifd.PHOTOMETRIC, "value": 2}, "has colours, but 1 samples"),
        ({"code": ifd.COMPRESSION, "value": 2}, "for black and white"),
        ({"code": ifd.COMPRESSION, "kind": 99}, "does not say how it is compressed"),
        ({"code": ifd.STRIP_OFFSETS, "value": 8}, "overlap"),
        ({"code": ifd.SAMPLES, "value": 0}, "0 samples"),
    ],
)
def test_tags_that_contradict_each_other(tmp_path, change, words):
    changed(tmp_path / "a.tif", **change)
    with pytest.raises(InputError, match=rf"a\.tif: .*{words}.*damaged"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('SizeZ="3"', 'SizeZ="999999999"', "describes 999999999 planes, but there are 3: damaged"),
        ('SizeZ="3"', 'SizeZ="-3"', "SizeZ='-3': damaged"),
        ('IFD="0"', 'IFD="x"', "IFD='x': damaged"),
        ("<Pixels", "<A>" * 100_000 + "<Pixels", "nested more than 100 deep"),
    ],
)
def test_ome_that_cannot_be_true(tmp_path, old, new, words):
    tifffile.imwrite(tmp_path / "whole.ome.tif", STACK, metadata={"axes": "ZYX"})
    text = tifffile.tiffcomment(tmp_path / "whole.ome.tif")
    assert old in text
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        for k, plane in enumerate(STACK):
            told = text.replace(old, new).encode() if k == 0 else None
            writer.write(plane, description=told, metadata=None)
    with pytest.raises(InputError, match=words):
        open_image(tmp_path / "a.ome.tif")
