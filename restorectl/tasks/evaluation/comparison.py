"""What `evaluate` found: one score a file, method and metric; and how images are read for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.errors import InputError
from restorectl.io.image import open_image

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
