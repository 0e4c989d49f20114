"""`train` from recipe to weights file: resume, initial weights, two processes, refusals."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file

from restorectl.engine.denoiser import build
from restorectl.errors import NoInputError, OutputError, UsageError, WeightsError
from restorectl.jobs import TrainJob
from restorectl.training import checkpoint
from restorectl.training.train import run
from restorectl.weights import file as weights_io

TINY_PRIOR = (
    "network.config={channels: [8, 8], blocks: 1, embedding: 8}",
    "data.crop=16",
    "optimiser.batch=8",
    "optimiser.micro_batch=2",
    "optimiser.precision=fp32",
    "optimiser.steps=4",
    "validation.crop=16",
    "validation.crops=8",
    "validation.every=2",
)
TINY_CALIBRATOR = (
    "network.config={filters: 4, channels: [8, 8], hidden: 8}",
    "data.crop=[32, 48]",
    "data.binning=[1, 2]",
    *TINY_PRIOR[2:],
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Smooth random images, 8 and 16 bit."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, dtype, top in (("a.tif", np.uint8, 200), ("b.tif", np.uint16, 4000)):
        noise = np.fft.rfft2(rng.standard_normal((128, 128)))
        ky, kx = np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)[None]
        smooth = np.fft.irfft2(noise * np.exp(-((ky**2 + kx**2) * 600)))
        smooth = (smooth - smooth.min()) / np.ptp(smooth)
        tifffile.imwrite(folder / name, (smooth * top).astype(dtype))
    return folder


class Memory:
    """A TrainingReport that remembers, and can stop the run after a step, as a signal would."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.losses, self.validations, self.saves, self.notes = {}, {}, [], []
        self.errors = {}

    def begin(self, steps, done, batch):
        self.start = done

    def note(self, text):
        self.notes.append(text)

    def step(self, step):
        if self.stop_after is not None and step.number > self.stop_after:
            raise KeyboardInterrupt
        self.losses[step.number] = step.loss

    def validated(self, number, loss, error):
        self.validations[number], self.errors[number] = loss, error

    def saved(self, path, number):
        self.saves.append(number)


def train(recipe, data, output, *overrides, stop_after=None, **options):
    report = Memory(stop_after)
    base = TINY_CALIBRATOR if recipe.startswith("calibrator") else TINY_PRIOR
    job = TrainJob(recipe, str(data), str(output), (*base, *overrides), device="cpu", **options)
    run(job, report)
    return report


def test_prior(data, tmp_path):
    output = tmp_path / "mine.safetensors"
    report = train("prior", data, output)
    assert list(report.losses) == [1, 2, 3, 4]
    assert list(report.validations) == [2, 4]
    assert report.saves == [4]
    card = weights_io.load(str(output)).card
    assert (card.name, card.task, card.objective) == ("mine", "prior", "prior")
    assert (card.sigma_max, card.channels) == (3.0, 1)
    assert card.training["crops"] == 32
    assert card.training["recipe"]["optimiser"]["steps"] == 4
    denoiser = build(card, dict(weights_io.load(str(output)).tensors))
    x0 = denoiser(torch.zeros(1, 1, 16, 16), torch.ones(1))
    assert torch.isfinite(x0).all()
    assert {p.name for p in tmp_path.iterdir()} == {"mine.safetensors", "mine.resume.safetensors"}


@pytest.mark.parametrize("recipe", ["calibrator", "calibrator-plain"])
def test_calibrators(data, tmp_path, recipe):
    output = tmp_path / "c.safetensors"
    config = "network.config={filters: 4, channels: [8, 8], hidden: 8, output: step}"
    report = train(recipe, data, output, *([config] if recipe != "calibrator" else []))
    assert all(np.isfinite(list(report.losses.values())))
    weights = weights_io.load(str(output))
    assert (weights.card.task, weights.card.network) == ("calibrator", "calibrator")
    net = build(weights.card, dict(weights.tensors)).net
    assert net.output == ("log-sigma" if recipe == "calibrator" else "step")
    assert net(torch.randn(2, 1, 64, 64)).shape == (2,)


