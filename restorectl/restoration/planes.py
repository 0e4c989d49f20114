"""Restores one image, plane by plane and tile by tile.

Each channel's model is fitted to a sample. Then, for a few planes at a time: read, cut into tiles,
whiten, restore, invert, join the tiles' cores, round, and write every plane of every product.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import local
from typing import Any

import numpy as np

from restorectl.batch.inputs import Pair
from restorectl.batch.outcome import Outcome, Progress, Silent
from restorectl.batch.plan import Origin, Planned, Record, Share
from restorectl.engine.noise_field import NoiseField, Site
from restorectl.errors import InputError, OutputError
from restorectl.images import tiles
from restorectl.images.header import Header, Plane
from restorectl.images.image import (
    Image,
    create_image,
    divided,
    open_image,
    planes_there,
    require_writable,
    to_dtype,
    verify_image,
)
from restorectl.images.masked import Masked
from restorectl.images.regions import AT_LEAST, Divided, Region, regions
from restorectl.images.tiles import Block
from restorectl.intensity.stripes import Stripes
from restorectl.restoration import camera, channels, cleaned, neighbours
from restorectl.restoration.channels import ChannelGroup
from restorectl.restoration.destripe import Destriped
from restorectl.restoration.fitting import Fitting
from restorectl.restoration.fusion import Fused
from restorectl.restoration.neighbours import Neighbours
from restorectl.restoration.restorer import Batch, Restorer

PLANE_PIXELS = 4 << 20  # pixels of the planes that are processed together
AROUND_BYTES = 16  # approximate memory per pixel of a plane for reading and writing
EXAMINED = 300 << 20  # bytes to examine a block of a large plane
CAMERA_BYTES = 48  # and for making it even, with the camera's maps

TOO_LARGE = "planes are too large to be averaged with neighbours: each is restored alone"

Pixels = Mapping[Plane, np.ndarray]  # (Y, X) of each plane
# a tile of the planes of a group; and the same in what was read
Place = tuple[ChannelGroup, list[Plane], tiles.Tile, tiles.Tile]
# (fitted image, files of the products and of earlier extras, file to write, provenance): writes one
# more target and returns details and warnings for the outcome
Extra = Callable[["Fitted", Sequence[Path], Path, Record], "Told"]


@dataclass(frozen=True)
class Fitted:
    """An image whose channels have models, ready to be restored."""

    source: Image  # as it is
    image: Image  # as it is restored: invalid pixels filled in, without stripes
    known: Masked  # knows the invalid pixels
    groups: list[ChannelGroup]
    near: Neighbours

    def describe(self, outcome: Outcome) -> None:
        """Add what was found in the planes read so far to the outcome."""
        neighbours.describe(outcome, self.groups, self.near)
        cleaned.describe(outcome, self.image, self.known)

    def learnt(self, region: Region) -> "Learnt":
        """What was found in a region; what describes parts of planes begins anew."""
        stripes = self.image.found if isinstance(self.image, Destriped) else {}
        known, near, planes = self.known, self.near, region.planes
        found = Learnt(
            region,
            {plane: known.counts[plane] for plane in planes if plane in known.counts},
            dict(known.in_parts),
            {plane: stripes[plane] for plane in planes if plane in stripes},
            dict(near.weights),
        )
        known.in_parts.clear()
        near.weights.clear()
        if self.image.header.is_large:
            stripes.clear()
        return found

    def learn(self, other: "Learnt") -> None:
        """Add what another process found."""
        self.known.counts.update(other.counts)
        for plane, counts in other.in_parts.items():
            self.known.count(plane, *counts)
        if isinstance(self.image, Destriped):
            self.image.found = {**other.stripes, **self.image.found}
        for channel, weights in other.weights.items():
            self.near.weights[channel] += weights


@dataclass(frozen=True)
class Learnt:
    """What `Fitted.describe` tells about a region."""

    region: Region
    counts: Mapping[Plane, tuple[int, int]]  # invalid pixels: kept, repaired
    in_parts: Mapping[Plane, tuple[int, int]]  # the same in parts of large planes
    stripes: Mapping[Plane, Stripes]
    weights: Mapping[int, list[float]]  # of the neighbours, by channel


@dataclass(frozen=True)
class Task:
    """What all regions of an image have in common."""

    pair: Pair
    parts: tuple[Path, ...]  # of the products
    groups: list[ChannelGroup]
    common: Mapping[int, Stripes]  # of all planes of a channel


@dataclass(frozen=True)
class Told:
    """Details and warnings from writing an extra file."""

    details: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planes:
    """The `Work` of commands that restore planes: each input gives one or more products."""

    command: str
    restorer: Restorer
    own: Mapping[str, Any]  # parameters of this command that can change a pixel
    extras: tuple[Extra, ...] = ()  # write the pair's last targets
    first: "Planes | None" = None  # another method, which makes the guide
    fitting: Fitting | None = None  # trains the network on the image itself

    @property
    def origin(self) -> Origin:
        """See `plan.Work`."""
        restorer, job = self.restorer, self.restorer.job
        parameters = {
            **self.own,
            "steps": job.steps,
            "strength": job.strength,
            "samples": job.samples,
            "calibrator": job.calibrator,
            "level": restorer.level,
            "noise": camera.recorded(job.noise),
            "seed": job.compute.seed,
            "precision": str(restorer.runner.dtype).removeprefix("torch."),
            "device": restorer.runner.device.type,
            "axes": job.files.axes,
            "channels": job.files.channels,
        }
        if restorer.orientations > 1:  # records of before this option know nothing of it
            parameters["orientations"] = restorer.orientations
        if restorer.context != "none":
            parameters |= {"context": restorer.context, "reach": job.reach}
        if job.dtype != "same":
            parameters["dtype"] = job.dtype
        if job.files.series is not None:
            parameters["series"] = job.files.series
        if job.compute.compile:
            parameters["compile"] = True
        if job.files.pyramid:
            parameters["pyramid"] = True
        if restorer.camera is not None and restorer.camera.maps:
            parameters["camera"] = [restorer.camera.sha256, *job.noise.camera_corner]
        if job.start_step is not None:
            parameters["start_step"] = job.start_step
        used = {role: (w.card.name, w.sha256) for role, w in restorer.used.items()}
        return Origin(self.command, parameters, used, str(restorer.runner.device))

    @property
    def at_once(self) -> int:
        """See `plan.Work`."""
        return self.restorer.runner.workers.files

    def plan(self, image: Image, pair: Pair) -> Planned:
        """See `plan.Work`."""
        header, restorer = image.header, self.restorer
        times, count, depth, height, width = header.canonical_shape
        chosen = header.chosen(restorer.job.files.channels, pair.source)
        channels.require_joint(image, chosen, restorer.card.channels)
        camera.region(restorer.camera, image, restorer.job.noise.camera_corner)
        grid = restorer.grid((height, width))
        repeats = len(header.planes) * len(chosen) // count
        repeats //= min(restorer.card.channels, len(chosen))
        units, pixels = len(grid) * repeats, sum(t.shape[0] * t.shape[1] for t in grid) * repeats
        calls, largest = restorer.calls_per_tile, max(t.shape[0] * t.shape[1] for t in grid)
        outputs = self.headers(header, pair)
        forms = [
            require_writable(target, output)
            for target, output in zip(pair.targets, outputs, strict=False)
        ]
        if pair.guide is not None:
            with open_image(pair.guide) as guide:
                guide.header.require_same_shape(guide.path, header, image.path)
        if restorer.card.output.gain and len(chosen) < count:
            raise InputError(
                f"{pair.source}: these weights give results on the scale of their training targets,"
                " which other channels do not have: leave out `channels`"
            )
        runner, size = restorer.runner, height * width
        of_tile = runner.tile_bytes + 4 * (2 + len(outputs)) * runner.together(grid[0].shape)
        in_bands = header.is_large and not self.extras and all(form.in_bands for form in forms)
        if in_bands:  # with what waits in the writers
            size = min(size, 2 * tiles.BLOCK[0] * width * header.page)
        ready = max(size, min(PLANE_PIXELS, size * len(header.planes)))
        held = sum(ready * h.dtype.itemsize for h in outputs) * 2
        held += EXAMINED if in_bands else 0
        held += size * (AROUND_BYTES + (CAMERA_BYTES if restorer.camera else 0))
        held += min(runner.workers.count, units) * largest * of_tile
        if restorer.context != "none" and times * depth > 1:
            calls = None if calls is None else calls + 1  # the pilots
            held += neighbours.most_held(times * depth, size, restorer.job.reach)
        return Planned(
            units,
            None if calls is None else calls * units,
            sum(h.nbytes for h in outputs),
            held,
            pixels * (calls or 1),
        )

    def write(
        self,
        image: Image,
        pair: Pair,
        parts: Sequence[Path],
        record: Record,
        outcome: Outcome,
        progress: Progress,
        share: Share | None = None,
    ) -> None:
        """See `plan.Work`."""
        headers = self.headers(image.header, pair)
        made_of = list(zip(parts, headers, strict=False))
        outputs = [] if share is None else self._outputs(pair, made_of)
        with ExitStack() as stack:
            guide, source = None, pair.guide
            if self.first is not None:
                folder = stack.enter_context(TemporaryDirectory(prefix="restorectl-guide-"))
                source = self._made(Path(folder, "guide.tif"), image, pair, record, outcome)
            if source is not None:
                guide = stack.enter_context(open_image(source))
                guide.header.require_same_shape(guide.path, image.header, image.path)
            fitted = self.fit(image, outcome, guide)
            if self.fitting is not None:
                record = {**record, "training": outcome.details["training"]}
            planned = self.plan(image, pair)
            progress.start(planned.calls, "tile calls", planned.pixels)
            if share is not None:
                self._write_regions(fitted, pair, outputs, record, outcome, share)
            else:
                first = min(planes_there(part, made, record) for part, made in made_of)
                writers = [
                    stack.enter_context(create_image(part, made, provenance=record, first=first))
                    for part, made in made_of
                ]
                progress.advance(0, first * planned.pixels // len(image.header.planes))
                restored = self.restored(fitted, outcome, guide, first)
                for _, _, products in self.restorer.runner.workers.ahead(restored):
                    for writer, each in zip(writers, products, strict=True):
                        writer.put(each)
        for part, made in made_of:
            verify_image(part, made)
        for k, extra in enumerate(self.extras, len(headers)):
            told = extra(fitted, parts[:k], parts[k], record)
            outcome.details |= told.details
            outcome.warnings += told.warnings

    def _outputs(self, pair: Pair, made_of: Sequence[tuple[Path, Header]]) -> list[Divided]:
        """The outputs that several processes write. Raises OutputError if they cannot."""
        for cause, what in ((self.first, "`guide` by another method"), (self.fitting, "training")):
            if cause is not None:
                raise OutputError(
                    f"{pair.target}: {what} has to be done for each image by one process: leave"
                    " out `dask`, or give it several images"
                )
        for target, (_, made) in zip(pair.targets, made_of, strict=False):
            divided(target, made)  # an error names the target
        return [divided(part, made) for part, made in made_of]

    def _write_regions(
        self,
        fitted: Fitted,
        pair: Pair,
        outputs: Sequence[Divided],
        record: Record,
        outcome: Outcome,
        share: Share,
    ) -> None:
        """Have all regions restored and written by the workers of `share`."""
        header, groups = fitted.image.header, fitted.groups
        for output in outputs:
            output.begin(record)
        every = regions(
            header,
            outputs[0],
            self.restorer.grid(header.canonical_shape[3:]),
            at_least=AT_LEAST * share.threads,
            whole=any(group.context is not None and group.context.axes for group in groups),
            joint=any(len(group.channels) > 1 for group in groups),
        )
        todo = [region for region in every if not all(output.has(region) for output in outputs)]
        common = fitted.image.common if isinstance(fitted.image, Destriped) else {}
        task = Task(pair, tuple(output.path for output in outputs), groups, common)
        found = list(share.each(restore_region, ((task, region) for region in todo)))
        order = {region: k for k, region in enumerate(todo)}
        for learnt in sorted(found, key=lambda each: order[each.region]):
            fitted.learn(learnt)
        for output in outputs:
            output.finish(record)
        fitted.describe(outcome)

    def _made(self, path: Path, image: Image, pair: Pair, record: Record, outcome: Outcome) -> Path:
        """The guide that the first method makes of the image, written to `path`."""
        assert self.first is not None
        alone = Outcome(outcome.source, str(path), "planned")
        bare = Pair(pair.source, (path,), pair.name)
        self.first.write(image, bare, [path], record, alone, Silent().file(""))
        outcome.details["guide"] = alone.details
        return path

    def fit(self, image: Image, outcome: Outcome, guide: Image | None = None) -> Fitted:
        """Fit the channels' models, and tell them; with `fitting`, train the network."""
        restorer, header = self.restorer, image.header
        clean, known = cleaned.for_restorer(image, self.restorer)
        chosen = header.chosen(restorer.job.files.channels, image.path)
        groups = channels.fit_groups(clean, chosen, restorer)
        channels.describe(outcome, header, groups, restorer.card.sigma_max)
        if self.fitting is not None:
            restorer = self.fitting.trained(restorer, clean, groups, guide, outcome)
        several = len(header.planes) > header.canonical_shape[1]
        if header.is_large and several and restorer.context != "none":
            outcome.warnings.append(TOO_LARGE)
        near = Neighbours(restorer, clean, channels.by_plane(header, groups))
        return Fitted(image, clean, known, groups, near)

    def fitted(self, image: Image, task: "Task") -> Fitted:
        """The image with models that another process has fitted."""
        clean, known = cleaned.for_restorer(image, self.restorer)
        if isinstance(clean, Destriped):
            clean.common.update(task.common)
        near = Neighbours(self.restorer, clean, channels.by_plane(image.header, task.groups))
        return Fitted(image, clean, known, task.groups, near)

    def restored(
        self, fitted: Fitted, outcome: Outcome, guide: Image | None = None, first: int = 0
    ) -> Iterator[tuple[Plane, slice, tuple[np.ndarray, ...]]]:
        """Yield what `restored_planes` does, and tell at the end what it found."""
        yield from restored_planes(fitted.near, guide, first, fitted.known)
        fitted.describe(outcome)

    def headers(self, header: Header, pair: Pair) -> list[Header]:
        """Headers of the products: first an image like the input, then maps of floats."""
        kinds = [header.with_dtype(dtype) for dtype in self.restorer.dtypes(header)]
        tiled = self.restorer.job.files.pyramid
        return [k.for_target(target, tiled) for k, target in zip(kinds, pair.targets, strict=False)]


