"""What `evaluate` found: one score a file, method and metric; and how images are read for it.

Which prediction belongs to which target: by relative path, of several methods at once.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from restorectl.batch.inputs import walk
from restorectl.errors import InputError, NoInputError, UsageError
from restorectl.images.image import open_image

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, int, int, int, int]  # canonical T, C, Z, Y, X


@dataclass(frozen=True)
class FileScore:
    """One prediction of one method against its target."""

    method: str
    name: str  # relative path of the target; the same for all methods
    values: Mapping[str, float]  # metric -> score; a metric that is undefined here is not there
    prediction: Path  # the image that was scored (STEM_mean of an uncertainty set)
    target: Path
    depths: tuple[Mapping[str, float], ...] = ()  # --by z: the scores of each z
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # sparsification


@dataclass(frozen=True)
class Comparison:
    """All that a table, a report or a gate is made of."""

    methods: tuple[str, ...]  # in the order given
    metrics: tuple[str, ...]  # rows of catalog.METRICS with a score for each file
    better: Mapping[str, str]  # metric -> higher, lower; "" where neither is
    scores: tuple[FileScore, ...]  # method by method, each in the order of the targets
    data_range: Mapping[str, float]  # file name -> what PSNR and SSIM took as the largest step
    scale: str  # none, affine, percentile: how predictions were fitted to their targets
    inputs: Path | None = None  # folder of the unrestored inputs
    missing: tuple[str, ...] = ()  # "METHOD: NAME", a target without prediction
    extra: tuple[str, ...] = ()  # "METHOD: NAME", a prediction without target
    warnings: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()  # one line each: files, and single metrics, without a score
    sets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # method -> FID, ...
    set_depths: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    axes: str | None = None  # --axes, for reading the files again
    project: str = "none"  # none, max, mean over z before scoring

    def column(self, method: str, metric: str) -> list[float]:
        """The scores of one method, in the order of the files."""
        return [s.values[metric] for s in self.scores if s.method == method and metric in s.values]


def pixels(path: Path, axes: str | None = None) -> tuple[Array, Shape]:
    """(P, Y, X) in the source's dtype, planes in canonical order t, c, z; and (T, C, Z, Y, X).

    The samples of an RGB pixel are channels. Raises InputError, also for NaN or infinite pixels.
    """
    with open_image(path, axes=axes) as image:
        t, c, z, y, x = shape = image.header.canonical_shape
        found = np.empty((t * c * z, y, x), image.header.dtype)
        for index, at in enumerate(np.ndindex(t, c, z)):
            found[index] = image.read((at[0], at[1], at[2]))
    if found.dtype.kind == "b":
        found = found.astype(np.uint8)
    if found.dtype.kind == "f":
        bad = found.size - int(np.isfinite(found).sum())
        if bad:
            raise InputError(f"{path}: {bad} pixels are NaN or infinite: replace them first")
    return found, shape


def planes(path: Path, axes: str | None = None) -> tuple[Array, Shape]:
    """`pixels` as float64."""
    found, shape = pixels(path, axes)
    return found.astype(np.float64), shape


PARTS = ("mean", "std", "entropy", "lower", "upper", "overview")  # of an uncertainty set


@dataclass(frozen=True)
class Case:
    """One target and what each method made of it."""

    name: str  # relative path of the target
    target: Path | None  # None: nothing to compare with
    predictions: tuple[tuple[str, Path], ...]  # (method, image); of --average: samples in order


@dataclass(frozen=True)
class Matches:
    methods: tuple[str, ...]
    cases: tuple[Case, ...]
    files: Mapping[str, tuple[Path, ...]]  # method -> all its images, also those without target
    missing: tuple[str, ...]  # "METHOD: NAME"
    extra: tuple[str, ...]


def match(
    predictions: Sequence[str], target: str | None, pattern: str | None, average: bool
) -> Matches:
    """Find everything. Raises NoInputError, UsageError."""
    goal = None if target is None else Path(target)
    targets = {} if goal is None else _targets(goal, pattern)
    found = _methods(_samples(predictions) if average else predictions, goal, pattern)
    if not any(found.values()):
        raise NoInputError(f"no predictions in: {', '.join(predictions)}")
    names: Mapping[PurePath, Path | None] = targets
    if goal is None:
        names = dict.fromkeys(sorted({name for files in found.values() for name in files}))
    cases, missing, used = [], [], {method: set[PurePath]() for method in found}
    alike = {method: _by_stem(files) for method, files in found.items()}
    own = _by_stem(names)
    for name, path in names.items():
        there = []
        for method, files in found.items():
            key = _key(name, files, alike[method], len(own[_stem(name)]) == 1)
            if key is None:
                missing.append(f"{method}: {name}")
            else:
                there.append((method, files[key]))
                used[method].add(key)
        if there and (len(there) == len(found) or not average):
            cases.append(Case(str(name), path, tuple(there)))
    extra = [f"{m}: {f}" for m, files in found.items() for f in sorted(files.keys() - used[m])]
    everything = {method: tuple(files.values()) for method, files in found.items()}
    return Matches(tuple(found), tuple(cases), everything, tuple(missing), tuple(extra))


def companions(mean: Path) -> dict[str, Path] | None:
    """std, lower and upper of the set of STEM_mean; None for any other image."""
    stem = mean.stem.removesuffix("_mean")
    parts = {part: mean.with_name(f"{stem}_{part}.tif") for part in ("std", "lower", "upper")}
    complete = stem != mean.stem and all(path.is_file() for path in parts.values())
    return parts if complete else None


def _targets(goal: Path, pattern: str | None) -> dict[PurePath, Path]:
    if not goal.exists():
        raise NoInputError(f"--target {goal}: no such file or folder")
    if goal.is_file():
        return {PurePath(goal.name): goal}
    found: dict[PurePath, Path] = {name: goal / name for name in walk(goal, pattern)}
    if not found:
        raise NoInputError(f"--target {goal}: holds no images")
    return found


def _samples(predictions: Sequence[str]) -> Sequence[str]:
    """The folders to average; of a single one, its subfolders."""
    folders = [Path(text) for text in predictions]
    if len(folders) == 1 and folders[0].is_dir():
        folders = sorted(p for p in folders[0].iterdir() if p.is_dir() and p.name[0] != ".")
    if len(folders) < 2:
        raise UsageError("--average: give a folder for each sample, or a folder of such folders")
    return [str(folder) for folder in folders]


def _methods(
    predictions: Sequence[str], goal: Path | None, pattern: str | None
) -> dict[str, dict[PurePath, Path]]:
    """Method -> its images by relative path. Files of one folder are one method, unless the
    target is one file, which each file is compared with."""
    single = goal is not None and goal.is_file()
    groups: dict[Path, dict[PurePath, Path]] = {}
    for path in map(Path, predictions):
        if path.is_dir():
            if path in groups:
                raise UsageError(f"{path}: is given twice")
            groups[path] = _images(path, pattern)
        elif not path.exists():
            raise NoInputError(f"{path}: no such file or folder")
        elif single:
            assert goal is not None
            groups[path] = {PurePath(goal.name): path}
        else:
            groups.setdefault(path.parent, {})[PurePath(path.name)] = path
    return {name: groups[path] for name, path in zip(_names(list(groups)), groups, strict=True)}


def _names(paths: Sequence[Path]) -> Iterator[str]:
    """The last part of each path, all of it where two are equal."""
    counts = Counter(path.absolute().name for path in paths)
    for path in paths:
        name = path.absolute().name
        yield str(path) if counts[name] > 1 else name


def _images(folder: Path, pattern: str | None) -> dict[PurePath, Path]:
    """Relative path -> image; of an uncertainty set, STEM -> STEM_mean."""
    found: dict[PurePath, Path] = {name: folder / name for name in walk(folder, pattern)}
    for name in list(found):
        if companions(folder / name) is not None:
            stem = name.stem.removesuffix("_mean")
            found[name.with_name(f"{stem}.tif")] = found[name]
            for part in PARTS:
                for suffix in (".tif", ".png"):
                    found.pop(name.with_name(f"{stem}_{part}{suffix}"), None)
    return found


def _stem(name: PurePath) -> PurePath:
    return name.with_suffix("")


def _by_stem(names: Iterable[PurePath]) -> dict[PurePath, list[PurePath]]:
    found: dict[PurePath, list[PurePath]] = {}
    for name in names:
        found.setdefault(_stem(name), []).append(name)
    return found


def _key(
    name: PurePath,
    files: Mapping[PurePath, Path],
    stems: Mapping[PurePath, Sequence[PurePath]],
    unique: bool,
) -> PurePath | None:
    """What a method calls this target: the same, or the same with another suffix."""
    if name in files:
        return name
    near = stems.get(_stem(name), []) if unique else []
    return near[0] if len(near) == 1 else None


def check_shape(path: Path, found: tuple[int, ...], target: Path, wanted: tuple[int, ...]) -> None:
    """Raises InputError unless both images have the same (T, C, Z, Y, X)."""
    if found != wanted:
        have, want = ("x".join(map(str, shape)) for shape in (found, wanted))
        raise InputError(f"{path}: has TCZYX {have}, its target {target} has {want}")
