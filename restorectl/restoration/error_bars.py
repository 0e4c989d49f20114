"""`uncertainty --calibrate`: fit error bars to images whose errors are known or measured."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from restorectl.batch import inputs
from restorectl.batch.inputs import Source
from restorectl.batch.outcome import Outcome, Report, turn
from restorectl.engine.runner import Account, counting
from restorectl.errors import InputError, UsageError, printable
from restorectl.images.header import Plane
from restorectl.images.image import Image, open_image
from restorectl.jobs import UncertaintyJob
from restorectl.restoration import channels, intervals, stand_in
from restorectl.restoration.channels import ChannelGroup
from restorectl.restoration.cleaned import for_restorer
from restorectl.restoration.expected import JUDGED
from restorectl.restoration.intervals import Calibration, Pixels
from restorectl.restoration.neighbours import Neighbours
from restorectl.restoration.planes import restored_planes
from restorectl.restoration.restorer import Restorer
from restorectl.restoration.uncertainty import sampling, sampling_restorer

PIXELS = 250_000  # sampled per image, evenly spread over its planes
IMAGES, SELF, REPEATS = "images", "self", "repeats"

Samples = tuple[np.ndarray, ...]  # (n,) each: truth, and the products of JUDGED
Measure = Callable[[Source], list[Pixels]]


def calibrate(job: UncertaintyJob, truth: str, scale: str, report: Report) -> Calibration:
    """Fit a calibration to the images of a job and write it to its output.

    truth: folder of true images named like the inputs; `self`: the images alone; `repeats`: each
    folder of inputs holds exposures of one field. scale: "affine" first fits each true image to
    the restored mean. Raises UsageError, and InputError for fewer than two usable images.
    """
    output = Path(job.files.output)
    if output.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"`output` {output}: the calibration's file name must end in .yaml")
    kind = truth if truth in (SELF, REPEATS) else IMAGES
    if kind == IMAGES and not Path(truth).is_dir():
        raise UsageError(f"`calibrate` {truth}: is not a folder of true images, self or repeats")
    if kind != IMAGES and scale != "none":
        raise UsageError(f"`scale` {scale}: works only together with `calibrate` DIR")
    files = job.files
    found = inputs.find(inputs.named(files), files.pattern, files.series, files.exclude)
    images = found.images
    restorer = replace(sampling_restorer(job), reduction=JUDGED)
    measure = _measures(restorer, truth, scale, images)
    inputs.announce(found, len(images), report)
    measured: list[Pixels] = []
    for source in images:
        outcome = Outcome(str(source.path), "", "done")
        progress = report.file(str(source.relative))
        with turn(outcome), counting(Account(progress.advance)):
            measured += measure(source)
        progress.close()
        report.done(outcome)
    made = intervals.fit(
        measured,
        restorer.weights_sha256,
        sampling(job),
        scale,
        kind,
    )
    if not made.guarantee:
        report.note(
            f"warning: {made.images} images are too few for a finite-sample bound at 90 % (needs"
            f" {intervals.ENOUGH}): coverage is measured, but not guaranteed"
        )
    elif kind != IMAGES:
        report.note(
            "the finite-sample bound at 90 % holds on average over images like these, as far as the"
            " noise model and the samples that stand in for true images are right"
        )
    intervals.write_calibration(output, made)
    return made


def table(calibration: Calibration) -> str:
    """Coverage of each image by a calibration fitted to the other images, tab-separated."""
    lines = [f"{printable(name)}\t{share:.3f}" for name, share in calibration.coverage.items()]
    return "\n".join(["image\tcoverage of the 90 % interval", *lines]) + "\n"


def _measures(restorer: Restorer, truth: str, scale: str, images: Sequence[Source]) -> Measure:
    """How the errors of an image are measured. Raises UsageError."""
    if truth == SELF:
        return lambda source: _by_itself(restorer, source, (), len(images) == 1)
    if truth == REPEATS:
        fields: dict[Path, list[Source]] = defaultdict(list)
        for each in images:
            fields[each.path.parent].append(each)
        for folder, found in fields.items():
            if len(found) < 2:
                raise UsageError(
                    f"`calibrate` repeats: {folder} holds one image: each folder must hold the"
                    " exposures of one field"
                )
        return lambda source: _by_itself(
            restorer, source, [s for s in fields[source.path.parent] if s is not source], False
        )
    if len({each.relative for each in images}) < len(images):
        raise UsageError("`calibrate`: two inputs have the same name: use a single folder")
    clean = inputs.match_names(
        (each.file or each.relative for each in images), inputs.walk(Path(truth), None)
    )

    def with_truth(source: Source) -> list[Pixels]:
        name = source.file or source.relative
        return [_with_truth(restorer, source, Path(truth) / clean.get(name, name), scale)]

    return with_truth


def _by_itself(
    restorer: Restorer, source: Source, repeats: Sequence[Source], apart: bool
) -> list[Pixels]:
    """Errors of an image without a truth; apart: of each sampled part, not of all together."""
    files = restorer.job.files
    with ExitStack() as stack:
        image, *others = (
            stack.enter_context(open_image(each.path, axes=files.axes, series=each.series))
            for each in (source, *repeats)
        )
        for each in others:
            each.header.require_same_shape(each.path, image.header, source.path)
        image, groups = _fitted(restorer, image)
        others = [for_restorer(each, restorer)[0] for each in others]
        parts = [p for group in groups for p in stand_in.errors(restorer, image, group, others)]
    if not parts:
        raise InputError(f"{source.path}: no noise was found to calibrate: leave this image out")
    if apart:
        return [replace(each, name=f"{source.relative} {each.name}") for each in parts]
    joined = {
        name: np.concatenate([getattr(each, name) for each in parts])
        for name in ("error", "expected", "signal")
    }
    return [Pixels(str(source.relative), **joined, level=float(np.mean([p.level for p in parts])))]


def _fitted(restorer: Restorer, image: Image) -> tuple[Image, list[ChannelGroup]]:
    """The image as it is restored, and the models of its channels."""
    chosen = image.header.chosen(restorer.job.files.channels, image.path)
    image, _ = for_restorer(image, restorer)
    return image, channels.fit_groups(image, chosen, restorer)


def _with_truth(restorer: Restorer, source: Source, truth: Path, scale: str) -> Pixels:
    """Errors of one image with a known truth, in units of its noise."""
    files = restorer.job.files
    with (
        open_image(source.path, axes=files.axes, series=source.series) as image,
        open_image(truth, axes=files.axes, series=source.series) as clean,
    ):
        clean.header.require_same_shape(truth, image.header, source.path)
        image, groups = _fitted(restorer, image)
        parts = list(_sampled_pixels(restorer, image, groups, clean))
    if not parts:
        raise InputError(f"{source.path}: no noise was found to calibrate: leave this image out")
    columns = (np.concatenate(each) for each in zip(*parts, strict=True))
    seen, mean, expected, signal, noise, removed, _ = columns
    if scale == "affine":
        seen = np.polyval(np.polyfit(seen, mean, 1), seen)
    level = float(np.mean([group.decided["sigma"] for group in groups]))
    name = str(source.relative)
    error = intervals.unexplained(np.abs(seen - mean) / noise, removed)
    return Pixels(name, error, expected, signal, level)


def _sampled_pixels(
    restorer: Restorer, image: Image, groups: Sequence[ChannelGroup], clean: Image
) -> Iterator[Samples]:
    """Yield the sampled measured pixels of each plane with noise, around `Image.zero`."""
    header = image.header
    group_of = channels.by_plane(header, groups)
    every = max(1, header.canonical_shape[3] * header.canonical_shape[4] * len(header.planes))
    every = max(1, every // PIXELS)
    products = restored_planes(Neighbours(restorer, image, group_of))
    for plane, rows, (_, *maps) in products:
        if plane in group_of and group_of[plane].decided["sigma"] > 0:
            truth = _read(clean, plane, rows) - image.zero(plane[1])
            invalid = image.invalid(plane, rows)
            measured = ... if invalid is None else ~invalid
            yield tuple(
                each[measured].ravel()[::every].astype(np.float64) for each in (truth, *maps)
            )


def _read(clean: Image, plane: Plane, rows: slice) -> np.ndarray:
    pixels = clean.read(plane, rows).astype(np.float64)
    if not np.isfinite(pixels).all():
        raise InputError(f"{clean.path}: plane t,c,z = {plane} holds NaN or infinity")
    return pixels
