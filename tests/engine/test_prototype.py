"""The converted prior is the prototype's: the same numbers from both networks on a real image."""

import importlib.util

import numpy as np
import pytest
import torch

from restorectl.engine.denoiser import build
from restorectl.images.image import open_image
from restorectl.weights import file

pytestmark = pytest.mark.realdata


def test_the_prototype_s_output_is_reproduced(real_data):
    path = real_data.parent / "prototype" / "prototype.py"
    if not path.exists():
        pytest.skip(f"no prototype at {path}")
    spec = importlib.util.spec_from_file_location("prototype", path)
    prototype = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prototype)
    with open_image(real_data / "pairs/noisy/fmd/Confocal_FISH_noisy_1.png") as image:
        pixels = image.read((0, 0, 0), slice(0, 128), slice(0, 160)).astype(np.float32)
    x = torch.from_numpy(np.sqrt(pixels) / 8 - 1)[None, None]
    sigma = torch.tensor([0.35])
    loaded = file.load("prior")
    ours = build(loaded.card, dict(loaded.tensors)).prepared(torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        expected = prototype.load("prior")(x, sigma)
        torch.testing.assert_close(ours(x, sigma), expected, atol=2e-5, rtol=0)
