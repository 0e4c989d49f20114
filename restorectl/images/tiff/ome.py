"""OME-XML: read an image's metadata, and edit the document to match a new image.

The XML is never re-serialised: the parser reports byte ranges and edits replace them, so
instruments, channels, annotations, comments and the digits of every number stay as they were.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from restorectl.errors import InputError
from restorectl.images.header import Header, Spacing

TYPES = {
    "int8": "int8",
    "int16": "int16",
    "int32": "int32",
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "float32": "float",
    "float64": "double",
}
_MICROMETRES = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "\u00b5m": 1.0,
    "\u03bcm": 1.0,
    "um": 1.0,
    "nm": 1e-3,
    "\u00c5": 1e-4,
    "pm": 1e-6,
    "in": 25400.0,
}
_SECONDS = {
    "s": 1.0,
    "ms": 1e-3,
    "\u00b5s": 1e-6,
    "ns": 1e-9,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_XMLNS = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_DEEPEST = 100  # elements within each other
_MOST_PLANES = 1 << 20  # of a file that has fewer pages
_ATTRIBUTE = re.compile(rb"""\s+([\w:.-]+)\s*=\s*("[^"]*"|'[^']*')""")


@dataclass
class Element:
    """An element and its byte range in the document."""

    name: bytes  # as written, with its prefix
    attributes: dict[str, str]
    start: int
    head_end: int  # after the start tag
    end: int = 0
    text: str = ""
    children: list["Element"] = field(default_factory=list)

    @property
    def tag(self) -> str:
        return self.name.rpartition(b":")[2].decode()

    def find(self, tag: str) -> list["Element"]:
        """All descendants of that name, in document order."""
        found = []
        for child in self.children:
            found += [child] if child.tag == tag else []
            found += child.find(tag)
        return found

    def every(self) -> list["Element"]:
        """It and all its descendants."""
        return [self, *(each for child in self.children for each in child.every())]

    def is_empty(self, xml: bytes) -> bool:
        """Whether it has no children and no end tag."""
        return xml[self.head_end - 2 : self.head_end] == b"/>"


@dataclass(frozen=True)
class OmeImage:
    """One image of an OME-XML document."""

    axes: str  # outer axes, slowest first: a permutation of TZC
    shape: tuple[int, ...]  # their lengths; C does not count the samples of a pixel
    spacing: Spacing
    channels: tuple[str, ...]
    interval: float | None  # seconds between time points
    pages: tuple[int, ...]  # the page of each plane in the order of `axes`; -1 = not in the file


def companion(xml: bytes) -> str | None:
    """The name of the file that has the metadata instead, in the same folder; None = this one."""
    found = _root(_utf8(xml)).find("BinaryOnly")
    return found[0].attributes.get("MetadataFile", "") if found else None


def uuid(xml: bytes) -> str:
    """The identifier of the file whose document it is; "" if it has none."""
    return _root(_utf8(xml)).attributes.get("UUID", "")


def own_images(xml: bytes, name: str, uuid: str) -> list[Element]:
    """The images that a file holds; the document may describe those of a whole data set.

    name, uuid: of the file.
    """
    images = _root(_utf8(xml)).find("Image")
    files = [(image, image.find("UUID")) for image in images]
    by_name = [image for image, f in files if any(u.attributes.get("FileName") == name for u in f)]
    by_uuid = [image for image, f in files if uuid in {u.text.strip() for u in f}]
    return by_name or by_uuid or images


def alone(xml: bytes, chosen: Element) -> bytes:
    """The document without all images but one."""
    xml = _utf8(xml)
    for image in reversed(_root(xml).find("Image")):
        if image.start != chosen.start:
            xml = xml[: image.start] + xml[image.end :]
    return xml


