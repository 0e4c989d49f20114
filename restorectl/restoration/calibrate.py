"""`calibrate`: the noise level of image windows, and the diffusion steps it corresponds to."""

import csv
import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.batch import inputs
from restorectl.batch.inputs import Found
from restorectl.batch.outcome import Outcome, Progress, Report, turn
from restorectl.engine.card import Card
from restorectl.engine.runner import Runner, make_runner
from restorectl.engine.schedule import schedule
from restorectl.errors import InputError, UsageError, spreadsheet_cell
from restorectl.files.atomic import replacing
from restorectl.images import pictures
from restorectl.images.blocks import Planes, spread
from restorectl.images.header import Header, Plane
from restorectl.images.image import Image, is_image_name, open_image
from restorectl.images.masked import Masked
from restorectl.intensity.camera import Camera
from restorectl.jobs import CalibrateJob, Compute, Files
from restorectl.restoration import camera as cameras
from restorectl.restoration import channels, cleaned, destripe, noise_story, step_map
from restorectl.restoration.channels import Model
from restorectl.restoration.restorer import check_units, load_calibrator
from restorectl.restoration.step_map import Level, Picked, StepCounter
from restorectl.weights.file import load

Part = tuple[Planes, Model]  # planes that share a model, and the model

BIN = 10  # steps: histogram bin width; T' is rounded up to a multiple of it
COLUMNS = (
    *("file", "channel", "t", "c", "z", "top", "left", "height", "width"),
    *("sigma", "steps", "relative", "std"),
)


@dataclass(frozen=True)
class PreparedCalibration:
    """A job with the images found and the outputs checked."""

    job: CalibrateJob
    found: Found
    camera: Camera | None = None


@dataclass(frozen=True)
class Counted:
    """What is measured with, and in the units of which network."""

    counter: StepCounter
    card: Card  # value range and channels
    prior: Runner  # asked about the noise of whitened channels
    camera: Camera | None


@dataclass(frozen=True)
class Region:
    """One window; the level is relative to the noise model's."""

    plane: Plane
    corner: tuple[int, int]  # row, column
    size: tuple[int, int]
    relative: float | None
    std: float  # input units


@dataclass(frozen=True)
class ChannelRow:
    """The result for planes of a channel whose noise is alike; a line of the table.

    Of channels that are seen together, the numbers of the noise model are medians.
    """

    file: str
    channel: str  # name, or number if it has none
    c: int  # the first of several
    planes: str  # such as z0-3,7, or all
    windows: int
    sigma: float  # median, network units
    steps: float  # median
    steps_min: float
    steps_max: float
    relative: float | None  # median of sigma / noise level of the channel's model
    std: float  # median, input units
    noise: str  # kind of the noise model
    level: float  # after whitening; 1 = white noise of many photons
    photons: float | None  # median per pixel; None = no photon noise
    gain: float  # grey levels per photo-electron
    offset: float  # grey levels
    read_noise: float  # grey levels
    correlation: float  # of neighbouring pixels, mean of both axes
    correlation_y: float
    correlation_x: float
    lines: float  # grey levels, standard deviation of the stripes that were removed
    invalid: int  # pixels of the channel that are copied or repaired
    belief: float  # 0..1
    reasons: tuple[str, ...]  # why it is less than 1
    warnings: tuple[str, ...]
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class CalibrationSummary:
    rows: tuple[ChannelRow, ...]
    windows: int
    t_max: int | None  # RSCD's T'; None = no window was measured


