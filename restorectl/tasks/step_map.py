"""How many steps of diffusion are left where: levels of windows, and the image made of them.

A window is calibrated as paper 000 calibrates an image: whitened by the model of its channel, then
asked for its noise level, which a schedule turns into a step. Windows are those of the absolute
grid, WINDOW px wide and without halo; a remainder shorter than half of that joins the last one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from restorectl.core import tiling
from restorectl.core.axes import Header, Plane
from restorectl.core.intensity import Intensity
from restorectl.core.jobs import NoiseOptions, RestoreJob
from restorectl.core.provenance import matches
from restorectl.engine.schedule import schedule
from restorectl.errors import InputError, OutputError, UsageError
from restorectl.io.atomic import replacing, sweep
from restorectl.io.image import Image, create_image, read_provenance, verify_image
from restorectl.tasks import channels
from restorectl.tasks.inputs import Pair, make_folder

WINDOW = 256  # px
CELL = 64  # px, what one pixel of a step map stands for
SMALLEST = 32  # px, the least side that every calibrator takes; smaller windows are mirrored

Picked = tuple[Plane, tiling.Window]


@dataclass(frozen=True)
class Gauge:
    """What measures windows: x (H, W) float32 in network units -> sigma, and in which steps."""

    measure: Callable[[np.ndarray], float]
    schedule: str


@dataclass(frozen=True)
class Level:
    """How noisy one window is."""

    plane: Plane
    rows: tuple[int, int]  # px, half-open
    cols: tuple[int, int]
    sigma: float  # std of the noise in network units, on images in [-1, 1]
    steps: float  # of the schedule, 0 = clean
    relative: float | None  # sigma / the level of the channel's noise model; None = that has none
    std: float  # of the noise in input units, at the window's median


def grid(header: Header) -> tuple[tiling.Window, ...]:
    """The windows of each plane."""
    return tiling.plan(header.canonical_shape[3:], 1, WINDOW, 0)


def levels(
    image: Image, model: Intensity, picked: Sequence[Picked], gauge: Gauge
) -> Iterator[Level]:
    """The level of each window, in the order given. Raises InputError for NaN and infinity.

    A plane is read once for all of its windows that follow one another.
    """
    table, current, pixels = schedule(gauge.schedule), None, np.empty(0)
    half, expected = (model.high - model.low) / 2, model_level(model)
    for plane, window in picked:
        if plane != current:
            current, pixels = plane, image.read(plane)
        raw = pixels[window.read]
        if raw.dtype.kind == "f" and not np.isfinite(raw).all():
            raise InputError(f"plane t,c,z = {plane} holds NaN or infinity: mend or mask it first")
        raw = raw.astype(np.float32)
        sigma = gauge.measure(_large_enough(model.forward(raw)))
        yield Level(
            plane=plane,
            rows=window.rows,
            cols=window.cols,
            sigma=sigma,
            steps=float(table.step(sigma)),
            relative=sigma / expected if expected > 0 else None,
            std=sigma * half * _unit(model, float(np.median(raw))),
        )


def model_level(model: Intensity) -> float:
    """What the noise model measured, in network units; `Intensity.sigma` is told a little more."""
    return model.noise.level * 2 / (model.high - model.low)


def _unit(model: Intensity, signal: float) -> float:
    """Input units to one whitened unit, at a signal in input units."""
    noise = model.noise
    if noise.kind == "none":
        return 1.0
    return float(np.sqrt(noise.gain * max(signal - noise.offset, 0.0) + noise.read_noise**2))


def _large_enough(x: np.ndarray) -> np.ndarray:
    extra = [(0, max(0, SMALLEST - n)) for n in x.shape]
    return np.pad(x, extra, mode="symmetric") if any(n for _, n in extra) else x


# ---- images --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class StepMaps:
    """Step maps of the images of one run: STEM_steps.tif, float32, a pixel for CELL x CELL."""

    targets: Mapping[PurePath, Path]  # source -> map
    gauge: Gauge
    noise: NoiseOptions
    overwrite: bool

    def is_current(self, pair: Pair, made: Mapping[str, Any]) -> bool:
        """Whether the map exists and was made as the restored image with provenance `made` is.

        Raises OutputError for a file that is not ours.
        """
        target = self.targets[pair.source]
        if not target.exists():
            return False
        recorded = read_provenance(target)
        if recorded is None and not self.overwrite:
            raise OutputError(f"{target}: exists and is not ours: move it or use --overwrite")
        return matches(recorded, self._record(made))

    def write(
        self, image: Image, pair: Pair, chosen: Sequence[int], made: Mapping[str, Any]
    ) -> Path:
        """Write the map of one image; channels that are not chosen are NaN: not measured."""
        target = self.targets[pair.source]
        make_folder(target.parent)
        header = map_header(image.header)
        with replacing(target) as part:
            planes = self._planes(image, header, chosen)
            create_image(part, header, planes, provenance=self._record(made))
            verify_image(part, header)
        return target

    def _planes(self, image: Image, header: Header, chosen: Sequence[int]) -> Iterator[np.ndarray]:
        windows = grid(image.header)
        models = {c: channels.fit(image, c, self.noise) for c in chosen}
        for plane in header.planes:
            if plane[1] not in models:
                yield np.full(header.canonical_shape[3:], np.nan, np.float32)
                continue
            picked = [(plane, window) for window in windows]
            found = levels(image, models[plane[1]], picked, self.gauge)
            yield interpolated(list(found), image.header)

    def _record(self, made: Mapping[str, Any]) -> dict[str, Any]:
        own = {"schedule": self.gauge.schedule, "window": WINDOW, "cell": CELL}
        parameters = {**made["parameters"], **own}
        return {**made, "command": f"{made['command']} --step-map", "parameters": parameters}


def into(job: RestoreJob, gauge: Gauge, pairs: Sequence[Pair]) -> StepMaps | None:
    """The step maps that a job asks for. Raises UsageError where they would be in the way."""
    if job.step_map is None:
        return None
    place, files = Path(job.step_map), job.files
    if place.exists() and not place.is_dir():
        raise UsageError(f"--step-map {place}: is a file, but a folder is needed")
    for path in map(Path, files.inputs):
        if path.is_dir() and path.resolve() in (place.resolve(), *place.resolve().parents):
            raise UsageError(f"--step-map {place}: lies inside the input folder {path}")
    taken = {path.resolve() for pair in pairs for path in (pair.source, pair.target)}
    targets: dict[PurePath, Path] = {}
    for pair in pairs:
        target = place / PurePath(pair.name).parent / f"{stem(pair.source)}_steps.tif"
        if target.resolve() in taken:
            raise UsageError(f"--step-map: {target} would be written for more than one image")
        taken.add(target.resolve())
        targets[pair.source] = target
    if not files.dry_run:
        for parent in sorted({target.parent for target in targets.values()}):
            sweep(parent)
    return StepMaps(targets, gauge, job.noise, files.overwrite)


def stem(path: PurePath) -> str:
    """The file's name without its suffix, .ome.tif taken as one."""
    return path.stem.removesuffix(".ome")


def map_header(header: Header) -> Header:
    """A float32 TIFF of the same planes, with pixels CELL times as large."""
    small = {axis: -(-header.size(axis) // CELL) for axis in "YX"}
    shape = tuple(small.get(a, n) for a, n in zip(header.axes, header.shape, strict=True))
    z, y, x = header.spacing
    return replace(
        header.with_dtype(np.float32),
        shape=shape,
        spacing=(z, None if y is None else y * CELL, None if x is None else x * CELL),
        format=".tif",
        extra={},  # what a format keeps beside the pixels describes the input, not this image
    )


def interpolated(found: Sequence[Level], header: Header) -> np.ndarray:
    """Steps at the centre of each cell of one plane, (Y / CELL, X / CELL) float32, rounded up.

    Linear between the centres of windows, constant beyond the outer ones.
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
