"""The commands of the papers as processes: presets, ablations, and options that exclude others."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter

import restorectl
from restorectl.catalog import METHODS
from restorectl.engine.card import KEY, Card
from restorectl.engine.denoiser import build
from restorectl.engine.nets.calibrator import Calibrator
from restorectl.engine.schedule import schedule
from restorectl.files.provenance import dumps
from restorectl.weights.file import read
from tests import phantom
from tests.command import run

DATA = Path(__file__).parent.parent / "data"
PRIOR = Path(restorectl.__file__).parent / "pretrained/prior.safetensors"


@pytest.fixture
def small(tmp_path):
    """A noisy image of 64x64 px."""
    path = tmp_path / "small.tif"
    tifffile.imwrite(path, tifffile.imread(DATA / "noisy/nuclei.tif")[96:160, 96:160])
    return path


def details(*words):
    """What a command says of its only file, which it has to finish."""
    return json.loads(run(*words, "--json", check=0).stdout)


def weights(path, task, network, config, tensors, **entries):
    """A weights file with this network."""
    card = Card(path.stem, task, network, config, **entries)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, {KEY: card.to_json()})
    return path


def prior_trained_to(step, path):
    """The packaged prior, with T' of RSCD's schedule on its card."""
    card, tensors = read(PRIOR)
    highest = float(schedule("rscd").sigma(step))
    changed = replace(card, schedule="rscd", sigma_max=highest)
    save_file(tensors, path, {KEY: changed.to_json()})
    return path


def says(step, path, c_in=1, **entries):
    """A calibrator that predicts this step, whatever it sees."""
    config = {"c_in": c_in, "filters": 4, "channels": [4], "hidden": 4, "output": "step"}
    net = Calibrator(**config)
    torch.nn.init.zeros_(net.head1.weight)
    torch.nn.init.constant_(net.head1.bias, step / net.steps)
    known = {"schedule": "rscd", "channels": c_in, "objective": "calibrator", **entries}
    return weights(path, "calibrator", "calibrator", config, net.state_dict(), **known)


# ---- RSCD ----------------------------------------------------------------------------------------
RSCD = ("--sampler", "rscd")


def rounds(source, out, *words):
    """The rounds of the step-calibrated loop, and the network calls."""
    told = details("restore", source, "-o", out, *RSCD, *words)
    return told["details"]["method"]["0"]["rounds"], told["calls"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["restorectl", "official", "paper"])
def test_without_recalibration_there_is_one_block(small, tmp_path, preset):
    words = ("--preset", preset, "--recalibrate", 0, "--strength", 0.2)
    ((start, count),), calls = rounds(small, tmp_path / "out.tif", *words)
    assert start == count == calls > 5


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["restorectl", "official", "paper"])
def test_a_fixed_number_of_steps(small, tmp_path, preset):
    """Table 1: no step calibration, 10 steps fixed."""
    words = ("--preset", preset, "--start-step", 10)
    assert rounds(small, tmp_path / "out.tif", *words) == ([[10, 10]], 10)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["restore", "denoise"])
def test_every_image_can_start_at_one_level(small, tmp_path, command):
    told = details(command, small, "-o", tmp_path / "out.tif", "--start-step", 50)
    level = float(schedule("rscd").sigma(50))
    assert told["details"]["method"]["0"] == {"sigma": pytest.approx(level)}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*RSCD, "--steps", "3"), "--steps 3 has no effect with --sampler rscd"),
        ((*RSCD, "--level", "image"), "--level image has no effect with --sampler rscd"),
        (("--rounds", "patch"), "--rounds patch has no effect with --sampler ddim"),
        (("--preset", "paper"), "--preset paper has no effect with --sampler ddim"),
        (
            ("--start-step", "5", "--strength", "2"),
            "--strength 2.0 has no effect with --start-step",
        ),
        (("--start-step", "5", "--calibrator", "network"), "--calibrator network has no effect"),
        (("--start-step", "5", "--level", "map"), "--level map has no effect with --start-step"),
        (("--start-step", "5", "--step-map", "m"), "--step-map m has no effect with --start-step"),
        ((*RSCD, "--start-step", "5", "--recalibrate", "3"), "--recalibrate 3 has no effect"),
        (("--start-step", "999"), "trained for steps 1..702 of the rscd schedule"),
    ],
)
def test_options_without_effect_are_refused(small, tmp_path, words, said):
    done = run("restore", small, "-o", tmp_path / "out.tif", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "out.tif").exists()


def test_the_conditional_ddpm_starts_from_noise_alone(small, tmp_path):
    words = ("--method", "conditional", "--start-step", "5")
    done = run("denoise", small, "-o", tmp_path / "out.tif", *words)
    assert (done.returncode, "no effect with --method conditional" in done.stderr) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["restorectl", "official", "paper"])
def test_no_step_lies_above_those_the_weights_were_trained_for(small, tmp_path, preset):
    prior = prior_trained_to(12, tmp_path / "p.safetensors")
    words = ("--preset", preset, "--recalibrate", 0, "-w", prior)
    assert rounds(small, tmp_path / "out.tif", *words) == ([[12, 12]], 12)


@pytest.mark.slow
def test_a_predicted_step_is_the_step(small, tmp_path):
    """It is t itself; converted as a measured level, it would be 102."""
    model = says(100, tmp_path / "c.safetensors")
    words = ("--preset", "paper", "--recalibrate", 0, "--calibrator", "network")
    found, _ = rounds(small, tmp_path / "out.tif", *words, "--calibrator-weights", model)
    assert found == [[100, 100]]


TOGETHER = {"channels": 2, "value_range": "uint16-centred"}
NOISE = 500.0  # grey levels of 65,536
NOISE_STEPS = float(schedule("rscd").step(NOISE / 32768))


def prior_of_two(path):
    """A prior for two channels together in its own units, as for stimulated Raman histology."""
    torch.manual_seed(0)
    config = {"c_in": 2, "c_out": 2, "channels": [8], "blocks": 1, "embedding": 16}
    entries = {"parametrisation": "eps", "schedule": "rscd", "sigma_max": 0.33, **TOGETHER}
    net = build(Card("tiny", "prior", "unet", config, **entries)).net
    return weights(path, "prior", "unet", config, net.state_dict(), **entries)


@pytest.fixture
def two(tmp_path):
    """Two channels of an image with white noise of NOISE, nearly all of its range unused."""
    y, x = np.mgrid[:300, :300]
    clean = 9000 + 1500 * np.stack([np.sin(y / 37), np.cos(x / 23)])
    noisy = clean + np.random.default_rng(0).normal(0, NOISE, clean.shape)
    path = tmp_path / "two.tif"
    tifffile.imwrite(path, noisy.astype(np.uint16), imagej=True, metadata={"axes": "CYX"})
    return path


def test_steps_are_counted_in_the_units_of_the_model(two, tmp_path):
    """Whitened, the same noise is a larger share of the range, thus more steps."""
    prior = prior_of_two(tmp_path / "p.safetensors")
    (together,) = details("calibrate", two, "--prior", prior)["details"]["channels"]
    assert together["channel"] == "0+1"
    assert together["steps"] == pytest.approx(NOISE_STEPS, rel=0.1)
    assert together["std"] == pytest.approx(NOISE, rel=0.05)
    assert together["relative"] == pytest.approx(1, rel=0.05)
    alone = details("calibrate", two)["details"]["channels"]
    assert [each["channel"] for each in alone] == ["0", "1"]
    assert min(each["steps"] for each in alone) > 2 * NOISE_STEPS
    assert alone[0]["std"] == pytest.approx(NOISE, rel=0.05)


@pytest.mark.slow
def test_a_calibrator_of_two_channels_measures_them_together(two, small, tmp_path):
    prior = prior_of_two(tmp_path / "p.safetensors")
    model = says(42, tmp_path / "c.safetensors", 2, **TOGETHER)
    (channel,) = details("calibrate", two, "-w", model)["details"]["channels"]
    assert (channel["channel"], channel["steps"]) == ("0+1", pytest.approx(42))
    done = run("calibrate", small, "-w", model)
    assert (done.returncode, "choose them with --channels" in done.stderr) == (3, True)
    chosen = ("--calibrator", "network", "--calibrator-weights", model)
    words = ("restore", two, "-w", prior, "-o", tmp_path / "out.tif", *chosen)
    run(*words, "--step-map", tmp_path / "maps", check=0)
    maps = tifffile.imread(tmp_path / "maps/out_steps.tif")
    assert maps.shape == (2, 5, 5)
    assert maps == pytest.approx(42)
    done = run("restore", small, "-o", tmp_path / "small_out.tif", *chosen)
    assert (done.returncode, "channels 2, these weights 1" in done.stderr) == (2, True)


def test_t_is_the_maximum_or_covers_a_share_of_the_windows(tmp_path):
    y, x = np.mgrid[:1024, :1024]
    noise = np.random.default_rng(0).normal(0, np.where((y < 256) & (x < 256), 30, 10), y.shape)
    tifffile.imwrite(tmp_path / "a.tif", (300 + 100 * np.sin(y / 80) + noise).astype(np.float32))
    told = [
        run("calibrate", tmp_path / "a.tif", "--cover", share, check=0).stderr for share in (0.9, 1)
    ]
    found = [float(re.search(r"T' = (\d+)", text)[1]) for text in told]
    assert found[1] > 2 * found[0]


@pytest.mark.slow
def test_each_patch_can_have_its_own_rounds(small, tmp_path):
    """Algorithm 1 restores patches one by one."""
    out = tmp_path / "out.tif"
    told, calls = rounds(small, out, "--rounds", "patch", "--strength", 0.12)
    assert (told, calls > 1) == ("patch", True)
    assert not np.array_equal(tifffile.imread(out), tifffile.imread(small))


# ---- DDPM microscopy -----------------------------------------------------------------------------
@pytest.mark.slow
def test_the_conditional_ddpm_as_published_runs(small, tmp_path):
    out = tmp_path / "out.tif"
    words = ("denoise", small, "-o", out, "--method", "conditional", "--preset", "paper")
    assert details(*words, "--steps", 2)["calls"] == 2
    assert not np.array_equal(tifffile.imread(out), tifffile.imread(small))


# ---- Baikal --------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "calls"),
    [
        (("--preset", "paper"), 5 * 20),  # R = 5 all the way: mixing has stopped, repeats go on
        (("--preset", "challenge"), 5 * 10 + 10),  # each interval once below the mixing stop
        (("--preset", "paper", "--below-stop", "once"), 5 * 10 + 10),
        (("--preset", "challenge", "--below-stop", "repeat"), 5 * 20),
    ],
)
def test_repaint_repeats_below_the_mixing_stop_or_not(small, tmp_path, words, calls):
    words = ("denoise", small, "-o", tmp_path / "out.tif", "--method", "repaint", *words)
    assert details(*words, "--start-step", 20, "--mix-stop", 10)["calls"] == calls


def test_baikal_s_best_setting_is_a_preset():
    """Section 3.3: mixing is stopped after t = 50 while repainting continues."""
    settings = METHODS["repaint"].load().presets["paper"]
    assert (settings.start, settings.stop, settings.repeat_below) == (100, 50, True)
    assert settings.repeats > 1


@pytest.mark.parametrize(
    ("method", "preset"),
    [(name, preset) for name, row in METHODS.items() for preset in row.load().presets],
)
def test_settings_of_every_preset_can_be_recorded(method, preset):
    """An output's record is JSON, which holds no infinity."""
    dumps(asdict(METHODS[method].load().presets[preset]))


