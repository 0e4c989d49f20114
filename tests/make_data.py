"""Write the images of tests/data: ``python -m tests.make_data [folder]``.

``noisy`` and ``clean`` hold the same relative names; every clean image is the mean of its
noisy partner, rounded, in the same grey levels. The files do not depend on day or machine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import tifffile

from tests import phantom

DATA = Path(__file__).parent / "data"
PIXEL = 0.13  # lateral pixel of all images, micrometres
Pair = tuple[np.ndarray, np.ndarray]  # noisy, clean


def nuclei() -> Pair:
    """(256, 256) uint16: sparse nuclei, few photons."""
    specimen = phantom.blur(phantom.scene("nuclei", (256, 256), 21), 1.1)
    return phantom.camera(specimen, 42, 4.0, 100, 1.6, 101)


def filaments() -> Pair:
    """(256, 256) uint8: cytoskeleton as an 8-bit export."""
    specimen = phantom.blur(phantom.scene("filaments", (256, 256), 7), 1.0)
    return phantom.camera(specimen, 38, 4.3, 12, 1.2, 102, dtype=np.uint8)


def cells() -> Pair:
    """(2, 160, 160) uint16, CYX: nuclei and membranes of the same cells, unequally bright."""
    specimen = phantom.channels(["nuclei", "membranes"], (160, 160), 45)
    specimen = phantom.blur(specimen, 1.1) * np.array([1.0, 0.75])[:, None, None]
    return phantom.camera(specimen, 75, 3.0, 100, 1.6, 103)


def stack() -> Pair:
    """(6, 128, 128) uint16, ZYX: nuclei, fibres, outlines and spots in depth."""
    specimen = phantom.volume((6, 128, 128), 66, 4.0)
    return phantom.camera(phantom.blur(specimen, (0.6, 1.1, 1.1)), 75, 4.0, 120, 1.6, 104)


def widefield() -> Pair:
    """(256, 256) uint16: everything at once, a wide halo, noise that neighbours share."""
    specimen = phantom.blur(phantom.scene("mixed", (256, 256), 46), 1.3, halo=0.25)
    return phantom.camera(specimen, 110, 4.0, 200, 2.0, 105, correlation="gaussian")


def t_series() -> Pair:
    """(4, 96, 96) uint8, TYX: drifting spots over dim cells."""
    frames = [
        0.6 * phantom.scene("puncta", (96, 96), 84, time=t)
        + 0.5 * phantom.scene("membranes", (96, 96), 84, time=t)
        for t in range(4)
    ]
    specimen = phantom.blur(np.stack(frames), 1.0)
    return phantom.camera(specimen, 140, 1.5, 8, 1.2, 106, dtype=np.uint8)


_SCALE = {"resolution": (1e4 / PIXEL, 1e4 / PIXEL), "resolutionunit": "CENTIMETER"}
_PLAIN: dict[str, Any] = {"metadata": None, "compression": "zlib", "predictor": 2, **_SCALE}
_OME: dict[str, Any] = {
    "ome": True,
    "compression": "zlib",
    "predictor": 2,
    "metadata": {
        "axes": "CYX",
        "UUID": "urn:uuid:00000000-0000-4000-8000-000000000001",
        "Creator": "restorectl tests",
        "Channel": {"Name": ["nuclei", "membranes"]},
        "PhysicalSizeX": PIXEL,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": PIXEL,
        "PhysicalSizeYUnit": "µm",
    },
}


def _imagej(**metadata: Any) -> dict[str, Any]:
    """Arguments of tifffile for an ImageJ hyperstack with a lateral scale."""
    return {
        "imagej": True,
        "resolution": (1 / PIXEL, 1 / PIXEL),
        "metadata": {"unit": "um", **metadata},
    }


FILES: dict[str, tuple[Any, dict[str, Any]]] = {
    "nuclei.tif": (nuclei, _PLAIN),
    "filaments.png": (filaments, {"compress_level": 9}),
    "cells.ome.tif": (cells, _OME),
    "stack.tif": (stack, _imagej(axes="ZYX", spacing=4 * PIXEL)),
    "widefield.tif": (widefield, _PLAIN),
    "series/t_series.tif": (t_series, _imagej(axes="TYX", finterval=2.5)),
}


def make() -> dict[str, Pair]:
    """Relative name -> (noisy, clean) arrays of every file."""
    return {name: recipe() for name, (recipe, _) in FILES.items()}


def write(folder: Path) -> None:
    """Write folder/noisy and folder/clean."""
    for name, pair in make().items():
        for side, image in zip(("noisy", "clean"), pair, strict=True):
            path = folder / side / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".png":
                iio.imwrite(path, image, **FILES[name][1])
            else:
                photometric = {"photometric": "minisblack", "software": "restorectl tests"}
                tifffile.imwrite(path, image, **photometric, **FILES[name][1])


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)
