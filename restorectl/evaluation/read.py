"""Which prediction belongs to which target, and the pixels that are compared.

Scores, reports, studies and downstream checks all read through here, so they see the same pixels:
projected over z, averaged over samples, fitted to the target.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np

from restorectl.batch.inputs import match_names, walk
from restorectl.errors import InputError, NoInputError, UsageError
from restorectl.evaluation.comparison import Comparison, FileScore
from restorectl.evaluation.metrics.metric import SCALES, Array, Undefined
from restorectl.images.header import Header
from restorectl.images.image import is_image_folder, is_image_name, is_one_image, open_image
from restorectl.images.registration import register, resample, valid_area

PARTS = ("mean", "std", "entropy", "lower", "upper", "trust", "overview")  # of an uncertainty set
EIGHT_BIT = 255.0
LEAST_SHARED = 16  # px
Spread = tuple[float, float]  # mean and standard deviation
PROJECTIONS: dict[str, Callable[..., Array]] = {"max": np.max, "mean": np.mean}


@dataclass(frozen=True)
class Case:
    """One target and what each method made of it."""

    name: str  # relative path of the target
    target: Path | None  # None: nothing to compare with
    predictions: tuple[tuple[str, Path], ...]  # (method, image); with `average`: samples in order


@dataclass(frozen=True)
class MatchedFiles:
    methods: tuple[str, ...]
    cases: tuple[Case, ...]
    files: Mapping[str, tuple[Path, ...]]  # method -> all its images, also those without target
    missing: tuple[str, ...]  # "METHOD: NAME"
    extra: tuple[str, ...]


def match(
    predictions: Sequence[str], target: str | None, pattern: str | None, average: bool
) -> MatchedFiles:
    """Find the images of every method and pair them with the targets by name.

    Raises NoInputError, UsageError.
    """
    goal = None if target is None else Path(target)
    targets = {} if goal is None else _targets(goal, pattern)
    found = _methods(_samples(predictions) if average else predictions, goal, pattern)
    if not any(found.values()):
        raise NoInputError(f"no predictions in: {', '.join(predictions)}")
    names: Mapping[PurePath, Path | None] = targets
    if goal is None:
        names = dict.fromkeys(sorted({name for files in found.values() for name in files}))
    own_names = {method: match_names(names, files) for method, files in found.items()}
    cases, missing = [], []
    for name, path in names.items():
        there = []
        for method, files in found.items():
            if name in own_names[method]:
                there.append((method, files[own_names[method][name]]))
            else:
                missing.append(f"{method}: {name}")
        if there and (len(there) == len(found) or not average):
            cases.append(Case(str(name), path, tuple(there)))
    extra = [
        f"{method}: {name}"
        for method, files in found.items()
        for name in sorted(files.keys() - set(own_names[method].values()))
    ]
    everything = {method: tuple(files.values()) for method, files in found.items()}
    return MatchedFiles(tuple(found), tuple(cases), everything, tuple(missing), tuple(extra))


def _targets(goal: Path, pattern: str | None) -> dict[PurePath, Path]:
    if not goal.exists():
        raise NoInputError(f"`target` {goal}: no such file or folder")
    if is_one_image(goal):
        return {PurePath(goal.name): goal}
    found: dict[PurePath, Path] = {name: goal / name for name in walk(goal, pattern)}
    if not found:
        raise NoInputError(f"`target` {goal}: contains no images")
    return found


def _samples(predictions: Sequence[str]) -> Sequence[str]:
    """The folders of samples; a single folder stands for its subfolders."""
    folders = [Path(text) for text in predictions]
    if len(folders) == 1 and folders[0].is_dir():
        folders = sorted(p for p in folders[0].iterdir() if p.is_dir() and p.name[0] != ".")
    if len(folders) < 2:
        raise UsageError("`average`: give a folder for each sample, or a folder of such folders")
    return [str(folder) for folder in folders]


def _methods(
    predictions: Sequence[str], goal: Path | None, pattern: str | None
) -> dict[str, dict[PurePath, Path]]:
    """Method -> its images by relative path.

    Single files of one folder are one method; if the target is a single file, each is its own.
    """
    groups: dict[Path, dict[PurePath, Path]] = {}
    absent = [path for path in map(Path, predictions) if not path.exists()]
    if absent and (goal is None or len(absent) == len(predictions)):
        raise NoInputError(f"{absent[0]}: no such file or folder")
    for path in map(Path, predictions):
        if path in absent:
            groups[path] = {}  # every target lacks a prediction of it
        elif path.is_dir() and not is_image_folder(path):
            if path in groups:
                raise UsageError(f"{path}: is given twice")
            groups[path] = images_below(path, pattern)
        elif goal is not None and is_one_image(goal):
            groups[path] = {PurePath(goal.name): path}
        else:
            groups.setdefault(path.parent, {})[PurePath(path.name)] = path
    counts = Counter(path.absolute().name for path in groups)
    return {  # named by the last part of the path, or by the whole path if two would be equal
        str(path) if counts[path.absolute().name] > 1 else path.absolute().name: files
        for path, files in groups.items()
    }


def images_below(folder: Path, pattern: str | None = None) -> dict[PurePath, Path]:
    """Relative path -> image; an uncertainty set is one image, STEM.tif -> STEM_mean.tif."""
    found: dict[PurePath, Path] = {name: folder / name for name in walk(folder, pattern)}
    for name in list(found):
        if uncertainty_maps(folder / name) is not None:
            stem = name.stem.removesuffix("_mean")
            found[name.with_name(f"{stem}.tif")] = found[name]
            for part in PARTS:
                for suffix in (".tif", ".png"):
                    found.pop(name.with_name(f"{stem}_{part}{suffix}"), None)
    return found


def uncertainty_maps(mean: Path) -> dict[str, Path] | None:
    """The files of std, lower and upper that belong to STEM_mean; None for any other image."""
    stem = mean.stem.removesuffix("_mean")
    parts = {part: mean.with_name(f"{stem}_{part}.tif") for part in ("std", "lower", "upper")}
    complete = stem != mean.stem and all(path.is_file() for path in parts.values())
    return parts if complete else None


def input_of(inputs: Path | None, name: str) -> Path | None:
    """The unrestored image that belongs to a target's relative path; None if there is none.

    `inputs` may also be the one image itself.
    """
    if inputs is None or is_one_image(inputs):
        return inputs
    exact = inputs / name
    if is_one_image(exact):
        return exact
    if not exact.parent.is_dir():
        return None
    beside = [p for p in exact.parent.iterdir() if is_image_name(p) and is_one_image(p)]
    partner = match_names([exact], beside).get(exact)
    return None if partner is None else Path(partner)


@dataclass(frozen=True)
class LoadedImage:
    """An image as it is scored; the header has the file's dtype and the shape of `pixels`."""

    path: Path
    header: Header
    pixels: Array  # (T, C, Z, Y, X), dtype of the file; float64 if it is a mean of samples


