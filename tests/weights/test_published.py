"""Published checkpoints become weights files: state dicts of the right names and shapes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import save_file

from restorectl import catalog
from restorectl.cli.weights import IMPORTS
from restorectl.engine.denoiser import build
from restorectl.errors import UsageError, WeightsError
from restorectl.files.provenance import file_sha256
from restorectl.weights import file as weights_io
from restorectl.weights import published
from restorectl.weights.published import PUBLISHED, convert
from tests.command import run

SMALL_RSCD = {"c_in": 2, "dim": 16, "init_dim": 8, "dim_mults": [1, 2, 2, 4], "convnext_mult": 2}
SMALL_ADM = {"width": 16, "mults": [1, 2], "blocks": 1, "attention": [2], "head": 8, "groups": 8}


def shapes(network, config=None):
    with torch.device("meta"):
        net = catalog.NETWORKS[network].load()(**(config or {}))
    return {name: value.shape for name, value in net.state_dict().items()}


def weightless(shape):
    """A tensor of any size that takes four bytes."""
    return torch.zeros(()).expand(shape)


def state(network, config=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * 0.1
        for name, shape in shapes(network, config).items()
    }


def lightning(tensors, averaged=None):
    """As methods.md 3.7 describes it: raw weights, EMA names without dots, schedule buffers."""
    found = {f"model.diffusion_model.{name}": value for name, value in tensors.items()}
    for name, value in (averaged or tensors).items():
        found[f"model_ema.diffusion_model{name.replace('.', '')}"] = value
    return found | {
        "betas": torch.zeros(1000),
        "alphas_cumprod": torch.ones(1000),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(13560),
    }


@pytest.fixture
def small_msdsr(monkeypatch):
    kind = PUBLISHED["msdsr"]
    monkeypatch.setitem(
        PUBLISHED, "msdsr", replace(kind, card=replace(kind.card, config=SMALL_ADM))
    )


def test_the_command_line_names_the_kinds():
    assert tuple(PUBLISHED) == IMPORTS


@pytest.mark.slow
def test_the_published_rscd_is_recognised_at_its_full_size():
    found = {name: weightless(shape) for name, shape in shapes("convnext").items()}
    card, tensors = convert("rscd", found)
    assert len(tensors) == 288
    assert card.config == {
        "c_in": 2, "dim": 256, "init_dim": 128, "dim_mults": [1, 2, 2, 4], "convnext_mult": 2,
    }  # fmt: skip
    assert (card.value_range, card.recipe, card.channels) == ("uint16-centred", "identity", 2)
    assert (card.window, card.schedule, card.parametrisation) == (256, "rscd", "eps")
    assert card.sigma_max == pytest.approx(0.3188 / 0.898361**0.5, rel=1e-3)  # T' = 200


@pytest.mark.slow
def test_the_published_msdsr_is_recognised_at_its_full_size():
    published = shapes("adm")
    assert len({name.replace(".", "") for name in published}) == 368  # no two become one
    card, tensors = convert("msdsr", lightning({n: weightless(s) for n, s in published.items()}))
    assert tensors.keys() == published.keys()
    assert (card.value_range, card.recipe, card.window) == ("uint16-unit", "srh-3", 48)
    assert (card.task, card.channels, card.schedule) == ("slices", 2, "cosine")


def test_the_averaged_weights_are_taken_and_the_raw_ones_left(small_msdsr, tmp_path):
    raw, averaged = state("adm", SMALL_ADM, 1), state("adm", SMALL_ADM, 2)
    source, out = tmp_path / "d17986ac.ckpt", tmp_path / "msdsr.safetensors"
    content = {"state_dict": lightning(raw, averaged), "epoch": 59, "global_step": 13560}
    torch.save(content, source)
    done = published.import_checkpoint([source], "msdsr", out)
    card, tensors = weights_io.read(out)
    assert all(torch.equal(tensors[name], averaged[name]) for name in averaged)
    assert (done.tensors, done.ignored) == (len(averaged), len(raw) + 4)
    assert card.name == "msdsr"
    assert card.training["files"] == {source.name: file_sha256(source)}
    net = build(card, tensors)
    x0 = net(torch.rand(1, 3, 48, 48), torch.tensor([0.5]))
    assert x0.shape == (1, 3, 48, 48)
    assert torch.isfinite(x0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_half_and_single_precision_stay_what_they_are(dtype, prefix, tmp_path):
    tensors = state("convnext", SMALL_RSCD)
    source, out = tmp_path / "unet.pt", tmp_path / "out.safetensors"
    torch.save({prefix + name: value.to(dtype) for name, value in tensors.items()}, source)
    published.import_checkpoint([source], "rscd", out)
    card, found = weights_io.read(out)
    assert card.config == SMALL_RSCD
    expected = torch.float32 if dtype == torch.float64 else dtype
    assert {value.dtype for value in found.values()} == {expected}
    name = "downs.1.0.net.1.weight"
    assert torch.equal(found[name], tensors[name].to(dtype).to(expected))


def test_old_pickle_files_and_safetensors_are_read_too(tmp_path):
    tensors = state("convnext", SMALL_RSCD)
    old, new = tmp_path / "old.pt", tmp_path / "new.safetensors"
    torch.save(tensors, old, _use_new_zipfile_serialization=False)
    save_file(tensors, new)
    written = []
    for source in (old, new):
        out = tmp_path / f"{source.stem}-out.safetensors"
        published.import_checkpoint([source], "rscd", out)
        written.append(weights_io.read(out)[1])
    assert all(torch.equal(written[0][name], written[1][name]) for name in tensors)


class Code:
    """Runs when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_code_in_a_checkpoint_never_runs(tmp_path):
    torch.save({"state_dict": {}, "hooks": Code(tmp_path / "proof")}, tmp_path / "bad.ckpt")
    with pytest.raises(WeightsError, match=r"bad\.ckpt: not a checkpoint of plain tensors") as info:
        published.import_checkpoint([tmp_path / "bad.ckpt"], "rscd", tmp_path / "out.safetensors")
    assert "\n" not in str(info.value)
    assert not (tmp_path / "proof").exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_other_files_are_refused_in_one_line(tmp_path, small_msdsr):
    good = state("convnext", SMALL_RSCD)
    without = {name: value for name, value in good.items() if name != "mid_block1.ds_conv.bias"}
    other = good | {"final_conv.1.bias": torch.zeros(3)}
    nan = good | {"final_conv.1.bias": torch.tensor([0.0, torch.nan])}
    raw_only = {f"model.diffusion_model.{n}": v for n, v in state("adm", SMALL_ADM).items()}
    cases = (
        (without, "rscd", "1 tensors missing"),
        (other, "rscd", "has shape"),
        (nan, "rscd", "NaN"),
        (good, "msdsr", "no tensor 'model.diffusion_model"),
        (raw_only, "msdsr", "no averaged weights"),
        (lightning(state("adm", SMALL_ADM)), "rscd", "do not fit this U-Net"),
        ({"epoch": 3}, "rscd", "no tensors"),
        ([1, 2], "rscd", "no tensors"),
    )
    out = tmp_path / "out.safetensors"
    for content, kind, message in cases:
        torch.save(content, tmp_path / "file.pt")
        with pytest.raises(WeightsError, match=message) as info:
            published.import_checkpoint([tmp_path / "file.pt"], kind, out)
        assert "\n" not in str(info.value)
        assert "file.pt" in str(info.value)
    for content in (b"", b"no checkpoint", b"PK\x03\x04 cut off"):
        (tmp_path / "file.pt").write_bytes(content)
        with pytest.raises(WeightsError) as info:
            published.import_checkpoint([tmp_path / "file.pt"], "rscd", out)
        assert "\n" not in str(info.value)
    with pytest.raises(WeightsError, match="no such file"):
        published.import_checkpoint([tmp_path / "none.pt"], "rscd", out)
    assert not out.exists()


