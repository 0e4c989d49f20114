"""How the pages of a TIFF form one image, in each dialect that programs write."""

import html
import math
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from restorectl.errors import IncompleteError, InputError
from restorectl.files.strict import parse_json
from restorectl.images.header import PRINT_DPI, UNKNOWN_SPACING, Spacing
from restorectl.images.tiff import ifd, imagej, lsm, ome
from restorectl.images.tiff.ifd import Ifd, read_chain

_UIC2 = 33629  # MetaMorph's tag with a record of each plane
MM_PAGE = 51123  # Micro-Manager's JSON about a page


@dataclass(frozen=True)
class Place:
    """Where a page of the image is: all samples of a directory from `sample` on."""

    ifd: Ifd
    shift: int = 0  # bytes from the directory's pixels to this page's
    sample: int = 0


@dataclass(frozen=True)
class PageStack:
    """How the pages of a file form one image."""

    axes: str  # axes outside a page
    lengths: tuple[int, ...]
    pages: list[Place]  # in storage order
    spacing: Spacing = UNKNOWN_SPACING
    channels: tuple[str, ...] = ()
    apart: bool = False  # whether each sample of a pixel is a page of its own
    description: bytes = b""  # that of this image alone; b"" = that of the first page
    interval: float | None = None  # seconds between time points


@dataclass(frozen=True)
class Series:
    """One of the images in a file."""

    title: str  # "" = none
    stack: Callable[[], PageStack]


Split = Callable[[Path, Sequence[Ifd]], Sequence[Series]]  # see `split`


def dialect(page: Ifd) -> str:
    """The dialect of a file, from its first page: a row of DIALECTS."""
    return next(kind for kind, (recognised, _) in DIALECTS.items() if recognised(page))


def split(path: Path, kind: str, pages: Sequence[Ifd]) -> Sequence[Series]:
    """The images in a file; `pages`: those at full size, in the file's order.

    Raises InputError. So does `Series.stack`, and IncompleteError if pages that the metadata
    describe are missing.
    """
    return DIALECTS[kind][1](path, pages)


def _one(read: Callable[[Path, Sequence[Ifd]], PageStack]) -> Split:
    """All pages are one image."""
    return lambda path, pages: [Series("", lambda: read(path, pages))]


def _ome_images(path: Path, pages: Sequence[Ifd]) -> list[Series]:
    own = pages[0].text(ifd.DESCRIPTION)
    described = _companion(path, own) if ome.companion(own) is not None else own
    images = ome.own_images(described, path.name, ome.uuid(own))
    return [
        Series(
            image.attributes.get("Name", ""),
            partial(_ome_stack, pages, ome.alone(described, image), len(images) == 1),
        )
        for image in images
    ]


def _ome_stack(pages: Sequence[Ifd], xml: bytes, is_only: bool) -> PageStack:
    image = ome.parse(xml, [page.samples for page in pages])
    missing = sum(page < 0 for page in image.pages)
    if missing:
        raise IncompleteError(
            f"{missing} of the {len(image.pages)} planes in its OME header are missing: it is cut"
            " off, still being written, or one of several files"
        )
    if is_only:  # else other pages belong to other images
        _require_count(len(pages), len(image.pages), "OME")
    keep = [i for i, n in enumerate(image.shape) if n > 1]
    axes, lengths = "".join(image.axes[i] for i in keep), tuple(image.shape[i] for i in keep)
    places = [Place(pages[i]) for i in image.pages]
    return PageStack(
        axes, lengths, places, image.spacing, image.channels, False, xml, image.interval
    )


def _companion(path: Path, xml: bytes) -> bytes:
    """The OME-XML that another file of the data set has for this one."""
    beside = path.parent / Path(ome.companion(xml) or "").name
    try:
        with open(beside, "rb") as file:
            if file.read(2) in (b"II", b"MM"):
                return read_chain(file, beside)[0].text(ifd.DESCRIPTION)
            file.seek(0)
            return file.read()
    except OSError as exc:
        raise InputError(
            f"has its metadata in {beside.name}, which cannot be read: put both in one folder"
        ) from exc