# ---- evaluation without pairs --------------------------------------------------------------------
@pytest.fixture
def unpaired(tmp_path):
    """Noisy inputs, smoothed predictions, and good images of other fields."""
    for k in range(3):
        noisy = tifffile.imread(DATA / "noisy/nuclei.tif")[k * 64 :][:64, :192]
        other = tifffile.imread(DATA / "clean/nuclei.tif")[128:, k * 64 :][:, :64]
        images = {"in": noisy, "out": gaussian_filter(noisy, 1.5), "good": other}
        for folder, image in images.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / folder / f"{k}.tif", image)
    return tmp_path


@pytest.mark.slow
def test_objects_are_counted_without_targets(unpaired):
    given = ("evaluate", "out", "--input", "in", "--reference", "good", "--segment")
    found = json.loads(run(*given, "--json", cwd=unpaired, check=0).stdout)
    assert len(found["segment"]["files"]) == 3
    kinds = found["segment"]["methods"]["out"]
    assert kinds.keys() == {"input", "prediction"}
    assert kinds["prediction"]["objects"] > 0
    assert kinds["input"]["objects"] > 0
    assert found["sets"]["out"]["frechet-prior"] > 0
    table = run("evaluate", "out", "--input", "in", "--segment", cwd=unpaired, check=0).stdout
    assert re.search(r"out +prediction +\d", table)


