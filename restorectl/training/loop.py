"""The training loop. It knows no paths, no objective by name, and prints nothing.

A step's batch is split into micro-batches. Micro-batch i of step s, its augmentation and its noise
are functions of (seed, s, i), and process r of n computes those with i % n == r; gradients are
summed, then clipped. So the result depends neither on the number of processes nor on where a run
was interrupted.

Sets up what the training loop works on, for tasks that know crops and recipes but no tensors.
"""

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b

import torch
import torch.distributed as dist
from torch import Tensor, nn

from restorectl import catalog
from restorectl.engine.card import Card
from restorectl.engine.denoiser import Denoiser, build
from restorectl.errors import EngineError, UsageError, WeightsError
from restorectl.training.augment import clean, paired
from restorectl.training.dataset import Crops
from restorectl.training.objectives import MEASURES, Draw
from restorectl.training.recipe import Optimiser, Recipe

# (model, step, micro-batch index, generator) -> loss of each sample (B,)
Loss = Callable[[nn.Module, int, int, torch.Generator], Tensor]


@dataclass(frozen=True)
class World:
    """The processes that train together."""

    rank: int = 0
    size: int = 1

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


@dataclass(frozen=True)
class Step:
    """What one optimiser step did; number counts from 1."""

    number: int
    loss: float  # mean over the batch
    gradient: float  # norm before clipping
    lr: float
    seconds: float


@dataclass(frozen=True)
class Best:
    """Averaged weights as they were when validation went best."""

    tensors: dict[str, Tensor]  # on the CPU
    step: int
    error: float


class State:
    """Everything that changes while training: weights, their average, the optimiser, the step."""

    def __init__(self, model: nn.Module, options: Optimiser) -> None:
        self.model = model
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.optimiser = torch.optim.Adam(model.parameters(), lr=options.lr, fused=True)
        self.step = 0
        self.best: Best | None = None

    def judge(self, error: float) -> None:
        """Remember the averaged weights of now if their validation error is the lowest so far."""
        if self.best is None or error < self.best.error:
            found = {k: v.detach().cpu().clone() for k, v in self.average.state_dict().items()}
            self.best = Best(found, self.step, error)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name; `load` takes them back."""
        found = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        found |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimiser.state[parameter].items():
                found[f"adam.{key}.{name}"] = value
        if self.best is not None:
            found |= {f"best.{k}": v for k, v in self.best.tensors.items()}
        return {name: value.detach().cpu().contiguous() for name, value in found.items()}

    def load(
        self, tensors: dict[str, Tensor], step: int, best: tuple[int, float] | None = None
    ) -> None:
        """Go on from `tensors`; `best`: step and error of the best weights among them, if any.

        Raises WeightsError where they are not this model's.
        """
        states = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        states |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        moments: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters() if step else ():
            state = self.optimiser.state[parameter]
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
            moments |= {f"adam.{key}.{name}": value for key, value in state.items()}
        wanted = states | moments
        kept = {k: torch.empty_like(v, device="cpu") for k, v in self.average.state_dict().items()}
        if best is not None:
            wanted |= {f"best.{k}": v for k, v in kept.items()}
            self.best = Best(kept, *best)
        if wanted.keys() != tensors.keys():
            odd = sorted(wanted.keys() ^ tensors.keys())
            raise WeightsError(f"the checkpoint is of another network: '{odd[0]}' does not match")
        for name, value in wanted.items():
            if value.shape != tensors[name].shape:
                raise WeightsError(f"the checkpoint is of another network: shape of '{name}'")
            with torch.no_grad():
                value.copy_(tensors[name])
        self.step = step


def generator(device: torch.device, *key: int | str) -> torch.Generator:
    """A generator whose numbers are a function of `key`."""
    digest = blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def rate(step: int, options: Optimiser) -> float:
    """Learning rate of step 1, 2, ...: linear warm-up, then a cosine down to final_lr * lr."""
    if step <= options.warmup:
        return options.lr * step / options.warmup
    done = min(1.0, (step - options.warmup) / max(1, options.steps - options.warmup))
    share = options.final_lr + (1 - options.final_lr) * (1 + math.cos(math.pi * done)) / 2
    return options.lr * share


def fit(
    state: State, loss: Loss, options: Optimiser, seed: int, dtype: torch.dtype, world: World
) -> Iterator[Step]:
    """Train to `options.steps` and yield each step when it is done; `state` is up to date then.

    Raises EngineError when loss or gradient are no longer finite.
    """
    device = next(state.model.parameters()).device
    parameters = [p for p in state.model.parameters() if p.requires_grad]
    averages: list[Tensor] = list(state.average.parameters())
    state.model.train()
    while state.step < options.steps:
        start, number = time.perf_counter(), state.step + 1
        summed = torch.zeros((), dtype=torch.float64, device=device)
        for index in range(world.rank, options.batch // options.micro_batch, world.size):
            with precision(device, dtype):
                each = loss(state.model, number, index, generator(device, seed, number, index))
            (each.sum() / options.batch).backward()  # type: ignore[no-untyped-call]
            summed += each.detach().double().sum()
        gradient = _gradient(parameters, options.clip, world)
        mean = float(world.total(summed)) / options.batch
        if not (math.isfinite(mean) and math.isfinite(gradient)):
            raise EngineError(
                f"training diverged at step {number} (loss {mean}, gradient {gradient}):"
                " lower optimiser.lr, or go on from the last checkpoint with another seed"
            )
        lr = rate(number, options)
        for group in state.optimiser.param_groups:
            group["lr"] = lr
        state.optimiser.step()
        state.optimiser.zero_grad(set_to_none=True)
        decay = min(options.ema, (1 + number) / (10 + number))  # a short memory at first
        latest = [p.detach() for p in state.model.parameters()]
        torch._foreach_lerp_(averages, latest, 1 - decay)
        state.step = number
        yield Step(number, mean, gradient, lr, time.perf_counter() - start)


def mean_loss(
    state: State, loss: Loss, count: int, size: int, seed: int, dtype: torch.dtype, world: World
) -> float:
    """Loss of the averaged weights over `count` fixed micro-batches of `size` samples."""
    device = next(state.average.parameters()).device
    summed = torch.zeros((), dtype=torch.float64, device=device)
    with torch.inference_mode():
        for index in range(world.rank, count, world.size):
            draw = generator(device, seed, "validation", index)
            with precision(device, dtype):
                summed += loss(state.average, 0, index, draw).double().sum()
    return float(world.total(summed.clone())) / (count * size)


def precision(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Convolutions in `dtype`; weights, their sums and the loss stay in float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def _gradient(parameters: list[nn.Parameter], clip: float, world: World) -> float:
    """Sum the gradients over processes, clip their norm, return the norm before."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    grads = [p.grad for p in parameters if p.grad is not None]
    if world.size > 1:
        flat = world.total(torch.cat([g.flatten() for g in grads]))
        for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(part.view_as(grad))
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    if clip > 0:
        torch._foreach_mul_(grads, (clip / (norm + 1e-12)).clamp(max=1.0))
    return float(norm)


