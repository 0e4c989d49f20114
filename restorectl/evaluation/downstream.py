"""Does restoration change conclusions: how many objects are counted, which class is recognised?

Objects are connected regions above Otsu's threshold of the smoothed image (scikit-image); label
images hold integers, 0 for the background. Only the target and the user's labels can say whether a
change is an improvement.
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from restorectl.errors import EngineError, InputError, UsageError, blamed
from restorectl.evaluation import classifier
from restorectl.evaluation.comparison import Comparison, FileScore
from restorectl.evaluation.read import LoadedImage, input_of, load, predicted, range_of
from restorectl.files.strict import read_text

Labels = NDArray[np.integer]
OVERLAP = 0.5  # two objects match above this intersection over union (IoU)


@dataclass(frozen=True)
class ObjectMatch:
    """How the objects of one image match those of the target."""

    objects: int
    targets: int
    matched: int
    iou: float  # sum over the matches

    def __add__(self, other: "ObjectMatch") -> "ObjectMatch":
        return ObjectMatch(
            self.objects + other.objects,
            self.targets + other.targets,
            self.matched + other.matched,
            self.iou + other.iou,
        )

    @property
    def precision(self) -> float | None:
        """Share of the objects that the target has too, 0..1; None without objects."""
        return self.matched / self.objects if self.objects else None

    @property
    def recall(self) -> float | None:
        """Share of the target's objects that were found, 0..1; None without targets."""
        return self.matched / self.targets if self.targets else None

    @property
    def f1(self) -> float | None:
        """2 matched / (objects + targets), 0..1; None where neither has an object."""
        total = self.objects + self.targets
        return 2 * self.matched / total if total else None

    @property
    def mean_iou(self) -> float | None:
        """Mean intersection over union of the matches, 0.5..1; None without one."""
        return self.iou / self.matched if self.matched else None


def areas(labels: Labels) -> NDArray[np.int64]:
    """Pixels of each object, in the order of their labels; (n,)."""
    counts = np.bincount(labels.ravel())[1:].astype(np.int64)
    return counts[counts > 0]


def without_small(labels: Labels, least: int) -> Labels:
    """The same labels without objects of fewer than `least` pixels."""
    counts = np.bincount(labels.ravel())
    kept = counts >= least
    kept[0] = False
    return np.where(kept[labels], labels, 0)


def match_objects(labels: Labels, target: Labels) -> ObjectMatch:
    """Match the objects of two label images of one shape that overlap with an IoU above OVERLAP.

    An object overlaps at most one other by more than one half, so matches are unique (Kirillov et
    al. 2019, section 4.1).
    """
    ours, theirs = np.bincount(labels.ravel()), np.bincount(target.ravel())
    both = (labels > 0) & (target > 0)
    pairs, shared = np.unique(
        np.stack([labels[both], target[both]]).astype(np.int64), axis=1, return_counts=True
    )
    iou = shared / (ours[pairs[0]] + theirs[pairs[1]] - shared)
    good = iou > OVERLAP
    counts = int(np.count_nonzero(ours[1:])), int(np.count_nonzero(theirs[1:]))
    return ObjectMatch(*counts, int(good.sum()), float(iou[good].sum()))


SMOOTHING = 1.0  # px in y and x; without it single noisy pixels would become objects
LEAST = 16  # px, the smallest object that counts


def require_segmentation() -> tuple[Any, Any]:
    """scikit-image's modules. Raises UsageError if it is missing; call this before long work."""
    try:
        from skimage import filters, measure
    except ImportError as error:
        raise UsageError(
            '`segment` needs scikit-image: python -m pip install "restorectl[evaluate]"'
        ) from error
    return filters, measure


def segmented(image: np.ndarray) -> Labels:
    """Label the bright objects of a plane (Y, X) or stack (Z, Y, X).

    Otsu's threshold adapts to the image, so gain and offset do not matter. Objects that touch, even
    at a corner, are one; those under LEAST pixels are noise. A constant image has no objects.
    """
    filters, measure = require_segmentation()
    sigma = (0.0,) * (image.ndim - 2) + (SMOOTHING, SMOOTHING)
    smooth = filters.gaussian(image.astype(np.float64), sigma=sigma, preserve_range=True)
    if smooth.min() == smooth.max():
        return np.zeros(image.shape, np.int64)
    found = measure.label(smooth > filters.threshold_otsu(smooth), connectivity=image.ndim)
    return without_small(found, LEAST)


OUTCOMES = ("correct", "wrong", "undecided")


