"""`--preview`: a picture of what was done, beside each result."""

import shutil

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from restorectl.batch.inputs import walk
from restorectl.batch.outcome import Silent
from restorectl.images.image import open_image, read_provenance
from restorectl.images.pictures import MARGIN, SIDE, TITLE
from restorectl.jobs import DenoiseJob, Files, RestoreJob
from restorectl.restoration import preview
from restorectl.restoration.denoise import denoise
from restorectl.restoration.restore import restore
from tests.phantom import camera, scene


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two channels of 72 x 300 px, the second without anything."""
    noisy, _ = camera(scene("nuclei", (72, 300), 1), 200, 2, 100, 3, 0)
    path = tmp_path_factory.mktemp("preview") / "two.tif"
    tifffile.imwrite(path, np.stack([noisy, np.full_like(noisy, 7)]), imagej=True,
                     metadata={"axes": "CYX"})  # fmt: skip
    return path, noisy


def read(path):
    with open_image(path) as image:
        return np.stack([image.read(plane) for plane in image.header.planes], -1)


@pytest.mark.parametrize("command", ["restore", "denoise"])
def test_the_picture_shows_the_pixels_before_and_after(source, tmp_path, command):
    path, noisy = source
    files = Files((str(path),), str(tmp_path / "out.tif"), axes="CYX")
    if command == "restore":
        (outcome,) = restore(RestoreJob(files, preview=True), Silent())
    else:
        (outcome,) = denoise(DenoiseJob(files, preview=True), Silent())
    assert outcome.status == "done", outcome.message
    shown = tmp_path / "out_preview.png"  # beside the file that was asked for
    assert sorted(outcome.outputs) == [str(tmp_path / "out.tif"), str(shown)]
    assert read_provenance(shown) == read_provenance(tmp_path / "out.tif")
    after = tifffile.imread(tmp_path / "out.tif")[0]
    picture, top = read(shown)[..., 0], MARGIN + 2 * TITLE
    low, high = np.percentile(after, preview.SHOWN)
    for k, values in enumerate((noisy, after)):
        left = MARGIN + k * (300 + MARGIN)
        wanted = np.rint(255 * np.clip((values - low) / (high - low), 0, 1))
        assert np.array_equal(picture[top : top + 72, left : left + 300], wanted)
    residual = picture[top : top + 72, 2 * (300 + MARGIN) + MARGIN :][:, :300].astype(float)
    assert np.corrcoef(residual.ravel(), (noisy - after.astype(float)).ravel())[0, 1] > 0.2


def test_a_result_without_a_preview_is_up_to_date_after_one_with_it(source, tmp_path):
    path, _ = source
    files = Files((str(path),), str(tmp_path), axes="CYX")
    statuses = [
        restore(RestoreJob(files, preview=wanted), Silent())[0].status
        for wanted in (True, True, False)
    ]
    assert statuses == ["done", "skipped", "skipped"]


def test_previews_are_no_images_of_a_folder(source, tmp_path):
    path, _ = source
    shutil.copy(path, tmp_path / "b.tif")
    files = Files((str(path),), str(tmp_path), axes="CYX")
    restore(RestoreJob(files, preview=True), Silent())
    shutil.copy(tmp_path / "two_preview.png", tmp_path / "other_preview.png")  # of no image here
    iio.imwrite(tmp_path / "b_preview.png", np.zeros((8, 8), np.uint8))  # not ours
    found = [str(each) for each in walk(tmp_path, None)]
    assert found == ["b.tif", "b_preview.png", "other_preview.png", "two.tif"]


def test_of_a_large_plane_the_part_with_most_contrast_is_shown_at_full_resolution():
    plane = np.zeros((SIDE + 300, 2 * SIDE))
    plane[300:400, SIDE + 10 : SIDE + 100] = 5
    (whole, reduce, step), (place, cut, one) = preview._views(plane)
    assert (whole, step, one) == (["reduced 2 times"], 2, 1)
    assert reduce(plane).shape == (406, 512)
    assert cut(plane).sum() == plane.sum()
    assert cut(plane).shape == (SIDE, SIDE)
    assert place == ["rows 0 to 511, columns 256 to 767"]
