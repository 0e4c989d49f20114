"""The planes around those that are restored, each read, whitened and given a pilot once.

A sliding set of planes is held. Which planes help a plane depends on the file alone, so results do
not depend on how many planes are processed together, nor on which ones.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from restorectl.batch.outcome import Outcome
from restorectl.images import tiles
from restorectl.images.blocks import varied
from restorectl.images.header import Plane
from restorectl.images.image import Image
from restorectl.restoration import level_map
from restorectl.restoration.channels import ChannelGroup
from restorectl.restoration.fusion import Fused, Seen
from restorectl.restoration.restorer import Restorer

HELD = 32 << 20  # px that are held, or all neighbours of one plane; fewer would only slow down
BYTES = 8, 40  # memory per pixel of a plane: held, and while it is averaged


@dataclass(frozen=True)
class Neighbours:
    """Averages planes with their neighbours.

    group_of: of each plane that is restored. weights: sums of the neighbours' weights of the planes
    averaged so far, by channel.
    """

    restorer: Restorer
    image: Image
    group_of: Mapping[Plane, ChannelGroup]
    held: OrderedDict[Plane, Seen] = field(default_factory=OrderedDict)
    weights: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))

    def fused(self, planes: Sequence[Plane]) -> dict[Plane, Fused]:
        """Planes averaged with their neighbours, their levels relative to their group's.

        Without those whose channel does not use neighbours.
        """
        near = {plane: self._near(plane) for plane in planes}
        used = [plane for plane in planes if near[plane]]
        size = int(np.prod(self.image.header.canonical_shape[3:]))
        reach, found = self.restorer.job.reach, {}
        for some in tiles.chunks(used, _capacity(size, reach) // (4 * reach + 1)):
            self._see([each for plane in some for each in near[plane]], _capacity(size, reach))
            made = self.restorer.runner.workers.each(lambda plane: self._fuse(near[plane]), some)
            for plane, fused in zip(some, made, strict=True):
                found[plane] = fused
                self.weights[plane[1]].append(fused.weight)
        return found

    def _near(self, plane: Plane) -> list[Plane]:
        """A plane and its neighbours; empty if its channel does not use them."""
        group, shape = self.group_of[plane], self.image.header.canonical_shape
        context = group.context
        if context is None or not context.axes:
            return []
        others = [p for p in context.around(plane, shape) if self.group_of.get(p) is group]
        return [plane, *others]

    def _fuse(self, planes: Sequence[Plane]) -> Fused:
        """The first plane averaged with the others."""
        group, (own, *others) = self.group_of[planes[0]], [self.held[p] for p in planes]
        levels = _levels(group, own.x.shape)
        assert group.context is not None
        fused = group.context.fuse(
            own, [each for each in others if varied(each.x)], 1.0 if levels is None else levels**2
        )
        return fused if levels is None else Fused(fused.x, fused.level * levels, fused.weight)

    def _see(self, planes: Sequence[Plane], most: int) -> None:
        """Hold planes with their pilots; of the others, the least recently used are forgotten."""
        restorer = self.restorer
        batches: dict[Any, list[tuple[Seen, tiles.Tile]]] = defaultdict(list)
        for plane in dict.fromkeys(planes):
            if plane not in self.held:
                group, invalid = self.group_of[plane], self.image.invalid(plane)
                x = group.model.forward(self.image.read(plane).astype(np.float32)[None])[0]
                valid = None if invalid is None else ~invalid
                self.held[plane] = seen = Seen(x, np.empty_like(x), valid)
                for tile in restorer.grid(x.shape):
                    batches[id(group), tile.shape].append((seen, tile))
            self.held.move_to_end(plane)
        while len(self.held) > most:
            self.held.popitem(last=False)

        def pilot(task: tuple[ChannelGroup, list[tuple[Seen, tiles.Tile]]]) -> None:
            group, places = task
            levels = _levels(group, places[0][0].x.shape)
            x = np.stack([tile.pad(seen.x[tile.read]) for seen, tile in places])
            each_pixel = None
            if levels is not None:
                each_pixel = np.stack([tile.pad(levels[tile.read]) for _, tile in places])
            answers = restorer.pilot(x, group.decided["sigma"], each_pixel)
            for (seen, tile), answer in zip(places, answers, strict=True):
                seen.pilot[tile.core] = tile.crop(answer)

        groups = {id(group): group for group in self.group_of.values()}
        restorer.runner.workers.each(
            pilot,
            (
                (groups[key], part)
                for (key, shape), places in batches.items()
                for part in tiles.chunks(places, restorer.runner.together(shape))
            ),
        )


def _capacity(size: int, reach: int) -> int:
    """How many planes of `size` px are held."""
    return max(HELD // size, 4 * reach + 1)


def most_held(planes: int, size: int, reach: int) -> int:
    """Bytes that neighbours take in an image of so many planes of `size` px."""
    return (min(planes, _capacity(size, reach)) * BYTES[0] + BYTES[1]) * size


def _levels(group: ChannelGroup, shape: tuple[int, ...]) -> np.ndarray | None:
    """Noise levels of a plane relative to the group's, (Y, X) float32, if they differ."""
    if "log_levels" not in group.decided:
        return None
    return np.asarray(np.exp(level_map.at(group.decided, 0, 0, (shape[0], shape[1]))))


def describe(outcome: Outcome, groups: list[ChannelGroup], near: Neighbours) -> None:
    """Add what each channel took from neighbours to the outcome."""
    told: dict[str, Any] = {}
    for group in groups:
        if group.context is None:
            continue
        (channel,) = group.channels
        found = group.context.describe()
        if near.weights[channel]:
            found["mean_weight"] = round(float(np.mean(near.weights[channel])), 3)
        told.setdefault(str(channel), []).append(found)
    if told:
        outcome.details["context"] = {c: v[0] if len(v) == 1 else v for c, v in told.items()}
