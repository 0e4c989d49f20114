"""What the prior itself says about the noise of an image.

The blind estimate of `intensity.noise` takes fine texture for noise. The prior can tell them apart:
sampled tiles are denoised at a level L that is told to it, and again with a little noise added,
which shows how much of white noise of level L it would remove, place by place (a Monte-Carlo
Jacobian; Ramani, Blu and Unser, IEEE TIP 17(9), 2008). Then

- the highest frequencies of what was removed, compared with what it would remove of white noise,
  give the level of the white noise nearly independently of L. The fifth of the image with least
  structure counts, since texture only adds;
- beyond the level of real noise the residual no longer grows with L: it stands on a plateau.
  Texture makes none;
- noise that neighbouring pixels share leaves more at middle frequencies. So does texture; noise
  alone leaves larger structures visible, has no skewness, and stands on the plateau at its level.

Where the evidence conflicts, the smaller level wins; also that of the eigenvalues of patches
(`nonparametric_level`), if what is removed at that level is white.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage, stats

from restorectl.intensity import anscombe
from restorectl.intensity.invalid import fill
from restorectl.intensity.noise import estimate, nonparametric_level
from restorectl.intensity.whitening import INFLATION, Intensity, scaled
from restorectl.jobs import NoiseOptions

Floats = np.ndarray
# (tiles (B, H, W) in [-1, 1], noise level in these units) -> denoised tiles (B, H, W)
Denoise = Callable[[Floats, float], Floats]

BLOCK = 8  # px, side of the blocks in which residuals are compared
WIDE = 24  # px, side of the blocks whose means show what structure is left
CELL = 32  # px, side of the cells in which noise that varies over a plane is seen
RUNG = 1.26  # ratio of neighbouring told levels
ADDED = 0.3  # noise added to find what the prior would remove, in units of the told level
AGREE = 0.85  # a white level of at least this share of the told one confirms it
LOWEST = 0.02  # of the blind level: the smallest level that is told
STABLE = 0.36  # whitened variance below which counts are too low to judge a block by
# Slope d log residual / d log level above the noise level: at most PLATEAU for real noise (0.1 to
# 0.8 on FMD, GigaDB and simulated camera noise; actin 1.0 to 1.5). Beyond it, the level is lowered.
PLATEAU = 0.85
LOWERED = 0.75
# A level on the edge of the plateau, where 5 % less costs decibels, is raised (5-photon images).
EDGE, DIM = (0.4, 0.125), 10.0  # slopes below and above; photons
# Correlated noise, not texture (FMD widefield, simulated kernels; puncta, filaments, actin):
LEFT = 0.3  # block means still vary by this share of the level
EXPLAINED = 0.6  # residual / what white noise of the level between white and blind would leave
SKEWNESS = 0.3
CONTRASTS = (0.6, 1.6, 7.0, 14.0)  # of what is left to the blind level
COLOURED = 1.2  # level at middle frequencies, relative to the white level
FLAT = 0.6  # slope at the blind level
# The eigenvalues' level counts below CLOSE of another and if, told it, the prior removes what
# alternates from pixel to pixel (white noise -0.04 to -0.2, shared noise -0.03 to 0.5).
CLOSE, APART = 0.95, -0.03
# Noise that varies over a plane: 90 % / 10 % quantile of the cells' levels, whiteness of the
# highest of them, and rank correlation with structure.
UNEVEN, WHITE, FOLLOWS = 1.35, 0.93, 0.6
FEWEST = 16  # cells
DARK = (0.1, 50.0)  # percentiles of the image that bound the offset of a rescaled model
SCATTER = 0.05  # of log levels of single planes
TILE, LEAST = 192, 32  # px, sides of the sampled tiles
STRIDE = 32  # px between places where a tile with fewer invalid pixels is looked for
TILES = 4
PLACES = ((0.0, 1 / 3), (1 / 3, 1.0), (2 / 3, 0.0), (1.0, 2 / 3))  # of the tiles in their blocks


@dataclass(frozen=True)
class Response:
    """How the prior responds when it is told a noise level; all levels in whitened units.

    white: level of white noise that explains the highest frequencies of the residual, in blocks
    with little structure. middle: the same of middle frequencies, everywhere. residual: its RMS.
    explained: residual relative to that of white noise of the told level. left: standard deviation
    of block means of the denoised tiles. skewness: of the residual at middle frequencies. along:
    correlation of neighbouring pixels of the residual along y and x.
    """

    level: float
    white: float
    middle: float
    residual: float
    explained: float
    left: float
    skewness: float
    along: tuple[float, float]


@dataclass(frozen=True)
class Verdict:
    """The noise level (whitened units) and how far it can be believed.

    shared: whether neighbouring pixels share noise, so that the level exceeds that of white noise.
    along: then the correlation of neighbouring pixels along y and x.
    uneven: whether the level varies over a plane. belief: 0 to 1. reasons: why it is less than 1.
    """

    level: float
    shared: bool = False
    along: tuple[float, float] | None = None
    uneven: bool = False
    belief: float = 1.0
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Witness:
    """Sampled tiles of one channel and the prior that is asked about them.

    tiles, noise: (B, H, W) float32, in [-1, 1] and standard normal. model: the channel's intensity
    model, whose noise estimate is in question. answers: what was found at told levels so far.
    """

    tiles: Floats
    noise: Floats
    model: Intensity
    denoise: Denoise
    answers: dict[float, tuple[Floats, Floats, Floats]] = field(default_factory=dict)

    @property
    def unit(self) -> float:
        """Whitened units per network unit."""
        return (self.model.high - self.model.low) / 2.0

    def residual(self, level: float) -> float:
        """RMS of what is removed when `level` is told, whitened units."""
        if level in self.answers:
            return float(np.sqrt(np.mean(np.square(self.answers[level][1], dtype=np.float64))))
        removed = self.tiles - self.denoise(self.tiles, level / self.unit)
        return float(np.sqrt(np.mean(np.square(removed, dtype=np.float64)))) * self.unit

    def respond(self, level: float) -> Response:
        clean, removed, expected = self._told(level)
        variance = self._stabilised(clean)
        square = float(np.mean(np.square(removed, dtype=np.float64)))
        due = level * float(
            np.mean(level * variance - self.noise * (level * self.noise - expected))
        )
        middle, usual = (_smooth(part, 1.0) - _smooth(part, 2.5) for part in (removed, expected))
        found = _means(np.square(removed - _smooth(removed, 0.8)), BLOCK).ravel()
        stable = _means(variance, BLOCK).ravel()
        ideal = _means(np.square(expected - _smooth(expected, 0.8)), BLOCK).ravel() * stable
        structure = _means(np.square(clean - _smooth(clean, 2.0)), BLOCK).ravel()
        usable = stable > STABLE
        if usable.sum() < max(20, 0.05 * usable.size):
            usable = stable >= np.quantile(stable, 0.9)
        fifth = max(20, int(usable.sum()) // 5)
        quiet = np.flatnonzero(usable)[np.argsort(structure[usable], kind="stable")[:fifth]]
        return Response(
            level,
            level * float(np.sqrt(found[quiet].sum() / max(ideal[quiet].sum(), 1e-30))),
            level * float(np.sqrt(np.mean(middle**2) / max(np.mean(usual**2 * variance), 1e-30))),
            float(np.sqrt(square)),
            float(np.sqrt(square / max(due, 1e-3 * level**2))),
            float(np.std(_means(clean, WIDE))) * self.unit,
            float(stats.skew(middle, axis=None)),
            (_correlation(removed, 1), _correlation(removed, 2)),
        )

    def cells(self, level: float, *, sure: bool | None = True) -> Floats | None:
        """Levels of white noise in cells, (B, rows, cols); None if one level fits all of them.

        level: told level, above that of the noise. sure: also None if texture may be the reason,
        which is uneven too, but not white, and goes with structure; sure None: of any cells.
        """
        clean, removed, expected = self._told(level)
        diagonal, fine = (
            _means(np.square(part(removed)), CELL)
            / np.maximum(_means(np.square(part(expected)), CELL), 1e-12)
            for part in (finest, _band)
        )
        stable = np.maximum(_means(self._stabilised(clean), CELL), STABLE)
        levels = level * np.sqrt(diagonal / stable)
        if sure is None:
            return np.asarray(levels)
        if levels.size < FEWEST:
            return None
        low, high = np.quantile(levels, (0.1, 0.9))
        if high < UNEVEN * low:
            return None
        if sure:
            whiteness = np.median(np.sqrt(diagonal / np.maximum(fine, 1e-12))[levels >= high])
            structure = _means(np.square(_band(clean)), CELL)
            follows = stats.spearmanr(levels, structure, axis=None).statistic
            if whiteness < WHITE or abs(follows) > FOLLOWS:
                return None
        return np.asarray(levels)

    def _told(self, level: float) -> tuple[Floats, Floats, Floats]:
        """Denoised tiles [-1, 1], what was removed and what would be of white noise, whitened."""
        if level in self.answers:
            return self.answers[level]
        added = np.float32(ADDED * level / self.unit)
        clean = self.denoise(self.tiles, level / self.unit)
        again = self.denoise(self.tiles + added * self.noise, level / self.unit)
        removed = (self.tiles - clean) * np.float32(self.unit)
        expected = (self.noise - (again - clean) / added) * np.float32(level)
        self.answers[level] = clean, removed, expected
        return clean, removed, expected

    def _stabilised(self, clean: Floats) -> Floats:
        """Variance of whitened noise at each pixel: less than 1 below some 3 photons."""
        noise = self.model.noise
        if noise.gain <= 0:
            return np.ones_like(clean)
        photons = np.maximum(self.model.inverse(clean) - noise.offset, 0) / noise.gain
        return anscombe.stabilised_variance(photons, noise.read_noise / noise.gain)


def believed(
    model: Intensity, blocks: Sequence[Floats], known: NoiseOptions, denoise: Denoise
) -> Intensity:
    """The intensity model with a noise level that the prior agrees with.

    blocks: sampled pixels (Y, X) in input units, from which model was fitted. known: values that
    the user gave; a gain that is known is kept, so only the level can change.
    """
    fixed = known.gain is not None or known.read_noise is not None or model.noise.photon_counts
    belief, reasons = 1.0, tuple[str, ...]()
    for last in (False, True):
        tiles = _tiles(blocks, model)
        if model.sigma <= 0 or not tiles.size:
            return model
        noise = model.noise
        witness = Witness(tiles, _numbers(tiles), model, denoise)
        # what was lowered by its slope is not lowered again
        verdict = _bounded(witness, Verdict(noise.level)) if reasons else weigh(witness)
        belief, reasons = min(belief, verdict.belief), reasons or verdict.reasons
        rescale = not (fixed or verdict.shared or verdict.level >= AGREE * noise.level)
        if rescale:
            gain, read = noise.gain * verdict.level**2, noise.read_noise * verdict.level
            offset = noise.offset
            if gain > 0:  # texture also moves the offset, at times above the dark pixels
                dark, middle = np.nanpercentile(np.concatenate([b.ravel() for b in blocks]), DARK)
                if dark < offset < middle:
                    gain *= (middle - offset) / (middle - dark)
                    offset = float(dark)
            noise = estimate(
                blocks,
                kind=noise.kind,
                gain=gain if gain > 0 else None,
                offset=offset,
                read_noise=read,
            )
        noise = noise.told(
            1.0 if rescale else verdict.level,
            along=verdict.along,
            uneven=verdict.uneven,
            # a new estimate knows nothing of earlier doubts, the same one has them already
            belief=belief if rescale else verdict.belief,
            reasons=reasons,
        )
        model = scaled(blocks, noise)
        if last or not rescale:
            return model
    return model


def asked(model: Intensity, blocks: Sequence[Floats], denoise: Denoise) -> Witness | None:
    """The prior, to be asked about sampled pixels; None if there are too few."""
    tiles = _tiles(blocks, model)
    return Witness(tiles, _numbers(tiles), model, denoise) if tiles.size else None


def white_level(model: Intensity, blocks: Sequence[Floats], denoise: Denoise) -> float:
    """Noise level of some blocks as the prior sees it, in units of the model's; NaN if unknown."""
    tiles = _tiles(blocks, model)[:2]
    if not tiles.size:
        return float("nan")
    witness = Witness(tiles, _numbers(tiles), model, denoise)
    level = witness.respond(model.noise.level).white
    return level if level > 0 else float("nan")


