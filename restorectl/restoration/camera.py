"""Cameras: measured from dark and flat frames, kept as a YAML file and a TIFF of maps, compared."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from restorectl.batch import inputs
from restorectl.batch.outcome import Report
from restorectl.errors import InputError, OutputError, UsageError, one_line
from restorectl.files.atomic import replacing
from restorectl.files.provenance import record
from restorectl.files.strict import build
from restorectl.images.header import Header, sizes
from restorectl.images.image import Image, open_image, write_image
from restorectl.intensity.camera import QUIET, Camera, Map, Moments, Series
from restorectl.intensity.noise import transfer
from restorectl.jobs import NoiseOptions

FEW = 20  # dark frames; fewer make rough maps
FILES = ("camera", "offset_map", "gain_map", "variance_map", "camera_corner", "excess_noise")
NUMBERS = ("offset", "gain", "read_noise")
LOW = 0.25  # quantile of the gains of single images, to which texture only adds
PHOTONS = 10.0  # light that a changed offset is compared with


@dataclass(frozen=True)
class CameraFile:
    """The YAML file. maps: TIFF beside it, with a channel for each name in `channels`."""

    offset: float  # grey levels
    read_noise: float  # grey levels
    gain: float | None  # grey levels per photo-electron; None = no flat frames
    excess_noise: float  # 2 for EMCCD
    hot_pixels: int
    dark_frames: int
    flat_frames: int
    shape: tuple[int, int]  # rows, columns
    maps: str
    channels: tuple[str, ...]
    maps_sha256: str


# ---- using a camera ------------------------------------------------------------------------------
def load(noise: NoiseOptions) -> Camera | None:
    """The camera that the options name; None = none. Raises UsageError."""
    maps = {name: path for name in FILES[1:4] if (path := getattr(noise, name)) is not None}
    if noise.camera is None and not maps:
        return None
    if noise.camera is not None:
        given = [*maps, *(name for name in NUMBERS if getattr(noise, name) is not None)]
        if given:
            raise UsageError(f"`{given[0]}`: the `camera` file tells it: leave one of them out")
        found = read(Path(noise.camera))
        own = found.excess if noise.excess_noise is None else noise.excess_noise
        return replace(found, excess=own)
    for name, number in zip(FILES[1:4], NUMBERS, strict=True):
        if name in maps and getattr(noise, number) is not None:
            raise UsageError(f"`{number}` and `{name}` tell the same: leave one of them out")
    if "gain_map" in maps and noise.offset is None and "offset_map" not in maps:
        raise UsageError("`gain_map`: works only together with `offset_map` or `offset`")
    read_maps = {name: _map(name, Path(path)) for name, path in maps.items()}
    if len({each.shape for each in read_maps.values()}) > 1:
        told = ", ".join(f"`{name}` {sizes(each.shape)}" for name, each in read_maps.items())
        raise UsageError(f"maps of a camera have the same size, these differ: {told}")
    offsets, gains, variances = map(read_maps.get, FILES[1:4])
    gain = noise.gain if gains is None else float(np.median(gains))
    camera = Camera(
        offset=noise.offset if offsets is None else float(np.median(offsets)),
        gain=gain,
        read_noise=noise.read_noise if variances is None else float(np.median(variances) ** 0.5),
        excess=1.0 if noise.excess_noise is None else noise.excess_noise,
        offsets=offsets,
        variances=variances,
        response=None if gains is None else (gains / np.float32(gain)),
    )
    return _ready(camera)


def known(noise: NoiseOptions, camera: Camera | None) -> NoiseOptions:
    """The options with what the camera tells; the gain includes excess noise."""
    factor = noise.excess_noise
    if factor is None:
        factor = 1.0 if camera is None else camera.excess
    if not factor > 0:
        raise UsageError(f"`excess_noise` {factor:g}: must be above 0; 2 for EMCCD")
    numbers = {name: getattr(noise, name) for name in NUMBERS}
    if camera is not None and noise.kind != "gaussian":  # whose noise in the dark is all
        found = (camera.offset, camera.gain, camera.read_noise_left)
        told = dict(zip(NUMBERS, found, strict=True))
        numbers |= {name: number for name, number in told.items() if number is not None}
    if numbers["gain"] is not None:
        numbers["gain"] *= factor
    return replace(noise, **numbers, excess_noise=factor)


def recorded(noise: NoiseOptions) -> dict[str, Any]:
    """The options in provenance records, without the camera's files."""
    return {name: value for name, value in asdict(noise).items() if name not in FILES}


