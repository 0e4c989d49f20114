"""Networks that a method trains on the images themselves, before it restores them.

For each image, or once for all images of the run, also those of other shards.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from restorectl.batch import plan
from restorectl.batch.inputs import Pair
from restorectl.batch.outcome import Outcome
from restorectl.engine.direct import CODE_DRAW
from restorectl.engine.noise_field import NoiseField, Site
from restorectl.errors import InputError, RestorectlError, UsageError
from restorectl.images.blocks import spread
from restorectl.images.header import Plane
from restorectl.images.image import Image, open_image
from restorectl.jobs import DenoiseJob
from restorectl.restoration import channels, cleaned
from restorectl.restoration.channels import ChannelGroup
from restorectl.restoration.restorer import Restorer
from restorectl.training import own
from restorectl.training import recipe as recipes
from restorectl.training.own import Sample, untrained
from restorectl.training.pairs import matched
from restorectl.training.recipe import Recipe
from restorectl.weights.file import Weights

__all__ = ["Fitting", "make", "untrained"]
BYTES = 4  # of a pixel


@dataclass
class Fitting:
    """Trains the network of a method and gives it to the restorer."""

    job: DenoiseJob
    recipe: Recipe
    together: Sequence[Pair] = ()  # images of the one network for all; none: each has its own
    shared: list[Weights | None] = field(default_factory=list)  # that network, once it is trained
    lock: Lock = field(default_factory=Lock)

    def parameters(self) -> dict[str, Any]:
        """What the network depends on besides the image, for the provenance of the outputs."""
        plain = recipes.plain(self.recipe)
        del plain["optimiser"]["minutes"]
        found = {"recipe": plain, "fit_on": self.job.training.fit_on}
        if self.together:
            hashes = sorted(str(plan.hashes(pair)) for pair in self.together)
            found["images"] = hashlib.sha256(repr(hashes).encode()).hexdigest()
        return found

    def trained(
        self,
        restorer: Restorer,
        image: Image,
        groups: Sequence[ChannelGroup],
        guide: Image | None,
        outcome: Outcome,
    ) -> Restorer:
        """The restorer with a network trained on the image, or on all images of the run.

        Tells of the training in the outcome.
        """
        start, weights = time.monotonic(), None
        if not self.together:
            weights = self._fit(self._samples(image, groups, guide, self._room()), groups)
        else:
            with self.lock:  # files are restored side by side
                if not self.shared:
                    self.shared.append(self._fit(self._of_all(restorer, outcome), groups))
            (weights,) = self.shared
        if weights is None:
            outcome.details["training"] = {"steps": 0}
            return restorer
        training = weights.card.training
        told = {"steps": training["steps"], "planes": training["planes"], "sha256": weights.sha256}
        if self.recipe.objective == "n2v":
            told["mask"] = training["recipe"]["blind"]["mask"]
        outcome.details["training"] = told
        outcome.details["training_seconds"] = round(time.monotonic() - start, 2)
        runner = restorer.runner.using(weights.card, weights.tensors)
        return replace(restorer, card=weights.card, runner=runner)

    def _fit(self, samples: Sequence[Sample], groups: Sequence[ChannelGroup]) -> Weights | None:
        """The network; None if there is nothing to learn from, so nothing to restore."""
        compute, cache, enough = self.job.compute, self.job.training.cache, 0.0
        if not samples:
            return None
        if self.recipe.objective == "dip" and not any(
            noise.correlated for group in groups for noise in group.model.noises
        ):  # the noise is as far from the image as from what made it (discrepancy principle)
            enough = float(np.mean([group.model.level for group in groups])) ** 2
        kept = None if cache is None else Path(cache)
        recipe = own.suited(self.recipe, samples)
        return own.fit(samples, recipe, compute.device, compute.precision, kept, enough)

    def _room(self) -> int:
        """Pixels of all planes that the network may learn from."""
        each = BYTES if self.recipe.objective == "n2v" else 2 * BYTES
        return (self.recipe.data.cache_mb << 20) // each

    def _of_all(self, restorer: Restorer, outcome: Outcome) -> list[Sample]:
        """Planes of all images; a bad one is left out with a warning and fails in its own turn."""
        found: list[Sample] = []
        pairs = [one for pair in self.together for one in pair.each()]
        job, share = self.job, self._room() // len(pairs)
        for pair in pairs:
            try:
                with open_image(pair.source, axes=job.files.axes, series=job.files.series) as image:
                    chosen = image.header.chosen(job.files.channels, pair.source)
                    near, _ = cleaned.cleaned(image, chosen, job.noise, restorer.camera)
                    groups = channels.fit_groups(near, chosen, restorer)
                    if pair.guide is None:
                        found += self._samples(near, groups, None, share)
                    else:
                        with open_image(pair.guide) as guide:
                            found += self._samples(near, groups, guide, share)
            except RestorectlError as error:
                outcome.warnings.append(f"not used for training: {error}")
        return found

    def _samples(
        self,
        image: Image,
        groups: Sequence[ChannelGroup],
        guide: Image | None,
        room: int,
    ) -> list[Sample]:
        """Up to `room` pixels of whitened planes of an image, evenly spread; at least one plane."""
        header, group_of = image.header, channels.by_plane(image.header, groups)
        planes = [plane for plane in header.planes if plane in group_of]
        if not planes:
            return []
        most = max(1, room // (header.canonical_shape[3] * header.canonical_shape[4]))
        chosen = [planes[k] for k in spread(len(planes), min(most, len(planes)))]
        found = []
        for plane in chosen:
            group = group_of[plane]
            x = group.model.forward(image.read(plane).astype(np.float32)[None])[0]
            partner = None
            if self.recipe.objective == "dip":
                field = NoiseField(self.job.compute.seed)
                partner = field.draw([Site(plane, 0, 0)], x.shape, CODE_DRAW).numpy()[0, 0]
            elif self.recipe.objective == "noise2noise":
                partner = self._other(image, plane, group, guide)
            found.append(Sample(x, partner))
        return found

    def _other(
        self, image: Image, plane: Plane, group: ChannelGroup, guide: Image | None
    ) -> np.ndarray:
        """Another exposure of a plane, whitened like it: of `guide`, or the neighbour in t or z."""
        pixels = image.read(plane).astype(np.float32)
        if guide is not None:
            other = guide.read(plane).astype(np.float32)
            gain, offset = matched(other, pixels).scale
            return np.asarray(group.model.forward((other * gain + offset)[None])[0])
        neighbour = next(_neighbours(image, plane), None)
        if neighbour is None:
            raise InputError(
                f"{image.path}: noise2noise needs a second exposure or another frame: name the"
                " folder of second exposures with `guide`, or use `method` n2v"
            )
        return np.asarray(group.model.forward(image.read(neighbour).astype(np.float32)[None])[0])


def _neighbours(image: Image, plane: Plane) -> Iterator[Plane]:
    """The planes before and after this one in t or, if there is one time only, in z."""
    (t, c, z), (times, _, depth, *_) = plane, image.header.canonical_shape
    moves = ((t + 1, c, z), (t - 1, c, z)) if times > 1 else ((t, c, z + 1), (t, c, z - 1))
    return (each for each in moves if 0 <= each[0] < times and 0 <= each[2] < depth)


def make(job: DenoiseJob, name: str) -> Fitting:
    """The training that a job asks for, by the packaged recipe `name`. Raises UsageError."""
    wanted, recipe = job.training, replace(recipes.load(name), seed=job.compute.seed)
    if job.files.probe:
        raise UsageError(f"`probe` has no effect with `method` {job.method}, which trains first")
    if wanted.mask != "auto" and recipe.objective != "n2v":
        raise UsageError(f"`mask` has no effect with `method` {job.method}: leave it out")
    if wanted.fit_on == "folder" and recipe.objective == "dip":
        raise UsageError("`fit_on` folder has no effect with `method` dip: it makes single images")
    overrides = [f"blind.mask={wanted.mask}"]
    if wanted.minutes is not None:
        overrides.append(f"optimiser.minutes={wanted.minutes}")
    if wanted.train_steps is not None:
        warmup = max(2, min(recipe.optimiser.warmup, wanted.train_steps // 4))
        overrides += [f"optimiser.steps={wanted.train_steps}", f"optimiser.warmup={warmup}"]
    return Fitting(job, replace(recipes.load(name, overrides), seed=job.compute.seed))