def test_the_conditional_baseline(data, tmp_path):
    output = tmp_path / "p.safetensors"
    config = "network.config={c_in: 2, channels: [8, 8], blocks: 1, embedding: 8}"
    report = train("conditional-baseline", data, output, config)
    assert all(np.isfinite(list(report.losses.values())))
    card = weights_io.load(str(output)).card
    assert (card.parametrisation, bool(card.schedule)) == ("eps", True)
    assert card.sigma_max < 1


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["prior", "calibrator"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(data, tmp_path, recipe):
    whole = train(recipe, data, tmp_path / "whole.safetensors")
    output = tmp_path / "part" / "whole.safetensors"
    output.parent.mkdir()
    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, output, "checkpoint_minutes=0", stop_after=2)
    rest = train(recipe, data, output, resume=True)
    assert rest.start == 2
    assert rest.losses == {n: whole.losses[n] for n in (3, 4)}
    assert rest.validations[4] == whole.validations[4]
    expected = weights_io.read(tmp_path / "whole.safetensors")[1]
    for name, value in weights_io.read(output)[1].items():
        assert torch.equal(value, expected[name]), name


def test_resume_refuses_another_run(data, tmp_path):
    output = tmp_path / "p.safetensors"
    with pytest.raises(UsageError, match=r"checkpoint .* does not exist"):
        train("prior", data, output, resume=True)
    train("prior", data, output)
    with pytest.raises(UsageError, match="exists: add `resume`"):
        train("prior", data, output)
    with pytest.raises(UsageError, match="'seed' is 5, the checkpoint"):
        train("prior", data, output, "seed=5", resume=True)
    other = tmp_path / "other"
    other.mkdir()
    tifffile.imwrite(other / "a.tif", np.random.default_rng(0).random((128, 128)))
    with pytest.raises(UsageError, match="images are not those of the checkpoint"):
        train("prior", other, output, resume=True)
    longer = train("prior", data, output, "optimiser.steps=5", resume=True)
    assert list(longer.losses) == [5]
    done = train("prior", data, output, "optimiser.steps=5", resume=True)
    assert (done.losses, "nothing to do" in done.notes[0]) == ({}, True)
    output.with_suffix(".resume.safetensors").write_bytes(output.read_bytes())
    with pytest.raises(WeightsError, match="not a checkpoint"):
        train("prior", data, output, resume=True)


@pytest.mark.slow
def test_initial_weights(data, tmp_path):
    first = tmp_path / "first.safetensors"
    longer = ("optimiser.steps=60", "optimiser.warmup=5", "optimiser.lr=0.03", "optimiser.ema=0.8")
    longer += ("optimiser.micro_batch=8",)
    train("prior", data, first, *longer, "validation.every=60")
    overrides = [o for o in TINY_PRIOR if not o.startswith("network")]
    report = Memory()
    output = tmp_path / "second.safetensors"
    job = TrainJob("finetune", str(data), str(output), tuple(overrides), init=str(first))
    run(job, report)
    fresh = train("prior", data, tmp_path / "fresh.safetensors")
    assert report.losses[1] < 0.8 * fresh.losses[1]
    card = weights_io.load(str(output)).card
    assert card.config["channels"] == [8, 8]
    assert card.name == "second"
    assert card.training["init"]["name"] == "first"
    assert card.training["init"]["training"]["steps"] == 60
    with pytest.raises(WeightsError, match="is not the recipe's"):
        train("prior", data, tmp_path / "x.safetensors", "network.config.blocks=2", init=str(first))
    with pytest.raises(UsageError, match="names no network"):
        train("finetune", data, tmp_path / "x.safetensors", "init=''", "network={}")


