"""Training crops: pure functions of (seed, step, position); nothing is replaced silently."""

import hashlib

import numpy as np
import pytest
import tifffile
import torch

from restorectl.errors import InputError, NoInputError, UsageError
from restorectl.training import dataset
from restorectl.training.dataset import CropSampler, ImageReader, random, scan, split


def image(shape, seed=0, dtype=np.uint16):
    rng = np.random.default_rng(seed)
    return (100 + 900 * rng.random(shape)).astype(dtype)


def write(path, pixels, axes="YX"):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, metadata={"axes": axes}, imagej=len(axes) > 2)
    return pixels


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "a" / "one.tif", image((200, 150)))
    write(tmp_path / "b.tif", image((4, 90, 80), 1), "ZYX")
    return tmp_path


@pytest.fixture
def patches():
    """Crops of a folder; files are closed after the test."""
    made = []

    def make(folder, cache=1 << 20, validation=False, channels=1, fraction=0.1, crop=16):
        images = scan(folder, channels).images
        made.append(ImageReader(images, cache))
        return CropSampler(made[-1], split(made[-1], channels, fraction, crop)[validation], 0.5)

    yield make
    for reader in made:
        reader.close()


def test_crops_are_a_function_of_seed_step_and_position(folder, patches):
    whole = patches(folder).batch(3, 7, 0, 12, 32)
    assert whole.pixels.shape == (12, 1, 32, 32)
    assert whole.pixels.dtype == torch.float32
    assert whole.ranges.shape == (12, 1, 3)
    small = patches(folder, cache=1)  # every crop is read by itself
    pieces = [small.batch(3, 7, start, 4, 32).pixels for start in (8, 0, 4)]
    assert np.array_equal(np.concatenate([pieces[1], pieces[2], pieces[0]]), whole.pixels)
    for other in ((4, 7), (3, 8)):
        assert not np.array_equal(patches(folder).batch(*other, 0, 12, 32).pixels, whole.pixels)


def test_crops_are_cut_from_the_images_and_know_their_range(folder, patches):
    pixels = tifffile.imread(folder / "a" / "one.tif").astype(np.float32)
    found = 0
    many = patches(folder).batch(0, 1, 0, 40, 16)
    for crop, ends in zip(many.pixels[:, 0].numpy(), many.ranges[:, 0, 1:], strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (16, 16))
        rows, cols = np.nonzero(windows[..., 0, 0] == crop[0, 0])
        if any(np.array_equal(windows[r, c], crop) for r, c in zip(rows, cols, strict=True)):
            found += 1
            assert ends.tolist() == pytest.approx(np.percentile(pixels, (0.5, 99.9)), rel=0.01)
    assert 5 < found < 35


def test_validation_rows_are_never_trained_on(tmp_path, patches):
    rows = np.repeat(np.arange(200, dtype=np.uint16)[:, None], 100, 1)
    write(tmp_path / "rows.tif", rows)
    train = patches(tmp_path, crop=16).batch(0, 1, 0, 300, 16).pixels
    kept = patches(tmp_path, validation=True, crop=16).batch(0, 0, 0, 300, 16).pixels
    assert (train.min(), train.max()) == (0, 179)
    assert (kept.min(), kept.max()) == (180, 199)


def test_small_planes_are_for_training_only(tmp_path, patches):
    write(tmp_path / "small.tif", image((60, 60)))
    assert not patches(tmp_path, validation=True).fits(16)
    assert patches(tmp_path).height.tolist() == [60]


def test_images_that_cannot_be_used_are_left_out_and_named(folder):
    (folder / "broken.tif").write_bytes(b"II*\0 not a tiff at all")
    (folder / "empty.tif").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.tif").write_bytes(b"")
    write(folder / "flat.tif", np.full((50, 50), 7, np.uint8))
    holes = image((50, 50)).astype(np.float32)
    holes[3, 4] = np.nan
    write(folder / "holes.tif", holes)
    found = scan(folder, 1)
    assert [s.name for s in found.images] == ["a/one.tif", "b.tif"]
    assert len(found.warnings) == 4
    for name, warning in zip(
        ("broken.tif", "empty.tif", "flat.tif", "holes.tif"), found.warnings, strict=True
    ):
        assert name in warning
    assert "constant" in found.warnings[2]
    assert "NaN" in found.warnings[3]


