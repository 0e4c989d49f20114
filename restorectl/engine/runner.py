"""Runs a denoiser on tiles: handles device, precision, threads and memory, but no files or output.

Worker threads run whole tiles, each on one OpenMP thread: a team of threads that meets after every
layer waits for its slowest member, and on a busy machine some member is always late. One thread
also sums in one order, so results are the same bits for any number of threads.
"""

import ctypes
import platform
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Lock, RLock, local
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from restorectl.engine.card import Card
from restorectl.engine.denoiser import Denoiser, build
from restorectl.engine.noise_field import NoiseField, Site
from restorectl.engine.samplers import Calibrator, Decided, Problem, Sampler
from restorectl.errors import EngineError, UsageError
from restorectl.files import machine
from restorectl.jobs import Compute

CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Approximate memory per pixel of a tile in the network (embedded prior: 440 and 890; told a level
# for each pixel 660 and 1270)
TILE_BYTES = {torch.bfloat16: 700, torch.float32: 1400}
CALL_PIXELS = 8 << 20  # px in one call of a GPU; more would not be faster
GPU_SHARE = 0.5  # of a GPU's free memory that calls may take
GPU_WORKERS = 2  # one copies and prepares tiles while the other's are in the network
GPU_FILES = 4  # files read, measured and written at a time, so that a GPU need not wait for them

T = TypeVar("T")
R = TypeVar("R")


# ---- threads -------------------------------------------------------------------------------------
class Stopped(BaseException):
    """Raised in all threads that work for a file, or for a run, that is given up."""


@dataclass
class Account:
    """What the network does for one file: every thread that works for the file adds to it."""

    advance: Callable[[int, int], None] = lambda calls, pixels: None
    calls: int = 0  # network evaluations, one per tile
    stopped: bool = False
    lock: Lock = field(default_factory=Lock)

    def add(self, calls: int, shown: int, pixels: int) -> None:
        """shown, pixels: of the calls that were planned. Raises Stopped."""
        if self.stopped:
            raise Stopped
        with self.lock:
            self.calls += calls
        self.advance(shown, pixels)


ACCOUNT: ContextVar[Account | None] = ContextVar("account", default=None)


@contextmanager
def counting(account: Account) -> Iterator[None]:
    """Calls of this thread, and of those that work for it, count for this account."""
    token = ACCOUNT.set(account)
    try:
        yield
    finally:
        ACCOUNT.reset(token)


@contextmanager
def measuring() -> Iterator[None]:
    """Calls in it are not of those that were planned: they find out how to restore the image."""
    token = _MEASURING.set(True)
    try:
        yield
    finally:
        _MEASURING.reset(token)


_MEASURING: ContextVar[bool] = ContextVar("measuring", default=False)
_WORKING: ContextVar[bool] = ContextVar("working", default=False)
_END = object()


class Workers:
    """The threads that run tiles. Results do not depend on their number."""

    def __init__(self, threads: int = 1, device: torch.device = CPU) -> None:
        keep_memory()
        self.device = device
        self.count = {"cpu": threads, "cuda": GPU_WORKERS}.get(device.type, 1)
        self.files = {"cpu": threads, "cuda": min(threads, GPU_FILES)}.get(device.type, 1)
        self._pool = ThreadPoolExecutor(self.count, "tiles", one_thread)
        self._streams = local()

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """The function's results for all items, in order; raises what it raises first.

        At most two items a thread are taken ahead. In a worker, items are processed one by one.
        """
        if _WORKING.get():
            return [function(item) for item in items]
        waiting: deque[Future[R]] = deque()
        results: list[R] = []
        try:
            for item in items:
                if len(waiting) >= 2 * self.count:
                    results.append(waiting.popleft().result())
                run = copy_context().run
                waiting.append(self._pool.submit(run, self._work, function, item))
            while waiting:
                results.append(waiting.popleft().result())
        except BaseException:
            for future in waiting:
                future.cancel()
            wait(waiting)
            raise
        return results

    def _work(self, function: Callable[[T], R], item: T) -> R:
        _WORKING.set(True)
        account = ACCOUNT.get()
        if account is not None and account.stopped:
            raise Stopped
        with torch.inference_mode(), self._stream():
            return function(item)

    def _stream(self) -> Any:
        """Of a GPU: each worker has its own, so that copies do not wait for the other's network."""
        if self.device.type != "cuda":
            return nullcontext()
        if not hasattr(self._streams, "own"):
            self._streams.own = torch.cuda.Stream(self.device)
        return torch.cuda.stream(self._streams.own)

    def alone(self, function: Callable[[], R]) -> R:
        """The function's result, from a thread of its own with one thread of torch.

        It is no worker: its tiles are run by all of them.
        """
        with ThreadPoolExecutor(1, "alone", one_thread) as thread:
            return thread.submit(copy_context().run, function).result()

    def ahead(self, items: Iterator[T]) -> Iterator[T]:
        """The same items; while one is used, the next is made in another thread."""
        account, run = ACCOUNT.get(), copy_context().run
        with ThreadPoolExecutor(1, "ahead", one_thread) as maker:
            try:
                following = maker.submit(run, lambda: next(items, _END))
                while (item := following.result()) is not _END:
                    following = maker.submit(run, lambda: next(items, _END))
                    yield item  # type: ignore[misc]
            except BaseException:
                if account is not None:
                    account.stopped = True  # what is being made is not waited for
                raise


def one_thread() -> None:
    """Make torch use one thread in this thread."""
    torch.set_num_threads(1)


def keep_memory() -> None:
    """Make glibc keep large blocks that were freed: asking for them again costs page faults.

    A network call takes and frees gigabytes in blocks of megabytes. All threads share one arena:
    blocks in those of single threads would be given back all the same.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        largest = libc.mallopt(M_MMAP_THRESHOLD, 1 << 30) or libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)
        if largest:
            libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
            libc.mallopt(M_ARENA_MAX, 1)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of malloc.h


# ---- devices -------------------------------------------------------------------------------------
def pick_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda[:N]` or `mps` as an available device; raises UsageError."""
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"`device` {name}: choose auto, cpu, cuda, cuda:N or mps") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"`device` {name}: choose auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"`device` {name}: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("`device` mps: this machine has no MPS device")
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype; auto: bf16 if fast (CUDA from Ampere, AMX or AVX512-BF16 CPUs), else fp32."""
    if name != "auto":
        if name not in DTYPES:
            raise UsageError(f"`precision` {name}: choose auto, {' or '.join(DTYPES)}")
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float32
    fast = device.type == "cpu" and platform.machine() in ("x86_64", "AMD64") and _cpu_has_bf16()
    return torch.bfloat16 if fast else torch.float32


def _cpu_has_bf16() -> bool:
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in probes)


def make_runner(card: Card, tensors: Mapping[str, Tensor], compute: Compute) -> "Runner":
    """A runner for a weights file on the device and precision asked for. Raises UsageError."""
    device = pick_device(compute.device)
    dtype = pick_precision(compute.precision, device)
    workers = Workers(compute.threads or machine.cores(), device)
    make = partial(build, card, dict(tensors))
    return Runner(make, device, dtype, workers, compute.batch, compute.compile)


def free_memory(device: torch.device) -> int:
    """Bytes that a GPU has left, with those that torch holds but does not use."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()