def joined(documents: Sequence[bytes]) -> bytes:
    """One document of several of one image each, whose planes follow one another in one file.

    What all have in common, such as instruments, is there once; equal identifiers of different
    things are made different by the image's number.
    """
    first, *others = map(_utf8, documents)
    root, pixels = _pixels(first)
    image, notes = root.find("Image")[0], root.find("StructuredAnnotations")
    shared = {first[c.start : c.end] for c in root.children}
    taken = {each.attributes["ID"] for each in root.every() if _has_own_id(each)}
    pages = _planes(pixels)
    pieces: dict[int, bytes] = defaultdict(bytes)  # what is inserted into the first document
    for k, xml in enumerate(others, 1):
        root, pixels = _pixels(xml)
        new = [c for c in root.children if c.tag == "Image" or xml[c.start : c.end] not in shared]
        every = [each for child in new for each in child.every()]
        own = {each.attributes["ID"] for each in every if _has_own_id(each)}
        edits = []
        for each in every:
            name = each.attributes.get("ID", "")
            changes: dict[str, str | None] = {"ID": f"{name}:{k}"} if name in own & taken else {}
            changes |= {"IFD": str(pages)} if each.tag == "TiffData" else {}
            if changes:
                edits.append((each.start, each.head_end, _start_tag(xml, each, changes)))
        for child in new:
            at = image.end if child.tag in ("Image", "StructuredAnnotations") else image.start
            parts = [child]
            if child.tag == "StructuredAnnotations" and notes and notes[0].children:
                at, parts = notes[0].children[-1].end, child.children
            for part in parts:
                within = [e for e in edits if part.start <= e[0] < part.end]
                pieces[at] += _spliced(xml[: part.end], within)[part.start :]
        shared |= {xml[c.start : c.end] for c in new}
        taken |= own
        pages += _planes(pixels)
    return _spliced(first, [(at, at, text) for at, text in pieces.items()])


def _has_own_id(element: Element) -> bool:
    """Whether it has an identifier, and does not name that of another element."""
    return "ID" in element.attributes and not element.tag.endswith(("Ref", "Settings"))


def _planes(pixels: Element) -> int:
    return sum(_number(each, "PlaneCount", 1) for each in pixels.find("TiffData"))


def _spliced(xml: bytes, edits: Sequence[tuple[int, int, bytes]]) -> bytes:
    """The document with byte ranges replaced."""
    for start, end, text in sorted(edits, reverse=True):
        xml = xml[:start] + text + xml[end:]
    return xml


def parse(xml: bytes, samples: Sequence[int]) -> OmeImage:
    """Read the one image that an OME-XML document describes.

    samples: per pixel of each page in the file.

    Raises InputError if the XML is malformed, does not describe exactly one image, or refers to
    pixels in several files.
    """
    _, pixels = _pixels(xml)
    n_pages = len(samples)
    at = [_number(data, "IFD", 0) for data in pixels.find("TiffData")] or [0]
    of_pixel = samples[at[0]] if at[0] < n_pages else samples[0]
    order = pixels.attributes.get("DimensionOrder", "XYCZT")
    axes = order[:1:-1]
    if sorted(axes) != ["C", "T", "Z"]:
        raise InputError(f"the OME-XML has the dimension order {order!r}: damaged")
    sizes = {axis: _positive(pixels, f"Size{axis}") for axis in axes}
    sizes["C"] = sizes["C"] // of_pixel if sizes["C"] % of_pixel == 0 else sizes["C"]
    shape = tuple(sizes[axis] for axis in axes)
    names = tuple(child.attributes.get("Name", "") for child in pixels.find("Channel"))
    usable = any(names) and of_pixel == 1 and len(names) == sizes["C"]
    return OmeImage(
        axes=axes,
        shape=shape,
        spacing=(_length(pixels, "Z"), _length(pixels, "Y"), _length(pixels, "X")),
        channels=names if usable else (),
        interval=_interval(pixels),
        pages=_pages(pixels, axes, shape, n_pages),
    )


def told(xml: bytes) -> Header:
    """What a document says of its only image. Raises InputError as `parse` does."""
    _, pixels = _pixels(xml)
    samples = {_number(each, "SamplesPerPixel", 1) for each in pixels.find("Channel")}
    beside = 3 if samples == {3} else 1
    found = parse(xml, [beside])
    size = _positive(pixels, "SizeY"), _positive(pixels, "SizeX")
    kinds = {name: dtype for dtype, name in TYPES.items()}
    dtype = np.dtype(kinds.get(pixels.attributes.get("Type", ""), "uint16"))
    shape, axes = (*found.shape, *size), found.axes + "YX"
    if beside == 3:
        shape, axes = (*shape, 3), axes + "S"
    return Header(axes, shape, dtype, found.spacing, found.channels, interval=found.interval)


