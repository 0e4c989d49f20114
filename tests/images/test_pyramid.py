"""Tiled pyramids in BigTIFF: levels are means, the full level is the image, viewers find them."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from restorectl.images.header import Header
from restorectl.images.image import open_image, verify_image, write_image
from restorectl.images.pyramid import borders, halves, means

RNG = np.random.default_rng(0)


def written(path: Path, header: Header, pixels: np.ndarray) -> None:
    """pixels: (planes, Y, X) in the order of the header."""
    made = header.for_target(path, pyramid=True)
    write_image(path, made, pixels, provenance={"tool": "restorectl"})
    verify_image(path, made)


@pytest.mark.parametrize("axes", ["YX", "CZYX"])
def test_levels_are_means_of_blocks(tmp_path: Path, axes: str) -> None:
    shape = (2, 3, 1500, 2100)[4 - len(axes) :]
    pixels = RNG.integers(0, 4000, shape).astype(np.uint16)
    header = Header(axes, shape, pixels.dtype, (0.5, 0.1, 0.1), ())
    written(tmp_path / "a.tif", header, pixels.reshape(-1, 1500, 2100))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff
        assert file.is_ome
        assert all(page.is_tiled for page in file.pages)
        (series,) = file.series
        full, half, quarter = (level.asarray() for level in series.levels)
    np.testing.assert_array_equal(full, pixels)
    assert (half.shape[-2:], quarter.shape[-2:]) == ((750, 1050), (375, 525))
    blocks = pixels.reshape(*shape[:-2], 750, 2, 1050, 2).mean((-3, -1))
    np.testing.assert_array_equal(half, np.rint(blocks))
    with open_image(tmp_path / "a.tif") as image:
        assert image.header.canonical_shape[3:] == (1500, 2100)
        last = image.header.planes[-1]
        part = image.read(last, slice(700, 1300), slice(1900, 2100))
    np.testing.assert_array_equal(part, pixels.reshape(-1, 1500, 2100)[-1, 700:1300, 1900:])


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colours_and_the_compression_of_the_input(tmp_path: Path, planar: str) -> None:
    pixels = RNG.integers(0, 255, (1100, 600, 3)).astype(np.uint8)
    stored = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, compression="zlib"
    )
    with open_image(tmp_path / "a.tif") as image:
        planes = np.stack([image.read(plane) for plane in image.header.planes])
        written(tmp_path / "b.tif", image.header, planes)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.pages[0].compression == 8
        assert file.pages[0].planarconfig == (1 if planar == "contig" else 2)
        full, half = (level.asarray() for level in file.series[0].levels)
    if planar == "separate":
        full, half = (each.transpose(1, 2, 0) for each in (full, half))
    np.testing.assert_array_equal(full, pixels)
    np.testing.assert_array_equal(
        half, np.rint(pixels.reshape(550, 2, 300, 2, 3).mean((1, 3))).astype(np.uint8)
    )


def test_small_images_have_one_level(tmp_path: Path) -> None:
    pixels = RNG.random((1, 40, 60)).astype(np.float32)
    written(tmp_path / "a.tif", Header("YX", (40, 60), pixels.dtype), pixels)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.series[0].levels) == 1
        np.testing.assert_array_equal(file.asarray(), pixels[0])


def test_means_are_of_all_pixels() -> None:
    """Blocks cover everything, also where sizes do not divide; the mean of a constant is itself."""
    for n, m in ((7, 3), (1025, 512), (5, 5), (9, 1)):
        edges = borders(n, m)
        assert (edges[0], edges[-1], len(edges)) == (0, n, m + 1)
        assert set(np.diff(edges)) <= {n // m, n // m + 1}
    constant = np.full((7, 9), 4000, np.uint16)
    assert (means(constant, [borders(7, 3), borders(9, 4)]) == 4000).all()
    assert halves((3, 2051, 13)) == [(3, 2051, 13), (3, 1025, 6), (3, 512, 3)]
