"""Row positions, interpolation and factors of anisotropic stacks: identities, closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restorectl.errors import InputError
from restorectl.intensity import value_range
from restorectl.volumes import interpolation

KINDS = (interpolation.nearest, interpolation.linear, interpolation.cubic)
SIZES = {"observed": st.integers(1, 9), "factor": st.integers(2, 8)}


@pytest.mark.parametrize("kind", KINDS)
@given(**SIZES, seed=st.integers(0, 99))
def test_observed_planes_lie_at_multiples_of_the_factor_unchanged(kind, observed, factor, seed):
    planes = np.random.default_rng(seed).normal(100, 30, (observed, 3, 2)).astype(np.float32)
    before = planes.copy()
    made = interpolation.interpolated(planes, factor, kind)
    assert made.shape == ((observed - 1) * factor + 1, 3, 2)
    assert made.dtype == np.float32
    assert np.array_equal(made[::factor], planes)
    assert np.array_equal(planes, before)


@pytest.mark.parametrize(("kind", "degree"), [(interpolation.linear, 1), (interpolation.cubic, 2)])
@given(**SIZES)
def test_polynomials_are_reproduced(kind, degree, observed, factor):
    """Linear everywhere; parabolas by cubic convolution away from the ends (Keys 1981)."""
    if observed < 2:
        return
    z = np.arange(interpolation.count(observed, factor)) / factor
    exact = z**degree
    made = interpolation.interpolated(
        (np.arange(observed) ** degree).astype(np.float32), factor, kind
    )
    inner = (z >= degree - 1) & (z <= observed - degree)
    np.testing.assert_allclose(made[inner], exact[inner], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@given(**SIZES, start=st.integers(0, 80), length=st.integers(1, 40))
def test_any_part_is_the_same_part_of_the_whole_and_the_end_is_held(
    kind, observed, factor, start, length
):
    planes = np.random.default_rng(0).normal(size=(observed, 2)).astype(np.float32)
    whole = interpolation.interpolated(planes, factor, kind)
    part = interpolation.interpolated(planes, factor, kind, start, start + length)
    rows = np.minimum(np.arange(start, start + length), len(whole) - 1)
    assert np.array_equal(part, whole[rows])


def test_nearest_is_the_closest_plane():
    made = interpolation.interpolated(np.array([10.0, 20.0, 30.0]), 4, interpolation.nearest)
    assert made.tolist() == [10, 10, 20, 20, 20, 20, 30, 30, 30]


@given(st.integers(2, 8), st.integers(1, 9), st.integers(0, 70), st.integers(1, 20))
def test_observed_rows_of_a_tile(factor, observed, start, length):
    planes = interpolation.count(observed, factor)
    found = interpolation.is_observed(factor, start, start + length, planes)
    wanted = [r in range(0, planes, factor) for r in range(start, start + length)]
    assert found.tolist() == wanted


@pytest.mark.parametrize(
    ("spacing", "factor", "remark"),
    [
        ((2.0, 0.5, 0.5), 4, False),
        ((5.0, 2.0, 2.0), 3, True),  # 2.5 pixels: what is left is 0.83
        ((0.5, 0.5, 0.5), 1, False),
        ((0.2, 0.4, 0.4), 1, True),
        ((1.0, 0.4, 0.6), 2, False),
    ],
)
def test_factor_of_a_spacing(spacing, factor, remark):
    found, text = interpolation.factor_of(spacing)
    assert (found, bool(text)) == (factor, remark)


@pytest.mark.parametrize("spacing", [(None, 1.0, 1.0), (1.0, None, 1.0), (0.0, 1.0, 1.0)])
def test_unknown_spacing_names_the_options(spacing):
    with pytest.raises(InputError, match="`spacing` Z,Y,X or `factor` N"):
        interpolation.factor_of(spacing)


def test_planes_too_far_apart_are_refused():
    with pytest.raises(InputError, match="12 pixels apart: 8 at most"):
        interpolation.factor_of((12.0, 1.0, 1.0))


def test_gaussian_keeps_constants_and_spreads_a_point():
    planes = [np.full((4, 5), 7.0, np.float32)] * 3
    np.testing.assert_allclose(interpolation.smooth(planes), 7, rtol=1e-6)
    point = np.zeros((3, 5, 5), np.float32)
    point[1, 2, 2] = 1
    side = np.exp(-2.0) / (1 + 2 * np.exp(-2.0))
    centre = 1 / (1 + 2 * np.exp(-2.0))
    made = interpolation.smooth(list(point))
    assert made[2, 2] == pytest.approx(centre**3, rel=1e-5)
    assert made[2, 3] == pytest.approx(centre**2 * side, rel=1e-5)
    assert made.sum() == pytest.approx(centre, rel=1e-5)  # the rest is in the planes beside it


@given(st.integers(0, 99))
def test_units_of_a_stack_make_the_round_trip(seed):
    values = np.random.default_rng(seed).gamma(2, 300, (3, 40, 40)).astype(np.float32) + 100
    units = value_range.fit_stack_range(list(values))
    np.testing.assert_allclose(units.inverse(units.forward(values)), values, rtol=1e-3)
    x = units.forward(np.percentile(values, [0.5, 99.9]).astype(np.float32))
    np.testing.assert_allclose(x, [-1, 1], atol=1e-3)


def test_units_of_a_constant_stack_are_finite():
    units = value_range.fit_stack_range([np.full((8, 8), 5.0)])
    x = units.forward(np.full(3, 5.0, np.float32))
    assert np.isfinite(x).all()
    assert np.array_equal(units.inverse(x), np.full(3, 5.0))


def test_units_refuse_infinity():
    with pytest.raises(InputError, match="infinity"):
        value_range.fit_stack_range([np.array([1.0, np.inf])])
