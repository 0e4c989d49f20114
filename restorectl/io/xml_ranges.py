"""XML as byte ranges, so that a document can be edited in place and stay as it was elsewhere."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from restorectl.errors import InputError

_ATTRIBUTE = re.compile(rb"""\s+([\w:.-]+)\s*=\s*("[^"]*"|'[^']*')""")


@dataclass
class Element:
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


def parse_xml(xml: bytes) -> Element:
    """The document's elements with their byte ranges."""
    parser = expat.ParserCreate("UTF-8")
    parser.buffer_text = True
    document = Element(b"", {}, 0, 0)
    stack = [document]

    def start(_: str, attributes: dict[str, str]) -> None:
        at = parser.CurrentByteIndex
        head_end = _head_end(xml, at)
        name = re.split(rb"[\s/>]", xml[at + 1 : head_end], maxsplit=1)[0]
        element = Element(name, attributes, at, head_end)
        stack[-1].children.append(element)
        stack.append(element)

    def end(_: str) -> None:
        element = stack.pop()
        empty = xml[element.head_end - 2 : element.head_end] == b"/>"
        after = xml.find(b">", parser.CurrentByteIndex) + 1
        element.end = element.head_end if empty else after

    def text(data: str) -> None:
        stack[-1].text += data

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = text
    try:
        parser.Parse(xml, True)
    except expat.ExpatError as exc:
        raise InputError(f"its OME-XML is malformed ({exc}): convert it again") from exc
    return document.children[0]


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


def start_tag(xml: bytes, element: Element, values: Mapping[str, str | None]) -> bytes:
    """The element's start tag with attributes set, added or (None) removed; the rest untouched."""
    head, left = xml[element.start : element.head_end], dict(values)

    def replaced(match: re.Match[bytes]) -> bytes:
        name = match[1].decode()
        if name not in left:
            return match[0]
        value = left.pop(name)
        if value is None:
            return b""
        if value == element.attributes.get(name):
            return match[0]
        return match[0][: match.start(2) - match.start()] + quoteattr(value).encode()

    head = _ATTRIBUTE.sub(replaced, head)
    added = b"".join(
        f" {name}={quoteattr(value)}".encode() for name, value in left.items() if value is not None
    )
    at = len(head) - (2 if head.endswith(b"/>") else 1)
    return head[:at] + added + head[at:]


def utf8(xml: bytes) -> bytes:
    """UTF-8 bytes; some writers declare UTF-8 and write the micro sign in Windows' code page."""
    try:
        xml.decode("utf-8")
    except UnicodeDecodeError:
        return xml.decode("cp1252", "replace").encode()
    return xml
