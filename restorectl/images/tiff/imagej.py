"""ImageJ's TIFF dialect: key=value lines in the description and two private metadata tags.

Lines and blocks that need no change are kept as they are.
"""

import math
import struct
from collections.abc import Mapping

from restorectl.errors import InputError
from restorectl.images.header import Spacing
from restorectl.images.tiff.ifd import Tag

COUNTS, BLOCKS = 50838, 50839  # IJMetadataByteCounts, IJMetadata
DTYPES = frozenset({"uint8", "uint16", "float32"})  # what ImageJ stores
# The order of the hyperstack in the file, slowest first; ImageJ itself writes czt.
_ORDERS = {
    "czt": "TZC",
    "default": "TZC",
    "ctz": "ZTC",
    "zct": "TCZ",
    "ztc": "CTZ",
    "tcz": "ZCT",
    "tzc": "CZT",
}
_AXIS_KEYS = {"T": "frames", "Z": "slices", "C": "channels"}
MICROMETRES = {
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometers": 1.0,
    "um": 1.0,
    "\u00b5m": 1.0,
    "\u03bcm": 1.0,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    "inch": 25400.0,
    "in": 25400.0,
}


def is_imagej(description: bytes) -> bool:
    return description.startswith(b"ImageJ=")


def fields(description: bytes) -> dict[str, str]:
    """The description's lines as key -> value."""
    pairs = (line.partition("=") for line in _text(description).splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs if value}


def _text(description: bytes) -> str:
    """ImageJ writes the system's encoding: today UTF-8, on old Windows cp1252."""
    try:
        return description.decode()
    except UnicodeDecodeError:
        return description.decode("cp1252", "replace")


def outer_axes(
    description: bytes, samples: int, planar: bool, n_pages: int
) -> tuple[str, tuple[int, ...], int]:
    """The hyperstack's axes outside YX, their lengths, and the declared number of images.

    samples: per pixel of a page; planar: they are stored as separate planes; n_pages: pages in the
    file. Axes of length 1 are left out. A stack along an unknown axis has the axis I.

    Raises InputError for counts that are not positive numbers.
    """
    found = fields(description)
    sizes = {axis: _count(found, key) for axis, key in _AXIS_KEYS.items()}
    images = _count(found, "images")
    counted_twice = planar or images == sizes["T"] * sizes["Z"]
    if samples > 1 and sizes["C"] == samples and counted_twice:
        sizes["C"] = 1  # Bio-Formats may count the samples of a pixel as channels too
        images = max(1, images // samples)  # and ImageJ as images, in 48-bit colour
    declared = sizes["T"] * sizes["Z"] * sizes["C"]
    order = _ORDERS.get(found.get("order", "czt").lower(), "TZC")
    axes = "".join(axis for axis in order if sizes[axis] > 1)
    shape = tuple(sizes[axis] for axis in axes)
    if declared == 1:
        declared = images if images > 1 else n_pages
        if declared > 1:
            axes, shape = "I", (declared,)
    return axes, shape, declared


def spacing(description: bytes, resolution: tuple[float, float]) -> Spacing:
    """(z, y, x) in micrometres from the description and the resolution tags.

    `resolution`: pixels per unit in y and x, 0 = not given. The unit is the description's.
    """
    found = fields(description)
    of_z, *of_yx = units(found)
    y, x = (
        factor / value if factor is not None and value > 0 else None
        for factor, value in zip(of_yx, resolution, strict=True)
    )
    try:
        z = abs(float(found.get("spacing", "")))
    except ValueError:
        z = 0.0
    return (z * of_z if of_z is not None and 0 < z < math.inf else None, y, x)


def interval(description: bytes) -> float | None:
    """Seconds between time points; None if the header has no such number, or another unit."""
    found = fields(description)
    factor = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "msec": 1e-3, "min": 60.0, "hour": 3600.0}.get(
        found.get("tunit", "s").lower()
    )
    try:
        value = float(found.get("finterval", "")) * (factor or 0.0)
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def units(found: Mapping[str, str]) -> list[float | None]:
    """Micrometres of the units in z, y and x; None if there is none or it is no length.

    ImageJ writes the unit of x, and those of y and z where they differ.
    """
    unit = found.get("unit", "")
    names = (found.get("zunit", unit), found.get("yunit", unit), unit)
    return [MICROMETRES.get(unit_name(name)) for name in names]


