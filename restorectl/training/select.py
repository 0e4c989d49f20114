"""`train --select-hq`: keep patches that look like those in a folder of high quality.

The score of every patch is listed in a table beside the weights.

A small network learns to distinguish patches of that folder from random patches of the training
images (RSCD, section 3.2). Random patches include good ones, so a score of 0.5 is already good.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorectl.engine.nets.calibrator import Calibrator
from restorectl.errors import NoInputError, UsageError
from restorectl.training.augment import clean
from restorectl.training.dataset import (
    CropBatch,
    CropSampler,
    ImageReader,
    Region,
    RegionReader,
    scan,
    split,
)
from restorectl.training.loop import Processes, TrainingState, generator, optimise
from restorectl.training.recipe import CropOptions, Optimiser, Recipe, SelectOptions

AS_IS = CropOptions(gamma=(0.5, 0.5), gain=(1.0, 1.0), offset=(0.0, 0.0), flips=False)
TURNED = replace(AS_IS, flips=True)
COLUMNS = ("image", "t", "channel", "z", "row", "column", "height", "width", "score", "kept")
TOGETHER = 16  # patches scored together


def select(
    positives: Path,
    reader: RegionReader,
    regions: Sequence[Sequence[Region]],
    recipe: Recipe,
    axes: str | None = None,
) -> tuple[tuple[list[Region], list[Region]], list[tuple[Region, float]]]:
    """Patches of the training and validation regions that score at least `select.threshold`, and
    all patches with their scores.

    positives: folder of high-quality patches. The classifier learns from training regions only.
    Raises UsageError if patches do not fit, NoInputError if none is kept.
    """
    options, data = recipe.select, recipe.data
    largest = max(data.crop) * max(data.binning)
    if largest > options.patch:
        raise UsageError(f"select.patch={options.patch}: is below the crop size, {largest} px")
    chosen = scan(positives, data.channels, axes)
    if chosen.warnings:
        raise UsageError(f"`select_hq`: {chosen.warnings[0]}: correct or remove it")
    room = data.cache_mb << 20
    with closing(ImageReader(chosen.images, room, reader.planes)) as good:
        whole, _ = split(good, data.channels, 0, options.patch)
        samplers = (
            CropSampler(good, whole, data.balance),
            CropSampler(reader, regions[0], data.balance),
        )
        for name, sampler in zip(("`select_hq`", "`data`"), samplers, strict=True):
            if not sampler.fits(options.patch):
                raise UsageError(
                    f"{name}: no image is as large as a patch ({options.patch} px): lower"
                    " select.patch"
                )
        classifier = _trained(samplers, options, recipe.seed)
    scored = []
    for each in regions:
        patches = [patch for region in each for patch in _patches(region, options.patch)]
        groups = _groups(patches)
        scores = [score for group in groups for score in _scores(classifier, reader.read(group))]
        scored.append(list(zip(patches, scores, strict=True)))
    training, validation = (
        [patch for patch, score in pairs if score >= options.threshold] for pairs in scored
    )
    total = sum(map(len, scored))
    if not training:
        best = max(score for _, score in scored[0])
        raise NoInputError(
            f"`select_hq`: none of {total} patches scores {options.threshold} or more (best"
            f" {best:.3f}): lower select.threshold"
        )
    return (training, validation), [*scored[0], *scored[1]]


def table(
    scores: Sequence[tuple[Region, float]], reader: RegionReader, threshold: float
) -> list[tuple[object, ...]]:
    """The patches with their scores as rows, the first with the names of the columns."""
    rows: list[tuple[object, ...]] = [COLUMNS]
    for patch, score in scores:
        place = (patch.t, "+".join(map(str, patch.channels)), patch.z, patch.first, patch.left)
        kept = "yes" if score >= threshold else "no"
        name = reader.images[patch.image].name
        rows.append((name, *place, *patch.size, f"{score:.4f}", kept))
    return rows


def _trained(
    samplers: tuple[CropSampler, CropSampler], options: SelectOptions, seed: int
) -> nn.Module:
    """Train a classifier on the CPU: logit above 0 for patches of the first sampler, below for the
    second; half a batch of each."""
    half = options.batch // 2
    torch.manual_seed(seed)
    channels = len(samplers[0].regions[0].channels) * samplers[0].reader.planes
    net = Calibrator(channels, channels=(24, 48, 64), hidden=32, output="step", steps=1)
    work = Optimiser(
        steps=options.steps,
        batch=2 * half,
        micro_batch=2 * half,
        lr=options.lr,
        warmup=min(20, options.steps // 2),
        ema=0.98,
    )
    labels = (torch.arange(2 * half) < half).float()

    def loss(model: nn.Module, step: int, index: int, drawn: torch.Generator) -> Tensor:
        batches = (
            sampler.batch(seed + stream, step, 0, half, options.patch)
            for stream, sampler in enumerate(samplers)
        )
        x = torch.cat([clean(batch, TURNED, drawn) for batch in batches])
        return F.binary_cross_entropy_with_logits(model(x), labels, reduction="none")

    state = TrainingState(net, work)
    for _ in optimise(state, loss, work, seed, torch.float32, Processes()):
        pass
    return state.average


@torch.inference_mode()
def _scores(classifier: nn.Module, patches: CropBatch) -> list[float]:
    """Scores of the patches, from 0 to 1."""
    logits: Tensor = classifier(clean(patches, AS_IS, generator(torch.device("cpu"), "unused")))
    return [float(score) for score in logits.sigmoid()]


def _patches(region: Region, side: int) -> Iterator[Region]:
    """Cut a region into patches; the last ones end at its border. Small regions stay whole."""
    for first, last in _spans(region.first, region.last, side):
        for left, right in _spans(region.left, region.right, side):
            yield replace(region, first=first, last=last, left=left, right=right)


def _spans(start: int, stop: int, length: int) -> list[tuple[int, int]]:
    if stop - start <= length:
        return [(start, stop)]
    edges = [*range(start, stop - length, length), stop - length]
    return [(edge, edge + length) for edge in edges]


def _groups(patches: Sequence[Region]) -> Iterator[list[Region]]:
    """Yield groups of up to TOGETHER consecutive patches of equal size."""
    for _, equal in groupby(patches, lambda patch: patch.size):
        group = list(equal)
        for start in range(0, len(group), TOGETHER):
            yield group[start : start + TOGETHER]
