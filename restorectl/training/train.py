"""`train`: recipe + images -> a weights file, resumable and on several processes.

What a training run reads: crops of images or of pairs, for training and for validation.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from restorectl.engine import slices
from restorectl.engine.card import Card
from restorectl.engine.denoiser import Denoiser
from restorectl.engine.runner import pick_device, pick_precision
from restorectl.engine.schedule import schedule
from restorectl.errors import OutputError, UsageError, WeightsError
from restorectl.jobs import WeightsOptions
from restorectl.training import checkpoint, loop
from restorectl.training import recipe as recipes
from restorectl.training.dataset import Crops, Patches, Reader, Recent, Source, parts, random, scan
from restorectl.training.loop import Load, Step, World, fit, mean_loss
from restorectl.training.pairs import KINDS, PairReader, scan_pairs
from restorectl.training.recipe import Recipe
from restorectl.training.select import select
from restorectl.weights import file as weights_io


@dataclass(frozen=True)
class Material:
    """What is trained on, what is kept for validation, and what to record of it."""

    train: Patches
    kept: Patches
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """Scanned images, what reads them, what to tell of the scan, and what the card records."""

    sources: Sequence[Source]
    reader: Reader
    warnings: Sequence[str]
    data: Mapping[str, Any]  # `fingerprint` among it


def find(
    data: str, partner: str | None, align: str | None, recipe: Recipe, axes: str | None
) -> Found:
    """The images below `data`; of pairs, `partner` holds the worse ones.

    align: how the clean images are aligned with their partners, a row of pairs.KINDS.
    """
    channels, room = recipe.data.channels, recipe.data.cache_mb << 20
    if partner is None:
        folder = scan(Path(data), channels, axes)
        facts = {"images": len(folder.sources), "fingerprint": folder.fingerprint()}
        return Found(folder.sources, Recent(room), folder.warnings, facts)
    found = scan_pairs(Path(data), Path(partner), channels, axes, align)
    record = {"pairs": len(found.pairs), "fingerprint": found.fingerprint()}
    if align is not None:
        record["register"] = align
    sources = [pair.source() for pair in found.pairs]
    return Found(sources, PairReader(found.pairs, room), found.warnings, record)


def gather(
    found: Found,
    recipe: Recipe,
    select_hq: str | None,
    axes: str | None,
    note: Callable[[str], None],
) -> Material:
    """The crops of the scanned images; with --select-hq, of their best patches only."""
    d, v, sources, reader = recipe.data, recipe.validation, found.sources, found.reader
    regions = [parts(sources, d.channels, v.fraction, v.crop, kept) for kept in (False, True)]
    data = dict(found.data)
    if select_hq is not None:
        assert isinstance(reader, Recent)
        chosen = select(Path(select_hq), sources, regions, recipe, reader, axes)
        regions, counts = [list(part) for part in chosen.kept], chosen.counts
        data |= {"patches_kept": counts[0], "patches": counts[1]}
        note(f"--select-hq: kept {counts[0]} of {counts[1]} patches")
        text = data["fingerprint"] + repr(regions)
        data["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()
    train, kept = (Patches(sources, part, d.balance, reader) for part in regions)
    if v.fraction and v.every and not kept.fits(v.crop):
        raise UsageError(
            f"no image is large enough to keep rows for validation crops of {v.crop} px:"
            " use smaller ones, or -s validation.every=0"
        )
    return Material(train, kept, data)


def loader(recipe: Recipe, material: Material, world: World, reader: ThreadPoolExecutor) -> Load:
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


# Images that the network of an objective takes for each channel, where it is not one.
CONDITIONS = {"conditional": 2, "conditional-baseline": 2}


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
    partner: str | None = None  # folder of the worse images of pairs; data holds the clean ones
    register: str | None = None  # align the clean images with them: rigid or affine
    weights_from: WeightsOptions = field(default_factory=WeightsOptions)


class Report(Protocol):
    """Where progress goes; the command line implements it."""

    def begin(self, steps: int, done: int, batch: int) -> None: ...
    def note(self, text: str) -> None: ...
    def step(self, step: Step) -> None: ...
    def validated(self, number: int, loss: float, error: float | None) -> None: ...
    def saved(self, path: Path, number: int) -> None: ...


def run(job: TrainJob, report: Report) -> Path:
    """Train, and return the weights file. Checkpoints come at intervals and at the end."""
    recipe = recipes.load(job.recipe, job.overrides)
    output, device = _output(job), pick_device(job.device)
    loop.objective(recipe.objective)  # an unknown one is refused before any work
    _check_options(job, recipe)
    found = find(job.data, job.partner, job.register, recipe, job.axes)
    for warning in found.warnings:
        report.note(f"warning: {warning}")
    model, initial = _model(job, recipe, output.stem)
    _check(recipe, model)
    with (
        loop.processes(device) as (world, device),
        closing(found.reader),
        ThreadPoolExecutor(1) as reader,
    ):
        material = gather(found, recipe, job.select_hq, job.axes, report.note)
        state = loop.state(model, recipe, device)
        if job.resume:
            checkpoint.restore(state, checkpoint.resume_path(output), recipe, material.data)
        load = loader(recipe, material, world, reader)
        loss, measure = loop.loss_of(recipe, load), loop.measure_of(recipe, load)
        report.begin(recipe.optimiser.steps, state.step, recipe.optimiser.batch)
        if state.step >= recipe.optimiser.steps:
            report.note(f"nothing to do: {state.step} steps are done, more with optimiser.steps")

        def save() -> None:
            checkpoint.write(output, recipe, state, material.data, initial)
            report.saved(output, state.step)

        dtype = pick_precision(recipe.optimiser.precision, device)
        steps = fit(state, loss, recipe.optimiser, recipe.seed, dtype, world)

        def validate() -> tuple[float, float | None]:
            o, v = recipe.optimiser, recipe.validation
            size = min(o.micro_batch, v.crops)
            rest = (v.crops // size, size, recipe.seed, dtype, world)
            value = mean_loss(state, loss, *rest)
            error = None if measure is None else mean_loss(state, measure, *rest)
            if v.keep == "best":
                state.judge(value if error is None else error)
            return value, error

        _follow(steps, recipe, report, validate, save if world.rank == 0 else None)
    return output


def _follow(
    steps: Iterator[Step],
    recipe: Recipe,
    report: Report,
    validate: Callable[[], tuple[float, float | None]],
    save: Callable[[], None] | None,
) -> None:
    """Go through the steps; report, validate and save when it is time to."""
    o, v = recipe.optimiser, recipe.validation
    saved = time.monotonic()
    for step in steps:
        last = step.number == o.steps
        report.step(step)
        if v.every and v.fraction and (last or step.number % v.every == 0):
            report.validated(step.number, *validate())
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


def _check_options(job: TrainJob, recipe: Recipe) -> None:
    """What pairs and simulated degradations ask for. Raises UsageError."""
    pairs, objective, d = job.partner is not None, recipe.objective, recipe.data
    rules = (
        (not pairs or objective == "conditional",
         f"--input: only objective 'conditional' trains on pairs, this recipe has '{objective}'"),
        (pairs or objective != "conditional" or bool(recipe.degradation.level),
         "this recipe trains on pairs: name the folder of the noisy images, --input DIR"),
        (not pairs or Path(str(job.partner)).resolve() != Path(job.data).resolve(),
         f"--input {job.partner}: is the folder of --data; name that of the noisy images"),
        (job.register is None or pairs, "--register: needs the noisy images of pairs, --input DIR"),
        (job.register in (None, *KINDS), f"--register {job.register}: use {' or '.join(KINDS)}"),
        (not pairs or job.select_hq is None, "--select-hq: choose patches or pairs (--input)"),
        (not pairs or d.range == "whitened", "data.range: pairs are trained on whitened"),
        (not pairs or d.binning == (1,), "data.binning: pairs are not binned, use 1"),
    )  # fmt: skip
    for good, message in rules:
        if not good:
            raise UsageError(message)


def _model(job: TrainJob, recipe: Recipe, name: str) -> tuple[Denoiser, dict[str, Any]]:
    """The denoiser of the recipe or of the initial weights, and what is known of the latter."""
    common = _common(recipe, name)
    initial = job.init or recipe.init
    if initial:
        weights = weights_io.load(initial, job.weights_from)
        card, tensors = weights.card, dict(weights.tensors)
        inputs = _inputs(recipe)
        fewer = int(card.config.get("c_in", 1)) < inputs
        if fewer and card.network != "calibrator" and card.channels == recipe.data.channels:
            tensors = loop.widened(card, tensors, inputs)
            card = replace(card, config={**card.config, "c_in": inputs})
        config = recipes.plain(recipe)["network"]["config"]
        if recipe.network.name and (recipe.network.name, config) != (
            card.network,
            dict(card.config),
        ):
            raise WeightsError(
                f"weights '{initial}': network {card.network} {dict(card.config)} is not the"
                f" recipe's, {recipe.network.name} {config}"
            )
        origin = {
            "name": weights.card.name,
            "sha256": weights.sha256,
            "training": dict(card.training),
        }
        card = replace(card, **common)
        return loop.denoiser(card, tensors, recipe.seed), origin
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
        return loop.denoiser(card, None, recipe.seed), {}
    except WeightsError as error:
        raise UsageError(f"recipe '{job.recipe}': {error}") from error


def _check(recipe: Recipe, model: Denoiser) -> None:
    """Objective, network and crops must belong together. Raises UsageError."""
    card, stride = model.card, model.stride
    measures = recipe.objective == "calibrator"
    inputs = _inputs(recipe)
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


def _inputs(recipe: Recipe) -> int:
    """How many image channels the network takes."""
    if recipe.objective == "slices":
        return slices.inputs(recipe.data.channels, _residual(recipe))
    if recipe.objective == "e2e-unet":
        return recipe.data.channels - 1  # of three planes the middle one is made
    return recipe.data.channels * CONDITIONS.get(recipe.objective, 1)


def _residual(recipe: Recipe) -> bool:
    return recipe.objective == "slices" and recipe.slices.target == "residual"


def _common(recipe: Recipe, name: str) -> dict[str, Any]:
    """Entries of the card that come from the recipe, whatever the network."""
    highest = recipe.levels.max
    if recipe.levels.schedule:
        table = schedule(recipe.levels.schedule)
        last = float(table.sigma(recipe.levels.max_step or table.steps))
        highest = min(last, highest) if recipe.objective == "conditional" else last
    return {
        "name": name,
        "task": recipe.task,
        "objective": recipe.objective,
        "schedule": recipe.levels.schedule,
        "channels": 1 if recipe.objective == "e2e-unet" else recipe.data.channels,
        "value_range": recipe.data.range,
        "sigma_max": highest,
        "fusion": recipe.objective == "conditional" and recipe.degradation.fusion,
        "anchors": ",".join(recipe.slices.anchors) if _residual(recipe) else "",
        "licence": recipe.licence,
    }