def _imagej_stack(path: Path, pages: Sequence[Ifd]) -> PageStack:
    first = pages[0]
    description = first.text(ifd.DESCRIPTION)
    axes, lengths, declared = imagej.outer_axes(
        description, first.samples, first.planar, len(pages)
    )
    places = _declared_pages(pages, declared, "ImageJ")
    spacing = imagej.spacing(description, resolution(first))
    labels = imagej.labels(first.tags, first.order)
    interval = imagej.interval(description)
    return PageStack(axes, lengths, places, spacing, labels, interval=interval)


def _shaped_images(path: Path, pages: Sequence[Ifd]) -> list[Series]:
    starts = [k for k, page in enumerate(pages) if _is_shaped(page)]
    spans = pairwise([*starts, len(pages)])
    return [Series("", partial(_shaped_stack, pages[a:b])) for a, b in spans]


def _shaped_stack(pages: Sequence[Ifd]) -> PageStack:
    """tifffile's own dialect: the shape of the array, today as JSON with axes and more."""
    first = pages[0]
    found = shaped(first.text(ifd.DESCRIPTION))
    shape = tuple(found["shape"])
    if math.prod(shape) == 0:
        raise InputError(f"no pixels: the shape in its header is {list(shape)}")
    declared, rest = divmod(math.prod(shape), math.prod(first.size) * first.samples)
    if rest or not declared:
        raise InputError(f"the shape in its header, {list(shape)}, does not match its pages")
    places = _declared_pages(pages, declared, "tifffile")
    spacing = printed_spacing(first)
    factor = imagej.MICROMETRES.get(imagej.unit_name(str(found.get("unit", ""))))
    if factor is not None:
        z = found.get("spacing")
        z = z * factor if isinstance(z, int | float) and z > 0 else None
        yx = spacing[1:]
        if first.integer(ifd.RESOLUTION_UNIT, 2) == 1:
            y, x = (factor / value if value else None for value in resolution(first))
            yx = y, x
        spacing = (z, *yx)
    axes = found.get("axes", "")
    n_outer = len(shape) - (3 if first.samples > 1 else 2)
    if len(axes) != len(shape) or n_outer < 0 or math.prod(shape[:n_outer]) != declared:
        named = _unnamed(places, spacing)
    else:
        keep = [i for i in range(n_outer) if shape[i] > 1]
        lengths = tuple(shape[i] for i in keep)
        named = PageStack("".join(axes[i] for i in keep), lengths, places, spacing)
    return replace(named, description=first.text(ifd.DESCRIPTION))


def shaped(description: bytes) -> dict[str, Any]:
    """tifffile's header as JSON with a list of integers "shape".

    Until 2013 it was "shape=(3,40,48)". Raises InputError if it is damaged.
    """
    old = re.fullmatch(rb"shape=\(([\d, ]+)\)", description.strip())
    try:
        text = b'{"shape": [%s]}' % old[1].rstrip(b", ") if old else description
        found: dict[str, Any] = parse_json(text)
        return found | {"shape": [int(n) for n in found["shape"]]}
    except (ValueError, TypeError, KeyError) as exc:
        start = description[:40].decode("utf-8", "replace")
        raise InputError(f"its tifffile header is damaged: {start!r}: write it again") from exc


def _lsm_images(path: Path, pages: Sequence[Ifd]) -> list[Series]:
    """Zeiss LSM: all channels of a plane in a page, each page followed by a thumbnail.

    Positions and tiles of a mosaic are images of their own.
    """
    pages = [page for page in pages if not page.is_reduced]
    info = lsm.read(path, pages[0])
    each = info.planes
    if each * info.images > len(pages):
        raise IncompleteError(
            f"{len(pages)} of the {each * info.images} planes in its LSM header exist: it is cut"
            " off or still being written"
        )
    if each * info.images < len(pages) or info.channels not in (1, pages[0].samples):
        raise InputError(
            f"has {len(pages)} pages of {pages[0].samples} channels, but its LSM header describes"
            f" {each * info.images} of {info.channels}: save it as OME-TIFF"
        )
    return [
        Series("", partial(_lsm_stack, info, pages[k * each : (k + 1) * each]))
        for k in range(info.images)
    ]


def _lsm_stack(info: lsm.Info, pages: Sequence[Ifd]) -> PageStack:
    samples = pages[0].samples
    sizes = {"T": info.times, "Z": info.depth, "C": samples}
    axes = "".join(axis for axis, n in sizes.items() if n > 1)
    lengths = tuple(sizes[axis] for axis in axes)
    places = [Place(page, sample=s) for page in pages for s in range(samples)]
    return PageStack(
        axes, lengths, places, info.spacing, info.names, apart=True, interval=info.interval
    )


