"""The published architectures: their sizes as published, their values as written twice."""

import math

import pytest
import torch

from restorectl import catalog
from restorectl.engine.card import Card
from restorectl.engine.denoiser import Denoiser, build
from tests.engine import reference_nets as reference

PUBLISHED = {  # parameters and tensors of methods.md 1.1, 1.10, 2.1, 3.1, 4.1
    "convnext": (285.5e6, 288),
    "edm2": (64.07e6, 135),
    "adm": (274.06e6, 368),
    "baikal": (151.6e6, 606),
    "inception": (21_785_568, None),  # Inception-v3 without its classifiers
    "alexnet": (2_469_696 + 1152, 15),
}
SMALL_ADM = {
    "c_in": 2, "c_out": 2, "width": 16, "mults": (1, 2), "blocks": 1, "attention": (2,),
    "head": 8, "groups": 8,
}  # fmt: skip
SMALL = {
    "convnext": {"c_in": 2, "dim": 8, "init_dim": 4, "dim_mults": (1, 2, 3)},
    "edm2": {"c_in": 2, "c_out": 1, "image_size": 32, "width": 8, "mults": (1, 2), "head": 8},
    "adm": SMALL_ADM,
    "baikal": {
        "width": 16, "mults": (1, 2, 2), "blocks": (1, 2, 1), "attention": (4,), "head": 16,
        "groups": 8,
    },
}  # fmt: skip


