"""`train --select-hq`: keep the patches that look like a folder of high-quality ones.

A classifier that tells patches of chosen quality from random ones (paper 000, section 3.2).

Random patches hold good ones too, so a patch as likely to be chosen as not, score 0.5, is good.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorectl.engine.nets.calibrator import Calibrator
from restorectl.errors import NoInputError, UsageError
from restorectl.training.augment import clean
from restorectl.training.dataset import Crops, Part, Patches, Recent, Source, parts, scan
from restorectl.training.loop import State, World, fit, generator
from restorectl.training.recipe import Data, Optimiser, Recipe, Select

Scorer = Callable[[Crops], list[float]]  # patches -> a score in [0, 1] each
CPU = torch.device("cpu")
TURNED = Data(gamma=(0.5, 0.5), gain=(1.0, 1.0), offset=(0.0, 0.0), flips=True)
AS_IS = Data(gamma=(0.5, 0.5), gain=(1.0, 1.0), offset=(0.0, 0.0), flips=False)


def scorer(
    good: Callable[[int], Crops], every: Callable[[int], Crops], options: Select, seed: int
) -> Scorer:
    """Train on `good` against `every`, each a function of the step giving options.batch // 2
    patches, and return the scoring function. On the CPU in float32."""
    half = options.batch // 2
    labels = (torch.arange(2 * half) < half).float()
    torch.manual_seed(seed)
    channels = good(1).pixels.shape[1]
    net = Calibrator(channels, channels=(24, 48, 64), hidden=32, output="step", steps=1)

    def loss(model: nn.Module, step: int, index: int, drawn: torch.Generator) -> Tensor:
        x = torch.cat([clean(load(step), TURNED, drawn) for load in (good, every)])
        return F.binary_cross_entropy_with_logits(model(x), labels, reduction="none")

    work = Optimiser(
        steps=options.steps,
        batch=2 * half,
        micro_batch=2 * half,
        lr=options.lr,
        warmup=min(20, options.steps // 2),
        ema=0.98,
    )
    state = State(net, work)
    for _ in fit(state, loss, work, seed, torch.float32, World()):
        pass

    def scores(patches: Crops) -> list[float]:
        with torch.inference_mode():
            logits: Tensor = state.average(clean(patches, AS_IS, generator(CPU, "unused")))
            return [float(score) for score in logits.sigmoid()]

    return scores


TOGETHER = 16  # patches scored at once


@dataclass(frozen=True)
class Selection:
    """The patches that are left of each list of regions; counts: how many in all, of how many."""

    kept: tuple[tuple[Part, ...], ...]
    counts: tuple[int, int]


def select(
    positives: Path,
    sources: Sequence[Source],
    regions: Sequence[Sequence[Part]],
    recipe: Recipe,
    recent: Recent,
    axes: str | None = None,
) -> Selection:
    """The patches that score at least `select.threshold`, of each list of regions.

    The classifier learns from the first list alone. Raises UsageError when patches do not fit,
    NoInputError when none is kept.
    """
    options = recipe.select
    good, every = _loads(positives, sources, regions[0], recipe, recent, axes)
    score = scorer(good, every, options, recipe.seed)
    scored = []
    for each in regions:
        cells = [cell for region in each for cell in _cells(region, options.patch)]
        groups = list(_groups(cells))
        values = [value for group in groups for value in score(recent.regions(sources, group))]
        scored.append(list(zip(cells, values, strict=True)))
    kept = tuple(
        tuple(cell for cell, value in pairs if value >= options.threshold) for pairs in scored
    )
    total = sum(map(len, scored))
    if not kept[0]:
        best = max(value for _, value in scored[0])
        raise NoInputError(
            f"--select-hq: none of {total} patches scores {options.threshold} or more (best"
            f" {best:.3f}): lower select.threshold"
        )
    return Selection(kept, (sum(map(len, kept)), total))


def _loads(
    positives: Path,
    sources: Sequence[Source],
    regions: Sequence[Part],
    recipe: Recipe,
    recent: Recent,
    axes: str | None,
) -> list[Callable[[int], Crops]]:
    """Step -> half a batch, of the positives and of all images."""
    options, data = recipe.select, recipe.data
    largest = max(data.crop) * max(data.binning)
    if largest > options.patch:
        raise UsageError(f"select.patch={options.patch}: is smaller than the crops, {largest} px")
    chosen = scan(positives, data.channels, axes)
    if chosen.warnings:
        raise UsageError(f"--select-hq: {chosen.warnings[0]}: mend or remove it")
    whole = parts(chosen.sources, data.channels, 0, options.patch, validation=False)
    loads: list[Callable[[int], Crops]] = []
    for stream, (name, patches) in enumerate(
        (
            ("--select-hq", Patches(chosen.sources, whole, data.balance, recent)),
            ("--data", Patches(sources, regions, data.balance, recent)),
        )
    ):
        if not patches.fits(options.patch):
            raise UsageError(
                f"{name}: no image is as large as a patch, {options.patch} px: lower select.patch"
            )
        half = options.batch // 2
        seed = recipe.seed + stream
        loads.append(partial(patches.batch, seed, start=0, count=half, side=options.patch))
    return loads


def _cells(region: Part, patch: int) -> Iterator[Part]:
    """A region cut into patches; the last ones end with it. Smaller regions stay whole."""
    for first, last in _spans(region.first, region.last, patch):
        for left, right in _spans(region.left, region.right, patch):
            yield replace(region, first=first, last=last, left=left, right=right)


def _spans(start: int, stop: int, length: int) -> list[tuple[int, int]]:
    if stop - start <= length:
        return [(start, stop)]
    edges = [*range(start, stop - length, length), stop - length]
    return [(edge, edge + length) for edge in edges]


def _groups(cells: Sequence[Part]) -> Iterator[list[Part]]:
    """Neighbouring cells of equal size, a few at a time."""
    group: list[Part] = []
    for cell in cells:
        if group and (len(group) == TOGETHER or group[0].size != cell.size):
            yield group
            group = []
        group.append(cell)
    if group:
        yield group