def edited(xml: bytes, old: Header, new: Header, order: str | None) -> bytes:
    """The document edited for a new file with the pixels of `new` instead of those of `old`.

    order: the file's byte order; None if the pixels are elsewhere. All planes are in one file, in
    the order of `new.planes`.
    """
    xml = _utf8(xml)
    root, pixels = _pixels(xml)
    dropped = {"TiffData", "MetadataOnly", "BinData"}
    if new.size("Z") != old.size("Z") or new.axes != old.axes:
        dropped.add("Plane")
    if new.canonical_shape[1] != old.canonical_shape[1] or new.size("C") != old.size("C"):
        dropped.add("Channel")
    edits = [(child.start, child.end, b"") for child in pixels.children if child.tag in dropped]
    edits.append((root.start, root.head_end, _start_tag(xml, root, {"UUID": None})))
    prefix = pixels.name[: pixels.name.rfind(b":") + 1]
    count = len(new.planes) // new.size("S")
    data = b'<%sTiffData IFD="0" PlaneCount="%d"/>' % (prefix, count)
    if order is None:
        data = b"<%sMetadataOnly/>" % prefix
    head = _start_tag(xml, pixels, _pixel_attributes(pixels, old, new, order))
    if pixels.is_empty(xml):
        head = head[:-2].rstrip() + b">" + data + b"</" + pixels.name + b">"
    else:
        spot = _spot(pixels)
        edits.append((spot, spot, data))
    edits.append((pixels.start, pixels.head_end, head))
    return _spliced(xml, edits)


def _spot(pixels: Element) -> int:
    """Position for TiffData: before the first old one, else after the channels."""
    old = [child.start for child in pixels.children if child.tag in {"TiffData", "MetadataOnly"}]
    if old:
        return old[0]
    ahead = [child.end for child in pixels.children if child.tag in {"Channel", "BinData"}]
    return ahead[-1] if ahead else pixels.head_end


def _pixel_attributes(
    pixels: Element, old: Header, new: Header, order: str | None
) -> dict[str, str | None]:
    shape = dict(zip("TCZYX", new.canonical_shape, strict=True))
    wanted: dict[str, str | None] = {f"Size{axis}": str(n) for axis, n in shape.items()}
    if new.axes != old.axes:
        outer = [axis for axis in new.axes if axis in "TCZ"]
        wanted["DimensionOrder"] = _dimension_order("".join(outer))
    if new.dtype != old.dtype:
        wanted["Type"] = TYPES[new.dtype.name]
        if "SignificantBits" in pixels.attributes:
            wanted["SignificantBits"] = str(new.dtype.itemsize * 8)
    if "BigEndian" in pixels.attributes:
        wanted["BigEndian"] = "true" if order == ">" else "false"
    for axis, was, now in zip("ZYX", old.spacing, new.spacing, strict=True):
        if was != now:
            unit = pixels.attributes.get(f"PhysicalSize{axis}Unit", "\u00b5m")
            if unit not in _MICROMETRES:
                unit = "\u00b5m"
            wanted[f"PhysicalSize{axis}"] = (
                None if now is None else number(now / _MICROMETRES[unit])
            )
            if f"PhysicalSize{axis}Unit" in pixels.attributes or unit != "\u00b5m":
                wanted[f"PhysicalSize{axis}Unit"] = unit
    return wanted