def unit_name(text: str) -> str:
    """A unit as a key of MICROMETRES; ImageJ escapes the micro sign."""
    return text.replace("\\u00B5", "\u00b5").replace("\\u00b5", "\u00b5").strip().lower()


def edited(description: bytes, changes: Mapping[str, str | None]) -> bytes:
    """The description with lines changed, added at the end, or (None) removed."""
    left = dict(changes)
    lines = []
    for line in description.splitlines(keepends=True):
        key = _text(line.partition(b"=")[0]).strip()
        if key not in left:
            lines.append(line)
            continue
        value = left.pop(key)
        if value is not None:
            lines.append(f"{key}={value}\n".encode())
    if lines and not lines[-1].endswith(b"\n"):
        lines[-1] += b"\n"
    lines += [f"{key}={value}\n".encode() for key, value in left.items() if value is not None]
    return b"".join(lines)


def stack_changes(axes: str, shape: tuple[int, ...], images: int) -> dict[str, str | None]:
    """The description lines with the stack's counts."""
    sizes = dict(zip(axes, shape, strict=True))
    changes: dict[str, str | None] = {"images": str(images) if images > 1 else None}
    for axis, key in _AXIS_KEYS.items():
        count = sizes.get(axis, 1)
        changes[key] = str(count) if count > 1 else None
    return changes


def labels(tags: Mapping[int, Tag], order: str) -> tuple[str, ...]:
    """The labels of the slices; () if the file has none."""
    return tuple(
        data.decode("utf-16-le" if order == "<" else "utf-16-be", "replace")
        for kind, data in _blocks(tags, order)
        if kind == b"labl"
    )


def info(tags: Mapping[int, Tag], order: str) -> str:
    """The image's Info text; "" if the file has none."""
    codec = "utf-16-le" if order == "<" else "utf-16-be"
    found = [
        data.decode(codec, "replace") for kind, data in _blocks(tags, order) if kind == b"info"
    ]
    return found[0] if found else ""


def without_slices(tags: Mapping[int, Tag], order: str) -> dict[int, Tag]:
    """The private tags without the parts of single slices: labels and overlays."""
    kept = [item for item in _blocks(tags, order) if item[0] not in (b"labl", b"over")]
    rest = {code: tag for code, tag in tags.items() if code not in (COUNTS, BLOCKS)}
    if not kept:
        return rest
    kinds: list[bytes] = list(dict.fromkeys(kind for kind, _ in kept))
    head = b"IJIJ" if order == ">" else b"JIJI"
    for kind in kinds:
        name = kind if order == ">" else kind[::-1]
        head += name + struct.pack(order + "I", sum(k == kind for k, _ in kept))
    counts = (len(head), *(len(data) for _, data in kept))
    rest[COUNTS] = Tag(4, struct.pack(f"{order}{len(counts)}I", *counts))
    rest[BLOCKS] = Tag(1, head + b"".join(data for _, data in kept))
    return rest


def _blocks(tags: Mapping[int, Tag], order: str) -> list[tuple[bytes, bytes]]:
    """(kind, bytes) of every metadata block; [] if the tags are absent or not ImageJ's."""
    if COUNTS not in tags or BLOCKS not in tags:
        return []
    counts, data = tags[COUNTS].integers(order), tags[BLOCKS].data
    if not counts or data[:4] not in (b"IJIJ", b"JIJI") or sum(counts) > len(data):
        return []
    kinds: list[bytes] = []
    for at in range(4, counts[0] - 7, 8):
        name = data[at : at + 4] if order == ">" else data[at : at + 4][::-1]
        repeat = struct.unpack_from(order + "I", data, at + 4)[0]
        kinds += [name] * min(repeat, len(counts))
    found, at = [], counts[0]
    for kind, n in zip(kinds, counts[1:], strict=False):
        found.append((kind, data[at : at + n]))
        at += n
    return found


def _count(found: Mapping[str, str], key: str) -> int:
    text = found.get(key, "1")
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise InputError(f"the ImageJ header says {key}={text}: damaged")
    return int(text)
