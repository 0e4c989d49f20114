"""Small noisy images, and what became of a folder."""

import hashlib
import re

import numpy as np
import tifffile


def image(seed):
    """(48, 48) uint16: a bright spot under photon noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :48] - rng.uniform(12, 36, 2)[:, None, None]
    return (4 * rng.poisson(40 + 160 * np.exp(-(x**2 + y**2) / 80))).astype(np.uint16)


def fill(folder, count):
    folder.mkdir(parents=True)
    for k in range(count):
        tifffile.imwrite(folder / f"{k:02}.tif", image(k))


def digests(folder):
    """sha256 of every file that is not hidden, by its path."""
    found = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }


def leftovers(folder):
    """Temporary files of restorectl."""
    return [p for p in folder.rglob(".*") if re.search(r"\.restorectl-.*\.part$", p.name)]
