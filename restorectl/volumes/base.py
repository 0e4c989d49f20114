"""Chooses the base interpolation of a stack and the share of the network, by leaving planes out.

Every second observed plane is predicted from the others, at twice the distance. The error of linear
interpolation falls with the square of the distance, that of cubic faster, and the network is
trained for planes that are far apart. So its gain at twice the distance counts in full only if
linear clearly beats cubic there. On ten real stacks, at two distances each, the best share of the
network was 0 if cubic was better at twice the distance, about 0.45 if linear was better by 0.1 dB,
and 0.8 if it was better by 0.2 dB or more.
"""

from dataclasses import dataclass

import numpy as np

from restorectl import catalog
from restorectl.engine import slices
from restorectl.volumes import interpolation
from restorectl.volumes.directions import (
    NetworkMix,
    SliceDirection,
    SliceNetwork,
    Stack,
    StackSlices,
    StackUnits,
)

SIDE = 96  # px, lateral side of a block
EVERY = 4  # px between the restored slices of a block
BLOCKS = 3  # blocks of highest contrast, on which the network is tested
DEPTH = 25  # most observed planes of a block
BOTH = 9  # up to this many observed planes, leave out odd and then even planes
CLEAR = 0.2  # dB by which linear must beat cubic for the network's full share


@dataclass(frozen=True)
class LeftOutPlanes:
    """The left-out planes of one block, and their interpolation from the kept ones.

    All arrays but `kept` are subsampled along both lateral axes: (C, n - 1, h', w').
    """

    kept: np.ndarray  # (C, n, h, w)
    truth: np.ndarray
    linear: np.ndarray
    cubic: np.ndarray
    tried: bool  # the network is tested too


def choose_mix(
    network: SliceNetwork,
    units: StackUnits,
    stack: Stack,
    factor: int,
    directions: tuple[SliceDirection, ...],
    base: str,
    strength: float | None,
) -> NetworkMix:
    """Choose how to mix network and interpolation.

    base: auto, linear or cubic; strength: the share of the network, None = measured. A network that
    was not trained with the wanted base keeps its own; it is always mixed with cubic interpolation.
    """
    known, planes = slices.base_interpolations(network.card), stack.shape[1]
    asked = 1.0 if strength is None else strength
    if not known:  # it predicts pixels, not residuals
        return NetworkMix(share=asked)
    if base in known or planes < 3:
        return NetworkMix(base if base in known else known[0], asked)
    doubled = min(2 * factor, interpolation.FACTORS[1])
    tests = _left_out(stack, doubled)
    ahead = _cubic_over_linear(tests) if planes > 4 else None
    wanted = "cubic" if base == "cubic" or (ahead is not None and ahead >= 0) else "linear"
    chosen = wanted if wanted in known else known[0]
    if strength is not None:
        return NetworkMix(chosen, strength, ahead, strength)
    share = measured = _best_share(network, units, tests, doubled, directions, chosen)
    if ahead is not None and base == "auto" and chosen == "linear":
        # squared, because a share that is too small costs less than one that is too large
        share *= min(max(-ahead / CLEAR, 0.0), 1.0) ** 2
    return NetworkMix(chosen, round(share, 2), ahead, measured)


def _left_out(stack: Stack, doubled: int) -> list[LeftOutPlanes]:
    """Leave out every second plane, in blocks all over the stack."""
    planes, height, width = stack.shape[1:]
    first = max(0, (planes - DEPTH) // 2)
    areas = [
        (slice(y, y + SIDE), slice(x, x + SIDE)) for y in _starts(height) for x in _starts(width)
    ]
    blocks = [stack.read(*area)[:, first : first + DEPTH] for area in areas]  # (C, n, h, w)
    contrast = np.argsort([-float(block.std()) for block in blocks], kind="stable")[:BLOCKS]
    middle = slice(doubled // 2, None, doubled)
    kinds = [catalog.INTERPOLATIONS[kind].load() for kind in ("linear", "cubic")]
    made = []
    for k, block in enumerate(blocks):
        rows, cols = (_every_nth(n) for n in block.shape[2:])
        for phase in (0, 1):
            kept = block[:, phase::2]
            truth = block[:, phase + 1 :: 2, rows, cols][:, : kept.shape[1] - 1]
            if truth.size:
                sparse = np.moveaxis(kept[:, :, rows, cols], 1, 0)
                linear, cubic = (
                    interpolation.interpolated(sparse, doubled, kind)[middle].swapaxes(0, 1)
                    for kind in kinds
                )
                tried = k in contrast and (phase == 0 or planes <= BOTH)
                made.append(LeftOutPlanes(kept, truth, linear, cubic, tried))
    return made


def _starts(length: int) -> list[int]:
    """Up to four evenly spread block starts; blocks may overlap to cover the axis."""
    count = min(4, -(-length // SIDE))
    return [round(start) for start in np.linspace(0, max(0, length - SIDE), count)]


def _every_nth(length: int) -> slice:
    """Every EVERY-th pixel of an axis, starting away from the border if the axis is long enough."""
    return slice(min(EVERY, length) // 2, None, EVERY)


def _cubic_over_linear(tests: list[LeftOutPlanes]) -> float:
    """PSNR gain in dB of cubic over linear interpolation on left-out planes."""
    linear = sum(_square(t.linear - t.truth) for t in tests)
    cubic = sum(_square(t.cubic - t.truth) for t in tests)
    return round(10 * float(np.log10(max(linear, 1e-12) / max(cubic, 1e-12))), 3)


def _best_share(
    network: SliceNetwork,
    units: StackUnits,
    tests: list[LeftOutPlanes],
    doubled: int,
    directions: tuple[SliceDirection, ...],
    base: str,
) -> float:
    """The least-squares share of the network in a mix with cubic interpolation, within 0..1."""
    gained = size = 0.0
    for test in (t for t in tests if t.tried):
        answers = []  # (C, Z, h', w') per direction, where slices of both cross
        for direction in directions:
            across, along = (
                _every_nth(test.kept.shape[k]) for k in (direction.across, direction.along)
            )
            cut = direction.slices(test.kept)[:, across]  # (C, D, n, L)
            some = StackSlices(cut, direction, 0, cut.shape[1])
            filled = network.fill(some, units, doubled, NetworkMix(base))[..., along]
            answers.append(direction.volume(filled))
        answer = np.asarray(np.mean(answers, axis=0), np.float32)
        step = answer[:, doubled // 2 :: doubled] - test.cubic
        gained += float(np.sum(step * (test.truth - test.cubic), dtype=np.float64))
        size += _square(step)
    return float(np.clip(gained / size, 0, 1)) if size > 0 else 0.0


def _square(values: np.ndarray) -> float:
    return float(np.sum(np.square(values), dtype=np.float64))
