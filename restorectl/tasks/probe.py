"""How long one window takes here: a piece of an image, restored to nowhere."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Self

from restorectl.core.axes import Header, Plane
from restorectl.errors import InputError
from restorectl.io.image import ALL, Array, Image, open_image
from restorectl.tasks.inputs import Pair
from restorectl.tasks.outcome import Outcome

if TYPE_CHECKING:
    from restorectl.tasks.plan import Run

SIDE = 256  # px, of the piece


@dataclass(frozen=True)
class Excerpt:
    """The first rows and columns, time and plane of an image, as an image of its own."""

    image: Image
    header: Header

    @property
    def path(self) -> Path:
        return self.image.path

    def read(self, plane: Plane, rows: slice = ALL, cols: slice = ALL) -> Array:
        height, width = self.header.canonical_shape[3:]
        return self.image.read(plane, slice(0, height), slice(0, width))[rows, cols]

    def close(self) -> None:
        self.image.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def cut(image: Image, most: Mapping[str, int]) -> Excerpt:
    """`image` with at most so many along each axis named."""
    header = image.header
    shape = tuple(
        min(n, most.get(axis, n)) for axis, n in zip(header.axes, header.shape, strict=True)
    )
    bare: Mapping[str, object] = MappingProxyType(
        {}
    )  # what a format keeps beside the pixels describes the whole image
    return Excerpt(image, replace(header, shape=shape, format=".tif", extra=bare))


def seconds_per_window(job: "Run", pair: Pair) -> float | None:
    """The time of one window of `pair`'s image; None if the piece cannot be restored alone.

    The first of two restorations warms up.
    """
    if pair.guide is not None:
        return None  # it would have to be cut to the same piece
    with tempfile.TemporaryDirectory(prefix="restorectl-probe-") as place:
        targets = tuple(Path(place, f"{k}.tif") for k in range(len(pair.targets)))
        trial = Pair(pair.source, targets, pair.name)
        for most in ({"T": 1, "Z": 1, "Y": SIDE, "X": SIDE}, {"T": 1, "Y": SIDE, "X": SIDE}):
            try:
                for _ in range(2):
                    pace = _timed(job, trial, most)
                return pace
            except InputError:  # a command may need a whole stack, or an image that is not flat
                continue
    return None


def _timed(job: "Run", trial: Pair, most: Mapping[str, int]) -> float:
    with open_image(trial.source, axes=job.files.axes) as image:
        piece = cut(image, most)
        windows = job.work.plan(piece, trial).windows
        start = time.monotonic()
        job.work.write(piece, trial, job.record(""), Outcome("", "", "planned"), Silent())
        return (time.monotonic() - start) / max(windows, 1)


class Silent:
    """A Report of nothing."""

    def begin(self, files: int) -> None: ...
    def file(self, name: str, pixels: int) -> None: ...
    def advance(self, pixels: int) -> None: ...
    def done(self, outcome: Outcome) -> None: ...
    def note(self, text: str) -> None: ...
