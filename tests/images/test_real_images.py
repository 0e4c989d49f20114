"""Every real image opens with sensible axes and survives a round trip."""

from pathlib import Path

import numpy as np
import pytest

from restorectl.files.atomic import replacing
from restorectl.images.image import is_image_name, open_image, verify_image, write_image

pytestmark = [pytest.mark.realdata, pytest.mark.slow]
# Axes as the manifest gives them, where they are not YX
AXES = {
    "formats/cancer_cell_migration_crop.tif": "ZYX",
    "formats/skimage_ihc.png": "YXS",
    "formats/stardist_histo.jpg": "YXS",
    "stacks/plantseg_2ch_75cube.tif": "CZYX",
    "stacks/xyzc_16bit__dna_conf_wf.tif": "ZCYX",
    "stacks/xyz_8bit__nucleus.tif": "ZYX",
    "train/lysosome_movies/lyso_03_t0-7.tif": "TYX",
    "train/neubias/xyc_8bit__membranes_nuclei_big.tif": "CYX",
}


@pytest.mark.parametrize("folder", ["formats", "stacks", "pairs/noisy", "train"])
def test_round_trip(real_data: Path, tmp_path: Path, folder: str) -> None:
    paths = sorted(path for path in (real_data / folder).rglob("*") if is_image_name(path))
    if folder == "train":
        paths = paths[::4]  # the suite is to be quick; they are much alike
    assert paths
    for path in paths:
        target = tmp_path / (path.stem + (".png" if path.suffix == ".jpg" else path.suffix))
        with open_image(path) as image:
            header = image.header.for_target(target)
            name = str(path.relative_to(real_data))
            if name in AXES:
                assert header.axes == AXES[name]
            with replacing(target) as part:
                planes = (image.read(plane) for plane in header.planes)
                write_image(part, header, planes, provenance={"command": "restore"})
                verify_image(part, header)
            with open_image(target) as again:
                assert again.header.axes == header.axes
                assert again.header.shape == header.shape
                assert again.header.dtype == header.dtype
                assert again.header.spacing == header.spacing
                for plane in header.planes:
                    np.testing.assert_array_equal(again.read(plane), image.read(plane))
        target.unlink()
