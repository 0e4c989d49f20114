"""Noise model, value range and noise level of each channel, from a sample of its pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from restorectl.batch.outcome import Outcome
from restorectl.engine.card import Card
from restorectl.engine.samplers import Decided
from restorectl.errors import InputError
from restorectl.images import tiles
from restorectl.images.blocks import sampled, sampled_pixels, spread
from restorectl.images.image import Image
from restorectl.intensity import value_range, whitening
from restorectl.jobs import NoiseOptions
from restorectl.restoration import evidence, level_map
from restorectl.restoration.restorer import Batch, Restorer

PILOT = 256  # px, side of a sampled tile
PILOTS = 4  # sampled tiles from which a method decides


class Model(Protocol):
    """Converts a group of channels between input units and network units."""

    @property
    def sigma(self) -> float:
        """Noise level in network units; 0 if there is no noise to remove."""

    def forward(self, planes: np.ndarray) -> np.ndarray:
        """(C, Y, X) float32 in input units -> (C_net, Y, X) float32 for the network."""

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """(C_net, Y, X) -> (C, Y, X) float32 in input units."""

    def noise_std(self, planes: np.ndarray) -> np.ndarray:
        """Clean signal (C, Y, X) -> standard deviation of its noise, float32 in input units."""

    def describe(self) -> dict[str, Any]:
        """The fitted parameters, as JSON values."""

    def warnings(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are restored together, with the parameters that all their tiles share."""

    channels: tuple[int, ...]
    model: Model
    scale: np.ndarray  # (2, C) float32, input values that map to 0 and 255 in 8 bit
    decided: Decided


def fit(image: Image, channel: int, noise: NoiseOptions) -> whitening.Intensity:
    """Fit the intensity model of one channel to blocks spread over its planes."""
    try:
        return whitening.fit(
            sampled_pixels(image, channel),
            noise=noise.kind,
            gain=noise.gain,
            offset=noise.offset,
            read_noise=noise.read_noise,
        )
    except InputError as error:
        raise InputError(f"{image.path}: channel {channel}: {error}") from error


@dataclass(frozen=True)
class Whitened:
    """Each channel with its own intensity model; the highest noise level counts."""

    models: tuple[whitening.Intensity, ...]

    @property
    def sigma(self) -> float:
        return max(model.sigma for model in self.models)

    def forward(self, planes: np.ndarray) -> np.ndarray:
        return np.stack([m.forward(p) for m, p in zip(self.models, planes, strict=True)])

    def inverse(self, x: np.ndarray) -> np.ndarray:
        return np.stack([m.inverse(p) for m, p in zip(self.models, x, strict=True)])

    def noise_std(self, planes: np.ndarray) -> np.ndarray:
        return np.stack([m.noise_std(p) for m, p in zip(self.models, planes, strict=True)])

    def describe(self) -> dict[str, Any]:
        each = [model.describe() for model in self.models]
        return each[0] if len(each) == 1 else {"joint": each}

    def warnings(self) -> tuple[str, ...]:
        return tuple(text for model in self.models for text in model.noise.warnings)


@dataclass(frozen=True)
class Ranged:
    """The fixed value range and channel recipe of a network; the noise is not whitened."""

    card: Card
    sigma: float

    def forward(self, planes: np.ndarray) -> np.ndarray:
        return value_range.forward(planes, self.card.value_range, self.card.recipe)

    def inverse(self, x: np.ndarray) -> np.ndarray:
        return value_range.inverse(x, self.card.value_range, self.card.recipe)

    def noise_std(self, planes: np.ndarray) -> np.ndarray:
        grey = self.sigma / value_range.slope(self.card.value_range)
        return np.full(planes.shape, grey, np.float32)

    def describe(self) -> dict[str, Any]:
        return {"value_range": self.card.value_range, "sigma": self.sigma}

    def warnings(self) -> tuple[str, ...]:
        return ()


def fit_groups(image: Image, chosen: Sequence[int], restorer: Restorer) -> list[ChannelGroup]:
    """Group the channels; fit each group's model and decide its noise level on sampled tiles.

    Raises InputError if the number of channels does not fit weights for several channels.
    """
    together = restorer.card.channels
    if together > 1 and len(chosen) != together:
        raise InputError(
            f"{image.path}: these weights restore {together} channels jointly, the image has"
            f" {len(chosen)}: choose them with `channels`"
        )
    groups = []
    for part in tiles.chunks(chosen, together):
        members = tuple(part)
        model = _model(image, members, restorer)
        pilot = sampled_tiles(image, members, model, restorer)
        decided = restorer.decide(pilot)
        decided |= _level_map(image, members, model, restorer)
        groups.append(ChannelGroup(members, model, pilot.scale, decided))
    return groups


