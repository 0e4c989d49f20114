"""`train`: make a weights file from a recipe and images; resumable, multi-process.

The steps of `run`: recipe, scanned images, crops, model, training loop, checkpoint.
"""

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from restorectl import catalog
from restorectl.engine import slices
from restorectl.engine.card import Card, OutputScale
from restorectl.engine.denoiser import Denoiser, build
from restorectl.engine.runner import pick_device, pick_precision
from restorectl.engine.schedule import schedule
from restorectl.errors import OutputError, UsageError, WeightsError
from restorectl.files.atomic import replacing
from restorectl.images.registration import ALIGNMENTS
from restorectl.jobs import MAX_SHIFT, TrainJob
from restorectl.training import augment, checkpoint, phantoms
from restorectl.training import recipe as recipes
from restorectl.training.adversarial import auxiliary
from restorectl.training.dataset import (
    CropBatch,
    CropSampler,
    ImageReader,
    RegionReader,
    fingerprint,
    random,
    scan,
    split,
)
from restorectl.training.loop import (
    Processes,
    StepResult,
    TrainingState,
    joined,
    mean_loss,
    optimise,
)
from restorectl.training.objectives import VALIDATION_ERRORS, Draw, Objective, objective
from restorectl.training.pairs import PairReader, WhitenedReader, scan_pairs
from restorectl.training.recipe import Recipe
from restorectl.training.select import select, table
from restorectl.weights import file as weights_io
from restorectl.weights.file import Weights

PAIRED = ("conditional", "care", "noise2noise", "unet-rcan", "pix2pix")  # can learn from pairs
UNPAIRED = ("cyclegan",)  # can learn from noisy images of other fields
# can learn from clean images alone, if the recipe says how they are degraded
SIMULATED = ("conditional", "care", "unet-rcan", "pix2pix", "cyclegan")
OF_ONE_RUN = ("n2v", "dip")  # objectives that `denoise` alone uses


class TrainingReport(Protocol):
    """Receives the progress of training; the command line implements it."""

    def begin(self, steps: int, done: int, batch: int) -> None: ...
    def note(self, text: str) -> None: ...
    def step(self, step: StepResult) -> None: ...
    def validated(self, number: int, loss: float, error: float | None) -> None: ...
    def saved(self, path: Path, number: int) -> None: ...