def new_document(header: Header, order: str, comments: tuple[str, ...] = ()) -> bytes:
    """A new OME-XML document for an image; `comments` become annotations."""
    outer = "".join(axis for axis in header.axes if axis in "TCZ")
    size = dict(zip("TCZYX", header.canonical_shape, strict=True))
    samples = header.size("S")
    attributes = {"ID": "Pixels:0", "DimensionOrder": _dimension_order(outer)}
    attributes["Type"] = TYPES[header.dtype.name]
    attributes |= {f"Size{axis}": str(size[axis]) for axis in "XYZCT"}
    attributes["BigEndian"] = "true" if order == ">" else "false"
    for axis, length in zip("ZYX", header.spacing, strict=True):
        if length is not None:
            attributes[f"PhysicalSize{axis}"] = number(length)
            attributes[f"PhysicalSize{axis}Unit"] = "\u00b5m"
    if header.interval is not None and size["T"] > 1:
        attributes["TimeIncrement"] = number(header.interval)
    channels = []
    for c in range(size["C"] // samples):
        name = f" Name={quoteattr(header.channels[c])}" if samples == 1 and header.channels else ""
        channels.append(f'<Channel ID="Channel:0:{c}"{name} SamplesPerPixel="{samples}"/>')
    pages = len(header.planes) // samples
    refs = "".join(f'<AnnotationRef ID="Annotation:{i}"/>' for i in range(len(comments)))
    notes = "".join(
        f'<CommentAnnotation ID="Annotation:{i}" Namespace="restorectl/input">'
        f"<Value>{escape(_printable(text))}</Value></CommentAnnotation>"
        for i, text in enumerate(comments)
    )
    notes = f"<StructuredAnnotations>{notes}</StructuredAnnotations>" if notes else ""
    listed = " ".join(f"{key}={quoteattr(value)}" for key, value in attributes.items())
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{_XMLNS}"'
        ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
        f' xsi:schemaLocation="{_XMLNS} {_XMLNS}/ome.xsd">'
        f'<Image ID="Image:0"><Pixels {listed}>{"".join(channels)}'
        f'<TiffData IFD="0" PlaneCount="{pages}"/></Pixels>{refs}</Image>{notes}</OME>'
    ).encode()


def _dimension_order(outer: str) -> str:
    """OME's DimensionOrder for outer axes (slowest first), completed by missing axes."""
    return "XY" + outer[::-1] + "".join(axis for axis in "CZT" if axis not in outer)


def number(value: float) -> str:
    """The shortest text that gives the same number, without rounding noise of a conversion."""
    short = f"{value:.15g}"
    return short if abs(float(short) - value) <= 1e-14 * abs(value) else repr(value)


def _printable(text: str) -> str:
    return "".join(c for c in text if c in "\t\n\r" or (c >= " " and not 0xD800 <= ord(c) < 0xE000))


def _pixels(xml: bytes) -> tuple[Element, Element]:
    root = _root(_utf8(xml))
    found = [pixels for image in root.find("Image") for pixels in image.find("Pixels")]
    if len(found) != 1:
        raise InputError(f"its OME-XML describes {len(found)} images: convert it again")
    return root, found[0]


def _root(xml: bytes) -> Element:
    return _Parser(xml).document.children[0]


def _pages(pixels: Element, axes: str, shape: tuple[int, ...], n_pages: int) -> tuple[int, ...]:
    """The page of each plane, from the TiffData elements."""
    count = shape[0] * shape[1] * shape[2]
    if count > max(n_pages, _MOST_PLANES):
        raise InputError(f"the OME-XML describes {count} planes, but there are {n_pages}: damaged")
    data = pixels.find("TiffData")
    if (
        len({(u.text.strip(), u.attributes.get("FileName")) for d in data for u in d.find("UUID")})
        > 1
    ):
        raise InputError("is one of several files of an OME data set: merge them into one file")
    if not data:
        return tuple(i if i < n_pages else -1 for i in range(count))
    pages = [-1] * count
    for item in data:
        first = 0
        for axis, length in zip(axes, shape, strict=True):
            start = _number(item, f"First{axis}", 0)
            if start >= length:
                raise InputError(f"the OME-XML says First{axis}={start} of {length}: damaged")
            first = first * length + start
        ifd = _number(item, "IFD", 0)
        default = _number(item, "NumPlanes", 1 if "IFD" in item.attributes else n_pages - ifd)
        n = _number(item, "PlaneCount", default)
        for i in range(min(n, count - first)):
            if ifd + i < n_pages:
                pages[first + i] = ifd + i
    return tuple(pages)