_MM_AXES = {"time": "T", "channel": "C", "z": "Z"}
_MM_OLD = {  # until NDTiff 1, and in Micro-Manager's own stacks
    "FrameIndex": "time",
    "ChannelIndex": "channel",
    "SliceIndex": "z",
    "PositionIndex": "position",
}
_MM_SUMMARY = struct.pack("<I", 2355492)  # comes before the length of the summary


def _micromanager_images(path: Path, pages: Sequence[Ifd]) -> list[Series]:
    """NDTiff of any version, and Micro-Manager stacks without OME-XML: each page says where it is.

    Positions, and rows and columns of tiles, are images of their own.
    """
    told = [_json(page.text(MM_PAGE)) for page in pages]
    where = [_mm_where(page) for page in told]
    groups: dict[Any, list[int]] = defaultdict(list)
    for k, at in enumerate(where):
        groups[at.pop("I")].append(k)
    titles = [
        str(told[picked[0]].get("PositionName") or " ".join(f"{k} {v}" for k, v in others))
        for others, picked in groups.items()
    ]
    if len({*titles}) < len(titles) or len(titles) == 1:
        titles = [""] * len(titles)
    summary = _mm_summary(path, pages[0].order)
    return [
        Series(
            title,
            partial(
                _micromanager_stack,
                [pages[k] for k in picked],
                [told[k] for k in picked],
                [where[k] for k in picked],
                summary,
            ),
        )
        for title, picked in zip(titles, groups.values(), strict=True)
    ]


