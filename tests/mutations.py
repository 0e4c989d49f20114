"""Damaged files: every header field of every format, set to values that it should not have.

`samples` writes small valid files. `fields` finds the header fields of a file: of TIFF and its
dialects each number in the header, directories and tags, and the numbers in texts; of PNG the
lengths, names and contents of chunks, whose checksums are made right again; of JPEG the markers and
lengths, and the bytes of its headers. `mutants` damages one or two of them, and `verdicts` says
what `restorectl restore` makes of them.
"""

import json
import random
import re
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image as Pillow
from PIL import PngImagePlugin

RNG = np.random.default_rng(4)
STACK = RNG.integers(100, 4000, (3, 24, 32)).astype(np.uint16)
FLAT = RNG.integers(10, 250, (24, 32, 3)).astype(np.uint8)
LSM_INFO = struct.pack("<Ii8i3d", 0x0400494C, 380, 32, 24, 3, 1, 1, 2, 16, 16, 2e-7, 2e-7, 1e-6)
UUID = "urn:uuid:00000000-0000-4000-8000-000000000001"  # in place of a random one
TIFFS = {  # arguments of tifffile.imwrite
    "imagej.tif": (STACK, {"imagej": True, "metadata": {"axes": "ZYX", "unit": "um"}}),
    "hyper.tif": (STACK, {"imagej": True, "metadata": {"axes": "CYX", "Labels": ["a", "b", "c"]}}),
    "ome.ome.tif": (
        STACK,
        {"metadata": {"axes": "ZYX", "PhysicalSizeX": 0.2, "UUID": UUID}, "compression": 8},
    ),
    "shaped.tif": (STACK, {"metadata": {"axes": "ZYX"}, "photometric": "minisblack"}),
    "big.tif": (STACK[0], {"bigtiff": True, "metadata": None, "compression": "zstd"}),
    "lzw.tif": (STACK[0], {"metadata": None, "compression": "lzw", "predictor": 2}),
    "tiled.tif": (
        STACK[0],
        {"metadata": None, "compression": 8, "tile": (16, 16), "byteorder": ">"},
    ),
    "rgb.tif": (FLAT, {"metadata": None, "photometric": "rgb", "rowsperstrip": 5}),
    "planar.tif": (
        np.moveaxis(FLAT, -1, 0),
        {"metadata": None, "photometric": "rgb", "planarconfig": "separate"},
    ),
    "jpeg.tif": (FLAT, {"metadata": None, "photometric": "ycbcr", "compression": "jpeg"}),
    "float.tif": (STACK[0].astype(np.float32), {"metadata": None, "resolution": (5e4, 5e4)}),
}


def samples(folder: Path) -> dict[str, Path]:
    """Valid files of all formats by name."""
    folder.mkdir()
    for name, (pixels, options) in TIFFS.items():
        tifffile.imwrite(folder / name, pixels, software="maker 1", **options)
    with tifffile.TiffWriter(folder / "lsm.tif") as writer:  # each plane with a thumbnail
        info = [(34412, 1, 380, LSM_INFO.ljust(380, b"\0"), True)]
        for plane in STACK:
            writer.write(plane, metadata=None, photometric="minisblack", extratags=info)
            thumbnail = np.stack([(plane[:16, :16] >> 4).astype(np.uint8)] * 3)
            options = {"photometric": "rgb", "planarconfig": "separate", "subfiletype": 1}
            writer.write(thumbnail, metadata=None, **options)
            info = []
    told = PngImagePlugin.PngInfo()
    told.add_text("Comment", "as measured")
    Pillow.fromarray(STACK[0]).save(folder / "grey.png", pnginfo=told, dpi=(127000, 127000))
    Pillow.fromarray(np.dstack([FLAT, FLAT[..., 0]])).save(folder / "rgba.png")
    exif = Pillow.Exif()
    exif[306] = "2024:01:02 03:04:05"
    Pillow.fromarray(FLAT[..., 0]).save(folder / "grey.jpg", exif=exif, dpi=(72, 72))
    Pillow.fromarray(FLAT).save(folder / "rgb.jpg", progressive=True, comment="as measured")
    return {path.name: path for path in sorted(folder.iterdir())}


@dataclass(frozen=True)
class Field:
    """A part of the header: its bytes, and the order of a number ("" for a text)."""

    label: str
    start: int
    stop: int
    order: str


def fields(data: bytes) -> list[Field]:
    """The header fields of a file."""
    if data.startswith(b"\x89PNG"):
        return list(_of_png(data))
    return list(_of_jpeg(data) if data.startswith(b"\xff\xd8") else _of_tiff(data))


