"""Offsets of rows and columns and periodic patterns are removed, and structure is not."""

import numpy as np
import pytest

from restorectl.intensity import stripes
from tests.phantom import KINDS, scene

SIDE = 256


def photographed(light, rng, read_noise=1.6):
    """(Y, X) uint16: gain 2, offset 100, about 5 grey levels of noise where light is 12."""
    noisy = 100 + 2 * rng.poisson(light / 2) + rng.normal(0, read_noise, light.shape)
    return noisy


def rounded(values):
    return np.clip(np.round(values), 0, 65535).astype(np.uint16)


def error(found, offsets):
    rest = (found if found.size else 0) - offsets
    return (rest - rest.mean()).std()


def filaments(places, width=1.2, peak=60.0, ends=(0, SIDE)):
    """Light of filaments along the columns."""
    light = np.full((SIDE, SIDE), 6.0)
    for place in places:
        light[slice(*ends)] += peak * np.exp(-((np.arange(SIDE) - place) ** 2) / 2 / width**2)
    return light


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("deviation", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("kind", ["nuclei", "membranes"])
def test_offsets_of_rows_and_columns_are_found(kind, deviation, axis):
    rng = np.random.default_rng(1)
    offsets = rng.normal(0, deviation, SIDE)
    across = offsets[:, None] if axis == 0 else offsets
    clean = photographed(6 + 60 * scene(kind, (SIDE, SIDE), 3), rng)
    found = stripes.find([rounded(clean + across)])
    mine, others = (found.rows, found.columns)[:: 1 if axis == 0 else -1]
    assert others.size == 0
    assert not found.waves
    assert error(mine, offsets) < max(0.6, 0.35 * deviation)


def test_rows_and_columns_at_once():
    rng = np.random.default_rng(2)
    rows, columns = rng.normal(0, 3, (2, SIDE))
    found = stripes.find([rounded(rng.normal(100, 4, (SIDE, SIDE)) + rows[:, None] + columns)])
    assert error(found.rows, rows) < 0.9
    assert error(found.columns, columns) < 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_nothing_is_found_where_nothing_is(kind, noise):
    """Neither in clean images nor in noisy ones."""
    rng = np.random.default_rng(3)
    clean = 100 + 200 * scene(kind, (SIDE, SIDE), 5)
    assert not stripes.find([rounded(clean + rng.normal(0, noise, clean.shape))])
    assert not stripes.find([clean + rng.normal(0, noise, clean.shape)])


@pytest.mark.parametrize("ends", [(0, SIDE), (40, 200)])
def test_filaments_along_an_axis_are_no_offsets(ends):
    rng = np.random.default_rng(4)
    for count in (1, 6, 30):
        light = filaments(rng.uniform(0, SIDE, count), peak=40.0, ends=ends)
        assert not stripes.find([rounded(photographed(light, rng))])
        assert not stripes.find([rounded(photographed(light, rng)).T])


@pytest.mark.parametrize("ends", [(0, SIDE), (0, 120)])
def test_filaments_survive_among_columns_with_offsets(ends):
    rng = np.random.default_rng(5)
    places = (40, 96, 160, 220)
    light = filaments(places, peak=120.0, ends=ends)
    offsets = rng.normal(0, 3, SIDE)
    for place in places:  # contrast is that of light, not of the offsets that happen to be there
        offsets[place - 8 : place + 9] -= offsets[place - 8 : place + 9].mean()
    striped = 100 + light + rng.normal(0, 3, light.shape) + offsets
    found = stripes.find([striped])
    out = stripes.remove(striped, found)
    assert error(found.columns, offsets) < 2.0
    for place in places:
        inside = slice(place - 3, place + 4)
        near = np.r_[place - 8 : place - 4, place + 5 : place + 9]
        contrast = [
            plane[slice(*ends), inside].mean() - plane[slice(*ends)][:, near].mean()
            for plane in (out - offsets * (found.columns == 0), 100 + light)
        ]
        assert contrast[0] == pytest.approx(contrast[1], rel=0.03)


@pytest.mark.parametrize("frequency", [(0.137, -0.23), (0.012, 0.45), (0.2, 0.0), (0.5, 0.5)])
@pytest.mark.parametrize("kind", ["filaments", "nuclei"])
def test_a_periodic_pattern_is_found(frequency, kind):
    rng = np.random.default_rng(6)
    clean = photographed(6 + 60 * scene(kind, (SIDE, SIDE), 7), rng)
    phase = np.add.outer(frequency[0] * np.arange(SIDE), frequency[1] * np.arange(SIDE))
    wave = 2 * np.cos(2 * np.pi * phase + 0.7)
    striped = rounded(clean + wave)
    found = stripes.find([striped])
    assert len(found.waves) == 1
    assert not found.rows.size
    assert not found.columns.size
    assert found.waves[0].period == pytest.approx(1 / np.hypot(*frequency), rel=0.01)
    assert (striped - stripes.remove(striped, found) - wave).std() < 0.15 * wave.std()


def test_periodic_structure_in_a_part_of_the_image_stays():
    rng = np.random.default_rng(8)
    light = 6 + 60 * scene("nuclei", (SIDE, SIDE), 9)
    light[60:180, 60:180] *= 1 + 0.5 * np.cos(2 * np.pi * 0.21 * np.arange(120))
    assert not stripes.find([rounded(photographed(light, rng))])


def test_removing_twice_changes_nothing_more():
    rng = np.random.default_rng(10)
    clean = photographed(6 + 60 * scene("nuclei", (SIDE, SIDE), 3), rng)
    once = clean + rng.normal(0, 3, SIDE)
    once = stripes.remove(once, stripes.find([once]))
    twice = stripes.remove(once, stripes.find([once]))
    assert np.abs(twice - once).max() < 0.5  # of noise 4


def test_planes_show_together_what_none_shows_alone():
    rng = np.random.default_rng(11)
    offsets = rng.normal(0, 0.3, SIDE)
    planes = [rng.normal(100, 6, (SIDE, SIDE)) + offsets for _ in range(8)]
    found = stripes.find(planes)
    assert not found  # a twentieth of the noise: not worth removing
    planes = [rng.normal(100, 2, (SIDE, SIDE)) + offsets for _ in range(8)]
    assert error(stripes.find(planes).columns, offsets) < 0.15


def test_offsets_that_differ_from_plane_to_plane_are_not_common():
    rng = np.random.default_rng(12)
    planes = [rng.normal(100, 3, (SIDE, SIDE)) + rng.normal(0, 3, (SIDE, 1)) for _ in range(8)]
    assert not stripes.find(planes)
    assert stripes.find(planes[:1]).rows.size


def test_a_region_is_cleaned_like_the_whole_plane():
    rng = np.random.default_rng(13)
    phase = 2 * np.pi * np.add.outer(0.2 * np.arange(SIDE), 0.3 * np.arange(SIDE))
    plane = rng.normal(100, 3, (SIDE, SIDE)) + rng.normal(0, 3, (SIDE, 1)) + 2 * np.sin(phase)
    found = stripes.find([plane])
    assert found.rows.size
    assert found.waves
    area = slice(30, 90), slice(100, 101)
    whole = stripes.remove(plane, found)
    np.testing.assert_allclose(stripes.remove(plane[area], found, *area), whole[area], atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (20, 300), (300, 20), (64, 64)])
def test_small_and_constant_planes(shape):
    assert not stripes.find([np.full(shape, 7, np.uint8)])
    assert not stripes.find([np.random.default_rng(0).normal(100, 3, shape)])