def test_the_output_is_checked_before_any_work(tmp_path):
    for kind, out, message in (
        ("sd15", tmp_path / "out.safetensors", "choose rscd"),
        ("rscd", tmp_path / "out.pt", "safetensors"),
        ("rscd", tmp_path / "none" / "out.safetensors", "no such folder"),
    ):
        with pytest.raises(UsageError, match=message):
            published.import_checkpoint([tmp_path / "in.pt"], kind, out)
    out = tmp_path / "out.safetensors"
    out.write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        published.import_checkpoint([tmp_path / "in.pt"], "rscd", out)
    torch.save(state("convnext", SMALL_RSCD), tmp_path / "in.pt")
    published.import_checkpoint([tmp_path / "in.pt"], "rscd", out, overwrite=True)
    assert weights_io.read(out)[0].network == "convnext"


def test_the_metric_networks_come_from_their_official_layout(tmp_path):
    inception = {n: weightless(s) for n, s in shapes("inception").items()}
    official = inception | {
        "fc.weight": torch.zeros(1008, 2048),
        "fc.bias": torch.zeros(1008),
        "Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(0),
    }
    card, tensors = convert("inception-fid", official)
    assert tensors.keys() == inception.keys()
    assert card.task == "features"
    alexnet = state("alexnet")
    features = {n: v for n, v in alexnet.items() if n.startswith("features")}
    torch.save(features | {"classifier.1.weight": torch.zeros(8, 9)}, tmp_path / "alexnet.pth")
    torch.save({n: v for n, v in alexnet.items() if n.startswith("lin")}, tmp_path / "alex.pth")
    files, out = [tmp_path / "alexnet.pth", tmp_path / "alex.pth"], tmp_path / "out.safetensors"
    done = published.import_checkpoint(files, "alexnet-lpips", out)
    assert (done.tensors, done.ignored, done.parameters) == (15, 1, 2_470_848)
    with pytest.raises(WeightsError, match="tensors missing"):
        published.import_checkpoint(files[:1], "alexnet-lpips", out, overwrite=True)