def load(
    path: Path, axes: str | None = None, project: str = "none", *, gaps: bool = False
) -> LoadedImage:
    """All planes of an image, or their projection over z. Red, green and blue become channels.

    Raises InputError, also for infinite pixels and, unless gaps, NaN.
    """
    with open_image(path, axes=axes) as image:
        header = image.header
        pixels = np.empty(header.canonical_shape, header.dtype)
        for t, c, z in np.ndindex(*header.canonical_shape[:3]):
            pixels[t, c, z] = image.read((t, c, z))
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8)
    if pixels.dtype.kind == "f":
        bad = int((np.isinf(pixels) if gaps else ~np.isfinite(pixels)).sum())
        if bad:
            raise InputError(f"{path}: {bad} pixels are NaN or infinite: replace them first")
    header = header.with_dtype(pixels.dtype)
    if project != "none":
        pixels = PROJECTIONS[project](pixels, axis=2, keepdims=True)
        header = header.with_z(1, None)
    return LoadedImage(path, header, pixels)


def range_of(target: LoadedImage) -> float:
    """The default data range: 255 for 8-bit targets, else the largest minus the smallest value."""
    if target.header.dtype == np.uint8:
        return EIGHT_BIT
    return float(target.pixels.max()) - float(target.pixels.min())


