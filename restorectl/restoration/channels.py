"""What is decided once for each channel, on a sample of its pixels: noise, range, level."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from restorectl.batch.outcome import Outcome
from restorectl.engine.card import Card
from restorectl.errors import InputError
from restorectl.images import tiles
from restorectl.images.blocks import sampled, spread
from restorectl.images.header import Plane
from restorectl.images.image import Image
from restorectl.intensity import value_range, whitening
from restorectl.jobs import NoiseOptions
from restorectl.restoration import level_map

PILOT = 256  # px, side of a calibration window
PILOTS = 4  # windows that a method is prepared on


@dataclass(frozen=True)
class Batch:
    """Windows of one group of channels, in network units, and the way back."""

    x: np.ndarray  # (B, C_net, H, W) float32, about [-1, 1]
    sigma: np.ndarray  # (B,) float32, the model's noise level in the units of x
    sites: list[tuple[Plane, int, int]]  # first plane, row and column of each window
    inverse: Callable[[np.ndarray], np.ndarray]  # (C_net, Y, X) -> (C, Y, X) in input units
    measured: np.ndarray  # (B, C, H, W) float32, the windows in input units
    noise_std: Callable[[np.ndarray], np.ndarray]  # (C, Y, X) signal -> its noise, input units
    scale: np.ndarray  # (2, C) float32, input units that 8-bit maps call 0 and 255
    guide: np.ndarray | None = None  # (B, C_net, H, W) float32, another method's prediction


class Model(Protocol):
    """The map between the input units of some channels and the network's units."""

    @property
    def sigma(self) -> float:
        """Noise level in network units; 0 if nothing is to be removed."""

    def forward(self, planes: np.ndarray) -> np.ndarray:
        """(C, Y, X) float32 in input units -> (C_net, Y, X) float32 for the network."""

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """(C_net, Y, X) -> (C, Y, X) float32 in input units."""

    def noise_std(self, planes: np.ndarray) -> np.ndarray:
        """Standard deviation of the noise on a clean signal: (C, Y, X), input units, float32."""

    def describe(self) -> dict[str, Any]:
        """What was decided, as JSON values."""

    def warnings(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Group:
    """Channels that are restored together, and what all their windows share."""

    channels: tuple[int, ...]
    model: Model
    scale: np.ndarray  # (2, C) float32, input units that 8-bit maps call 0 and 255
    shared: dict[str, Any]  # what Method.prepare decided, as JSON values


class Method(Protocol):
    """A command's way with windows."""

    @property
    def products(self) -> int:
        """Images that one input becomes; the first is the restored image."""

    @property
    def calls_per_window(self) -> int | None:
        """Network calls; None where they are decided for each image."""

    @property
    def stride(self) -> int:
        """Window sizes are multiples of this."""

    @property
    def sigma_max(self) -> float:
        """The largest noise level it can be told, in network units."""

    @property
    def card(self) -> Card:
        """Says how many channels are restored jointly, and in which range."""

    def prepare(self, pilot: Batch) -> dict[str, Any]:
        """Decide, on sampled windows of one group, what all of its windows share.

        `sigma`, the level to start from, is always among it.
        """

    @property
    def gauge(self) -> Callable[[np.ndarray], float] | None:
        """Noise level of a single window (H, W); None: one level serves the whole image."""

    def __call__(self, batch: Batch, shared: dict[str, Any]) -> np.ndarray:
        """(B, products, C, H, W) float32 in input units; `shared` is what `prepare` decided."""

    def calls(self) -> int:
        """Network calls so far, counted in windows."""


def fit(image: Image, channel: int, noise: NoiseOptions) -> whitening.Intensity:
    """The intensity model of one channel, from blocks spread over its planes."""
    blocks = [
        image.read(plane, rows, cols).astype(np.float32)
        for plane, rows, cols in sampled(image.header.canonical_shape, channel)
    ]
    try:
        return whitening.fit(
            blocks,
            noise=noise.kind,
            gain=noise.gain,
            offset=noise.offset,
            read_noise=noise.read_noise,
        )
    except InputError as error:
        raise InputError(f"{image.path}: channel {channel}: {error}") from error


@dataclass(frozen=True)
class Whitened:
    """Each channel by its own intensity model; the level is the highest among them."""

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
    """The fixed range and channel recipe that a network was trained with; noise stays as it is."""

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


def prepare(
    image: Image, chosen: Sequence[int], noise: NoiseOptions, method: Method
) -> list[Group]:
    """The groups of channels, each with its model and what its windows share.

    Raises InputError where a joint model does not find its number of channels.
    """
    together = method.card.channels
    if together > 1 and len(chosen) != together:
        raise InputError(
            f"{image.path}: these weights restore {together} channels jointly, the image has"
            f" {len(chosen)}: choose them with --channels"
        )
    groups = []
    for part in tiles.chunks(chosen, together):
        members = tuple(part)
        model = _model(image, members, noise, method.card)
        sampled = pilot(image, members, model, method)
        shared = method.prepare(sampled)
        shared |= _level_map(image, members, model, method, shared["sigma"])
        groups.append(Group(members, model, sampled.scale, shared))
    return groups


def _model(image: Image, members: Sequence[int], noise: NoiseOptions, card: Card) -> Model:
    if card.value_range == "whitened":
        return Whitened(tuple(fit(image, c, noise) for c in members))
    if noise.kind == "none":
        return Ranged(card, 0.0)
    gaussian = replace(noise, kind="gaussian")
    levels = [fit(image, c, gaussian).noise for c in members]
    scale = value_range.slope(card.value_range)
    return Ranged(card, max(m.read_noise * m.level for m in levels) * scale)


def pilot(image: Image, members: Sequence[int], model: Model, method: Method) -> Batch:
    """Up to PILOTS windows in the middle of sampled blocks, of one size."""
    blocks = sampled(image.header.canonical_shape, members[0])
    picked = [blocks[i] for i in spread(len(blocks), min(PILOTS, len(blocks)))]
    measured, sites = [], []
    for (t, first, z), rows, cols in picked:
        top, height = _middle(rows)
        left, width = _middle(cols)
        area = slice(top, top + height), slice(left, left + width)
        window = tiles.plan((height, width), method.stride, PILOT, 0, method.card.window)[0]
        planes = [image.read((t, c, z), *area).astype(np.float32) for c in members]
        raw = [window.pad(plane[window.read]) for plane in planes]
        measured.append(np.stack(raw))
        sites.append(((t, first, z), top, left))
    sigma = np.full(len(measured), model.sigma, np.float32)
    x = np.stack([model.forward(raw) for raw in measured])
    return Batch(
        x,
        sigma,
        sites,
        model.inverse,
        np.stack(measured),
        model.noise_std,
        scale(image.header.dtype, model, method.card, len(members)),
    )


def scale(dtype: np.dtype[Any], model: Model, card: Card, channels: int) -> np.ndarray:
    """(2, C) float32: input units that 8-bit maps of a channel call 0 and 255.

    Those of 8-bit images are their own; of others, the ends of the network's range.
    """
    if dtype == np.uint8:
        return np.array([[0.0], [255.0]], np.float32).repeat(channels, 1)
    ends = [
        np.full((value_range.network_channels(card.recipe, channels), 1, 1), e) for e in (-1.0, 1.0)
    ]
    return np.stack([model.inverse(end)[:, 0, 0] for end in ends])


def _level_map(
    image: Image, members: Sequence[int], model: Model, method: Method, level: float
) -> dict[str, Any]:
    """Where the level varies over the image, as entries of what windows share; else nothing."""
    times, _, depth, height, width = image.header.canonical_shape
    rows, cols = level_map.places(height), level_map.places(width)
    gauge = method.gauge
    if gauge is None or len(rows) * len(cols) == 1 or level <= 0:
        return {}
    planes = [(t, z) for t in range(times) for z in range(depth)]
    planes = [planes[i] for i in spread(len(planes), min(3, len(planes)))]
    levels = np.zeros((len(planes), len(rows), len(cols)))
    for place in np.ndindex(*levels.shape):
        t, z = planes[place[0]]
        area = _around(rows[place[1]], height), _around(cols[place[2]], width)
        raw = [image.read((t, c, z), *area).astype(np.float32) for c in members]
        x = model.forward(np.stack(raw))
        levels[place] = np.sqrt(np.mean([gauge(plane) ** 2 for plane in x]))
    relative = level_map.fit(levels * whitening.INFLATION, level)
    if relative is None:
        return {}
    return {"rows": rows, "cols": cols, "log_levels": np.round(relative, 4).tolist()}


def _around(centre: float, length: int) -> slice:
    """At most PILOT px about a centre."""
    start = max(0, min(round(centre) - PILOT // 2, length - PILOT))
    return slice(start, min(start + PILOT, length))


def _middle(span: slice) -> tuple[int, int]:
    """(start, length) of at most PILOT px in the middle of a range."""
    length = min(span.stop - span.start, PILOT)
    return span.start + (span.stop - span.start - length) // 2, length


def describe(outcome: Outcome, groups: Sequence[Group], sigma_max: float) -> None:
    """Models, decisions and their warnings into the outcome."""
    noise, decided = {}, {}
    for group in groups:
        name = "+".join(map(str, group.channels))
        noise[name] = group.model.describe()
        decided[name] = group.shared
        where = f"channel {name}: " if len(groups) > 1 else ""
        outcome.warnings += [where + text for text in group.model.warnings()]
        if group.shared["sigma"] > sigma_max:
            outcome.warnings.append(
                f"{where}noise level {group.shared['sigma']:.2f} is above what the weights were"
                f" trained on ({sigma_max:.2f}): less is removed"
            )
    outcome.details["noise"], outcome.details["method"] = noise, decided
