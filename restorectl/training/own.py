"""Trains a network on planes of the user's own noisy images, for n2v, noise2noise and dip.

The planes are in network units and in memory. The network depends on them, on the recipe and on the
device only; it can be kept in a folder under the hash of these, and is read from there next time.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from restorectl.engine.card import KEY
from restorectl.engine.denoiser import Denoiser
from restorectl.engine.runner import pick_device, pick_precision
from restorectl.errors import InputError, OutputError
from restorectl.files.atomic import replacing
from restorectl.jobs import TrainJob
from restorectl.training import recipe as recipes
from restorectl.training.dataset import CropBatch, CropSampler, Region, TrainingImage, split
from restorectl.training.loop import Processes, TrainingState, optimise
from restorectl.training.objectives import objective
from restorectl.training.recipe import Recipe
from restorectl.training.train import CropLoss, CropSources, MicroBatches, make_model
from restorectl.weights import file as weights_io
from restorectl.weights.file import Weights

BLOCK = 16  # px, side of the squares in which the correlation of noise is measured
FLATTEST = 0.25  # share of these squares that is used
CORRELATED = 0.25  # correlation of neighbours above which n2v hides lines
REMEMBERED = 0.05  # weight of a step in the running mean of the loss
SEEDING = Lock()  # torch has one random generator for all threads
MASKS = {(0, 0): "none", (0, 1): "rows", (1, 0): "columns", (1, 1): "cross"}  # (along y, along x)


@dataclass(frozen=True)
class Sample:
    """A plane to learn from, (Y, X) float32 in network units, and what it is predicted from."""

    image: NDArray[np.float32]
    partner: NDArray[np.float32] | None = None  # another exposure, or random noise


class SampleReader:
    """Cuts regions out of samples: a `dataset.RegionReader`."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples, self.planes = samples, 1
        self.scenes: Sequence[str] = [""] * len(samples)
        self.images: Sequence[TrainingImage] = [
            TrainingImage(
                Path(),
                "",
                None,
                (1, 1, 1, *sample.image.shape),  # type: ignore[arg-type]
                "float32",
                (min(float(sample.image.min()), -1.0),),
                (-1.0,),
                (1.0,),
            )
            for sample in samples
        ]

    def read(self, regions: Sequence[Region]) -> CropBatch:
        """Regions of equal size, with ranges of which `augment.clean` makes the same values."""
        found = [self.samples[region.image] for region in regions]
        areas = [region.area for region in regions]
        pixels = [each.image[area] for each, area in zip(found, areas, strict=True)]
        pairs = [(e.partner, a) for e, a in zip(found, areas, strict=True) if e.partner is not None]
        partners = [partner[area] for partner, area in pairs]
        bounds = [(self.images[r.image].dark[0], -1.0, 1.0) for r in regions]
        return CropBatch(
            torch.from_numpy(np.stack(pixels)[:, None]),
            torch.tensor(bounds)[:, None],
            torch.from_numpy(np.stack(partners)[:, None]) if partners else None,
        )

    def close(self) -> None:
        """There is nothing to close."""


def mask(samples: Sequence[Sample]) -> str:
    """The lines that n2v hides: along axes on which neighbours share noise (CORRELATED)."""
    down, across = (
        np.mean([_correlation(turn(sample.image)) for sample in samples])
        for turn in (np.transpose, np.asarray)
    )
    return MASKS[int(down > CORRELATED), int(across > CORRELATED)]


