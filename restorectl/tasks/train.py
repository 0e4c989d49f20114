"""`train`: recipe + images -> a weights file, resumable and on several processes."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from restorectl.core import recipe as recipes
from restorectl.core.card import Card
from restorectl.core.crops import Crops
from restorectl.core.jobs import WeightsOptions
from restorectl.core.recipe import Recipe
from restorectl.engine import training
from restorectl.engine.denoiser import Denoiser
from restorectl.engine.fit import Step as Step
from restorectl.engine.fit import World, fit, mean_loss
from restorectl.engine.runner import pick_device, pick_precision
from restorectl.engine.schedule import schedule
from restorectl.engine.training import Load
from restorectl.errors import OutputError, UsageError, WeightsError
from restorectl.io import weights as weights_io
from restorectl.io.dataset import Folder, Patches, parts, random, scan
from restorectl.io.planes import Recent
from restorectl.tasks import checkpoint
from restorectl.tasks.select import select


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
    select_hq: str | None = None  # folder of patches of the quality that is wanted
    weights_from: WeightsOptions = field(default_factory=WeightsOptions)


@dataclass(frozen=True)
class Material:
    """What is trained on, what is kept for validation, and what to record of it."""

    train: Patches
    kept: Patches
    data: Mapping[str, Any]


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
    training.objective(recipe.objective)  # an unknown one is refused before any work
    folder = scan(Path(job.data), recipe.data.channels, job.axes)
    for warning in folder.warnings:
        report.note(f"warning: {warning}")
    model, initial = _model(job, recipe, output.stem)
    _check(recipe, model)
    with (
        training.processes(device) as (world, device),
        closing(Recent(recipe.data.cache_mb << 20)) as recent,
        ThreadPoolExecutor(1) as reader,
    ):
        material = _material(job, recipe, folder, recent, report)
        state = training.state(model, recipe, device)
        if job.resume:
            checkpoint.restore(state, checkpoint.resume_path(output), recipe, material.data)
        loss = training.loss_of(recipe, _loader(recipe, material, world, reader))
        report.begin(recipe.optimiser.steps, state.step, recipe.optimiser.batch)
        if state.step >= recipe.optimiser.steps:
            report.note(f"nothing to do: {state.step} steps are done, more with optimiser.steps")

        def save() -> None:
            checkpoint.write(output, recipe, state, material.data, initial)
            report.saved(output, state.step)

        dtype = pick_precision(recipe.optimiser.precision, device)
        steps = fit(state, loss, recipe.optimiser, recipe.seed, dtype, world)

        def validate() -> float:
            o, v = recipe.optimiser, recipe.validation
            size = min(o.micro_batch, v.crops)
            return mean_loss(state, loss, v.crops // size, size, recipe.seed, dtype, world)

        _follow(steps, recipe, report, validate, save if world.rank == 0 else None)
    return output


def _follow(
    steps: Iterator[Step],
    recipe: Recipe,
    report: Report,
    validate: Callable[[], float],
    save: Callable[[], None] | None,
) -> None:
    """Go through the steps; report, validate and save when it is time to."""
    o, v = recipe.optimiser, recipe.validation
    saved = time.monotonic()
    for step in steps:
        last = step.number == o.steps
        report.step(step)
        if v.every and v.fraction and (last or step.number % v.every == 0):
            report.validated(step.number, validate())
        due = time.monotonic() - saved > 60 * recipe.checkpoint_minutes
        if save is not None and (due or last):
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


def _model(job: TrainJob, recipe: Recipe, name: str) -> tuple[Denoiser, dict[str, Any]]:
    """The denoiser of the recipe or of the initial weights, and what is known of the latter."""
    common = _common(recipe, name)
    initial = job.init or recipe.init
    if initial:
        weights = weights_io.load(initial, job.weights_from)
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
        card = replace(card, **common)
        return training.denoiser(card, dict(weights.tensors), recipe.seed), origin
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
    try:
        return training.denoiser(card, None, recipe.seed), {}
    except WeightsError as error:
        raise UsageError(f"recipe '{job.recipe}': {error}") from error


def _check(recipe: Recipe, model: Denoiser) -> None:
    """Objective, network and crops must belong together. Raises UsageError."""
    card, stride = model.card, model.stride
    measures = recipe.objective == "calibrator"
    inputs = recipe.data.channels * (2 if recipe.objective == "conditional" else 1)
    output = "step" if recipe.levels.schedule else "log-sigma"
    odd = [n for n in (*recipe.data.crop, recipe.validation.crop) if n % stride]
    rules = (
        (
            measures == (card.network == "calibrator"),
            f"objective '{recipe.objective}' cannot train network '{card.network}'",
        ),
        (
            card.config.get("c_in", 1) == inputs,
            f"network.config.c_in: this objective with data.channels={recipe.data.channels} needs"
            f" {inputs}",
        ),
        (
            not measures or card.config.get("output", "log-sigma") == output,
            f"network.config.output: with levels.schedule='{recipe.levels.schedule}' a calibrator"
            f" tells {output}",
        ),
        (not odd, f"crops of {odd} px: this network takes multiples of {stride}"),
    )
    for good, message in rules:
        if not good:
            raise UsageError(message)


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
        "value_range": recipe.data.range,
        "sigma_max": highest,
        "licence": recipe.licence,
    }


def _material(
    job: TrainJob, recipe: Recipe, folder: Folder, recent: Recent, report: Report
) -> Material:
    """The crops of the scanned images; with --select-hq, of their best patches only."""
    d, v, sources = recipe.data, recipe.validation, folder.sources
    regions = [parts(sources, d.channels, v.fraction, v.crop, kept) for kept in (False, True)]
    fingerprint, data = folder.fingerprint(), {"images": len(sources)}
    if job.select_hq is not None:
        found = select(Path(job.select_hq), sources, regions, recipe, recent, job.axes)
        regions, counts = [list(part) for part in found.kept], found.counts
        data |= {"patches_kept": counts[0], "patches": counts[1]}
        report.note(f"--select-hq: kept {counts[0]} of {counts[1]} patches")
        fingerprint = hashlib.sha256((fingerprint + repr(regions)).encode()).hexdigest()
    train, kept = (Patches(sources, part, d.balance, recent) for part in regions)
    if v.fraction and v.every and not kept.fits(v.crop):
        raise UsageError(
            f"no image is large enough to keep rows for validation crops of {v.crop} px:"
            " use smaller ones, or -s validation.every=0"
        )
    return Material(train, kept, {**data, "fingerprint": fingerprint})


def _loader(recipe: Recipe, material: Material, world: World, reader: ThreadPoolExecutor) -> Load:
    """Crops on demand; step 0 is validation; the next micro-batch of this process is read ahead."""
    o, d, v = recipe.optimiser, recipe.data, recipe.validation
    count = o.batch // o.micro_batch
    if count % world.size:
        raise UsageError(
            f"optimiser.batch / optimiser.micro_batch = {o.batch} / {o.micro_batch} must be a"
            f" multiple of {world.size} processes"
        )
    waiting: dict[tuple[int, int], Future[Crops]] = {}

    def read(step: int, index: int) -> Crops:
        if step == 0:
            size = min(o.micro_batch, v.crops)
            return material.kept.batch(recipe.seed, 0, index * size, size, v.crop)
        at = np.array([index], np.uint64)
        crop, binning = (
            choices[int(random(recipe.seed, step, at, stream)[0] * len(choices))]
            for stream, choices in ((3, d.crop), (4, d.binning))
        )
        first = index * o.micro_batch
        return material.train.batch(recipe.seed, step, first, o.micro_batch, crop, binning)

    def load(step: int, index: int) -> Crops:
        ready = waiting.pop((step, index), None) or reader.submit(read, step, index)
        following = (step, index + world.size)
        if following[1] >= count:
            following = (step + 1, world.rank)
        if step > 0 and following[0] <= o.steps:
            waiting[following] = reader.submit(read, *following)
        return ready.result()

    return load
