"""Checks and times everything on a GPU, from a plain checkout, in about two minutes.

    PYTHONPATH=. python3 tests/benchmarks/bench_gpu.py [cuda|mps|cpu] [--quick] [PART OF A NAME...]

Simulated images only. Each check prints a line; the exit code is 1 if one fails. cpu: tries the
script itself. --quick: small images.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tifffile
import torch
from torch import Tensor

from restorectl import catalog
from restorectl.batch.outcome import Silent
from restorectl.engine import runner as engine
from restorectl.engine.noise_field import NoiseField, Site
from restorectl.engine.runner import Runner, Stopped, counting, make_runner, pick_device
from restorectl.jobs import Compute, Files, RestoreJob, SuperresJob, UncertaintyJob
from restorectl.restoration.restore import restore
from restorectl.restoration.uncertainty import uncertainty
from restorectl.volumes.superres3d import superres3d
from restorectl.weights import file

GREY = 127.5  # grey levels of 8 bit per network unit


@dataclass
class Setup:
    device: str
    side: int  # px
    place: Path
    quick: bool

    def __post_init__(self) -> None:
        self.gpu, self.exact = self.runner(), self.runner(precision="fp32")
        self.cpu = self.runner(device="cpu", precision="fp32")
        self.x = torch.randn(4, 1, 256, 256, generator=torch.Generator().manual_seed(0)) * 0.3
        self.sigma = torch.full((4,), 0.2)
        self.many, self.large, self.small = (self.place / n for n in ("many", "large", "small"))
        for k in range(4 if self.quick else 12):
            save(self.many / f"{k}.tif", scene(self.side, self.side, seed=k))
        tiled = (2, 2) if self.quick else (8, 8)
        save(self.large / "large.tif", np.tile(scene(self.side, self.side), tiled))
        save(self.small / "small.tif", scene(200, 300))

    def runner(self, **options: object) -> Runner:
        loaded = file.load("prior")
        return make_runner(
            loaded.card, loaded.tensors, Compute(**{"device": self.device} | options)
        )

    def there(self, *values: Tensor) -> list[Tensor]:
        return [value.to(self.gpu.device) for value in values]

    def synchronize(self) -> None:
        if self.device != "cpu":
            getattr(torch, self.device).synchronize()

    def seconds(self, function: Callable[[], object], repeats: int = 5) -> float:
        """Median seconds of a call, warmed up."""
        found = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            function()
            self.synchronize()
            found.append(time.perf_counter() - start)
        return statistics.median(found[1:])

    def restored(self, source: Path, out: str, *, device: str = "", **more: object):
        """(folder of the results, seconds) of `restore` in this process."""
        options = ("batch", "threads", "precision", "compile")
        compute = Compute(
            device=device or self.device, **{k: more.pop(k) for k in options if k in more}
        )
        files = Files((str(source),), str(self.place / out))
        start = time.perf_counter()
        outcomes = restore(RestoreJob(files, compute=compute, **more), Silent())
        bad = [each.message for each in outcomes if each.status != "done"]
        assert not bad, bad
        return self.place / out, time.perf_counter() - start


def scene(*shape: int, seed: int = 0) -> np.ndarray:
    """Photon counts of blurred spots, uint16."""
    rng = np.random.default_rng(seed)
    waves = np.meshgrid(*(np.fft.fftfreq(length) for length in shape), indexing="ij")
    blur = np.exp(-2 * (np.pi * 2.0) ** 2 * sum(wave**2 for wave in waves))
    smooth = np.fft.ifftn(np.fft.fftn(rng.random(shape) ** 12) * blur).real
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return rng.poisson(10 + 300 * smooth).astype(np.uint16)


def save(path: Path, pixels: np.ndarray, **more: object) -> None:
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, pixels, photometric="minisblack", **more)


def apart(a: Path, b: Path) -> tuple[float, float]:
    """Largest and mean difference of the images in two folders, relative to their range."""
    largest, means = 0.0, []
    for path in sorted(a.rglob("*.tif")):
        one, other = (
            tifffile.imread(each).astype(np.float64) for each in (path, b / path.relative_to(a))
        )
        differences = np.abs(one - other) / np.ptp(one)
        largest = max(largest, float(differences.max()))
        means.append(float(differences.mean()))
    return largest, float(np.mean(means))


def sample(runner: Runner, count: int, side: int, first: int = 0) -> np.ndarray:
    """Two ancestral steps of simulated tiles."""
    rng = np.random.default_rng(first)
    x = (rng.standard_normal((count, 1, side, side)) * 0.3).astype(np.float32)
    sampler = catalog.METHODS["ancestral"].load().sampler(None, 1)
    sites = [Site((0, 0, first + k), 0, 0) for k in range(count)]
    problem = runner.problem(x, np.full(count, 0.2, np.float32), sites, NoiseField(), steps=2)
    return runner.sample(lambda part: sampler.run(part, {}), problem)


# ---- the checks: each returns what to tell, or raises AssertionError -----------------------------
def chosen(s: Setup) -> str:
    found = pick_device("auto")
    assert found.type == s.device or s.device == "cpu", found
    return f"{found}, {s.gpu.dtype}"


@torch.inference_mode()
def network(s: Setup) -> str:
    truth = s.cpu.denoise(s.x, s.sigma)
    full, auto = (
        float((r.denoise(*s.there(s.x, s.sigma)).cpu() - truth).abs().max() * GREY)
        for r in (s.exact, s.gpu)
    )
    assert full < 0.5, full  # TF32 where convolutions use it
    assert auto < 8, auto
    return f"fp32 {full:.4f}, {s.gpu.dtype} {auto:.2f} grey levels from the CPU's fp32 at most"


@torch.inference_mode()
def per_pixel(s: Setup) -> str:
    level = s.sigma.reshape(-1, 1, 1, 1) * torch.linspace(0.5, 2, 256).expand(4, 1, 256, 256)
    found = s.gpu.denoise(*s.there(s.x, level)).cpu() - s.cpu.denoise(s.x, level)
    assert found.abs().max() * GREY < 8
    return f"{found.abs().max() * GREY:.2f} grey levels from the CPU's fp32 at most"


@torch.inference_mode()
def any_batch(s: Setup) -> str:
    told = []
    many, level = s.there(s.x.repeat(4, 1, 1, 1), s.sigma[:1])
    for runner in (s.exact, s.gpu):
        one, *others = (
            torch.cat([runner.denoise(x, level.expand(n)) for x in many.split(n)])
            for n in (1, 2, 4, 16)
        )
        found = [float((other - one).abs().max()) * GREY for other in others]
        assert max(found) < 4, found
        told.append(f"{runner.dtype} " + ", ".join(f"{each:.4f}" for each in found))
    return f"batches of 2, 4, 16 beside one tile a call: {'; '.join(told)} grey levels at most"


@torch.inference_mode()
def pace(s: Setup) -> str:
    told = []
    for count in (1, 2, 4) if s.quick else (1, 2, 4, 8, 16, 32):
        x, level = s.there(torch.randn(count, 1, s.side, s.side), torch.full((count,), 0.2))
        took = s.seconds(partial(s.gpu.denoiser(), x, level))
        told.append(f"{count}: {took * 1e3:.1f} ms ({count * s.side**2 / took / 1e6:.1f} Mpx/s)")
    return f"{s.side}x{s.side}, tiles a call: {', '.join(told)}"


def memory(s: Setup) -> str:
    sizes = {side: s.gpu.together((side, side)) for side in (64, 256, 512, 640)}
    if s.device != "cuda":
        return f"tiles a call {sizes}"
    whole = sample(s.gpu, 32, s.side)
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + (1200 << 20)
    torch.cuda.set_per_process_memory_fraction(
        room / torch.cuda.get_device_properties(0).total_memory
    )
    try:
        few = sample(s.gpu, 32, s.side)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    found = float(np.abs(few - whole).max() * GREY)
    assert found < 4, found
    return f"tiles a call {sizes}; halved to fit 1.2 GB: {found:.3f} grey levels apart"


def streams(s: Setup) -> str:
    found, took = [], []
    for engine.GPU_WORKERS in (1, 2):
        runner = s.runner(threads=engine.GPU_WORKERS)
        work = partial(sample, runner, 4, s.side)
        runner.workers.each(work, range(2))
        start = time.perf_counter()
        found.append(np.stack(runner.workers.each(work, range(0, 4 if s.quick else 64, 4))))
        took.append(time.perf_counter() - start)
    assert np.array_equal(*found), "results differ"
    return f"{took[0]:.2f} s with one worker, {took[1]:.2f} s with two; the same bits"


@torch.inference_mode()
def stopped(s: Setup) -> str:
    try:
        with counting(engine.Account(stopped=True)):
            s.gpu.denoise(*s.there(s.x[:1], s.sigma[:1]))
    except Stopped:
        return "the next call raises Stopped"
    raise AssertionError("a call of a stopped file went on")


def folder(s: Setup) -> str:
    _, first = s.restored(s.many, "many0")
    auto, took = s.restored(s.many, "many1")
    again, _ = s.restored(s.many, "many2")
    single, alone = s.restored(s.many, "many3", threads=1, batch=1)
    assert apart(auto, again)[0] == 0, "two runs differ"
    largest, mean = apart(auto, single)
    assert largest < 0.02, (largest, mean)
    count = len(list(s.many.iterdir()))
    return (
        f"{took / count:.3f} s for each {s.side}x{s.side} ({first / count:.3f} the first time,"
        f" {alone / count:.3f} on one thread); two runs have the same bits; --threads 1 --batch 1:"
        f" {largest:.5f} of the range apart at most, {mean:.7f} in the mean"
    )


def beside_cpu(s: Setup) -> str:
    truth, _ = s.restored(s.small, "small0", device="cpu", dtype="float32", precision="fp32")
    full, _ = s.restored(s.small, "small1", dtype="float32", precision="fp32")
    auto, _ = s.restored(s.small, "small2", dtype="float32")
    found = apart(truth, full)[0], apart(truth, auto)[0]
    assert found[0] < 0.01, found
    assert found[1] < 0.05, found
    return f"fp32 {found[0]:.5f}, auto {found[1]:.5f} of the range from the CPU's fp32 at most"


def large(s: Setup) -> str:
    _, took = s.restored(s.large, "large0")
    pixels = tifffile.imread(s.large / "large.tif").size
    told = f"{took:.2f} s, {pixels / took / 1e6:.2f} Mpx/s"
    if s.device == "cuda":
        told += f", {torch.cuda.max_memory_allocated() / 1e9:.1f} GB of the GPU at most"
    return told


def stack(s: Setup) -> str:
    save(s.place / "stack" / "stack.tif", scene(6, s.side // 2, s.side // 2), imagej=True,
         metadata={"axes": "ZYX"})  # fmt: skip
    _, took = s.restored(s.place / "stack", "stack0", context="z")
    return f"{took:.2f} s for 6 planes of {s.side // 2}x{s.side // 2}"


def samplers(s: Setup) -> str:
    names = ("rscd", "dpmpp", "ancestral")
    took = [s.restored(s.small, f"small-{name}", sampler=name)[1] for name in names]
    return ", ".join(f"{n} {t:.2f} s" for n, t in zip(names, took, strict=True)) + " for 200x300"


def error_bars(s: Setup) -> str:
    few = {"samples": 2, "steps": 2, "calibration": "none"} if s.quick else {}
    files = Files((str(s.small),), str(s.place / "maps"))
    start = time.perf_counter()
    (outcome,) = uncertainty(
        UncertaintyJob(files, compute=Compute(device=s.device), **few), Silent()
    )
    assert outcome.status == "done", outcome.message
    return f"{time.perf_counter() - start:.2f} s for 200x300, {outcome.calls} calls"


def volume(s: Setup) -> str:
    source, told = s.place / "volume" / "volume.tif", []
    save(source, scene(8, 64, 96), imagej=True, metadata={"axes": "ZYX"})
    for device in (s.device, "cpu"):
        job = SuperresJob(
            Files((str(source),), str(s.place / f"volume-{device}"), overwrite=True),
            compute=Compute(device=device, precision="fp32"), strength=1.0, factor=4,
        )  # fmt: skip
        start = time.perf_counter()
        (outcome,) = superres3d(job, Silent())
        assert outcome.status in ("done", "skipped"), outcome.message
        told.append(f"{device} {time.perf_counter() - start:.2f} s")
    largest, _ = apart(s.place / f"volume-{s.device}", s.place / "volume-cpu")
    assert largest < 0.02, largest
    return f"8 planes of 64x96 to 29: {', '.join(told)}; {largest:.4f} of the range apart in fp32"


def command(s: Setup) -> str:
    words = [sys.executable, "-m", "restorectl", "restore", s.many, "-o", s.place / "command"]
    device = ["--device", "cpu"] if s.device == "cpu" else []  # else what auto finds
    start = time.perf_counter()
    done = subprocess.run([*words, "--json", "-q", *device], capture_output=True, text=True)
    took = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    count = len([json.loads(line) for line in done.stdout.splitlines()])
    largest, _ = apart(s.place / "many1", s.place / "command")
    assert largest == 0, largest
    return f"{count} images in {took:.1f} s with its start; the same bits as in this process"


@torch.inference_mode()
def compiled(s: Setup) -> str:
    runner = s.runner(compile=True)
    x, level = s.there(torch.randn(4, 1, s.side, s.side), torch.full((4,), 0.2))
    start = time.perf_counter()
    found = float((runner.denoise(x, level) - s.gpu.denoise(x, level)).abs().max()) * GREY
    first = time.perf_counter() - start
    plain, fast = (s.seconds(partial(r.denoiser(), x, level)) for r in (s.gpu, runner))
    assert found < 16, found
    return (
        f"in {first:.0f} s; {plain * 1e3:.1f} -> {fast * 1e3:.1f} ms for 4 tiles of {s.side} px,"
        f" {found:.2f} grey levels apart at most"
    )


CHECKS = {
    "auto picks this device": chosen,
    "network": network,
    "a level for each pixel": per_pixel,
    "any batch": any_batch,
    "pace of the network": pace,
    "batches by free memory": memory,
    "workers with streams of their own": streams,
    "a stopped file": stopped,
    "restore, a folder": folder,
    "restore, the command": command,
    "restore beside the CPU": beside_cpu,
    "restore, one large image": large,
    "restore, a stack with neighbours": stack,
    "restore, other samplers": samplers,
    "uncertainty": error_bars,
    "superres3d": volume,
    "--compile": compiled,
}


def main() -> int:
    given = [word for word in sys.argv[1:] if not word.startswith("-")]
    devices = [word for word in given if word in ("cuda", "mps", "cpu")]
    device = devices[0] if devices else pick_device("auto").type
    if device == "cpu" and not devices:
        sys.exit("no GPU here: nothing to check (`cpu` tries the script itself)")
    begun, failed = time.perf_counter(), []
    print(
        f"torch {torch.__version__}", torch.cuda.get_device_name() if device == "cuda" else device
    )
    with tempfile.TemporaryDirectory() as place:
        quick = "--quick" in sys.argv
        setup = Setup(device, 128 if quick else 512, Path(place), quick)
        print(f"set up in {time.perf_counter() - begun:.1f} s", flush=True)
        wanted = [word for word in given if word not in devices] or [""]
        for name, function in CHECKS.items():
            if not any(word in name for word in wanted):
                continue
            start = time.perf_counter()
            try:
                told, mark = function(setup), "ok  "
            except Exception as error:
                told, mark = f"{type(error).__name__}: {error}", "FAIL"
                failed.append(name)
                traceback.print_exc()
            took = time.perf_counter() - start
            print(f"{mark} {name} ({took:.1f} s): {told}", flush=True)
    print(f"{len(failed)} failed {failed}, {time.perf_counter() - begun:.0f} s in all")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
