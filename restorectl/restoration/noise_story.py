"""`calibrate --plot-noise`: gathers what a picture of a channel's noise shows, see `NoiseStory`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.batch.inputs import make_folder
from restorectl.engine.runner import Runner
from restorectl.errors import InputError
from restorectl.images import noise_figure
from restorectl.images.blocks import middle, sampled_pixels
from restorectl.images.image import Image
from restorectl.images.noise_figure import NoiseStory
from restorectl.intensity.noise import NoiseModel, transfer
from restorectl.intensity.whitening import Intensity
from restorectl.restoration import evidence, level_map
from restorectl.restoration.channels import Model, Whitened
from restorectl.restoration.evidence import RUNG
from restorectl.restoration.step_map import Level

SIDE = 384  # px, of the part that shows what is removed
REACH = 8  # px
RUNGS = range(-6, 5)  # told levels
CLOUD = 4000  # blocks that are drawn


def draw(
    place: Path,
    image: Image,
    members: Sequence[int],
    found: Sequence[tuple[str, Model, Sequence[Level]]],
    prior: Runner,
    excess: float,
) -> None:
    """Write a picture of each of these channels: of the planes that most windows are from.

    Raises InputError for models that do not whiten noise, or an image without noise, OutputError.
    """
    planes, model, windows = max(found, key=lambda each: len(each[2]))
    if not isinstance(model, Whitened) or model.sigma <= 0:
        raise InputError(f"{image.path}: has no noise model to draw: leave out `plot_noise`")
    names = image.header.channels
    t, _, z = windows[len(windows) // 2].plane
    make_folder(place)
    for channel, own in zip(members, model.models, strict=True):
        name = names[channel] if names else str(channel)
        told = "" if planes == "all" else f", planes {planes}"
        title = f"{image.path.name}, channel {name}{told}"
        several = f"_c{channel}" if image.header.canonical_shape[1] > 1 else ""
        story = _story(title, image, (t, channel, z), own, prior, excess)
        noise_figure.draw(place / f"{image.path.name}{several}_noise.png", story)


def _story(
    title: str,
    image: Image,
    plane: tuple[int, int, int],
    model: Intensity,
    prior: Runner,
    excess: float,
) -> NoiseStory:
    t, channel, z = plane
    zero, noise = image.zero(channel), model.noise
    pixels = image.read(plane).astype(np.float32)
    blocks = sampled_pixels(image, channel, frozenset({(t, z)}))
    measured = transfer([np.asarray(block, np.float32) for block in blocks])
    witness = evidence.asked(model, blocks, prior.clean)
    if measured is None or witness is None:
        raise InputError(f"{image.path}: is too small to draw its noise: leave out `plot_noise`")
    every, bins = measured
    shift = np.array([zero, 0.0])
    levels = noise.level * RUNG ** np.array(RUNGS, float)
    area = tuple(middle(slice(0, n // 16 * 16), SIDE) for n in pixels.shape)
    x = model.forward(pixels[area])
    removal = (x - prior.clean(x[None], model.sigma)[0]) * witness.unit
    where = level_map.measured(
        lambda rows, cols: pixels[rows, cols], pixels.shape, model, prior.clean, sure=None
    )
    logs = np.array(where.get("log_levels", ()))
    ends = np.array([max(noise.offset, every[:, 0].min()), np.quantile(every[:, 0], 0.999)])
    line = noise.gain * np.maximum(ends - noise.offset, 0) + noise.read_noise**2
    return NoiseStory(
        title,
        _text(noise, zero, excess),
        pixels + np.float32(zero),
        every[:: max(1, len(every) // CLOUD)] + shift,
        bins + shift,
        np.stack([ends, line], -1) + shift,
        levels,
        np.array([witness.residual(float(level)) for level in levels]),
        noise.level,
        _along(removal),
        removal.size,
        np.array(where.get("rows", ())),
        np.array(where.get("cols", ())),
        np.exp(logs - np.median(logs)) if logs.size else logs,
        removal,
    )


def _along(removal: np.ndarray) -> np.ndarray:
    """Correlation with pixels 0 to REACH px away along y and x, (2, REACH + 1)."""
    values = removal - removal.mean()
    found: list[list[float]] = []
    for axis in (0, 1):
        line: Any = np.moveaxis(values, axis, 0)
        pairs = [(line[k:], line[: len(line) - k]) for k in range(REACH + 1)]
        found.append([float((a * b).mean() / values.var()) for a, b in pairs])
    return np.array(found)


def _text(noise: NoiseModel, zero: float, excess: float) -> str:
    """The numbers in words."""
    texts = [f"level {noise.level:.2f} (1 = white noise of the model)"]
    if noise.gain > 0:
        photons = noise.photons_median * excess
        texts += [
            f"{photons:.3g} photons in a typical pixel",
            f"gain {noise.gain / excess:.3g} grey levels per photo-electron",
        ]
    texts += [
        f"offset {noise.offset + zero:.4g}",
        f"read noise {noise.read_noise:.3g} grey levels",
    ]
    if excess != 1:
        texts.append(f"excess noise factor {excess:g}")
    if noise.correlated:
        down, across = noise.along or (noise.correlation, noise.correlation)
        texts.append(
            f"neighbours share noise: correlation {down:.2f} along y, {across:.2f} along x"
        )
    told = " · ".join(texts)
    doubt = "; ".join(noise.reasons)
    return f"{told}\nbelief {noise.belief:.2f} of 1{f': {doubt}' if doubt else ''}"