def _of_tiff(data: bytes) -> Iterator[Field]:
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    size, entry, counter = (8, 20, 8) if big else (4, 12, 2)
    code = {2: "H", 4: "I", 8: "Q"}
    yield Field("byte order", 0, 2, order)
    yield Field("version", 2, 4, order)
    at = 8 if big else 4
    for page in range(99):
        yield Field(f"offset of page {page}", at, at + size, order)
        (start,) = struct.unpack_from(order + code[size], data, at)
        if not start:
            return
        (count,) = struct.unpack_from(order + code[counter], data, start)
        yield Field(f"tags of page {page}", start, start + counter, order)
        for k in range(count):
            at = start + counter + k * entry
            tag, kind = struct.unpack_from(order + "HH", data, at)
            (number,) = struct.unpack_from(order + code[size], data, at + 4)
            name = f"tag {tag} of page {page}"
            yield Field(f"code of {name}", at, at + 2, order)
            yield Field(f"type of {name}", at + 2, at + 4, order)
            yield Field(f"count of {name}", at + 4, at + 4 + size, order)
            yield Field(f"value of {name}", at + 4 + size, at + 4 + 2 * size, order)
            each = {1: 4, 2: 1, 3: 2, 4: 4, 5: 4, 7: 4, 16: 8}[kind]
            length = number * {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 16: 8}[kind]
            place = at + 4 + size
            if length > size:
                (place,) = struct.unpack_from(order + code[size], data, place)
            if kind == 2:
                text = data[place : place + length]
                yield Field(f"text of {name}", place, place + length, "")
                for found in re.finditer(rb"[-\d.]+|(?<==)[^\s\"]+|\w+(?==)", text):
                    yield Field(f"part of {name}", place + found.start(), place + found.end(), "")
            else:
                for spot in range(place, place + min(length, 160), each):
                    yield Field(f"number of {name}", spot, spot + each, order)
        at = start + counter + count * entry


def _of_png(data: bytes) -> Iterator[Field]:
    yield Field("signature", 0, 8, ">")
    at = 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name = data[at + 4 : at + 8].decode()
        yield Field(f"length of {name}", at, at + 4, ">")
        yield Field(f"name of {name}", at + 4, at + 8, ">")
        yield Field(f"checksum of {name}", at + 8 + length, at + 12 + length, ">")
        widths = [4, 4, 1, 1, 1, 1, 1] if name == "IHDR" else [1] * min(length, 12)
        spot = at + 8
        for width in widths:
            yield Field(f"content of {name}", spot, spot + width, ">")
            spot += width
        at += 12 + length


def _of_jpeg(data: bytes) -> Iterator[Field]:
    at = 2
    while data[at] == 0xFF:
        marker, length = struct.unpack_from(">xBH", data, at)
        name = f"segment {marker:02x} at {at}"
        yield Field(f"marker of {name}", at + 1, at + 2, ">")
        yield Field(f"length of {name}", at + 2, at + 4, ">")
        for spot in range(at + 4, at + 2 + min(length, 40)):
            yield Field(f"content of {name}", spot, spot + 1, ">")
        if marker in range(0xC0, 0xC3):
            yield Field(f"rows in {name}", at + 5, at + 7, ">")
            yield Field(f"columns in {name}", at + 7, at + 9, ">")
        if marker == 0xDA:
            return
        at += 2 + length


