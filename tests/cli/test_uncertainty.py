"""`denoise` and `uncertainty` as a user starts them, on small real files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml

from restorectl import catalog
from restorectl.images.image import open_image
from restorectl.restoration import trust
from tests.command import run
from tests.phantom import scene

pytestmark = pytest.mark.slow

DATA = Path(__file__).parent.parent / "data"
MAPS = ("mean", "std", "entropy", "lower", "upper")
FAST = ("--precision", "fp32", "--samples", 3, "--steps", 2)


def read(path):
    return tifffile.imread(path).astype(float)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Folders noisy/ and clean/ with three small images each."""
    folder = tmp_path_factory.mktemp("pair")
    for k in range(3):
        clean = 40 + 400 * scene("mixed", (96, 80), k)
        noisy = np.random.default_rng(k).poisson(clean).astype(np.uint16)
        for name, image in (("clean", clean), ("noisy", noisy)):
            (folder / name).mkdir(exist_ok=True)
            tifffile.imwrite(folder / name / f"{k}.tif", image.astype(np.uint16))
    return folder


@pytest.fixture(scope="module")
def maps(pair, tmp_path_factory):
    out = tmp_path_factory.mktemp("maps")
    done = run("uncertainty", pair / "noisy", "-o", out, *FAST, "--json")
    assert done.returncode == 0, done.stderr
    return out, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_every_image_becomes_six_maps_and_a_picture(maps, pair):
    out, lines, _ = maps
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert names == {f"{k}_{m}.tif" for k in range(3) for m in (*MAPS, "trust")} | {
        f"{k}_overview.png" for k in range(3)
    }
    found = {m: read(out / f"0_{m}.tif") for m in MAPS}
    assert tifffile.imread(out / "0_mean.tif").dtype == np.uint16
    assert all(tifffile.imread(out / f"0_{m}.tif").dtype == np.float32 for m in MAPS[1:])
    clean, noisy = (read(pair / name / "0.tif") for name in ("clean", "noisy"))
    assert np.mean((found["mean"] - clean) ** 2) < 0.6 * np.mean((noisy - clean) ** 2)
    assert (found["lower"] <= found["mean"] + 0.51).all()
    assert (found["upper"] >= found["mean"] - 0.51).all()
    assert found["std"].min() >= 0
    assert 0 <= found["entropy"].min() <= found["entropy"].max() <= np.log(3) + 1e-6
    (summary,) = [
        line["details"]["uncertainty"]["0"] for line in lines if "0.tif" in line["source"]
    ]
    assert summary["std"] == pytest.approx(found["std"].mean(), rel=1e-5)
    assert summary["width"] == pytest.approx((found["upper"] - found["lower"]).mean(), rel=1e-5)
    assert 0 < summary["std_scaled"] < 0.5
    codes = tifffile.imread(out / "0_trust.tif")
    assert codes.dtype == np.uint8
    (told,) = [line["details"]["not_trusted"]["0"] for line in lines if "0.tif" in line["source"]]
    assert told["any"] == pytest.approx(np.mean(codes > 0))
    assert np.mean(codes > 0) < 0.2  # white Poisson noise of many photons
    with open_image(out / "0_overview.png") as picture:
        assert picture.header.size("S") == 3


def test_the_interval_is_the_prediction_of_one_more_sample(maps, pair, tmp_path):
    from restorectl.restoration.intervals import prediction_factor

    out, _, _ = maps
    done = run("uncertainty", pair / "noisy/0.tif", "-o", tmp_path, *FAST, "--calibration", "none")
    assert done.returncode == 0, done.stderr
    half = (read(tmp_path / "0_upper.tif") - read(tmp_path / "0_lower.tif")) / 2
    wanted = prediction_factor(3, 0.9) * read(tmp_path / "0_std.tif")
    np.testing.assert_allclose(half, wanted, rtol=1e-3, atol=1e-3)
    # the same samples, whatever else was in the folder and however it was named
    np.testing.assert_array_equal(read(tmp_path / "0_entropy.tif"), read(out / "0_entropy.tif"))


def test_running_again_does_nothing_and_more_samples_do_it_anew(maps, pair):
    out, _, _ = maps
    again = run("uncertainty", pair / "noisy", "-o", out, *FAST)
    assert "3 skipped" in again.stderr
    (out / "1_entropy.tif").unlink()
    assert "1 done, 2 skipped" in run("uncertainty", pair / "noisy", "-o", out, *FAST).stderr
    assert (out / "1_entropy.tif").exists()


