"""`train --select-hq`: keep the patches that look like a folder of high-quality ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from restorectl.core.crops import Crops
from restorectl.core.recipe import Recipe
from restorectl.engine.quality import scorer
from restorectl.errors import NoInputError, UsageError
from restorectl.io.dataset import Patches, parts, scan
from restorectl.io.planes import Part, Recent, Source

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
