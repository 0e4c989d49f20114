"""`train` with objective `conditional`: spoilt images, pairs, the best weights, zero columns."""

import json

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file

from restorectl.engine.card import Card
from restorectl.engine.denoiser import build
from restorectl.errors import NoInputError, UsageError, WeightsError
from restorectl.jobs import TrainJob
from restorectl.training import checkpoint
from restorectl.training.train import run, widened
from restorectl.weights import file as weights_io
from tests import command, phantom
from tests.training.test_train import Memory

TINY = (
    "data.crop=16",
    "optimiser.batch=8",
    "optimiser.micro_batch=4",
    "optimiser.precision=fp32",
    "optimiser.steps=4",
    "optimiser.warmup=1",
    "validation={fraction: 0.2, crop: 16, crops: 8, every: 1, keep: best}",
)
NET = "network={name: unet, config: {c_in: 2, channels: [8, 8], blocks: 1, embedding: 8}}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Clean and noisy folders with two pairs."""
    base = tmp_path_factory.mktemp("pairs")
    for name in ("clean", "noisy"):
        (base / name).mkdir()
    for seed in (1, 2):
        scene = phantom.scene("mixed", (96, 96), seed)
        for name, image in zip(
            ("noisy", "clean"), phantom.camera(scene, 60, 20, 100, 1.0, seed), strict=True
        ):
            tifffile.imwrite(base / name / f"{seed}.tif", image)
    return base / "clean", base / "noisy"


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """A small unconditional network with random weights in every layer."""
    from safetensors.torch import save

    from restorectl.engine.card import KEY

    torch.manual_seed(4)
    config = {"c_in": 1, "c_out": 1, "channels": [8, 8], "blocks": 1, "embedding": 8}
    card = Card("first", "prior", "unet", config)
    net = build(card).net
    torch.nn.init.constant_(net.gain, 0.7)
    path = tmp_path_factory.mktemp("prior") / "first.safetensors"
    path.write_bytes(save(net.state_dict(), {KEY: card.to_json()}))
    return path


def train(recipe, folders, output, *overrides, stop_after=None, pairs=True, **options):
    report = Memory(stop_after)
    job = TrainJob(
        recipe,
        str(folders[0]),
        str(output),
        (*TINY, *overrides),
        device="cpu",
        partner=str(folders[1]) if pairs else None,
        **options,
    )
    run(job, report)
    return report


@pytest.mark.parametrize(("recipe", "pairs"), [("conditional", False), ("conditional-pairs", True)])
def test_both_recipes_start_from_an_unconditional_network(folders, prior, tmp_path, recipe, pairs):
    output = tmp_path / "c.safetensors"
    report = train(recipe, folders, output, pairs=pairs, init=str(prior))
    assert list(report.errors) == [1, 2, 3, 4]
    weights = weights_io.load(str(output))
    card, best = weights.card, weights.card.training["best"]
    assert (card.task, card.objective, card.channels) == ("conditional", "conditional", 1)
    assert (card.config["c_in"], card.schedule, card.sigma_max) == (2, "cosine200", 20.0)
    assert card.fusion
    assert best["error"] == min(report.errors.values())
    assert report.errors[best["step"]] == best["error"]
    assert ("pairs" in card.training["data"]) == pairs
    assert card.training["init"]["name"] == "first"
    x = torch.zeros(1, 1, 16, 16)
    denoiser = build(card, dict(weights.tensors))
    one, two = (torch.cat([x + shift, torch.ones_like(x)], 1) for shift in (0.0, 0.5))
    assert not torch.equal(denoiser(x, torch.ones(1), one), denoiser(x, torch.ones(1), two))


def test_zero_columns_leave_the_function_as_it_was(prior):
    card, tensors = weights_io.read(prior)
    wide = widened(card, tensors, 3)
    before = build(card, tensors)
    after = build(Card("x", "conditional", "unet", {**card.config, "c_in": 3}), wide)
    x, others = torch.randn(2, 1, 16, 16), torch.randn(2, 2, 16, 16) * 5
    sigma = torch.tensor([0.1, 2.0])
    assert torch.allclose(before(x, sigma), after(x, sigma, others), atol=2e-4)
    new = [name for name, value in wide.items() if value.shape != tensors[name].shape]
    assert new == ["stem.weight"]
    assert wide["stem.weight"].shape == (8, 13, 3, 3)  # three images of 2 x 2 px, constant ones
    assert torch.equal(wide["stem.weight"][:, 12], tensors["stem.weight"][:, 4])