def test_a_calibration_is_made_applied_and_refused(pair, tmp_path):
    bars = tmp_path / "bars.yaml"
    made = run("uncertainty", pair / "noisy", "--calibrate", pair / "clean", "-o", bars, *FAST)
    assert made.returncode == 0, made.stderr
    assert len(made.stdout.splitlines()) == 4
    assert "too few" in made.stderr
    found = yaml.safe_load(bars.read_text())
    assert (found["images"], found["truth"]) == (3, "images")
    image = pair / "noisy/2.tif"
    one = run("uncertainty", image, "-o", tmp_path / "o", *FAST, "--calibration", bars)
    assert one.returncode == 0, one.stderr
    low, high, truth = (
        read(p) for p in (tmp_path / "o/2_lower.tif", tmp_path / "o/2_upper.tif",
                          pair / "clean/2.tif")
    )  # fmt: skip
    assert np.mean((truth >= low) & (truth <= high)) == pytest.approx(0.9, abs=0.08)
    codes = tifffile.imread(tmp_path / "o/2_trust.tif")
    assert np.mean(codes & trust.UNCALIBRATED > 0) < 0.05
    bright = tmp_path / "bright.tif"  # of 100 times the photons
    light = np.random.default_rng(0).poisson(100 * read(pair / "clean/2.tif"))
    tifffile.imwrite(bright, light.astype(np.uint16))
    other = run("uncertainty", bright, "-o", tmp_path / "q", *FAST, "--calibration", bars)
    assert other.returncode == 3
    assert "times their noise" in other.stderr
    assert not list((tmp_path / "q").glob("*.tif"))
    more = (*FAST[:2], "--samples", 4, *FAST[4:])
    other = run("uncertainty", image, "-o", tmp_path / "p", *more, "--calibration", bars)
    assert other.returncode == 2
    assert "samples 3, noise auto, context auto, reach 2, not" in other.stderr
    bars.write_text(yaml.safe_dump({**found, "weights_sha256": "0" * 64}))
    other = run("uncertainty", image, "-o", tmp_path / "p", *FAST, "--calibration", bars)
    assert other.returncode == 5
    assert "other weights" in other.stderr
    bars.write_text(yaml.safe_dump(found))
    steps = (*FAST[:-1], 3)
    other = run("uncertainty", image, "-o", tmp_path / "p", *steps, "--calibration", bars)
    assert other.returncode == 2
    assert "was made with" in other.stderr
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "x.tif"), "writes a folder"),
        (("-o", "x", "--samples", 1), "at least 2"),
        (("-o", "x", "--interval", 1.5), "must be below 1"),
        (("-o", "x", "--calibration", "no.yaml"), "cannot be read"),
        (("-o", "x", "--calibrate", "."), ".yaml"),
        (("-o", "x.yaml", "--calibrate", "nowhere"), "not a folder"),
        (("-o", "x.yaml", "--calibrate", "repeats"), "holds one image"),
        (("-o", "x.yaml", "--calibrate", "self", "--scale", "affine"), "works only together"),
    ],
)
def test_what_cannot_be_meant_is_one_line(arguments, message, pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = run("uncertainty", pair / "noisy/0.tif", *arguments)
    assert refused.returncode in (2, 3)
    assert len(refused.stderr.splitlines()) == 1
    assert message in refused.stderr
    assert list(tmp_path.iterdir()) == []


# a window's mean or median blurs what it averages: of these only some gain is asked;
# networks that are trained on the user's images have tests of their own
@pytest.mark.parametrize(
    "method",
    [k for k, row in catalog.methods("denoise").items() if "engine.direct" not in row.target],
)
def test_every_method_removes_noise(method, pair, tmp_path):
    done = run("denoise", pair / "noisy/1.tif", "-o", tmp_path / "a.tif", "--method", method)
    assert done.returncode == 0, done.stderr
    clean, noisy = (read(pair / name / "1.tif") for name in ("clean", "noisy"))
    restored = read(tmp_path / "a.tif")
    gain = 10 * np.log10(np.mean((noisy - clean) ** 2) / np.mean((restored - clean) ** 2))
    assert gain > {"median": 0.1, "gaussian": 2}.get(method, 3)
    assert restored.mean() == pytest.approx(noisy.mean(), rel=0.02)


def test_samples_are_averaged_and_the_default_is_restores(pair, tmp_path):
    source = pair / "noisy/1.tif"
    for name, options in {
        "restore": ("restore",),
        "denoise": ("denoise",),
        "one": ("denoise", "--method", "mixing", "--eta", 1, "--seed", 3),
        "four": ("denoise", "--method", "mixing", "--eta", 1, "--seed", 3, "--samples", 4),
    }.items():
        done = run(*options, source, "-o", tmp_path / f"{name}.tif")
        assert done.returncode == 0, done.stderr
    clean = read(pair / "clean/1.tif")
    error = {p.stem: np.mean((read(p) - clean) ** 2) for p in tmp_path.glob("*.tif")}
    assert error["four"] < 0.9 * error["one"]
    np.testing.assert_array_equal(read(tmp_path / "restore.tif"), read(tmp_path / "denoise.tif"))


def test_a_guide_is_read_beside_the_image(pair, tmp_path):
    out = tmp_path / "out"
    arguments = ("denoise", pair / "noisy", "-o", out, "--method", "mixing", "--guide")
    done = run(*arguments, pair / "clean", "--mix-stop", 1, "--mix-weights", "0.9,0.9")
    assert done.returncode == 0, done.stderr
    clean = read(pair / "clean/0.tif")
    plain = run("denoise", pair / "noisy", "-o", tmp_path / "plain", "--method", "mixing")
    assert plain.returncode == 0, plain.stderr
    error = [np.mean((read(p / "0.tif") - clean) ** 2) for p in (out, tmp_path / "plain")]
    assert error[0] < 0.5 * error[1]
    partial = tmp_path / "partial"
    partial.mkdir()
    shutil.copy(pair / "clean/0.tif", partial)
    tifffile.imwrite(partial / "1.tif", np.zeros((5, 5), np.uint16))
    some = run(*arguments[:2], "-o", tmp_path / "some", *arguments[4:], partial)
    assert some.returncode == 3
    assert "1.tif: has shape" in some.stderr
    assert "2.tif: no such file" in some.stderr
    assert (tmp_path / "some/0.tif").exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--repeats", 3), 2, "--repeats has no effect with --method posterior"),
        (("--method", "mixing", "--start-step", 900), 2, "trained for steps"),
        (("--method", "mixing", "--mix-weights", "2,1"), 2, "between 0 and 1"),
        (("--preset", "paper"), 2, "--preset paper"),
        (("--samples", 0), 2, "at least 1"),
        (("--method", "conditional", "-w", "prior"), 5, "conditional weights are needed"),
        (("--guide", "."), 2, "no effect with --method posterior"),
    ],
)
def test_options_that_have_no_effect_are_refused(options, code, message, pair, tmp_path):
    refused = run("denoise", pair / "noisy/0.tif", "-o", tmp_path / "a.tif", *options)
    assert refused.returncode == code
    assert message in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "a.tif").exists()