def prepare(job: CalibrateJob) -> PreparedCalibration:
    """Find inputs and check outputs. Raises UsageError, NoInputError."""
    schedule(job.schedule)
    camera = cameras.load(job.noise)
    job = replace(job, noise=cameras.known(job.noise, camera))
    given = inputs.named(job.files)
    found = inputs.find(given, job.files.pattern, job.files.series, job.files.exclude)
    sources = {each.path.resolve() for each in found.images}
    for option, target in (("`csv`", job.csv), ("`plot`", job.plot)):
        if target is None:
            continue
        path = Path(target)
        if path.resolve() in sources or (option == "`csv`" and is_image_name(path)):
            raise UsageError(f"{option} {path}: is the name of an image: choose another name")
        if not path.parent.is_dir():
            raise UsageError(f"{option} {path}: its folder does not exist: make it first")
    if job.plot is not None and Path(job.plot).suffix.lower() != ".png":
        raise UsageError(f"`plot` {job.plot}: must end in .png")
    for option, drawn in (("`plot`", job.plot), ("`plot_noise`", job.plot_noise)):
        if drawn is None:
            continue
        pictures.require_matplotlib()
        for folder in (path for path in given if path.is_dir()):
            place = Path(drawn).resolve()
            if folder.resolve() in (place, *place.parents):  # next run's input
                raise UsageError(f"{option} {drawn}: lies inside the input folder {folder}")
    if job.plot_noise is not None and Path(job.plot_noise).is_file():
        raise UsageError(f"`plot_noise` {job.plot_noise}: is a file: name a folder")
    return PreparedCalibration(job, found, camera)


def run(ready: PreparedCalibration, report: Report) -> CalibrationSummary:
    """Measure all images; a bad file does not stop the others."""
    job = ready.job
    calibrator, used = load_calibrator(job.method, job.weights, job.weights_from, job.device)
    prior = load(job.prior or "prior", "prior", job.weights_from)
    compute = Compute(job.device, threads=job.threads)
    asked = make_runner(prior.card, prior.tensors, compute)
    counter = StepCounter(calibrator, job.schedule, asked.workers)
    counted = Counted(counter, prior.card, asked, ready.camera)
    for found_weights in used.values():
        if job.prior is None:  # a calibrator measures what it was trained on
            counted = replace(counted, card=found_weights.card)
        else:
            check_units(found_weights.card, prior.card)
    rows: list[ChannelRow] = []
    found: list[tuple[ChannelRow, Level]] = []
    inputs.announce(ready.found, len(ready.found.images), report)
    for source in ready.found.images:
        start, outcome = time.monotonic(), Outcome(str(source.path), "", "done")
        progress = report.file(str(source.relative))
        with turn(outcome):
            for row, measured in _one(job, source, counted, outcome, progress):
                rows.append(row)
                found += ((row, level) for level in measured)
        outcome.seconds = time.monotonic() - start
        progress.close()
        report.done(outcome)
    steps = np.array([level.steps for _, level in found])
    t_max = covering(steps, schedule(job.schedule).steps, job.cover) if len(steps) else None
    if job.csv is not None:
        _write_csv(Path(job.csv), found)
    if job.plot is not None and t_max is not None:
        label = f"T' = {t_max}\n{len(steps)} windows, {job.method}, schedule {job.schedule}"
        pictures.histogram(Path(job.plot), steps, BIN, (t_max, label))
    return CalibrationSummary(tuple(rows), len(steps), t_max)


def detector(path: str, device: str, report: Report) -> Camera:
    """A camera file, or what the noise of an image, or of the images in a folder, says of one.

    Raises UsageError, NoInputError, and InputError where no image can be measured.
    """
    if Path(path).suffix.lower() in (".yaml", ".yml"):
        return cameras.read(Path(path))
    rows = run(prepare(CalibrateJob(Files((path,), ""), device=device)), report).rows
    if not rows:
        raise InputError(f"{path}: no image could be measured")
    offset, gain, read_noise = (
        float(np.median([getattr(row, name) for row in rows])) for name in cameras.NUMBERS
    )
    return Camera(offset, gain, read_noise)


def covering(steps: np.ndarray, most: int, share: float) -> int:
    """T', the number of steps to train a prior for: enough for this share of the windows.

    Rounded up to a multiple of BIN, limited to the schedule's `most`. RSCD takes T' = 200 from the
    maximum of 63,000 images (Figure 12), share 1; a quantile is robust to single windows.
    """
    needed = float(np.quantile(steps, share, method="higher"))
    return min(max(BIN, int(np.ceil(needed / BIN)) * BIN), most)


