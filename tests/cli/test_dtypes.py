"""What the dtype of an image does to its values: low counts, large offsets, copies."""

import json

import numpy as np
import pytest
import tifffile

from tests.command import run
from tests.phantom import scene

pytestmark = pytest.mark.slow

SHAPE = (64, 600)  # two tiles


def counts(mean, seed=0):
    light = 0.05 + scene("nuclei", SHAPE, 2)
    return np.random.default_rng(seed).poisson(mean * light / light.mean())


def noisy(offset, dtype):
    """(noisy, clean) with noise of standard deviation 17, far from 0."""
    clean = 1000 * scene("nuclei", SHAPE, 2)
    made = clean + np.random.default_rng(1).normal(0, 17, SHAPE)
    return np.rint(made + offset).astype(dtype), clean + offset


@pytest.mark.parametrize(
    ("dtype", "offset"), [("int64", 0), ("int64", -(2**45)), ("uint64", 2**50)]
)
def test_integers_of_64_bits(written, tmp_path, dtype, offset):
    pixels, clean = noisy(offset, dtype)
    pixels[:20, :30] = offset - 9000
    source = written(pixels)
    for words in ((), ("--noise", "none")):
        run("restore", source, "-o", tmp_path / "out.tif", *words, check=0)
        out = tifffile.imread(tmp_path / "out.tif")
        assert out.dtype == dtype
        assert np.array_equal(out[:20, :30], pixels[:20, :30])
        if words:
            assert np.array_equal(out, pixels)
            continue
        error = (out - pixels.dtype.type(offset)).astype(float) - (clean - offset)
        assert abs(error[20:].mean()) < 1
        assert error[20:].std() < 8
        assert len(np.unique(out)) > 500


def test_integers_that_no_float_holds_are_refused_before_the_work(written, tmp_path):
    source = written((noisy(0, "int64")[0] + 2**60).astype(np.uint64))
    done = run("restore", source, "-o", tmp_path / "out.tif", check=3)
    assert "integers beyond 2^53" in done.stderr
    run("restore", source, "-o", tmp_path / "out.tif", "--noise", "none", check=0)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), tifffile.imread(source))


def test_error_bars_and_levels_are_as_near_zero(written, tmp_path):
    pixels, clean = noisy(2**28, "uint32")
    far, near = written(pixels), written((pixels - 2**28 + 200).astype(np.uint16), "near.tif")
    run("uncertainty", far, "-o", tmp_path / "bars", "--samples", 4, "--steps", 4, check=0)
    low, high = (tifffile.imread(tmp_path / f"bars/image_{k}.tif") for k in ("lower", "upper"))
    assert low.dtype == np.float64
    assert np.mean((low <= clean) & (clean <= high)) > 0.8
    assert np.median(high - low) < 17
    done = run("calibrate", far, near, "--json", check=0)
    one, two = (json.loads(line)["details"] for line in done.stdout.splitlines())
    assert one["channels"][0]["std"] == pytest.approx(two["channels"][0]["std"], rel=0.1)
    assert one["channels"][0]["std"] == pytest.approx(17, rel=0.2)


@pytest.fixture
def written(tmp_path):
    def write(pixels, name="image.tif"):
        tifffile.imwrite(tmp_path / name, pixels)
        return tmp_path / name

    return write


@pytest.mark.parametrize(("dtype", "mean"), [("uint8", 0.1), ("uint16", 0.4), ("uint8", 3)])
def test_low_counts_keep_their_mean(written, tmp_path, dtype, mean):
    image = counts(mean).astype(dtype)
    done = run("restore", written(image), "-o", tmp_path / "out.tif", "--json", check=0)
    result, told = tifffile.imread(tmp_path / "out.tif"), json.loads(done.stdout)
    assert result.dtype == dtype
    assert result.mean() / image.mean() == pytest.approx(1, abs=0.03)
    assert told["details"]["noise"]["0"]["noise"]["photon_counts"]
    said = [text for text in told["warnings"] if "dithered" in text]
    assert said == [
        "values are finer than one grey level: dithered; --dtype float32 writes them unrounded"
    ]


def test_floats_are_written_unrounded_on_request(written, tmp_path):
    image = counts(0.4)
    source = written(image.astype(np.uint8))
    for command in ("restore", "denoise"):
        out = tmp_path / f"{command}.tif"
        done = run(command, source, "-o", out, "--dtype", "float32", "--json", check=0)
        result = tifffile.imread(out)
        assert result.dtype == np.float32
        assert len(np.unique(result)) > result.size // 4
        assert result.mean() / image.mean() == pytest.approx(1, abs=0.01)
        assert "dithered" not in done.stdout
    again = run("restore", source, "-o", tmp_path / "restore.tif", "--json", check=0)
    assert json.loads(again.stdout)["status"] == "done", "another dtype is another result"
    assert tifffile.imread(tmp_path / "restore.tif").dtype == np.uint8


def test_floats_of_a_png_are_written_as_tiff(tmp_path):
    import imageio.v3 as iio

    iio.imwrite(tmp_path / "image.png", counts(3).astype(np.uint8))
    run("restore", tmp_path / "image.png", "-o", tmp_path / "out", "--dtype", "float32", check=0)
    assert tifffile.imread(tmp_path / "out/image.tif").dtype == np.float32


