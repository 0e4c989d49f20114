"""Noise model, value range and noise level of each channel, from a sample of its pixels.

The planes of a channel share them unless their noise differs.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from restorectl.batch.outcome import Outcome
from restorectl.engine.card import Card
from restorectl.engine.runner import Runner
from restorectl.engine.samplers import Decided
from restorectl.errors import InputError
from restorectl.images.blocks import Planes, middle, sampled, sampled_pixels, spread, varies
from restorectl.images.header import Header, Plane
from restorectl.images.image import Image
from restorectl.intensity import value_range, whitening
from restorectl.intensity.noise import NoiseModel
from restorectl.jobs import NoiseOptions
from restorectl.restoration import context, evidence, level_map, plane_noise
from restorectl.restoration.context import Context
from restorectl.restoration.restorer import Batch, Restorer

PILOT = 256  # px, side of a sampled tile
DARK = 1.0  # percentile of the sample at which noise is compared with a grey level
NEAR = 16.0  # grey levels
FINE = 1.0  # grey levels: output with weaker noise is dithered
PILOTS = 4  # sampled tiles from which a method decides


class Model(Protocol):
    """Converts a group of channels between input units and network units."""

    @property
    def sigma(self) -> float:
        """Noise level in network units; 0 if there is no noise to remove."""

    @property
    def level(self) -> float:
        """The same without the margin that a denoiser is told."""

    @property
    def noises(self) -> tuple[NoiseModel, ...]:
        """The noise fitted to each channel."""

    def unit(self, signal: np.ndarray) -> float:
        """Input units per network unit at a signal (C,) in input units; the largest channel's."""

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
    light: np.ndarray  # (2, C, 1, 1) float32: input value without light, input units of a photon
    decided: Decided
    planes: Planes = None
    noise: float = 0.0  # its standard deviation at the sample's median, in input units
    dithered: bool = False  # in place of rounded, if the output has whole numbers
    floor: float | None = None  # the smallest value of the output, if the image is near it
    context: Context | None = None  # how planes use their neighbours, if there may be any


def by_plane(header: Header, groups: Iterable[ChannelGroup]) -> dict[Plane, ChannelGroup]:
    """The group of each plane; planes of other channels are missing."""
    return {
        (t, c, z): group
        for group in groups
        for c in group.channels
        for t, z in group.planes or _all_planes(header)
    }


def _all_planes(header: Header) -> Iterator[tuple[int, int]]:
    times, _, depth, *_ = header.canonical_shape
    return itertools.product(range(times), range(depth))


def fit(
    image: Image, channel: int, noise: NoiseOptions, planes: Planes = None
) -> whitening.Intensity:
    """Fit the intensity model of one channel to blocks spread over its planes."""
    try:
        return whitening.fit(
            sampled_pixels(image, channel, planes),
            noise=noise.kind,
            gain=noise.gain,
            offset=None if noise.offset is None else noise.offset - image.zero(channel),
            read_noise=noise.read_noise,
        )
    except InputError as error:
        raise InputError(f"{image.path}: channel {channel}: {error}") from error


def fit_alike(
    image: Image, members: Sequence[int], noise: NoiseOptions, prior: Runner | None = None
) -> list[tuple[Planes, tuple[whitening.Intensity, ...]]]:
    """Fit the channels' models to all planes or, if their noise differs, to each group of planes.

    A plane's model then equals that of the same plane alone, if no other plane has its noise.
    prior: asked about the noise level of a single channel, see `evidence`.
    """
    pooled = tuple(fit(image, c, noise) for c in members)
    if None in (noise.gain, noise.offset, noise.read_noise):
        numbers = [plane_noise.alike(image, c, m) for c, m in zip(members, pooled, strict=True)]
        parts = _parts(image, *numbers)
    else:
        parts = [None]
    found: list[tuple[Planes, tuple[whitening.Intensity, ...]]] = []
    for part in parts:
        models = pooled if part is None else tuple(fit(image, c, noise, part) for c in members)
        if prior is None:
            found.append((part, models))
        else:
            found += _believed(image, members[0], part, models[0], noise, prior)
    return found


def _parts(image: Image, *numbers: np.ndarray) -> list[Planes]:
    """Planes (t, z) that have the same numbers, each (T, Z) int; None for all planes."""
    groups: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
    for place in _all_planes(image.header):
        groups[tuple(int(number[place]) for number in numbers)].append(place)
    return [None] if len(groups) == 1 else [frozenset(places) for places in groups.values()]


