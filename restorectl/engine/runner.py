"""Runs a denoiser on tiles: handles device, precision and memory, but no files or output."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from restorectl.engine.card import Card
from restorectl.engine.denoiser import Denoiser, build
from restorectl.engine.noise_field import NoiseField, Site
from restorectl.engine.samplers import Calibrator, Decided, Problem, Sampler
from restorectl.errors import EngineError, UsageError
from restorectl.jobs import Compute

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TILE_BYTES = 1000  # approximate memory per pixel of the tile in the network


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda[:N]` or `mps` as an available device; raises UsageError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
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
    return Runner(lambda: build(card, dict(tensors)), device, dtype)


def tiles_together(compute: Compute, shape: tuple[int, int]) -> int:
    """How many tiles of `shape` are held at once: an area of 1024x1024 px, at most `batch`."""
    area = 1024**2 // (shape[0] * shape[1])
    return max(1, min(area, compute.batch or 64))


@dataclass
class Runner:
    """One denoiser on one device. `calls` counts network evaluations, one per tile."""

    make: Callable[[], Denoiser]  # a fresh, unprepared denoiser
    device: torch.device
    dtype: torch.dtype
    calls: int = 0
    retried: int = 0  # tiles that were computed again in float32
    _ready: dict[torch.dtype, Denoiser] = field(default_factory=dict)

    def denoiser(self, dtype: torch.dtype | None = None) -> Denoiser:
        dtype = dtype or self.dtype
        if dtype not in self._ready:
            self._ready[dtype] = self.make().prepared(self.device, dtype)
        return self._ready[dtype]

    def denoise(self, x: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) at level sigma (B,) -> finite x0; raises EngineError if it is not finite.

        A CPU evaluates tiles one by one: the convolution library's order of summation depends on
        the batch size, and the result must not depend on how tiles are grouped.
        """
        self.calls += len(x)
        x0 = self._evaluate(self.denoiser(), x, sigma, condition)
        bad = (~torch.isfinite(x0).flatten(1).all(1)).nonzero()[:, 0]
        if len(bad):
            part = None if condition is None else condition[bad]
            x0[bad] = self._evaluate(self.denoiser(torch.float32), x[bad], sigma[bad], part)
            self.retried += len(bad)
            if not torch.isfinite(x0).all():
                raise EngineError("the network's output is not finite, even in fp32")
        return x0

    @torch.inference_mode()
    def clean(self, tiles: np.ndarray, level: float | np.ndarray) -> np.ndarray:
        """Denoise tiles (B, H, W) in [-1, 1], to learn about them; not in `calls`.

        level: of all tiles; (B, H, W) float32, of each pixel, if the network takes that.
        """
        calls, x = self.calls, torch.from_numpy(tiles)[:, None].to(self.device)
        if isinstance(level, np.ndarray):
            x0 = self.denoise(x, torch.from_numpy(level)[:, None].to(self.device))
        else:
            x0 = self.denoise(x, torch.full((len(tiles),), level, device=self.device))
        self.calls = calls
        return np.asarray(x0[:, 0].cpu().numpy())

    def _evaluate(
        self, denoiser: Denoiser, x: Tensor, sigma: Tensor, condition: Tensor | None
    ) -> Tensor:
        size = 1 if self.device.type == "cpu" else len(x)
        parts = zip(
            x.split(size),
            sigma.split(size),
            [None] * len(x) if condition is None else condition.split(size),
            strict=False,
        )
        return torch.cat([denoiser(*part) for part in parts])

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
            torch.from_numpy(x).to(self.device),
            torch.from_numpy(sigma).to(self.device, torch.float32),
            lambda k, tiles: field.draw([sites[i] for i in tiles.tolist()], size, k, x.shape[1]),
            guide=None if guide is None else torch.from_numpy(guide).to(self.device),
            relative=None if relative is None else torch.from_numpy(relative).to(self.device),
            **numbers,
        )

    @torch.inference_mode()
    def decide(self, sampler: Sampler, problem: Problem, calibrator: Calibrator) -> Decided:
        """What a sampler decides on sampled tiles. Raises EngineError if memory runs out."""
        try:
            return sampler.decide(problem, calibrator)
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
