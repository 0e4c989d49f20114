"""What `evaluate` prints of downstream checks and of preference studies; failures go to stderr."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from restorectl.cli.evaluate_tables import rows

KINDS = ("input", "prediction", "target")
COUNTED = ("objects", "area", "median_area", "matched", "precision", "recall", "f1", "iou")
OUTCOMES = ("correct", "wrong", "undecided")


def segmented(found: Mapping[str, Any]) -> None:
    """Objects of input, prediction and target, of all files together."""
    lines = [
        [method, kind, *(_cell(kinds[kind].get(name)) for name in COUNTED)]
        for method, kinds in found["methods"].items()
        for kind in KINDS
        if kind in kinds
    ]
    rows("objects, matched to the target's", ["method", "image", *COUNTED], lines)


def confused(found: Mapping[str, Any]) -> None:
    """Classes before and after restoration, and how outcomes change."""
    classes = found["classes"]
    for method, each in found["methods"].items():
        lines = [
            [label, when, *each[when]["confusion"][index]]
            for index, label in enumerate(found["labels"])
            for when in ("before", "after", "target")
        ]
        rows(f"{method} · classes of {each['files']} files", ["label", "image", *classes], lines)
        changes = [[name, *each["changes"][index]] for index, name in enumerate(OUTCOMES)]
        rows(f"{method} · from before to after", ["before", *OUTCOMES], changes)


def preferred(found: Mapping[str, Any]) -> None:
    """Shares with their 95 % intervals, and how far raters agree."""
    lines = [
        [
            *(method, each["comparisons"]),
            *(_share(each["share"], each["interval"])),
            *(_share(each["hallucination_rate"], each["hallucination_interval"])),
        ]
        for method, each in found["methods"].items()
    ]
    header = ["method", "comparisons", "preferred", "95 %", "hallucinated", "95 %"]
    rows(f"study {found['study']} · {len(found['raters'])} raters", header, lines)
    pairs = [
        [
            " over ".join(pair["methods"]),
            pair["comparisons"],
            *_share(pair["share"], pair["interval"]),
        ]
        for pair in found["pairs"]
    ]
    rows("each two methods", ["methods", "comparisons", "preferred", "95 %"], pairs)
    agreement = list(_agreement(found["agreement"]))
    if agreement:
        rows("agreement", ["question", "raters", "tasks", "percent", "kappa"], agreement)


def failures(found: Mapping[str, Any]) -> int:
    """Name them; returns how many there are."""
    for line in found["failures"]:
        sys.stderr.write(f"restorectl: {line}\n")
    return len(found["failures"])


def _agreement(found: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    for question, each in found.items():
        for pair in each["pairs"]:
            kappa = _cell(pair["kappa"])
            names = " and ".join(pair["raters"])
            yield [question, names, str(pair["tasks"]), f"{pair['percent']:.1%}", kappa]


def _share(share: float, interval: Sequence[float]) -> tuple[str, str]:
    return f"{share:.1%}", f"{interval[0]:.1%} to {interval[1]:.1%}"


def _cell(value: Any) -> Any:
    return "-" if value is None else value
