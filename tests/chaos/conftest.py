"""The warm server, images to work on, and the figures that are printed when all is over."""

import time

import pytest

from tests.chaos.folders import digests, fill
from tests.server import Server

FIGURE = "figure"  # name of the property


def pytest_terminal_summary(terminalreporter):
    """Lines of tests, also of those that ran in another process."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    lines = [line for r in reports for name, line in r.user_properties if name == FIGURE]
    if lines:
        terminalreporter.section("chaos")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def figure(request):
    """Notes a line for the end of the run."""
    return lambda line: request.node.user_properties.append((FIGURE, line))


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