def region(camera: Camera | None, image: Image, corner: tuple[int, int]) -> Camera | None:
    """The part of the camera that an image shows; None if nothing of its pixels is known.

    Raises InputError unless the image lies in it, and has its size if no corner is given.
    """
    if camera is None or not camera.maps:
        return None
    height, width = image.header.canonical_shape[3:]
    rows, cols = next(iter(camera.maps.values())).shape
    top, left = corner
    inside = 0 <= top <= rows - height and 0 <= left <= cols - width
    if not inside or (corner == (0, 0) and (rows, cols) != (height, width)):
        raise InputError(
            f"{image.path}: has {height} x {width} pixels, the camera's maps {rows} x {cols}: use"
            " maps of this camera mode, or `camera_corner` ROW,COLUMN for a region of the camera"
        )
    return camera.cut(top, left, (height, width))


def read(path: Path) -> Camera:
    """A camera that was measured. Raises UsageError."""
    if path.is_dir():
        raise UsageError(
            f"`camera` {path}: is a folder: measure the camera first, see `restorectl docs cameras`"
        )
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"`camera` {path}: cannot be read: {one_line(error)}") from error
    told = build(CameraFile, raw, f"`camera` {path}")
    maps = path.with_name(told.maps)
    try:
        with open_image(maps) as image:
            planes = [image.read(plane) for plane in image.header.planes]
    except InputError as error:
        raise UsageError(f"`camera` {path}: {error}") from error
    found: dict[str, Any] = dict(zip(told.channels, planes, strict=False))
    if len(planes) != len(told.channels) or _hash(planes) != told.maps_sha256:
        raise UsageError(f"`camera` {path}: {maps} is not its own: measure the camera again")
    if (hot := found.get("hot")) is not None:
        found["hot"] = hot > 0
    camera = Camera(told.offset, told.gain, told.read_noise, told.excess_noise)
    return _ready(replace(camera, **found))


def _map(name: str, path: Path) -> Map:
    """One map (Y, X) float32. Raises UsageError."""
    try:
        with open_image(path) as image:
            planes = [image.read(plane) for plane in image.header.planes]
    except InputError as error:
        raise UsageError(f"`{name}`: {error}") from error
    if len(planes) != 1:
        raise UsageError(f"`{name}` {path}: has {len(planes)} planes: a map has one")
    lowest = {"gain_map": np.finfo(np.float32).tiny, "variance_map": 0.0}.get(name, -np.inf)
    if not np.isfinite(planes[0]).all() or planes[0].min() < lowest:
        raise UsageError(f"`{name}` {path}: holds values that are no {name.replace('_map', '')}s")
    return planes[0].astype(np.float32)


def _ready(camera: Camera) -> Camera:
    """The camera with what follows from its numbers and maps."""
    numbers = (camera.offset, camera.gain, camera.read_noise, camera.excess, [*camera.maps])
    text = f"{numbers} {_hash([*camera.maps.values()])}"
    quiet = None if camera.variances is None else float(np.quantile(camera.variances, QUIET))
    return replace(camera, quiet=quiet, sha256=hashlib.sha256(text.encode()).hexdigest())


def _hash(planes: Sequence[np.ndarray]) -> str:
    made = hashlib.sha256()
    for plane in planes:
        made.update(np.ascontiguousarray(plane, np.float32).tobytes())
    return made.hexdigest()


# ---- measuring a camera --------------------------------------------------------------------------
def measure(
    dark: str, flat: str | None, target: str, report: Report, axes: str | None = None
) -> CameraFile:
    """Measure a camera from folders of frames and write its YAML file and maps.

    Raises NoInputError, InputError for frames that do not fit, UsageError, OutputError.
    """
    path = Path(target)
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"`output` {path}: the name of a camera ends in .yaml")
    if path.exists():
        read(path)  # another file is not replaced
    moments = Moments()
    for where, frame in _frames(dark, axes):
        if moments.count and frame.shape != moments.mean.shape:
            raise InputError(f"{where}: is {sizes(frame.shape)}, not {sizes(moments.mean.shape)}")
        moments.add(frame)
    if moments.count < 2:
        raise InputError(f"{dark}: has one dark frame: at least 2 are needed, better 100")
    if moments.count < FEW:
        report.note(f"{moments.count} dark frames make rough maps: use 100, at least {FEW}")
    camera, flats = moments.dark(), 0
    if flat is not None:
        camera, flats = _lit(flat, camera, report, axes)
    names = list(camera.maps)
    planes = [np.asarray(each, np.float32) for each in camera.maps.values()]
    maps = path.with_suffix(".tif")
    told = CameraFile(
        camera.offset or 0.0,
        camera.read_noise or 0.0,
        camera.gain,
        camera.excess,
        0 if camera.hot is None else int(camera.hot.sum()),
        moments.count,
        flats,
        (planes[0].shape[0], planes[0].shape[1]),
        maps.name,
        tuple(names),
        _hash(planes),
    )
    _write(path, maps, told, planes)
    return told