def _believed(
    image: Image,
    channel: int,
    planes: Planes,
    model: whitening.Intensity,
    noise: NoiseOptions,
    prior: Runner,
) -> list[tuple[Planes, tuple[whitening.Intensity]]]:
    """The model of some planes with a noise level that the prior agrees with.

    Texture can hide that planes differ in their noise. So if it was taken for noise, the prior is
    asked about each plane, and planes that differ are fitted apart.
    """
    told = evidence.believed(model, sampled_pixels(image, channel, planes), noise, prior.clean)
    places = sorted(planes or _all_planes(image.header))
    if len(places) == 1 or told.noise.belief == model.noise.belief:
        return [(planes, (told,))]
    levels = np.full(image.header.canonical_shape[:3:2], np.nan)
    for t, z in places:
        blocks = sampled_pixels(image, channel, frozenset({(t, z)}))
        levels[t, z] = evidence.white_level(told, blocks, prior.clean)
    parts = _parts(image, plane_noise.grouped(np.log(levels), evidence.SCATTER))
    if parts == [None]:
        return [(planes, (told,))]
    found: list[tuple[Planes, tuple[whitening.Intensity]]] = []
    for part in parts:
        if here := frozenset(places) & (part or frozenset()):
            blocks = sampled_pixels(image, channel, here)
            alone = fit(image, channel, noise, here)
            found.append((here, (evidence.believed(alone, blocks, noise, prior.clean),)))
    return found


@dataclass(frozen=True)
class Whitened:
    """Each channel with its own intensity model; the highest noise level counts."""

    models: tuple[whitening.Intensity, ...]
    zeros: tuple[float, ...]  # see `Image.zero`

    @property
    def sigma(self) -> float:
        return max(model.sigma for model in self.models)

    @property
    def level(self) -> float:
        return max(m.noise.level * 2 / (m.high - m.low) for m in self.models)

    @property
    def noises(self) -> tuple[NoiseModel, ...]:
        return tuple(model.noise for model in self.models)

    def unit(self, signal: np.ndarray) -> float:
        pairs = zip(self.models, signal.tolist(), strict=True)
        return max((m.high - m.low) / 2 * _whitened_unit(m.noise, value) for m, value in pairs)

    def forward(self, planes: np.ndarray) -> np.ndarray:
        return np.stack([m.forward(p) for m, p in zip(self.models, planes, strict=True)])

    def inverse(self, x: np.ndarray) -> np.ndarray:
        return np.stack([m.inverse(p) for m, p in zip(self.models, x, strict=True)])

    def noise_std(self, planes: np.ndarray) -> np.ndarray:
        return np.stack([m.noise_std(p) for m, p in zip(self.models, planes, strict=True)])

    def describe(self) -> dict[str, Any]:
        each = [model.describe() for model in self.models]
        for described, zero in zip(each, self.zeros, strict=True):
            described["noise"]["offset"] += zero
        return each[0] if len(each) == 1 else {"joint": each}

    def warnings(self) -> tuple[str, ...]:
        return tuple(text for model in self.models for text in model.noise.warnings)


def _whitened_unit(model: NoiseModel, signal: float) -> float:
    """Input units per whitened unit."""
    if model.kind == "none":
        return 1.0
    return float(np.sqrt(model.gain * max(signal - model.offset, 0.0) + model.read_noise**2))


@dataclass(frozen=True)
class Ranged:
    """The fixed value range and channel recipe of a network; the noise is not whitened."""

    card: Card
    noises: tuple[NoiseModel, ...]

    @property
    def sigma(self) -> float:
        levels = (m.read_noise * m.level for m in self.noises if m.kind != "none")
        return max(levels, default=0.0) * value_range.slope(self.card.value_range)

    @property
    def level(self) -> float:
        return self.sigma

    def unit(self, signal: np.ndarray) -> float:
        return 1 / value_range.slope(self.card.value_range)

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


def require_joint(image: Image, chosen: Sequence[int], count: int) -> None:
    """Raises InputError unless weights for `count` channels together fit the chosen ones."""
    if count > 1 and len(chosen) != count:
        raise InputError(
            f"{image.path}: these weights are for {count} channels together, the image has"
            f" {len(chosen)}: choose them with `channels`"
        )


def together(image: Image, chosen: Sequence[int], card: Card) -> list[tuple[int, ...]]:
    """The channels that a network sees at once.

    Channels that are constant are left out, unless they are seen together with others. Raises
    InputError if the channels do not fit weights for several channels.
    """
    require_joint(image, chosen, card.channels)
    count, varied = card.channels, [c for c in chosen if varies(image, c)]
    if count == 1:
        return [(c,) for c in varied]
    if card.value_range == "whitened" and 0 < len(varied) < count:
        constant = next(c for c in chosen if c not in varied)
        raise InputError(
            f"{image.path}: channel {constant} is constant, so it has no noise model, and these"
            " weights need one for each channel: use weights for single channels"
        )
    return [tuple(chosen)] if varied else []