def _numbers(tiles: Floats) -> Floats:
    """Standard normal numbers, always the same."""
    return np.random.default_rng(0).standard_normal(tiles.shape, np.float32)


def _tiles(blocks: Sequence[Floats], model: Intensity) -> Floats:
    """Up to TILES whitened tiles of equal size, at different places: (B, H, W) float32."""
    height, width = (min(min(b.shape[k] for b in blocks), TILE) // 16 * 16 for k in (0, 1))
    if min(height, width) < LEAST:
        return np.zeros((0, 0, 0), np.float32)
    area = sum(block.size for block in blocks)
    count = max(1, min(TILES, round(area / (height * width))))
    found = []
    for k in range(count):
        block = blocks[k * len(blocks) // count]
        down, across = PLACES[k] if count > 1 else (0.5, 0.5)
        top, left = (
            round(down * (block.shape[0] - height)),
            round(across * (block.shape[1] - width)),
        )
        found.append(model.forward(_valid_part(blocks, block, (top, left), (height, width))))
    return np.stack(found)


def _valid_part(
    blocks: Sequence[Floats], block: Floats, corner: tuple[int, int], size: tuple[int, int]
) -> Floats:
    """A tile of a block or, if it holds NaN, the nearest with fewest, filled in."""

    def cut(block: Floats, top: int, left: int) -> Floats:
        return np.asarray(block[top : top + size[0], left : left + size[1]])

    tile = cut(block, *corner)
    if not np.isnan(tile).any():
        return tile
    places = [
        (other, top, left)
        for other in (block, *(each for each in blocks if each is not block))
        for top in sorted({*range(0, other.shape[0] - size[0] + 1, STRIDE), corner[0]})
        for left in sorted({*range(0, other.shape[1] - size[1] + 1, STRIDE), corner[1]})
        if top + size[0] <= other.shape[0] and left + size[1] <= other.shape[1]
    ]
    missing = [
        (
            float(np.isnan(cut(other, top, left)).mean()),
            other is not block,
            abs(top - corner[0]) + abs(left - corner[1]),
        )
        for other, top, left in places
    ]
    tile = cut(*places[missing.index(min(missing))])
    return fill(tile, np.isnan(tile))


def weigh(witness: Witness) -> Verdict:
    """Judge the noise estimate of the witness's model: 5 to some 30 calls for each tile."""
    blind = witness.model.noise.level
    if witness.cells(RUNG * blind) is not None:
        return Verdict(blind, uneven=True)
    return _bounded(witness, _responded(witness, blind))


def _bounded(witness: Witness, verdict: Verdict) -> Verdict:
    """The verdict with a level of at most that of the smallest eigenvalues, if noise is white.

    They hardly respond to texture, but underestimate noise that pixels share and low counts.
    """
    levels = [nonparametric_level(tile) * witness.unit for tile in witness.tiles]
    smallest = float(np.median(levels))
    if verdict.shared or not LOWEST * verdict.level < smallest < CLOSE * verdict.level:
        return verdict
    if witness.model.noise.photons_median < DIM or max(witness.respond(smallest).along) > APART:
        return verdict
    return Verdict(smallest, belief=min(verdict.belief, 0.6))


def _responded(witness: Witness, blind: float) -> Verdict:
    """The verdict by what is removed at told levels."""
    first, white = witness.respond(blind), _white(witness, blind)
    if white < AGREE * blind:
        if verdict := _correlated(witness, first, white):
            return verdict
        slope = _slope(witness.residual(RUNG * white), witness.residual(RUNG**2 * white))
        return _lowered(Verdict(white, belief=0.6), slope)
    above = witness.residual(RUNG * blind), witness.residual(RUNG**2 * blind)
    slopes = _slope(first.residual, above[0]), _slope(*above)
    dim = witness.model.noise.photons_median < DIM
    if dim and white > blind and slopes[0] > EDGE[0] and slopes[1] < EDGE[1]:
        return Verdict(max(blind, white / INFLATION))
    return _lowered(Verdict(blind), slopes[1])


def _slope(below: float, above: float) -> float:
    """d log residual / d log level between told levels one rung apart."""
    return float(np.log(max(above, 1e-30) / max(below, 1e-30)) / np.log(RUNG))


def _lowered(verdict: Verdict, slope: float) -> Verdict:
    """The verdict at a lower level if the residual goes on growing above it."""
    if slope <= PLATEAU:
        return verdict
    factor = max(0.5, 1.0 - LOWERED * (slope - PLATEAU))
    reason = "fine structure cannot be told from noise: less is removed than there may be"
    return Verdict(verdict.level * factor, belief=0.3, reasons=(reason,))


def _correlated(witness: Witness, first: Response, white: float) -> Verdict | None:
    """The verdict if pixels share noise; None if the surplus over white noise is texture."""
    blind = first.level
    if first.left < LEFT * blind or first.skewness > SKEWNESS:
        return None
    if _slope(first.residual, witness.residual(RUNG * blind)) > FLAT:
        return None
    between = float(np.sqrt(white * blind))
    response = witness.respond(between)
    if response.middle < COLOURED * white:
        return None
    if response.explained < EXPLAINED or response.skewness > SKEWNESS:
        return None
    # Coloured noise needs more than its own level where it hides the structure also in 2 x 2 means,
    # their level where it does not, less where structure stands out (FMD widefield; simulated
    # kernels at 10 and 100 photons).
    top = blind * float(np.clip((0.7 * blind / white) ** 0.3, 1.0, 1.4))
    coarse = between
    if min(witness.tiles.shape[1:]) >= 2 * LEAST:
        binned = _binned(witness)
        coarse = max(between, 2.0 * _white(binned, blind))
        if _slope(binned.residual(blind), binned.residual(RUNG * blind)) > FLAT:
            top = coarse
    contrast = first.left / blind
    level = np.exp(np.interp(contrast, CONTRASTS, np.log([top, coarse, coarse, white])))
    return Verdict(float(level), True, first.along, belief=0.6)


def _white(witness: Witness, blind: float) -> float:
    """Level of the white noise, told ever lower levels until one agrees."""
    told, white = blind, witness.respond(blind).white
    while LOWEST * blind < white < AGREE * told:
        told, white = white, min(white, witness.respond(white).white)
    return white


def _binned(witness: Witness) -> Witness:
    """The witness of means of 2 x 2 px; white noise has half the level there."""
    tiles = _means(witness.tiles, 2).astype(np.float32)
    tiles = tiles[:, : tiles.shape[1] // 16 * 16, : tiles.shape[2] // 16 * 16]
    return Witness(tiles, _numbers(tiles), witness.model, witness.denoise)


def _correlation(tiles: Floats, axis: int) -> float:
    """Correlation of pixels with their next neighbours along an axis."""
    pairs = np.moveaxis(tiles, axis, 0)
    return float(np.corrcoef(pairs[1:].ravel(), pairs[:-1].ravel())[0, 1])


def _band(tiles: Floats) -> Floats:
    return np.asarray(_smooth(tiles, 0.6) - _smooth(tiles, 1.0))


def finest(tiles: Floats) -> Floats:
    """The highest frequencies: differences of differences, (..., H, W) -> the same."""
    return np.asarray(np.diff(np.diff(tiles, axis=-2, append=0), axis=-1, append=0))


def _smooth(tiles: Floats, sigma: float) -> Floats:
    return np.asarray(ndimage.gaussian_filter(tiles, (0, sigma, sigma)))


def _means(tiles: Floats, side: int) -> Floats:
    """Means over blocks of `side` px: (B, H, W) -> (B, rows, cols) float64."""
    count, rows, cols = tiles.shape[0], tiles.shape[1] // side, tiles.shape[2] // side
    cut = tiles[:, : rows * side, : cols * side].reshape(count, rows, side, cols, side)
    return np.asarray(cut.mean((2, 4), dtype=np.float64))
