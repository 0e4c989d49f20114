"""Shared fixtures, and the versions that a failure may depend on."""

import os
from importlib import metadata
from pathlib import Path

import pytest

from tests import command

if "PYTEST_XDIST_WORKER" in os.environ:  # processes side by side share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_report_header() -> str:
    """Versions from the installed metadata: importing torch here would cost every run a second."""
    names = ("torch", "numpy", "tifffile", "imagecodecs", "pillow", "hypothesis")
    found = []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} -")
    return "versions: " + ", ".join(found)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images that RESTORECTL_DATA names; see .github/CONTRIBUTING.md."""
    folder = os.environ.get("RESTORECTL_DATA")
    if not folder:
        pytest.skip("RESTORECTL_DATA names no folder of real images")
    if not Path(folder, "pairs").is_dir():
        pytest.skip(f"RESTORECTL_DATA: {folder} holds no folder pairs/")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _forking():
    """Runs of the command start quickly: they are forked."""
    command.forking = True
    yield
    if command.server.cache_info().currsize:
        command.server().close()
