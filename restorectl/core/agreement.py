"""Do raters agree, and how sure is a share: percent agreement, Cohen's kappa, Wilson's interval.

Labels may be anything that can be compared and hashed; position i of both raters is the same task.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import Any

Z95 = 1.959963984540054  # the normal quantile of a two-sided interval of 95 %


def percent(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Share in 0..1 of the tasks that got equal labels. Raises ValueError for no or unpaired."""
    _check(first, second)
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """(p_o - p_e) / (1 - p_e) in -1..1: agreement beyond that of chance (Cohen 1960, eq. 1).

    None where both raters gave one and the same label throughout: chance alone then explains it all
    and the quotient is 0/0. Raises ValueError for no or unpaired labels.
    """
    observed = percent(first, second)
    counts, others = Counter(first), Counter(second)
    matches = sum(counts[label] * others[label] for label in counts)  # integers, so 1 is exact
    if matches == len(first) ** 2:
        return None
    expected = matches / len(first) ** 2
    return (observed - expected) / (1 - expected)


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927). Raises ValueError without trials."""
    if not 0 <= hits <= trials or trials == 0:
        raise ValueError(f"{hits} of {trials}")
    share, z2 = hits / trials, Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    spread = share * (1 - share) / trials + z2 / (4 * trials**2)
    half = Z95 / (1 + z2 / trials) * math.sqrt(spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def between(ratings: dict[str, dict[str, Hashable]]) -> dict[str, Any]:
    """Agreement of all pairs of raters over the tasks that both did.

    `ratings`: rater -> task -> label. Returns `pairs` (raters, tasks, percent, kappa) and, over the
    pairs, the mean percent weighted by tasks and Light's kappa: the mean of the defined kappas.
    Both are None where nothing was shared.
    """
    pairs: list[dict[str, Any]] = []
    for one, two in combinations(sorted(ratings), 2):
        shared = sorted(ratings[one].keys() & ratings[two].keys())
        if shared:
            labels = [[ratings[rater][task] for task in shared] for rater in (one, two)]
            pairs.append(
                {
                    "raters": [one, two],
                    "tasks": len(shared),
                    "percent": percent(*labels),
                    "kappa": cohen_kappa(*labels),
                }
            )
    tasks = sum(pair["tasks"] for pair in pairs)
    kappas = [pair["kappa"] for pair in pairs if pair["kappa"] is not None]
    return {
        "pairs": pairs,
        "percent": sum(p["percent"] * p["tasks"] for p in pairs) / tasks if tasks else None,
        "kappa": sum(kappas) / len(kappas) if kappas else None,
    }


def _check(first: Sequence[Hashable], second: Sequence[Hashable]) -> None:
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} labels are no ratings of the same tasks")
