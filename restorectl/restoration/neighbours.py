"""The planes around those that are restored, each read, whitened and given a pilot once.

A sliding set of planes is held. Which planes help a plane depends on the file alone, so results do
not depend on how many planes are processed together, nor on which ones.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from restorectl.batch.outcome import Outcome
from restorectl.engine.runner import tiles_together
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

    def fused(self, plane: Plane) -> Fused | None:
        """A plane averaged with its neighbours, its level relative to the group's.

        None if its channel does not use neighbours.
        """
        group, shape = self.group_of[plane], self.image.header.canonical_shape
        context = group.context
        if context is None or not context.axes:
            return None
        near = [p for p in context.around(plane, shape) if self.group_of.get(p) is group]
        seen = [self._seen(each, group) for each in (plane, *near)]
        others = [each for each in seen[1:] if varied(each.x)]
        levels = _levels(group, shape[3:])
        fused = context.fuse(seen[0], others, 1.0 if levels is None else levels**2)
        self.weights[plane[1]].append(fused.weight)
        return fused if levels is None else Fused(fused.x, fused.level * levels, fused.weight)

    def _seen(self, plane: Plane, group: ChannelGroup) -> Seen:
        """A plane with its pilot; the least recently used ones are forgotten."""
        if plane not in self.held:
            pixels = self.image.read(plane).astype(np.float32)[None]
            x, invalid = group.model.forward(pixels)[0], self.image.invalid(plane)
            valid = None if invalid is None else ~invalid
            self.held[plane] = Seen(x, self._pilot(x, group), valid)
            while len(self.held) > _capacity(x.size, self.restorer.job.reach):
                self.held.popitem(last=False)
        self.held.move_to_end(plane)
        return self.held[plane]

    def _pilot(self, x: np.ndarray, group: ChannelGroup) -> np.ndarray:
        """The plane (Y, X) restored in one call for each tile."""
        restorer, pilot = self.restorer, np.empty_like(x)
        levels = _levels(group, x.shape)
        batches: dict[Any, list[tiles.Tile]] = defaultdict(list)
        for tile in restorer.grid(x.shape):
            batches[tile.shape].append(tile)
        for shape, same in batches.items():
            for part in tiles.chunks(same, tiles_together(restorer.job.compute, shape)):
                answers = restorer.pilot(
                    np.stack([tile.pad(x[tile.read]) for tile in part]),
                    group.decided["sigma"],
                    None
                    if levels is None
                    else np.stack([tile.pad(levels[tile.read]) for tile in part]),
                )
                for tile, answer in zip(part, answers, strict=True):
                    pilot[tile.core] = tile.crop(answer)
        return pilot


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
