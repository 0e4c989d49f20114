"""The real command as a process: what a user types, what appears, which code it ends with."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from restorectl.images.image import open_image, read_provenance, write_image
from tests.command import run

pytestmark = pytest.mark.slow

DATA = Path(__file__).parent.parent / "data"
NAMES = sorted(str(p.relative_to(DATA / "noisy")) for p in (DATA / "noisy").rglob("*.*"))


def pixels(path):
    with open_image(path) as image:
        return np.stack([image.read(plane) for plane in image.header.planes])


def psnr(a, b):
    span = float(b.max()) - float(b.min())
    return 10 * np.log10(span**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


def images(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def digest(folder):
    files = sorted(p for p in Path(folder).rglob("[!.]*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def restored(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    before = digest(DATA / "noisy")
    done = run(
        "restore", DATA / "noisy", "-o", out, "--manifest", out.parent / "run.json", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert digest(DATA / "noisy") == before, "an input was modified"
    return out, done


@pytest.mark.parametrize("name", NAMES)
def test_images_get_closer_to_the_truth_and_keep_what_they_are(restored, name):
    out, _ = restored
    noisy, clean, result = (pixels(p / name) for p in (DATA / "noisy", DATA / "clean", out))
    assert result.dtype == noisy.dtype
    assert psnr(result, clean) > psnr(noisy, clean) + (3 if "widefield" in name else 4)
    assert result.mean() == pytest.approx(noisy.mean(), rel=0.01)
    with open_image(DATA / "noisy" / name) as before, open_image(out / name) as after:
        for field in ("axes", "shape", "dtype", "spacing", "channels"):
            assert getattr(after.header, field) == getattr(before.header, field), field


def test_stdout_is_json_lines_and_stderr_is_plain(restored):
    _, done = restored
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["status"] for line in lines] == ["done"] * len(NAMES)
    assert "\x1b" not in done.stderr
    assert done.stderr.count(" done ") == len(NAMES)


def test_manifest_says_what_was_decided(restored):
    out, _ = restored
    manifest = json.loads((out.parent / "run.json").read_text())
    assert manifest["weights"]["prior"]["name"] == "prior"
    assert len(manifest["files"]) == len(NAMES)
    by_name = {Path(f["source"]).name: f for f in manifest["files"]}
    assert by_name["widefield.tif"]["details"]["noise"]["0"]["noise"]["correlated"]
    assert not by_name["nuclei.tif"]["details"]["noise"]["0"]["noise"]["correlated"]
    assert "correlated" in by_name["widefield.tif"]["warnings"][0]
    assert by_name["nuclei.tif"]["calls"] == 1


def test_provenance_is_in_every_output(restored):
    out, _ = restored
    for name in NAMES:
        made = read_provenance(out / name)
        assert made["command"] == "restore"
        assert made["input"] == hashlib.sha256((DATA / "noisy" / name).read_bytes()).hexdigest()


def test_running_again_does_nothing_and_a_change_redoes_exactly_that_file(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("nuclei.tif", "filaments.png"):
        shutil.copy(DATA / "noisy" / name, source / name)
    assert run("restore", source, "-o", out).returncode == 0
    before = digest(out)
    again = run("restore", source, "-o", out)
    assert "2 skipped" in again.stderr
    image = iio.imread(source / "filaments.png")
    iio.imwrite(source / "filaments.png", image[::-1])
    third = run("restore", source, "-o", out)
    assert "1 done, 1 skipped" in third.stderr
    assert digest(out)["nuclei.tif"] == before["nuclei.tif"]
    assert digest(out)["filaments.png"] != before["filaments.png"]
    assert "2 done" in run("restore", source, "-o", out, "--strength", "0.9").stderr


def test_outputs_of_an_earlier_version_are_made_again_or_kept(tmp_path):
    """One output of an older revision, one of before there were revisions."""
    command = ("restore", DATA / "noisy/nuclei.tif", DATA / "noisy/filaments.png")
    command += ("-o", tmp_path / "out")
    assert run(*command).returncode == 0
    made = digest(tmp_path / "out")
    for name, revision in (("nuclei.tif", {"revision": 1}), ("filaments.png", {})):
        path = tmp_path / "out" / name
        record = {k: v for k, v in read_provenance(path).items() if k != "revision"} | revision
        with open_image(path) as image:
            planes = [image.read(plane) for plane in image.header.planes]
            write_image(path, image.header.for_target(path), planes, provenance=record)
    old = digest(tmp_path / "out")
    assert all(old[name] != made[name] for name in made)
    for words in (("--keep-old", "-n"), ("--keep-old",)):
        kept = run(*command, *words)
        assert kept.stderr.splitlines() == [
            "2 outputs of an earlier version kept",
            "nothing to do: 2 skipped",
        ]
        assert digest(tmp_path / "out") == old
    planned, again = run(*command, "-n"), run(*command)
    for done, words in ((planned, "2 planned"), (again, "2 done")):
        assert "2 outputs of an earlier version made again: to keep them, use --keep-old" in (
            done.stderr
        )
        assert words in done.stderr
    assert digest(tmp_path / "out") == made
    assert "every output is up to date" in run(*command, "--keep-old").stderr


def test_a_foreign_file_is_never_overwritten_without_overwrite(tmp_path):
    target = tmp_path / "out.png"
    shutil.copy(DATA / "clean/filaments.png", target)
    before = target.read_bytes()
    refused = run("restore", DATA / "noisy/filaments.png", "-o", target)
    assert refused.returncode == 3
    assert "--overwrite" in refused.stderr
    assert target.read_bytes() == before
    assert run("restore", DATA / "noisy/filaments.png", "-o", target, "--overwrite").returncode == 0
    assert target.read_bytes() != before


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory):
    """A plane of two windows, one above the other."""
    nuclei = tifffile.imread(DATA / "noisy/nuclei.tif")
    image = np.tile(nuclei, (4, 2))[:800, :136]
    path = tmp_path_factory.mktemp("mosaic") / "mosaic.tif"
    tifffile.imwrite(path, image)
    return path


@pytest.fixture(scope="module")
def whole(mosaic, tmp_path_factory):
    """fp32 results of the samplers with default grouping."""
    out = tmp_path_factory.mktemp("whole")
    for sampler in ("ddim", "ancestral"):
        assert run_mosaic(mosaic, out / f"{sampler}.tif", sampler).returncode == 0
    return out


def run_mosaic(mosaic, out, sampler, *more):
    return run(
        "restore",
        mosaic,
        "-o",
        out,
        "--sampler",
        sampler,
        "--steps",
        2,
        "--precision",
        "fp32",
        *more,
    )


@pytest.mark.parametrize(
    ("sampler", "grouping"),
    [
        ("ddim", ("--batch", 3)),
        ("ancestral", ("--batch", 1)),
    ],
)
def test_results_do_not_depend_on_the_batch(mosaic, whole, tmp_path, sampler, grouping):
    out = tmp_path / "out.tif"
    assert run_mosaic(mosaic, out, sampler, *grouping).returncode == 0
    assert out.read_bytes() == (whole / f"{sampler}.tif").read_bytes()


def test_results_do_not_depend_on_the_file_name(mosaic, whole, tmp_path):
    renamed = tmp_path / "another name.tif"
    shutil.copy(mosaic, renamed)
    assert run_mosaic(renamed, tmp_path / "out.tif", "ancestral").returncode == 0
    assert np.array_equal(pixels(tmp_path / "out.tif"), pixels(whole / "ancestral.tif"))


def test_bf16_is_within_one_grey_level(mosaic, whole, tmp_path):
    out = tmp_path / "out.tif"
    done = run("restore", mosaic, "-o", out, "--steps", 2, "--precision", "bf16")
    assert done.returncode == 0
    a, b = pixels(out).astype(float), pixels(whole / "ddim.tif").astype(float)
    grey = (b.max() - b.min()) / 255
    assert np.abs(a - b).mean() < 0.2 * grey
    assert np.quantile(np.abs(a - b), 0.999) <= max(grey, 1)  # 1: both are rounded


def test_no_seam_between_windows(whole):
    image = pixels(whole / "ddim.tif")[0].astype(float)
    jumps = np.abs(np.diff(image, axis=0)).mean(1)
    elsewhere = [jumps[k - 1] for k in (256, 768)]  # the mosaic repeats: the same rows again
    assert jumps[511] <= 1.05 * np.mean(elsewhere)


def test_shards_make_the_same_files_as_one_run(restored, tmp_path):
    out, _ = restored
    for part in ("1/2", "2/2"):
        words = ("-o", tmp_path, "--pattern", "[fnw]*", "--shard", part)
        run("restore", DATA / "noisy", *words, check=0)
    found, wanted = digest(tmp_path), digest(out)
    assert len(found) == 3
    assert found.items() <= wanted.items()


def test_bad_files_never_stop_the_others(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    good = (DATA / "noisy/nuclei.tif").read_bytes()
    (source / "good.tif").write_bytes(good)
    (source / "truncated.tif").write_bytes(good[: len(good) // 2])
    (source / "empty.tif").write_bytes(b"")
    (source / "text.tif").write_text("not an image")
    broken = np.random.default_rng(0).normal(100, 5, (64, 64)).astype(np.float32)
    broken[3, 4] = np.nan
    tifffile.imwrite(source / "nan.tif", broken)
    broken[3, 4] = np.inf
    tifffile.imwrite(source / "inf.tif", broken)
    pages = np.random.default_rng(0).integers(0, 255, (5, 64, 64), np.uint8)
    tifffile.imwrite(source / "ambiguous.tif", pages, metadata=None, photometric="minisblack")
    (source / "dangling.tif").symlink_to(tmp_path / "nowhere.tif")
    for name in ("truncated.tif", "empty.tif"):  # nobody is still writing them
        os.utime(source / name, (0, 0))
    words = ("-o", tmp_path / "out", "--invalid", "none")
    done = run("restore", source, tmp_path / "gone.tif", *words)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    failed = [line for line in done.stderr.splitlines() if " failed " in line]
    assert len(failed) == 8
    for word in ("NaN", "--axes", "0 bytes", "no such file", "not an image"):
        assert any(word in line for line in failed), word
    assert all(".tif" in line for line in failed)
    assert images(tmp_path / "out") == ["good.tif"]


def test_axes_are_asked_for_and_taken(tmp_path):
    stack = tifffile.imread(DATA / "noisy/stack.tif")
    tifffile.imwrite(tmp_path / "plain.tif", stack, metadata=None, photometric="minisblack")
    asked = run("restore", tmp_path / "plain.tif", "-o", tmp_path / "out")
    assert asked.returncode == 3
    assert "--axes ZYX" in asked.stderr
    given = run("restore", tmp_path / "plain.tif", "-o", tmp_path / "out", "--axes", "ZYX")
    assert given.returncode == 0, given.stderr
    assert tifffile.imread(tmp_path / "out/plain.tif").shape == stack.shape


def test_channels_that_are_not_chosen_come_back_unchanged(tmp_path):
    source = DATA / "noisy/cells.ome.tif"
    done = run("restore", source, "-o", tmp_path / "out.ome.tif", "--channels", "1")
    assert done.returncode == 0, done.stderr
    before, after = pixels(source), pixels(tmp_path / "out.ome.tif")
    assert np.array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])
    wrong = run("restore", source, "-o", tmp_path / "b.tif", "--channels", "5")
    assert wrong.returncode == 3
    assert "channels 0..1" in wrong.stderr


@pytest.mark.parametrize(
    ("compression", "predictor", "dtype"),
    [("lzw", 2, "u1"), ("zstd", 2, "u2"), ("zlib", 3, "f4"), ("jpeg", None, "u1")],
)
def test_noise_none_keeps_compressed_pixels(tmp_path, compression, predictor, dtype):
    source, out = tmp_path / "in.tif", tmp_path / "out.tif"
    data = (np.random.default_rng(0).random((64, 64)) * 200).astype(dtype)
    tifffile.imwrite(source, data, compression=compression, predictor=predictor, metadata=None)
    assert run("restore", source, "-o", out, "--noise", "none").returncode == 0
    # Float pixels are scaled and scaled back, which may round their last bit
    rounding = 2e-5 if dtype == "f4" else 0
    np.testing.assert_allclose(tifffile.imread(out), tifffile.imread(source), rtol=0, atol=rounding)


def test_noise_none_changes_nothing_and_seeds_change_samples(tmp_path):
    source = DATA / "noisy/nuclei.tif"
    run("restore", source, "-o", tmp_path / "none.tif", "--noise", "none")
    assert np.array_equal(pixels(tmp_path / "none.tif"), pixels(source))
    samples = []
    for seed in (0, 0, 1):
        out = tmp_path / f"{len(samples)}.tif"
        run("restore", source, "-o", out, "--sampler", "ancestral", "--steps", 4, "--seed", seed)
        samples.append(pixels(out))
    assert np.array_equal(samples[0], samples[1])
    assert not np.array_equal(samples[0], samples[2])


def test_a_calibrated_camera_is_believed(tmp_path):
    camera = ("--gain", 2, "--offset", 100, "--read-noise", 3)
    done = run("restore", DATA / "noisy/nuclei.tif", "-o", tmp_path / "o.tif", *camera, "--json")
    noise = json.loads(done.stdout)["details"]["noise"]["0"]["noise"]
    assert (noise["gain"], noise["offset"], noise["read_noise"]) == (2, 100, 3)


def test_dry_run_writes_nothing(tmp_path):
    out = tmp_path / "out"
    done = run("restore", DATA / "noisy", "-o", out, "-n", "--json")
    assert done.returncode == 0
    assert {json.loads(line)["status"] for line in done.stdout.splitlines()} == {"planned"}
    assert not out.exists()


def test_files_from_a_list_and_by_pattern(tmp_path):
    listed = "\n".join(str(DATA / "noisy" / name) for name in ("nuclei.tif", "filaments.png"))
    done = run("restore", "--files-from", "-", "-o", tmp_path / "a", "-n", input=listed)
    assert "2 planned" in done.stderr
    assert done.stdout.count("\nplanned ") == 2
    done = run("restore", DATA / "noisy", "-o", tmp_path / "a", "-n", "--pattern", "*.png")
    assert "1 planned" in done.stderr


def test_jpeg_becomes_png(tmp_path):
    iio.imwrite(tmp_path / "a.jpg", iio.imread(DATA / "noisy/filaments.png"), quality=95)
    done = run("restore", tmp_path / "a.jpg", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert images(tmp_path / "out") == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["restore"], 2, "--output"),
        (["restore", "-o", "out"], 4, "no inputs"),
        (["restore", "{tmp}", "-o", "{tmp}/../out"], 4, "no images"),
        (["restore", "{data}", "-o", "{data}/out"], 2, "inside the input folder"),
        (["restore", "{data}", "-o", "{data}"], 2, "inside the input folder"),
        (["restore", "{image}", "-o", "{image}"], 2, "overwrite an input"),
        (["restore", "{data}", "-o", "{tmp}/o.tif"], 2, "need a folder"),
        (["restore", "{image}", "-o", "{tmp}/o", "--steps", "0"], 2, "--steps"),
        (["restore", "{image}", "-o", "{tmp}/o", "--batch", "x"], 2, "--batch"),
        (["restore", "{image}", "-o", "{tmp}/o", "--shard", "4/3"], 2, "--shard"),
        (["restore", "{image}", "-o", "{tmp}/o", "--sampler", "magic"], 2, "ddim"),
        (["restore", "{image}", "-o", "{tmp}/o", "--device", "cuda:77"], 2, "--device"),
        (["restore", "{image}", "-o", "{tmp}/o", "-w", "nope"], 5, "known names"),
        (["restore", "{image}", "-o", "{tmp}/o", "-w", "{image}"], 5, "safetensors"),
        (["restore", "{image}", "-o", "{tmp}/o", "--files-from", "{tmp}/no"], 2, "--files-from"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_a_code(tmp_path, arguments, code, words):
    places = {"tmp": tmp_path, "data": DATA / "noisy", "image": DATA / "noisy/nuclei.tif"}
    done = run(*(a.format(**places) for a in arguments))
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (DATA / "noisy/out").exists()


def test_help_and_version_are_quick_and_do_not_load_torch():
    code = (
        "import sys; sys.argv = ['restorectl', *sys.argv[1:]]\n"
        "from restorectl.cli.app import main\n"
        "try: main()\n"
        "finally: sys.stderr.write(str([m for m in ('torch', 'numpy') if m in sys.modules]))"
    )
    for option in (["--help"], ["--version"], ["restore", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *option], capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stderr.endswith("[]")


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m restorectl restore --help | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