def fit_models(
    image: Image, members: tuple[int, ...], card: Card, noise: NoiseOptions, prior: Runner | None
) -> list[tuple[Planes, Model]]:
    """The model of channels in the units of a network: of all planes, or of each group of planes.

    prior: asked about the noise level of a single whitened channel, see `evidence`.
    """
    if card.value_range != "whitened":
        gaussian = noise if noise.kind == "none" else replace(noise, kind="gaussian")
        if noise.camera is not None or noise.variance_map is not None:
            gaussian = replace(gaussian, read_noise=None)  # that in the dark is not all
        noises = (fit(image, c, gaussian).noise for c in members if varies(image, c))
        return [(None, Ranged(card, tuple(noises)))]
    fitted = fit_alike(image, members, noise, prior if len(members) == 1 else None)
    zeros = tuple(map(image.zero, members))
    return [(planes, Whitened(models, zeros)) for planes, models in fitted]


def fit_groups(image: Image, chosen: Sequence[int], restorer: Restorer) -> list[ChannelGroup]:
    """Group channels and planes; fit each group's model, decide its noise level on sampled tiles.

    Raises InputError as `together` does.
    """
    card, groups = restorer.card, []
    prior = restorer.runner if card.task == "prior" and not card.window else None
    for members in together(image, chosen, card):
        fitted = fit_models(image, members, card, restorer.job.noise, prior)
        found = [_group(image, members, planes, model, restorer) for planes, model in fitted]
        scales = np.stack([group.scale for group in found])
        scale = np.stack([scales[:, 0].min(0), scales[:, 1].max(0)])  # one for all planes
        groups += [replace(group, scale=scale) for group in found]
    return groups


def _group(
    image: Image,
    members: tuple[int, ...],
    planes: Planes,
    model: Model,
    restorer: Restorer,
) -> ChannelGroup:
    """Decide on sampled tiles what the tiles of these channels and planes share."""
    pilot = sampled_tiles(image, members, planes, model, restorer)
    decided = restorer.decide(pilot)
    decided |= _level_map(image, members, planes, model, restorer)
    typical = np.median(pilot.measured, axis=(0, 2, 3))[:, None, None]
    deviation = float(model.noise_std(typical).max())
    dithered, floor = _dithered(restorer.dtype(image.header), model, pilot, decided)
    near = None
    if restorer.context != "none" and isinstance(model, Whitened) and not image.header.is_large:
        (alone,) = model.models  # such weights restore channels one by one
        near = context.decide(image, members[0], planes, alone, decided["sigma"], restorer)
    return ChannelGroup(
        members, model, pilot.scale, pilot.light, decided, planes, deviation, dithered, floor, near
    )


def _dithered(
    dtype: np.dtype[Any], model: Model, pilot: Batch, decided: Decided
) -> tuple[bool, float | None]:
    """Whether the output is dithered, and its smallest value if the image is near it.

    Restored values are finer than one grey level if the noise is weaker than that in the dark: of a
    camera with a small gain, or of photon counts up to about 4. Less than a grey level of light is
    allowed for, since the read noise of a camera is often estimated as 0.
    """
    if dtype.kind == "f" or decided["sigma"] <= 0:
        return False, None
    dark = np.percentile(pilot.measured, DARK, axis=(0, 2, 3))[:, None, None]
    light = dark
    if isinstance(model, Whitened):
        offsets = [each.noise.offset for each in model.models]
        light = np.maximum(dark, np.array(offsets)[:, None, None]) + 0.9
    if model.noise_std(light).min() >= FINE:
        return False, None
    lowest = float(np.iinfo(dtype).min)
    return True, lowest if dark.min() - lowest < NEAR else None


def sampled_tiles(
    image: Image, members: Sequence[int], planes: Planes, model: Model, restorer: Restorer
) -> Batch:
    """Up to PILOTS tiles of equal size, from the middle of sampled blocks."""
    blocks = sampled(image.header.canonical_shape, members[0], planes)
    picked = [blocks[i] for i in spread(len(blocks), min(PILOTS, len(blocks)))]
    measured, sites = [], []
    for (t, first, z), rows, cols in picked:
        area = middle(rows, PILOT), middle(cols, PILOT)
        tile = restorer.grid(
            (area[0].stop - area[0].start, area[1].stop - area[1].start), PILOT, 0
        )[0]
        pixels = [image.read((t, c, z), *area).astype(np.float32) for c in members]
        measured.append(np.stack([tile.pad(each[tile.read]) for each in pixels]))
        sites.append(((t, first, z), area[0].start, area[1].start))
    scale = _scale(image.header.dtype, model, restorer.card, len(members))
    return Batch(
        np.stack([model.forward(raw) for raw in measured]),  # (B, C_net, H, W) float32
        np.full(len(measured), model.sigma, np.float32),
        sites,
        model.inverse,
        np.stack(measured),
        model.noise_std,
        scale,
        _light(model, scale),
    )


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


