"""Grouping, memory and precision may change how windows are computed, never what comes out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from restorectl.engine import runner as engine
from restorectl.engine import samplers
from restorectl.engine.card import Card
from restorectl.engine.denoiser import Denoiser, build
from restorectl.engine.noise_field import NoiseField, Site
from restorectl.engine.runner import (
    Account,
    Runner,
    Stopped,
    Workers,
    counting,
    measuring,
    pick_device,
    pick_precision,
)
from restorectl.errors import EngineError, UsageError

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_threads_gives_the_same_bits(dtype):
    x, sigma, sites = batch(6, (40, 48))
    answers = []
    for threads in (1, 2, 3):
        run = replace(runner(dtype), workers=Workers(threads))

        def one(k, run=run):
            part = slice(k, k + 1)
            return sample(run, ancestral(3), x[part], sigma[part], sites[part], NoiseField(1))

        answers.append(np.concatenate(run.workers.each(one, range(6))))
        # of many tiles, from a thread that is no worker
        answers.append(sample(run, ancestral(3), x, sigma, sites, NoiseField(1)))
    assert all(np.array_equal(answers[0], other) for other in answers[1:])


def test_workers_use_one_thread_of_torch_each_and_give_results_in_order():
    workers = Workers(3)
    found = workers.each(lambda k: (k, torch.get_num_threads()), range(20))
    assert found == [(k, 1) for k in range(20)]
    assert workers.each(lambda k: workers.each(lambda j: 10 * k + j, range(2)), range(3)) == [
        [0, 1], [10, 11], [20, 21],
    ]  # fmt: skip


def test_items_are_taken_a_few_at_a_time():
    taken, finished = [], []

    def items():
        for k in range(30):
            taken.append(k)
            assert len(taken) - len(finished) <= 2 * 2 + 1
            yield k

    Workers(2).each(finished.append, items())
    assert sorted(finished) == list(range(30))


def test_the_first_error_ends_the_work():
    begun = []

    def fail(k):
        begun.append(k)
        if k == 3:
            raise EngineError("of the fourth")

    with pytest.raises(EngineError, match="of the fourth"):
        Workers(2).each(fail, range(100))
    assert len(begun) < 20


def test_one_item_is_made_ahead():
    made, account = [], Account()

    def items():
        for k in range(5):
            made.append(k)
            yield k

    with counting(account):
        for k in Workers().ahead(items()):
            assert len(made) <= k + 3
        assert made == list(range(5))
        ahead = Workers().ahead(items())
        next(ahead)
        with pytest.raises(ValueError, match="of the reader"):
            ahead.throw(ValueError("of the reader"))
    assert account.stopped  # so that what is being made is not waited for


def test_calls_count_for_the_account_of_their_file():
    x, sigma, sites = batch()
    run, seen = replace(runner(), workers=Workers(2)), []
    first, second = Account(lambda *each: seen.append(each)), Account()
    with counting(first):
        sample(run, ddim(2), x, sigma, sites, NoiseField())
        run.clean(x[:, 0], 0.2)
        with measuring():
            sample(run, ddim(1), x, sigma, sites, NoiseField())
    with counting(second):
        sample(run, ddim(1), x[:2], sigma[:2], sites[:2], NoiseField())
    assert (first.calls, second.calls, run.calls) == (15, 2, 17)
    shown = [each for each in seen if each != (0, 0)]
    assert shown == [(5, 5 * 32 * 24)] * 2  # of those that were planned


def test_a_stopped_account_ends_the_work_at_the_next_call():
    x, sigma, sites = batch()
    run, account = runner(), Account()
    account.advance = lambda *_: setattr(account, "stopped", True)
    with counting(account), pytest.raises(Stopped):
        sample(run, ddim(10), x, sigma, sites, NoiseField())
    assert account.calls == 5


def test_a_cpu_takes_tiles_one_by_one():
    assert Runner(tiny, CPU, torch.float32, batch=9).together((8, 8)) == 1


@pytest.mark.parametrize(
    ("free", "batch", "shape", "count"),
    [(80e9, None, (512, 512), 32), (8e9, None, (512, 512), 5), (8e9, None, (640, 640), 3),
     (1e9, None, (640, 640), 1), (1e6, None, (640, 640), 1), (80e9, None, (64, 64), 2048),
     (8e9, 3, (64, 64), 3), (1e6, 9, (640, 640), 9)],
)  # fmt: skip
def test_batches_of_a_gpu_fit_its_free_memory(monkeypatch, free, batch, shape, count):
    monkeypatch.setattr(engine, "free_memory", lambda device: free)
    cuda = torch.device("cuda")
    on = Runner(tiny, cuda, torch.float32, Workers(4, cuda), batch)
    assert on.together(shape) == count
    assert (
        count == 1
        or batch
        or count * shape[0] * shape[1] * engine.TILE_BYTES[torch.float32] * 2 <= free / 2
    )


@pytest.mark.parametrize(
    ("device", "threads", "workers", "files"),
    [("cpu", 1, 1, 1), ("cpu", 6, 6, 6), ("cuda", 1, 2, 1), ("cuda", 6, 2, 4), ("mps", 6, 1, 1)],
)
def test_threads_of_each_device(device, threads, workers, files):
    found = Workers(threads, torch.device(device))
    assert (found.count, found.files) == (workers, files)


def test_free_memory_of_a_gpu_includes_what_torch_holds_unused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    assert engine.free_memory(torch.device("cuda")) == 1300


@pytest.mark.parametrize(
    ("cuda", "mps", "found"),
    [(False, False, "cpu"), (False, True, "mps"), (True, False, "cuda"), (True, True, "cuda")],
)
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, cuda, mps, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto").type == found


def test_arrays_are_sent_to_cuda_from_pinned_memory(monkeypatch):
    sent = []

    class Pinned:
        def to(self, device, non_blocking):
            sent.append((device.type, non_blocking))
            return self

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: Pinned())
    cuda = torch.device("cuda")
    Runner(tiny, cuda, torch.float32, Workers(1, cuda))._sent(np.zeros(3, np.float32))
    assert sent == [("cuda", True)]


def test_the_network_is_compiled_only_on_request(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: asked.append(self))
    for wanted in (False, True):
        made = Runner(tiny, CPU, torch.float32, compile=wanted).denoiser()
    assert asked == [made.net]