def _model(image: Image, members: Sequence[int], restorer: Restorer) -> Model:
    noise, card = restorer.job.noise, restorer.card
    if card.value_range == "whitened":
        fitted = tuple(fit(image, c, noise) for c in members)
        if card.channels > 1:
            return Whitened(fitted)
        blocks = sampled_pixels(image, members[0])
        return Whitened((evidence.believed(fitted[0], blocks, noise, restorer.runner.clean),))
    if noise.kind == "none":
        return Ranged(card, 0.0)
    gaussian = replace(noise, kind="gaussian")
    levels = [fit(image, c, gaussian).noise for c in members]
    scale = value_range.slope(card.value_range)
    return Ranged(card, max(m.read_noise * m.level for m in levels) * scale)


def sampled_tiles(image: Image, members: Sequence[int], model: Model, restorer: Restorer) -> Batch:
    """Up to PILOTS tiles of equal size, from the middle of sampled blocks."""
    blocks = sampled(image.header.canonical_shape, members[0])
    picked = [blocks[i] for i in spread(len(blocks), min(PILOTS, len(blocks)))]
    measured, sites = [], []
    for (t, first, z), rows, cols in picked:
        top, height = _middle(rows)
        left, width = _middle(cols)
        area = slice(top, top + height), slice(left, left + width)
        tile = restorer.grid((height, width), PILOT, 0)[0]
        planes = [image.read((t, c, z), *area).astype(np.float32) for c in members]
        measured.append(np.stack([tile.pad(plane[tile.read]) for plane in planes]))
        sites.append(((t, first, z), top, left))
    return Batch(
        np.stack([model.forward(raw) for raw in measured]),  # (B, C_net, H, W) float32
        np.full(len(measured), model.sigma, np.float32),
        sites,
        model.inverse,
        np.stack(measured),
        model.noise_std,
        _scale(image.header.dtype, model, restorer.card, len(members)),
    )


def _middle(span: slice) -> tuple[int, int]:
    """(start, length) of at most PILOT px in the middle of a range."""
    length = min(span.stop - span.start, PILOT)
    return span.start + (span.stop - span.start - length) // 2, length


def _scale(dtype: np.dtype[Any], model: Model, card: Card, channels: int) -> np.ndarray:
    """Input values that map to 0 and 255 in 8 bit, for each channel: (2, C) float32.

    0 and 255 for 8-bit images, else the ends of the network's range.
    """
    if dtype == np.uint8:
        return np.array([[0.0], [255.0]], np.float32).repeat(channels, 1)
    ends = [
        np.full((value_range.network_channels(card.recipe, channels), 1, 1), e) for e in (-1.0, 1.0)
    ]
    return np.stack([model.inverse(end)[:, 0, 0] for end in ends])


def _level_map(image: Image, members: Sequence[int], model: Model, restorer: Restorer) -> Decided:
    """Entries of `Decided` with a map of the noise level; empty if one level fits the planes."""
    if restorer.level == "image" or not isinstance(model, Whitened) or len(members) > 1:
        return {}
    (intensity,) = model.models
    sure = restorer.level == "auto"
    if intensity.sigma <= 0 or (sure and not intensity.noise.uneven):
        return {}
    times, _, depth, *_ = image.header.canonical_shape
    plane = image.read((times // 2, members[0], depth // 2)).astype(np.float32)
    return level_map.measured(plane, intensity, restorer.runner.clean, sure=sure)


def describe(outcome: Outcome, groups: Sequence[ChannelGroup], sigma_max: float) -> None:
    """Add the models, decisions and warnings to the outcome."""
    noise, decided = {}, {}
    for group in groups:
        name = "+".join(map(str, group.channels))
        noise[name] = group.model.describe()
        decided[name] = group.decided
        where = f"channel {name}: " if len(groups) > 1 else ""
        outcome.warnings += [where + text for text in group.model.warnings()]
        if group.decided["sigma"] > sigma_max:
            outcome.warnings.append(
                f"{where}noise level {group.decided['sigma']:.2f} is above the weights'"
                f" training range (up to {sigma_max:.2f}): some noise will remain"
            )
    outcome.details["noise"], outcome.details["method"] = noise, decided
