"""Counts to network units and back: exactly, for every 16-bit value."""

import numpy as np
import pytest

from restorectl.errors import InputError, WeightsError
from restorectl.intensity import value_range
from restorectl.intensity.value_range import RANGES, RECIPES, forward, inverse

EVERY = np.stack([np.arange(65536), np.arange(65536)[::-1]]).reshape(2, 256, 256).astype(np.uint16)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", RANGES)
def test_every_16_bit_value_comes_back_exactly(name, recipe):
    values = forward(EVERY, name, recipe)
    assert values.dtype == np.float32
    assert len(values) == value_range.network_channels(recipe, 2)
    assert np.array_equal(inverse(values, name, recipe), EVERY.astype(np.float32))


def test_rscd_sees_its_own_scale():
    values = forward(np.array([[[0, 32768, 65535]]], np.uint16), "uint16-centred")
    assert values.tolist() == [[[-1, 0, 1 - 2 / 65536]]]


def test_msdsr_sees_three_channels_without_centring_and_clamped():
    ch2, ch3 = np.array([[1000, 0, 60000]]), np.array([[3000, 65000, 100]])
    values = forward(np.stack([ch2, ch3]), "uint16-unit", "srh-3") * 65536
    assert values[0].tolist() == [[7000, 65536, 0]]  # CH3 - CH2 + 5000 within [0, 65536]
    assert np.array_equal(values[1:], [ch2, ch3])


def test_the_input_is_left_alone():
    planes = np.full((2, 4, 4), 7, np.float32)
    forward(planes, "uint16-unit", "srh-3")
    inverse(forward(planes), "whitened")
    assert (planes == 7).all()


def test_the_slope_is_what_noise_is_scaled_by():
    for name in ("uint16-centred", "uint16-unit", "whitened"):
        pair = forward(np.array([[[100, 101]]]), name)[0, 0]
        assert pair[1] - pair[0] == value_range.slope(name)


def test_wrong_channels_and_unknown_names_are_one_line():
    with pytest.raises(InputError, match="2 channels together"):
        forward(np.zeros((3, 4, 4)), "uint16-unit", "srh-3")
    with pytest.raises(WeightsError, match="value range 'int12'"):
        forward(EVERY, "int12")
    with pytest.raises(WeightsError, match="recipe 'rgb'"):
        inverse(EVERY, "unit", "rgb")
