"""`uncertainty`: restore each image many times; write the mean, spread and error bars as maps.

Also writes an overview picture, and summary values into the outcome.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from restorectl import catalog
from restorectl.batch import inputs
from restorectl.batch.cluster import Made
from restorectl.batch.outcome import Outcome, Report, Silent
from restorectl.batch.plan import Record
from restorectl.batch.run import run
from restorectl.engine.runner import measuring
from restorectl.engine.samplers import Method
from restorectl.errors import InputError, UsageError, WeightsError
from restorectl.images.blocks import sampled_pixels
from restorectl.images.image import Image, base_name, open_written
from restorectl.jobs import UncertaintyJob
from restorectl.restoration import intervals, preview, stand_in, trust
from restorectl.restoration.channels import ChannelGroup
from restorectl.restoration.expected import JUDGED, judge
from restorectl.restoration.intervals import Calibration
from restorectl.restoration.planes import Fitted, Planes, Told
from restorectl.restoration.restorer import Batch, Reduction, Restorer, Samples, load_restorer
from restorectl.restoration.trust import Barred

NEIGHBOURS = ("context", "reach")  # errors are in units of the noise that averaging leaves
ONE_SIGMA = 0.6827  # share within one standard deviation of a normal distribution
CALIBRATED = 4  # network calls of a sample; too few for their spread to be that of the error
PRODUCTS = ("mean", "std", "entropy", "lower", "upper")
LEVELS = 2.0  # times beyond the noise levels that a calibration was made from, at most


@dataclass(frozen=True)
class Sampled(Planes):
    """The `Work` of `uncertainty`. calibration: packaged or named; None = none that fits."""

    calibration: Calibration | None = None

    def fit(self, image: Image, outcome: Outcome, guide: Image | None = None) -> Fitted:
        """Fit the channels' models, and choose the calibration; what was chosen is told.

        Raises InputError for an image that is not like those of a calibration that was named.
        """
        fitted, used = super().fit(image, outcome, guide), self.calibration
        restorer = fitted.near.restorer
        job = restorer.job
        assert isinstance(job, UncertaintyJob)
        name = job.calibration
        if name == "auto":
            name = "embedded"
            unlike = [] if used is None else _unlike(used, fitted, outcome)
            if used is None or unlike:
                outcome.warnings += [
                    f"the embedded calibration is passed over: {u}" for u in unlike
                ]
                name = "self"
        elif used is not None and (unlike := _unlike(used, fitted, outcome)):
            raise InputError(f"`calibration` {name}: {unlike[0]}: make one with `calibrate`")
        if name == "self":
            used = by_itself(restorer, fitted, sampling(job))
        outcome.details["calibration"] = "none" if used is None else name
        restorer = replace(restorer, reduction=error_bars(job.interval, used))
        return Barred(
            **{**vars(fitted), "near": replace(fitted.near, restorer=restorer)}, calibration=used
        )


def by_itself(
    restorer: Restorer, fitted: Fitted, made_with: Mapping[str, Any]
) -> Calibration | None:
    """A calibration from the image alone, see `stand_in`; None if it has no noise."""
    judging = replace(restorer, reduction=JUDGED)
    with measuring():
        parts = [
            each
            for group in fitted.groups
            for each in stand_in.errors(judging, fitted.image, group)
        ]
    if not parts:
        return None
    return intervals.alone(parts, restorer.weights_sha256, made_with, truth="self")


def _unlike(calibration: Calibration, fitted: Fitted, outcome: Outcome) -> list[str]:
    """How channels differ from those of a calibration; their ranges are told in the outcome."""
    found, told = [], {}
    for group in fitted.groups:
        level = group.decided["sigma"]
        if level <= 0:
            continue
        for k, c in enumerate(group.channels):
            signal = _median_signal(fitted.image, group, k)
            signals, levels = np.expm1(calibration.signal_range), calibration.level_range
            told[str(c)] = {"signal": signal, "signals": signals.tolist()}
            told[str(c)] |= {"level": level, "levels": list(levels)}
            where = f"channel {c}: it was made from"
            if not signals[0] <= signal <= signals[1]:
                found.append(
                    f"{where} signals of {signals[0]:.1f} to {signals[1]:.1f} times their noise,"
                    f" here the median is {signal:.1f}"
                )
            if not levels[0] / LEVELS <= level <= levels[1] * LEVELS:
                found.append(
                    f"{where} noise levels of {levels[0]:.2f} to {levels[1]:.2f}, here it is"
                    f" {level:.2f}"
                )
    outcome.details["calibration_range"] = told
    return found


def _median_signal(image: Image, group: ChannelGroup, k: int) -> float:
    """Median light of a group's k-th channel, in units of its noise."""
    signals = []
    for block in sampled_pixels(image, group.channels[k], group.planes):
        pixels = np.repeat(block[None].astype(np.float32), len(group.channels), 0)
        noise = group.model.noise_std(np.nan_to_num(pixels))[k]
        signals.append(((block - group.light[0, k]) / np.where(noise > 0, noise, 1)).ravel())
    return float(np.nanmedian(np.concatenate(signals)))