def volume(path: Path, axes: str | None = None, project: str = "none") -> Array:
    """The pixels of `load` as float64, (T, C, Z, Y, X) in input units. Raises InputError."""
    return load(path, axes, project).pixels.astype(np.float64, copy=False)


def uncertainty_set(mean: Path, axes: str | None = None) -> dict[str, Array] | None:
    """The pixels of STEM_mean, _std, _lower and _upper by part, as `volume` reads them.

    Maps are NaN where pixels were copied. None for an image that is not the mean of a set. Raises
    InputError, also for parts of different shapes.
    """
    maps = uncertainty_maps(mean)
    if maps is None:
        return None
    first = load(mean, axes)
    found = {"mean": first.pixels.astype(np.float64, copy=False)}
    for part, path in maps.items():
        image = load(path, axes, gaps=True)
        image.header.require_same_shape(path, first.header, mean)
        found[part] = image.pixels.astype(np.float64, copy=False)
    return found


def running_means(
    samples: Iterable[Path], axes: str | None = None, project: str = "none"
) -> Iterator[LoadedImage]:
    """The means of the first 1, 2, 3 ... samples in float64, each with the path of its last sample.

    Raises InputError for a sample that cannot be read or has another shape than the first.
    """
    for count, path in enumerate(samples, 1):
        found = load(path, axes, project)
        if count == 1:
            first, total = found, found.pixels.astype(np.float64)
        else:
            found.header.require_same_shape(path, first.header, first.path)
            total = total + found.pixels
        yield replace(found, pixels=total / count)


def predicted(score: FileScore, comparison: Comparison) -> LoadedImage:
    """The image, or mean of samples, that was scored; pixels float64. Raises InputError."""
    samples = [score.prediction]
    if comparison.averaged:
        first = comparison.methods[: comparison.methods.index(score.method) + 1]
        mine = {s.method: s.prediction for s in comparison.scores if s.name == score.name}
        samples = [mine[method] for method in first if method in mine]
    means = running_means(samples, comparison.axes, comparison.project)
    return deque(means, maxlen=1).pop()


