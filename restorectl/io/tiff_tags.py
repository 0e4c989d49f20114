"""The tags of an output TIFF apart from its pixels: the input's, made true, plus provenance."""

import json
import struct
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from restorectl import __version__
from restorectl.core.axes import Header, Spacing
from restorectl.core.provenance import dumps
from restorectl.errors import OutputError
from restorectl.io import imagej, ome
from restorectl.io.tiff_header import DESCRIPTION, HISTORY, TiffSource
from restorectl.io.tiff_ifd import RATIONAL, SHORT, Tag, text_tag
from restorectl.io.tiff_ifd import integers_tag as numbers
from restorectl.io.tiff_plan import Plan

SOFTWARE = 305
# Tags that describe how pixels are stored, or point into the old file: written anew or left out.
_STRUCTURE = frozenset({254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284})
_STRUCTURE |= {288, 289, 317, 320, 322, 323, 324, 325, 330, 338, 339, 340, 341, 347, 512, 513, 514}
_STRUCTURE |= {515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 34665, 34853, 40965, 34412, 33628}
_STRUCTURE |= {33629, 33630, 33631, 32997, 32998}
_OF_ONE_PAGE = frozenset({285, 297, 306, 51123})  # name, number, date, Micro-Manager's page record
_RESOLUTION = frozenset({282, 283, 296})


def first_tags(plan: Plan, provenance: Mapping[str, Any]) -> dict[int, Tag]:
    """The tags of the first page apart from its structure."""
    source, header, order = plan.source, plan.header, plan.layout.order
    old = {c: tag for c, tag in source.pages[0].items() if tag is not None} if source else {}
    tags = {code: tag for code, tag in old.items() if code not in _STRUCTURE}
    was = old[DESCRIPTION].text if DESCRIPTION in old else b""
    text = _description(plan, was)
    if text:
        tags[DESCRIPTION] = old[DESCRIPTION] if text == was else text_tag(text)
    else:
        tags.pop(DESCRIPTION, None)
    if plan.dialect == "imagej" and source and header.size("Z") != source.header.size("Z"):
        tags = imagej.without_slices(tags, order)
    if plan.dialect == "new-ome":
        tags = {c: tag for c, tag in tags.items() if c not in (imagej.COUNTS, imagej.BLOCKS)}
    if source is None or header.spacing[1:] != source.header.spacing[1:]:
        tags |= _resolution(header.spacing, order, micrometres=plan.dialect == "imagej")
    elif plan.dialect == "new-ome" and source.kind == "imagej":
        # ImageJ keeps the unit in its description, which the new file does not have
        tags |= _resolution(header.spacing, order, micrometres=False)
    history: dict[str, Any] = {"restorectl": provenance}
    if HISTORY in old and (previous := _foreign_history(old[HISTORY].text)):
        history["previous"] = previous
    tags[HISTORY] = text_tag(dumps(history).encode())
    tags[SOFTWARE] = text_tag(_software(old[SOFTWARE].text if SOFTWARE in old else b""))
    return tags


def _description(plan: Plan, was: bytes) -> bytes:
    source, header, order = plan.source, plan.header, plan.layout.order
    if plan.dialect == "new-ome":
        return ome.new_document(header, order, _comments(source, was))
    if source is None or plan.dialect in ("plain", "new-plain"):
        return was
    old = source.header
    if plan.dialect == "ome":
        return ome.edited(was, old, header, order)
    if plan.dialect == "imagej":
        return _imagej_description(was, old, header)
    if (header.axes, header.shape, header.spacing) == (old.axes, old.shape, old.spacing):
        return was
    found = json.loads(was)
    if (header.axes, header.shape) != (old.axes, old.shape):
        found |= {"axes": header.axes, "shape": list(header.shape)}
    if header.spacing[0] is not None and header.spacing[0] != old.spacing[0]:
        found |= {"spacing": header.spacing[0], "unit": "um"}
    return json.dumps(found).encode()