def _light(model: Model, scale: np.ndarray) -> np.ndarray:
    """Input values without light, and input units of one photon, for each channel: (2, C, 1, 1).

    Noise that does not depend on the light tells neither: then they are the lower end of the scale
    (2, C), and 0.
    """
    found = np.stack([scale[0], np.zeros_like(scale[0])])
    for k, noise in enumerate(model.noises):
        if noise.gain > 0:
            found[:, k] = noise.offset, noise.gain
    return np.asarray(found[..., None, None])


def _level_map(
    image: Image, members: Sequence[int], planes: Planes, model: Model, restorer: Restorer
) -> Decided:
    """Entries of `Decided` with a map of the noise level; empty if one level fits the planes."""
    if restorer.level == "image" or not isinstance(model, Whitened) or len(members) > 1:
        return {}
    (intensity,) = model.models
    sure = restorer.level == "auto"
    if intensity.sigma <= 0 or (sure and not intensity.noise.uneven):
        return {}
    places = sorted(planes or _all_planes(image.header))
    t, z = places[len(places) // 2]

    def read(rows: slice, cols: slice) -> np.ndarray:
        return image.read((t, members[0], z), rows, cols).astype(np.float32)

    size = image.header.canonical_shape[3:]
    return level_map.measured(read, size, intensity, restorer.runner.clean, sure=sure)


def describe(
    outcome: Outcome, header: Header, groups: Sequence[ChannelGroup], sigma_max: float
) -> None:
    """Add the models, decisions and warnings to the outcome.

    Where the noise differs between planes, both are told for each group of planes, and the first
    of several alike warnings stands for all.
    """
    noise: dict[str, Any] = {}
    decided: dict[str, Any] = {}
    together: dict[str, list[ChannelGroup]] = defaultdict(list)
    for group in groups:
        together["+".join(map(str, group.channels))].append(group)
    for name, parts in together.items():
        where = f"channel {name}: " if len(together) > 1 else ""
        if len(parts) == 1:
            noise[name], decided[name] = parts[0].model.describe(), parts[0].decided
            outcome.warnings += [where + text for text in _warnings(parts[0], sigma_max)]
            continue
        shown = [(planes_text(header, part.planes), part) for part in parts]
        models = [{"planes": planes, **part.model.describe()} for planes, part in shown]
        noise[name] = {"groups": models}
        decided[name] = {"groups": [{"planes": planes, **part.decided} for planes, part in shown]}
        told: dict[str, str] = {}
        for planes, part in shown:
            for text in _warnings(part, sigma_max):
                told.setdefault(re.sub(r"[\d.]+", "", text), f"{where}{planes}: {text}")
        outcome.warnings += [where + differing([part.noise for part in parts]), *told.values()]
    outcome.details["noise"], outcome.details["method"] = noise, decided


def _warnings(group: ChannelGroup, sigma_max: float) -> list[str]:
    texts = list(group.model.warnings())
    if group.dithered:
        texts.append(
            "values are finer than one grey level: dithered; `dtype` float32 writes them unrounded"
        )
    if (sigma := group.decided["sigma"]) > sigma_max:
        texts.append(
            f"noise level {sigma:.2f} is above the weights' training range (up to"
            f" {sigma_max:.2f}): some noise will remain"
        )
    return texts


def differing(noise: Sequence[float]) -> str:
    """The warning that groups of planes have different noise; its standard deviations."""
    low, high = min(noise), max(noise)
    return (
        f"noise differs between planes (sigma {low:.3g} to {high:.3g}): each is restored with its"
        " own"
    )


def planes_text(header: Header, planes: Planes) -> str:
    """Planes in words, such as `z 0-3, 7` or `t 0-11 z 5`."""
    times, _, depth, *_ = header.canonical_shape
    of_time: dict[int, list[int]] = defaultdict(list)
    for t, z in sorted(planes or _all_planes(header)):
        of_time[t].append(z)
    alike: dict[str, list[int]] = defaultdict(list)  # times whose z are the same
    for t, depths in of_time.items():
        alike[f"z {_ranges(depths)}" if depth > 1 else ""].append(t)
    if times == 1:
        return next(iter(alike))
    return "; ".join(f"t {_ranges(ts)} {depths}".rstrip() for depths, ts in alike.items())


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as `0-3, 7`."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in runs)