@pytest.mark.slow
def test_the_released_weights_are_those_of_the_lowest_error(folders, tmp_path):
    """A run that goes wrong on the way: the file holds the weights of before."""
    output = tmp_path / "c.safetensors"
    wild = ("init=''", NET, "optimiser.lr=0.3", "optimiser.ema=0", "optimiser.clip=0")
    report = train("conditional", folders, output, *wild, "optimiser.steps=8", pairs=False)
    best = weights_io.load(str(output)).card.training["best"]
    assert best["step"] == min(report.errors, key=report.errors.get)
    resume = load_file(checkpoint.resume_path(output))
    released = weights_io.read(output)[1]
    for name, value in released.items():
        assert torch.equal(value, resume[f"best.net.{name}"].half())
    plain = tmp_path / "last.safetensors"
    last = "validation={fraction: 0.2, crop: 16, crops: 8, every: 1, keep: last}"
    train("conditional", folders, plain, *wild, "optimiser.steps=8", last, pairs=False)
    assert "best" not in weights_io.load(str(plain)).card.training
    assert not any(k.startswith("best.") for k in load_file(checkpoint.resume_path(plain)))


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [False, True])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(folders, tmp_path, pairs):
    recipe = "conditional-pairs" if pairs else "conditional"
    start = ("init=''", NET)
    whole = train(recipe, folders, tmp_path / "whole.safetensors", *start, pairs=pairs)
    output = tmp_path / "part" / "whole.safetensors"
    output.parent.mkdir()
    with pytest.raises(KeyboardInterrupt):
        train(recipe, folders, output, *start, "checkpoint_minutes=0", stop_after=2, pairs=pairs)
    rest = train(recipe, folders, output, *start, pairs=pairs, resume=True)
    assert rest.losses == {n: whole.losses[n] for n in (3, 4)}
    assert rest.errors == {n: whole.errors[n] for n in (3, 4)}
    first = load_file(checkpoint.resume_path(tmp_path / "whole.safetensors"))
    second = load_file(checkpoint.resume_path(output))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (
        weights_io.read(output)[1].keys()
        == weights_io.read(tmp_path / "whole.safetensors")[1].keys()
    )


def test_a_checkpoint_of_an_older_recipe_goes_on(folders, tmp_path):
    """Keys that the checkpoint does not know have their defaults."""
    output = tmp_path / "c.safetensors"
    start = ("init=''", NET, "validation.keep=last")
    train("conditional", folders, output, *start, "degradation={}", pairs=False)
    path = checkpoint.resume_path(output)
    from safetensors import safe_open
    from safetensors.torch import save

    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()[checkpoint.RESUME_KEY])
    tensors = load_file(path)
    del record["recipe"]["degradation"], record["recipe"]["validation"]["keep"]
    path.write_bytes(save(tensors, {checkpoint.RESUME_KEY: json.dumps(record)}))
    more = (*start, "degradation={}", "optimiser.steps=5")
    rest = train("conditional", folders, output, *more, pairs=False, resume=True)
    assert list(rest.losses) == [5]
    with pytest.raises(UsageError, match=r"'degradation\.poisson' is 0\.25"):
        train(
            "conditional", folders, output, *more, "degradation.poisson=0.25", pairs=False,
            resume=True,
        )  # fmt: skip


@pytest.mark.slow
def test_training_on_pairs_learns_to_look_at_the_input(folders, tmp_path):
    """In one call from pure noise only the input tells what the image shows."""
    output = tmp_path / "c.safetensors"
    options = (
        "init=''",
        NET,
        "optimiser={steps: 120, batch: 8, micro_batch: 8, lr: 0.01, warmup: 10, ema: 0.9}",
        "degradation.fusion=false",  # else the start is as good as the input
        "data.crop=32",
        "validation={fraction: 0.3, crop: 16, crops: 32, every: 5, keep: best}",
    )
    report = train("conditional-pairs", folders, output, *options)
    assert min(report.errors.values()) < 0.4 * report.errors[5]


