"""Shared fixtures, and the versions that a failure may depend on."""

from importlib import metadata
from pathlib import Path

import pytest

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


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
    """The folder of real images beside the checkout; see its README.md."""
    if not (REAL_DATA / "MANIFEST.tsv").is_file():
        pytest.skip(f"no real images at {REAL_DATA}")
    return REAL_DATA
