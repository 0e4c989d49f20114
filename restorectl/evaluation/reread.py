"""Scored images once more, as the score saw them: projected, averaged, fitted; and their inputs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from restorectl.errors import InputError
from restorectl.evaluation.metrics.metric import SCALES, Undefined
from restorectl.evaluation.read import Comparison, FileScore, planes
from restorectl.evaluation.score import PROJECTIONS, mean_of
from restorectl.images.image import is_image_name, open_image


def volume(path: Path, axes: str | None = None, project: str = "none") -> np.ndarray:
    """(T, C, Z, Y, X) float64 in input units; `project` over z leaves one plane. InputError."""
    found, shape = planes(path, axes)
    stack = found.reshape(shape)
    if project == "none":
        return stack
    return np.asarray(PROJECTIONS[project](stack, axis=2, keepdims=True))


def averaged(comparison: Comparison) -> bool:
    """Whether the methods are means of the first 1, 2, 3 ... samples."""
    names = tuple(mean_of(i + 1) for i in range(len(comparison.methods)))
    return bool(names) and comparison.methods == names


def predicted(score: FileScore, comparison: Comparison) -> np.ndarray:
    """What was scored, as `volume`: an image, or the mean of samples. Raises InputError."""
    samples = [score.prediction]
    if averaged(comparison):
        first = comparison.methods[: comparison.methods.index(score.method) + 1]
        mine = {s.method: s.prediction for s in comparison.scores if s.name == score.name}
        samples = [mine[method] for method in first if method in mine]
    total = volume(samples[0], comparison.axes, comparison.project)
    for path in samples[1:]:
        total = total + volume(path, comparison.axes, comparison.project)
    return total / len(samples)


def fitted(image: np.ndarray, target: np.ndarray, scale: str) -> tuple[np.ndarray, np.ndarray]:
    """`image` fitted channel by channel, as it was scored, and the gains (C,).

    A constant channel, which has no fit, stays as it is. Both (T, C, Z, Y, X) of one shape.
    """
    gains, result = np.ones(image.shape[1]), image.copy()
    for c in range(image.shape[1]):
        try:
            gain, offset = SCALES[scale](image[:, c], target[:, c])
        except Undefined:
            continue
        gains[c], result[:, c] = gain, image[:, c] * gain + offset
    return result, gains


def input_of(inputs: Path | None, name: str) -> Path | None:
    """The unrestored image of a relative path: the same path, or the same stem with another suffix.

    `inputs` may also be the one image itself. None where there is none.
    """
    if inputs is None or inputs.is_file():
        return inputs
    exact = inputs / name
    if exact.is_file():
        return exact
    if not exact.parent.is_dir():
        return None
    beside = (p for p in exact.parent.iterdir() if p.stem == exact.stem and is_image_name(p))
    return min((p for p in beside if p.is_file()), default=None)


def colours(path: Path, axes: str | None = None) -> int:
    """3 for RGB pixels, which are shown together; else 1. Raises InputError."""
    with open_image(path, axes=axes) as image:
        return 3 if image.header.size("S") == 3 else 1


@dataclass(frozen=True)
class Frame:
    """One picture's place in a volume: a plane, or the three colours of one."""

    t: int
    channels: slice
    z: int
    label: str  # empty where the image has no other

    def of(self, image: np.ndarray) -> np.ndarray:
        """(T, C, Z, Y, X) -> (Y, X, K), K colours."""
        return np.moveaxis(image[self.t, self.channels, self.z], 0, -1)


def frames(shape: tuple[int, ...], per_frame: int) -> list[Frame]:
    """All frames of a volume (T, C, Z, Y, X) in the order t, c, z, of `per_frame` colours each."""
    counts = {"t": shape[0], "c": shape[1] // per_frame, "z": shape[2]}
    found = []
    for at in np.ndindex(*counts.values()):
        told = zip(counts.items(), at, strict=True)
        label = ", ".join(f"{axis} {i + 1} of {n}" for (axis, n), i in told if n > 1)
        channels = slice(at[1] * per_frame, (at[1] + 1) * per_frame)
        found.append(Frame(at[0], channels, at[2], label))
    return found


def require_shape(path: Path, found: np.ndarray, other: Path, wanted: np.ndarray) -> None:
    """Raises InputError unless two images that belong together have one shape."""
    if found.shape != wanted.shape:
        have, want = ("x".join(map(str, a.shape)) for a in (found, wanted))
        raise InputError(f"{path}: has TCZYX {have}, but {other} has {want}")