class Bright(torch.nn.Module):
    """Logits for dark and bright images."""

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1)


@pytest.mark.slow
def test_a_classifier_is_asked_without_targets(unpaired):
    size = {2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    example = (torch.zeros(1, 1, 64, 192),)
    torch.export.save(
        torch.export.export(Bright(), example, dynamic_shapes=(size,)), unpaired / "c.pt2"
    )
    (unpaired / "l.csv").write_text("0,bright\n1,dark\n2,dark\n")
    given = ("evaluate", "out", "--input", "in", "--reference", "good", "--trust")
    given += ("--classifier", "c.pt2", "--labels", "l.csv", "--classes", "dark,bright")
    found = json.loads(run(*given, "--json", cwd=unpaired, check=0).stdout)["confusion"]
    each = found["methods"]["out"]
    assert (each["files"], found["failures"]) == (3, [])
    assert "target" not in each
    assert sum(map(sum, each["before"]["confusion"])) == 3
    assert "classes of 3 files" in run(*given, cwd=unpaired, check=0).stdout


# ---- MSDSR ---------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_psnr_of_a_super_resolved_volume_is_finite(tmp_path):
    """Observed planes are exact, so the mean over planes is infinite."""
    whole = tifffile.imread(DATA / "clean/stack.tif")[:5]
    for name, image in (("whole", whole), ("thin", whole[::2])):
        tifffile.imwrite(tmp_path / f"{name}.tif", image, imagej=True, metadata={"axes": "ZYX"})
    made = ("thin.tif", "-o", "made.tif", "--factor", 2, "--method", "linear")
    run("superres3d", *made, cwd=tmp_path, check=0)
    given = (
        "evaluate",
        "made.tif",
        "--target",
        "whole.tif",
        "--metrics",
        "psnr,psnr-volume,psnr-made",
    )
    done = run(*given, "--json", cwd=tmp_path, check=0)
    (file,) = json.loads(done.stdout)["files"]
    error = (tifffile.imread(tmp_path / "made.tif").astype(float) - whole) ** 2
    span = float(np.ptp(whole)) ** 2
    assert file["values"]["psnr"] == "inf"
    assert file["values"]["psnr-volume"] == pytest.approx(10 * np.log10(span / error.mean()))
    assert file["values"]["psnr-made"] == pytest.approx(10 * np.log10(span / error[1::2].mean()))
    assert "psnr is infinite for 1 predictions" in done.stderr
    refused = run(*given, "--scale", "affine", cwd=tmp_path)
    assert (refused.returncode, "cannot be combined with --scale" in refused.stderr) == (2, True)


def test_recorded_planes_change_only_if_smoothed(tmp_path):
    words = ("superres3d", DATA / "noisy/stack.tif", "-o", tmp_path / "o.tif", "--no-keep-observed")
    done = run(*words)
    assert (done.returncode, "--no-keep-observed: changes nothing" in done.stderr) == (2, True)


# ---- training ------------------------------------------------------------------------------------
STEP = ("optimiser.steps=1", "optimiser.batch=2", "optimiser.micro_batch=2", "validation.every=0")
STEP += ("validation.keep=last",)


def train(*words, changes=(), check=0):
    settings = [word for each in (*STEP, *changes) for word in ("-s", each)]
    return run("train", *words, *settings, check=check)


@pytest.mark.slow
def test_pairs_in_weak_light_are_trained_on(tmp_path):
    for k in range(4):
        clean = gaussian_filter(phantom.scene("nuclei", (160, 160), k), 1.0)
        noisy, truth = phantom.camera(clean, 1.0, 20, 100, 1.0, k)
        for folder, image in (("clean", truth), ("noisy", noisy)):
            (tmp_path / folder).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / folder / f"{k}.tif", image)
    pairs = ("--data", tmp_path / "clean", "--input", tmp_path / "noisy")
    done = train("conditional-pairs", *pairs, "-o", tmp_path / "c.safetensors")
    assert "left out" not in done.stderr
    done = train(
        "prior",
        "--data",
        tmp_path / "clean",
        "--max-shift",
        2,
        "-o",
        tmp_path / "p.safetensors",
        check=2,
    )
    assert "--max-shift: needs pairs" in done.stderr


