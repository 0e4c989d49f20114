"""Sets up what the training loop works on, for tasks that know crops and recipes but no tensors."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from restorectl import catalog
from restorectl.core.card import Card
from restorectl.core.crops import Crops
from restorectl.core.recipe import Recipe
from restorectl.engine.augment import clean
from restorectl.engine.denoiser import Denoiser, build
from restorectl.engine.fit import Loss, State, World
from restorectl.engine.objectives import Draw
from restorectl.errors import UsageError

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
    work = objective(recipe.objective)

    def loss(model: nn.Module, step: int, index: int, drawn: torch.Generator) -> Tensor:
        assert isinstance(model, Denoiser)
        x0 = clean(load(step, index), recipe.data, drawn)
        return work(model, x0, Draw(drawn, recipe.levels, recipe.noise, recipe.loss))

    return loss


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