@dataclass
class Runner:
    """One denoiser on one device. `calls` counts network evaluations, one per tile."""

    make: Callable[[], Denoiser]  # a fresh, unprepared denoiser
    device: torch.device
    dtype: torch.dtype
    workers: Workers = field(default_factory=Workers)
    batch: int | None = None  # the most tiles in a call
    compile: bool = False
    calls: int = 0
    retried: int = 0  # tiles that were computed again in float32
    _ready: dict[torch.dtype, Denoiser] = field(default_factory=dict)
    _lock: RLock = field(default_factory=RLock)

    def using(self, card: Card, tensors: Mapping[str, Tensor]) -> "Runner":
        """A runner of another network, with the same workers."""
        return replace(self, make=partial(build, card, dict(tensors)), _ready={}, _lock=RLock())

    def denoiser(self, dtype: torch.dtype | None = None) -> Denoiser:
        dtype = dtype or self.dtype
        with self._lock:
            if dtype not in self._ready:
                ready = self.make().prepared(self.device, dtype)
                if self.compile:
                    ready.net.compile()
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)  # the workers' streams wait for nothing
                self._ready[dtype] = ready
            return self._ready[dtype]

    def together(self, shape: tuple[int, int]) -> int:
        """How many tiles of `shape` one call takes: one on a CPU, on a GPU as many as it can hold.

        The order in which a CPU's convolutions sum depends on the number of tiles in the call, and
        more tiles are no faster there.
        """
        if self.device.type == "cpu":
            return 1
        pixels = shape[0] * shape[1]
        free = free_memory(self.device) / self.workers.count
        room = GPU_SHARE * free / TILE_BYTES[self.dtype]
        return max(1, min(int(room), CALL_PIXELS) // pixels) if self.batch is None else self.batch

    @property
    def tile_bytes(self) -> int:
        """Memory of the machine, not of its GPU, for each pixel of a tile in the network."""
        return TILE_BYTES[self.dtype] if self.device.type == "cpu" else 0

    def count(self, tiles: int, shape: tuple[int, int], *, asked: bool = False) -> None:
        """Count calls, of tiles of `shape`. asked: about the noise, which are not in `calls`."""
        calls = 0 if asked else tiles
        with self._lock:
            self.calls += calls
        if (account := ACCOUNT.get()) is not None:
            shown = 0 if _MEASURING.get() else calls
            account.add(calls, shown, shown * shape[0] * shape[1])

    def denoise(
        self, x: Tensor, sigma: Tensor, condition: Tensor | None = None, *, asked: bool = False
    ) -> Tensor:
        """x (B, C, H, W) at level sigma (B,) -> finite x0; raises EngineError if it is not finite.

        A CPU evaluates tiles one by one, see `together`. asked: as in `count`.
        """
        x0 = self._evaluate(self.denoiser(), x, sigma, condition)
        bad = (~torch.isfinite(x0).flatten(1).all(1)).nonzero()[:, 0]
        if len(bad):
            part = None if condition is None else condition[bad]
            x0[bad] = self._evaluate(self.denoiser(torch.float32), x[bad], sigma[bad], part)
            with self._lock:
                self.retried += len(bad)
            if not torch.isfinite(x0).all():
                raise EngineError("the network's output is not finite, even in fp32")
        self.count(len(x), (x.shape[2], x.shape[3]), asked=asked)
        return x0

    @torch.inference_mode()
    def clean(self, tiles: np.ndarray, level: float | np.ndarray) -> np.ndarray:
        """Denoise tiles (B, H, W) in [-1, 1], to learn about them; not in `calls`.

        level: of all tiles; (B, H, W) float32, of each pixel, if the network takes that.
        """
        x = self._sent(tiles[:, None])
        if isinstance(level, np.ndarray):
            x0 = self.denoise(x, self._sent(level[:, None]), asked=True)
        else:
            sigma = torch.full((len(tiles),), level, device=self.device)
            x0 = self.denoise(x, sigma, asked=True)
        return np.asarray(x0[:, 0].cpu().numpy())

    def _evaluate(
        self, denoiser: Denoiser, x: Tensor, sigma: Tensor, condition: Tensor | None
    ) -> Tensor:
        if self.device.type != "cpu":
            return denoiser(x, sigma, condition)
        conditions = [None] * len(x) if condition is None else condition.split(1)
        parts = zip(x.split(1), sigma.split(1), conditions, strict=True)
        return torch.cat(self.workers.each(lambda part: denoiser(*part), parts))

    def _sent(self, values: np.ndarray) -> Tensor:
        """An array on the device; to a GPU from pinned memory, without waiting for the copy."""
        found = torch.from_numpy(values)
        if self.device.type == "cuda":
            return found.pin_memory().to(self.device, non_blocking=True)
        return found.to(self.device)

    def problem(
        self,
        x: np.ndarray,
        sigma: np.ndarray,
        sites: list[Site],
        field: NoiseField,
        guide: np.ndarray | None = None,
        relative: np.ndarray | None = None,
        **numbers: Any,
    ) -> Problem:
        """A Problem on the device for tiles x (B, C, H, W) float32 at levels sigma (B,).

        guide: (B, C, H, W) float32, another method's result. relative: (B, 1, H, W) float32, the
        pixels' levels relative to sigma. numbers: fields of Problem.
        """
        size = (x.shape[2], x.shape[3])
        return Problem(
            self.denoise,
            self._sent(x),
            self._sent(sigma.astype(np.float32, copy=False)),
            lambda k, tiles: field.draw([sites[i] for i in tiles.tolist()], size, k, x.shape[1]),
            guide=None if guide is None else self._sent(guide),
            relative=None if relative is None else self._sent(relative),
            **numbers,
        )

    def decide(self, sampler: Sampler, problem: Problem, calibrator: Calibrator) -> Decided:
        """What a sampler decides on sampled tiles. Raises EngineError if memory runs out."""

        @torch.inference_mode()
        def found() -> Decided:
            with measuring():
                return sampler.decide(problem, calibrator)

        try:
            return self.workers.alone(found)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise EngineError(
                f"out of memory for {len(problem.x)} sampled tiles on {self.device}: free memory"
                " there, or use `device` cpu"
            ) from error

    @torch.inference_mode()
    def sample(self, run: Callable[[Problem], Tensor], problem: Problem) -> np.ndarray:
        """Run a batch; returns x0 (B, C, H, W) float32.

        A batch that does not fit in memory is halved until it does. Raises EngineError if a single
        tile is too large.
        """
        try:
            return run(problem).cpu().numpy()
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        count, half = len(problem.x), len(problem.x) // 2
        if count == 1:
            height, width = problem.x.shape[2:]
            raise EngineError(
                f"out of memory for one tile of {height}x{width} px on {self.device}:"
                " free memory there, or use `device` cpu"
            )
        parts = (problem.part(0, half), problem.part(half, count))
        return np.concatenate([self.sample(run, part) for part in parts])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU (which raises a plain RuntimeError)."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
