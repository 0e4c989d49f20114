"""The papers' recipes: trained for two steps with small networks, then used by their commands."""

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import gaussian_filter

from restorectl.engine.nets.resnet import ResNetCalibrator
from restorectl.jobs import TrainJob
from restorectl.training.objectives import Draw, prior, variational
from restorectl.training.recipe import load
from restorectl.training.train import run as train
from restorectl.weights import file as weights_io
from tests.command import run
from tests.training.test_train import Memory

SIDE = 64  # px
SHORT = (
    *("optimiser.steps=2", "optimiser.batch=2", "optimiser.micro_batch=2", "validation.every=0"),
    *("validation.keep=last", "optimiser.precision=fp32", "validation.crop=32", "select.patch=32"),
)
ADM = "width: 8, mults: [1, 2], blocks: 1, attention: [2], head: 8, groups: 4"
SMALL = {  # recipe -> its small network, and crop
    "rscd-paper": ("{c_in: 2, dim: 8, init_dim: 8, dim_mults: [1, 2]}", 32),
    "calibrator-resnet50": (
        "{c_in: 2, width: 4, blocks: [1, 1, 1, 1], hidden: 8, output: step}",
        32,
    ),
    "conditional-paper": ("{c_in: 2, width: 8, mults: [1, 2], head: 8, dropout: 0.2}", 32),
    "msdsr-paper": (f"{{c_in: 1, c_out: 1, {ADM}}}", 48),
    "baikal": (f"{{c_in: 1, c_out: 1, {ADM}, scale_shift: true, learn_variance: true}}", 32),
}


def made(folder, recipe, **options):
    """Weights of a recipe, trained for two steps."""
    config, crop = SMALL[recipe]
    output = folder / f"{recipe}.safetensors"
    changes = (*SHORT, f"network.config={config}", f"data.crop={crop}")
    data = str(folder / ("pair" if load(recipe).data.channels == 2 else "good"))
    report = Memory()
    train(TrainJob(recipe, data, str(output), changes, device="cpu", **options), report)
    assert all(np.isfinite(list(report.losses.values())))
    return output


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(3)
    scene = 3000 + 20000 * gaussian_filter(rng.standard_normal((SIDE, SIDE)), 2.0)
    for name in ("good", "noisy"):
        (tmp_path / name).mkdir()
        noisy = scene + (300 if name == "noisy" else 10) * rng.standard_normal(scene.shape)
        tifffile.imwrite(tmp_path / name / "a.tif", noisy.astype(np.uint16))
    (tmp_path / "pair").mkdir()
    both = np.stack([noisy, noisy[::-1]]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "pair/a.tif", both, imagej=True, metadata={"axes": "CYX"})
    return tmp_path


def used(*words):
    done = run(*map(str, words))
    assert done.returncode == 0, done.stderr


def test_rscd(folder):
    prior_file, steps = made(folder, "rscd-paper"), made(folder, "calibrator-resnet50")
    card = weights_io.load(str(prior_file)).card
    assert (card.window, card.time, card.schedule) == (32, "index", "cosine")
    words = ("restore", folder / "pair", "-o", folder / "out", "-w", prior_file)
    words += ("--sampler", "rscd", "--preset", "paper", "--calibrator", "network")
    used(*words, "--calibrator-weights", steps, "--strength", 0.01)
    assert tifffile.imread(folder / "out/a.tif").shape == (2, SIDE, SIDE)


def test_conditional(folder):
    weights = made(folder, "conditional-paper", partner=str(folder / "noisy"))
    words = ("denoise", folder / "noisy", "-o", folder / "out", "--method", "conditional")
    used(*words, "--preset", "paper", "-w", weights, "--steps", 2)


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_msdsr(folder, preset):
    weights = made(folder, "msdsr-paper")
    rng = np.random.default_rng(0)
    stack = rng.integers(100, 4000, (3, 16, 16)).astype(np.uint16)
    tifffile.imwrite(folder / "thin.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    words = ("superres3d", folder / "thin.tif", "-o", folder / "out.tif", "--factor", 2)
    used(*words, "-w", weights, "--preset", preset, "--steps", 2)
    result = tifffile.imread(folder / "out.tif")
    assert np.array_equal(result[::2], stack)


def test_baikal(folder):
    weights = made(folder, "baikal")
    words = ("denoise", folder / "noisy", "-o", folder / "out", "--method", "mixing")
    words += ("--preset", "paper", "--start-step", 3, "--mix-stop", 1)
    used(*words, "-w", weights)


def test_a_preset_needs_weights_that_make_pixels(folder):
    words = ("superres3d", folder / "good/a.tif", "-o", folder / "out.tif", "--factor", "2")
    done = run(*map(str, words), "--preset", "paper")
    assert (done.returncode, "msdsr-paper" in done.stderr) == (2, True)


def test_the_bound_is_0_for_the_true_step_and_least_at_the_right_variance():
    x0, step = torch.rand(64, 1, 4, 4) - 0.5, torch.full((64,), 500)
    exact = variational(x0, x0, torch.zeros_like(x0), step, "linear")
    assert exact.abs().max() < 1e-5
    assert (variational(x0, x0, torch.ones_like(x0), step, "linear") > exact).all()
    # at the first step 256 grey levels cost about 1 bit or less when the image is known
    first = variational(x0, x0, torch.zeros_like(x0), torch.ones_like(step), "linear")
    assert torch.isfinite(first).all()


def test_the_hybrid_loss_trains_the_variance_without_the_noise():
    recipe = load("baikal", [f"network.config={SMALL['baikal'][0]}"])
    from restorectl.training.train import make_model

    torch.manual_seed(0)
    model, _ = make_model(TrainJob("baikal", "", "x"), recipe, "x", None)
    last = model.net.out[2].weight
    prior(
        model, torch.rand(2, 1, 16, 16), Draw(torch.Generator().manual_seed(1), recipe)
    ).sum().backward()
    assert (last.grad.flatten(1).abs().sum(1) > 0).all()  # of both outputs
    model.net.zero_grad()
    variance = model.net(torch.rand(2, 1, 16, 16), torch.ones(2), variance=True)
    assert variance.shape == (2, 2, 16, 16)


def test_the_resnet_is_the_published_one():
    with torch.device("meta"):
        state = ResNetCalibrator().state_dict()
    assert sum(v.numel() for n, v in state.items() if "running" not in n) == 23_713_033
    assert state["resnet.embedder.embedder.convolution.weight"].shape == (64, 3, 7, 7)
    assert state["resnet.encoder.stages.3.layers.2.layer.2.normalization.weight"].shape == (2048,)
    assert state["resnet.encoder.stages.0.layers.0.shortcut.convolution.weight"].shape[:2] == (
        256,
        64,
    )
