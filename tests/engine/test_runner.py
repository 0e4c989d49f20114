"""Grouping, memory and precision may change how windows are computed, never what comes out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from restorectl.engine import samplers
from restorectl.engine.card import Card
from restorectl.engine.denoiser import Denoiser, build
from restorectl.engine.noise_field import NoiseField, Site
from restorectl.engine.runner import Runner, pick_device, pick_precision, tiles_together
from restorectl.errors import EngineError, UsageError
from restorectl.jobs import Compute

CARD = Card("tiny", "prior", "unet", {"channels": [8, 16], "blocks": 1, "embedding": 16})


def steps(sampler, count):
    return lambda problem: sampler.run(replace(problem, steps=count), {})


def ddim(count):
    return steps(samplers.DDIM.sampler(None, 1), count)


def ancestral(count):
    return steps(samplers.ANCESTRAL.sampler(None, 1), count)


CPU = torch.device("cpu")


def tiny():
    torch.manual_seed(0)
    denoiser = build(CARD)
    denoiser.net.gain.data.fill_(1)
    return denoiser


def runner(dtype=torch.float32, make=tiny):
    return Runner(make, CPU, dtype)


def sample(on, solve, x, sigma, sites, field):
    return on.sample(solve, on.problem(x, sigma, sites, field))


def batch(n=5, size=(32, 24)):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 1, *size)).astype(np.float32)
    sites = [Site((0, 0, i), 8 * i, -16) for i in range(n)]
    return x, np.linspace(0.1, 0.6, n, dtype=np.float32), sites


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sampler", [ddim, ancestral])
def test_any_grouping_gives_the_same_bits(dtype, sampler):
    x, sigma, sites = batch()
    whole = sample(runner(dtype), sampler(3), x, sigma, sites, NoiseField(1))
    for size in (1, 2, 3):
        parts = [
            sample(
                runner(dtype),
                sampler(3),
                x[i : i + size],
                sigma[i : i + size],
                sites[i : i + size],
                NoiseField(1),
            )
            for i in range(0, 5, size)
        ]
        assert np.array_equal(whole, np.concatenate(parts))


def test_out_of_memory_halves_the_batch():
    sizes = []

    class Greedy(Runner):
        def denoise(self, x, sigma, condition=None):
            sizes.append(len(x))
            if len(x) > 2:
                raise torch.OutOfMemoryError("too much")
            return super().denoise(x, sigma, condition)

    x, sigma, sites = batch()
    out = sample(Greedy(tiny, CPU, torch.float32), ddim(1), x, sigma, sites, NoiseField())
    assert sizes == [5, 2, 3, 1, 2]
    assert np.array_equal(out, sample(runner(), ddim(1), x, sigma, sites, NoiseField()))


def test_out_of_memory_for_one_window_says_what_to_do():
    class Full(Runner):
        def denoise(self, x, sigma, condition=None):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")

    x, sigma, sites = batch(2)
    with pytest.raises(EngineError, match="32x24"):
        sample(Full(tiny, CPU, torch.float32), ddim(1), x, sigma, sites, NoiseField())


def test_other_runtime_errors_keep_their_traceback():
    class Broken(Runner):
        def denoise(self, x, sigma, condition=None):
            raise RuntimeError("a bug")

    x, sigma, sites = batch(2)
    with pytest.raises(RuntimeError, match="a bug"):
        sample(Broken(tiny, CPU, torch.float32), ddim(1), x, sigma, sites, NoiseField())


class Overflowing(Denoiser):
    """Infinite in bf16, for images that are bright; never finite where `always`."""

    always = False

    def forward(self, x, sigma, condition=None):
        out = super().forward(x, sigma, condition)
        bad = (self.dtype == torch.bfloat16) | torch.tensor(self.always)
        return torch.where(bad & (x.amax((1, 2, 3), keepdim=True) > 50), torch.inf, out)


def overflowing(always=False):
    def make():
        denoiser = Overflowing(tiny().net, CARD)
        denoiser.always = always
        return denoiser

    return make


def test_non_finite_windows_are_computed_again_in_fp32():
    x, sigma, sites = batch()
    x[3] += 60
    run = runner(torch.bfloat16, overflowing())
    out = sample(run, ddim(1), x, sigma, sites, NoiseField())
    exact = sample(runner(), ddim(1), x[3:4], sigma[3:4], sites[3:4], NoiseField())
    assert run.retried == 1
    assert np.array_equal(out[3:4], exact)


def test_non_finite_in_fp32_is_an_error():
    x, sigma, sites = batch()
    x[1] += 60
    with pytest.raises(EngineError, match="not finite"):
        sample(runner(torch.float32, overflowing(True)), ddim(1), x, sigma, sites, NoiseField())


def test_calls_are_counted_in_windows():
    x, sigma, sites = batch()
    run = runner()
    sample(run, ddim(4), x, sigma, sites, NoiseField())
    assert run.calls == 20


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "nonsense", "xpu"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(UsageError, match="`device`"):
        pick_device(name)


def test_precision_names():
    assert pick_precision("fp32", CPU) == torch.float32
    assert pick_precision("bf16", CPU) == torch.bfloat16
    with pytest.raises(UsageError, match="`precision`"):
        pick_precision("fp16", CPU)


@pytest.mark.parametrize(
    ("batch", "shape", "count"),
    [(None, (512, 512), 4), (9, (512, 512), 4), (None, (64, 64), 64), (3, (64, 64), 3),
     (None, (8, 8), 64), (128, (8, 8), 128), (9, (2048, 640), 1)],
)  # fmt: skip
def test_tiles_together_are_bounded_by_area_and_batch(batch, shape, count):
    assert tiles_together(Compute(batch=batch), shape) == count
