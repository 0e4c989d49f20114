"""Options of `restore` that have an effect only with, or without, its step-calibrated sampler."""

import pytest

from restorectl.batch.outcome import Silent
from restorectl.errors import NoInputError, UsageError
from restorectl.jobs import Files, RestoreJob
from restorectl.restoration.restore import restore

ONLY_RSCD = [
    {"preset": "paper"},
    {"preset": "official"},
    {"recalibrate": 0},
    {"recalibrate": 5},
    {"schedule": "linear"},
]


@pytest.mark.parametrize("options", ONLY_RSCD, ids=str)
def test_options_of_rscd_are_refused_with_another_sampler(options):
    ((name, value),) = options.items()
    message = f"`{name}` {value} has no effect with `sampler` dpmpp: .* use `sampler` rscd"
    with pytest.raises(UsageError, match=message):
        restore(RestoreJob(Files((), "out"), sampler="dpmpp", **options), Silent())


@pytest.mark.parametrize("options", [*ONLY_RSCD, {}], ids=str)
def test_they_are_taken_with_rscd(options):
    with pytest.raises(NoInputError, match="no inputs"):
        restore(RestoreJob(Files((), "out"), sampler="rscd", **options), Silent())


def test_a_map_of_noise_levels_is_refused_with_rscd():
    with pytest.raises(UsageError, match="`level` map has no effect with `sampler` rscd"):
        restore(RestoreJob(Files((), "out"), sampler="rscd", level="map"), Silent())


def test_a_step_map_has_a_schedule_with_any_sampler():
    with pytest.raises(NoInputError, match="no inputs"):
        restore(RestoreJob(Files((), "out"), schedule="linear", step_map="m"), Silent())
