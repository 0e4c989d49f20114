"""The files that a report shows in pictures: those with the worst, median and best score."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from restorectl.errors import blamed
from restorectl.evaluation.charts import Chart, Series, number
from restorectl.evaluation.comparison import Comparison, FileScore
from restorectl.evaluation.pages import Example, Picture, Strip
from restorectl.evaluation.read import (
    ShownPlane,
    colours,
    fitted,
    input_of,
    predicted,
    shown_planes,
    uncertainty_set,
    volume,
)
from restorectl.images.pictures import difference, grey, heat

FloatArray = NDArray[np.float64]
GRID = 64  # px between the crops that are tried
PANEL = 512  # px, the largest side of a picture
SHOWN = (0.5, 99.8)  # percentiles of the target that are black and white in all pictures of a row
STRAY = 99.5  # percentile of the absolute differences at the ends of the colour scale
PROFILE = 160  # px, the longest intensity profile
MOST = 6  # methods side by side; of more, evenly spaced ones from the first to the last


@dataclass(frozen=True)
class ChosenFile:
    label: str  # Worst, Median, Best
    name: str  # of the file
    score: float  # mean over the methods


@dataclass(frozen=True)
class ShownImage:
    """The crop of one image that an example shows, in the units of the target."""

    title: str
    role: str
    colours: np.ndarray  # (Y, X, K) float64
    gain: float = 1.0  # of the fit to the target

    @property
    def grey(self) -> np.ndarray:
        """(Y, X)."""
        found: np.ndarray = self.colours.mean(axis=-1)
        return found


def choose(comparison: Comparison) -> tuple[str, list[ChosenFile]]:
    """The metric that ranks the files, and at most three files by their mean over the methods.

    That is the first metric that is better high or low; ties go to the first name. "" and no file
    if predictions were scored without targets.
    """
    if all(score.target == score.prediction for score in comparison.scores):
        return "", []
    for metric in comparison.metrics:
        better = comparison.better.get(metric, "")
        found: dict[str, list[float]] = {}
        for score in comparison.scores:
            if metric in score.values:
                found.setdefault(score.name, []).append(score.values[metric])
        if not better or not found:
            continue
        means = {name: float(np.mean(values)) for name, values in found.items()}
        ordered = sorted(means, key=lambda name: (means[name], name), reverse=better == "lower")
        picked = {"Worst": 0, "Best": len(ordered) - 1}
        if len(ordered) > 2:
            picked = {"Worst": 0, "Median": len(ordered) // 2, "Best": len(ordered) - 1}
        if len(ordered) == 1:
            picked = {"The only file": 0}
        return metric, [ChosenFile(k, ordered[i], means[ordered[i]]) for k, i in picked.items()]
    return "", []


def build(
    comparison: Comparison, metric: str, choice: ChosenFile, role: Mapping[str, str]
) -> tuple[Example, list[str]]:
    """The pictures and curves of one file, and a line for each part of it that cannot be shown.

    Raises InputError for a file that can no longer be read.
    """
    everyone = [s for s in comparison.scores if s.name == choice.name]
    scores = _evenly_chosen(everyone)
    path = scores[0].target
    target = volume(path, comparison.axes, comparison.project)
    found = [fitted(predicted(s, comparison).pixels, target, comparison.scale) for s in scores]
    plane = _median_plane(found[0][0], target, colours(path, comparison.axes))
    rows, cols = interesting_crop(plane.of(target).mean(axis=-1), PANEL)
    crop = (plane, rows, cols)
    truth = ShownImage("Target", "target", _cut(target, crop))
    views = [
        ShownImage(s.method, role[s.method], _cut(image, crop), float(gains[plane.channels].mean()))
        for s, (image, gains) in zip(scores, found, strict=True)
    ]
    raw, problems = _input(comparison, choice.name, target)
    before = [] if raw is None else [ShownImage("Input", "input", _cut(raw, crop))]
    line = _line(truth.grey)
    strips = [
        _images([*before, *views, truth], line),
        _differences([*before, *views], truth, views),
    ]
    more, missing = _uncertainty(comparison, scores, views, truth, crop)
    charts = _charts([*before, *views, truth], line, cols.start)
    told = [f"{s.method} {number(s.values[metric])}" for s in everyone if metric in s.values]
    shown = f" Shown are {len(scores)} of {len(everyone)} methods." if scores != everyone else ""
    caption = f"{metric}: {', '.join(told)}.{shown} {_place(target.shape, *crop)}"
    example = Example(f"{choice.label}: {choice.name}", caption, (*strips, *more), charts)
    return example, problems + missing


Crop = tuple[ShownPlane, slice, slice]


def _cut(image: np.ndarray, crop: Crop) -> np.ndarray:
    plane, rows, cols = crop
    return plane.of(image)[rows, cols]


def _evenly_chosen(scores: list[FileScore]) -> list[FileScore]:
    chosen = np.unique(np.rint(np.linspace(0, len(scores) - 1, min(len(scores), MOST))))
    return [scores[int(i)] for i in chosen]


def _input(
    comparison: Comparison, name: str, target: np.ndarray
) -> tuple[np.ndarray | None, list[str]]:
    """The unrestored image in the target's units, or a line that says why it is not shown."""
    if comparison.inputs is None:
        return None, []
    path = input_of(comparison.inputs, name)
    if path is None:
        return None, [f"{name}: no input of this name in {comparison.inputs}"]
    try:
        image = volume(path, comparison.axes, comparison.project)
    except Exception as error:
        return None, [f"{name}: its input is not shown: {blamed(path, error)}"]
    if image.shape != target.shape:
        return None, [f"{name}: its input is not shown: it has another shape than the target"]
    return fitted(image, target, comparison.scale)[0], []


