"""Step maps: how many diffusion steps correspond to the noise at each place of an image.

Each calibration window is treated as RSCD treats an image: it is converted to the network's units,
its noise level is estimated, and a schedule converts the level into a step. Windows lie on a fixed
grid, WINDOW px wide, without overlap; a remainder below half of that joins the last window.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from restorectl.batch.plan import Record
from restorectl.engine.calibrators import level_of
from restorectl.engine.runner import Workers
from restorectl.engine.samplers import Calibrator
from restorectl.engine.schedule import schedule
from restorectl.errors import InputError
from restorectl.images import tiles
from restorectl.images.header import Header, Plane
from restorectl.images.image import Image, base_name, verify_image, write_image
from restorectl.restoration.channels import Model
from restorectl.restoration.planes import Extra, Fitted, Told

WINDOW = 256  # px
CELL = 64  # px, image area per pixel of a step map
SMALLEST = 32  # px, smallest side for calibrators; smaller windows are padded by mirroring

Picked = tuple[Plane, tiles.Tile]


@dataclass(frozen=True)
class StepCounter:
    """A calibrator, and the schedule that converts its noise levels to steps."""

    calibrator: Calibrator
    schedule: str
    workers: Workers = field(default_factory=Workers)


@dataclass(frozen=True)
class Level:
    """The noise of one calibration window."""

    plane: Plane
    rows: tuple[int, int]  # px, half-open
    cols: tuple[int, int]
    sigma: float  # std of the noise in network units, on images in [-1, 1]
    steps: float  # of the schedule, 0 = clean
    relative: float | None  # sigma / the noise model's level; None = the model has no noise
    std: float  # of the noise in input units, at the window's median


def grid(header: Header) -> tuple[tiles.Tile, ...]:
    """The calibration windows of each plane."""
    return tiles.tile_grid(header.canonical_shape[3:], 1, WINDOW, 0)


def levels(
    image: Image,
    members: Sequence[int],
    model: Model,
    picked: Sequence[Picked],
    counter: StepCounter,
    advance: Callable[[int, int], None] = lambda windows, pixels: None,
) -> list[Level]:
    """The noise of each window of these channels together, in the given order.

    A plane is read once for consecutive windows. Raises InputError for NaN and infinity.
    """
    table = schedule(counter.schedule)

    def read() -> Iterator[tuple[Plane, tiles.Tile, np.ndarray]]:
        current, pixels = None, np.empty(0)
        for plane, window in picked:
            if plane != current:
                (t, _, z), current = plane, plane
                pixels = np.stack([image.read((t, c, z)) for c in members])  # (C, Y, X)
            raw = pixels[:, *window.read]
            if raw.dtype.kind == "f" and not np.isfinite(raw).all():
                raise InputError(
                    f"plane t,c,z = {plane} contains NaN or infinity: replace them first"
                )
            yield plane, window, raw.astype(np.float32)

    def measured(each: tuple[Plane, tiles.Tile, np.ndarray]) -> Level:
        plane, window, raw = each
        sigma = level_of(counter.calibrator, _large_enough(model.forward(raw)))
        advance(1, raw[0].size)
        return Level(
            plane=plane,
            rows=window.rows,
            cols=window.cols,
            sigma=sigma,
            steps=float(table.step(sigma)),
            relative=sigma / model.level if model.level > 0 else None,
            std=sigma * model.unit(np.median(raw, axis=(1, 2))),
        )

    return counter.workers.each(measured, read())


def _large_enough(x: np.ndarray) -> np.ndarray:
    """(C, H, W), mirrored to the smallest sides for calibrators."""
    extra = [(0, 0), *((0, max(0, SMALLEST - n)) for n in x.shape[1:])]
    return np.pad(x, extra, mode="symmetric") if any(n for _, n in extra) else x


# ---- images --------------------------------------------------------------------------------------
def target(place: Path, relative: PurePath) -> PurePath:
    """Path of an image's step map; `relative`: the image's path below the input folder."""
    return place / relative.parent / f"{base_name(relative)}_steps.tif"


def parameters(schedule: str) -> dict[str, Any]:
    """Parameters that determine the pixels of a map."""
    return {"schedule": schedule, "window": WINDOW, "cell": CELL}


def writer(counter: StepCounter) -> Extra:
    """A function that writes an image's step map: float32, NaN if not measured.

    Channels that are restored together have the same map.
    """

    def write(fitted: Fitted, _: Sequence[Path], part: Path, record: Record) -> Told:
        image, group_of = fitted.image, fitted.near.group_of
        header, windows = map_header(image.header), grid(image.header)

        def planes() -> Iterator[np.ndarray]:
            for plane in header.planes:
                if plane not in group_of:
                    yield np.full(header.canonical_shape[3:], np.nan, np.float32)
                    continue
                group, picked = group_of[plane], [(plane, window) for window in windows]
                found = levels(image, group.channels, group.model, picked, counter)
                yield interpolated(found, image.header)

        write_image(part, header, planes(), provenance=record)
        verify_image(part, header)
        return Told()

    return write


def map_header(header: Header) -> Header:
    """Header of a float32 TIFF of the same planes, with pixels CELL times as large."""
    small = {axis: -(-header.size(axis) // CELL) for axis in "YX"}
    shape = tuple(small.get(a, n) for a, n in zip(header.axes, header.shape, strict=True))
    z, y, x = header.spacing
    return replace(
        header.with_dtype(np.float32),
        shape=shape,
        spacing=(z, None if y is None else y * CELL, None if x is None else x * CELL),
        format=".tif",
        extra={},  # metadata of the input do not describe this image
    )


def interpolated(found: Sequence[Level], header: Header) -> np.ndarray:
    """Steps at the centre of each cell of one plane: (Y / CELL, X / CELL), rounded up, float32.

    Linear between the centres of windows, constant beyond the outermost.
    """
    height, width = header.canonical_shape[3:]
    tops, lefts = sorted({each.rows for each in found}), sorted({each.cols for each in found})
    by_place = {(each.rows, each.cols): each.steps for each in found}
    steps = np.array([[by_place[rows, cols] for cols in lefts] for rows in tops])
    steps = np.array([np.interp(_centres(width), _middles(lefts), row) for row in steps])
    columns = [np.interp(_centres(height), _middles(tops), column) for column in steps.T]
    return np.array(columns).T.astype(np.float32)


def _centres(length: int) -> np.ndarray:
    starts = np.arange(0, length, CELL)
    return np.asarray((starts + np.minimum(starts + CELL, length)) / 2)


def _middles(spans: Sequence[tuple[int, int]]) -> list[float]:
    return [(start + stop) / 2 for start, stop in spans]