def uncertainty(job: UncertaintyJob, report: Report) -> list[Outcome]:
    """Write all maps of all images. Raises for errors that stop the run, reports the others."""
    found = inputs.resolve(job.files, targets, folder_only=True)
    made = Made(partial(work, report=Silent()), job)
    return run(job.files, work(job, report), found, report, made)


def work(job: UncertaintyJob, report: Report) -> Planes:
    """What the job does with each image; a note if there is no calibration.

    Raises UsageError, WeightsError.
    """
    restorer = sampling_restorer(job)
    calibration = _calibration(job, restorer.weights_sha256, report)
    restorer = replace(restorer, reduction=error_bars(job.interval, None))
    plain = None if calibration is None else intervals.plain(calibration)
    made = "self" if plain is None and job.calibration != "none" else plain
    own = {**sampling(job), "interval": job.interval, "calibration": made}
    return Sampled("uncertainty", restorer, own, (trust.write, overview), calibration=calibration)


def targets(relative: PurePath) -> tuple[PurePath, ...]:
    """The output files of one image."""
    name = base_name(relative)
    maps = [relative.with_name(f"{name}_{product}.tif") for product in PRODUCTS]
    more = (relative.with_name(f"{name}_{part}") for part in ("trust.tif", "overview.png"))
    return (*maps, *more)


def sampling_restorer(job: UncertaintyJob) -> Restorer:
    """The models and the sampler of a job; the caller chooses the reduction of the samples.

    Raises UsageError for invalid options, WeightsError.
    """
    if job.samples < 2:
        raise UsageError(f"`samples` {job.samples}: a spread needs at least 2")
    if not 0 < job.interval < 1:
        raise UsageError(f"`interval` {job.interval:g}: must lie between 0 and 1, e.g. 0.9")
    method: Method = catalog.METHODS[job.source].load()
    wanted: dict[str, Any] = {"variance": job.variance, "single": False}
    if job.source == "posterior" and job.calibration != "none":
        wanted["steps"] = CALIBRATED
    settings = method.settings(**{k: v for k, v in wanted.items() if method.has(k)})
    restorer = load_restorer(job, method, settings)
    if restorer.card.output.gain:
        raise UsageError(
            f"`weights` {restorer.card.name}: give results on the scale of their training targets,"
            " for which there are no error bars: train with data.scale=input, or use denoise"
        )
    return restorer


def sampling(job: UncertaintyJob) -> dict[str, Any]:
    """The settings that the spread of the samples depends on, except the weights."""
    variance = job.variance if job.source == "posterior" else "ancestral"
    found: dict[str, Any] = {"source": job.source, "steps": job.steps, "variance": variance}
    found |= {"samples": job.samples, "noise": job.noise.kind}
    if job.context != "none":
        found |= {"context": job.context, "reach": job.reach}
    return found


def error_bars(interval: float, calibration: Calibration | None) -> Reduction:
    """Reduce samples to mean, std, entropy, lower and upper.

    interval: wanted share of pixels whose truth lies inside. calibration: None = uncalibrated.
    """

    def combine(samples: Samples, batch: Batch) -> np.ndarray:
        found = judge(samples, batch)
        if calibration is None:
            std = found.spread.std
            half = intervals.uncalibrated(std, found.spread.count, interval)
        else:
            what = found.expected, found.signal
            std = found.noise * calibration.half_width(*what, 0.0, ONE_SIGMA)
            half = found.noise * calibration.half_width(*what, found.removed, interval)
        maps = (found.mean, std, found.spread.entropy, found.mean - half, found.mean + half)
        return np.stack(maps, axis=1).astype(np.float32)  # (B, products, C, H, W)

    return Reduction(len(PRODUCTS), combine, (PRODUCTS.index("std"), PRODUCTS.index("entropy")))


