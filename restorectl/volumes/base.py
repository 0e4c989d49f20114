"""Which interpolation a stack wants, and how much of the network: observed planes are left out.

Every second plane is predicted from the others, at twice the distance. The error of linear
interpolation falls with the 2nd power of the distance, that of cubic faster, and the network is
trained to gain where planes lie far apart; so what it gains at twice the distance counts in full
only where linear is clearly ahead of cubic there. On ten real stacks at two distances each the best
share of the network was 0 where cubic was ahead at twice the distance, about 0.45 where linear was
by 0.1 dB, and 0.8 where it was by 0.2 dB or more.
"""

from dataclasses import dataclass

import numpy as np

from restorectl import catalog
from restorectl.engine import slices
from restorectl.volumes import interpolation
from restorectl.volumes.directions import Mix, Network, every_nth, lattice
from restorectl.volumes.stack import Stack, Units

SIDE = 96  # px of a block; lateral
EVERY = 4  # px between the slices of a block that are restored
BLOCKS = 3  # of highest contrast: those that the network is tried on
DEPTH = 25  # observed planes of a block
BOTH = 9  # observed planes up to which it is tried with odd and with even planes left out
CLEAR = 0.2  # dB by which linear is ahead of cubic where the network counts in full


@dataclass(frozen=True)
class LeftOut:
    """One block with planes left out: what was kept, and the truth at the lattice's pixels."""

    kept: np.ndarray  # (C, n, h, w)
    tried: bool  # by the network too
    truth: np.ndarray  # (C, n - 1, h', w')
    linear: np.ndarray  # likewise
    cubic: np.ndarray


@dataclass(frozen=True)
class Found:
    """What left-out planes say."""

    cubic_over_linear: float | None  # dB; None where too few planes are left to tell them apart
    share: float  # of the network in its best mix with cubic interpolation, 0 to 1


def decide(
    network: Network,
    units: Units,
    stack: Stack,
    factor: int,
    directions: tuple[str, ...],
    anchor: str,
    strength: float | None,
) -> tuple[Mix, Found | None]:
    """anchor: auto, linear or cubic; strength: the share of the network, None = measured.

    A network that does not know the anchor that is wanted keeps its own, and its measured share is
    mixed into cubic interpolation.
    """
    known = slices.anchors(network.card)
    if not known:  # it predicts pixels: there is nothing to add to an interpolation
        return Mix(share=1.0 if strength is None else strength), None
    if anchor in known or stack.planes < 3:
        chosen = anchor if anchor in known else known[0]
        return Mix(chosen, share=1.0 if strength is None else strength), None
    doubled = min(2 * factor, interpolation.FACTORS[1])
    tests = _tests(stack, doubled)
    ahead = _ahead(tests) if stack.planes > 4 else None
    finely = ahead is not None and ahead >= 0
    wanted = "cubic" if finely or anchor == "cubic" else "linear"
    chosen = wanted if wanted in known else known[0]
    if strength is not None:
        return Mix(chosen, share=strength), Found(ahead, strength)
    found = Found(ahead, _share(network, units, tests, doubled, directions, chosen))
    share = found.share
    if ahead is not None and anchor == "auto" and chosen == "linear":
        # squared: a share that is too small costs little, one that is too large costs the most
        share *= min(max(-ahead / CLEAR, 0.0), 1.0) ** 2
    return Mix(chosen, share=round(share, 2)), found


def _tests(stack: Stack, doubled: int) -> list[LeftOut]:
    """Every second plane left out, in blocks all over the stack."""
    middle = slice(doubled // 2, None, doubled)
    kinds = [catalog.INTERPOLATIONS[kind].load() for kind in ("linear", "cubic")]
    made = []
    for block, contrast in _blocks(stack):
        rows, cols = (every_nth(n, EVERY) for n in block.shape[2:])
        for phase in (0, 1):
            kept = block[:, phase::2]
            truth = block[:, phase + 1 :: 2, rows, cols][:, : kept.shape[1] - 1]
            if truth.size:
                sparse = np.moveaxis(kept[:, :, rows, cols], 1, 0)
                plain = [interpolation.interpolated(sparse, doubled, k)[middle] for k in kinds]
                tried = contrast and (phase == 0 or stack.planes <= BOTH)
                made.append(LeftOut(kept, tried, truth, *(p.swapaxes(0, 1) for p in plain)))
    return made


def _ahead(tests: list[LeftOut]) -> float:
    """By how many dB cubic interpolation predicts left-out planes better than linear."""
    linear = sum(_square(t.linear - t.truth) for t in tests)
    cubic = sum(_square(t.cubic - t.truth) for t in tests)
    return round(10 * float(np.log10(max(linear, 1e-12) / max(cubic, 1e-12))), 3)


def _share(
    network: Network,
    units: Units,
    tests: list[LeftOut],
    doubled: int,
    directions: tuple[str, ...],
    anchor: str,
) -> float:
    """The least-squares share of the network beside cubic interpolation, limited to 0..1."""
    gained = size = 0.0
    for test in (t for t in tests if t.tried):
        made = lattice(network, units, test.kept, doubled, directions, EVERY, anchor)
        step = made[:, doubled // 2 :: doubled] - test.cubic
        gained += float(np.sum(step * (test.truth - test.cubic), dtype=np.float64))
        size += _square(step)
    return float(np.clip(gained / size, 0, 1)) if size > 0 else 0.0


def _square(values: np.ndarray) -> float:
    return float(np.sum(np.square(values), dtype=np.float64))


def _blocks(stack: Stack) -> list[tuple[np.ndarray, bool]]:
    """The blocks (C, n, h, w) of a grid, and whether each is among those of highest contrast."""
    first = max(0, (stack.planes - DEPTH) // 2)
    rows, cols = (_starts(n) for n in (stack.height, stack.width))
    areas = [(slice(y, y + SIDE), slice(x, x + SIDE)) for y in rows for x in cols]
    found = [stack.read(*area)[:, first : first + DEPTH] for area in areas]
    order = np.argsort([-float(block.std()) for block in found], kind="stable")[:BLOCKS]
    return [(block, k in order) for k, block in enumerate(found)]


def _starts(length: int) -> list[int]:
    """Up to four starts of blocks, evenly spread; they overlap where it takes that to cover."""
    count = min(4, -(-length // SIDE))
    return [round(start) for start in np.linspace(0, max(0, length - SIDE), count)]
