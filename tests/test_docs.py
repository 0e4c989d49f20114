"""What the documentation says is what the tool does: tables are generated, commands executed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from restorectl.catalog import methods
from restorectl.cli.commands import COMMANDS as NAMES
from tests import sensor
from tests.command import run
from tests.documents import DOCS, PAGES, README, ROOT, filled, generated

FIRST = README.read_text("utf-8")
TEXT = "".join(page.read_text("utf-8") for page in PAGES)
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [
    commands
    for language, block in FENCES
    if not language
    and (commands := [m[1] for m in re.finditer(r"^(?:.*&& )?(restorectl .*)$", block, re.M)])
]
PYTHON = [block for language, block in FENCES if language == "python"]
IMAGES = ROOT / "tests/data"
FOLDERS = {"clean_images": "clean", "noisy_images": "noisy", "my_images": "noisy"}
FEW = ("filaments.png", "nuclei.tif")  # in every folder; others where a command names them
STEP = [
    *("optimiser.steps=1", "optimiser.batch=2", "optimiser.micro_batch=2"),
    *("validation.every=0", "validation.keep=last"),
]
QUICK = {  # options that only cut what a command takes
    "train": [word for setting in STEP for word in ("-s", setting)],
    "uncertainty": ["--samples", "2", "--steps", "1", "--pattern", "[fn]*"],
    "denoise": ["--steps", "2", "--pattern", "n*"],
    "superres3d": ["--sweeps", "xz"],
}


def test_generated_tables_are_up_to_date():
    assert filled(TEXT) == TEXT, "run: python -m tests.documents"
    assert all(TEXT.count(f"<!-- generated: {name} -->") == 1 for name in generated())


def test_the_table_of_the_papers_is_up_to_date():
    python = [sys.executable, str(ROOT / "tests/benchmarks/bench_papers.py")]
    shown = subprocess.run([*python, "--show"], capture_output=True, text=True, check=True).stdout
    document = DOCS / "papers.md"
    assert document.read_text("utf-8") == shown, "run: bench_papers.py --write"


def test_options_in_the_table_of_the_papers_exist():
    text = (DOCS / "papers.md").read_text("utf-8")
    for command, options in re.findall(r"`restorectl (\w+)([^`]*)`", text):
        shown = run(command, "--help", env={"COLUMNS": "200"}).stdout
        assert set(re.findall(r"--[a-z0-9-]+", options)) <= set(re.findall(r"--[a-z0-9-]+", shown))


def test_there_are_commands_to_execute():
    assert len(COMMANDS) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("commands", COMMANDS, ids=lambda commands: commands[0])
def test_commands_of_the_documentation_work(commands, tmp_path):
    """Block by block, each in a new folder; what takes long is cut short."""
    sensor.record(tmp_path)
    folders = FOLDERS | {f"tests/data/{name}": name for name in ("clean", "noisy")}
    for name, kind in folders.items():
        (tmp_path / name).mkdir(parents=True)
        for image in (IMAGES / kind).glob("*.*"):
            if image.name in FEW or image.name in " ".join(commands):
                (tmp_path / name / image.name).symlink_to(image)
    for command in commands:
        words = shlex.split(command)[1:]
        if words[0] != "denoise" or "care" not in words:  # a network of one call has no steps
            words += QUICK.get(words[0], [])
        run(*words, cwd=tmp_path, check=0)


@pytest.mark.slow
@pytest.mark.parametrize("script", PYTHON)
def test_python_of_the_documentation_works(script, tmp_path):
    """In a folder with the example images; napari, which needs a display, only keeps its layers."""
    if "zarr" in script:
        pytest.importorskip("zarr")
    for name in ("noisy_images", "restored"):
        (tmp_path / name).symlink_to(ROOT / "tests/data/noisy")
    (tmp_path / "napari.py").write_text(
        "class Viewer:\n    def add_image(self, data, name, scale):\n"
        "        assert data.ndim == len(scale)\n\ndef run(): ...\n"
    )
    (tmp_path / "script.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=environment, check=True)


@pytest.mark.slow
def test_every_option_the_documentation_names_exists():
    helps = ""
    for name in sorted(NAMES):
        helps += run(name, "--help", env={"COLUMNS": "200"}).stdout
    named = set(re.findall(r"`(--[a-z0-9-]+)", TEXT))
    assert {option for option in named if option not in helps} == set()


def test_every_sampler_is_documented():
    assert all(f"`{name}`" in TEXT for name in methods("restore"))


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(FIRST.splitlines()) <= 200
    linked = re.findall(r"\]\(([^)]+)\)", FIRST)
    assert {ROOT / each for each in linked} >= set(DOCS.glob("*.md"))
    assert all((ROOT / each).exists() for each in linked)


def test_ci_calls_the_readme_s_test_command():
    script = (ROOT / ".ci/run").read_text("utf-8")
    assert "<!-- test command -->" in script
    assert re.search(
        r"<!-- test command -->\n```\npython -m pip install .* python -m pytest -n 2 .*\n```", FIRST
    )


def test_the_project_speaks_of_itself_alone():
    paths = [p for p in ROOT.rglob("*") if p.suffix in (".py", ".md", ".yaml", ".toml")]
    for path in paths:
        if any(part.startswith(".") or part == "runs" for part in path.relative_to(ROOT).parts):
            continue
        assert "/wo" + "rk/" not in path.read_text("utf-8"), path
    assert Path(ROOT / "LICENSE").exists()