_opened: Any = local()  # what each thread of a worker has open: work, found, stack


def restore_region(work: Planes, task: Task, region: Region) -> Learnt:
    """Restore and write a region, on a worker of a cluster."""
    if getattr(_opened, "work", None) is not work:  # one image is divided in a run
        if hasattr(_opened, "stack"):
            _opened.stack.close()
        _opened.stack, _opened.work = ExitStack(), None
        _opened.found = _open(work, task, _opened.stack)
        _opened.work = work
    fitted: Fitted
    fitted, guide, outputs = _opened.found
    (top, bottom), (left, right) = region.rows, region.cols
    slabs: dict[Plane, list[Plane]] = defaultdict(list)
    for plane in region.planes:
        slabs[outputs[0].slab(plane)].append(plane)
    missing = {slab: len(planes) * (bottom - top) for slab, planes in slabs.items()}  # rows
    waiting: dict[Plane, list[np.ndarray]] = {}  # (planes, rows, columns) of every product
    for plane, rows, products in restored_planes(fitted.near, guide, 0, fitted.known, region):
        slab = outputs[0].slab(plane)
        planes = slabs[slab]
        if slab not in waiting:
            shape = len(planes), bottom - top, right - left
            waiting[slab] = [np.empty(shape, each.dtype) for each in products]
        start, stop = max(rows.start, top), min(rows.stop, bottom)
        for pixels, each in zip(waiting[slab], products, strict=True):
            made = each[start - rows.start : stop - rows.start, left:right]
            pixels[planes.index(plane), start - top : stop - top] = made
        missing[slab] -= stop - start
        if not missing[slab]:
            for output, pixels in zip(outputs, waiting.pop(slab), strict=True):
                output.put(replace(region, planes=tuple(planes)), pixels)
    return fitted.learnt(region)


