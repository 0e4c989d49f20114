"""Pairs of images: names, sizes and alignment are checked, and both come on one scale, where the
target is what a perfect restoration would reach."""

import numpy as np
import pytest
import tifffile
import torch

from restorectl.errors import NoInputError
from restorectl.intensity import whitening
from restorectl.intensity.whitening import Intensity
from restorectl.training.dataset import CropSampler, split
from restorectl.training.pairs import PairReader, matched, matched_target, scan_pairs
from tests import phantom

SIDE, MARGIN = 160, 24


def write(folder, name, image):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, image)


def exposures(seed, degrees=0.0, shift=(0.0, 0.0), gain=1.0, kind="mixed", photons=60):
    """(noisy, clean) uint16 of one field; the clean one turned, moved and `gain` as bright."""
    scene = phantom.scene(kind, (SIDE + 2 * MARGIN,) * 2, seed)
    centre = (SIDE - 1) / 2 + MARGIN
    y, x = np.mgrid[:SIDE, :SIDE] + MARGIN - centre
    angle = np.radians(degrees)
    at = (
        np.cos(angle) * y - np.sin(angle) * x + centre + shift[0],
        np.sin(angle) * y + np.cos(angle) * x + centre + shift[1],
    )
    moved = scene
    if degrees or any(shift):
        ndimage = pytest.importorskip("scipy.ndimage")
        moved = ndimage.map_coordinates(scene, at, order=3)
    else:
        moved = scene[MARGIN:-MARGIN, MARGIN:-MARGIN]
    noisy, _ = phantom.camera(moved, photons, 20, 100, 1.0, seed)
    clean = scene[MARGIN:-MARGIN, MARGIN:-MARGIN] * photons * 20 * gain + 100
    return noisy, np.rint(clean).astype(np.uint16)


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "clean", tmp_path / "noisy"


def fill(folders, **images):
    for name, (noisy, clean) in images.items():
        write(folders[0], f"{name}.tif", clean)
        write(folders[1], f"{name}.tif", noisy)


def test_a_pair_is_read_on_one_scale(folders):
    noisy, clean = exposures(1, gain=5.0)
    fill(folders, a=(noisy, clean))
    found = scan_pairs(*folders, 1)
    assert found.warnings == ()
    (pair,) = found.pairs
    assert isinstance(pair.models[0], Intensity)
    assert pair.matches[0].scale[0] == pytest.approx(0.2, abs=0.01)
    reader = PairReader(found.pairs, 1 << 20)
    regions, _ = split(reader, 1, 0.0, 16)
    crops = CropSampler(reader, regions, 0.5).batch(0, 1, 0, 6, 48)
    assert crops.pixels.shape == crops.partner.shape == (6, 1, 48, 48)
    assert crops.pixels.dtype == crops.partner.dtype == torch.float32
    error = (crops.partner - crops.pixels).numpy()
    assert abs(error.mean()) < 0.02
    assert error.std() == pytest.approx(pair.models[0].sigma / 1.05, rel=0.15)
    assert np.percentile(crops.partner, [1, 99]) == pytest.approx([-1, 1], abs=0.5)
    again = PairReader(found.pairs, 1)  # no room: every plane is read anew
    assert np.array_equal(
        again.read(regions).pixels[:, :, :, 0], reader.read(regions).pixels[:, :, :, 0]
    )