Objective = Callable[[Denoiser, Tensor, Draw], Tensor]
Load = Callable[[int, int], Crops]  # (step, micro-batch) -> crops


def denoiser(card: Card, tensors: dict[str, Tensor] | None, seed: int) -> Denoiser:
    """The denoiser of a card; `seed` fixes its weights where none are given."""
    torch.manual_seed(seed)
    return build(card, tensors)


def state(model: Denoiser, recipe: Recipe, device: torch.device) -> State:
    """The state of a run that has not begun, on its device."""
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    made = State(model, recipe.optimiser)
    if recipe.optimiser.compile:
        model.net.compile()
    return made


def objective(name: str) -> Objective:
    """A row of catalog.OBJECTIVES. Raises UsageError for an unknown name."""
    if name not in catalog.OBJECTIVES:
        known = ", ".join(catalog.OBJECTIVES)
        raise UsageError(f"unknown objective '{name}': choose one of {known}")
    found: Objective = catalog.OBJECTIVES[name].load()
    return found


def loss_of(recipe: Recipe, load: Load) -> Loss:
    """Crops, augmentation and objective as one function of (step, micro-batch, generator)."""
    return _on_crops(objective(recipe.objective), recipe, load)


def measure_of(recipe: Recipe, load: Load) -> Loss | None:
    """What validation judges this objective by, likewise; None = by its loss."""
    work = MEASURES.get(recipe.objective)
    return None if work is None else _on_crops(work, recipe, load)


def _on_crops(work: Objective, recipe: Recipe, load: Load) -> Loss:
    def loss(model: nn.Module, step: int, index: int, drawn: torch.Generator) -> Tensor:
        assert isinstance(model, Denoiser)
        crops = load(step, index)
        laws = (recipe.levels, recipe.noise, recipe.loss, recipe.degradation, recipe.slices)
        draw = Draw(drawn, *laws)
        if crops.partner is None:
            return work(model, clean(crops, recipe.data, drawn), draw)
        x0, partner = paired(crops, recipe.data, drawn)
        return work(model, x0, replace(draw, partner=partner))

    return loss


def widened(card: Card, tensors: dict[str, Tensor], inputs: int) -> dict[str, Tensor]:
    """Tensors of a network with more input channels, from one with fewer.

    The columns of the further channels are zero: the network computes what it did before, and
    learns to use them. Convolutions with normalised filters keep their norm with zero columns.
    card: that of `tensors`. inputs: the wider network's c_in. Every network takes its image
    channels first, with constant ones behind.
    """
    before = int(card.config.get("c_in", 1))
    with torch.device("meta"):
        wider = build(replace(card, config={**card.config, "c_in": inputs})).net.state_dict()
    found = dict(tensors)
    for name, value in tensors.items():
        more = wider[name].shape[1] - value.shape[1] if value.ndim > 1 else 0
        if more:
            images = more // (inputs - before) * before  # columns of the image channels
            zeros = value.new_zeros(value.shape[0], more, *value.shape[2:])
            found[name] = torch.cat([value[:, :images], zeros, value[:, images:]], 1)
    return found


@contextmanager
def processes(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """Join the processes that torchrun started, if it did; on CUDA each takes one device."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()