def test_dither_depends_on_seed_and_place_alone(written, tmp_path):
    source = written(counts(0.4).astype(np.uint8))
    made = {}
    for name, words in {
        "a": ("--batch", 1, "--threads", 1),
        "b": ("--batch", 5, "--threads", 2),
        "c": ("--seed", 1),
    }.items():
        out = tmp_path / f"{name}.tif"
        run("restore", source, "-o", out, "--precision", "fp32", *words, check=0)
        made[name] = tifffile.imread(out)
    assert np.array_equal(made["a"], made["b"])
    changed = made["a"] != made["c"]
    assert 0.02 < changed.mean() < 0.9
    assert np.abs(made["a"].astype(int) - made["c"]).max() == 1


def test_shards_and_copied_channels(tmp_path):
    """A channel that is not restored is copied; the other is as in a run of its own."""
    planes = np.stack([counts(0.4), counts(1, 1)]).astype(np.uint16)
    source = tmp_path / "in"
    source.mkdir()
    axes = {"photometric": "minisblack", "metadata": {"axes": "CYX"}}
    for name in ("a", "b"):
        tifffile.imwrite(source / f"{name}.tif", planes, **axes)
    run("restore", source, "-o", tmp_path / "all", "--channels", 0, check=0)
    for part in ("1/2", "2/2"):
        words = ("--channels", 0, "--shard", part)
        run("restore", source, "-o", tmp_path / "parts", *words, check=0)
    for name in ("a.tif", "b.tif"):
        whole = tifffile.imread(tmp_path / "all" / name)
        assert np.array_equal(whole[1], planes[1])
        assert not np.array_equal(whole[0], planes[0])
        assert np.array_equal(whole, tifffile.imread(tmp_path / "parts" / name))


def test_the_mean_of_uncertainty_keeps_low_counts(written, tmp_path):
    image = counts(0.4).astype(np.uint8)
    words = ("--samples", 3, "--steps", 2)
    run("uncertainty", written(image), "-o", tmp_path / "out", *words, check=0)
    mean = tifffile.imread(tmp_path / "out/image_mean.tif")
    assert mean.mean() / image.mean() == pytest.approx(1, abs=0.03)


OFFSETS = [("uint16", 0), ("uint32", 2**28), ("int32", -(2**29)), ("float64", 1e9)]


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """(noisy, restored) of an image without an offset."""
    folder = tmp_path_factory.mktemp("ordinary")
    rng, light = np.random.default_rng(0), 20 + 200 * scene("nuclei", SHAPE, 3)
    noisy = np.rint(100 + 2 * rng.poisson(light / 2) + rng.normal(0, 1.6, SHAPE))
    tifffile.imwrite(folder / "in.tif", noisy.astype(np.float32))
    run("restore", folder / "in.tif", "-o", folder / "out.tif", check=0)
    return noisy, tifffile.imread(folder / "out.tif").astype(float)


@pytest.mark.parametrize(("dtype", "offset"), OFFSETS)
def test_a_large_offset_changes_nothing(written, tmp_path, ordinary, dtype, offset):
    noisy, restored = ordinary
    source = written((noisy + offset).astype(dtype))
    done = run("restore", source, "-o", tmp_path / "out.tif", "--json", check=0)
    result = tifffile.imread(tmp_path / "out.tif")
    assert result.dtype == dtype
    assert abs((result.astype(float) - offset).mean() - noisy.mean()) < 1
    assert np.abs(result.astype(float) - offset - restored).max() < 4
    assert np.mean((result.astype(float) - offset - restored) ** 2) < 0.2
    told = json.loads(done.stdout)["details"]["noise"]["0"]["noise"]
    assert told["offset"] - offset == pytest.approx(100, abs=30)


def test_maps_of_uncertainty_with_a_large_offset(written, tmp_path, ordinary):
    noisy, restored = ordinary
    words = ("--samples", 3, "--steps", 2)
    run("uncertainty", written(noisy + 1e7), "-o", tmp_path / "out", *words, check=0)
    maps = {n: tifffile.imread(tmp_path / f"out/image_{n}.tif").astype(float)
            for n in ("mean", "std", "lower", "upper")}  # fmt: skip
    assert np.mean((maps["mean"] - 1e7 - restored) ** 2) < 30
    assert maps["std"].max() < 100
    assert (maps["lower"] <= maps["upper"]).all()
    assert abs((maps["lower"] + maps["upper"]).mean() / 2 - 1e7 - noisy.mean()) < 1


@pytest.mark.parametrize(
    "dtype",
    ["uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"],
)
def test_an_image_without_noise_is_copied_to_the_bit(written, tmp_path, dtype):
    kind, rng = np.dtype(dtype), np.random.default_rng(0)
    bits = rng.integers(0, 256, (64, 80, kind.itemsize), np.uint8).view(kind)[..., 0].copy()
    if kind.kind == "f":
        bits[~np.isfinite(bits)] = 1
        if dtype == "float64":
            bits[np.abs(bits) > 1e38] = 1
    run("restore", written(bits), "-o", tmp_path / "out.tif", "--noise", "none", check=0)
    result = tifffile.imread(tmp_path / "out.tif")
    assert result.dtype == kind
    assert result.tobytes() == bits.tobytes()