@pytest.mark.slow
def test_an_imported_model_restores_a_plain_tiff_of_its_channels(tmp_path):
    source, out = tmp_path / "unet.pt", tmp_path / "rscd.safetensors"
    torch.save(state("convnext", SMALL_RSCD), source)
    done = run("weights", "import", source, "--as", "rscd", "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["network"] == "convnext"
    rng = np.random.default_rng(0)
    image = rng.normal(20000, 3000, (2, 300, 72)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "in.tif", image, metadata={"axes": "CYX"})
    done = run("restore", tmp_path / "in.tif", "-o", tmp_path / "out.tif", "-w", out)
    assert done.returncode == 0, done.stderr
    restored = tifffile.imread(tmp_path / "out.tif")
    assert (restored.shape, restored.dtype) == (image.shape, image.dtype)
    assert not np.array_equal(restored, image)
    done = run("weights", "import", tmp_path / "in.tif", "--as", "rscd", "-o", out, "--overwrite")
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)


SMALL_RESNET = {"c_in": 2, "width": 4, "blocks": [1, 1, 1, 1], "hidden": 8, "output": "step"}


class Classifier(torch.nn.Module):
    """A module with tensors of any names, in which statistics are buffers."""

    def __init__(self, tensors):
        super().__init__()
        for name, value in tensors.items():
            *parents, last = name.split(".")
            part = self
            for each in parents:
                if each not in part._modules:
                    part.add_module(each, torch.nn.Module())
                part = part._modules[each]
            if last in ("weight", "bias"):
                part.register_parameter(last, torch.nn.Parameter(value))
            else:
                part.register_buffer(last, value)


def resnet(config):
    """The published calibrator's tensors, with the counters of its batch normalisation."""
    found = state("resnet50", config)
    counters = {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(7)
        for name in found
        if name.endswith("running_mean")
    }
    return found | counters


def test_the_pickled_calibrator_is_read_without_its_classes(tmp_path, monkeypatch):
    kind = PUBLISHED["rscd-calibrator"]
    small = replace(kind, card=replace(kind.card, config=SMALL_RESNET))
    monkeypatch.setitem(PUBLISHED, "rscd-calibrator", small)
    tensors = resnet(SMALL_RESNET)
    torch.save(Classifier(tensors), tmp_path / "c.pt")
    monkeypatch.delattr(f"{__name__}.Classifier")  # nowhere to be found, as its own class is here
    output = tmp_path / "c.safetensors"
    done = published.import_checkpoint([tmp_path / "c.pt"], "rscd-calibrator", output)
    assert done.ignored == sum(name.endswith("tracked") for name in tensors)
    weights = weights_io.load(str(output), "calibrator")
    for name, value in weights.tensors.items():
        more = 1 if name == "head.2.bias" else 0  # steps from 0 become steps from 1
        assert torch.equal(value, tensors[name] + more), name
    answer = build(weights.card, dict(weights.tensors)).net(torch.zeros(2, 2, 32, 32))
    assert answer.shape == (2,)


def test_the_published_calibrator_is_recognised_at_its_full_size():
    card, tensors = convert(
        "rscd-calibrator", {n: weightless(s) for n, s in shapes("resnet50").items()}
    )
    assert len(tensors) == 53 * 5 + 4  # convolutions with normalisation, and the head
    assert (card.network, card.channels, card.value_range) == ("resnet50", 2, "uint16-centred")


class Program:
    def __reduce__(self):
        return (exec, ("open(marker, 'w')", {"marker": Program.marker}))


@pytest.mark.parametrize("inside", [False, True])
def test_code_in_a_pickle_never_runs(tmp_path, inside):
    Program.marker = str(tmp_path / "ran")
    model = Classifier(resnet(SMALL_RESNET))
    model.more = Program()
    torch.save(model if inside else Program(), tmp_path / "c.pt")
    with pytest.raises(WeightsError, match="do not fit" if inside else "torch.save"):
        published.import_checkpoint(
            [tmp_path / "c.pt"], "rscd-calibrator", tmp_path / "c.safetensors"
        )
    assert not (tmp_path / "ran").exists()
