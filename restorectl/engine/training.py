"""Sets up what the training loop works on, for tasks that know crops and recipes but no tensors."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from restorectl import catalog
from restorectl.core.card import Card
from restorectl.core.crops import Crops
from restorectl.core.recipe import Recipe
from restorectl.engine.augment import clean, paired
from restorectl.engine.denoiser import Denoiser, build
from restorectl.engine.fit import Loss, State, World
from restorectl.engine.objectives import MEASURES, Draw
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