def segment(comparison: Comparison) -> dict[str, Any]:
    """Count the objects of input, prediction and target, and match them to the target's.

    The stack of each time point and channel is segmented separately. Returns `parameters`; `files`:
    method, name, and for "input" (None if there is none), "prediction" and "target": `objects`,
    `area` (pixels in all), `median_area` and, except for the target, `matched`, `precision`,
    `recall`, `f1`, `iou` (mean of the matches), None if undefined; `methods`: the same pooled over
    the files, `input` over those that have one; `failures`: one line each. Without targets, objects
    are only counted.

    Raises UsageError if scikit-image is not installed.
    """
    require_segmentation()
    files, failures = [], []
    pools: dict[str, dict[str, list[_CountedObjects]]] = {}
    for score in comparison.scores:
        try:
            found = _counted(score, comparison)
        except Exception as error:
            failures.append(str(blamed(score.prediction, error)))
            continue
        shown = {k: None if each is None else each.describe() for k, each in found.items()}
        files.append({"method": score.method, "name": score.name, **shown})
        pool = pools.setdefault(score.method, {})
        for kind, each in found.items():
            if each is not None:
                pool.setdefault(kind, []).append(each)
    return {
        "parameters": {
            "smoothing_px": SMOOTHING,
            "least_px": LEAST,
            "overlap": OVERLAP,
        },
        "files": files,
        "methods": {
            method: {kind: _pooled(each).describe() for kind, each in pool.items()}
            for method, pool in pools.items()
        },
        "failures": failures,
    }


@dataclass(frozen=True)
class _CountedObjects:
    sizes: np.ndarray  # pixels of each object
    match: ObjectMatch | None  # None for the target itself, and without one

    def describe(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "objects": len(self.sizes),
            "area": int(self.sizes.sum()),
            "median_area": float(np.median(self.sizes)) if len(self.sizes) else None,
        }
        if self.match is not None:
            names = ("matched", "precision", "recall", "f1")
            found |= {name: getattr(self.match, name) for name in names}
            found["iou"] = self.match.mean_iou
        return found


def _pooled(each: Sequence[_CountedObjects]) -> _CountedObjects:
    matches = [one.match for one in each if one.match is not None]
    total = sum(matches, ObjectMatch(0, 0, 0, 0.0)) if matches else None
    return _CountedObjects(np.concatenate([one.sizes for one in each]), total)


def _counted(score: FileScore, comparison: Comparison) -> dict[str, _CountedObjects | None]:
    found: dict[str, _CountedObjects | None] = {"input": None}
    source = input_of(comparison.inputs, score.name)
    images = {"prediction": predicted(score, comparison)}
    if source is not None:
        images["input"] = _loaded(source, comparison)
    if score.target == score.prediction:  # no target
        for kind, image in images.items():
            found[kind] = _CountedObjects(_sizes(_labels(image.pixels)), None)
        return found
    goal = _loaded(score.target, comparison)
    target = _labels(goal.pixels)
    for kind, image in images.items():
        image.header.require_same_shape(image.path, goal.header, goal.path)
        labels = _labels(image.pixels)
        matches = [match_objects(a, b) for a, b in zip(labels, target, strict=True)]
        found[kind] = _CountedObjects(_sizes(labels), sum(matches, ObjectMatch(0, 0, 0, 0.0)))
    found["target"] = _CountedObjects(_sizes(target), None)
    return found


def _loaded(path: Path, comparison: Comparison) -> LoadedImage:
    return load(path, comparison.axes, comparison.project)


def _sizes(labels: Sequence[Labels]) -> np.ndarray:
    return np.concatenate([areas(each) for each in labels])


def _labels(image: np.ndarray) -> list[Labels]:
    """Label images of (T, C, Z, Y, X), one for each time point and channel."""
    stacks = image.reshape(-1, *image.shape[2:])
    return [segmented(stack[0] if len(stack) == 1 else stack) for stack in stacks]


def classified_by(program: str, labels: str, trusted: bool, inputs: Path | None) -> dict[str, str]:
    """Check the arguments of `confusion` before long work; returns the labels by name.

    Raises UsageError without trust, inputs or readable labels.
    """
    if not trusted:
        raise UsageError(
            f"`classifier` {program}: an exported program can run any code: add `trust` if you"
            " trust whoever made it"
        )
    if inputs is None:
        raise UsageError("`classifier` compares before and after: name the inputs with `input` DIR")
    return _read_labels(Path(labels))


def confusion(
    program: str,
    comparison: Comparison,
    labels: str,
    trusted: bool,
    classes: Sequence[str] = (),
) -> dict[str, Any]:
    """Compare a classifier's answers before and after restoration (RSCD, E.1).

    `program`: an exported program (torch.export.save) that maps (1, C, H, W) float32 to logits
    (1, K); pixels are divided by the file's data range, without a target that of its input, and
    clipped to [0, 1]. The logits of the
    planes of a stack are averaged. `labels`: a CSV of name,label; a name is a file's relative path,
    with or without suffix. `classes` names the K logits in order; by default they are the labels in
    alphabetical order, and further logits are "other 1", ... A predicted class that is not among
    the labels, such as RSCD's non-diagnostic, counts as "undecided".

    Returns `classes`; `labels` (those that occur); `methods`: for each, over the files that have
    an input, `files`, `before`, `after` and, if there are targets, `target`, each with `confusion`
    (counts, labels by classes) and the counts of OUTCOMES, and `changes` (counts, 3 by 3, from the
    outcome before to the one after); `files`: method, name, label, before, after, target;
    `failures`: one line each.

    Raises UsageError without trust, inputs or fitting labels, WeightsError if the program cannot
    be loaded.
    """
    told = classified_by(program, labels, trusted, comparison.inputs)
    known = sorted({*told.values()})
    if classes and not set(known) <= set(classes):
        extra = sorted(set(known) - set(classes))[0]
        raise UsageError(f"{labels}: '{extra}' is not one of the classes {', '.join(classes)}")
    judge = _ImageClassifier(classifier.load(Path(program)), list(classes) or known)
    files, failures = [], []
    for score in comparison.scores:
        label = told.get(score.name, told.get(PurePath(score.name).with_suffix("").as_posix()))
        try:
            if label is None:
                raise InputError(f"no label in {labels}: not classified")
            found = _classified(score, judge, comparison)
        except Exception as error:
            failures.append(f"{score.method}: {score.name}: {blamed(score.prediction, error)}")
            continue
        files.append({"method": score.method, "name": score.name, "label": label, **found})
    return {
        "classes": judge.classes,
        "labels": known,
        "methods": {
            method: _confused([f for f in files if f["method"] == method], known, judge.classes)
            for method in comparison.methods
        },
        "files": files,
        "failures": failures,
    }


