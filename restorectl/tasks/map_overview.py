"""What the maps of one image say as a whole: numbers for the record, and a picture of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.core.axes import Header, Plane
from restorectl.io.image import Image, create_image, open_image
from restorectl.io.overview import Panel, draw, thumbnail
from restorectl.tasks.batch import Record
from restorectl.tasks.method import Group
from restorectl.tasks.planes import Found

PRODUCTS = ("mean", "std", "entropy", "lower", "upper")
CORRELATED = 0.15  # of neighbouring residuals: more, and the noise model does not hold
SHOWN = (0.5, 99.8)  # percentiles that grey goes between


def overview(
    image: Image, groups: Sequence[Group], parts: Sequence[Path], part: Path, record: Record
) -> Found:
    """Draw the middle plane's maps of the first channel; sum up all planes of every channel."""
    axes = "".join(a for a in image.header.axes if a in "YX" or image.header.size(a) > 1)
    maps = dict(zip(PRODUCTS, (open_image(path, axes=axes) for path in parts), strict=True))
    try:
        chosen = [(c, group.scale[:, k]) for group in groups for k, c in enumerate(group.channels)]
        summary = {str(c): _sums(image, maps, c, scale) for c, scale in chosen}
        _draw(image, maps, chosen[0][0], part, record)
    finally:
        for each in maps.values():
            each.close()
    warnings = [
        f"channel {c}: neighbouring residuals are correlated ({found['residual_correlation']:.2f}):"
        " the noise model does not hold, error bars may be too narrow"
        for c, found in summary.items()
        if abs(found["residual_correlation"]) > CORRELATED
    ]
    return Found({"uncertainty": summary}, tuple(warnings))


def _sums(
    image: Image, maps: dict[str, Image], channel: int, scale: np.ndarray
) -> dict[str, float]:
    """Means over all pixels of a channel; std_scaled is that of paper 002, eq. 15, in [0, 0.5]."""
    planes = [plane for plane in image.header.planes if plane[1] == channel]
    totals = dict.fromkeys(("std", "entropy", "width"), 0.0)
    products, squares = 0.0, 0.0
    for plane in planes:
        read = {name: each.read(plane).astype(np.float64) for name, each in maps.items()}
        totals["std"] += float(read["std"].mean())
        totals["entropy"] += float(read["entropy"].mean())
        totals["width"] += float((read["upper"] - read["lower"]).mean())
        residual = image.read(plane) - read["mean"]
        residual -= residual.mean()
        for a, b in ((residual[1:], residual[:-1]), (residual[:, 1:], residual[:, :-1])):
            products += float((a * b).sum())
            squares += float((a * a + b * b).sum()) / 2
    found = {name: total / len(planes) for name, total in totals.items()}
    found["std_scaled"] = found["std"] / float(scale[1] - scale[0])
    found["residual_correlation"] = products / squares if squares > 0 else 0.0
    return found


def _draw(image: Image, maps: dict[str, Image], channel: int, part: Path, record: Record) -> None:
    planes = [plane for plane in image.header.planes if plane[1] == channel]
    middle: Plane = planes[len(planes) // 2]
    shown: dict[str, Any] = {name: thumbnail(each.read(middle)) for name, each in maps.items()}
    low, high = np.percentile(shown["mean"], SHOWN)
    input_, width = thumbnail(image.read(middle)), shown["upper"] - shown["lower"]
    panels = [
        Panel("input", input_, low, high, heat=False),
        Panel("mean", shown["mean"], low, high, heat=False),
        Panel("standard deviation", shown["std"], 0.0, _top(shown["std"])),
        Panel("entropy (nats)", shown["entropy"], 0.0, _top(shown["entropy"])),
        Panel("width of the interval", width, 0.0, _top(width)),
    ]
    picture = draw(panels)
    header = Header("YXS", picture.shape, np.dtype(np.uint8), format=".png")
    colours = (np.ascontiguousarray(picture[..., c]) for c in range(3))
    create_image(part, header, colours, provenance=record)


def _top(values: np.ndarray) -> float:
    return float(np.percentile(values, SHOWN[1]))