def _imagej_description(was: bytes, old: Header, new: Header) -> bytes:
    changes: dict[str, str | None] = {}
    if (new.axes, new.shape) != (old.axes, old.shape):
        outer = [axis for axis in new.axes if axis in "TCZ"]
        lengths = tuple(new.size(axis) for axis in outer)
        pages = len(new.planes) // new.size("S")
        changes |= imagej.stack_changes("".join(outer), lengths, pages)
        if len(outer) > 1:
            changes["hyperstack"] = "true"
    if new.spacing != old.spacing:
        unit = imagej.MICROMETRES.get(imagej.unit_name(imagej.fields(was).get("unit", "")))
        if unit is None or new.spacing[1:] != old.spacing[1:]:
            unit, changes["unit"] = 1.0, "micron"
        z = new.spacing[0]
        changes["spacing"] = None if z is None else ome.number(z / unit)
    elif new.size("Z") != old.size("Z"):
        changes["spacing"] = _rescaled(imagej.fields(was).get("spacing"), old, new)
    if new.dtype != old.dtype:  # a calibration of grey values belongs to the old type
        found = imagej.fields(was)
        changes |= {k: None for k in ("cf", "c0", "c1", "c2", "c3", "c4", "vunit") if k in found}
    return imagej.edited(was, changes) if changes else was


def _rescaled(spacing: str | None, old: Header, new: Header) -> str | None:
    """A distance between planes in a unit that the file does not name; the depth stays."""
    try:
        return ome.number(float(spacing or "") * (old.size("Z") - 1) / (new.size("Z") - 1))
    except (ValueError, ZeroDivisionError):
        return None


def _comments(source: TiffSource | None, was: bytes) -> tuple[str, ...]:
    """What a new OME-XML keeps of the old header, as text."""
    if source is None:
        return ()
    first = {c: tag for c, tag in source.pages[0].items() if tag is not None}
    texts = [was.decode("utf-8", "replace"), imagej.info(first, source.order)]
    texts += ["\n".join(imagej.labels(first, source.order))]
    return tuple(text for text in texts if text.strip())


def _resolution(spacing: Spacing, order: str, *, micrometres: bool) -> dict[int, Tag]:
    """Resolution tags in pixels per micrometre (for ImageJ) or per centimetre."""
    if spacing[1] is None or spacing[2] is None:
        return {}
    per_unit = Fraction(1 if micrometres else 10000)
    tags = {296: numbers(order, SHORT, 1 if micrometres else 3)}
    for code, length in ((282, spacing[2]), (283, spacing[1])):
        exact = per_unit / Fraction(ome.number(length))
        short = exact.limit_denominator(1_000_000)
        if not 0 < short.numerator < 1 << 32:
            raise OutputError(f"a pixel size of {length} micrometres does not fit into TIFF")
        tags[code] = Tag(RATIONAL, struct.pack(order + "II", short.numerator, short.denominator))
    return tags


def _software(was: bytes) -> bytes:
    """Who wrote the file; the input's writer stays named, restorectl itself is not repeated."""
    own = f"restorectl {__version__}".encode()
    if was.startswith(b"restorectl "):
        before = was.partition(b" (input: ")[2]
        return own + (b" (input: " + before if before else b"")
    return own + (b" (input: " + was + b")" if was.strip() else b"")


def _foreign_history(text: bytes) -> str:
    """Another program's ImageHistory, also where our own record wraps it already."""
    try:
        found = json.loads(text)
    except ValueError:
        return text.decode("latin-1")
    if isinstance(found, dict) and "restorectl" in found:
        return str(found.get("previous", ""))
    return text.decode("latin-1")


def page_tags(plan: Plan, first: Mapping[int, Tag], k: int) -> dict[int, Tag]:
    """The tags of page k apart from its structure."""
    source = plan.source
    if k == 0:
        return dict(first)
    if source is None:
        return {c: tag for c, tag in first.items() if c in _RESOLUTION}
    # Page k as it was, then what changed for the whole file
    own = source.pages[k] if len(source.pages) == plan.n_pages else {}
    kept = {c: t for c, t in source.pages[0].items() if c not in _OF_ONE_PAGE | {HISTORY}}
    if len(source.pages) == plan.n_pages:
        kept = {**source.pages[0], **own}
    tags = {c: t for c, t in kept.items() if t is not None and c not in _STRUCTURE}
    if tags.get(DESCRIPTION) == source.pages[0].get(DESCRIPTION):
        tags.pop(DESCRIPTION, None)
        if plan.dialect in ("imagej", "plain") and DESCRIPTION in first:
            tags[DESCRIPTION] = first[DESCRIPTION]
    for code in (imagej.COUNTS, imagej.BLOCKS, HISTORY):  # these belong to the whole file
        tags.pop(code, None)
    return tags | {c: tag for c, tag in first.items() if c in _RESOLUTION}
