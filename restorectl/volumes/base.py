"""Chooses how much of the network and how much of cubic interpolation a stack gets.

Between observed planes nothing is known, but within them everything is. So lateral lines stand in
for axial ones: blurred, sampled and made noisy until they vary from sample to sample as the stack
varies from plane to plane. Rows of these stand-ins are hidden at the true spacing, interpolation
and network fill them in, and the share of the network is what leaves the smallest error. (Planes
left out of the stack show errors at twice the spacing only, where cubic interpolation of an
oversampled stack may lose, although it wins by 11 dB at the true spacing.) A few stand-ins often
match about equally well: the share is a compromise, and unsure where they disagree.

In a single image whose rows are made, the only lateral lines are its rows, side by side.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import nnls

from restorectl import catalog
from restorectl.engine import slices
from restorectl.volumes import interpolation
from restorectl.volumes.directions import (
    XZ,
    NetworkMix,
    SliceNetwork,
    Stack,
    StackSlices,
    StackUnits,
)

SIDE = 128  # px, lateral side of a block
DEPTH = 25  # most observed planes of a block
PLANES = 24  # about as many planes of all blocks are compared with lateral lines
SPARSE = 4  # px between the lines that are compared
TRIED = 4  # planes of highest contrast from which stand-ins are made, along both lateral axes
ROWS = 64  # most rows of a stand-in
LAGS = 6  # most distances at which variation is compared, in planes
REACH = 0.6  # largest distance along a line, over its length
BLURS = (0, 0.6, 0.85, 1.2, 1.7, 2.4, 3.4, 4.8, 6.8, 9.6)  # px
STRIDES = (1, 2, 3, 4, 6)  # px per plane of the result; 1 if the result is isotropic
STRIDE, GAIN = 0.02, 0.02  # misfit added for strides above 1, and for a gain of e
COMPARED = 12  # stand-ins whose interpolation at twice the spacing is compared with the stack's
DOUBLED, FARTHEST = 0.3, 2.0  # misfit added per dB of difference there, up to this many dB
USED, CLOSE = 3, 0.03  # up to 3 stand-ins are used, whose misfit is this near to the best
LENGTHS = np.geomspace(1, 16, 17)  # px or planes, sizes of the structures that `_noise` knows
SHARES = np.linspace(0, 1, 101)
# Noise makes cubic interpolation lose at most 0.4 dB to linear, where a smooth stack makes it win
# 10: so if the stand-ins see no difference, most of the interpolation is cubic.
UNDECIDED, SLOPE = 0.7, 2.0  # share of cubic then, and what a dB of gain adds to it
PROMISED = (0.1, 0.3)  # dB that the network must gain to be used at all, and for its full share
FEW, POOR, LOSS = 5, 0.25, 0.3  # planes, misfit, dB: the choice is unsure from fewer, or from more


@dataclass(frozen=True)
class Match:
    """How lateral lines are made to vary like axial ones."""

    misfit: float  # rms logarithm of the ratio of variations, and what was added
    blur: float  # px, standard deviation
    stride: int  # px per plane of the result
    noise: float  # variance of the white noise to add


def choose_mix(
    network: SliceNetwork,
    units: StackUnits,
    stack: Stack,
    factor: int,
    base: str,
    strength: float | None,
) -> NetworkMix:
    """Choose how to mix network and interpolation.

    base: auto, linear or cubic; strength: the share of the network, None = measured. A network that
    was not trained with the wanted base keeps its own.
    """
    known = slices.base_interpolations(network.card)
    asked = 1.0 if strength is None else strength  # without a test
    if not known:  # it predicts pixels, not residuals
        return NetworkMix(share=asked)
    if base in known:
        return NetworkMix(base, asked)
    tests, misfit = _stand_ins(stack, factor)
    if not tests:  # a constant image, or one that is too small for a test
        return NetworkMix(known[0], strength or 0.0, UNDECIDED, unsure=misfit > POOR)
    ahead = float(np.mean([_cubic_over_linear(test, factor) for test in tests]))
    wanted = "cubic" if base == "cubic" or ahead >= 0 else "linear"
    mix = NetworkMix(
        wanted if wanted in known else known[0],
        asked,
        1.0 if base == "cubic" else min(max(UNDECIDED + SLOPE * ahead, 0.0), 1.0),
        round(ahead, 3),
    )
    if strength is not None:
        return mix
    losses = np.stack([_losses(network, units, test, factor, mix) for test in tests])
    mean = losses.mean(0)  # dB, for each of SHARES
    promised = float(mean[0] - mean.min())
    trust = min(max((promised - PROMISED[0]) / (PROMISED[1] - PROMISED[0]), 0.0), 1.0)
    share = round(float(SHARES[np.argmin(mean)]) * trust, 2)
    lost = float(losses[:, np.searchsorted(SHARES, share)].max())
    poor = misfit > POOR and 0.1 < mix.cubic < 0.9  # neither interpolation clearly wins
    unsure = stack.shape[1] < FEW or poor or lost > LOSS
    return replace(mix, share=share, unsure=unsure)


def _stand_ins(stack: Stack, factor: int) -> tuple[list[list[np.ndarray]], float]:
    """The best stand-ins, along Y and X: (C, D, R, L) each, row by row a plane of the result.

    Also the misfit of the best one: 0 = a constant image, infinite = none is possible.
    """
    blocks = _blocks(stack)
    planes = np.concatenate(blocks, 1)  # (C, P, h, w)
    if stack.shape[2] == 1:  # rows: each block is one plane
        planes = np.stack([block[:, :, 0] for block in blocks], 1)
    planes = planes[:, :: -(-planes.shape[1] // PLANES)]
    turns = _both if stack.shape[2] > 1 else _turned
    if not planes.std():
        return [], 0.0
    matches = sorted(_matches(blocks, turns(planes), factor), key=lambda match: match.misfit)
    contrast = planes[:, np.argsort(-planes.std((0, 2, 3)), kind="stable")[:TRIED]]
    deep = [np.moveaxis(block, 1, 2) for block in blocks] if stack.shape[1] > 2 else []
    doubled = _cubic_over_linear(deep, 2) if deep else None
    found = []
    for match in matches[:COMPARED]:
        test = [_lines(part, match, factor) for part in turns(contrast)]
        misfit = match.misfit
        if doubled is not None and min(lines.shape[2] for lines in test) > 2 * factor:
            seen = _cubic_over_linear([lines[:, :, ::factor] for lines in test], 2)
            misfit += DOUBLED * min(abs(seen - doubled), FARTHEST)
        found.append((misfit, test))
    found.sort(key=lambda each: each[0])
    least = found[0][0] if found else np.inf
    return [test for misfit, test in found[:USED] if misfit <= least + CLOSE], least


def _both(planes: np.ndarray) -> list[np.ndarray]:
    """Planes (C, P, h, w), whose lines along both lateral axes may stand in for axial ones."""
    return [planes, planes.swapaxes(2, 3)]


def _turned(planes: np.ndarray) -> list[np.ndarray]:
    """The same of planes of which only the lines along the last axis may."""
    return [planes.swapaxes(2, 3)]


def _lines(planes: np.ndarray, match: Match, factor: int) -> np.ndarray:
    """Lines of planes (C, D, h, w) along their first lateral axis, as `match` says: a stand-in."""
    rows = _blurred(planes, match.blur)[:, :, :: match.stride][:, :, :ROWS]
    rows = rows[:, :, : (rows.shape[2] - 1) // factor * factor + 1]
    white = np.random.default_rng(0).standard_normal(rows.shape, np.float32)
    return np.asarray(rows + np.float32(np.sqrt(match.noise)) * white, np.float32)


def _blocks(stack: Stack) -> list[np.ndarray]:
    """Observed planes in blocks all over the stack: (C, n, h, w) each, of equal shape."""
    planes, height, width = stack.shape[1:]
    first = max(0, (planes - DEPTH) // 2)
    return [
        stack.read(slice(y, y + SIDE), slice(x, x + SIDE))[:, first : first + DEPTH]
        for y in _starts(height)
        for x in _starts(width)
    ]


def _starts(length: int) -> list[int]:
    """Up to four evenly spread block starts; blocks may overlap to cover the axis."""
    count = min(4, -(-length // SIDE))
    return [round(start) for start in np.linspace(0, max(0, length - SIDE), count)]


def _matches(blocks: list[np.ndarray], planes: list[np.ndarray], factor: int) -> list[Match]:
    """All ways to blur and sample lines of planes (C, P, R, L), and how far they are off."""
    deep = min(LAGS, max(1, blocks[0].shape[1] - 2))
    lags = np.arange(1, deep + 1)
    axial = _variation([block[..., ::SPARSE, ::SPARSE] for block in blocks], 1, lags)
    if not axial.all():
        return []
    sparse = [part[..., ::SPARSE] for part in planes]  # (C, P, R, L)
    near = lags[: min(part.shape[2] for part in sparse) // 4]
    lateral = _noise(_variation(sparse, 2, near)) if near.size else 0.0
    axial_noise = min(_noise(axial), lateral)
    found = []
    for blur in BLURS:
        lines = [_blurred(part, blur) for part in sparse]
        # what is left of the noise in the lines
        left = lateral * (1 if blur == 0 else 1 / (2 * np.sqrt(np.pi) * blur))
        for stride in STRIDES:
            reach = REACH * min(part.shape[2] for part in lines)
            used = lags[lags * stride * factor <= reach]
            if used.size < min(deep, 3):
                continue
            wanted = np.maximum(axial[: used.size] - 2 * axial_noise, 1e-3 * axial[: used.size])
            seen = _variation(lines, 2, used * stride * factor)
            if not seen.all():
                continue
            seen = np.maximum(seen - 2 * left, 1e-3 * seen)
            ratio = np.log(wanted / seen)
            misfit = float(ratio.std()) + STRIDE * (stride > 1) + GAIN * abs(float(ratio.mean()))
            noise = max(0.0, axial_noise / float(np.exp(ratio.mean())) - left)
            found.append(Match(misfit, blur, stride, noise))
    return found


def _variation(parts: list[np.ndarray], axis: int, lags: np.ndarray) -> np.ndarray:
    """Mean squared difference at each of `lags` along an axis, over all parts."""
    found = []
    for lag in lags:
        pairs = [(np.moveaxis(p, axis, 0)[lag:], np.moveaxis(p, axis, 0)[:-lag]) for p in parts]
        found.append(sum(_square(a - b) for a, b in pairs) / sum(a.size for a, _ in pairs))
    return np.asarray(found)


def _noise(variation: np.ndarray) -> float:
    """Variance of the white noise in a variation at distances 1, 2, ...

    The rest is explained by structures of all sizes, as Gaussians of LENGTHS and positive power.
    """
    if not variation.all():
        return 0.0
    lags = np.arange(1, len(variation) + 1)[:, None]
    parts = np.hstack([1 - np.exp(-0.5 * (lags / LENGTHS) ** 2), np.ones_like(lags)])
    power, _ = nnls(parts / variation[:, None], np.ones(len(variation)))
    return float(power[-1]) / 2


def _blurred(lines: np.ndarray, blur: float) -> np.ndarray:
    """Lines (C, D, R, L), blurred along R, without the ends that depend on what is outside."""
    if blur == 0:
        return lines
    end = int(2 * blur)
    return np.asarray(gaussian_filter1d(lines, blur, axis=2)[:, :, end : lines.shape[2] - end])


def _cubic_over_linear(parts: list[np.ndarray], factor: int) -> float:
    """PSNR gain in dB of cubic over linear interpolation of every factor-th row (C, D, R, L)."""
    errors = []
    for kind in ("linear", "cubic"):
        interpolator, error = catalog.INTERPOLATIONS[kind].load(), 0.0
        for part in parts:
            rows = np.moveaxis(part, 2, 0)
            made = interpolation.interpolated(rows[::factor], factor, interpolator)
            error += _square(made - rows[: len(made)])
        errors.append(max(error, 1e-12))
    return 10 * float(np.log10(errors[0] / errors[1]))


def _losses(
    network: SliceNetwork,
    units: StackUnits,
    test: list[np.ndarray],
    factor: int,
    mix: NetworkMix,
) -> np.ndarray:
    """What each of SHARES loses to the best of them in PSNR, dB."""
    error = common = apart = 0.0
    for truth in test:
        kept = StackSlices(truth[:, :, ::factor], XZ, 0, truth.shape[1])
        plain, made = (
            network.fill(kept, units, factor, replace(mix, share=share)) for share in (0.0, 1.0)
        )
        error += _square(truth - plain)
        common += float(np.sum((made - plain) * (truth - plain), dtype=np.float64))
        apart += _square(made - plain)
    errors = np.maximum(error - 2 * SHARES * common + SHARES**2 * apart, 1e-12)
    return np.asarray(10 * np.log10(errors / errors.min()))


def _square(values: np.ndarray) -> float:
    return float(np.sum(np.square(values), dtype=np.float64))