def run(job: TrainJob, report: TrainingReport) -> Path:
    """Train and return the weights file. Checkpoints are written at intervals and at the end."""
    recipe = recipes.load(job.recipe, job.overrides)
    output, device = _output(job), pick_device(job.device)
    objective(recipe.objective)  # raises early for an unknown one
    _check_options(job, recipe)
    images = scan_images(job, recipe)
    for warning in images.warnings:
        report.note(f"warning: {warning}")
    weights = _initial(job, recipe)
    if weights is not None:
        recipe = continued(recipe, weights.card)
    model, initial = make_model(job, recipe, output.stem, weights)
    model.card = replace(model.card, output=images.output)
    _check_model(recipe, model)
    model.auxiliary = auxiliary(recipe, model)
    with (
        joined(device) as (processes, device),
        closing(images),
        ThreadPoolExecutor(1) as thread,
    ):
        crops = cut_crops(images, job, recipe, report, processes.rank == 0)
        crops.hold(device, (recipe.data.cache_mb << 20) // (1 if job.partner is None else 2))
        model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        state = TrainingState(model, recipe.optimiser)
        if recipe.optimiser.compile:
            model.net.compile()
        if job.resume:
            checkpoint.restore(state, checkpoint.resume_path(output), recipe, crops.record)
        batches = MicroBatches(crops, recipe, processes, thread)
        report.begin(recipe.optimiser.steps, state.step, recipe.optimiser.batch)
        if state.step >= recipe.optimiser.steps:
            report.note(
                f"nothing to do: {state.step} steps are done, raise optimiser.steps for more"
            )
        saved = time.monotonic()
        for step in _validated_steps(state, recipe, batches, processes, report):
            due = time.monotonic() - saved > 60 * recipe.checkpoint_minutes
            last = step.number == state.steps
            if processes.rank == 0 and step.checked and (due or last):
                checkpoint.write(output, recipe, state, crops.record, initial)
                report.saved(output, step.number)
                saved = time.monotonic()
    return output


def _validated_steps(
    state: TrainingState,
    recipe: Recipe,
    batches: "MicroBatches",
    processes: Processes,
    report: TrainingReport,
) -> Iterator[StepResult]:
    """Run the remaining steps; yield each after its validation."""
    o, v = recipe.optimiser, recipe.validation
    dtype = pick_precision(o.precision, next(state.model.parameters()).device)
    loss = CropLoss(objective(recipe.objective), recipe, batches)
    measure = VALIDATION_ERRORS.get(recipe.objective)
    size = min(o.micro_batch, v.crops)
    fixed = (v.crops // size, size, recipe.seed, dtype, processes)
    for step in optimise(state, loss, o, recipe.seed, dtype, processes):
        report.step(step)
        if (
            v.every
            and batches.crops.validated
            and (step.number == state.steps or step.number % v.every == 0)
        ):
            value, error = mean_loss(state, loss, *fixed), None
            if measure is not None:
                error = mean_loss(state, CropLoss(measure, recipe, batches), *fixed)
            if v.keep == "best":
                state.judge(value if error is None else error)
            report.validated(step.number, value, error)
        yield step


# ---- options -------------------------------------------------------------------------------------
def _output(job: TrainJob) -> Path:
    """The weights file to write; it must not exist unless the run is resumed."""
    path = Path(job.output)
    if path.suffix != ".safetensors":
        raise UsageError(f"`output` {path}: must end in .safetensors")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist: make it first")
    resume = checkpoint.resume_path(path)
    if job.resume and not resume.exists():
        raise UsageError(f"`resume`: checkpoint {resume} does not exist: start without `resume`")
    if not job.resume:
        for each in (path, resume):
            if each.exists():
                raise UsageError(f"{each}: exists: add `resume`, or choose another `output`")
    return path


def _check_options(job: TrainJob, recipe: Recipe) -> None:
    """Check options of pairs and simulated degradations. Raises UsageError."""
    name, d, both = recipe.objective, recipe.data, job.partner is not None
    pairs = both and name not in UNPAIRED
    simulated = name in SIMULATED and bool(recipe.degradation.level)
    rules = (
        (name not in OF_ONE_RUN, f"objective '{name}': use `restorectl denoise`, method"
         f" {name}, which trains on the images that it restores"),
        (not pairs or name in PAIRED, f"`partner`: objective '{name}' does not train on pairs, only"
         f" {', '.join(PAIRED)} do"),
        (both or name not in (*PAIRED, *UNPAIRED) or simulated,
         "this recipe needs noisy images too: name their folder with `partner`"),
        (not both or Path(str(job.partner)).resolve() != Path(job.data).resolve(),
         f"`partner` {job.partner}: is the same folder as `data`: name the folder of noisy images"),
        (job.register is None or pairs, "`register`: needs pairs: add `partner`"),
        (job.max_shift == MAX_SHIFT or pairs, "`max_shift`: needs pairs: add `partner`"),
        (job.register in (None, *ALIGNMENTS),
         f"`register` {job.register}: use {' or '.join(ALIGNMENTS)}"),
        (not both or job.select_hq is None, "`select_hq`: cannot be combined with `partner`"),
        (not both or d.range == "whitened", "data.range: `partner` needs whitened"),
        (d.scale == "input" or (pairs and name in SIMULATED),
         "data.scale=target: needs pairs of noisy and clean images: add `partner`"),
        (not both or d.binning == (1,), "data.binning: `partner` needs 1"),
        (not both or d.phantoms == 0, "data.phantoms: `partner` needs 0"),
    )  # fmt: skip
    _refuse(rules)


def _refuse(rules: Sequence[tuple[bool, str]]) -> None:
    """Raises UsageError with the message of the first rule that is broken."""
    for good, message in rules:
        if not good:
            raise UsageError(message)


# ---- images and crops ----------------------------------------------------------------------------
@dataclass(frozen=True)
class ScannedImages:
    """Reader of the images or pairs, a warning for each that was left out, and what the card
    records of them, with their fingerprint. output: scale of the results that are learnt. noisy:
    reader of unpaired noisy images."""

    reader: RegionReader
    warnings: Sequence[str]
    record: Mapping[str, Any]
    output: OutputScale = field(default_factory=OutputScale)
    noisy: RegionReader | None = None

    def close(self) -> None:
        """Close all files."""
        self.reader.close()
        if self.noisy is not None:
            self.noisy.close()


def scan_images(job: TrainJob, recipe: Recipe) -> ScannedImages:
    """Scan the images of `data`; with `partner`, the pairs of clean and degraded images, or both
    folders if their images are not paired."""
    channels, room = recipe.data.channels, recipe.data.cache_mb << 20
    if job.partner is None or recipe.objective in UNPAIRED:
        folder = scan(Path(job.data), channels, job.axes)
        record = {"images": len(folder.images), "fingerprint": folder.fingerprint()}
        planes = 3 if recipe.objective == "e2e-unet" else 1
        reader = ImageReader(folder.images, room, planes)
        if job.partner is None:
            return ScannedImages(reader, folder.warnings, record)
        other = scan(Path(job.partner), channels, job.axes)
        both = fingerprint(folder.fingerprint() + other.fingerprint())
        record |= {"noisy": len(other.images), "fingerprint": both}
        warnings = (*folder.warnings, *other.warnings)
        noisy = WhitenedReader(other.images, room)
        return ScannedImages(reader, warnings, record, noisy=noisy)
    folders = Path(job.data), Path(job.partner)
    found = scan_pairs(*folders, channels, job.axes, job.register, job.max_shift)
    facts = {"pairs": len(found.pairs), "fingerprint": found.fingerprint()}
    if job.register is not None:
        facts["register"] = job.register
    output = OutputScale()
    if recipe.data.scale == "target":
        found, output = found.on_one_scale(channels)
    pairs = PairReader(found.pairs, room, noisy=recipe.objective == "noise2noise")
    return ScannedImages(pairs, found.warnings, facts, output)


@dataclass(frozen=True)
class CropSources:
    """Samplers of training and validation crops, and what the card records of them."""

    training: CropSampler
    validation: CropSampler
    record: Mapping[str, Any]
    validated: bool = True  # whether there are images for validation
    noisy: CropSampler | None = None  # of unpaired noisy images

    def hold(self, device: torch.device, room: int) -> None:
        """Keep the images on the device, where they fit into `room` bytes, and close the files."""
        for sampler in (self.training, self.validation, self.noisy):
            if sampler is not None:
                sampler.hold(device, room)
                sampler.reader.close()


def cut_crops(
    images: ScannedImages, job: TrainJob, recipe: Recipe, report: TrainingReport, first: bool = True
) -> CropSources:
    """Samplers for the scanned images; with `select_hq`, for their best patches only, whose scores
    the `first` process writes."""
    d, v, reader, record = recipe.data, recipe.validation, images.reader, dict(images.record)
    regions = split(reader, d.channels, v.fraction, v.crop, v.by)
    if job.select_hq is not None:
        regions, scores = select(Path(job.select_hq), reader, regions, recipe, job.axes)
        kept, path = sum(map(len, regions)), Path(job.output).with_suffix(".scores.csv")
        if first:
            with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows(table(scores, reader, recipe.select.threshold))
        report.note(f"`select_hq`: kept {kept} of {len(scores)} patches, see {path}")
        record |= {"patches_kept": kept, "patches": len(scores)}
        record["fingerprint"] = fingerprint(record["fingerprint"] + repr(list(regions)))
    training, validation = (CropSampler(reader, part, d.balance) for part in regions)
    validated = bool(v.fraction) and validation.fits(v.crop)
    if v.every and v.fraction and not validated:
        lack = (
            f"no image is large enough for validation crops of {v.crop} px beside training, and"
            " there are too few to keep whole ones for it"
        )
        if v.keep == "best":
            raise UsageError(f"{lack}: lower validation.crop, or -s validation.keep=last")
        report.note(f"warning: {lack}: there is no validation")
    sizes = [(side, binning) for side in d.crop for binning in d.binning]
    large = [f"{s} px x {b}" for s, b in sizes if not training.fits(s * b)]
    if large and len(large) < len(sizes):
        report.note(f"crops of {', '.join(large)} (size x binning) are left out: no image has them")
    noisy = None
    if images.noisy is not None:
        parts, _ = split(images.noisy, d.channels, 0.0, v.crop)
        noisy = CropSampler(images.noisy, parts, d.balance)
    return CropSources(training, validation, record, validated, noisy)


class MicroBatches:
    """Reads the crops of each micro-batch; step 0 is validation. `thread` reads this process's next
    one ahead."""

    def __init__(
        self, crops: CropSources, recipe: Recipe, processes: Processes, thread: ThreadPoolExecutor
    ) -> None:
        o = recipe.optimiser
        self.crops, self.recipe, self.processes, self.thread = crops, recipe, processes, thread
        self.count = o.batch // o.micro_batch  # per step
        self.waiting: dict[tuple[int, int], Future[CropBatch]] = {}
        if self.count % processes.size:
            raise UsageError(
                f"optimiser.batch / optimiser.micro_batch = {o.batch} / {o.micro_batch} must be a"
                f" multiple of {processes.size} processes"
            )

    def get(self, step: int, index: int) -> CropBatch:
        """The crops of micro-batch `index` of a step."""
        ready = self.waiting.pop((step, index), None)
        ready = ready or self.thread.submit(self._read, step, index)
        following = (step, index + self.processes.size)
        if following[1] >= self.count:
            following = (step + 1, self.processes.rank)
        if step > 0 and following[0] <= self.recipe.optimiser.steps:
            self.waiting[following] = self.thread.submit(self._read, *following)
        return ready.result()

    def _read(self, step: int, index: int) -> CropBatch:
        seed, d, v = self.recipe.seed, self.recipe.data, self.recipe.validation
        size, training = self.size(step), self.crops.training
        real = max(1, size - round(d.phantoms * size))
        if step == 0:
            crops = self.crops.validation.batch(seed, 0, index * size, real, v.crop)
            return self._with_noisy(crops, 0, index, v.crop)
        sides = [s for s in d.crop if any(training.fits(s * b) for b in d.binning)] or d.crop
        which = random(seed, step, np.array([index], np.uint64), 3)[0]
        side = sides[int(which * len(sides))]
        crops = training.batch(seed, step, index * size, real, side, d.binning)
        return self._with_noisy(crops, step, index, side)

    def _with_noisy(self, crops: CropBatch, step: int, index: int, side: int) -> CropBatch:
        """The crops and, if there are unpaired noisy images, as many crops of those."""
        if self.crops.noisy is None:
            return crops
        count = len(crops.pixels)
        # another seed: the places in the images are to differ
        noisy = self.crops.noisy.batch(self.recipe.seed + 1, step, index * count, count, side)
        return replace(crops, partner=noisy.pixels)

    def size(self, step: int) -> int:
        """Crops of a micro-batch, phantoms included."""
        size = self.recipe.optimiser.micro_batch
        return size if step else min(size, self.recipe.validation.crops)


@dataclass(frozen=True)
class CropLoss:
    """An objective applied to varied crops, for training or validation."""

    objective: Objective
    recipe: Recipe
    batches: MicroBatches

    def __call__(
        self, model: nn.Module, step: int, index: int, generator: torch.Generator
    ) -> Tensor:
        """The loss of each sample (B,) of a micro-batch."""
        assert isinstance(model, Denoiser)
        crops, options, partner = self.batches.get(step, index), self.recipe.data, None
        torch.manual_seed(generator.initial_seed())  # of the network's dropout
        if crops.partner is None:
            x0 = augment.clean(crops, options, generator)
        else:
            of_both = augment.paired if self.batches.crops.noisy is None else augment.unpaired
            x0, partner = of_both(crops, options, generator)
        missing = self.batches.size(step) - len(x0)
        if missing:
            x0 = self._completed(x0, missing, generator)
        return self.objective(model, x0, Draw(generator, self.recipe, partner))

    def _completed(self, x0: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """The crops and `count` phantoms, which complete the micro-batch, in random order."""
        options = self.recipe.data
        with torch.autocast(x0.device.type, enabled=False):
            made = phantoms.draw(count, x0.shape[-1], options.gamma, generator)
        both = torch.cat([x0, augment.varied(made, options, generator)])
        order = torch.randperm(len(both), generator=generator, device=both.device)
        return both[order]


# ---- model ---------------------------------------------------------------------------------------
def _initial(job: TrainJob, recipe: Recipe) -> Weights | None:
    """The initial weights, if any. Raises UsageError or WeightsError if the data do not fit."""
    name, d = job.init or recipe.init, recipe.data
    if not name:
        return None
    weights = weights_io.load(name, options=job.weights_from)
    card = weights.card
    _refuse((
        (card.channels == d.channels,
         f"weights '{name}' are for {card.channels} channels together: set"
         f" data.channels={card.channels}"),
        (card.value_range == d.range,
         f"weights '{name}' work on data.range={card.value_range}: set it"),
    ))  # fmt: skip
    return weights


def continued(recipe: Recipe, card: Card) -> Recipe:
    """The recipe with the schedule and T' of the initial weights, unless it has its own.

    Raises UsageError if the network counts the steps of another schedule.
    """
    levels = recipe.levels
    if card.schedule and not levels.schedule and not recipe.network.name:
        last = round(float(schedule(card.schedule).step(card.sigma_max)))
        levels = replace(levels, schedule=card.schedule, max_step=last)
    if card.time == "index" and levels.schedule != card.schedule:
        raise UsageError(
            f"these initial weights count steps of the schedule {card.schedule}: set"
            f" levels.schedule={card.schedule}"
        )
    return replace(recipe, levels=levels)


def make_model(
    job: TrainJob, recipe: Recipe, name: str, weights: Weights | None
) -> tuple[Denoiser, dict[str, Any]]:
    """Build the denoiser of the recipe or the initial weights, and what to record of these.

    Weights with fewer input channels are widened, see `widened`. Raises UsageError or WeightsError
    if recipe and weights do not fit.
    """
    chosen, entries = recipe.network, _card_entries(recipe, name)
    torch.manual_seed(recipe.seed)  # for random initial weights
    if weights is None:
        if not chosen.name:
            raise UsageError("this recipe names no network: give initial weights with `init`")
        card = Card(
            network=chosen.name,
            config=chosen.config,
            parametrisation=recipe.parametrisation,
            sigma_data=recipe.sigma_data,
            time=recipe.time,
            **entries,
        )
        try:
            model = build(card)
        except WeightsError as error:
            raise UsageError(f"recipe '{job.recipe}': {error}") from error
        if getattr(model.net, "whole", False):
            model.card = replace(card, window=max(recipe.data.crop))
        return model, {}
    card, tensors, inputs = weights.card, dict(weights.tensors), _inputs(recipe)
    fewer = int(card.config.get("c_in", 1)) < inputs
    if fewer and recipe.objective != "calibrator" and card.channels == recipe.data.channels:
        tensors = widened(card, tensors, inputs)
        card = replace(card, config={**card.config, "c_in": inputs})
    config = recipes.plain(recipe)["network"]["config"]
    if chosen.name and (chosen.name, config) != (card.network, dict(card.config)):
        raise WeightsError(
            f"weights '{job.init or recipe.init}': network {card.network} {dict(card.config)} is"
            f" not the recipe's, {chosen.name} {config}"
        )
    known = {"name": card.name, "sha256": weights.sha256, "training": dict(card.training)}
    return build(replace(card, **entries), tensors), known


def widened(card: Card, tensors: dict[str, Tensor], inputs: int) -> dict[str, Tensor]:
    """Extend the tensors of a network to more input channels.

    Weights of the new channels are zero: the network first computes the same as before, and learns
    to use them. Zeros do not change the norm of normalised filters.
    card: of `tensors`. inputs: c_in of the wider network. In every network the image channels are
    first, followed by constant channels.
    """
    before = int(card.config.get("c_in", 1))
    with torch.device("meta"):
        wider = build(replace(card, config={**card.config, "c_in": inputs})).net.state_dict()
    found = dict(tensors)
    for name, value in tensors.items():
        more = wider[name].shape[1] - value.shape[1] if value.ndim > 1 else 0
        if more:
            images = more // (inputs - before) * before  # weights of the image channels
            zeros = value.new_zeros(value.shape[0], more, *value.shape[2:])
            found[name] = torch.cat([value[:, :images], zeros, value[:, images:]], 1)
    return found


def _card_entries(recipe: Recipe, name: str) -> dict[str, Any]:
    """Entries of the card that depend on the recipe only."""
    highest = recipe.levels.max
    residual = recipe.objective == "slices" and recipe.slices.target == "residual"
    if recipe.levels.schedule:
        table = schedule(recipe.levels.schedule)
        last = float(table.sigma(recipe.levels.max_step or table.steps))
        highest = min(last, highest) if recipe.objective == "conditional" else last
    return {
        "name": name,
        "task": recipe.task,
        "objective": recipe.objective,
        "schedule": recipe.levels.schedule,
        "channels": recipe.data.channels,
        "value_range": recipe.data.range,
        "sigma_max": highest,
        "fusion": recipe.objective == "conditional" and recipe.degradation.fusion,
        "anchors": ",".join(recipe.slices.anchors) if residual else "",
        "licence": recipe.licence,
    }


def _inputs(recipe: Recipe) -> int:
    """Number of input channels of the network."""
    n = recipe.data.channels
    others = {
        "conditional": 2 * n,
        "conditional-baseline": 2 * n,
        "slices": slices.inputs(n, recipe.slices.target == "residual"),
        "e2e-unet": 2 * n,  # the planes before and after the one that is predicted
    }
    return others.get(recipe.objective, n)


def _check_model(recipe: Recipe, model: Denoiser) -> None:
    """Raises UsageError unless objective, network and crops fit together."""
    card, stride, inputs = model.card, model.stride, _inputs(recipe)
    calibrates = recipe.objective == "calibrator"
    variance = getattr(model.net, "learn_variance", False)
    output = "step" if recipe.levels.schedule else "log-sigma"
    odd = [n for n in (*recipe.data.crop, recipe.validation.crop) if n % stride]
    rules = (
        (calibrates == (catalog.NETWORKS[card.network].task == "calibrator"),
         f"objective '{recipe.objective}' cannot train network '{card.network}'"),
        (card.config.get("c_in", 1) == inputs, "network.config.c_in: this objective with"
         f" data.channels={recipe.data.channels} needs {inputs}"),
        (not calibrates or card.config.get("output", "log-sigma") == output,
         f"network.config.output: with levels.schedule='{recipe.levels.schedule}' a calibrator"
         f" needs {output}"),
        (card.time != "index" or bool(card.schedule),
         "time: index needs levels.schedule, whose steps it counts"),
        (recipe.objective != "prior" or recipe.noise.region == 0 or model.everywhere
         or bool(recipe.levels.schedule),
         "noise.region: this network takes one level for a crop: set noise.region=0"),
        (recipe.objective != "unet-rcan" or card.network == "unet-rcan",
         "objective 'unet-rcan' needs network.name=unet-rcan"),
        (not variance or (recipe.objective == "prior" and card.time == "index"),
         "network.config.learn_variance: needs objective 'prior' and time: index"),
        (recipe.data.phantoms == 0 or recipe.data.channels == 1,
         "data.phantoms: several channels need 0"),
        (not odd, f"crops of {odd} px: this network needs multiples of {stride}"),
    )  # fmt: skip
    _refuse(rules)