@pytest.mark.parametrize(
    ("recipe", "output", "override", "error", "message"),
    [
        ("prior", "p.pt", "seed=0", UsageError, "must end in .safetensors"),
        ("prior", "no/p.safetensors", "seed=0", OutputError, "does not exist"),
        ("prior", "p.safetensors", "objective=gan", UsageError, "choose one of prior"),
        ("prior", "p.safetensors", "network.name=resnet", UsageError, "known are: unet"),
        ("prior", "p.safetensors", "network.config.width=3", UsageError, "width"),
        ("prior", "p.safetensors", "parametrisation=z", UsageError, "known are: edm"),
        (
            "prior",
            "p.safetensors",
            "objective=calibrator",
            UsageError,
            "cannot train",
        ),
        ("prior", "p.safetensors", "data.channels=2", NoInputError, "the recipe needs 2"),
        ("prior", "p.safetensors", "network.config.c_in=2", UsageError, "needs 1"),
        ("prior", "p.safetensors", "data.crop=18", UsageError, "needs multiples of 4"),
        ("calibrator", "p.safetensors", "levels.schedule=cosine", UsageError, "needs step"),
        ("prior", "p.safetensors", "levels.schedule=sine", UsageError, "choose one of rscd"),
        ("prior", "p.safetensors", "validation={crop: 64, keep: best}", UsageError, "keep=last"),
        ("conditional-baseline", "p.safetensors", "levels.schedule=''", UsageError, "schedule"),
    ],
)
def test_refusals(data, tmp_path, recipe, output, override, error, message):
    extra = ["network.config.c_in=2"] if recipe.startswith("conditional") else []
    with pytest.raises(error, match=message):
        train(recipe, data, tmp_path / output, override, *extra)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_equal_one(data, tmp_path):
    """torchrun with gloo against a plain run of the same global batch, through the command line."""
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    report = train("prior", data, one)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    command += ["2", "-m", "restorectl", "train", "prior", "--data", str(data), "-o", str(two)]
    command += ["--json", "--device", "cpu", *(part for o in TINY_PRIOR for part in ("-s", o))]
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "step 4/4" in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]  # the second one is silent
    losses = {line["number"]: line["loss"] for line in lines if "loss" in line}
    validations = {line["number"]: line["validation"] for line in lines if "validation" in line}
    assert losses == pytest.approx(report.losses, rel=1e-5)
    assert validations == pytest.approx(report.validations, rel=1e-5)
    expected = load_file(checkpoint.resume_path(one))
    for name, value in load_file(checkpoint.resume_path(two)).items():
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-6), name


def test_processes_must_share_the_batch_evenly(data, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend: None)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    with pytest.raises(UsageError, match="multiple of 3 processes"):
        train("prior", data, tmp_path / "p.safetensors")


@pytest.mark.slow
def test_selecting_patches_of_high_quality(data, tmp_path):
    """Positives are smooth; of the data, one image is smooth and one is noise."""
    good, mixed = tmp_path / "good", tmp_path / "mixed"
    good.mkdir()
    mixed.mkdir()
    smooth = tifffile.imread(data / "b.tif")
    for i in range(4):
        tifffile.imwrite(good / f"{i}.tif", np.rot90(smooth[i * 20 :, i * 20 :][:64, :64], i))
    noise = np.random.default_rng(3).integers(0, 4000, (128, 128)).astype(np.uint16)
    tifffile.imwrite(mixed / "smooth.tif", smooth)
    tifffile.imwrite(mixed / "noise.tif", noise)
    select = "select={patch: 32, steps: 60, batch: 16, lr: 0.003, threshold: 0.4}"
    output = tmp_path / "p.safetensors"
    report = train("prior", mixed, output, select, select_hq=str(good))
    note = next(text for text in report.notes if "kept" in text)
    found = weights_io.load(str(output)).card.training["data"]
    assert f"kept {found['patches_kept']} of {found['patches']} patches" in note
    assert found["patches"] == 40  # 4 x 4 and a strip of 4 for validation, of each image
    assert 16 <= found["patches_kept"] <= 24
    again = train(
        "prior", mixed, output, select, "optimiser.steps=5", select_hq=str(good), resume=True
    )
    assert list(again.losses) == [5]
    with pytest.raises(UsageError, match="not those of the checkpoint"):
        train("prior", mixed, output, select, "optimiser.steps=6", resume=True)
    with pytest.raises(UsageError, match="below the crop size"):
        train(
            "prior", mixed, tmp_path / "q.safetensors", "data.crop=64", select, select_hq=str(good)
        )
    high = "select={patch: 32, steps: 2, batch: 16, threshold: 1.0}"
    with pytest.raises(NoInputError, match=r"lower select\.threshold"):
        train("prior", mixed, tmp_path / "q.safetensors", high, select_hq=str(good))
