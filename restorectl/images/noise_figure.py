"""A picture of where the noise model of one channel comes from. Needs matplotlib."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.files.atomic import replacing
from restorectl.images.pictures import BAR, DPI, LINE, figure

FIT, CLOUD = "#b2182b", "#9db7d2"
SHOWN = 512  # px, the longer side of images in the picture
CHANCE = 2.0  # standard errors that a correlation of white noise stays below


@dataclass(frozen=True)
class NoiseStory:
    """What the picture shows.

    title, text: of the whole picture. image: (Y, X) in grey levels. blocks, bins: (n, 2) mean and
    variance, grey levels and their squares; line: (2, 2), two points of the fit. told, removed:
    (n,) levels told to the prior, and the RMS of what it then removes, whitened; level: the one
    that is used. along: (2, n) correlation of what is removed with pixels 0, 1, 2 ... px away,
    along y and x; pixels: how many were compared. rows, cols, levels: (n,) (m,) (n, m) centres of
    cells in px and noise relative to the image's. removal: (Y, X) what is removed, whitened.
    """

    title: str
    text: str
    image: np.ndarray
    blocks: np.ndarray
    bins: np.ndarray
    line: np.ndarray
    told: np.ndarray
    removed: np.ndarray
    level: float
    along: np.ndarray
    pixels: int
    rows: np.ndarray
    cols: np.ndarray
    levels: np.ndarray
    removal: np.ndarray


def draw(path: Path, story: NoiseStory) -> None:
    """Write the picture, a PNG of 2400 x 1500 px. Raises OutputError, DiskFullError."""
    drawn = figure(16.0, 10.0)
    drawn.suptitle(story.title, fontweight="bold")
    ((a, b, c), (d, e, f)) = drawn.subplots(2, 3)
    _image(a, story)
    _transfer(b, story)
    _response(c, story)
    _levels(drawn, d, story)
    _correlation(e, story)
    _removal(drawn, f, story)
    drawn.supxlabel(story.text, fontsize=10, color=LINE)
    with replacing(path) as part:  # without the software entry, which has a version
        drawn.savefig(part, format="png", dpi=DPI, metadata={"Software": None})


def _image(axes: Any, story: NoiseStory) -> None:
    low, high = np.nanpercentile(story.image, (0.5, 99.8))
    axes.imshow(_small(story.image), cmap="gray", vmin=low, vmax=high, extent=_extent(story.image))
    axes.set_title(f"the image, grey levels {low:.4g} (black) to {high:.4g} (white)")
    axes.set_xlabel("x (px)")
    axes.set_ylabel("y (px)")


def _transfer(axes: Any, story: NoiseStory) -> None:
    axes.plot(*story.blocks.T, ".", color=CLOUD, markersize=2, label="blocks of 8 x 8 px")
    axes.plot(*story.bins.T, "o", color=BAR, label="flattest blocks of equal brightness")
    axes.plot(*story.line.T, color=FIT, label="noise model")
    shown = np.concatenate([story.bins, story.line])
    axes.set_xlim(*np.quantile(story.blocks[:, 0], (0.0, 0.999)))
    axes.set_ylim(0, 1.6 * shown[:, 1].max())
    axes.set_title("noise grows with light: slope = gain")
    axes.set_xlabel("brightness (grey levels)")
    axes.set_ylabel("variance of the noise (grey levels$^2$)")
    axes.legend(loc="upper left", fontsize=8)


def _response(axes: Any, story: NoiseStory) -> None:
    axes.loglog(story.told, story.removed, "o-", color=BAR)
    axes.axvline(story.level, color=FIT, label=f"level that is used: {story.level:.2f}")
    axes.set_title("the prior's answer: flat beyond the knee if noise")
    axes.set_xlabel("noise level told to the prior (1 = noise of the model)")
    axes.set_ylabel("what it then removes (same unit)")
    ticks = [float(f"{each:.2g}") for each in story.told[::2]]
    axes.set_xticks(ticks, [f"{each:g}" for each in ticks])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:.2g}")
    axes.yaxis.set_minor_formatter("{x:.2g}")
    axes.legend(loc="lower right", fontsize=8)


def _levels(drawn: Any, axes: Any, story: NoiseStory) -> None:
    low, high = np.nanpercentile(story.image, (0.5, 99.8))
    axes.imshow(_small(story.image), cmap="gray", vmin=low, vmax=high, extent=_extent(story.image))
    axes.set_title("noise over the image, relative to its median")
    axes.set_xlabel("x (px)")
    axes.set_ylabel("y (px)")
    if story.levels.size:
        shown = axes.scatter(
            *(each.ravel() for each in np.meshgrid(story.cols, story.rows)),
            c=story.levels.ravel(),
            s=60,
            cmap="RdBu_r",
            vmin=0.5,
            vmax=1.5,
            edgecolors="white",
            linewidths=0.5,
        )
        drawn.colorbar(shown, ax=axes, extend="both", shrink=0.8)


def _correlation(axes: Any, story: NoiseStory) -> None:
    distance = np.arange(story.along.shape[1])
    chance = CHANCE / np.sqrt(story.pixels)
    axes.axhspan(-chance, chance, color=CLOUD, alpha=0.5, label="chance")
    axes.axhline(0, color=LINE, linewidth=0.5)
    for values, name, colour in zip(story.along, "yx", (BAR, FIT), strict=True):
        axes.plot(distance[1:], values[1:], "o-", color=colour, label=f"along {name}")
    axes.set_ylim(min(-0.3, story.along.min()), max(0.5, 1.1 * story.along[:, 1:].max()))
    axes.set_title("do neighbours share noise? 0: no, it is white")
    axes.set_xlabel("distance (px)")
    axes.set_ylabel("correlation of what is removed")
    axes.legend(loc="upper right", fontsize=8)


def _removal(drawn: Any, axes: Any, story: NoiseStory) -> None:
    shown = axes.imshow(story.removal, cmap="RdBu_r", vmin=-4, vmax=4)
    axes.set_title("what is removed: no structure is good")
    axes.set_xlabel("x (px)")
    axes.set_ylabel("y (px)")
    drawn.colorbar(shown, ax=axes, label="standard deviations of the noise", shrink=0.8)


def _small(image: np.ndarray) -> np.ndarray:
    step = max(1, -(-max(image.shape) // SHOWN))
    return np.asarray(image[::step, ::step])


def _extent(image: np.ndarray) -> tuple[float, float, float, float]:
    return -0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5
