"""A picture of what was done to an image: the middle plane of each channel, before and after.

Planes that are larger than a panel are shown reduced, and one part of them at full resolution.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from restorectl.batch.plan import Record
from restorectl.images.header import Header, Plane
from restorectl.images.image import Image, open_written
from restorectl.images.pictures import (
    GREYS,
    HEAT,
    SIDE,
    SIGNS,
    Panel,
    pixel_size,
    reduction,
    thumbnail,
    write_panels,
)
from restorectl.restoration import level_map, trust
from restorectl.restoration.channels import ChannelGroup
from restorectl.restoration.planes import Extra, Fitted, Told

SHOWN = (0.5, 99.8)  # percentiles of the result, shown as black and white
MOST_REASONS = 3  # at a pixel, shown in the brightest colour
SMALL = 256  # px; smaller planes are enlarged up to this
MAPS = {  # name -> title and colours
    "before": ("before", GREYS),
    "after": ("after", GREYS),
    "residual": ("residual: before - after", SIGNS),
    "level": ("noise level that is assumed", HEAT),
    "std": ("standard deviation (input units)", HEAT),
    "entropy": ("entropy (nats)", HEAT),
    "width": ("width of the interval (input units)", HEAT),
    "trust": ("do not trust: number of reasons", HEAT),
}
View = Callable[[np.ndarray], np.ndarray]  # a plane (Y, X) -> what is shown of it, floats
RESTORED = ("before", "after", "residual", "level")  # shown by restore and denoise
SAMPLED = ("before", "after", "std", "entropy", "width", "trust")  # by uncertainty


def writer(names: Sequence[str], products: Sequence[str] = ("after",)) -> Extra:
    """A function that writes a picture of these MAPS; `products`: what each earlier file holds."""

    def write(fitted: Fitted, parts: Sequence[Path], part: Path, record: Record) -> Told:
        header, rows = fitted.image.header, {}
        with ExitStack() as stack:
            known = parts[: len(products)]
            files = [stack.enter_context(open_written(path, header)) for path in known]
            images = dict(zip(products, files, strict=True))
            channels = sorted({c for _, c, _ in fitted.near.group_of}) or [0]
            for c in channels:
                planes = [plane for plane in header.planes if plane[1] == c]
                plane = planes[len(planes) // 2]
                doubts = []
                if "trust" in images:
                    doubts = [trust.in_words(images["trust"].read(plane))]
                for part_of_it, view, pixels in _views(images["after"].read(plane)):
                    caption = ", ".join([*_where(header, plane), *part_of_it, *doubts])
                    maps = _maps(fitted, images, plane, view)
                    shown = {name: maps[name] for name in names}
                    rows[caption] = _row(shown, pixel_size(header.spacing[2], pixels))
        write_panels(part, rows, record)
        return Told()

    return write


def _maps(
    fitted: Fitted, images: dict[str, Image], plane: Plane, view: View
) -> dict[str, np.ndarray]:
    """Every map of one view of a plane, in input units."""
    maps = {name: view(each.read(plane)) for name, each in images.items() if name != "trust"}
    if "trust" in images:
        maps["trust"] = view(trust.reasons_held(images["trust"].read(plane)))
    source = fitted.source.read(plane)
    maps["before"] = view(fitted.near.restorer.converted(source, plane[1]))
    maps["residual"] = maps["before"] - maps["after"]
    maps["level"] = np.zeros(maps["after"].shape)
    if (group := fitted.near.group_of.get(plane)) is not None:
        maps["level"] = _level(group, images["after"], plane, fitted.image, view)
    if "upper" in maps:
        maps["width"] = maps["upper"] - maps["lower"]
    return maps


def _level(
    group: ChannelGroup, restored: Image, plane: Plane, image: Image, view: View
) -> np.ndarray:
    """The noise level that the network was told, in input units.

    The standard deviation of the noise or, where neighbouring pixels share it, more.
    """
    t, _, z = plane
    together = [view(restored.read((t, c, z))) - image.zero(c) for c in group.channels]
    level = group.model.noise_std(np.nan_to_num(np.stack(together)).astype(np.float32))
    level = level[group.channels.index(plane[1])].astype(np.float64)
    if group.model.sigma > 0:
        level *= group.decided["sigma"] / group.model.sigma
    if "log_levels" in group.decided:
        height, width = image.header.canonical_shape[3:]
        level *= np.exp(view(level_map.at(group.decided, 0, 0, (height, width))))
    return np.asarray(level)


def _views(after: np.ndarray) -> Iterator[tuple[list[str], View, float]]:
    """Yield what is shown of a plane: in words, plane -> picture, image pixels per its pixel."""
    step, zoom = reduction(after.shape), max(1, SMALL // max(after.shape))
    if zoom > 1:
        yield [], lambda p: p.astype(np.float64).repeat(zoom, 0).repeat(zoom, 1), 1 / zoom
        return
    yield [] if step == 1 else [f"reduced {step} times"], thumbnail, step
    if step > 1:
        rows, cols = _detail(after)
        place = f"rows {rows.start} to {rows.stop - 1}, columns {cols.start} to {cols.stop - 1}"
        yield [place], lambda plane: plane[rows, cols].astype(np.float64), 1


def _detail(plane: np.ndarray) -> tuple[slice, slice]:
    """The part of a plane, at most SIDE px, that has the most contrast."""
    height, width = (min(n, SIDE) for n in plane.shape)
    places = [
        (slice(top, top + height), slice(left, left + width))
        for top in range(0, plane.shape[0] - height + 1, SIDE // 2)
        for left in range(0, plane.shape[1] - width + 1, SIDE // 2)
    ]
    return max(places, key=lambda place: float(np.nan_to_num(plane[place]).std()))


def _row(maps: dict[str, np.ndarray], pixel: tuple[float, str]) -> list[Panel]:
    """The panels of one view; the first has the scale bar."""
    finite = {name: values[np.isfinite(values)] for name, values in maps.items()}
    ends = {name: _ends(values, *SHOWN) for name, values in finite.items()}
    bounds = {name: (0.0, high) for name, (_, high) in ends.items()}
    bounds["before"] = bounds["after"] = ends["after"]
    bounds["trust"] = 0.0, float(MOST_REASONS)
    if "residual" in maps:
        top = _ends(np.abs(finite["residual"]), *SHOWN)[1]
        bounds["residual"] = -top, top
    return [
        Panel(title, maps[name], *bounds[name], colours, pixel=pixel if name == "before" else None)
        for name, (title, colours) in MAPS.items()
        if name in maps
    ]


def _ends(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    found = np.percentile(values if values.size else 0.0, (low, high))
    return float(found[0]), float(found[1])


def _where(header: Header, plane: Plane) -> list[str]:
    """A plane in words, such as `channel 1 (DAPI)` and `z 12`."""
    (t, c, z), (times, several, depth, *_) = plane, header.canonical_shape
    name = f" ({header.channels[c]})" if header.channels else ""
    words = {f"channel {c}{name}": several > 1 or name, f"t {t}": times > 1, f"z {z}": depth > 1}
    return [word for word, needed in words.items() if needed]