@pytest.mark.slow
def test_stacks_with_channels(folders):
    planes = [[exposures(10 * z + c) for c in range(2)] for z in range(2)]
    noisy, clean = (np.array([[p[k] for p in row] for row in planes]) for k in (0, 1))
    for folder, stack in zip(folders, (clean, noisy), strict=True):
        folder.mkdir()
        tifffile.imwrite(folder / "s.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
    found = scan_pairs(*folders, 2)
    reader = PairReader(found.pairs, 1 << 24)
    regions, _ = split(reader, 2, 0.0, 16)
    assert len(regions) == 2
    crops = reader.read(regions)
    assert crops.pixels.shape == (2, 2, SIDE, SIDE)
    for z in range(2):
        for c in range(2):
            a, b = crops.pixels[z, c].ravel(), crops.partner[z, c].ravel()
            assert np.corrcoef(a, b)[0, 1] > 0.8
    assert np.corrcoef(crops.pixels[0, 0].ravel(), crops.pixels[1, 0].ravel())[0, 1] < 0.7


@pytest.mark.slow
def test_what_does_not_match_is_left_out_and_named(folders):
    fill(
        folders,
        good=exposures(1),
        moved=exposures(2, shift=(1.5, -0.75)),
        small=(exposures(3)[0], exposures(3)[1][:-16]),
        other=(exposures(4)[0], exposures(5)[1]),
    )
    write(folders[0], "only/here.tif", exposures(6)[1])
    write(folders[1], "there.tif", exposures(6)[0])
    found = scan_pairs(*folders, 1)
    assert [pair.noisy.name for pair in found.pairs] == ["good.tif"]
    text = "\n".join(found.warnings)
    assert len(found.warnings) == 5
    assert all("\n" not in line for line in found.warnings)
    assert "for 1 in" in text
    assert "only/here.tif" in text
    assert "there.tif" in text
    assert "moved.tif: its clean image is shifted by" in text
    assert "`register` rigid" in text
    assert "small.tif: has shape 1x1x1x160x160 (t, c, z, y, x), but" in text
    assert "other.tif: its clean image shows another field" in text


def test_half_a_pixel_is_accepted(folders):
    fill(folders, a=exposures(2, shift=(0.25, -0.25)))
    assert len(scan_pairs(*folders, 1).pairs) == 1


@pytest.mark.parametrize("photons", [1, 3])
def test_aligned_pairs_in_weak_light_are_no_shifted_ones(folders, photons):
    kinds = ("mixed", "nuclei", "filaments")
    pairs = {
        f"{kind}{s}": exposures(s, kind=kind, photons=photons) for kind in kinds for s in (0, 1)
    }
    others = {"o1": (pairs["nuclei0"][0], pairs["nuclei1"][1])}
    shifted = {"s1": exposures(3, shift=(6.0, -4.0), photons=photons)}
    fill(folders, **pairs, **others, **shifted)
    found = scan_pairs(*folders, 1)
    assert {pair.noisy.name for pair in found.pairs} == {f"{name}.tif" for name in pairs}


def test_a_larger_shift_can_be_allowed(folders):
    fill(folders, a=exposures(2, shift=(1.5, -0.75)))
    with pytest.raises(NoInputError, match="or allow it with `max_shift`"):
        scan_pairs(*folders, 1)
    assert len(scan_pairs(*folders, 1, max_shift=2.0).pairs) == 1


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_aligned_pairs_agree(folders, kind):
    fill(folders, a=exposures(2, degrees=2.0, shift=(3.5, -2.25), gain=3.0))
    with pytest.raises(NoInputError, match="`register` rigid"):
        scan_pairs(*folders, 1)
    found = scan_pairs(*folders, 1, align=kind)
    (pair,) = found.pairs
    first, last, left, right = pair.area
    assert SIDE - 24 < last - first < SIDE
    assert pair.cropped().shape == (1, 1, 1, last - first, right - left)
    assert pair.transform.shift == pytest.approx((3.5, -2.25), abs=0.1)
    assert pair.transform.matrix[1][0] == pytest.approx(np.sin(np.radians(2.0)), abs=2e-3)
    reader = PairReader(found.pairs, 1 << 24)
    crops = reader.read(split(reader, 1, 0.0, 16)[0])
    error = (crops.partner - crops.pixels).numpy()
    assert error.std() == pytest.approx(pair.models[0].sigma / 1.05, rel=0.15)
    assert (
        found.fingerprint()
        != scan_pairs(*folders, 1, align="affine" if kind == "rigid" else ("rigid")).fingerprint()
    )


def test_no_pair_at_all(folders):
    fill(folders, a=exposures(1))
    (folders[1] / "a.tif").rename(folders[1] / "b.tif")
    with pytest.raises(NoInputError, match="no usable pair of images with equal relative names"):
        scan_pairs(*folders, 1)
    with pytest.raises(NoInputError, match="no such folder"):
        scan_pairs(folders[0], folders[1] / "nowhere", 1)


def test_the_match_is_not_pulled_down_by_noise():
    clean = phantom.scene("mixed", (131, 150), 1) * 900 + 50
    noisy = 0.2 * clean - 3 + np.random.default_rng(0).normal(0, 40, clean.shape)
    gain, offset = matched(clean, noisy).scale
    assert gain == pytest.approx(0.2, abs=0.01)
    assert offset == pytest.approx(-3, abs=3)
    assert matched(np.full((16, 16), 7.0), noisy[:16, :16]).scale == (1.0, 0.0)


@pytest.mark.parametrize("photons", [3, 30, 1000])
def test_the_target_inverts_to_the_clean_image_and_is_the_mean_of_the_input(photons):
    scene = phantom.scene("nuclei", (256, 256), 2)
    noisy, clean = phantom.camera(scene, photons, 2.0, 100, 1.0, 5, dtype=np.float32)
    model = whitening.fit([noisy], gain=2.0, offset=100.0, read_noise=2.0)
    target = matched_target(clean, model)
    assert model.inverse(target) == pytest.approx(clean, abs=2e-3 * float(np.ptp(clean)))
    assert (model.forward(noisy) - target).mean() == pytest.approx(0, abs=0.02)
    far = np.array([clean.min() - 1e4, clean.max() + 1e4], np.float32)
    assert model.inverse(matched_target(far, model)) == pytest.approx(far, rel=0.01)


def test_the_stabilised_clean_image_would_be_biased():
    """Why the target is not simply `forward` of the clean image."""
    scene = phantom.scene("nuclei", (256, 256), 2)
    noisy, clean = phantom.camera(scene, 2, 2.0, 0, 0.0, 5, dtype=np.float32)
    model = whitening.fit([noisy], gain=2.0, offset=0.0, read_noise=0.0)
    plain = (model.forward(noisy) - model.forward(clean)).mean()
    right = (model.forward(noisy) - matched_target(clean, model)).mean()
    assert abs(right) < 0.1 * abs(plain)