@pytest.mark.parametrize(
    ("recipe", "overrides", "options", "error", "message"),
    [
        (
            "conditional-pairs",
            (),
            {"pairs": False},
            UsageError,
            "needs noisy images too: .*`partner`",
        ),
        ("prior", (), {}, UsageError, "`partner`: objective 'prior' does not"),
        ("conditional", (), {"pairs": False, "register": "rigid"}, UsageError, "`partner`"),
        ("conditional-pairs", (), {"register": "elastic"}, UsageError, "use rigid or affine"),
        (
            "conditional-pairs",
            (),
            {"select_hq": "x"},
            UsageError,
            "`select_hq`: cannot be combined",
        ),
        (
            "conditional-pairs",
            ("data.binning=2",),
            {},
            UsageError,
            "data.binning: `partner` needs 1",
        ),
        ("conditional-pairs", ("data.range=uint8",), {}, UsageError, "data.range"),
        ("conditional-pairs", ("data.channels=3",), {}, NoInputError, "the recipe needs 3"),
        ("conditional", ("init=''",), {"pairs": False}, UsageError, "names no network"),
    ],
)
def test_refusals(folders, tmp_path, recipe, overrides, options, error, message):
    with pytest.raises(error, match=message):
        train(recipe, folders, tmp_path / "c.safetensors", *overrides, **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_partner_of_itself(folders, tmp_path):
    with pytest.raises(UsageError, match="is the same folder as `data`"):
        train("conditional-pairs", (folders[0], folders[0]), tmp_path / "c.safetensors")


def test_a_network_of_other_channels_is_not_widened(folders, prior, tmp_path):
    net = "network={name: unet, config: {c_in: 2, channels: [8], blocks: 1, embedding: 8}}"
    with pytest.raises(WeightsError, match="is not the recipe's"):
        train("conditional", folders, tmp_path / "c.safetensors", net, init=str(prior), pairs=False)


@pytest.mark.slow
def test_the_command_takes_pairs_and_names_what_it_leaves_out(folders, tmp_path):
    output = tmp_path / "c.safetensors"
    clean, noisy = tmp_path / "clean", tmp_path / "noisy"
    for here, there in zip(folders, (clean, noisy), strict=True):
        there.mkdir()
        image = tifffile.imread(here / "1.tif")
        tifffile.imwrite(there / "a.tif", image)
        tifffile.imwrite(there / "b.tif", image if here == folders[0] else np.roll(image, 2, 1))
    tifffile.imwrite(clean / "c.tif", image)
    files = ("--data", clean, "--input", noisy, "-o", output, "--json", "--device", "cpu")
    changes = [part for o in (*TINY, "init=''", NET) for part in ("-s", o)]
    done = command.run("train", "conditional-pairs", *files, *changes, check=0)
    assert "no image of the same name" in done.stderr
    assert "b.tif: its clean image is shifted by" in done.stderr
    assert "mean absolute error" in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["number"] for line in lines if "error" in line] == [1, 2, 3, 4]
    aligned = tmp_path / "r.safetensors"
    train("conditional-pairs", (clean, noisy), aligned, "init=''", NET, register="rigid")
    data = weights_io.load(str(aligned)).card.training["data"]
    assert (data["pairs"], data["register"]) == (2, "rigid")


ONE_CALL = "network.config={channels: [8, 8], blocks: 1, embedding: 8}"
RCAN = "network.config={channels: [8, 8], groups: 1, blocks: 1, squeeze: 2, dropout: 0.1}"


@pytest.mark.parametrize(
    ("name", "paired", "changes"),
    [
        ("care", True, (ONE_CALL,)),
        ("noise2noise", True, (ONE_CALL,)),
        ("unet-synthetic", False, (ONE_CALL,)),
        ("unet-rcan", True, (RCAN, "data.crop=32")),
        ("pix2pix", False, (ONE_CALL, "data.crop=32", "degradation.level=[0.1, 0.2]")),
        ("cyclegan", True, (ONE_CALL, "data.crop=32")),
    ],
)
def test_networks_of_one_call_learn_from_pairs_or_simulated_noise(
    name, paired, changes, folders, tmp_path
):
    clean, noisy = folders
    last = "validation={fraction: 0.2, crop: 16, crops: 8, every: 4, keep: last}"
    small = "adversary.channels=4"
    options = (*TINY, last.replace("16", "32") if "data.crop=32" in changes else last)
    partner = str(noisy) if paired else None
    job = TrainJob(
        name, str(clean), str(tmp_path / "w.safetensors"), (*options, small, *changes),
        partner=partner,
    )  # fmt: skip
    path = run(job, Memory())
    weights = weights_io.load(str(path))
    assert weights.card.task == "direct"
    assert weights.card.window == (32 if name == "unet-rcan" else 0)
    assert not [n for n in weights.tensors if n.startswith("auxiliary")]
    words = ("denoise", noisy, "-o", tmp_path / "out", "--method", "care", "-w", path)
    command.run(*words, check=0)
    assert len(list((tmp_path / "out").glob("*.tif"))) == 2


def test_discriminators_go_on_where_they_stopped(folders, tmp_path):
    options = (*TINY, ONE_CALL, "data.crop=32", "adversary.channels=2", "optimiser.batch=4")
    options += ("validation={fraction: 0.0, crop: 32, crops: 8, every: 0, keep: last}",)

    def train(name, steps, resume=False):
        path = tmp_path / name
        changes = (*options, f"optimiser.steps={steps}", "optimiser.final_lr=1.0")  # no decay
        clean, noisy = map(str, folders)
        job = TrainJob("cyclegan", clean, str(path), changes, resume=resume, partner=noisy)
        run(job, Memory())
        return load_file(path)

    whole = train("whole.safetensors", 2)
    train("parts.safetensors", 1)
    parts = train("parts.safetensors", 2, resume=True)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_objectives_of_pairs_and_of_noisy_images_say_what_they_need(folders, tmp_path):
    clean, noisy = map(str, folders)
    for name, partner, told in (
        ("care", None, "needs noisy images too"),
        ("unet-synthetic", noisy, "does not train on pairs"),
        ("n2v", None, "denoise`, method n2v"),
    ):
        job = TrainJob(name, clean, str(tmp_path / "w.safetensors"), partner=partner)
        with pytest.raises(UsageError, match=told):
            run(job, Memory())
