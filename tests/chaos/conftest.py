"""The warm server, images to work on, and the figures that are printed when all is over."""

import time

import pytest

from tests.chaos.folders import digests, fill
from tests.server import Server

FIGURES = pytest.StashKey()


def pytest_configure(config):
    config.stash[FIGURES] = []


def pytest_terminal_summary(terminalreporter, config):
    lines = config.stash.get(FIGURES, [])
    if lines:
        terminalreporter.section("chaos")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def figure(request):
    """Notes a line for the end of the run."""
    return request.config.stash.setdefault(FIGURES, []).append


@pytest.fixture(scope="session")
def server():
    made = Server(with_model=True)
    yield made
    made.close()


@pytest.fixture(scope="session")
def twenty(server, tmp_path_factory):
    """(folder with `in`, digests of an undisturbed run, seconds of one file)"""
    place = tmp_path_factory.mktemp("twenty")
    fill(place / "in", 20)
    start = time.monotonic()
    code, told = server.run("restore", "in", "-o", "whole", cwd=place)
    assert code == 0, told
    wanted = digests(place / "whole")
    assert len(wanted) == 20
    return place, wanted, (time.monotonic() - start) / 20
