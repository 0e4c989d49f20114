"""A denoiser that treats all directions alike gives one answer in all eight orientations."""

import pytest
import torch
import torch.nn.functional as F

from restorectl import catalog
from restorectl.engine.noise_field import NoiseField, Site
from restorectl.engine.orientations import ALL, run_turned, turn, turn_back
from restorectl.engine.samplers import Problem

METHODS = [  # classical filters follow their own patches
    name
    for name, row in sorted((catalog.methods("restore") | catalog.methods("denoise")).items())
    if not row.target.startswith("engine.classical")
]
SHAPE = (24, 40)


def even(x, sigma, condition=None):
    """A blurred, weakened image: no orientation is special, and neighbours count."""
    around = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    return 0.1 + (0.5 * x + 0.3 * around) / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)


class Known:
    """A calibrator that says this level, whatever it sees."""

    counts_steps = False

    def levels(self, x, modelled=None):
        return torch.full((len(x),), 0.4, dtype=torch.float64)


def problem():
    x = torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sites = [Site((0, 0, 0), 0, 0), Site((0, 0, 0), 100, 300)]
    return Problem(
        even,
        x,
        torch.full((2,), 0.4, dtype=torch.float64),
        lambda k, tiles: NoiseField().draw([sites[i] for i in tiles.tolist()], SHAPE, k),
        steps=2,
    )


def test_turning_back_undoes_turning_and_all_eight_differ():
    x = torch.arange(2 * 3 * 5).reshape(1, 2, 3, 5)
    seen = set()
    for number in range(ALL):
        there = turn(x, number)
        assert there.shape[-2:] == ((5, 3) if number % 2 else (3, 5))
        assert torch.equal(turn_back(there, number), x)
        seen.add((there.shape, tuple(there.flatten().tolist())))
    assert len(seen) == ALL
    assert torch.equal(turn(x, 0), x)


@pytest.mark.parametrize("name", METHODS)
def test_an_even_denoiser_answers_alike_in_every_orientation(name):
    """Also where noise is drawn: it is turned with the tile, not drawn for the turned one."""
    method = catalog.METHODS[name].load()
    sampler = method.sampler(method.settings(), 2)
    decided = sampler.decide(problem(), Known())
    plain = sampler.run(problem(), decided)
    for number in range(ALL):
        found = run_turned(sampler, problem(), decided, number)
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)


def test_halves_of_a_batch_are_turned_like_the_whole():
    """A batch that does not fit in memory is split before it is turned."""
    method = catalog.METHODS["ancestral"].load()
    sampler = method.sampler(method.settings(), 1)
    whole = run_turned(sampler, problem(), {"sigma": 0.4}, 5)
    parts = [run_turned(sampler, problem().part(k, k + 1), {"sigma": 0.4}, 5) for k in (0, 1)]
    torch.testing.assert_close(torch.cat(parts), whole)
