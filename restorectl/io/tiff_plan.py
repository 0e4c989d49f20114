"""What an output TIFF will be, decided before a byte is written: dialect, byte order, size.

The output keeps the dialect of the input wherever that can hold the new pixels:

    ome       the OME-XML, edited where it would no longer be true
    imagej    the ImageJ header; only uint8, uint16 and float32, and below 4 GB, else new-ome
    shaped    tifffile's JSON header
    plain     the description as it was; new-ome if depth or z spacing changed
    new-ome   a new OME-XML with the input's description as a comment
    new-plain nothing but pixel size; single pages of images that were not TIFF
"""

from dataclasses import dataclass, replace
from pathlib import Path

from restorectl.core.axes import Header
from restorectl.errors import OutputError
from restorectl.io import imagej, ome
from restorectl.io.tiff_header import TiffSource
from restorectl.io.tiff_ifd import Layout

# Classic TIFF has 32-bit offsets; the margin is for readers that count in signed steps of a page.
CLASSIC_LIMIT = (1 << 32) - (32 << 20)
_KEPT_DIALECTS = frozenset({"plain", "scanimage", "fluoview", "sis"})


@dataclass(frozen=True)
class Plan:
    """How one output is stored."""

    dialect: str
    layout: Layout
    header: Header
    source: TiffSource | None
    compressed: bool

    @property
    def samples(self) -> int:
        """Samples of a stored pixel, alpha included."""
        return self.header.size("S") + (self.source is not None and self.source.alpha is not None)

    @property
    def planar(self) -> bool:
        source = self.source
        beside = source is not None and source.alpha is not None and source.planar
        return "SYX" in self.header.axes or beside

    @property
    def n_pages(self) -> int:
        return len(self.header.planes) // self.header.size("S")


def make_plan(path: Path, header: Header) -> Plan:
    source = header.extra.get("tiff")
    assert source is None or isinstance(source, TiffSource)
    if source is not None and source.alpha is not None and header.shape != source.header.shape:
        if header.size("S") != source.header.size("S"):
            source = replace(source, alpha=None)  # the colours are gone, and alpha with them
        else:
            raise OutputError(f"{path}: alpha cannot be resampled: remove it from the input")
    order = source.order if source is not None else "<"
    nbytes = _file_bytes(header, source)
    dialect = _dialect(header, source, nbytes)
    if dialect.endswith("ome") and header.dtype.name not in ome.TYPES:
        header_type = header.dtype.name
        raise OutputError(f"{path}: OME-TIFF has no {header_type}: save the input as float32")
    compressed = source is not None and source.pages[0].get(259) is not None
    if compressed and source is not None:
        compression = source.pages[0][259]
        compressed = compression is not None and compression.integers(order)[:1] not in ((1,), ())
    return Plan(
        dialect,
        Layout(order, nbytes >= CLASSIC_LIMIT),
        header,
        source,
        compressed and dialect != "imagej",
    )


def _file_bytes(header: Header, source: TiffSource | None) -> int:
    """An upper bound of the file's size, were it not compressed."""
    pixels = header.nbytes
    if source is None:
        return pixels + 1024 * len(header.planes) + (1 << 16)
    pixels += pixels // header.size("S") if source.alpha is not None else 0
    common = sum(len(tag.data) + 32 for tag in source.pages[0].values() if tag is not None)
    per_page = max(len(header.planes) // header.size("S"), len(source.pages)) * (common + 1024)
    rest = sum(len(t.data) for page in source.pages[1:] for t in page.values() if t is not None)
    return pixels + per_page + rest + (1 << 16)


def _dialect(header: Header, source: TiffSource | None, nbytes: int) -> str:
    outer = "".join(axis for axis in header.axes if axis in "TCZ")
    if source is None:
        return "new-ome" if outer else "new-plain"
    old = source.header
    same = header.axes == old.axes and header.shape == old.shape
    if source.kind == "ome":
        return "ome"
    if source.kind == "imagej":
        ordered = same or list(outer) == [axis for axis in "TZC" if axis in outer]
        stored = header.dtype.name in imagej.DTYPES or header.dtype == old.dtype
        colour = "S" in header.axes and header.dtype != old.dtype
        fits = nbytes < CLASSIC_LIMIT
        return "imagej" if ordered and stored and fits and not colour else "new-ome"
    if source.kind == "shaped":
        return "shaped"
    if source.kind in _KEPT_DIALECTS and header.spacing[0] == old.spacing[0]:
        return "plain" if header.shape == old.shape else "new-ome"
    return "new-ome"