def _micromanager_stack(
    pages: Sequence[Ifd],
    told: Sequence[Mapping[str, Any]],
    where: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> PageStack:
    """The pages of one position; `told`: their records, `where`: their place on each axis."""
    places = [Place(page) for page in pages]
    size = told[0].get("PixelSizeUm") or told[0].get("PixelSize_um") or summary.get("PixelSize_um")
    spacing = tuple(
        float(value) if isinstance(value, int | float) and value > 0 else None
        for value in (summary.get("z-step_um"), size, size)
    )
    plain = _unnamed(places, spacing)  # type: ignore[arg-type]
    if any(at.keys() != where[0].keys() for at in where):
        return plain
    # name -> its values in the order of the pages
    values = {axis: list(dict.fromkeys(at[axis] for at in where)) for axis in where[0]}
    moving = [axis for axis in values if len(values[axis]) > 1]
    for axis in moving:
        if all(isinstance(value, int | float) for value in values[axis]):
            values[axis].sort()
    changed = {a: next(k for k, at in enumerate(where) if at[a] != where[0][a]) for a in moving}
    moving.sort(key=lambda axis: -changed[axis])  # the slowest first
    found = {tuple(values[a].index(at[a]) for a in moving): k for k, at in enumerate(where)}
    lengths = tuple(len(values[axis]) for axis in moving)
    if len(found) != len(pages) or math.prod(lengths) != len(pages):
        return plain
    named = {at.get("channel"): page.get("Channel") for at, page in zip(where, told, strict=True)}
    names = [str(named[c] or (c if isinstance(c, str) else "")) for c in values.get("channel", ())]
    return PageStack(
        "".join(_MM_AXES[axis] for axis in moving),
        lengths,
        [places[found[at]] for at in np.ndindex(*lengths)],
        spacing,  # type: ignore[arg-type]
        tuple(names) if "channel" in moving and any(names) else (),
    )


def _mm_where(told: Mapping[str, Any]) -> dict[str, Any]:
    """The position of a page on each axis; axes of other names are together "I"."""
    axes = {new: told[old] for old, new in _MM_OLD.items() if old in told}
    given = told.get("Axes")
    axes |= {name.lower(): given[name] for name in given} if isinstance(given, dict) else {}
    axes = {k: v if isinstance(v, int | float | str) else str(v) for k, v in axes.items()}
    others = tuple(sorted((k, v) for k, v in axes.items() if k not in _MM_AXES))
    return {name: axes[name] for name in axes if name in _MM_AXES} | {"I": others}


def _mm_summary(path: Path, order: str) -> dict[str, Any]:
    """The summary of an acquisition, from the start of the file; {} if there is none."""
    with open(path, "rb") as file:
        head = file.read(48)
        at = head.find(_MM_SUMMARY if order == "<" else _MM_SUMMARY[::-1]) + 4
        if not 8 < at <= 36:
            return {}
        file.seek(at + 4)
        return _json(file.read(struct.unpack_from(order + "I", head, at)[0]))


def _json(text: bytes) -> dict[str, Any]:
    """A JSON object; {} if the text is none."""
    try:
        found = parse_json(text.rstrip(b"\0"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _qpi_stack(path: Path, pages: Sequence[Ifd]) -> PageStack:
    """PerkinElmer QPTIFF: a page of full resolution for each channel, then thumbnails and more."""
    told = [page.text(ifd.DESCRIPTION) for page in pages]
    full = [k for k, text in enumerate(told) if b"<ImageType>FullResolution<" in text]
    full = full or [k for k, page in enumerate(pages) if page.structure == pages[0].structure]
    names = (re.search(rb"<Name>(.*?)</Name>", told[k], re.DOTALL) for k in full)
    channels = tuple(html.unescape(n[1].decode("utf-8", "replace")) if n else "" for n in names)
    places, spacing = [Place(pages[k]) for k in full], printed_spacing(pages[full[0]])
    if len(full) == 1:
        return PageStack("", (), places, spacing)
    return PageStack("C", (len(full),), places, spacing, channels if any(channels) else ())


def _svs_stack(path: Path, pages: Sequence[Ifd]) -> PageStack:
    """Aperio SVS: the slide, then a thumbnail, smaller copies, label and overview."""
    size = re.search(rb"MPP\s*=\s*([\d.]+)", pages[0].text(ifd.DESCRIPTION))
    micrometres = float(size[1]) if size else 0.0
    spacing = (None, micrometres, micrometres) if micrometres else UNKNOWN_SPACING
    return PageStack("", (), [Place(pages[0])], spacing)


def _stk_stack(path: Path, pages: Sequence[Ifd]) -> PageStack:
    """MetaMorph: the planes follow one another behind the only directory."""
    first = pages[0]
    places = _declared_pages(pages[:1], first.tags[_UIC2].count, "MetaMorph")
    try:
        with tifffile.TiffFile(path) as tiff:
            told = tiff.stk_metadata or {}
    except Exception as exc:  # tifffile raises various errors
        raise InputError("its MetaMorph header is damaged: save it as OME-TIFF") from exc
    unit = imagej.MICROMETRES.get(imagej.unit_name(str(told.get("CalibrationUnits", ""))))
    steps = np.abs(np.asarray(told.get("ZDistance", 0.0), float)).ravel()
    z = float(steps.max()) * unit if unit and steps.size and steps.max() > 0 else None
    y, x = (
        float(told[f"{axis}Calibration"]) * unit
        if unit and float(told.get(f"{axis}Calibration", 0)) > 0
        else None
        for axis in "YX"
    )
    if len(places) == 1:
        return PageStack("", (), places, (None, y, x))
    days, milliseconds = (np.asarray(told.get(f"{k}Created", 0), float) for k in ("Date", "Time"))
    seconds = days * 86400 + milliseconds / 1000
    moves = seconds.size == len(places) and seconds[-1] > seconds[0]
    axis = "Z" if z is not None else "T" if moves else "I"
    interval = float(seconds[-1] - seconds[0]) / (len(places) - 1) if axis == "T" else None
    return PageStack(axis, (len(places),), places, (z, y, x), interval=interval)


def _plain_stack(path: Path, pages: Sequence[Ifd]) -> PageStack:
    return _unnamed([Place(page) for page in pages], printed_spacing(pages[0]))


def _other_stack(path: Path, pages: Sequence[Ifd]) -> PageStack:
    """Dialects without a row of their own, if tifffile finds one array of ordinary pages."""
    kind = dialect(pages[0]).upper()
    refused = InputError(f"is a {kind} file that cannot be read: save it as OME-TIFF")
    at = {page.offset: Place(page) for page in pages}
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            found = [series for series in tiff.series if not series.keyframe.is_reduced]
            inner = found[0].keyframe.ndim
            shape, axes = found[0].shape[:-inner], found[0].axes[:-inner]
            places = [at[page.offset] for page in found[0].pages if page is not None]
    except Exception as exc:  # tifffile raises various errors
        raise refused from exc
    if len(found) != 1 or math.prod(shape) != len(places):
        raise refused
    return PageStack(axes, tuple(shape), places, printed_spacing(pages[0]))


def _unnamed(places: list[Place], spacing: Spacing) -> PageStack:
    """A stack of pages along an axis without a name: tifffile's I."""
    several = len(places) > 1
    return PageStack("I" * several, (len(places),) * several, places, spacing)


def _declared_pages(pages: Sequence[Ifd], declared: int, header: str) -> list[Place]:
    """The pages; in a stack with a single directory, all pixels follow those of page 0."""
    first = pages[0]
    if len(pages) > 1 or declared == 1:
        _require_count(len(pages), declared, header)
        return [Place(page) for page in pages]
    if not first.is_final or first.segments[0][0] + declared * first.nbytes > first.end:
        raise IncompleteError(
            f"1 of the {declared} pages in its header exists: it is cut off or still being written"
        )
    return [Place(first, k * first.nbytes) for k in range(declared)]


def _require_count(found: int, declared: int, header: str) -> None:
    if found < declared:
        raise IncompleteError(
            f"{found} of the {declared} pages in its {header} header exist: it is cut off or"
            " still being written"
        )
    if found > declared:
        raise InputError(
            f"has {found} pages but its {header} header describes {declared}: save the others to"
            " separate files"
        )


def printed_spacing(page: Ifd) -> Spacing:
    """(None, y, x) in micrometres from pixels per inch (unit 2) or per centimetre (unit 3)."""
    found = resolution(page)
    length = {2: 25400.0, 3: 10000.0}.get(page.integer(ifd.RESOLUTION_UNIT, 2))
    if length is None or min(found) * 25400.0 / length <= PRINT_DPI:
        return UNKNOWN_SPACING
    return None, length / found[0], length / found[1]


def resolution(page: Ifd) -> tuple[float, float]:
    """Pixels per unit in y and x; 0 if the tag is absent or undefined."""
    found = []
    for code in (ifd.Y_RESOLUTION, ifd.X_RESOLUTION):
        above = below = 0
        tag = page.tags.get(code)
        if tag is not None and tag.type == ifd.RATIONAL and tag.data:
            above, below = np.frombuffer(tag.data[:8], page.order + "u4").tolist()
        found.append(above / below if below else 0.0)
    return found[0], found[1]


def _has(*codes: int) -> Callable[[Ifd], bool]:
    return lambda page: any(code in page.tags for code in codes)


def _begins(code: int, *texts: bytes) -> Callable[[Ifd], bool]:
    return lambda page: page.text(code).startswith(texts)


def _ends(*texts: bytes) -> Callable[[Ifd], bool]:
    return lambda page: page.text(ifd.DESCRIPTION)[-10:].strip().endswith(texts)


def _is_shaped(page: Ifd) -> bool:
    text = page.text(ifd.DESCRIPTION)
    return text.startswith(b"shape=") or (text.startswith(b"{") and b'"shape":' in text)


# name -> (whether a first page is of that dialect, the images in the pages); the first counts
DIALECTS: dict[str, tuple[Callable[[Ifd], bool], Split]] = {
    "ome": (_ends(b"OME>"), _ome_images),
    "imagej": (lambda page: imagej.is_imagej(page.text(ifd.DESCRIPTION)), _one(_imagej_stack)),
    "shaped": (_is_shaped, _shaped_images),
    "lsm": (_has(ifd.LSM_INFO), _lsm_images),
    "micromanager": (_has(MM_PAGE), _micromanager_images),
    "fluoview": (_has(34362), _one(_other_stack)),
    "stk": (_has(_UIC2), _one(_stk_stack)),
    "sis": (_has(33560, 33471), _one(_other_stack)),
    "svs": (_begins(ifd.DESCRIPTION, b"Aperio "), _one(_svs_stack)),
    "scn": (_ends(b"</scn>"), _one(_other_stack)),
    "qpi": (_begins(ifd.SOFTWARE, b"PerkinElmer-QPI"), _one(_qpi_stack)),
    "ndpi": (_has(65420), _one(_other_stack)),
    "scanimage": (
        lambda page: (
            page.text(ifd.SOFTWARE).startswith(b"SI.")
            or page.text(ifd.DESCRIPTION).startswith(b"state.")
        ),
        _one(_plain_stack),
    ),
    "plain": (lambda page: True, _one(_plain_stack)),
}
