"""The default command on real noisy fields that training never saw, against their clean means."""

import imageio.v3 as iio
import numpy as np
import pytest

from tests.command import run

pytestmark = [pytest.mark.realdata, pytest.mark.slow]
CONFOCAL = ("Confocal_BPAE_B", "Confocal_BPAE_G", "Confocal_BPAE_R", "Confocal_FISH")


def affine_psnr(image, target):
    x, y = image.astype(float).ravel(), target.astype(float).ravel()
    scale, shift = np.polyfit(x, y, 1)
    return 10 * np.log10(255**2 / np.mean((scale * x + shift - y) ** 2))


def test_fmd_fields(real_data, tmp_path):
    names = [f"{field}_noisy_1.png" for field in (*CONFOCAL, "WideField_BPAE_R")]
    folder = real_data / "pairs" / "noisy" / "fmd"
    run("restore", *(folder / name for name in names), "-o", tmp_path / "out", check=0)
    scores = []
    for name in names:
        noisy, out = iio.imread(folder / name), iio.imread(tmp_path / "out" / name)
        scores.append(affine_psnr(out, iio.imread(real_data / "pairs/clean/fmd" / name)))
        assert out.mean() == pytest.approx(noisy.mean(), rel=0.01)
    assert np.mean(scores[:4]) > 35.4
    assert scores[4] > 33.5