def sampled(header: Header, channel: int, most: int | None) -> list[Picked]:
    """At most `most` windows of one channel, spread evenly over its planes and in each plane."""
    windows = step_map.grid(header)
    planes = sorted(plane for plane in header.planes if plane[1] == channel)
    if most is None or len(planes) * len(windows) <= most:
        return [(plane, window) for plane in planes for window in windows]
    count = min(len(planes), most)
    each = min(len(windows), most // count)
    return [
        (planes[p], windows[w])
        for k, p in enumerate(spread(len(planes), count))
        for w in spread(len(windows), each, shift=k)
    ]


def _mostly_valid(image: Image, picked: list[Picked]) -> list[Picked]:
    """The windows in which at least half of the pixels are measured; all, if there is none."""
    found = []
    for plane, window in picked:
        invalid = image.invalid(plane)
        if invalid is None or invalid[window.read].mean() <= 0.5:
            found.append((plane, window))
    return found or picked


def _one(
    job: CalibrateJob,
    source: inputs.Source,
    counted: Counted,
    outcome: Outcome,
    progress: Progress,
) -> list[tuple[ChannelRow, list[Level]]]:
    """Measure all channels of one image. Raises InputError."""
    measured = []
    with open_image(source.path, axes=job.files.axes, series=source.series) as measurable:
        header = measurable.header
        outcome.warnings += measurable.unusual
        chosen = header.chosen(job.files.channels, source.path)
        image, known = cleaned.cleaned(measurable, chosen, job.noise, counted.camera)
        groups = channels.together(image, chosen, counted.card)
        picked = [
            _mostly_valid(image, sampled(header, members[0], job.windows)) for members in groups
        ]
        areas = [w.shape[0] * w.shape[1] for windows in picked for _, w in windows]
        progress.start(len(areas), "windows", sum(areas))
        described = {}
        for members, windows in zip(groups, picked, strict=True):
            parts = channels.fit_models(image, members, counted.card, job.noise, counted.prior)
            described["+".join(map(str, members))] = _described(header, parts)
            found = _measured(image, members, parts, windows, counted.counter, progress)
            photons = job.noise.excess_noise or 1.0
            if job.plot_noise is not None:
                place = Path(job.plot_noise) / source.relative.parent
                noise_story.draw(place, image, members, found, counted.prior, photons)
            measured += [(_row(image, known, members, *each, photons), each[-1]) for each in found]
    outcome.details.update(
        axes=header.axes,
        shape=list(header.shape),
        dtype=str(header.dtype),
        method=job.method,
        schedule=job.schedule,
        noise=described,
        channels=[asdict(row) for row, _ in measured],
    )
    outcome.calls = sum(row.windows for row, _ in measured) if job.method == "network" else 0
    for (channel,), rows in itertools.groupby((row for row, _ in measured), lambda r: (r.channel,)):
        where = f"channel {channel}: " if len(chosen) > 1 else ""
        alike = list(rows)
        texts = dict.fromkeys(text for row in alike for text in row.warnings)
        if len(alike) > 1:
            texts = {channels.differing([row.std for row in alike]): None} | texts
        outcome.warnings += [where + text for text in texts]
    cleaned.describe(outcome, image, known)
    return measured


def noise_models(image: Image, job: CalibrateJob) -> tuple[list[dict[str, Any]], list[str]]:
    """The noise model of each channel, and of each group of planes whose noise differs.

    Returns a row for each with the fields of NoiseModel after `channel` and `planes`, and warnings.
    Raises InputError, WeightsError.
    """
    prior = load(job.prior or "prior", "prior", job.weights_from)
    runner = make_runner(prior.card, prior.tensors, Compute(job.device))
    chosen = image.header.chosen(job.files.channels, image.path)
    camera = cameras.load(job.noise)
    noise = cameras.known(job.noise, camera)
    clean, known = cleaned.cleaned(image, chosen, noise, camera)
    rows, warnings = [], []
    for members in channels.together(clean, chosen, prior.card):
        for planes, model in channels.fit_models(clean, members, prior.card, noise, runner):
            where = {"channel": members[0], "planes": channels.planes_text(image.header, planes)}
            rows.append(where | model.describe()["noise"])
            warnings += [f"channel {members[0]}: {text}" for text in model.warnings()]
    return rows, [*warnings, *known.warnings()]


def _described(header: Header, parts: Sequence[Part]) -> dict[str, Any]:
    """The model of the channels, or that of each group of planes."""
    models = [(channels.planes_text(header, planes), model.describe()) for planes, model in parts]
    if len(models) == 1:
        return models[0][1]
    return {"groups": [{"planes": planes, **model} for planes, model in models]}


def _measured(
    image: Image,
    members: Sequence[int],
    parts: Sequence[Part],
    picked: Sequence[Picked],
    counter: StepCounter,
    progress: Progress,
) -> list[tuple[str, Model, list[Level]]]:
    """The noise of the windows of channels that are restored together: planes, model, windows."""
    part_of = {place: k for k, (planes, _) in enumerate(parts) for place in planes or ()}
    found: dict[int, list[Level]] = defaultdict(list)
    for k, same in itertools.groupby(picked, lambda pick: part_of.get(pick[0][::2], 0)):
        model = parts[k][1]
        found[k] += step_map.levels(image, members, model, list(same), counter, progress.advance)
    names = [
        "all" if len(parts) == 1 else channels.planes_text(image.header, planes).replace(" ", "")
        for planes, _ in parts
    ]
    return [(names[k], parts[k][1], found[k]) for k in sorted(found)]


def _row(
    image: Image,
    known: Masked,
    members: Sequence[int],
    planes: str,
    model: Model,
    found: Sequence[Level],
    excess: float,
) -> ChannelRow:
    """The line of the table for these windows; excess: noise factor, of which gain is rid."""
    steps = [level.steps for level in found]
    relative = [level.relative for level in found if level.relative is not None]
    names, noises = image.header.channels, model.noises
    along = [n.along or (n.correlation, n.correlation) for n in noises]
    removed = image.describe() if isinstance(image, destripe.Destriped) else {}
    stripes = [removed[c] for c in members if c in removed]
    lines = [
        each["rows"] ** 2
        + each["columns"] ** 2
        + sum(w["amplitude"] ** 2 / 2 for w in each["waves"])
        for each in stripes
    ]
    counts = [known.describe().get(str(c), {}) for c in members]

    def typical(name: str) -> float:
        return float(np.median([getattr(noise, name) for noise in noises]))

    photons = typical("photons_median") * excess
    return ChannelRow(
        file=str(image.path),
        channel="+".join(names[c] if names else str(c) for c in members),
        c=members[0],
        planes=planes,
        windows=len(found),
        sigma=float(np.median([level.sigma for level in found])),
        steps=float(np.median(steps)),
        steps_min=min(steps),
        steps_max=max(steps),
        relative=float(np.median(relative)) if relative else None,
        std=float(np.median([level.std for level in found])),
        noise=Counter(noise.kind for noise in noises).most_common(1)[0][0],
        level=typical("level"),
        photons=photons if np.isfinite(photons) else None,
        gain=typical("gain") / excess,
        offset=typical("offset") + image.zero(members[0]),
        read_noise=typical("read_noise"),
        correlation=typical("correlation"),
        correlation_y=float(np.median([down for down, _ in along])),
        correlation_x=float(np.median([across for _, across in along])),
        lines=float(np.sqrt(max(lines, default=0.0))),
        invalid=sum(each.get("kept", 0) + each.get("repaired", 0) for each in counts),
        belief=min((noise.belief for noise in noises), default=1.0),
        reasons=tuple(dict.fromkeys(text for noise in noises for text in noise.reasons)),
        warnings=tuple(dict.fromkeys(text for noise in noises for text in noise.warnings)),
        regions=tuple(_region(level) for level in found),
    )


def _region(level: Level) -> Region:
    (top, bottom), (left, right) = level.rows, level.cols
    size = bottom - top, right - left
    return Region(level.plane, (top, left), size, level.relative, level.std)


def _write_csv(path: Path, found: Iterable[tuple[ChannelRow, Level]]) -> None:
    """Write one row per window. Raises OutputError, DiskFullError."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row, level in found:
            top, left = level.rows[0], level.cols[0]
            size = level.rows[1] - top, level.cols[1] - left
            relative = "" if level.relative is None else f"{level.relative:.6g}"
            numbers = (f"{level.sigma:.6g}", f"{level.steps:.6g}", relative, f"{level.std:.6g}")
            names = spreadsheet_cell(row.file), spreadsheet_cell(row.channel)
            writer.writerow([*names, *level.plane, top, left, *size, *numbers])