def _open(work: Planes, task: Task, stack: ExitStack) -> tuple[Fitted, Image | None, list[Divided]]:
    """The image of a task, its guide, and its outputs."""
    files, pair, guide = work.restorer.job.files, task.pair, None
    image = stack.enter_context(open_image(pair.source, axes=files.axes, series=pair.series))
    if pair.guide is not None:
        guide = stack.enter_context(open_image(pair.guide))
    headers = zip(task.parts, work.headers(image.header, pair), strict=True)
    return work.fitted(image, task), guide, [divided(*each) for each in headers]


def restored_planes(
    near: Neighbours,
    guide: Image | None = None,
    first: int = 0,
    known: Masked | None = None,
    region: Region | None = None,
) -> Iterator[tuple[Plane, slice, tuple[np.ndarray, ...]]]:
    """Yield (plane, its rows, these rows of every product) in the file's order.

    A few whole planes are in memory at a time. Large ones (`Header.is_large`) come in bands of
    rows, those of the colours of a page in turns. Pixels that are copied are NaN in all maps.
    first: leave out the planes before it. guide: another method's result, an image of the same
    shape. known: counts the invalid pixels of large planes. region: only of its planes, and only
    what it needs is made; other columns hold anything. Planes of channels that are restored
    together stay in memory until it is their turn in the file; bands of large ones do not, and are
    restored again.
    """
    restorer, header = near.restorer, near.image.header
    height, width = header.canonical_shape[3:]
    divide = tiles.bands if region is None else region.bands
    bands = divide(restorer.grid((height, width)), in_blocks=header.is_large)
    wanted = header.planes[first:] if region is None else region.planes
    at_once = header.page if header.is_large else max(1, PLANE_PIXELS // (height * width))
    ready: dict[Plane, tuple[np.ndarray, ...]] = {}
    for planes in tiles.chunks(wanted, at_once):
        for band in bands:
            together: dict[tuple[Plane, ...], ChannelGroup | None] = {}  # None = copied
            for t, c, z in planes:
                if (t, c, z) not in ready:
                    group = near.group_of.get((t, c, z))
                    members = (c,) if group is None else group.channels
                    together[tuple((t, each, z) for each in members)] = group
            rows = slice(band[0].core[0].start, band[0].core[0].stop)
            shape = rows.stop - rows.start, width
            for plane in itertools.chain(*together):
                ready[plane] = tuple(np.empty(shape, d) for d in restorer.dtypes(header))
            for block in band:
                parts = {
                    plane: tuple(each[:, block.core[1]] for each in ready[plane])
                    for plane in itertools.chain(*together)
                }
                restore_planes(near, guide, together, block, parts)
                _keep(restorer, near.image, block, parts, known if header.is_large else None)
            for plane in planes:
                yield plane, rows, ready.pop(plane)
            if header.is_large:
                ready.clear()


def _keep(
    restorer: Restorer,
    image: Image,
    block: Block,
    parts: Mapping[Plane, tuple[np.ndarray, ...]],
    known: Masked | None,
) -> None:
    """Put the pixels that are copied into the products of a block; NaN into the maps."""
    inside = block.core_in_read
    for plane, products in parts.items():
        kept, invalid = image.kept(plane, *block.read), image.invalid(plane, *block.read)
        if kept is not None:
            values = np.empty(kept[0].shape, kept[1].dtype)
            values[kept[0]] = kept[1]
            where = kept[0][inside]
            same = restorer.converted(values[inside][where], plane[1])
            for product in products[: restorer.reduction.images]:
                product[where] = to_dtype(same, product.dtype)
            for unknown in products[restorer.reduction.images :]:
                unknown[where] = np.nan
        if known is not None and invalid is not None:
            count = 0 if kept is None else int(where.sum())
            known.count(plane, count, int(invalid[inside].sum()) - count)


def _copy(
    restorer: Restorer,
    image: Image,
    block: Block,
    planes: Sequence[Plane],
    parts: Mapping[Plane, tuple[np.ndarray, ...]],
) -> None:
    """Put pixels of channels that are not restored into the products; NaN into the maps."""
    for plane in planes:
        products, images = parts[plane], restorer.reduction.images
        if image.kept(plane, *block.read) is None:  # else all are
            pixels = image.read(plane, *block.read)[block.core_in_read]
            same = restorer.converted(pixels, plane[1])
            for product in products[:images]:
                product[...] = to_dtype(same, product.dtype)
        for each in products[images:]:
            each[...] = np.nan


def restore_planes(
    near: Neighbours,
    guide: Image | None,
    together: Mapping[tuple[Plane, ...], ChannelGroup | None],
    block: Block,
    parts: Mapping[Plane, tuple[np.ndarray, ...]],
) -> None:
    """Restore a block of a few planes into the products `parts` of its core.

    In batches of tiles of equal size, several at a time. Tiles whose pixels are all copied are left
    out.
    """
    restorer, image = near.restorer, near.image
    pixels: dict[Plane, np.ndarray] = {}
    hints: dict[Plane, np.ndarray] = {}
    averages = near.fused(
        [plane for planes, group in together.items() if group for plane in planes]
    )
    batches: dict[Any, list[Place]] = defaultdict(list)
    top, left = (span.start for span in block.core)
    for planes, group in together.items():
        copied = [image.kept(plane, *block.read) for plane in planes]
        if group is None:
            _copy(restorer, image, block, planes, parts)
            continue
        for plane in planes:
            pixels[plane] = image.read(plane, *block.read)
            if guide is not None:
                hints[plane] = guide.read(plane, *block.read) - image.zero(plane[1])
        for tile in block.tiles:
            seen = tile.seen_from(*(span.start for span in block.read))
            if not all(kept is not None and kept[0][seen.core].all() for kept in copied):
                batches[group.channels, group.planes, tile.shape].append(
                    (group, list(planes), tile, seen)
                )
    invalid = {p: found for p in pixels if (found := image.invalid(p, *block.read)) is not None}

    def restore(places: list[Place]) -> None:
        group = places[0][0]
        batch = _batch(group, places, pixels, hints, invalid, averages)
        gain = restorer.gain(group.channels)
        batch = batch if gain is None else batch.scaled(gain)
        for (_, planes, tile, seen), products in zip(
            places, restorer.restore(batch, group.decided), strict=True
        ):
            cores = tile.crop(products)  # (products, C, h, w)
            core = tile.seen_from(top, left).core
            for plane, values in zip(planes, cores.swapaxes(0, 1), strict=True):
                if group.decided["sigma"] <= 0:  # there is nothing to remove: copied
                    factor = 1 if gain is None else gain[group.channels.index(plane[1])]
                    same = [pixels[plane][seen.core] * factor] * restorer.reduction.images
                    values = (*same, *values[len(same) :])
                targets = [each[core] for each in parts[plane]]
                zero = restorer.converted(np.asarray(image.zero(plane[1])), plane[1])
                _put(restorer, group, plane, tile, values, float(zero), targets)

    runner = restorer.runner
    runner.workers.each(
        restore,
        (
            part
            for (*_, shape), places in batches.items()
            for part in tiles.chunks(places, runner.together(shape))
        ),
    )


def _put(
    restorer: Restorer,
    group: ChannelGroup,
    plane: Plane,
    tile: tiles.Tile,
    values: Sequence[np.ndarray],
    zero: float,
    targets: Sequence[np.ndarray],
) -> None:
    """Convert a tile's products (h, w) to the dtypes of their targets, and put them there."""
    top, left = (span.start for span in tile.core)
    numbers = None
    if group.dithered and not restorer.card.output.gain:
        field = NoiseField(restorer.job.compute.seed)
        numbers = field.uniform(Site(plane, top, left), values[0].shape)
    for k, (target, core) in enumerate(zip(targets, values, strict=True)):
        if zero and k not in restorer.reduction.widths:
            core = core.astype(np.float64) + zero
        target[...] = to_dtype(core, target.dtype, numbers)


def _batch(
    group: ChannelGroup,
    places: Sequence[Place],
    pixels: Pixels,
    hints: Pixels,
    invalid: Pixels,
    averages: Mapping[Plane, Fused],
) -> Batch:
    """Cut and whiten tiles of one channel group."""
    model, relative = group.model, None
    measured = np.stack([_cut(pixels, place) for place in places])  # (B, C, H, W) float32
    if averages and places[0][1][0] in averages:  # all planes of a group have one, or none
        found = [(averages[planes[0]], seen) for _, planes, _, seen in places]
        x = np.stack([tile.pad(each.x[tile.read]) for each, tile in found])[:, None]
        relative = np.stack([tile.pad(each.level[tile.read]) for each, tile in found])[:, None]
    else:
        x = np.stack([model.forward(raw) for raw in measured])  # (B, C_net, H, W) float32
    return Batch(
        x,
        np.full(len(measured), model.sigma, np.float32),
        [(planes[0], tile.rows[0], tile.cols[0]) for _, planes, tile, _ in places],
        model.inverse,
        measured,
        model.noise_std,
        group.scale,
        group.light,
        np.stack([model.forward(_cut(hints, place)) for place in places]) if hints else None,
        group.floor,
        np.stack([_valid(invalid, place) for place in places]) if invalid else None,
        relative,
    )


def _valid(invalid: Pixels, place: Place) -> np.ndarray:
    """(C, H, W) bool of one tile: the measured pixels."""
    _, planes, _, tile = place
    height, width = tile.rows[1] - tile.rows[0], tile.cols[1] - tile.cols[0]
    every = np.ones((height, width), bool)
    parts = [~invalid[p][tile.read] if p in invalid else every for p in planes]
    return np.stack([tile.pad(part) for part in parts])


def _cut(pixels: Pixels, place: Place) -> np.ndarray:
    """(C, H, W) float32 of one tile. Raises InputError for NaN and infinity."""
    _, planes, _, tile = place
    raw = np.stack([pixels[plane][tile.read] for plane in planes]).astype(np.float32)
    if not np.isfinite(raw).all():
        raise InputError(f"plane t,c,z = {planes[0]} contains NaN or infinity: replace them first")
    return np.stack([tile.pad(plane) for plane in raw])