def test_correlated_residuals_are_told(tmp_path):
    names = [DATA / "noisy" / name for name in ("widefield.tif", "nuclei.tif")]
    options = ("--samples", 2, "--steps", 1, "--json")
    done = run("uncertainty", *names, "-o", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    lines = {Path(j["source"]).stem: j for j in map(json.loads, done.stdout.splitlines())}
    told = {stem: " ".join(line["warnings"]) for stem, line in lines.items()}
    assert "residuals are correlated" in told["widefield"]
    assert "residuals" not in told["nuclei"]
    found = lines["widefield"]["details"]["uncertainty"]["0"]["residual_correlation"]
    assert found == pytest.approx(0.56, abs=0.1)


def test_the_conditional_model_is_a_source_of_its_own(pair, tmp_path):
    options = ("--source", "conditional", "--samples", 3, "--steps", 3, "--interval", 0.8)
    done = run("uncertainty", pair / "noisy/0.tif", "-o", tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    clean, mean = read(pair / "clean/0.tif"), read(tmp_path / "out/0_mean.tif")
    noisy = read(pair / "noisy/0.tif")
    assert np.mean((mean - clean) ** 2) < 0.6 * np.mean((noisy - clean) ** 2)
    assert read(tmp_path / "out/0_std.tif").mean() > 0
