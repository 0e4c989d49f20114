"""A folder of files that should break a reader: one line each, and every good file is restored."""

import json
import os
import shutil
import struct
import time
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from tests.chaos.folders import digests, image

pytestmark = pytest.mark.slow

STACK = np.stack([image(k) for k in range(5)])
FLAT = (image(9) // 4).clip(0, 255).astype(np.uint8)
CUTS, FLIPS = 8, 6
SECONDS, BYTES = 120, 3 << 30

FORMATS = {
    "imagej.tif": lambda p: tifffile.imwrite(p, STACK, imagej=True, metadata={"axes": "ZYX"}),
    "ome.ome.tif": lambda p: tifffile.imwrite(p, STACK, metadata={"axes": "TYX"}),
    "big.tif": lambda p: tifffile.imwrite(
        p,
        STACK,
        bigtiff=True,
        compression="zlib",
        photometric="minisblack",
        metadata={"axes": "ZYX"},
    ),
    "plain.tif": lambda p: tifffile.imwrite(p, STACK[0], metadata=None),
    "grey.png": lambda p: Pillow.fromarray(STACK[0]).save(p),
    "rgb.jpg": lambda p: Pillow.fromarray(np.stack([FLAT] * 3, -1)).save(p),
}


def cut_and_flipped(folder):
    """Every format cut at several places, and with bits flipped in its header."""
    rng = np.random.default_rng(5)
    for name, write in FORMATS.items():
        whole = folder / f"whole-{name}"
        write(whole)
        data = whole.read_bytes()
        whole.unlink()
        for length in np.linspace(1, len(data) - 1, CUTS).astype(int):
            (folder / f"cut{length}-{name}").write_bytes(data[:length])
        for k in range(FLIPS):
            damaged = bytearray(data)
            damaged[rng.integers(0, min(len(data), 400))] ^= 1 << int(rng.integers(8))
            (folder / f"flip{k}-{name}").write_bytes(damaged)


def classic(path, rows, columns, compression=1, size=4096):
    """A TIFF header that claims rows x columns of 16 bits above `size` bytes."""
    tags = [(256, 4, columns), (257, 4, rows), (258, 3, 16), (259, 3, compression), (262, 3, 1)]
    tags += [(273, 4, 200), (277, 3, 1), (278, 4, max(rows, 1)), (279, 4, size), (339, 3, 1)]
    table = b"".join(struct.pack("<HHII", code, kind, 1, value) for code, kind, value in tags)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + table + bytes(4)
    path.write_bytes(head)
    os.truncate(path, 200 + size)


def png(path, width, height, data=b"x" * 99, depth=16, colour=0):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def counts_that_lie(folder):
    """More or fewer pages than the header says, no pages, no pixels, terabytes."""
    for k, text in enumerate((b"images=5", b"slices=5")):
        data = FORMATS["imagej.tif"](folder / "i") or (folder / "i").read_bytes()
        for wrong in (b"0", b"2", b"4", b"9"):
            (folder / f"imagej{k}{wrong.decode()}.tif").write_bytes(
                data.replace(text, text[:-1] + wrong)
            )
    FORMATS["ome.ome.tif"](folder / "i")
    data = (folder / "i").read_bytes()
    for wrong in (b"0", b"4", b"9"):
        (folder / f"ome{wrong.decode()}.ome.tif").write_bytes(
            data.replace(b'SizeT="5"', b'SizeT="' + wrong + b'"')
        )
    (folder / "i").unlink()
    for rows, columns in ((0, 10), (10, 0), (3_000_000, 3_000_000), (4_000_000_000, 1)):
        for compression in (1, 5, 8):
            classic(
                folder / f"claims{rows}x{columns}c{compression}.tif", rows, columns, compression
            )
    classic(folder / "terabytes.tif", 800_000, 800_000, 8, 1 << 30)  # sparse, and could be true
    for width, height in ((0, 5), (2_000_000, 2_000_000), (2**31 - 1, 2**31 - 1)):
        png(folder / f"claims{width}x{height}.png", width, height)
    zeros = bytes(140_000_000)
    png(folder / "bomb.png", 8_000, 8_000, zeros)
    png(folder / "alpha.png", 12_000, 12_000, zeros, 8, 6)  # decoded when it is opened
    (folder / "sparse.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    os.truncate(folder / "sparse.png", 1 << 42)
    (folder / "sparse2.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    os.truncate(folder / "sparse2.jpg", 1 << 42)


def odd_places(folder):
    """What is no file, no image, or has a name that is no text."""
    for name, data in {
        "zero.tif": b"", "zeros.tif": bytes(5000), "one.png": b"\x89", "text.tif": b"Dear diary",
        "html.png": b"<html>" * 50, "magic.tif": b"II*\0", "loop.jpg": b"\xff\xd8\xff" * 9,
        "far.tif": b"II*\0\xff\xff\xff\xff", "self.tif": b"II*\0\0\0\0\0",
        "big.btf": b"II+\0\x08\0\0\0" + b"\xff" * 8,
    }.items():  # fmt: skip
        (folder / name).write_bytes(data)
    tifffile.imwrite(folder / "flat.tif", np.full((48, 48), 7, np.uint16))
    tifffile.imwrite(folder / "nan.tif", np.full((48, 48), np.nan, np.float32))
    tifffile.imwrite(folder / "complex.tif", np.ones((48, 48), np.complex64))
    tifffile.imwrite(folder / "bits.tif", np.eye(48, dtype=bool))
    tifffile.imwrite(folder / "dot.tif", np.array([[7]], np.uint16))
    tifffile.imwrite(folder / "row.tif", image(1)[:1])
    many = np.zeros((2, 3, 2, 3, 8, 8), np.uint8)
    tifffile.imwrite(folder / "many.tif", many, photometric="minisblack")
    os.mkfifo(folder / "pipe.tif")
    (folder / "dangling.tif").symlink_to(folder / "nowhere")
    (folder / "loop.tif").symlink_to(folder / "loop.tif")
    (folder / "endless.tif").symlink_to("/dev/zero")
    (folder / "folder.tif").mkdir()
    (folder / "up").symlink_to(folder)
    if os.geteuid() != 0:
        (folder / "secret.tif").write_bytes(b"II*\0")
        (folder / "secret.tif").chmod(0)


def good(folder):
    """Good files in odd places; returns how many."""
    deep = folder / "/".join(["d" * 60] * 20)
    deep.mkdir(parents=True)
    names = [b"good.tif", b"caf\xe9.tif", b"new\nline.tif", b"\x1b[31mred.tif", b"-o.tif"]
    names += [b"x" * 250 + b".tif", "µ 中.tif".encode(), b" .tif"]
    for name in names:
        tifffile.imwrite(folder / os.fsdecode(name), image(1))
    tifffile.imwrite(folder / "folder.tif" / "inside.tif", image(2))
    with open(deep / "deep.tif", "wb") as file:
        tifffile.imwrite(file, image(3))
    return len(names) + 2


def test_hostile_inputs(server, tmp_path, figure):
    alone, mixed = tmp_path / "alone", tmp_path / "mixed"
    for folder in (alone, mixed):
        folder.mkdir()
        (folder / "folder.tif").mkdir()
        count = good(folder)
    (mixed / "folder.tif" / "inside.tif").rename(tmp_path / "inside.tif")
    (mixed / "folder.tif").rmdir()
    for make in (cut_and_flipped, counts_that_lie, odd_places):
        make(mixed)
    (tmp_path / "inside.tif").rename(mixed / "folder.tif" / "inside.tif")
    hostile = sum(len(names) for _, _, names in os.walk(mixed)) - count
    assert hostile >= 60
    assert server.run("restore", "alone", "-o", "a", cwd=tmp_path)[0] == 0
    wanted = digests(tmp_path / "a")
    assert len(wanted) == count
    start = time.monotonic()
    line = ("restore", "mixed", "-o", "m", "--log-format", "json", "--min-free", "0")
    code, told = server.run(*line, cwd=tmp_path)
    seconds = time.monotonic() - start
    assert code == 3, told
    assert "Traceback" not in told
    assert seconds < SECONDS
    assert digests(tmp_path / "m").items() >= wanted.items()
    lines = [json.loads(line) for line in told.splitlines()]
    statuses = [line["status"] for line in lines if line["event"] == "file"]
    assert len(statuses) == hostile + count
    peak = server.peak()
    assert peak < BYTES
    done = statuses.count("done") - count
    figure(
        f"hostile inputs: {hostile} beside {count} good ones; {statuses.count('failed')} failed,"
        f" {statuses.count('deferred')} deferred, {done} were harmless; no traceback,"
        f" {seconds:.0f} s, peak memory {peak >> 20} MB"
    )
    shutil.rmtree(mixed)


def test_one_line_a_file_whatever_its_name(server, tmp_path):
    (tmp_path / "in").mkdir()
    for name in (b"new\nline.tif", b"\x1b[31mred.tif", b"caf\xe9.tif"):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(b"no image")
    code, told = server.run("restore", "in", "-o", "out", cwd=tmp_path)
    assert code == 3
    assert told.count(" failed ") == told.count("\n") - 1 == 3
    assert "\x1b" not in told