def prior_of_one(path, **entries):
    """A small prior with RSCD's schedule up to step 50."""
    torch.manual_seed(0)
    config = {"c_in": 1, "c_out": 1, "channels": [8], "blocks": 1, "embedding": 16}
    known = {"parametrisation": "eps", "schedule": "rscd", "sigma_max": LEVEL_50, **entries}
    net = build(Card("tiny", "prior", "unet", config, **known)).net
    return weights(path, "prior", "unet", config, net.state_dict(), **known)


LEVEL_50 = float(schedule("rscd").sigma(50))


@pytest.mark.slow
@pytest.mark.parametrize("time", ["log-sigma", "index"])
def test_fine_tuning_keeps_the_schedule_and_its_last_step(tmp_path, time):
    first, output = prior_of_one(tmp_path / "p.safetensors", time=time), tmp_path / "q.safetensors"
    train("finetune", "--data", DATA / "clean", "--init", first, "-o", output)
    card, _ = read(output)
    assert (card.schedule, card.time, card.sigma_max) == ("rscd", time, pytest.approx(LEVEL_50))
    assert card.training["recipe"]["levels"]["max_step"] == 50


@pytest.mark.parametrize(
    ("entries", "changes", "said"),
    [
        ({"channels": 2}, (), "set data.channels=2"),
        ({"value_range": "uint16-centred"}, (), "data.range=uint16-centred: set it"),
        ({"time": "index"}, ("levels.schedule=linear",), "set levels.schedule=rscd"),
    ],
)
def test_fine_tuning_says_what_to_set(tmp_path, entries, changes, said):
    first = prior_of_one(tmp_path / "p.safetensors", **entries)
    words = ("--data", DATA / "clean", "--init", first, "-o", tmp_path / "q.safetensors")
    done = train("finetune", *words, changes=changes, check=2)
    assert said in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("recipe", ["calibrator", "calibrator-plain"])
def test_calibrators_are_trained_on_images_of_256_px(tmp_path, recipe, count):
    (tmp_path / "in").mkdir()
    for k in range(count):
        image = phantom.camera(phantom.scene("nuclei", (256, 256), k), 300, 20, 100, 1.0, k)[1]
        tifffile.imwrite(tmp_path / "in" / f"{k}.tif", image)
    changes = ("validation.every=1", "validation.crops=2", "optimiser.steps=2")
    words = ("--data", tmp_path / "in", "-o", tmp_path / "c.safetensors")
    done = train(recipe, *words, changes=changes)
    assert ("no validation" in done.stderr) == (count == 1)
    assert ("validation loss" in done.stderr) == (count == 4)
    assert ("256 px x 2" in done.stderr) == (recipe == "calibrator")