def test_a_cut_off_stack_is_named(folder):
    raw = (folder / "b.tif").read_bytes()
    (folder / "cut.tif").write_bytes(raw[: len(raw) // 2])
    found = scan(folder, 1)
    assert [s.name for s in found.images] == ["a/one.tif", "b.tif"]
    assert "cut.tif" in found.warnings[0]


def test_nothing_usable(tmp_path):
    with pytest.raises(NoInputError, match="no usable image"):
        scan(tmp_path, 1)
    with pytest.raises(NoInputError, match="no such folder"):
        scan(tmp_path / "missing", 1)
    (tmp_path / "bad.tif").write_bytes(b"")
    with pytest.raises(NoInputError, match=r"1 left out, first: .*bad\.tif"):
        scan(tmp_path, 1)


def test_an_image_that_fails_later_stops_the_run(folder, patches):
    sampler = patches(folder)
    (folder / "a" / "one.tif").unlink()
    with pytest.raises(InputError, match=r"one\.tif"):
        sampler.batch(0, 1, 0, 40, 16)


def test_the_fingerprint_follows_the_images(folder):
    before = scan(folder, 1).fingerprint()
    assert scan(folder, 1).fingerprint() == before
    write(folder / "b.tif", image((4, 90, 80), 2), "ZYX")
    assert scan(folder, 1).fingerprint() != before


def test_the_fingerprint_is_that_of_checkpoints_of_earlier_versions(tmp_path):
    pixels = np.arange(3000, dtype=np.uint16).reshape(50, 60)
    write(tmp_path / "a" / "one.tif", pixels)
    low, high = (float(v) for v in np.percentile(pixels, (0.5, 99.9)))
    text = (
        "[Source(path=PosixPath('.'), name='a/one.tif', axes=None, shape=(1, 1, 1, 50, 60),"
        f" dtype='uint16', dark=(0.0,), low=({low},), high=({high},))]"
    )
    found = scan(tmp_path, 1)
    assert found.fingerprint() == hashlib.sha256(text.encode()).hexdigest()
    region = split(ImageReader(found.images, 1), 1, 0.0, 16)[0][0]
    assert repr(region) == (
        "Part(source=0, channels=(0,), t=0, z=0, first=0, last=50, left=0, right=60)"
    )


def test_the_cache_is_bounded_and_large_planes_are_read_in_parts(folder, monkeypatch, patches):
    plane = 90 * 80 * 2
    sampler = patches(folder, cache=4 * plane)
    asked = []
    real = dataset.open_image

    def spying(path, **options):
        opened = real(path, **options)
        read = opened.read
        monkeypatch.setattr(
            opened, "read", lambda p, *r: asked.append((path.name, *r)) or read(p, *r)
        )
        return opened

    monkeypatch.setattr(dataset, "open_image", spying)
    for step in range(1, 6):
        sampler.batch(0, step, 0, 16, 16)
        assert sampler.reader.cache.held <= 4 * plane
    assert {len(a) for a in asked if a[0] == "b.tif"} == {1}  # whole planes, once each
    assert len([a for a in asked if a[0] == "b.tif"]) == 4
    parts_read = [a for a in asked if a[0] == "one.tif"]
    assert all(a[1].stop - a[1].start == 16 for a in parts_read)
    sampler.reader.close()
    assert sampler.reader.cache.held == 0


def test_several_channels_are_cut_together(tmp_path, patches):
    both = write(tmp_path / "two.tif", image((2, 64, 64)), "CYX")
    write(tmp_path / "one.tif", image((64, 64)))
    found = scan(tmp_path, 2)
    assert [s.name for s in found.images] == ["two.tif"]
    assert "has 1 channels, the recipe needs 2" in found.warnings[0]
    crops = patches(tmp_path, channels=2, fraction=0).batch(0, 1, 0, 3, 64)
    assert np.array_equal(crops.pixels, np.stack([both] * 3).astype(np.float32))
    assert crops.ranges.shape == (3, 2, 3)


def test_binning_averages_pixels(tmp_path, patches):
    pixels = write(tmp_path / "one.tif", image((32, 32)))
    crops = patches(tmp_path, fraction=0).batch(0, 1, 0, 2, 16, [2])
    expected = pixels.astype(np.float32).reshape(16, 2, 16, 2).mean((1, 3))
    assert np.allclose(crops.pixels, expected)


@pytest.mark.parametrize("channels", [1, 2])
def test_held_regions_give_the_same_crops(tmp_path, patches, channels):
    for seed, shape in enumerate(((2, 70, 90), (2, 64, 40))):
        write(tmp_path / f"{seed}.tif", image(shape, seed), "CYX")
    files, held = (patches(tmp_path, channels=channels) for _ in range(2))
    held.hold(torch.device("cpu"), 1 << 20)
    assert held.held is not None
    (tmp_path / "0.tif").rename(tmp_path / "gone")
    held.reader.close()
    both = [sampler.batch(3, 7, 5, 40, 16, [1, 2]) for sampler in (held,)]
    (tmp_path / "gone").rename(tmp_path / "0.tif")
    both.append(files.batch(3, 7, 5, 40, 16, [1, 2]))
    assert torch.equal(both[0].pixels, both[1].pixels)
    assert torch.equal(both[0].ranges, both[1].ranges)


def test_regions_that_do_not_fit_are_not_held(tmp_path, patches):
    write(tmp_path / "one.tif", image((64, 64)))
    sampler = patches(tmp_path, fraction=0)
    sampler.hold(torch.device("cpu"), 64 * 64 * 4 - 1)
    assert sampler.held is None
    sampler.hold(torch.device("cpu"), 64 * 64 * 4)
    assert sampler.held is not None


def test_each_crop_has_a_binning_of_its_own(tmp_path, patches):
    """Rows that alternate between 0 and 100: their means over two rows are all 50."""
    rows = np.repeat(np.arange(64, dtype=np.uint8)[:, None] % 2 * 100, 64, 1)
    write(tmp_path / "rows.tif", rows)
    sampler = patches(tmp_path, fraction=0)
    whole = sampler.batch(0, 1, 0, 200, 16, [1, 2]).pixels
    binned = (whole == 50).all(3).all(2)[:, 0]
    assert 70 < int(binned.sum()) < 130
    assert torch.equal(sampler.batch(0, 1, 90, 20, 16, [1, 2]).pixels, whole[90:110])


def test_crops_larger_than_every_image(folder, patches):
    assert not patches(folder).fits(500)
    with pytest.raises(UsageError, match="500 px: lower data"):
        patches(folder).batch(0, 1, 0, 4, 500)


def test_random_numbers_are_uniform_and_independent():
    a, b = (random(0, 1, np.arange(50_000, dtype=np.uint64), stream) for stream in (0, 1))
    assert (a.min() >= 0) & (a.max() < 1)
    assert np.histogram(a, 10, (0, 1))[0] == pytest.approx(5000, rel=0.06)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.02


def test_three_planes_of_a_stack_are_read_together(tmp_path):
    """All channels of the first plane come first; held on the device, they are the same."""
    stack = image((4, 2, 40, 48))
    write(tmp_path / "s.tif", stack, "ZCYX")
    write(tmp_path / "thin/t.tif", stack[:2], "ZCYX")
    reader = ImageReader(scan(tmp_path, 2).images, 1 << 20, planes=3)
    regions, _ = split(reader, 2, 0.0, 16)
    assert [(r.image, r.z) for r in regions] == [(0, 0), (0, 1)]  # the other has too few
    found = reader.read(regions)
    assert np.array_equal(found.pixels, [stack[k : k + 3].reshape(6, 40, 48) for k in (0, 1)])
    assert found.ranges.shape == (2, 6, 3)
    samplers = [CropSampler(reader, regions, 0.5) for _ in range(2)]
    samplers[0].hold(torch.device("cpu"), 1 << 30)
    held, read = (sampler.batch(0, 1, 0, 5, 16) for sampler in samplers)
    assert torch.equal(held.pixels, read.pixels)
    assert torch.equal(held.ranges, read.ranges)
    alone = ImageReader(scan(tmp_path / "thin", 2).images, 1, planes=3)
    with pytest.raises(UsageError, match="no stack has 3 planes"):
        split(alone, 2, 0.0, 16)
    for each in (reader, alone):
        each.close()
