"""`info`: what restorectl sees in image files, without reading their pixels."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from restorectl.batch.inputs import Source, find
from restorectl.catalog import FORMATS
from restorectl.errors import blamed
from restorectl.images.image import format_of, open_image


@dataclass(frozen=True)
class Info:
    """One image of a file; empty where it cannot be read."""

    file: str
    error: str = ""
    series: str = ""  # its number and name, if the file holds several images
    format: str = ""  # row of catalog.FORMATS
    axes: str = ""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    spacing_um: dict[str, float] = field(default_factory=dict)  # axis -> micrometres
    interval_s: float | None = None
    channels: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    lost: str = ""  # what results will not have


def describe(given: list[Path], pattern: str | None, axes: str | None) -> Iterator[Info]:
    """What is known about each image. Raises NoInputError if there is none."""
    found = find(given, pattern, "all")
    yield from (Info(each.source, each.message) for each in found.refused)
    for source in found.images:
        try:
            yield _one(source, axes)
        except Exception as error:
            yield Info(str(source.path), str(blamed(source.path, error)))


def _one(source: Source, axes: str | None) -> Info:
    title = ""
    if source.series is not None:
        name = format_of(source.path).titles(source.path)[int(source.series)]
        title = f"{source.series} {name}".strip()
    with open_image(source.path, axes=axes, series=source.series) as image:
        header, warnings = image.header, image.unusual
    sizes = zip("zyx", header.spacing, strict=True)
    return Info(
        str(source.path),
        "",
        title,
        header.format,
        header.axes,
        header.shape,
        str(header.dtype),
        {axis: size for axis, size in sizes if size is not None},
        header.interval,
        header.channels,
        warnings,
        FORMATS[header.format].lost,
    )