def _positive(pixels: Element, name: str) -> int:
    found = _number(pixels, name, 1)
    if found < 1:
        raise InputError(f"the OME-XML says {name}={found}: damaged")
    return found


def _number(element: Element, name: str, default: int) -> int:
    """An attribute that is 0 or a positive integer."""
    text = element.attributes.get(name, "") or str(default)
    if not text.isdecimal() or len(text) > 9:
        raise InputError(f"the OME-XML says {name}={text!r}: damaged")
    return int(text)


def _length(pixels: Element, axis: str) -> float | None:
    text = pixels.attributes.get(f"PhysicalSize{axis}")
    factor = _MICROMETRES.get(pixels.attributes.get(f"PhysicalSize{axis}Unit", "\u00b5m"))
    if text is None or factor is None:
        return None
    try:
        value = float(text) * factor
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def _interval(pixels: Element) -> float | None:
    factor = _SECONDS.get(pixels.attributes.get("TimeIncrementUnit", "s"))
    try:
        value = float(pixels.attributes["TimeIncrement"]) * (factor or 0.0)
    except (KeyError, ValueError):
        return None
    return value if 0 < value < float("inf") else None


class _Parser:
    """Collects the elements of a document with their byte ranges."""

    def __init__(self, xml: bytes) -> None:
        self.xml = xml
        self.document = Element(b"", {}, 0, 0)
        self._open = [self.document]
        self._expat = expat.ParserCreate("UTF-8")
        self._expat.buffer_text = True
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._text
        try:
            self._expat.Parse(xml, True)
        except expat.ExpatError as exc:
            raise InputError(f"its OME-XML is malformed ({exc}): convert it again") from exc

    def _start(self, _: str, attributes: dict[str, str]) -> None:
        if len(self._open) > _DEEPEST:
            raise InputError(f"its OME-XML is nested more than {_DEEPEST} deep: damaged")
        at = self._expat.CurrentByteIndex
        head_end = _head_end(self.xml, at)
        name = re.split(rb"[\s/>]", self.xml[at + 1 : head_end], maxsplit=1)[0]
        element = Element(name, attributes, at, head_end)
        self._open[-1].children.append(element)
        self._open.append(element)

    def _end(self, _: str) -> None:
        element = self._open.pop()
        after = self.xml.find(b">", self._expat.CurrentByteIndex) + 1
        element.end = element.head_end if element.is_empty(self.xml) else after

    def _text(self, data: str) -> None:
        self._open[-1].text += data


def _head_end(xml: bytes, at: int) -> int:
    """The end of the start tag at `at`: the first '>' outside quotes."""
    quote = 0
    for i in range(at, len(xml)):
        c = xml[i]
        if quote:
            quote = 0 if c == quote else quote
        elif c in b"\"'":
            quote = c
        elif c == 0x3E:
            return i + 1
    return len(xml)


def _start_tag(xml: bytes, element: Element, values: Mapping[str, str | None]) -> bytes:
    """The element's start tag with attributes changed, added or (None) removed."""
    head, left = xml[element.start : element.head_end], dict(values)
    parts, at = [], 0
    for match in _ATTRIBUTE.finditer(head):
        name = match[1].decode()
        if name not in left or (value := left.pop(name)) == element.attributes.get(name):
            continue
        parts.append(head[at : match.start()])
        if value is not None:
            parts.append(head[match.start() : match.start(2)] + quoteattr(value).encode())
        at = match.end()
    end = len(head) - (2 if head.endswith(b"/>") else 1)
    parts.append(head[at:end])
    parts += [f" {k}={quoteattr(v)}".encode() for k, v in left.items() if v is not None]
    return b"".join(parts) + head[end:]


def _utf8(xml: bytes) -> bytes:
    """Valid UTF-8; some writers declare UTF-8 but write the micro sign as Windows-1252."""
    try:
        xml.decode("utf-8")
    except UnicodeDecodeError:
        return xml.decode("cp1252", "replace").encode()
    return xml