def _classified(
    score: FileScore, judge: "_ImageClassifier", comparison: Comparison
) -> dict[str, str]:
    """The classes before and after, and of the target. Raises InputError, EngineError."""
    source = input_of(comparison.inputs, score.name)
    if source is None:
        raise InputError(f"no input in {comparison.inputs}: not classified")
    before = _loaded(source, comparison)
    span = comparison.data_range.get(score.name) or range_of(before) or 1.0
    found = {
        "before": judge(source, before, span),
        "after": judge(None, predicted(score, comparison), span),
    }
    if score.target != score.prediction:
        found["target"] = judge(score.target, _loaded(score.target, comparison), span)
    return found


class _ImageClassifier:
    """Names the class of an image; an image that several methods share is classified once."""

    def __init__(self, classify: Callable[[np.ndarray], np.ndarray], names: list[str]) -> None:
        self.classes = names
        self._classify = classify
        self._known: dict[Path, str] = {}

    def __call__(self, path: Path | None, image: LoadedImage, span: float) -> str:
        """The class of an image with a data range of `span` grey levels.

        path: identifies an image that methods share; None for a prediction.
        """
        if path is not None and path in self._known:
            return self._known[path]
        found = self.classes[
            int(np.argmax(np.mean(list(self._logits(image.pixels, span)), axis=0)))
        ]
        if path is not None:
            self._known[path] = found
        return found

    def _logits(self, image: np.ndarray, span: float) -> Iterator[np.ndarray]:
        image = image.astype(np.float64) / span
        frames = np.moveaxis(image, 1, 2).reshape(-1, image.shape[1], *image.shape[3:])
        for frame in np.clip(frames, 0, 1):  # (C, Y, X)
            logits = self._classify(frame)
            if len(logits) < len(self.classes):
                raise EngineError(
                    f"the classifier has {len(logits)} classes, but {len(self.classes)} are named"
                )
            others = len(logits) - len(self.classes)
            self.classes += [f"other {i + 1}" for i in range(others)]
            yield logits


def _read_labels(path: Path) -> dict[str, str]:
    """Name -> label from a CSV; a first line name,label is skipped. Raises UsageError."""
    try:
        text = read_text(path, str(path), UsageError).removeprefix("\ufeff")
        lines = csv.reader(text.splitlines(keepends=True))
        rows = [row for row in lines if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UsageError(f"{path}: cannot be read as a CSV of name,label ({error})") from error
    if rows and [cell.strip().lower() for cell in rows[0][:2]] == ["name", "label"]:
        rows = rows[1:]
    told: dict[str, str] = {}
    for row in rows:
        cells = [cell.strip() for cell in row]
        if len(cells) < 2 or not cells[0] or not cells[1]:
            raise UsageError(f"{path}: '{','.join(row)}' is not name,label")
        if told.setdefault(cells[0], cells[1]) != cells[1]:
            raise UsageError(f"{path}: {cells[0]} has two labels")
    if not told:
        raise UsageError(f"{path}: has no line of name,label")
    return told


def _outcome(label: str, predicted: str, known: Sequence[str]) -> str:
    if predicted == label:
        return "correct"
    return "wrong" if predicted in known else "undecided"


def _confused(
    files: Sequence[Mapping[str, str]], known: Sequence[str], classes: Sequence[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {"files": len(files)}
    for kind in ("before", "after", "target"):
        if not all(kind in f for f in files):  # no targets
            continue
        counts = [
            [sum(f["label"] == label and f[kind] == name for f in files) for name in classes]
            for label in known
        ]
        outcomes = [_outcome(f["label"], f[kind], known) for f in files]
        found[kind] = {"confusion": counts, **{name: outcomes.count(name) for name in OUTCOMES}}
    pairs = [tuple(_outcome(f["label"], f[k], known) for k in ("before", "after")) for f in files]
    found["changes"] = [[pairs.count((a, b)) for b in OUTCOMES] for a in OUTCOMES]
    return found
