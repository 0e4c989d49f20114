"""Image pairs for training: equal relative names in two folders, aligned, on one scale; and noisy
images without pairs.

A clean image `cells/1.tif` may have several noisy versions, in the folder `cells/1`. Pairs that
cannot be used are left out, with a warning, when the folders are scanned. The clean image is scaled
to the noisy one and both are converted to network units, so that the target is a perfect
restoration of the noisy image. The scale is that of each pair, or one for all: then results can be
given on the scale of the clean images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath

import numpy as np
import torch
from numpy.typing import NDArray

from restorectl.engine.card import OutputScale
from restorectl.errors import InputError, NoInputError, blamed
from restorectl.images.blocks import middle, sampled_pixels
from restorectl.images.header import Plane
from restorectl.images.image import base_name, open_image
from restorectl.images.recent import Recent
from restorectl.images.registration import (
    Transform,
    matched_shift,
    phase_shift,
    register,
    resample,
    shift_error,
    valid_area,
)
from restorectl.intensity import whitening
from restorectl.intensity.whitening import Intensity
from restorectl.jobs import MAX_SHIFT
from restorectl.training.dataset import (
    CropBatch,
    ImageReader,
    Region,
    TrainingImage,
    fingerprint,
    scan,
)

# Correlation peak / rms: 46 to 207 for pairs of FMD and GigaDB, 7 to 10 for different fields.
CLEAREST = 12.0
# The same of the cross-correlation: from 7.1 for phantoms of 1 photon, up to 6.6 for other fields.
MATCHED = 7.0
CONFIDENCE = 3.0  # standard deviations of a shift by which it may exceed the limit
LARGEST = 2048  # px; the shift is measured in the middle of larger planes
SHOWN = 5  # names in one warning
MATCH_BLOCK = 8  # px; block means hardly depend on noise, blur or a shift of half a pixel
NODES = 4096  # nodes of the inverse intensity model, with interpolation

Area = tuple[int, int, int, int]  # rows [first, last), columns [left, right)


@dataclass(frozen=True)
class Match:
    """How clean and noisy values vary together: counts, means, and sums of squares around them."""

    count: int
    clean: float  # mean
    noisy: float  # mean
    spread: float  # of clean
    common: float  # of clean and noisy

    @property
    def scale(self) -> tuple[float, float]:
        """Least-squares (gain, offset) from clean to noisy; (1, 0) if clean is constant."""
        if self.spread == 0:
            return 1.0, 0.0
        gain = self.common / self.spread
        return gain, self.noisy - gain * self.clean


def pooled(matches: Sequence[Match]) -> Match:
    """The match of all values together."""
    count = sum(m.count for m in matches)
    clean = sum(m.count * m.clean for m in matches) / count
    noisy = sum(m.count * m.noisy for m in matches) / count
    spread = sum(m.spread + m.count * (m.clean - clean) ** 2 for m in matches)
    common = sum(m.common + m.count * (m.clean - clean) * (m.noisy - noisy) for m in matches)
    return Match(count, clean, noisy, spread, common)


@dataclass(frozen=True)
class TrainingPair:
    """models: intensity model of each channel, fitted to the noisy image. matches: of each clean
    channel with the noisy one. transform: aligns clean to noisy."""

    noisy: TrainingImage
    clean: TrainingImage
    models: tuple[Intensity, ...]
    matches: tuple[Match, ...]
    transform: Transform | None
    area: Area  # common area, px of the noisy image

    def cropped(self) -> TrainingImage:
        """The noisy image, with the size of the common area."""
        first, last, left, right = self.area
        return replace(self.noisy, shape=(*self.noisy.shape[:3], last - first, right - left))


@dataclass(frozen=True)
class ScannedPairs:
    """The result of a scan: usable pairs, and a warning for each that was left out."""

    pairs: tuple[TrainingPair, ...]
    warnings: tuple[str, ...]

    def fingerprint(self) -> str:
        """Changes when an image is added, removed or changed, and with the alignment."""
        return fingerprint(repr([(p.noisy, p.clean, p.transform, p.area) for p in self.pairs]))

    def on_one_scale(self, channels: int) -> tuple["ScannedPairs", OutputScale]:
        """The pairs with one gain and offset for all, and its inverse, from noisy to clean.

        channels: 1 = all channels have the same, else each has its own. Raises InputError if the
        clean images do not become brighter with the noisy ones.
        """
        if channels == 1:
            columns = [[match for pair in self.pairs for match in pair.matches]]
        else:
            columns = [[pair.matches[c] for pair in self.pairs] for c in range(channels)]
        found = tuple(map(pooled, columns))
        scales = [match.scale for match in found]
        if min(gain for gain, _ in scales) <= 0:
            raise InputError(
                "data.scale=target: the clean images do not become brighter where the noisy ones"
                " do: check the pairs, or use data.scale=input"
            )
        alike = [
            replace(pair, matches=found * (len(pair.matches) // len(found))) for pair in self.pairs
        ]
        output = OutputScale(
            tuple(1 / gain for gain, _ in scales),
            tuple(-offset / gain for gain, offset in scales),
            str(np.result_type(*(pair.clean.dtype for pair in self.pairs))),
        )
        return replace(self, pairs=tuple(alike)), output


def scan_pairs(
    clean: Path,
    noisy: Path,
    channels: int,
    axes: str | None = None,
    align: str | None = None,
    max_shift: float = MAX_SHIFT,
) -> ScannedPairs:
    """Find the pairs in two folders: a noisy image has the relative name of the clean one, or lies
    in a folder that is named like it, without the ending.

    align: None, or one of ALIGNMENTS, to resample each clean image onto its noisy one. max_shift:
    px; pairs with a larger shift are left out, unless noise can be the reason. Raises NoInputError
    if no pair can be used.
    """
    folders = [scan(folder, channels, axes) for folder in (clean, noisy)]
    targets, inputs = ({s.name: s for s in folder.images} for folder in folders)
    warnings = [line for folder in folders for line in folder.warnings]
    stems = {str(PurePath(name).with_name(base_name(PurePath(name)))): name for name in targets}
    wanted = {name: name if name in targets else _shown(name, stems) for name in inputs}
    known = {name: target for name, target in wanted.items() if target is not None}
    lone = (targets.keys() - known.values(), inputs.keys() - known.keys())
    for names, here, there in zip(lone, (clean, noisy), (noisy, clean), strict=True):
        if alone := sorted(names):
            more = f" and {len(alone) - SHOWN} more" if len(alone) > SHOWN else ""
            warnings.append(
                f"left out: no image of the same name in {there} for {len(alone)} in {here}:"
                f" {', '.join(alone[:SHOWN])}{more}"
            )
    found = []
    for name in sorted(known):
        try:
            found.append(_aligned(targets[known[name]], inputs[name], align, max_shift))
        except Exception as error:
            warnings.append(f"left out: {blamed(noisy / name, error)}")
    if not found:
        first = f"; {len(warnings)} warnings, first: {warnings[0]}" if warnings else ""
        raise NoInputError(
            f"{clean} and {noisy}: no usable pair of images with equal relative names{first}"
        )
    return ScannedPairs(tuple(found), tuple(warnings))


def _shown(name: str, stems: Mapping[str, str]) -> str | None:
    """The clean image of which this is one of several noisy versions, by the name of a folder."""
    parents = map(str, PurePath(name).parents)
    return next((stems[parent] for parent in parents if parent in stems), None)


def _aligned(
    clean: TrainingImage, noisy: TrainingImage, align: str | None, max_shift: float
) -> TrainingPair:
    """Check a pair, and align it if asked for. Raises InputError if it is not a pair."""
    times, n, depth, height, width = noisy.shape
    with (
        open_image(noisy.path, axes=noisy.axes) as image,
        open_image(clean.path, axes=clean.axes) as other,
    ):
        image.header.require_same_shape(noisy.path, other.header, clean.path)
        models = tuple(whitening.fit(sampled_pixels(image, c)) for c in range(n))
        planes = [(times // 2, c, depth // 2) for c in range(n)]
        seen = [np.asarray(image.read(plane), np.float32) for plane in planes]
        wanted = [np.asarray(other.read(plane), np.float32) for plane in planes]
    matches = tuple(map(matched, wanted, seen))
    gain, offset = matches[0].scale
    a, b = (models[0].forward(plane) for plane in (seen[0], wanted[0] * gain + offset))
    noise = models[0].noise.level * 2 / (models[0].high - models[0].low)  # network units
    limit = (noise, max_shift)
    if align is None:
        _check_shift(_middle(a), _middle(b), *limit, noisy.name, "align with `register` rigid")
        return TrainingPair(noisy, clean, models, matches, None, (0, height, 0, width))
    transform = register(a, b, align)
    area = first, last, left, right = valid_area((height, width), transform)
    if min(last - first, right - left) < 16:
        raise InputError(f"{noisy.name}: hardly overlaps with its clean image after `register`")
    inside = (slice(first, last), slice(left, right))
    rest = _middle(a[inside]), _middle(resample(b, transform)[inside])
    advice = f"`register` {align} could not align it: check the pair"
    _check_shift(*rest, *limit, noisy.name, advice)
    wanted = [resample(plane, transform)[inside] for plane in wanted]
    matches = tuple(map(matched, wanted, [plane[inside] for plane in seen]))
    return TrainingPair(noisy, clean, models, matches, transform, area)


def _check_shift(
    noisy: NDArray[np.float32],
    clean: NDArray[np.float32],
    noise: float,
    max_shift: float,
    name: str,
    advice: str,
) -> None:
    """Raises InputError unless both images show the same field without shift.

    In weak light a shift cannot be measured as exactly as `max_shift`; then it may be larger by
    CONFIDENCE times its own uncertainty.
    """
    shift = phase_shift(noisy, clean)
    if shift.length <= max_shift:
        return
    likely = matched_shift(noisy, clean)
    error = CONFIDENCE * shift_error(clean, noise)
    if likely.score >= MATCHED and likely.length <= max_shift + error:
        return
    if shift.score < CLEAREST:
        raise InputError(
            f"{name}: its clean image shows another field or is rotated: check the names; {advice}"
        )
    raise InputError(
        f"{name}: its clean image is shifted by {shift.dy:.2f}, {shift.dx:.2f} px (y, x): {advice},"
        " or allow it with `max_shift`"
    )


def _middle(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """The middle of a plane, at most LARGEST px per side."""
    return plane[tuple(middle(slice(0, length), LARGEST) for length in plane.shape)]


class PairReader:
    """Reads regions of pairs in network units; caches planes. Not thread-safe.

    noisy: the targets are exposures too, converted like the inputs: their mean is what is learnt.
    """

    def __init__(
        self, pairs: Sequence[TrainingPair], cache_bytes: int, noisy: bool = False
    ) -> None:
        self.noisy, self.planes = noisy, 1
        self.pairs, self.cache = pairs, Recent(cache_bytes)
        self.images: Sequence[TrainingImage] = [pair.cropped() for pair in pairs]
        self.scenes: Sequence[str] = [pair.clean.name for pair in pairs]

    def read(self, regions: Sequence[Region]) -> CropBatch:
        """Targets and noisy images of regions of equal size."""
        both = [[self._pixels(region, c) for c in region.channels] for region in regions]
        pixels = np.array(both, np.float32)  # (B, C, 2, H, W)
        target, partner = torch.from_numpy(pixels).unbind(2)
        ranges = torch.tensor([-1.0, -1.0, 1.0]).expand(*target.shape[:2], 3)
        return CropBatch(target, ranges, partner)

    def close(self) -> None:
        """Drop all planes."""
        self.cache.clear()

    def _pixels(self, region: Region, c: int) -> NDArray[np.float32]:
        place = region.image, (region.t, c, region.z)
        return self.cache.get(place, partial(self._plane, *place))[:, *region.area]

    def _plane(self, index: int, plane: Plane) -> NDArray[np.float32]:
        """Target and noisy image of the common area, (2, Y, X) float32 in network units."""
        pair = self.pairs[index]
        with open_image(pair.clean.path, axes=pair.clean.axes) as image:
            clean = np.asarray(image.read(plane), np.float32)
        with open_image(pair.noisy.path, axes=pair.noisy.axes) as image:
            noisy = image.read(plane)
        if pair.transform is not None:
            clean = resample(clean, pair.transform)
        gain, offset = pair.matches[plane[1]].scale
        model = pair.models[plane[1]]
        wanted = clean * gain + offset
        target = model.forward(wanted) if self.noisy else matched_target(wanted, model)
        both = np.stack([target, model.forward(noisy)])
        first, last, left, right = pair.area
        return both[:, first:last, left:right]


class WhitenedReader(ImageReader):
    """Reads regions of noisy images in network units: each channel is whitened by its own noise."""

    def __init__(self, images: Sequence[TrainingImage], cache_bytes: int) -> None:
        super().__init__(images, cache_bytes)
        self.models = []
        for known in images:
            with open_image(known.path, axes=known.axes) as image:
                channels = range(known.shape[1])
                self.models.append([whitening.fit(sampled_pixels(image, c)) for c in channels])

    def read(self, regions: Sequence[Region]) -> CropBatch:
        """Read regions of equal size."""
        pixels = [
            [self.models[r.image][c].forward(self._pixels(r, c)) for c in r.channels]
            for r in regions
        ]
        ranges = torch.tensor([-1.0, -1.0, 1.0]).expand(len(pixels), len(pixels[0]), 3)
        return CropBatch(torch.from_numpy(np.array(pixels, np.float32)), ranges)


def matched(clean: NDArray[np.floating], noisy: NDArray[np.floating]) -> Match:
    """How the means of small blocks of two planes (Y, X), at least 8 px per side, vary together."""
    height, width = (n // MATCH_BLOCK * MATCH_BLOCK for n in clean.shape)
    means = [
        np.asarray(plane[:height, :width], np.float64)
        .reshape(height // MATCH_BLOCK, MATCH_BLOCK, width // MATCH_BLOCK, MATCH_BLOCK)
        .mean((1, 3))
        .ravel()
        for plane in (clean, noisy)
    ]
    x, y = (m - m.mean() for m in means)
    clean_mean, noisy_mean = (float(m.mean()) for m in means)
    return Match(len(x), clean_mean, noisy_mean, float(x @ x), float(x @ y))


def matched_target(clean: NDArray[np.floating], model: Intensity) -> NDArray[np.float32]:
    """The perfect restoration in network units: its unbiased inverse is `clean`.

    clean: any shape, input units of the noisy image that `model` was fitted on. For low counts this
    is not `model.forward`, since the mean of stabilised counts is not the stabilised mean.
    """
    values = np.asarray(clean, np.float64)
    low, high = -1.5, 1.5
    while model.inverse(np.array(low)) > values.min() and low > -1e6:
        low = 2 * low
    while model.inverse(np.array(high)) < values.max() and high < 1e6:
        high = 2 * high
    grid = np.linspace(low, high, NODES)
    known = np.asarray(model.inverse(grid), np.float64)
    return np.interp(values, known, grid).astype(np.float32)
