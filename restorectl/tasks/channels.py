"""What is decided once for each channel, on a sample of its pixels: noise, range, level."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from restorectl.core import intensity, sampling_plan, tiling
from restorectl.core.jobs import NoiseOptions
from restorectl.errors import InputError
from restorectl.io.image import Image
from restorectl.tasks.method import Batch, Channel, Method
from restorectl.tasks.outcome import Outcome

PILOT = 256  # px, side of a calibration window
PILOTS = 4  # windows that a method is prepared on


def chosen(wanted: tuple[int, ...] | None, channels: int, source: Path) -> tuple[int, ...]:
    """The channels to work on. Raises InputError for one that the image does not have."""
    if wanted is None:
        return tuple(range(channels))
    wrong = [c for c in wanted if not 0 <= c < channels]
    if wrong:
        raise InputError(
            f"{source}: --channels {wrong[0]}: the image has channels 0..{channels - 1}"
        )
    return wanted


def fit(image: Image, channel: int, noise: NoiseOptions) -> intensity.Intensity:
    """The intensity model of one channel, from blocks spread over its planes."""
    blocks = [
        image.read(plane, rows, cols).astype(np.float32)
        for plane, rows, cols in sampling_plan.blocks(image.header.canonical_shape, channel)
    ]
    try:
        return intensity.fit(
            blocks,
            noise=noise.kind,
            gain=noise.gain,
            offset=noise.offset,
            read_noise=noise.read_noise,
        )
    except InputError as error:
        raise InputError(f"{image.path}: channel {channel}: {error}") from error


def prepare(
    image: Image, channels: Sequence[int], noise: NoiseOptions, method: Method
) -> dict[int, Channel]:
    """Model and shared decisions of each channel."""
    prepared = {}
    for c in channels:
        model = fit(image, c, noise)
        prepared[c] = Channel(model, method.prepare(pilot(image, c, model, method.stride)))
    return prepared


def pilot(image: Image, channel: int, model: intensity.Intensity, stride: int) -> Batch:
    """Up to PILOTS windows in the middle of sampled blocks, of one size."""
    blocks = sampling_plan.blocks(image.header.canonical_shape, channel)
    picked = [blocks[i] for i in sampling_plan.spread(len(blocks), min(PILOTS, len(blocks)))]
    windows, sites = [], []
    for plane, rows, cols in picked:
        top, height = _middle(rows)
        left, width = _middle(cols)
        raw = image.read(plane, slice(top, top + height), slice(left, left + width))
        (window,) = tiling.plan(raw.shape, stride, PILOT, 0)
        windows.append(window.pad(model.forward(raw.astype(np.float32))))
        sites.append((plane, top, left))
    sigma = np.full(len(windows), model.sigma, np.float32)
    return Batch(np.stack(windows)[:, None], sigma, sites, model.inverse)


def _middle(span: slice) -> tuple[int, int]:
    """(start, length) of at most PILOT px in the middle of a range."""
    length = min(span.stop - span.start, PILOT)
    return span.start + (span.stop - span.start - length) // 2, length


def describe(outcome: Outcome, prepared: dict[int, Channel], sigma_max: float) -> None:
    """Models, decisions and their warnings into the outcome."""
    outcome.details["noise"] = {str(c): p.model.describe() for c, p in prepared.items()}
    outcome.details["method"] = {str(c): p.shared for c, p in prepared.items()}
    for c, channel in prepared.items():
        where = f"channel {c}: " if len(prepared) > 1 else ""
        outcome.warnings += [where + text for text in channel.model.noise.warnings]
        if channel.shared["sigma"] > sigma_max:
            outcome.warnings.append(
                f"{where}noise level {channel.shared['sigma']:.2f} is above what the weights were"
                f" trained on ({sigma_max:.2f}): less is removed"
            )
