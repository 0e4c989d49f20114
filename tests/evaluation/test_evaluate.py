"""What `evaluate` finds, pairs and scores: folders, stacks, uncertainty sets, samples, networks."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from safetensors.torch import save_file

from restorectl import catalog
from restorectl.batch.outcome import Silent
from restorectl.engine.card import KEY, Card
from restorectl.errors import NoInputError, UsageError, WeightsError
from restorectl.evaluation.comparison import as_dict, depths, gates, unmet
from restorectl.evaluation.evaluate import prepare, run
from restorectl.evaluation.frechet import along_axes, equalised, set_distances
from restorectl.evaluation.metrics.paired import psnr
from restorectl.evaluation.read import match
from restorectl.jobs import EvaluateJob
from tests import phantom


def evaluated(*predictions, **options):
    report = Silent()
    job = EvaluateJob(tuple(map(str, predictions)), **options)
    comparison = run(prepare(job), report)
    assert len(report.outcomes) == report.files or comparison.failures
    return comparison, [o.message for o in report.outcomes if o.status == "failed"]


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, image, photometric="minisblack", **options)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """clean/, and a noisy and a less noisy copy of it: two fields in a tree."""
    folder = tmp_path_factory.mktemp("evaluate")
    for seed, name in enumerate(("a/one.tif", "two.tif")):
        clean = (200 * phantom.scene("mixed", (96, 112), seed)).clip(0, 255)
        rng = np.random.default_rng(seed)
        write(folder / "clean" / name, clean.astype(np.uint8))
        for method, sigma in (("rough", 20), ("fine", 5)):
            noisy = clean + sigma * rng.normal(size=clean.shape)
            write(folder / method / name, np.rint(noisy).clip(0, 255).astype(np.uint8))
    return folder


def test_methods_are_compared_file_by_file(data):
    found, failed = evaluated(data / "rough", data / "fine", target=str(data / "clean"))
    assert found.methods == ("rough", "fine")
    assert [(s.method, s.name) for s in found.scores] == [
        (method, name) for method in found.methods for name in ("a/one.tif", "two.tif")
    ]
    assert found.data_range == {"a/one.tif": 255.0, "two.tif": 255.0}
    score = found.scores[2]
    images = [tifffile.imread(p).astype(float) for p in (score.prediction, score.target)]
    assert score.values["psnr"] == psnr(*images, 255.0)
    assert min(found.column("fine", "psnr")) > max(found.column("rough", "psnr"))
    assert not failed


def test_missing_and_extra_files_are_listed(data, tmp_path):
    image = tifffile.imread(data / "fine/two.tif")
    write(tmp_path / "some/two.tif", image)
    write(tmp_path / "some/three.tif", image)
    found, failed = evaluated(tmp_path / "some", target=str(data / "clean"), metrics=("mae",))
    assert found.missing == ("some: a/one.tif",)
    assert found.extra == ("some: three.tif",)
    assert len(failed) == 2
    assert len(found.scores) == 1


def test_suffixes_may_differ_where_that_is_unambiguous(data, tmp_path):
    Image.fromarray(tifffile.imread(data / "fine/two.tif")).save(tmp_path / "two.png")
    found = match([str(tmp_path)], str(data / "clean"), None, False)
    assert found.cases[0].predictions[0][1] == tmp_path / "two.png"
    write(tmp_path / "two.tiff", np.zeros((8, 8), np.uint8))
    assert match([str(tmp_path)], str(data / "clean"), None, False).cases == ()


def test_single_files_and_equal_folder_names(data):
    files = [str(data / m / "two.tif") for m in ("rough", "fine")]
    found = match(files, str(data / "clean/two.tif"), None, False)
    assert found.methods == tuple(files)  # both are called two.tif
    grouped = match(files, str(data / "clean"), None, False)
    assert grouped.methods == ("rough", "fine")
    with pytest.raises(UsageError, match="twice"):
        match([str(data / "fine")] * 2, str(data / "clean"), None, False)


def test_empty_and_absent_folders(data, tmp_path):
    (tmp_path / "empty").mkdir()
    both = [str(data / "fine"), str(tmp_path / "empty")]
    assert len(match(both, str(data / "clean"), None, False).missing) == 2
    for wrong in (("empty",), ("absent",)):
        with pytest.raises(NoInputError):
            match([str(tmp_path / w) for w in wrong], str(data / "clean"), None, False)
    with pytest.raises(NoInputError, match="contains no images"):
        match([str(data / "fine")], str(tmp_path / "empty"), None, False)


def test_bad_files_fail_alone(data, tmp_path):
    good = tifffile.imread(data / "clean/two.tif")
    holes = good.astype(np.float32)
    holes[3, 4] = np.nan
    rgb = np.dstack([good] * 3)
    targets = {"cut": good, "flat": good * 0 + 9, "nan": good, "rgb": good, "good": good}
    targets |= {"level": good.astype(np.float32) * 0 + 9}
    predictions = targets | {"cut": good[:50], "nan": holes, "flat": good, "level": good}
    for name, image in targets.items():
        write(tmp_path / "t" / f"{name}.tif", image)
    for name, image in predictions.items():
        write(tmp_path / "p" / f"{name}.tif", image)
    tifffile.imwrite(tmp_path / "p/rgb.tif", rgb, photometric="rgb")
    (tmp_path / "p/broken.tif").write_bytes(b"II*\0 no image at all")
    write(tmp_path / "t/broken.tif", good)
    names = ("psnr", "ssim", "pearson", "mae")
    found, failed = evaluated(tmp_path / "p", target=str(tmp_path / "t"), metrics=names)
    assert all("\n" not in line for line in failed)
    lines = "\n".join(sorted(failed))
    assert "1x1x1x50x112 (t, c, z, y, x), but" in lines
    assert "1 pixels are NaN" in lines
    assert "1x3x1x96x112 (t, c, z, y, x), but" in lines
    assert "flat.tif: pearson: the target is constant (9)" in lines
    assert "level.tif: psnr: the target is constant, so it gives no data range" in lines
    assert "broken.tif" in lines
    scores = {s.name: s.values for s in found.scores}
    assert scores.keys() == {"good.tif", "flat.tif", "level.tif"}
    assert scores["good.tif"].keys() == set(names)
    assert scores["flat.tif"].keys() == {"psnr", "ssim", "mae"}  # 8 bit: the range is 255
    assert scores["level.tif"].keys() == {"mae"}
    assert len(failed) == 6


def test_integers_of_two_kinds_get_a_warning(data, tmp_path):
    for name in ("a/one.tif", "two.tif"):
        image = tifffile.imread(data / "fine" / name)
        write(tmp_path / "wide" / name, image.astype(np.uint16))
        write(tmp_path / "float" / name, image.astype(np.float32))
    folders = [tmp_path / "wide", tmp_path / "float"]
    found, _ = evaluated(*folders, target=str(data / "clean"), metrics=("mae",))
    assert found.warnings == (
        "wide: 2 predictions are uint16, their targets uint8: compared as they are",
    )


def test_scale_is_fitted_to_each_file(data, tmp_path):
    for name in ("a/one.tif", "two.tif"):
        image = tifffile.imread(data / "clean" / name).astype(np.float32)
        write(tmp_path / "dim" / name, image / 4 + 100)
    options = {"target": str(data / "clean"), "metrics": ("mae",)}
    for scale, error in (("affine", 1e-5), ("percentile", 1e-4)):
        found, _ = evaluated(tmp_path / "dim", scale=scale, **options)
        assert max(found.column("dim", "mae")) < error
    assert min(evaluated(tmp_path / "dim", **options)[0].column("dim", "mae")) > 30


def stacks(folder):
    """Targets (Z, C, Y, X) and predictions whose noise grows with the depth."""
    rng = np.random.default_rng(0)
    target = 3000 * phantom.channels(("nuclei", "puncta"), (4, 64, 64), 0)  # (C, Z, Y, X)
    noise = rng.normal(size=target.shape) * np.array([1, 10, 100, 1000])[:, None, None]
    for name, image in (("t", target), ("p", target + noise)):
        image = image.clip(0, 65535).astype(np.uint16).transpose(1, 0, 2, 3)
        write(folder / name / "stack.tif", image, imagej=True, metadata={"axes": "ZCYX"})
    return target, noise


def test_stacks_plane_by_plane_by_z_and_projected(tmp_path):
    stacks(tmp_path)
    options = {"target": str(tmp_path / "t"), "metrics": ("mae", "psnr")}
    found, _ = evaluated(tmp_path / "p", by_z=True, **options)
    (score,) = found.scores
    by_depth = [each["mae"] for each in score.depths]
    assert by_depth == sorted(by_depth)
    assert score.values["mae"] == pytest.approx(np.mean(by_depth))
    assert depths(found)["mae"]["p"] == by_depth
    read = [tifffile.imread(tmp_path / n / "stack.tif").astype(float) for n in "pt"]
    assert score.values["mae"] == pytest.approx(np.abs(read[0] - read[1]).mean())
    for project in ("max", "mean"):
        found, _ = evaluated(tmp_path / "p", project=project, **options)
        a, b = (getattr(np, project)(image, axis=0) for image in read)
        assert found.scores[0].values["mae"] == pytest.approx(np.abs(a - b).mean())
    with pytest.raises(UsageError, match="`project`"):
        evaluated(tmp_path / "p", by_z=True, project="max", **options)


def test_uncertainty_sets_are_recognised(data, tmp_path):
    rng = np.random.default_rng(5)
    for name in ("a/one", "two"):
        clean = tifffile.imread(data / "clean" / f"{name}.tif").astype(np.float32)
        std = rng.uniform(1, 10, clean.shape).astype(np.float32)
        mean = clean + std * rng.normal(size=clean.shape).astype(np.float32)
        parts = {"mean": mean, "std": std, "lower": mean - 1.645 * std, "upper": mean + 1.645 * std}
        for part, image in (parts | {"entropy": std}).items():
            write(tmp_path / "unc" / f"{name}_{part}.tif", image.astype(np.float32))
        (tmp_path / "unc" / f"{name}_overview.png").write_bytes(b"")
    found, failed = evaluated(tmp_path / "unc", target=str(data / "clean"))
    assert not failed
    assert found.extra == ()
    values = found.scores[0].values
    assert values["coverage"] == pytest.approx(0.9, abs=0.02)
    assert values["spearman"] > 0.3
    assert len(found.scores[0].curves["sparsification"]) == 20
    assert found.scores[0].prediction.name == "one_mean.tif"
    json.dumps(as_dict(found, []), allow_nan=False)
    with pytest.raises(UsageError, match="uncertainty"):
        evaluated(data / "fine", target=str(data / "clean"), metrics=("coverage",))


def test_averaging_gain(tmp_path):
    """Independent noise: the mean squared error falls as 1 / N."""
    clean = 1000 * phantom.scene("nuclei", (128, 128), 0)
    write(tmp_path / "t/x.tif", clean.astype(np.float32))
    rng = np.random.default_rng(0)
    for n in range(6):
        noisy = clean + 30 * rng.normal(size=clean.shape)
        write(tmp_path / f"samples/{n}/x.tif", noisy.astype(np.float32))
    options = {"target": str(tmp_path / "t"), "metrics": ("mse",), "average": True}
    found, _ = evaluated(tmp_path / "samples", **options)
    assert found.methods == tuple(f"mean of {n}" for n in range(1, 7))
    gain = [found.column(m, "mse")[0] * n for n, m in enumerate(found.methods, 1)]
    np.testing.assert_allclose(gain, 900, rtol=0.05)
    with pytest.raises(UsageError, match="`average`"):
        evaluated(tmp_path / "t", **options)


def test_gates(data):
    options = {"target": str(data / "clean"), "metrics": ("mae",), "gated": ("psnr",)}
    found, _ = evaluated(data / "rough", data / "fine", **options)
    assert unmet(found, gates(["psnr=15"], ["mae=90"])) == []
    (line,) = unmet(found, gates(["psnr=30"], []))
    assert line.startswith("`fail_under` psnr=30: rough has 2")
    assert unmet(found, gates(["ssim=0"], [])) == [
        f"`fail_under` ssim=0: {m} has no score" for m in ("rough", "fine")
    ]
    for wrong in ("psnr", "psnr=x", "nothing=3", "psnr=nan"):
        with pytest.raises(UsageError, match="`fail_under`"):
            gates([wrong], [])


@pytest.mark.slow
def test_the_frechet_distance_of_the_prior(data, tmp_path):
    found, _ = evaluated(data / "rough", data / "fine", reference=str(data / "clean"))
    near, far = (found.sets[m]["frechet-prior"] for m in ("fine", "rough"))
    assert 0 < near < far
    assert any("2 images are fewer than the" in w for w in found.warnings)
    write(tmp_path / "flat/one.tif", np.zeros((32, 32), np.uint8))
    write(tmp_path / "flat/two.tif", tifffile.imread(data / "fine/two.tif"))
    found, failed = evaluated(tmp_path / "flat", reference=str(data / "clean"))
    assert found.sets == {"flat": {}}
    assert any("nearly all pixels are equal" in line for line in failed)
    assert any("1 image gives no covariance" in line for line in failed)


def test_unpaired_scores_by_depth(tmp_path):
    stacks(tmp_path)
    found, _ = evaluated(tmp_path / "p", reference=str(tmp_path / "t"), by_z=True)
    by_depth = depths(found)["frechet-prior"]["p"]
    assert len(by_depth) == 4
    assert by_depth[3] > by_depth[0]


def random_weights(path, network, task):
    """Weights of the right shapes that stand in for the published ones."""
    torch.manual_seed(0)
    net = catalog.NETWORKS[network].load()()
    tensors = {}
    for name, value in net.state_dict().items():
        scale = value[0].numel() ** -0.5 if value.ndim > 1 else 0.1
        random = torch.randn(value.shape) * scale
        if name.endswith("running_var") or name.startswith("lin"):
            random = random.abs() + 0.1
        tensors[name] = random.half()
    card = Card(name=path.stem, task=task, network=network, channels=3)
    save_file(tensors, path, {KEY: card.to_json()})
    return str(path)


def test_lpips_with_weights_of_the_user(data, tmp_path):
    weights = random_weights(tmp_path / "alex.safetensors", "alexnet", "distance")
    options = {"target": str(data / "clean"), "metrics": ("lpips",)}
    networks = {"alexnet-lpips": weights}
    found, _ = evaluated(
        data / "fine", data / "rough", data / "clean", networks=networks, **options
    )
    near, far, same = (found.column(m, "lpips")[0] for m in found.methods)
    assert same == 0 < near < far
    with pytest.raises(
        WeightsError, match=r"weights import `checkpoint_kind` alexnet-lpips.*`alexnet`"
    ):
        evaluated(data / "fine", **options)


@pytest.mark.slow
def test_fid_and_slice_fid(tmp_path):
    weights = random_weights(tmp_path / "inception.safetensors", "inception", "features")
    rng = np.random.default_rng(0)
    for n in range(2):
        write(tmp_path / "hq" / f"{n}.tif", rng.integers(0, 255, (40, 40)).astype(np.uint8))
    volume = rng.integers(0, 255, (2, 3, 4)).astype(np.uint8)
    write(tmp_path / "p/volume.tif", volume, imagej=True, metadata={"axes": "ZYX"})
    options = {
        "reference": str(tmp_path / "hq"),
        "metrics": ("slice-fid",),
        "networks": {"inception-fid": weights},
    }
    found, failed = evaluated(tmp_path / "p", **options)
    assert not failed
    scores = found.sets["p"]
    directions = [scores[f"slice-fid-{d}"] for d in ("xy", "xz", "yz")]
    assert scores["slice-fid"] == pytest.approx(np.mean(directions))
    counts = [w for w in found.warnings if "2048 features" in w]
    assert [w.split("images")[0].split()[-1] for w in counts] == ["2", "3", "4", "2"]
    _, failed = evaluated(tmp_path / "hq", **options)
    assert any("slices need a volume" in line for line in failed)


def test_slices_are_cut_along_all_directions():
    volume = np.arange(48.0).reshape(2, 2, 3, 4)  # two channels
    found = dict(along_axes(volume[None]))
    assert found["xy"].shape == (2, 2, 3, 4)
    np.testing.assert_array_equal(found["xz"][1], volume[:, :, 1])
    np.testing.assert_array_equal(found["yz"][2], volume[:, :, :, 2])


def test_colours_are_equalised_as_in_the_code_of_msdsr():
    plane = np.random.default_rng(0).gamma(2.0, 1000.0, (1, 3, 64, 64))
    made = equalised(plane)
    assert np.array_equal(made, equalised(plane * 3 + 7))  # brightness and contrast have no part
    assert [made[0, c].max() * 255 for c in range(3)] == [180, 255, 255]
    grey = np.round(made[0, 1] * 255)  # but for the first bin, which the code sets to 0
    counts = np.histogram(grey[grey > 0], 8, (0, 256))[0]
    assert counts == pytest.approx(np.full(8, counts.mean()), rel=0.2)


def test_slice_fid_in_colour_needs_two_or_three_channels(tmp_path):
    rng = np.random.default_rng(0)
    for folder, shape, axes in (
        ("good", (3, 16, 16), "CYX"), ("two", (6, 2, 8, 8), "ZCYX"), ("one", (6, 8, 8), "ZYX")
    ):  # fmt: skip
        pixels = rng.integers(0, 60000, shape).astype(np.uint16)
        write(tmp_path / folder / "a.tif", pixels, imagej=True, metadata={"axes": axes})
        write(tmp_path / folder / "b.tif", pixels[::-1], imagej=True, metadata={"axes": axes})

    def features(planes):
        assert planes.shape[1] == 3
        return np.stack([planes.mean((1, 2, 3)), planes.std((1, 2, 3))], 1)

    files = {name: sorted((tmp_path / name).glob("*.tif")) for name in ("good", "two", "one")}
    metric = catalog.METRICS["slice-fid-colour"].load()
    job = EvaluateJob(())
    found = set_distances(
        {name: files[name] for name in ("two", "one")}, files["good"], [(metric, features)], job
    )
    assert found.values["two"].keys() == {
        "slice-fid-colour", *(f"slice-fid-colour-{kind}" for kind in ("xy", "xz", "yz"))
    }  # fmt: skip
    assert any("has 1 channels: colour is made of 2" in line for line in found.failures)


def test_invalid_arguments_are_refused(data):
    fine, clean = data / "fine", str(data / "clean")
    for options, text in (
        ({"target": clean, "metrics": ("sharpness",)}, "known are: mae"),
        ({"metrics": ("psnr",)}, "needs `target`"),
        ({"target": clean, "metrics": ("fid",)}, "needs `reference`"),
        ({}, "nothing to compare with"),
        ({"target": clean, "data_range": 0.0}, "`data_range` 0"),
        ({"target": clean, "interval": 1.0}, "`interval` 1"),
    ):
        with pytest.raises(UsageError, match=text):
            evaluated(fine, **options)
    found, _ = evaluated(fine, metrics=("resolution",))
    assert [s.name for s in found.scores] == [str(Path("a/one.tif")), "two.tif"]


def test_predictions_are_aligned_with_their_targets(data, tmp_path):
    clean = tifffile.imread(data / "clean/two.tif")
    shifted = write(tmp_path / "moved/two.tif", np.roll(clean, (2, -3), (0, 1)))
    options = {"target": str(data / "clean/two.tif"), "metrics": ("mae", "psnr")}
    found = [
        evaluated(shifted, **options, **more)[0].scores[0].values["mae"]
        for more in ({}, {"register": "rigid"})
    ]
    assert found[1] < found[0] / 5
    with pytest.raises(UsageError, match="with `target`"):
        prepare(EvaluateJob((str(shifted),), metrics=("resolution",), register="rigid"))


def test_predictions_get_the_spread_of_the_training_targets(data, tmp_path):
    clean = tifffile.imread(data / "clean/two.tif").astype(np.float32)
    halved = write(tmp_path / "half/two.tif", clean / 2 + 7)
    only = write(tmp_path / "training/x.tif", clean).parent
    options = {"target": str(data / "clean/two.tif"), "metrics": ("mae",)}
    found, _ = evaluated(halved, scale_to=str(only), **options)
    assert found.scores[0].values["mae"] < 1e-3
    assert any("`scale_to`" in line for line in found.warnings)
    with pytest.raises(UsageError, match="exclude each other"):
        prepare(EvaluateJob((str(halved),), scale_to=str(only), scale="affine", **options))


def test_resolution_in_nanometres_needs_the_pixel_size(data, tmp_path):
    fine = tifffile.imread(data / "fine/two.tif")
    options = {"resolution": (1e4 / 0.05,) * 2, "resolutionunit": "CENTIMETER"}  # 50 nm
    known = write(tmp_path / "known.tif", fine, **options)
    found, failed = evaluated(known, metrics=("resolution", "resolution-nm"))
    values = found.scores[0].values
    assert not failed
    assert values["resolution-nm"] == pytest.approx(50 * values["resolution"], rel=1e-3)
    _, failed = evaluated(data / "fine/two.tif", metrics=("resolution-nm",))
    assert "no pixel size" in failed[0]