def registered(
    found: LoadedImage, target: LoadedImage, kind: str
) -> tuple[LoadedImage, LoadedImage]:
    """A prediction resampled onto its target, and both cut to the area they share.

    kind: of `registration.ALIGNMENTS`. The middle plane of the first channel decides for all.
    Raises InputError if hardly anything is shared.
    """
    middle = (found.pixels.shape[0] // 2, 0, found.pixels.shape[2] // 2)
    seen = [standardised(image.pixels[middle]) for image in (target, found)]
    transform = register(seen[0], seen[1], kind)
    first, last, left, right = valid_area(seen[0].shape, transform)
    if min(last - first, right - left) < LEAST_SHARED:
        raise InputError(f"{found.path}: hardly overlaps with its target after `register`")
    inside = (..., slice(first, last), slice(left, right))
    moved = np.empty(found.pixels.shape, np.float32)
    for at in np.ndindex(*moved.shape[:3]):
        moved[at] = resample(found.pixels[at], transform)
    return replace(found, pixels=moved[inside]), replace(target, pixels=target.pixels[inside])


def standardised(plane: Array) -> Array:
    """(Y, X) with mean 0 and standard deviation 1; a constant plane becomes 0."""
    centred = plane.astype(np.float64) - plane.mean(dtype=np.float64)
    result: Array = centred / (centred.std() or 1.0)
    return result


def spread_of(folder: Path, pattern: str | None, axes: str | None) -> dict[int, Spread]:
    """Channel -> mean and standard deviation over all images of a folder. Raises NoInputError."""
    sums: dict[int, Array] = {}
    for name in walk(folder, pattern) if folder.is_dir() else ():
        pixels = load(folder / name, axes).pixels
        for c in range(pixels.shape[1]):
            x = pixels[:, c].astype(np.float64)
            sums[c] = sums.get(c, 0.0) + np.array([x.size, x.sum(), np.square(x).sum()])
    if not sums:
        raise NoInputError(f"`scale_to` {folder}: is not a folder with images")
    means = {c: (total / n, squares / n) for c, (n, total, squares) in sums.items()}
    return {
        c: (mean, float(max(square - mean**2, 0) ** 0.5)) for c, (mean, square) in means.items()
    }


def respread(found: LoadedImage, spread: Mapping[int, Spread]) -> LoadedImage:
    """The image with each channel at another mean and standard deviation, by gain and offset."""
    pixels = found.pixels.astype(np.float64)
    for c in range(pixels.shape[1]):
        if c not in spread:
            raise InputError(f"{found.path}: `scale_to` has no channel {c}")
        mean, std = spread[c]
        own = pixels[:, c]
        pixels[:, c] = (own - own.mean()) * (std / (own.std() or 1.0)) + mean
    return replace(found, pixels=pixels)


def nanometres(found: LoadedImage, target: LoadedImage) -> float:
    """Side of a pixel, from either file. Raises Undefined if it is unknown or not square."""
    for image in (found, target):
        _, y, x = image.header.spacing
        if y and x:
            if abs(y - x) > 0.01 * x:
                raise Undefined(f"pixels of {1000 * y:g} x {1000 * x:g} nm are not square")
            return 1000 * x
    raise Undefined("the file records no pixel size")


def fit_of(image: Array, target: Array, channel: int, scale: str) -> tuple[float, float]:
    """(gain, offset) that fit one channel of (T, C, Z, Y, X) to the target, over all its planes.

    Raises Undefined if the channel cannot be fitted.
    """
    if scale == "none":
        return 1.0, 0.0
    x, y = (each[:, channel].astype(np.float64) for each in (image, target))
    return SCALES[scale](x, y)


def fitted(image: Array, target: Array, scale: str) -> tuple[Array, Array]:
    """`image` fitted channel by channel, as it was scored, and the gains (C,).

    Both images (T, C, Z, Y, X) float64 of one shape. A channel that cannot be fitted is unchanged.
    """
    gains, result = np.ones(image.shape[1]), image.copy()
    for c in range(image.shape[1]):
        try:
            gain, offset = fit_of(image, target, c, scale)
        except Undefined:
            continue
        gains[c], result[:, c] = gain, image[:, c] * gain + offset
    return result, gains


def colours(path: Path, axes: str | None = None) -> int:
    """Channels that are shown in one picture: 3 for RGB pixels, else 1. Raises InputError."""
    with open_image(path, axes=axes) as image:
        return 3 if image.header.size("S") == 3 else 1


@dataclass(frozen=True)
class ShownPlane:
    """What one picture shows of a volume: a plane, or the three colours of an RGB plane."""

    t: int
    channels: slice
    z: int
    label: str  # such as "z 3 of 5"; empty for a single plane

    def of(self, image: Array) -> Array:
        """(T, C, Z, Y, X) -> (Y, X, K), K colours."""
        return np.moveaxis(image[self.t, self.channels, self.z], 0, -1)


def shown_planes(shape: tuple[int, ...], together: int) -> list[ShownPlane]:
    """All pictures of a volume (T, C, Z, Y, X) in the order t, c, z, `together` channels each."""
    counts = {"t": shape[0], "c": shape[1] // together, "z": shape[2]}
    found = []
    for at in np.ndindex(*counts.values()):
        told = zip(counts.items(), at, strict=True)
        label = ", ".join(f"{axis} {i + 1} of {n}" for (axis, n), i in told if n > 1)
        channels = slice(at[1] * together, (at[1] + 1) * together)
        found.append(ShownPlane(at[0], channels, at[2], label))
    return found