def _correlation(image: NDArray[np.float32]) -> float:
    """Correlation of the noise of neighbours along x, 0 if there is none, in the flattest squares.

    Differences of rows hold little structure, and white noise stays uncorrelated along x.
    """
    change = np.diff(image.astype(np.float64), axis=0)
    height, width = (n // BLOCK * BLOCK for n in change.shape)
    cut = change[:height, :width].reshape(height // BLOCK, BLOCK, -1, BLOCK)
    squares = cut.swapaxes(1, 2).reshape(-1, BLOCK, BLOCK)
    power = np.square(squares).mean((1, 2))
    squares, power = squares[power > 0], power[power > 0]
    if not len(power):
        return 0.0
    flat = squares[power <= np.quantile(power, FLATTEST)]
    return float((flat[:, :, 1:] * flat[:, :, :-1]).mean() / np.square(flat).mean())


def suited(recipe: Recipe, samples: Sequence[Sample]) -> Recipe:
    """The recipe with crops that fit into the planes and, for n2v, with the measured mask.

    Raises InputError if the planes are too small.
    """
    smallest = min(min(sample.image.shape) for sample in samples)
    crop = min(*recipe.data.crop, smallest // 16 * 16)
    if crop < 16:
        raise InputError(f"planes of {smallest} px: training a network needs 16 or more")
    recipe = replace(recipe, data=replace(recipe.data, crop=(crop,)))
    if recipe.objective == "n2v" and recipe.blind.mask == "auto":
        recipe = replace(recipe, blind=replace(recipe.blind, mask=mask(samples)))  # type: ignore[arg-type]
    if recipe.network.config.get("ring"):  # it has no pixel that shares the hidden one's noise
        network = recipe.network
        config = {**network.config, "ring": recipe.blind.mask}
        recipe = replace(recipe, network=replace(network, config=config))
    return recipe


def untrained(recipe: Recipe) -> Weights:
    """The network of a recipe before training, to plan with."""
    model = untrained_model(recipe)
    return Weights(model.card, dict(model.net.state_dict()), "", Path())


def untrained_model(recipe: Recipe) -> Denoiser:
    """The recipe's network with random weights, which depend on its seed."""
    return make_model(TrainJob(recipe.objective, "", ""), recipe, recipe.objective, None)[0]


def fit(
    samples: Sequence[Sample],
    recipe: Recipe,
    device_name: str,
    precision: str,
    cache: Path | None,
    enough: float = 0.0,
) -> Weights:
    """A network trained on the samples by a `suited` recipe, or the one that `cache` has of them.

    enough: loss whose running mean ends the training. Raises OutputError if the network cannot be
    kept, EngineError if the training diverges.
    """
    device = pick_device(device_name)
    dtype = pick_precision(precision, device)
    timeless = replace(recipe, optimiser=replace(recipe.optimiser, minutes=0.0))
    key = hashlib.sha256(json.dumps([recipes.plain(timeless), enough]).encode())
    key.update(f"{device.type} {dtype}".encode())
    for sample in samples:
        for part in (sample.image, sample.partner):
            key.update(b"" if part is None else np.ascontiguousarray(part).tobytes())
    path = None if cache is None else cache / f"{key.hexdigest()}.safetensors"
    if path is not None and path.exists():
        card, tensors = weights_io.read(path)
        return Weights(card, tensors, hashlib.sha256(path.read_bytes()).hexdigest(), path)
    average, steps = _trained(samples, recipe, device, dtype, enough)
    record = {"recipe": recipes.plain(timeless), "steps": steps, "planes": len(samples)}
    card = replace(average.card, training=record)
    released = {k: v.half().cpu().contiguous() for k, v in average.net.state_dict().items()}
    content = save(released, {KEY: card.to_json()})
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"`cache` {path.parent}: {error.strerror}") from error
        with replacing(path) as part_path:
            part_path.write_bytes(content)
    return Weights(card, load(content), hashlib.sha256(content).hexdigest(), path or Path())


def _trained(
    samples: Sequence[Sample],
    recipe: Recipe,
    device: torch.device,
    dtype: torch.dtype,
    enough: float,
) -> tuple[Denoiser, int]:
    """The averaged network after training, and the number of steps taken."""
    o, reader = recipe.optimiser, SampleReader(samples)
    regions, _ = split(reader, 1, 0.0, 1)
    sampler = CropSampler(reader, regions, recipe.data.balance)
    crops = CropSources(sampler, sampler, {}, validated=False)
    crops.hold(device, 2**62)  # the planes are in memory already
    with SEEDING:
        model = untrained_model(recipe)
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    state, mean = TrainingState(model, o), math.nan
    with ThreadPoolExecutor(1) as thread:
        batches = MicroBatches(crops, recipe, Processes(), thread)
        loss = CropLoss(objective(recipe.objective), recipe, batches)
        for step in optimise(state, loss, o, recipe.seed, dtype, Processes()):
            state.steps = min(state.steps, o.steps)  # `minutes` is only an upper limit
            latest = step.loss if math.isnan(mean) else step.loss - mean
            mean = latest if math.isnan(mean) else mean + REMEMBERED * latest
            if step.number >= o.warmup and mean <= enough:
                break
    assert isinstance(state.average, Denoiser)
    return state.average, state.step
