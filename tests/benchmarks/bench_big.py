"""Memory and time of large images: one plane of SIDE x SIDE pixels, of which few were stored.

    python tests/benchmarks/bench_big.py [SIDE [PIECE]]

SIDE: 100,000. A sparse BigTIFF in tiles and an OME-Zarr are made, in which only the first 1024 x
1024 pixels are stored. Then the header is read, regions all over the plane, and the first PIECE x
PIECE pixels (10,000: more than the 2^26 px of planes that are in memory as a whole) are restored
and written as a pyramid. The same with SIDE / 10: memory must be the same.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
import zarr
from common import REPOSITORY, table

STORED = 1024
DRIVER = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from restorectl.batch.inputs import Pair
from restorectl.batch.outcome import Outcome, Silent
from restorectl.batch.run import cut
from restorectl.images.image import open_image
from restorectl.jobs import Compute, Files, RestoreJob
from restorectl.restoration.planes import Planes
from restorectl.restoration.restorer import load_restorer
from restorectl import catalog

def told(start):
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return [round(time.perf_counter() - start, 2), round(used)]

source, target, side = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
files = Files((str(source),), str(target), pyramid=True)
job = RestoreJob(files, Compute("cpu"))
method = catalog.METHODS[job.sampler].load()
restorer = load_restorer(job, method, method.settings(job.preset, job.sampler), "image", 1, "rscd")
found = [told(time.perf_counter())]
start = time.perf_counter()
image = open_image(source)
found.append(told(start))
start = time.perf_counter()
*_, height, width = image.header.canonical_shape
for top in np.linspace(0, height - 1000, 7).astype(int):
    for left in np.linspace(0, width - 1000, 7).astype(int):
        image.read((0, 0, 0), slice(top, top + 1000), slice(left, left + 1000))
found.append(told(start))
start = time.perf_counter()
piece = cut(image, {"Y": side, "X": side})
work, pair = Planes("restore", restorer, {}), Pair(source, (target,), "a")
work.write(piece, pair, [target], work.origin.record(""), Outcome("", "", "planned"), Silent())
found.append(told(start))
print(json.dumps(found))
"""


def make(folder: Path, side: int) -> list[Path]:
    """A sparse TIFF and an OME-Zarr, uint16 (side, side)."""
    y, x = np.mgrid[:STORED, :STORED]
    light = 60 + 50 * np.sin(x / 7) * np.cos(y / 9)
    pixels = np.random.default_rng(0).poisson(light).astype(np.uint16)
    tiff, group = folder / f"{side}.tif", folder / f"{side}.zarr"
    across = -(-side // STORED)
    tiles = (pixels if k == 0 else None for k in range(across * across))
    tifffile.imwrite(
        tiff, tiles, shape=(side, side), dtype=np.uint16, tile=(STORED, STORED), bigtiff=True,
        metadata=None,
    )  # fmt: skip
    axes = [{"name": name, "type": "space"} for name in "yx"]
    scale = [{"type": "scale", "scale": [1, 1]}]
    levels = [{"path": "0", "coordinateTransformations": scale}]
    ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    root = zarr.create_group(group, attributes={"ome": ome})
    array = root.create_array("0", shape=(side, side), dtype="u2", chunks=(512, 512))
    array[:STORED, :STORED] = pixels
    return [tiff, group]


def main(side: int, piece: int) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for each in (side // 10, side):
            for source in make(Path(folder), each):
                done = subprocess.run(
                    [sys.executable, "-c", DRIVER, source, Path(folder, "out.tif"), str(piece)],
                    cwd=REPOSITORY, capture_output=True, text=True, check=True,
                )  # fmt: skip
                found = json.loads(done.stdout)
                numbers = [f"{seconds} s, {memory} MB" for seconds, memory in found[1:]]
                rows.append([source.name, f"{found[0][1]} MB", *numbers])
    table(["image", "started", "opened", "49 regions read", f"{piece} x {piece} px restored"], rows)


if __name__ == "__main__":
    main(*map(int, [*sys.argv[1:], *("100000", "10000")[len(sys.argv) - 1 :]]))
