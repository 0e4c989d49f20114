"""Which files of two folders show one image."""

from pathlib import PurePath

from restorectl.batch.inputs import match_names


def names(*texts):
    return [PurePath(text) for text in texts]


def test_equal_names_then_the_only_one_of_an_equal_stem():
    wanted = names("a/x.tif", "y.tif", "z.tif", "twice.tif", "twice.png", "gone.tif")
    there = names("a/x.tif", "a/x.png", "y.png", "b/z.tif", "twice.jpg", "extra.tif")
    found = match_names(wanted, there)
    assert found == {
        PurePath("a/x.tif"): PurePath("a/x.tif"),
        PurePath("y.tif"): PurePath("y.png"),
    }
    assert match_names(names("y.tif"), names("y.png", "y.tiff")) == {}
