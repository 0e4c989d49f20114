"""Schedule tables against the numbers published for each system."""

import numpy as np
import pytest

from restorectl.engine.schedule import SCHEDULES, cosine, cosine200, linear, rscd, schedule
from restorectl.errors import UsageError

TABLES = [
    (rscd(), "abar", {1: 0.999900, 10: 0.999000, 20: 0.997869, 34: 0.995494, 50: 0.991626}),
    (rscd(), "abar", {100: 0.971719, 150: 0.940377, 190: 0.907573, 200: 0.898361, 500: 0.493654}),
    (cosine200(), "abar", {1: 0.999745, 2: 0.999369, 10: 0.992007, 50: 0.847012, 100: 0.493844}),
    (cosine200(), "abar", {150: 0.144272, 190: 0.006060}),
    (cosine(), "std", {1: 0.0064, 10: 0.0251, 20: 0.0418, 34: 0.0642, 50: 0.0894, 100: 0.1671}),
    (cosine(), "std", {150: 0.2434, 190: 0.3034, 200: 0.3183, 500: 0.7114}),
    (linear(), "std", {10: 0.0435, 50: 0.1702, 100: 0.3209, 120: 0.3782, 200: 0.5839, 300: 0.7769}),
]


@pytest.mark.parametrize(("table", "kind", "values"), TABLES)
def test_published_values(table, kind, values):
    for t, expected in values.items():
        abar = table.abar[t]
        got = abar if kind == "abar" else np.sqrt(1 - abar)
        assert got == pytest.approx(expected, abs=6e-5 if kind == "std" else 1e-6)


def test_lower_clip_hits_exactly_13_betas():
    table = np.array(rscd().abar)
    betas = 1 - table[1:] / table[:-1]
    assert np.isclose(betas, 1e-4, rtol=1e-6).sum() == 13


@pytest.mark.parametrize("name", SCHEDULES)
def test_clean_is_zero_and_levels_rise(name):
    sigmas = schedule(name).sigmas()
    assert sigmas[0] == 0
    assert (np.diff(sigmas) > 0).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_step_inverts_sigma(name):
    table = schedule(name)
    t = np.array([0, 0.3, 1, 1.5, 17.25, 60, table.steps])
    np.testing.assert_allclose(table.step(table.sigma(t)), t, rtol=1e-9, atol=1e-12)


def test_unknown_schedule_names_the_known():
    with pytest.raises(UsageError, match="rscd"):
        schedule("nope")
