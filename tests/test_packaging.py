"""The wheel and the sdist as a user gets them, and recipes that name what pyproject.toml names."""

import os
import re
import subprocess
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.documents import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PACKAGING = ROOT / ".packaging"
OF_DEVELOPERS = ("test", "all")  # extras that `all` does not hold
CONDA = {"torch": "pytorch", "huggingface-hub": "huggingface_hub", "matplotlib": "matplotlib-base"}


def python(folder: Path) -> str:
    return str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")


def call(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """A virtual environment with build and twine, from the package index."""
    folder = tmp_path_factory.mktemp("tools")
    venv.create(folder, with_pip=True)
    done = call(python(folder), "-m", "pip", "install", "-q", "build", "twine")
    if done.returncode:
        pytest.skip(f"build and twine cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return python(folder)


@pytest.fixture(scope="module")
def dist(tools, tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    done = call(tools, "-m", "build", "--outdir", folder, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_wheel_and_the_sdist_pass_the_check_of_the_index(tools, dist):
    files = sorted(dist.iterdir())
    assert [path.suffix for path in files] == [".whl", ".gz"]
    done = call(tools, "-m", "twine", "check", "--strict", *files)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(dist):
    (wheel,) = dist.glob("*.whl")
    words = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "restorectl")
    tracked = call(*words, cwd=ROOT).stdout.split()
    if not tracked:
        pytest.skip("not a git repository: the files of the package are not known")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {*tracked, "restorectl/weights.yaml"} == {n for n in held if ".dist-info/" not in n}


@pytest.mark.slow
def test_a_fresh_environment_restores_an_image(dist, tmp_path):
    """With the wheel that was built from the sdist and the dependencies of this environment.

    The index is asked for what `all` adds.
    """
    (package,) = dist.glob("*.whl")
    venv.create(tmp_path / "fresh", with_pip=True)
    fresh = python(tmp_path / "fresh")
    site = call(fresh, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout
    Path(site.strip(), "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    done = call(fresh, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", package)
    assert done.returncode == 0, done.stderr
    script = Path(fresh).with_name("restorectl")
    told = call(fresh, "-c", "import restorectl; print(restorectl.__file__)", cwd=tmp_path).stdout
    assert Path(told.strip()).is_relative_to(tmp_path / "fresh")
    image = ROOT / "tests/data/noisy/filaments.png"
    for words in (
        ("--version",),
        ("weights", "verify"),
        ("docs", "install"),
        ("restore", image, "-o", tmp_path / "out", "--preview"),
    ):
        done = call(script, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/filaments_preview.png").exists()
    done = call(fresh, "-m", "pip", "install", "-q", "--dry-run", f"{package}[all]")
    if done.returncode and "No matching distribution" not in done.stderr:
        pytest.skip(f"the package index did not answer: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def named(requirements):
    """Name -> lowest version."""
    found = (re.fullmatch(r"([\w-]+) ?>=([\d.]+)", each) for each in requirements)
    return {match[1]: match[2] for match in found if match}


def test_the_extra_all_holds_every_extra_of_users():
    extras = PROJECT["optional-dependencies"]
    (every,) = extras["all"]
    held = re.fullmatch(r"restorectl\[([\w,-]+)\]", every)[1].split(",")
    assert held == sorted(extras.keys() - set(OF_DEVELOPERS))


def test_the_conda_recipe_needs_what_the_package_needs():
    text = re.sub(r"\{[{%].*?[%}]\}", "1", (PACKAGING / "conda/meta.yaml").read_text("utf-8"))
    recipe = yaml.safe_load(text.removeprefix(text[: text.index("package:")]))
    wanted = named(PROJECT["dependencies"]) | {"python": PROJECT["requires-python"].strip(">=")}
    run = recipe["requirements"]["run"]
    assert named(run) == {CONDA.get(name, name): version for name, version in wanted.items()}


def test_containers_copy_what_a_build_needs():
    for recipe in ("Dockerfile", "restorectl.def"):
        text = (PACKAGING / recipe).read_text("utf-8")
        for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "weights.yaml"):
            assert (ROOT / name).exists()
            assert name in text, f"{recipe} does not copy {name}"
        torch = re.search(r"torch==2\.\d+\.\*", text)[0]
        assert torch in (ROOT / "README.md").read_text("utf-8")
