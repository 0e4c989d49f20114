"""What a training run reads: crops of images or of pairs, for training and for validation."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.core.crops import Crops
from restorectl.core.recipe import Recipe
from restorectl.engine.fit import World
from restorectl.engine.training import Load
from restorectl.errors import UsageError
from restorectl.io.dataset import Patches, Reader, parts, random, scan
from restorectl.io.pairs import PairReader, scan_pairs
from restorectl.io.planes import Recent, Source
from restorectl.tasks.select import select


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