def _calibration(job: UncertaintyJob, weights_sha256: str, report: Report) -> Calibration | None:
    """The calibration to use. Raises WeightsError, UsageError if a given one does not fit."""
    if job.calibration in ("none", "self"):
        return None
    wanted = sampling(job)
    if job.calibration != "auto":
        given = intervals.read_calibration(Path(job.calibration))
        if given.weights_sha256 != weights_sha256:
            raise WeightsError(
                f"`calibration` {job.calibration}: was made for other weights"
                f" ({given.weights_sha256[:12]}, here {weights_sha256[:12]}): make a new one"
                " with `calibrate`, or use `calibration` none"
            )
        if dict(given.sampling) != wanted:
            raise UsageError(
                f"`calibration` {job.calibration}: was made with {_text(given.sampling)}, not"
                f" {_text(wanted)}: make a new one with `calibrate`"
            )
        return given
    for each in intervals.packaged_calibrations():
        if each.weights_sha256 != weights_sha256:
            continue
        unlike = [
            k
            for k in {**wanted, **each.sampling}
            if wanted.get(k) != each.sampling.get(k) and k not in NEIGHBOURS
        ]
        if not unlike:
            return each
        made, here = ({k: d.get(k, "-") for k in unlike} for d in (each.sampling, wanted))
        report.note(
            f"the calibration of these weights was made with {_text(made)}, not {_text(here)}:"
            " error bars are calibrated on each image itself"
        )
        return None
    report.note("no calibration for these weights: error bars are calibrated on each image itself")
    return None


def _text(sampling: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sampling.items())


# ---- summary -----------------------------------------------------------------------------------
def overview(fitted: Fitted, parts: Sequence[Path], part: Path, record: Record) -> Told:
    """Draw the maps of each channel's middle plane; summarise all planes."""
    image = fitted.image
    preview.writer(preview.SAMPLED, ("after", *PRODUCTS[1:], "trust"))(fitted, parts, part, record)
    made = zip(PRODUCTS, parts, strict=False)
    maps = {name: open_written(path, image.header) for name, path in made}
    try:
        scales = {
            c: group.scale[:, k] for group in fitted.groups for k, c in enumerate(group.channels)
        }
        summary = {str(c): _sums(image, maps, c, scale) for c, scale in scales.items()}
    finally:
        for each in maps.values():
            each.close()
    warnings = [
        f"channel {c}: neighbouring residuals are correlated ({found['residual_correlation']:.2f}):"
        " the noise model does not hold, error bars may be too narrow"
        for c, found in summary.items()
        if abs(found["residual_correlation"]) > trust.CORRELATED
    ]
    return Told({"uncertainty": summary}, tuple(warnings))


def _sums(image: Image, maps: dict[str, Image], channel: int, scale: np.ndarray) -> dict[str, Any]:
    """Means over the pixels of a channel that have error bars; copied ones have none.

    unknown: number of pixels without. std_scaled: std in [0, 0.5], as in DDPM microscopy
    (Osuna-Vargas et al., eq. 15).
    """
    planes = [plane for plane in image.header.planes if plane[1] == channel]
    totals, unknown = dict.fromkeys(("std", "entropy", "width"), 0.0), 0
    pixels = len(planes) * image.header.canonical_shape[3] * image.header.canonical_shape[4]
    products, squares = 0.0, 0.0
    for plane in planes:
        read = {name: each.read(plane).astype(np.float64) for name, each in maps.items()}
        unknown += int(np.isnan(read["std"]).sum())
        totals["std"] += float(np.nansum(read["std"]))
        totals["entropy"] += float(np.nansum(read["entropy"]))
        totals["width"] += float(np.nansum(read["upper"] - read["lower"]))
        residual = image.read(plane) + image.zero(channel) - read["mean"]
        if (kept := image.kept(plane)) is not None:
            residual[kept[0]] = 0.0
        residual -= residual.mean()
        for a, b in ((residual[1:], residual[:-1]), (residual[:, 1:], residual[:, :-1])):
            products += float((a * b).sum())
            squares += float((a * a + b * b).sum()) / 2
    found: dict[str, Any] = {n: each / max(pixels - unknown, 1) for n, each in totals.items()}
    found["unknown"] = unknown
    found["std_scaled"] = found["std"] / float(scale[1] - scale[0])
    found["residual_correlation"] = products / squares if squares > 0 else 0.0
    return found
