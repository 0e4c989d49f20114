"""The training loop, independent of paths and objectives; prints nothing.

A step's batch is split into micro-batches. Micro-batch i of step s, its augmentation and its noise
are functions of (seed, s, i), and process r of n computes those with i % n == r; gradients are
summed, then clipped. So the result depends neither on the number of processes nor on where a run
was interrupted.
"""

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import torch
import torch.distributed as dist
from torch import Tensor, nn

from restorectl.errors import EngineError, WeightsError
from restorectl.training.recipe import Optimiser

# (model, step, micro-batch index, generator) -> loss of each sample (B,)
BatchLoss = Callable[[nn.Module, int, int, torch.Generator], Tensor]
CHECKED = {"cuda": 20}  # steps after which loss and gradient are read; elsewhere 1


@dataclass(frozen=True)
class Processes:
    """The processes that train together: this one's rank, and their number."""

    rank: int = 0
    size: int = 1

    def total(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """The processes started by torchrun, or this one alone; with CUDA, one device for each."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class StepResult:
    """The result of one optimiser step; number counts from 1.

    loss and gradient are those of the last step that was `checked`.
    """

    number: int
    loss: float  # mean over the batch
    gradient: float  # norm before clipping
    lr: float
    seconds: float
    steps: int  # planned
    checked: bool  # loss and gradient of all steps so far are finite


@dataclass(frozen=True)
class BestWeights:
    """Averaged weights with the lowest validation error so far."""

    tensors: dict[str, Tensor]  # on the CPU
    step: int
    error: float


class TrainingState:
    """All state of a training run: weights, their average, optimiser, step."""

    def __init__(self, model: nn.Module, options: Optimiser) -> None:
        self.model = model
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.optimiser = torch.optim.Adam(
            model.parameters(), lr=options.lr, betas=(options.momentum, 0.999), fused=True
        )
        self.step = 0
        self.steps = options.steps  # planned
        self.best: BestWeights | None = None

    def judge(self, error: float) -> None:
        """Keep the current averaged weights if their validation error is the lowest so far."""
        if self.best is None or error < self.best.error:
            found = {k: v.detach().cpu().clone() for k, v in self.average.state_dict().items()}
            self.best = BestWeights(found, self.step, error)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, on the CPU, for `load`."""
        return {name: value.detach().cpu().contiguous() for name, value in self._named().items()}

    def load(
        self, tensors: dict[str, Tensor], step: int, best: tuple[int, float] | None = None
    ) -> None:
        """Load `tensors`; best: step and error of the best weights among them, if any.

        Raises WeightsError if they do not fit this model.
        """
        for parameter in self.model.parameters() if step else ():
            moments = self.optimiser.state[parameter]
            moments["step"] = torch.zeros((), device=parameter.device)
            moments["exp_avg"] = torch.zeros_like(parameter)
            moments["exp_avg_sq"] = torch.zeros_like(parameter)
        if best is not None:
            average = self.average.state_dict()
            kept = {name: torch.empty_like(v, device="cpu") for name, v in average.items()}
            self.best = BestWeights(kept, *best)
        wanted = self._named()
        if wanted.keys() != tensors.keys():
            odd = sorted(wanted.keys() ^ tensors.keys())
            raise WeightsError(f"the checkpoint is of another network: '{odd[0]}' does not match")
        for name, value in wanted.items():
            if value.shape != tensors[name].shape:
                raise WeightsError(f"the checkpoint is of another network: shape of '{name}'")
            with torch.no_grad():
                value.copy_(tensors[name])
        self.step = step

    def _named(self) -> dict[str, Tensor]:
        """The tensors (not copies) by their names in checkpoints."""
        found = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        found |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimiser.state[parameter].items():
                found[f"adam.{key}.{name}"] = value
        if self.best is not None:
            found |= {f"best.{k}": v for k, v in self.best.tensors.items()}
        return found


def optimise(
    state: TrainingState,
    loss: BatchLoss,
    options: Optimiser,
    seed: int,
    dtype: torch.dtype,
    processes: Processes,
) -> Iterator[StepResult]:
    """Train to `state.steps`, yielding after each step, when `state` is up to date.

    With `options.minutes` the pace of the second half of the warm-up decides their number.

    Loss and gradient are read back, which makes the device wait, at every CHECKED-th step and the
    last. Raises EngineError if they are not finite.
    """
    device = next(state.model.parameters()).device
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    averages: list[Tensor] = list(state.average.parameters())
    every, unread, read = CHECKED.get(device.type, 1), [], (math.nan, math.nan)
    state.model.train()
    began = half = time.perf_counter()
    while state.step < state.steps:
        start, number = time.perf_counter(), state.step + 1
        summed = torch.zeros((), dtype=torch.float64, device=device)
        for index in range(processes.rank, options.batch // options.micro_batch, processes.size):
            with precision(device, dtype):
                each = loss(state.model, number, index, generator(device, seed, number, index))
            (each.sum() / options.batch).backward()  # type: ignore[no-untyped-call]
            summed += each.detach().double().sum()
        gradient = _summed_and_clipped(parameters, options.clip, processes)
        mean = (processes.total(summed) / options.batch).float()
        unread.append(torch.stack([mean, gradient]))
        measured = options.minutes > 0 and number in (options.warmup // 2, options.warmup)
        checked = number % every == 0 or number == state.steps or measured
        if checked:
            read = _read(unread, number)
            unread = []
        if measured and number < options.warmup:
            half = time.perf_counter()
        elif measured:
            pace = (time.perf_counter() - half) / (number - options.warmup // 2)
            left = 60 * options.minutes - (time.perf_counter() - began)
            more = torch.tensor(left / pace if processes.rank == 0 else 0.0, device=device)
            state.steps = number + max(1, int(processes.total(more)))
        lr = learning_rate(number, options, state.steps)
        for group in state.optimiser.param_groups:
            group["lr"] = lr
        state.optimiser.step()
        state.optimiser.zero_grad(set_to_none=True)
        decay = min(options.ema, (1 + number) / (10 + number))  # a short memory at first
        latest = [p.detach() for p in state.model.parameters()]
        torch._foreach_lerp_(averages, latest, 1 - decay)
        state.step = number
        seconds = time.perf_counter() - start
        yield StepResult(number, *read, lr, seconds, state.steps, checked)


def _read(unread: list[Tensor], number: int) -> tuple[float, float]:
    """The last of these losses and gradients (2,), when all are finite."""
    values = torch.stack(unread).tolist()
    for step, (loss, gradient) in enumerate(values, number - len(values) + 1):
        if not (math.isfinite(loss) and math.isfinite(gradient)):
            raise EngineError(
                f"training diverged at step {step} (loss {loss}, gradient {gradient}):"
                " lower optimiser.lr, or resume from the last checkpoint with another seed"
            )
    return loss, gradient


def mean_loss(
    state: TrainingState,
    loss: BatchLoss,
    count: int,
    size: int,
    seed: int,
    dtype: torch.dtype,
    processes: Processes,
) -> float:
    """Loss of the averaged weights over `count` fixed micro-batches of `size` samples."""
    device = next(state.average.parameters()).device
    summed = torch.zeros((), dtype=torch.float64, device=device)
    with torch.inference_mode():
        for index in range(processes.rank, count, processes.size):
            draw = generator(device, seed, "validation", index)
            with precision(device, dtype):
                summed += loss(state.average, 0, index, draw).double().sum()
    return float(processes.total(summed.clone())) / (count * size)


def generator(device: torch.device, *key: int | str) -> torch.Generator:
    """A random generator seeded by `key`."""
    digest = blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def learning_rate(step: int, options: Optimiser, steps: int) -> float:
    """Learning rate of step 1, 2, ... of `steps`: linear warm-up, then the recipe's decay to
    final_lr * lr."""
    if step <= options.warmup:
        return options.lr * step / options.warmup
    done = min(1.0, (step - options.warmup) / max(1, steps - options.warmup))
    left = (1 + math.cos(math.pi * done)) / 2 if options.decay == "cosine" else min(1, 2 - 2 * done)
    return options.lr * (options.final_lr + (1 - options.final_lr) * left)


def precision(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Autocast: convolutions in `dtype`; weights, sums and the loss stay in float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def _summed_and_clipped(
    parameters: list[nn.Parameter], clip: float, processes: Processes
) -> Tensor:
    """Sum gradients over processes, clip their norm, and return the norm before clipping."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    grads = [p.grad for p in parameters if p.grad is not None]
    if processes.size > 1:
        flat = processes.total(torch.cat([g.flatten() for g in grads]))
        for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(part.view_as(grad))
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    if clip > 0:
        torch._foreach_mul_(grads, (clip / (norm + 1e-12)).clamp(max=1.0))
    return norm
