"""`train`: recipe + images -> a weights file, resumable and on several processes."""

import json
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from restorectl import catalog
from restorectl.core import recipe as recipes
from restorectl.core.card import KEY, Card
from restorectl.core.recipe import Recipe
from restorectl.engine.augment import Crops, clean
from restorectl.engine.denoiser import Denoiser, build
from restorectl.engine.fit import Loss, State, Step, World, fit, mean_loss
from restorectl.engine.objectives import Draw
from restorectl.engine.runner import pick_device, pick_precision
from restorectl.engine.schedule import schedule
from restorectl.errors import OutputError, UsageError, WeightsError
from restorectl.io import weights as weights_io
from restorectl.io.atomic import replacing
from restorectl.io.dataset import Folder, Patches, Pixels, Recent, parts, random, scan

RESUME_KEY = "restorectl-resume"
# What may change when a run is resumed; anything else would make another run of it.
CHANGEABLE = ("optimiser.steps", "optimiser.lr", "optimiser.final_lr", "optimiser.precision",
              "data.cache_mb", "validation.", "checkpoint_minutes", "licence", "init")  # fmt: skip


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
    output, device = _output(job), pick_device(job.device)
    objective = _objective(recipe)
    folder = scan(Path(job.data), recipe.data.channels, job.axes)
    for warning in folder.warnings:
        report.note(f"warning: {warning}")
    model = _model(job, recipe, output.stem)
    with _processes(device) as (world, device), ThreadPoolExecutor(1) as pool:
        if (recipe.optimiser.batch // recipe.optimiser.micro_batch) % world.size:
            raise UsageError(
                f"optimiser.batch / optimiser.micro_batch = {recipe.optimiser.batch}"
                f" / {recipe.optimiser.micro_batch} must be a multiple of {world.size} processes"
            )
        state = State(
            model.to(device, memory_format=torch.channels_last),  # type: ignore[call-overload]
            recipe.optimiser,
        )
        if job.resume:
            _restore(state, resume_path(output), recipe, folder)
        source = _source(recipe, folder, world, pool, report)
        loss = _loss(recipe, objective, source, device)
        report.begin(recipe.optimiser.steps, state.step, recipe.optimiser.batch)
        _train(recipe, state, loss, world, report, lambda: _save(output, recipe, state, folder, job))
    return output


def _train(
    recipe: Recipe,
    state: State,
    loss: Loss,
    world: World,
    report: Report,
    save: Callable[[], Path],
) -> None:
    o, v = recipe.optimiser, recipe.validation
    dtype = pick_precision(o.precision, next(state.model.parameters()).device)
    size = min(o.micro_batch, v.crops)
    saved = time.monotonic()
    for step in fit(state, loss, o, recipe.seed, dtype, world):
        last = step.number == o.steps
        report.step(step)
        if v.every and v.fraction and (last or step.number % v.every == 0):
            value = mean_loss(state, loss, v.crops // size, size, recipe.seed, dtype, world)
            report.validated(step.number, value)
        due = time.monotonic() - saved > 60 * recipe.checkpoint_minutes
        if world.rank == 0 and (due or last):
            report.saved(save(), step.number)
            saved = time.monotonic()


def _output(job: TrainJob) -> Path:
    path = Path(job.output)
    if path.suffix != ".safetensors":
        raise UsageError(f"-o {path}: must end in .safetensors")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist: make it first")
    resume = resume_path(path)
    if job.resume and not resume.exists():
        raise UsageError(f"--resume: there is no checkpoint {resume}: start without --resume")
    if not job.resume:
        for each in (path, resume):
            if each.exists():
                raise UsageError(f"{each}: exists: go on with --resume, or choose another -o")
    return path


def resume_path(output: Path) -> Path:
    """The checkpoint beside the weights file."""
    return output.with_suffix(".resume.safetensors")


def _objective(recipe: Recipe) -> Callable[..., torch.Tensor]:
    if recipe.objective not in catalog.OBJECTIVES:
        known = ", ".join(catalog.OBJECTIVES)
        raise UsageError(f"unknown objective '{recipe.objective}': choose one of {known}")
    found: Callable[..., torch.Tensor] = catalog.OBJECTIVES[recipe.objective].load()
    return found


def _model(job: TrainJob, recipe: Recipe, name: str) -> Denoiser:
    """The denoiser of the recipe, or of the initial weights; the seed fixes new weights."""
    table = schedule(recipe.levels.schedule) if recipe.levels.schedule else None
    top = recipe.levels.max
    if table is not None:
        top = float(table.sigmas()[min(recipe.levels.max_step or table.steps, table.steps)])
    common: dict[str, Any] = {
        "name": name,
        "task": recipe.task,
        "objective": recipe.objective,
        "schedule": recipe.levels.schedule,
        "channels": recipe.data.channels,
        "sigma_max": top,
        "licence": recipe.licence,
    }
    initial = job.init or recipe.init
    if initial:
        weights = weights_io.load(initial)
        wanted = (recipe.network.name, recipes.plain(recipe)["network"]["config"])
        if recipe.network.name and wanted != (weights.card.network, dict(weights.card.config)):
            raise WeightsError(f"--init {initial}: is not the network of the recipe")
        return build(replace(weights.card, **common), dict(weights.tensors))
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
    torch.manual_seed(recipe.seed)
    try:
        return build(card)
    except WeightsError as error:
        raise UsageError(f"recipe: {error}") from error


@contextmanager
def _processes(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """Joins the processes that torchrun started, if it did; on CUDA each takes one device."""
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


def _source(
    recipe: Recipe, folder: Folder, world: World, pool: ThreadPoolExecutor, report: Report
) -> Callable[[int, int], Pixels]:
    """(step, micro-batch) -> crops; step 0 is validation. The next micro-batch is read ahead."""
    o, d, v = recipe.optimiser, recipe.data, recipe.validation
    recent = Recent(d.cache_mb << 20)
    cut = (folder.sources, d.channels, v.fraction, v.crop)
    train = Patches(folder.sources, parts(*cut, validation=False), d.balance, recent)
    kept = Patches(folder.sources, parts(*cut, validation=True), d.balance, recent)
    if v.fraction and v.every and not kept.fits(v.crop):
        raise UsageError(
            f"no image is large enough to keep rows for validation crops of {v.crop} px:"
            " set validation.fraction=0"
        )
    count = o.batch // o.micro_batch
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
        if step:
            after = (step, index + world.size)
            after = after if after[1] < count else (step + 1, world.rank)
            waiting[after] = pool.submit(read, *after)
        return ready.result()

    return load


def _loss(
    recipe: Recipe,
    objective: Callable[..., torch.Tensor],
    source: Callable[[int, int], Pixels],
    device: torch.device,
) -> Loss:
    """Crops, augmentation and objective as one function of (step, micro-batch, generator)."""

    def loss(model: nn.Module, step: int, index: int, drawn: torch.Generator) -> torch.Tensor:
        raw = source(step, index)
        arrays = (raw.pixels, raw.dark, raw.low, raw.high)
        crops = Crops(*(torch.from_numpy(a).to(device) for a in arrays))
        x0 = clean(crops, recipe.data, drawn)
        return objective(model, x0, Draw(drawn, recipe.levels, recipe.noise, recipe.loss))

    return loss


def _save(output: Path, recipe: Recipe, state: State, folder: Folder, job: TrainJob) -> Path:
    """The checkpoint, then the averaged weights as a file that every command takes."""
    record = {
        "step": state.step,
        "recipe": recipes.plain(recipe),
        "data": folder.fingerprint(),
    }
    with replacing(resume_path(output)) as part:
        header = {RESUME_KEY: json.dumps(record, sort_keys=True)}
        part.write_bytes(save(state.tensors(), header))
    average = state.average
    assert isinstance(average, Denoiser)
    training = {
        "recipe": recipes.plain(recipe),
        "steps": state.step,
        "crops": state.step * recipe.optimiser.batch,
        "images": len(folder.sources),
        "init": job.init or recipe.init,
    }
    card = replace(average.card, training=training)
    tensors = {k: v.half().cpu().contiguous() for k, v in average.net.state_dict().items()}
    with replacing(output) as part:
        part.write_bytes(save(tensors, {KEY: card.to_json()}))
    return output


def _restore(state: State, path: Path, recipe: Recipe, folder: Folder) -> None:
    """Go on from a checkpoint. Raises UsageError when recipe or images are not the same."""
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get(RESUME_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path}: not a readable checkpoint ({error})") from error
    if not {"step", "recipe", "data"} <= record.keys():
        raise WeightsError(f"{path}: not a checkpoint of restorectl train")
    before, now = _flat(record["recipe"]), _flat(recipes.plain(recipe))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and not key.startswith(CHANGEABLE):
            raise UsageError(
                f"--resume: '{key}' is {now.get(key)!r}, the checkpoint {path} has"
                f" {before.get(key)!r}: start anew, or use the same value"
            )
    if record["data"] != folder.fingerprint():
        raise UsageError(
            f"--resume: the images are not those of the checkpoint {path}: start anew (--init"
            " takes its weights)"
        )
    state.load(tensors, record["step"])


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix.rstrip("."): values}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.")
    return found