def _median_plane(prediction: np.ndarray, target: np.ndarray, colours: int) -> ShownPlane:
    """The plane whose mean squared error is the median over the planes."""
    every = shown_planes(target.shape, colours)
    errors = [float(np.mean((plane.of(prediction) - plane.of(target)) ** 2)) for plane in every]
    return every[int(np.argsort(errors, kind="stable")[len(errors) // 2])]


def _place(shape: tuple[int, ...], plane: ShownPlane, rows: slice, cols: slice) -> str:
    """Which plane and crop are shown, in words; "" for all of the image."""
    height, width = shape[3:]
    parts = []
    if plane.label:
        parts.append(f"Plane {plane.label}, the one of median error.")
    if (rows.stop - rows.start, cols.stop - cols.start) != (height, width):
        parts.append(
            f"A crop of {rows.stop - rows.start} × {cols.stop - cols.start} px at row {rows.start},"
            f" column {cols.start} of {height} × {width} px, at full resolution."
        )
    return " ".join(parts)


def _line(target: np.ndarray) -> tuple[int, int, int]:
    """Row, first and last column of the profile, which is centred on the row's brightest pixel."""
    row, width = interesting_row(target), target.shape[1]
    length = min(PROFILE, width)
    first = int(np.clip(int(np.argmax(target[row])) - length // 2, 0, width - length))
    return row, first, first + length - 1


def _images(views: list[ShownImage], line: tuple[int, int, int]) -> Strip:
    """The images, the target last, in the target's range."""
    low, high = (float(v) for v in np.percentile(views[-1].colours, SHOWN))
    pictures = []
    for view in views:
        shown = view.colours if view.colours.shape[-1] == 3 else view.colours[..., 0]
        png = grey(shown, (low, high))
        alt = f"{view.title}, {shown.shape[0]} by {shown.shape[1]} pixels"
        pictures.append(Picture(view.title, alt, png, (shown.shape[0], shown.shape[1]), line))
    percentiles = f"the target's {SHOWN[0]} and {SHOWN[1]} percentiles"
    told = (
        f"Images: black {number(low)} to white {number(high)}, {percentiles}. Dashed: the profile."
    )
    return Strip(tuple(pictures), told)


def _differences(shown: list[ShownImage], truth: ShownImage, methods: list[ShownImage]) -> Strip:
    """Each image minus the target; the differences of the methods set the colour scale."""
    limit = float(np.percentile(np.abs(np.stack([v.grey - truth.grey for v in methods])), STRAY))
    pictures = []
    for view in shown:
        away = view.grey - truth.grey
        title = f"{view.title} − target"
        alt = f"{view.title} minus target, blue where too dark, red where too bright"
        pictures.append(
            Picture(title, alt, difference(away, limit), (away.shape[0], away.shape[1]))
        )
    ends = number(limit)
    told = f"Differences: blue −{ends} (too dark) to white 0 to red +{ends} (too bright)."
    return Strip(tuple(pictures), told, "difference")


def _uncertainty(
    comparison: Comparison,
    scores: list[FileScore],
    views: list[ShownImage],
    truth: ShownImage,
    crop: Crop,
) -> tuple[list[Strip], list[str]]:
    """The predicted deviation beside the error of each method that has one; a line for failures."""
    if comparison.project != "none" or comparison.averaged:
        return [], []  # a deviation of single planes or samples says nothing of their mean
    shown: list[tuple[str, np.ndarray]] = []
    problems: list[str] = []
    for score, view in zip(scores, views, strict=True):
        maps, problem = shown_uncertainty(score, comparison)
        problems += problem
        if maps is None:
            continue
        std = np.nan_to_num(_cut(maps["std"], crop).mean(axis=-1) * abs(view.gain))
        shown.append((f"{score.method}: predicted deviation", std))
        shown.append((f"{score.method}: absolute error", np.abs(view.grey - truth.grey)))
    if not shown:
        return [], problems
    top = float(np.percentile(np.stack([image for _, image in shown]), STRAY))
    drawn = tuple(
        Picture(title, title, heat(image, top), (image.shape[0], image.shape[1]))
        for title, image in shown
    )
    told = f"Uncertainty and error: black 0 to bright {number(top)}."
    return [Strip(drawn, told, "heat")], problems


def shown_uncertainty(
    score: FileScore, comparison: Comparison
) -> tuple[dict[str, np.ndarray] | None, list[str]]:
    """The uncertainty set of a prediction, if it has one, or a line that says why not."""
    try:
        return uncertainty_set(score.prediction, comparison.axes), []
    except Exception as error:
        why = blamed(score.prediction, error)
        return None, [f"{score.method}: {score.name}: its uncertainty is not shown: {why}"]


def _charts(views: list[ShownImage], line: tuple[int, int, int], left: int) -> tuple[Chart, Chart]:
    """Profile and spectra; `left` is the image's column where the crop begins."""
    row, first, last = line
    columns = np.arange(left + first, left + last + 1, dtype=np.float64)
    profile, spectra = [], []
    for view in views:
        values = view.grey[row, first : last + 1]
        profile.append(Series(view.title, view.role, columns, values))
        spectra.append(Series(view.title, view.role, *radial_power(view.grey)))
    return (
        Chart("Intensity along the dashed line", "column in px", "grey levels", tuple(profile)),
        Chart(
            "Power spectrum, averaged over directions",
            "frequency in cycles per px",
            "power in grey levels²",
            tuple(spectra),
            log=True,
        ),
    )


def radial_power(image: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Power per frequency, averaged over rings of one frequency step of the shorter side.

    image (Y, X), any units. Returns frequencies (n,) in cycles per pixel in (0, 0.5] and the mean
    of |DFT|² / (Y X) in each ring, (n,), in squared units: white noise of variance v gives v
    everywhere. The mean is removed and a Hann window (normalised to keep the power of noise) hides
    the jump between opposite borders.
    """
    rows, cols = image.shape
    window = np.hanning(rows + 2)[1:-1, None] * np.hanning(cols + 2)[None, 1:-1]
    window /= np.sqrt(np.mean(window**2))
    power = np.abs(np.fft.rfft2((image - image.mean()) * window)) ** 2 / image.size
    fy, fx = np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(cols)[None]
    step = 1 / min(rows, cols)
    ring = np.rint(np.hypot(fy, fx) / step).astype(np.int64)
    count = int(0.5 / step) + 1
    twice = np.ones(power.shape)  # the half plane that rfft leaves out mirrors these columns
    twice[:, 1 : (cols + 1) // 2] = 2
    total = np.bincount(ring.ravel(), (power * twice).ravel(), count)[1:count]
    number = np.bincount(ring.ravel(), twice.ravel(), count)[1:count]
    return np.arange(1, count) * step, total / number


def interesting_crop(image: FloatArray, size: int) -> tuple[slice, slice]:
    """The crop of at most `size` px per side with the largest variance, on a grid of GRID px.

    image (Y, X). Specimen varies more than background. Ties go to the first crop.
    """
    tops, lefts = (_starts(length, size) for length in image.shape)
    height, width = (min(size, length) for length in image.shape)
    centred = image - image.mean()
    sums = [np.pad(np.cumsum(np.cumsum(a, 0), 1), ((1, 0), (1, 0))) for a in (centred, centred**2)]
    best, found = -np.inf, (0, 0)
    for top in tops:
        for left in lefts:
            mean, square = (
                (s[top + height, left + width] - s[top, left + width])
                - (s[top + height, left] - s[top, left])
                for s in sums
            )
            variance = float(square - mean**2 / (height * width))
            if variance > best * (1 + 1e-9) + 1e-300:
                best, found = variance, (top, left)
    top, left = found
    return slice(top, top + height), slice(left, left + width)


def _starts(length: int, size: int) -> list[int]:
    last = max(0, length - size)
    return sorted({*range(0, last + 1, GRID), last})


def interesting_row(image: FloatArray) -> int:
    """The row of (Y, X) with the largest standard deviation, away from the outer tenth."""
    margin = image.shape[0] // 10
    spread = image[margin : image.shape[0] - margin].std(axis=1)
    return int(margin + np.argmax(spread))
