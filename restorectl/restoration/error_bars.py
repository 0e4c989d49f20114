"""`uncertainty --calibrate`: fit error bars to pairs of noisy and true images."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from restorectl.batch import inputs
from restorectl.batch.outcome import Outcome, Report, turn
from restorectl.engine.runner import Account, counting
from restorectl.errors import InputError, UsageError, printable
from restorectl.images.header import Plane
from restorectl.images.image import Image, open_image
from restorectl.jobs import UncertaintyJob
from restorectl.restoration import channels, intervals
from restorectl.restoration.cleaned import cleaned
from restorectl.restoration.intervals import Calibration, Pixels
from restorectl.restoration.neighbours import Neighbours
from restorectl.restoration.planes import restored_planes
from restorectl.restoration.restorer import Restorer
from restorectl.restoration.uncertainty import error_bars, sampling, sampling_restorer

PIXELS = 250_000  # sampled per image, evenly spread over its planes

Samples = tuple[
    np.ndarray, np.ndarray, np.ndarray, np.ndarray
]  # truth, mean, std, noise: (n,) each


def calibrate(job: UncertaintyJob, truth: str, scale: str, report: Report) -> Calibration:
    """Fit a calibration to the images of a job and write it to its output.

    truth: folder of images named like the inputs. scale: "affine" first fits each true image to
    the restored mean. Raises UsageError, and InputError for fewer than two usable pairs.
    """
    output = Path(job.files.output)
    if output.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"`output` {output}: the calibration's file name must end in .yaml")
    if not Path(truth).is_dir():
        raise UsageError(f"`calibrate` {truth}: is not a folder of true images")
    files = job.files
    found = inputs.find(inputs.named(files), files.pattern, files.series, files.exclude)
    images = found.images
    if len({each.relative for each in images}) < len(images):
        raise UsageError("`calibrate`: two inputs have the same name: use a single folder")
    restorer = replace(sampling_restorer(job), reduction=error_bars(job.interval, None))
    inputs.announce(found, len(images), report)
    measured = []
    clean_names = inputs.match_names(
        (each.file or each.relative for each in images), inputs.walk(Path(truth), None)
    )
    for source in images:
        outcome, relative = Outcome(str(source.path), "", "done"), source.relative
        progress = report.file(str(relative))
        with turn(outcome), counting(Account(progress.advance)):
            name = source.file or relative
            clean = Path(truth) / clean_names.get(name, name)
            pixels = _measured(restorer, source, clean, scale)
            measured.append(replace(pixels, name=str(relative)))
        progress.close()
        report.done(outcome)
    made = intervals.fit(measured, restorer.weights_sha256, sampling(job), scale)
    if not made.guarantee:
        report.note(
            f"warning: {made.images} images are too few for a finite-sample bound at 90 % (needs"
            f" {intervals.ENOUGH}): coverage is measured, but not guaranteed"
        )
    intervals.write_calibration(output, made)
    return made


def table(calibration: Calibration) -> str:
    """Coverage of each image by a calibration fitted to the other images, tab-separated."""
    lines = [f"{printable(name)}\t{share:.3f}" for name, share in calibration.coverage.items()]
    return "\n".join(["image\tcoverage of the 90 % interval", *lines]) + "\n"


def _measured(restorer: Restorer, source: inputs.Source, truth: Path, scale: str) -> Pixels:
    """Errors and spreads of one image, in units of its noise level."""
    files = restorer.job.files
    with (
        open_image(source.path, axes=files.axes, series=source.series) as image,
        open_image(truth, axes=files.axes, series=source.series) as clean,
    ):
        header = image.header
        clean.header.require_same_shape(truth, header, source.path)
        parts = list(_sampled_pixels(restorer, image, clean))
    seen, mean, std, noise = (np.concatenate(each) for each in zip(*parts, strict=True))
    if scale == "affine":
        seen = np.polyval(np.polyfit(seen, mean, 1), seen)
    known = noise > 0
    if not known.any():
        raise InputError(f"{source.path}: no noise was found to calibrate: leave this image out")
    seen, mean, std, noise = (each[known] for each in (seen, mean, std, noise))
    return Pixels(str(source.path), np.abs(seen - mean) / noise, std / noise, mean / noise)


def _sampled_pixels(restorer: Restorer, image: Image, clean: Image) -> Iterator[Samples]:
    """Yield the sampled measured pixels of each plane, around `Image.zero`."""
    header = image.header
    chosen = header.chosen(restorer.job.files.channels, image.path)
    whitened = restorer.card.value_range == "whitened"
    noise = restorer.job.noise
    image, _ = cleaned(image, chosen, noise, restorer.camera, around_zero=whitened)
    groups = channels.fit_groups(image, chosen, restorer)
    group_of = channels.by_plane(header, groups)
    every = max(1, header.canonical_shape[3] * header.canonical_shape[4] * len(header.planes))
    every = max(1, every // PIXELS)
    products = restored_planes(Neighbours(restorer, image, group_of))
    for plane, rows, (_, std, _, low, high) in products:
        if plane in group_of:
            zero = image.zero(plane[1])
            mean = (low + high) / 2 - zero  # not rounded, unlike the first product
            group = group_of[plane]
            planes = np.repeat(mean[None].astype(np.float32), len(group.channels), 0)
            noise = group.model.noise_std(planes)[group.channels.index(plane[1])]
            truth = _read(clean, plane, rows) - zero
            invalid = image.invalid(plane, rows)
            measured = ... if invalid is None else ~invalid
            yield tuple(  # type: ignore[misc]
                each[measured].ravel()[::every].astype(np.float64)
                for each in (truth, mean, std, noise)
            )


def _read(clean: Image, plane: Plane, rows: slice) -> np.ndarray:
    pixels = clean.read(plane, rows).astype(np.float64)
    if not np.isfinite(pixels).all():
        raise InputError(f"{clean.path}: plane t,c,z = {plane} holds NaN or infinity")
    return pixels
