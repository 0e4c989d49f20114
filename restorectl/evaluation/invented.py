"""Features that a method invents: seen in one restoration of a field and in no other.

Repeated exposures of one field show the same specimen with other noise. Where the lower end of one
restoration's error bars lies above the upper ends of all others, over a few connected pixels, it
claims a feature that no other exposure confirms. With error bars that hold there are few of them.
"""

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from restorectl.batch.inputs import walk
from restorectl.errors import InputError, UsageError
from restorectl.evaluation.metrics.metric import Array
from restorectl.evaluation.read import input_of, load, uncertainty_maps, uncertainty_set
from restorectl.intensity import whitening

LEAST = 4  # px, of a feature
TOUCHING = np.ones((3, 3), int)  # pixels of one feature touch at a side or a corner
BM3D = "BM3D, same widths"


def invented(folders: Sequence[str], inputs: str | None, axes: str | None) -> dict[str, Any]:
    """Count the features of each folder that `uncertainty` wrote for exposures of one field.

    inputs: folder of the noisy exposures; where the package bm3d is installed, its restorations of
    them are judged, too, with error bars of the same widths. Returns JSON values by method. Raises
    InputError, UsageError.
    """
    found: dict[str, Any] = {}
    for folder in folders:
        if not Path(folder).is_dir():
            raise UsageError(f"{folder}: is not a folder that restorectl uncertainty wrote")
        stems = [Path(folder, path) for path in walk(Path(folder), None)]
        means = sorted(path for path in stems if uncertainty_maps(path))
        if len(means) < 2:
            raise InputError(
                f"{folder}: has maps of {len(means)} exposures: `repeats` compares 2 or more"
            )
        sets = [uncertainty_set(path, axes) or {} for path in means]
        if len({each["mean"].shape for each in sets}) > 1:
            raise InputError(f"{folder}: the exposures of a field must have one shape")
        found[folder] = _told(means, sets)
        if inputs is not None and importlib.util.find_spec("bm3d"):
            noisy = [_noisy(Path(folder), path, Path(inputs), axes) for path in means]
            pairs = zip(sets, noisy, strict=True)
            found[f"{folder} ({BM3D})"] = _told(means, [_by_bm3d(*pair) for pair in pairs])
    return {"methods": found}


def features(means: Sequence[Array], halves: Sequence[Array]) -> list[int]:
    """Features of each restoration (..., Y, X) that its error bars hold for real, and no other's.

    halves: half-widths of the error bars; NaN = none. Exposures may differ in light and offset.
    """
    lower, upper = [], []
    for mean, half in zip(means, halves, strict=True):
        known = np.isfinite(half) & np.isfinite(halves[0])
        slope, shift = np.polyfit(mean[known], means[0][known], 1)
        lower.append(slope * (mean - half) + shift)
        upper.append(slope * (mean + half) + shift)
    counts = []
    for k, low in enumerate(lower):
        others = np.max([*upper[:k], *upper[k + 1 :]], axis=0)
        alone = low > others
        counts.append(sum(_large(plane) for plane in alone.reshape(-1, *alone.shape[-2:])))
    return counts


def _large(where: Array) -> int:
    labels, count = ndimage.label(where, TOUCHING)
    return int(np.sum(np.bincount(labels.ravel(), minlength=count + 1)[1:] >= LEAST))


def _told(paths: Sequence[Path], sets: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    halves = [(each["upper"] - each["lower"]) / 2 for each in sets]
    counts = features([each["mean"] for each in sets], halves)
    pixels = sum(int(np.isfinite(half).sum()) for half in halves)
    names = (path.stem.removesuffix("_mean") for path in paths)
    return {
        "exposures": len(paths),
        "features": sum(counts),
        "per_megapixel": sum(counts) / max(pixels, 1) * 1e6,
        "each": dict(zip(names, counts, strict=True)),
    }


def _noisy(folder: Path, mean: Path, inputs: Path, axes: str | None) -> Array:
    """The pixels of the exposure that a mean was restored from."""
    name = mean.relative_to(folder).as_posix().replace("_mean.tif", ".tif")
    path = input_of(inputs, name)
    if path is None:
        raise InputError(f"{inputs}: has no exposure for {mean}")
    return load(path, axes).pixels


def _by_bm3d(maps: Mapping[str, Array], noisy: Array) -> dict[str, Array]:
    """BM3D's restoration of whitened planes, with the widths of a set of maps around it."""
    bm3d, half = importlib.import_module("bm3d").bm3d, (maps["upper"] - maps["lower"]) / 2
    restored = np.empty(noisy.shape)
    for at in np.ndindex(noisy.shape[:-2]):
        model = whitening.fit([noisy[at]])
        restored[at] = model.inverse(bm3d(model.forward(noisy[at]), model.sigma))
    return {"mean": restored, "lower": restored - half, "upper": restored + half}