def randomised(net, seed=0):
    """Every tensor random, none of them zero; variances positive."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        scale = 1 / math.sqrt(value[0].numel()) if value.ndim > 1 else 0.3
        value.copy_(torch.randn(value.shape, generator=generator) * scale)
        if name.endswith("running_var"):
            value.abs_().add_(0.5)
    return net.eval()


def small(name):
    return randomised(catalog.NETWORKS[name].load()(**SMALL[name]))


def exact(net):
    """Its tensors for the reference functions."""
    return {name: value.double() for name, value in net.state_dict().items()}


def pictures(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_same(found, expected):
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name):
    with torch.device("meta"):
        net = catalog.NETWORKS[name].load()()
    parameters, tensors = PUBLISHED[name]
    found = sum(p.numel() for p in net.parameters())
    assert found == pytest.approx(parameters, rel=5e-4 if isinstance(parameters, float) else 0)
    assert tensors in (None, len(net.state_dict()))


def test_the_accidental_width_of_rscd_is_a_setting():
    with torch.device("meta"):
        net = catalog.NETWORKS["convnext"].load()(dim=128)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(72.3e6, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("convnext", "init_conv.weight time_mlp.3.bias downs.0.0.mlp.1.weight downs.3.1.net.0.bias"
         " downs.1.2.fn.fn.to_out.1.weight downs.0.3.weight mid_attn.fn.fn.to_qkv.weight"
         " mid_block2.net.4.weight ups.2.3.weight final_conv.0.net.1.weight final_conv.1.bias"),
        ("edm2", "enc.256x256_conv.weight enc.256x256_block0.conv_res0.weight emb_fourier.freqs"
         " dec.32x32_in0.attn_qkv.weight dec.256x256_block2.conv_skip.weight out_gain"),
        ("adm", "time_embed.0.weight input_blocks.0.0.weight input_blocks.4.1.qkv.weight"
         " input_blocks.3.0.op.weight middle_block.1.proj_out.bias output_blocks.2.2.conv.weight"
         " output_blocks.11.0.skip_connection.weight out.0.weight out.2.bias"),
        ("inception", "Conv2d_1a_3x3.conv.weight Mixed_5b.branch_pool.bn.running_var"
         " Mixed_7c.branch3x3dbl_3b.conv.weight"),
        ("alexnet", "features.10.bias lin4.model.1.weight"),
    ],
)  # fmt: skip
def test_tensors_are_named_as_in_the_checkpoints(name, keys):
    with torch.device("meta"):
        net = catalog.NETWORKS[name].load()()
    assert set(keys.split()) <= net.state_dict().keys()


def test_rscd_is_what_its_formulas_say():
    net, x, t = small("convnext"), pictures(2, 2, 16, 24), torch.tensor([0.0, 137.0])
    assert net.stride == 4
    assert_same(net(x, t), reference.rscd(exact(net), x.double(), t.double()))


@pytest.mark.parametrize(("name", "head"), [("adm", 8), ("baikal", 16)])
def test_adm_is_what_its_formulas_say(name, head):
    net, t = small(name), torch.tensor([0.0, 733.0])
    x = pictures(2, net.c_out, 16, 8)
    expected = reference.adm(exact(net), x.double(), t.double(), 8, head)
    assert expected.shape[1] == net.c_out * (2 if name == "baikal" else 1)
    assert_same(net(x, t), expected[:, : net.c_out])


def test_edm2_is_what_its_formulas_say_also_when_folded():
    net, x, label = small("edm2"), pictures(2, 2, 32, 16), torch.tensor([0.2, 0.93])
    expected = reference.edm2(exact(net), x.double(), label.double(), 8)
    assert_same(net(x, label), expected)
    assert_same(net.fold()(x, label), expected)


def test_training_edm2_normalises_the_stored_weights():
    net = randomised(catalog.NETWORKS["edm2"].load()(**SMALL["edm2"])).train()
    net(torch.zeros(1, 2, 16, 16), torch.tensor([0.5])).sum().backward()
    weight = net.enc["32x32_block0"].conv_res0.weight
    torch.testing.assert_close(weight.square().mean((1, 2, 3)), torch.ones(8), rtol=5e-3, atol=0)


@pytest.mark.slow
def test_inception_is_what_its_tables_say():
    net = randomised(catalog.NETWORKS["inception"].load()())
    for name, value in net.named_parameters():
        if name.endswith("conv.weight"):
            value.data *= 2  # keeps the signal alive through 48 layers
    x = torch.rand(1, 3, 150, 170, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        found, expected = net(x), reference.inception(exact(net), x.double()).float()
    assert found.shape == (1, 2048)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


def test_lpips_is_what_its_formula_says():
    net = randomised(catalog.NETWORKS["alexnet"].load()())
    a, b = pictures(2, 3, 64, 80).tanh(), pictures(2, 3, 64, 80, seed=3).tanh()
    with torch.inference_mode():
        found = net(a, b)
        torch.testing.assert_close(
            found, reference.lpips(exact(net), a.double(), b.double()).float()
        )
        assert found.abs().min() > 1e-4
        assert net(a, a).abs().max() == 0


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_run_as_denoisers_in_both_precisions(name, dtype):
    net = randomised(catalog.NETWORKS[name].load()(**SMALL[name]))
    conditional = name == "edm2"
    time, steps = ("alpha-bar", "cosine200") if conditional else ("index", "cosine")
    card = Card(name, "prior", name, SMALL[name], "eps", time=time, schedule=steps)
    x = pictures(2, 2 if name in ("convnext", "adm") else 1, 16, 16)
    condition = pictures(2, 1, 16, 16) if conditional else None
    sigma = torch.tensor([0.1, 1.0])
    with torch.inference_mode():
        whole = Denoiser(net, card)(x, sigma, condition)
        found = Denoiser(net, card).prepared(torch.device("cpu"), dtype)(x, sigma, condition)
    assert found.shape == x.shape
    assert found.dtype == torch.float32
    tolerance = 1e-4 if dtype == torch.float32 else 0.15
    torch.testing.assert_close(found, whole, rtol=tolerance, atol=tolerance)


def test_a_new_network_starts_at_zero_noise():
    for name in ("edm2", "adm", "baikal"):
        card = Card(name, "prior", name, SMALL[name], "eps", time="index", schedule="cosine")
        net = build(card).net.eval()
        x = torch.randn(1, 2 if name in ("edm2", "adm") else 1, 16, 16)
        assert net(x, torch.tensor([3.0])).abs().max() == 0
