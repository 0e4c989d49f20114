"""The converted slice model is the prototype's: the same residuals from both networks."""

import importlib.util

import numpy as np
import pytest
import torch

from restorectl.engine.denoiser import build
from restorectl.engine.slices import marks
from restorectl.images.image import open_image
from restorectl.volumes import interpolation
from restorectl.weights import file

pytestmark = pytest.mark.realdata


def test_the_prototype_s_residuals_are_reproduced(real_data):
    path = real_data.parent / "prototype" / "prototype.py"
    if not path.exists():
        pytest.skip(f"no prototype at {path}")
    spec = importlib.util.spec_from_file_location("prototype", path)
    prototype = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prototype)
    with open_image(real_data / "pairs/clean/fmd/Confocal_FISH_noisy_1.png") as image:
        pixels = image.read((0, 0, 0), slice(0, 65), slice(0, 96)).astype(np.float32)
    lines = interpolation.interpolated(np.sqrt(pixels[::4] / 255) * 2 - 1, 4, interpolation.linear)[
        :64
    ]
    base = torch.from_numpy(lines)[None, None]
    rows = torch.zeros(1, 1, 64, 96)
    rows[:, :, ::4] = 1
    condition = torch.cat([base, marks(rows, "linear")], 1)
    noise = torch.randn(1, 1, 64, 96, generator=torch.Generator().manual_seed(0)) * (1 - rows)
    loaded = file.load("slices")
    ours = build(loaded.card, dict(loaded.tensors)).prepared(torch.device("cpu"), torch.float32)
    theirs = prototype.load("rows", cin=3, sigma_data=0.12)
    with torch.inference_mode():
        for sigma in (2.0, 0.3, 0.02):
            level = torch.tensor([sigma])
            expected = theirs(noise * sigma, level, condition)
            found = ours(noise * sigma, level, condition)
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
