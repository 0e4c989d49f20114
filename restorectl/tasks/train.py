"""`train`: recipe + images -> a weights file, resumable and on several processes."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from restorectl import catalog
from restorectl.core import recipe as recipes
from restorectl.core.card import Card
from restorectl.core.recipe import Recipe
from restorectl.engine.augment import Crops, clean
from restorectl.engine.denoiser import Denoiser, build
from restorectl.engine.fit import Loss, State, Step, World, fit, mean_loss
from restorectl.engine.objectives import Draw
from restorectl.engine.runner import pick_device, pick_precision
from restorectl.engine.schedule import schedule
from restorectl.errors import OutputError, UsageError, WeightsError
from restorectl.io import weights as weights_io
from restorectl.io.dataset import Folder, Patches, Pixels, Recent, parts, random, scan
from restorectl.tasks import checkpoint

Objective = Callable[[Denoiser, Tensor, Draw], Tensor]
Load = Callable[[int, int], Pixels]  # (step, micro-batch) -> crops; step 0 is validation


@dataclass(frozen=True)
class TrainJob:
    recipe: str  # bundled name or path
    data: str
    output: str
    overrides: tuple[str, ...] = ()  # key=value
    resume: bool = False
    init: str | None = None  # weights to start from; None = as the recipe says
    device: str = "auto"
    axes: str | None = None


class Report(Protocol):
    """Where progress goes; the command line implements it."""

    def begin(self, steps: int, done: int, batch: int) -> None: ...
    def note(self, text: str) -> None: ...
    def step(self, step: Step) -> None: ...
    def validated(self, number: int, loss: float) -> None: ...
    def saved(self, path: Path, number: int) -> None: ...


def run(job: TrainJob, report: Report) -> Path:
    """Train, and return the weights file. Checkpoints come at intervals and at the end."""
    recipe = recipes.load(job.recipe, job.overrides)
    output, objective = _output(job), _objective(recipe)
    folder = scan(Path(job.data), recipe.data.channels, job.axes)
    for warning in folder.warnings:
        report.note(f"warning: {warning}")
    model, origin = _model(job, recipe, output.stem)
    with _processes(pick_device(job.device)) as (world, device), ThreadPoolExecutor(1) as pool:
        model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        state = State(model, recipe.optimiser)
        if job.resume:
            checkpoint.restore(state, checkpoint.resume_path(output), recipe, folder)
        loss = _loss(recipe, objective, _source(recipe, folder, world, pool), state.model)
        report.begin(recipe.optimiser.steps, state.step, recipe.optimiser.batch)

        def save() -> None:
            checkpoint.write(output, recipe, state, folder, origin)
            report.saved(output, state.step)

        _train(recipe, state, loss, world, report, save)
    return output


def _train(
    recipe: Recipe,
    state: State,
    loss: Loss,
    world: World,
    report: Report,
    save: Callable[[], None],
) -> None:
    o, v = recipe.optimiser, recipe.validation
    dtype = pick_precision(o.precision, next(state.model.parameters()).device)
    saved = time.monotonic()
    for step in fit(state, loss, o, recipe.seed, dtype, world):
        last = step.number == o.steps
        report.step(step)
        if v.every and v.fraction and (last or step.number % v.every == 0):
            size = min(o.micro_batch, v.crops)
            value = mean_loss(state, loss, v.crops // size, size, recipe.seed, dtype, world)
            report.validated(step.number, value)
        due = time.monotonic() - saved > 60 * recipe.checkpoint_minutes
        if world.rank == 0 and (due or last):
            save()
            saved = time.monotonic()


def _output(job: TrainJob) -> Path:
    path = Path(job.output)
    if path.suffix != ".safetensors":
        raise UsageError(f"-o {path}: must end in .safetensors")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist: make it first")
    resume = checkpoint.resume_path(path)
    if job.resume and not resume.exists():
        raise UsageError(f"--resume: there is no checkpoint {resume}: start without --resume")
    if not job.resume:
        for each in (path, resume):
            if each.exists():
                raise UsageError(f"{each}: exists: go on with --resume, or choose another -o")
    return path


def _objective(recipe: Recipe) -> Objective:
    if recipe.objective not in catalog.OBJECTIVES:
        known = ", ".join(catalog.OBJECTIVES)
        raise UsageError(f"unknown objective '{recipe.objective}': choose one of {known}")
    found: Objective = catalog.OBJECTIVES[recipe.objective].load()
    return found


def _model(job: TrainJob, recipe: Recipe, name: str) -> tuple[Denoiser, dict[str, Any]]:
    """The denoiser of the recipe or of the initial weights, and what is known of the latter."""
    common = _common(recipe, name)
    initial = job.init or recipe.init
    if initial:
        weights = weights_io.load(initial)
        card = weights.card
        config = recipes.plain(recipe)["network"]["config"]
        if recipe.network.name and (recipe.network.name, config) != (
            card.network,
            dict(card.config),
        ):
            raise WeightsError(
                f"weights '{initial}': network {card.network} {dict(card.config)} is not the"
                f" recipe's, {recipe.network.name} {config}"
            )
        origin = {"name": card.name, "sha256": weights.sha256, "training": dict(card.training)}
        return build(replace(card, **common), dict(weights.tensors)), origin
    if not recipe.network.name:
        raise UsageError("this recipe names no network: give the weights to start from, --init")
    card = Card(
        network=recipe.network.name,
        config=recipe.network.config,
        parametrisation=recipe.parametrisation,
        sigma_data=recipe.sigma_data,
        time=recipe.time,
        **common,
    )
    torch.manual_seed(recipe.seed)  # new weights
    try:
        return build(card), {}
    except WeightsError as error:
        raise UsageError(f"recipe '{job.recipe}': {error}") from error


def _common(recipe: Recipe, name: str) -> dict[str, Any]:
    """Entries of the card that come from the recipe, whatever the network."""
    highest = recipe.levels.max
    if recipe.levels.schedule:
        table = schedule(recipe.levels.schedule)
        highest = float(table.sigma(recipe.levels.max_step or table.steps))
    return {
        "name": name,
        "task": recipe.task,
        "objective": recipe.objective,
        "schedule": recipe.levels.schedule,
        "channels": recipe.data.channels,
        "sigma_max": highest,
        "licence": recipe.licence,
    }


@contextmanager
def _processes(device: torch.device) -> Iterator[tuple[World, torch.device]]:
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


def _source(recipe: Recipe, folder: Folder, world: World, pool: ThreadPoolExecutor) -> Load:
    """Crops on demand; the next micro-batch of this process is read ahead."""
    o, d, v = recipe.optimiser, recipe.data, recipe.validation
    count = o.batch // o.micro_batch
    if count % world.size:
        raise UsageError(
            f"optimiser.batch / optimiser.micro_batch = {o.batch} / {o.micro_batch} must be a"
            f" multiple of {world.size} processes"
        )
    recent = Recent(d.cache_mb << 20)
    cut = (folder.sources, d.channels, v.fraction, v.crop)
    train = Patches(folder.sources, parts(*cut, validation=False), d.balance, recent)
    kept = Patches(folder.sources, parts(*cut, validation=True), d.balance, recent)
    if v.fraction and v.every and not kept.fits(v.crop):
        raise UsageError(
            f"no image is large enough to keep rows for validation crops of {v.crop} px:"
            " use smaller ones, or -s validation.every=0"
        )
    waiting: dict[tuple[int, int], Future[Pixels]] = {}

    def read(step: int, index: int) -> Pixels:
        if step == 0:
            size = min(o.micro_batch, v.crops)
            return kept.batch(recipe.seed, 0, index * size, size, v.crop)
        at = np.array([index], np.uint64)
        crop, binning = (
            choices[int(random(recipe.seed, step, at, stream)[0] * len(choices))]
            for stream, choices in ((3, d.crop), (4, d.binning))
        )
        first = index * o.micro_batch
        return train.batch(recipe.seed, step, first, o.micro_batch, crop, binning)

    def load(step: int, index: int) -> Pixels:
        ready = waiting.pop((step, index), None) or pool.submit(read, step, index)
        following = (step, index + world.size)
        if following[1] >= count:
            following = (step + 1, world.rank)
        if step > 0 and following[0] <= o.steps:
            waiting[following] = pool.submit(read, *following)
        return ready.result()

    return load


def _loss(recipe: Recipe, objective: Objective, load: Load, trained: nn.Module) -> Loss:
    """Crops, augmentation and objective as one function of (step, micro-batch, generator)."""
    fast = torch.compile(trained) if recipe.optimiser.compile else trained

    def loss(model: nn.Module, step: int, index: int, drawn: torch.Generator) -> Tensor:
        raw = load(step, index)
        arrays = (raw.pixels, raw.dark, raw.low, raw.high)
        crops = Crops(*(torch.from_numpy(a).to(drawn.device) for a in arrays))
        x0 = clean(crops, recipe.data, drawn)
        chosen: Any = fast if model is trained else model
        return objective(chosen, x0, Draw(drawn, recipe.levels, recipe.noise, recipe.loss))

    return loss