def _write(path: Path, maps: Path, told: CameraFile, planes: Sequence[np.ndarray]) -> None:
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist: make it first")
    shape = (len(planes), *planes[0].shape)
    header = Header("CYX", shape, np.dtype(np.float32), channels=told.channels, format=".tif")
    made = record(
        command="calibrate",
        parameters={"frames": [told.dark_frames, told.flat_frames]},
        weights="",
        weights_sha256="",
        input_sha256="",
    )
    with replacing(maps) as part:
        write_image(part, header, planes, provenance=made)
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(told).items()}
    with replacing(path) as part:
        part.write_text(yaml.safe_dump(plain, sort_keys=False), "utf-8")


def _frames(folder: str, axes: str | None) -> Iterator[tuple[Path, np.ndarray]]:
    """Every plane of every image of a folder in order: (path, (Y, X))."""
    for each in inputs.find([Path(folder)], None).images:
        path = each.path
        with open_image(path, axes=axes) as image:
            for plane in image.header.planes:
                frame = image.read(plane)
                if not np.isfinite(frame).all():
                    raise InputError(f"{path}: holds NaN or infinity: leave it out")
                yield path, frame


def _lit(folder: str, dark: Camera, report: Report, axes: str | None) -> tuple[Camera, int]:
    """The camera with what frames with light show, and their number.

    Frames of the same light are compared; of others the noise is estimated one by one.
    """
    series, gains = Series(dark), list[float]()
    for path, frame in _frames(folder, axes):
        if dark.offsets is not None and frame.shape != dark.offsets.shape:
            shapes = sizes(frame.shape), sizes(dark.offsets.shape)
            raise InputError(f"{path}: is {shapes[0]}, the dark frames are {shapes[1]}")
        if frame.dtype.kind in "iu" and np.mean(frame == np.iinfo(frame.dtype).max) > 1e-3:
            report.note(f"{path}: is saturated: left out")
            continue
        series.add(frame)
    if series.still:
        camera = series.camera()
        if camera.response is None:
            report.note("the light is no flat field: one gain for all pixels")
        if camera.excess > 1:
            report.note("the noise of light is that of an EM register: excess noise factor 2")
        return camera, series.count
    read = dark.read_noise  # an image shows the mean variance
    if dark.variances is not None and dark.hot is not None:
        read = float(np.sqrt(dark.variances[~dark.hot].mean()))
    for _, frame in _frames(folder, axes):
        found = transfer([frame - (0.0 if dark.offsets is None else dark.offsets)])
        if found is not None:
            light, variance = found[1].T
            bright = light > (read or 0.0)
            gains += list((variance - (read or 0.0) ** 2)[bright] / light[bright])
    if not gains:
        raise InputError(f"{folder}: no photon noise was found: use frames with more light")
    report.note("frames show different things: the gain is estimated from each image")
    return replace(dark, gain=float(np.quantile(gains, LOW))), series.count


# ---- comparing cameras ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Change:
    """One quantity of two cameras; change: as a share, None = one of them is not known."""

    name: str
    before: float | None
    after: float | None
    change: float | None


def compared(before: Camera, after: Camera) -> list[Change]:
    """What changed. The offset's change is a share of the light of PHOTONS photons."""
    rows = []
    for name in ("gain", "read_noise", "offset"):
        a, b = getattr(before, name), getattr(after, name)
        unit = PHOTONS * (before.gain or 1.0) if name == "offset" else a
        known = a is not None and b is not None and unit
        rows.append(Change(name, a, b, (b - a) / unit if known else None))
    if before.offsets is not None and after.offsets is not None:
        if before.offsets.shape != after.offsets.shape:
            raise UsageError("the two cameras have maps of different sizes: compare the same mode")
        spread = float(before.offsets.std()), float(after.offsets.std())
        steps = after.offsets - before.offsets
        moved = float(np.median(np.abs(steps - np.median(steps))))
        rows.append(Change("pattern", *spread, moved / (PHOTONS * (before.gain or 1.0))))
    if before.hot is not None and after.hot is not None:
        counts = float(before.hot.sum()), float(after.hot.sum())
        rows.append(Change("hot_pixels", *counts, (counts[1] - counts[0]) / before.hot.size))
    return rows