NUMBERS: tuple[Callable[[int, int, random.Random], int], ...] = (  # (value, its bits, random)
    lambda n, bits, _: 0,
    lambda n, bits, _: 1,
    lambda n, bits, _: n + 1,
    lambda n, bits, _: n - 1,
    lambda n, bits, _: 2 * n,
    lambda n, bits, _: n // 2,
    lambda n, bits, _: (1 << bits) - 1,
    lambda n, bits, _: 1 << (bits - 1),
    lambda n, bits, _: int.from_bytes(n.to_bytes(bits // 8, "big"), "little"),
    lambda n, bits, drawn: n ^ 1 << drawn.randrange(bits),
    lambda n, bits, drawn: drawn.randrange(1 << bits),
    lambda n, bits, drawn: drawn.randrange(200),
    lambda n, bits, drawn: 1_000_000_007,
)
TEXTS = (
    b"0",
    b"-1",
    b"1",
    b"2",
    b"9",
    b"nan",
    b"inf",
    b"",
    b"999999999999",
    b"1e400",
    b"x",
    b"\xff",
)
TEXTS += (b"\0", b"<", b'"', b"[", b"{", b"=", b"\n", b"&#0;", "\u00b2".encode())


def damaged(data: bytes, field: Field, drawn: random.Random) -> bytes:
    """The file with one field changed; of the same length, so that offsets stay right."""
    start, stop = field.start, field.stop
    if field.order:
        order, bits = ("little" if field.order == "<" else "big"), 8 * (stop - start)
        value = int.from_bytes(data[start:stop], order)
        changed = drawn.choice(NUMBERS)(value, bits, drawn) % (1 << bits)
        new = changed.to_bytes(stop - start, order)
    else:
        new = drawn.choice(TEXTS)[: stop - start]
        filler = b"\0" if field.label.startswith("text") else drawn.choice((b" ", b"0", b"\0"))
        new = new.ljust(stop - start, filler)
    return data[:start] + new + data[stop:]


def mutants(folder: Path, count: int, seed: int = 0) -> Iterator[tuple[str, str, bytes]]:
    """`count` times (name of the sample, what was damaged, bytes). Goes through all fields."""
    drawn = random.Random(seed)
    whole = {name: path.read_bytes() for name, path in samples(folder).items()}
    found = {name: fields(data) for name, data in whole.items()}
    ways: list[tuple[str, Field]] = []
    for _ in range(count):
        if not ways:
            ways = [(name, field) for name in found for field in found[name]]
            drawn.shuffle(ways)
        name, field = ways.pop()
        label, data = field.label, damaged(whole[name], field, drawn)
        if drawn.random() < 0.2:
            also = drawn.choice(found[name])
            label, data = f"{label}, {also.label}", damaged(data, also, drawn)
        if name.endswith(".png") and drawn.random() < 0.8:
            data = mended(data)
        yield name, label, data


def mended(data: bytes) -> bytes:
    """A PNG with the right checksums, as far as its chunks follow each other."""
    made, at = BytesIO(data), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        made.seek(end)
        made.write(struct.pack(">I", zlib.crc32(data[at + 4 : end])))
        at = end + 4
    return made.getvalue()


# ---- what becomes of them ------------------------------------------------------------------------
PEAK = (
    "import resource,subprocess,sys;"
    "done=subprocess.run(sys.argv[1:],capture_output=True,text=True);"
    "peak=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss;"
    "print(done.returncode,peak,'Traceback' in done.stderr);"
    "print(done.stdout,end='')"
)


@dataclass(frozen=True)
class Verdict:
    """What a run made of one damaged file."""

    name: str
    damage: str
    kind: str  # one of KINDS
    message: str


KINDS = {
    "same": "restored, with the pixels of the undamaged file",
    "as others": "restored, with the pixels that tifffile or Pillow reads too",
    "alone": "restored, with pixels that no other reader finds there",
    "failed": "one line that names the file",
    "bug": "one line that says that there is a bug",
    "silent": "another end",
}


@dataclass(frozen=True)
class Run:
    """A run over damaged files."""

    verdicts: list[Verdict]
    code: int
    traceback: bool  # on stderr
    peak: int  # bytes of memory
    seconds: float

    def counts(self) -> Counter[str]:
        return Counter(verdict.kind for verdict in self.verdicts)


def verdicts(place: Path, count: int, seed: int = 0, timeout: float = 600) -> Run:
    """Restore `count` damaged files of a folder `place`, without noise: pixels are only copied.

    Raises TimeoutExpired.
    """
    (place / "in").mkdir(parents=True)
    labels = {}
    for k, (name, label, data) in enumerate(mutants(place / "whole", count, seed)):
        labels[f"{k:05}.{name}"] = label
        (place / "in" / f"{k:05}.{name}").write_bytes(data)
    words = ["restore", "in", "-o", "out", "--noise", "none", "--json", "-q", "--defer-for", "0"]
    words += ["--destripe", "off", "--hot-pixels", "keep"]
    command = [sys.executable, "-c", PEAK, sys.executable, "-m", "restorectl", *words]
    start = time.monotonic()
    done = subprocess.run(
        command, cwd=place, capture_output=True, text=True, timeout=timeout, check=True
    )
    seconds = time.monotonic() - start
    head, *lines = done.stdout.splitlines()
    code, peak, traceback = head.split()
    whole = {path.name: _read(path) for path in (place / "whole").iterdir()}
    found = {Path(told["source"]).name: told for told in map(json.loads, lines)}
    judged = []
    for name, label in labels.items():
        told = found.get(name, {"status": "missing", "message": ""})
        kind = _kind(place / "in" / name, whole[name.split(".", 1)[1]], told, place)
        judged.append(Verdict(name, label, kind, told["message"]))
    return Run(judged, int(code), traceback == "True", 1024 * int(peak), seconds)


def _kind(path: Path, whole: np.ndarray | None, told: dict[str, str], place: Path) -> str:
    if told["status"] == "failed":
        is_line = path.name in told["message"] and "\n" not in told["message"]
        return "silent" if not is_line else "bug" if "a bug" in told["message"] else "failed"
    if told["status"] != "done":
        return "silent"
    made = _read(place / told["target"])
    if made is None:
        return "silent"
    for kind, wanted in (("same", whole), ("as others", _read(path))):
        if wanted is not None and np.array_equal(made, wanted, equal_nan=made.dtype.kind == "f"):
            return kind
    return "alone"


def _read(path: Path) -> np.ndarray | None:
    """The pixels as tifffile or Pillow reads them; None if it cannot."""
    try:
        if path.read_bytes()[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            with tifffile.TiffFile(path) as tiff:
                try:
                    return np.squeeze(tiff.asarray())
                except ValueError:  # OME-XML or another description is damaged
                    return np.squeeze([page.asarray() for page in tiff.pages])
        with Pillow.open(path) as image:
            return np.asarray(image)
    except Exception:
        return None
