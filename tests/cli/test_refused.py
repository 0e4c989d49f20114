"""What cannot be meant is said before any file is opened: one line, the option, what would do."""

import json
import re

import pytest
import yaml

from tests.chaos.folders import fill
from tests.command import run

INPUT = ["in", "-o", "out"]
LINES = {  # words of the command: (exit code, parts of the line)
    "restore in -o out --gain -3": (2, "--gain -3: must be above 0"),
    "restore in -o out --gain x": (2, "--gain x: not a number"),
    "restore in -o out --gain nan": (2, "--gain nan: must be finite"),
    "restore in -o out --read-noise -1": (2, "--read-noise -1: must be at least 0"),
    "restore in -o out --noise none --gain 2": (2, "--gain 2", "--noise none"),
    "restore in -o out --noise gaussian --gain 2": (2, "--gain 2", "--noise gaussian"),
    "restore in -o out --noise poison": (2, "--noise poison", "did you mean 'poisson-gaussian'?"),
    "restore in -o out --axes QQ": (2, "--axes QQ", "'Q'"),
    "restore in -o out --axes ZYY": (2, "--axes ZYY"),
    "restore in -o out --axes ZT": (2, "--axes ZT"),
    "restore in -o out --channels ,": (2, "--channels ,"),
    "restore in -o out --sampler dpm": (2, "--sampler dpm", "did you mean 'dpmpp'?"),
    "restore in -o out --strength abc": (2, "--strength abc: not a number"),
    "restore in -o out --strength 11": (2, "--strength 11: must be from 0 to 10"),
    "restore in -o out --steps 0": (2, "--steps 0"),
    "restore in -o out --seed 1.5": (2, "--seed 1.5: not a whole number"),
    "restore in -o out --max-failures 0": (2, "--max-failures 0: must be at least 1"),
    "restore in -o out --min-age -1": (2, "--min-age -1: must be at least 0"),
    "restore in -o out --context zz": (2, "--context zz", "did you mean 'z'?"),
    "restore in -o out --calibrator-weights x": (
        2,
        "--calibrator-weights x",
        "--calibrator network",
    ),
    "restore in -o out --samplr ddim": (2, "no such option: --samplr", "'--sampler'"),
    "restore in -o": (2, "requires an argument"),
    "restore in": (2, "missing option", "--output"),
    "restore in -o out.czi": (2, "-o out.czi", "out.tif"),
    "restore in -o out.jpg": (2, "-o out.jpg", "out.png"),
    "restore in -o out --manifest no/run.json": (2, "--manifest no/run.json", "folder"),
    "restore in -o out --shard 5/4": (2, "--shard 5/4"),
    "restore in -o out -w prio": (5, "prio", "did you mean 'prior'?"),
    "restore no -o out": (4, "no: no such file or folder"),
    "restore no nor -o out": (4, "no: no such file or folder (and 1 more)"),
    "restor in -o out": (2, "no such command", "'restore'"),
    "denoise in -o out --method repent": (2, "--method repent", "'repaint'"),
    "denoise in -o out --samples 0": (2, "--samples 0: must be at least 1"),
    "superres3d in -o out --factor 99": (2, "--factor 99: must be from 1 to 8"),
    "superres3d in -o out --strength 2": (2, "--strength 2: must be from 0 to 1"),
    "superres3d in -o out --spacing 1,0,1": (2, "--spacing 0: must be above 0"),
    "uncertainty in -o out --samples 1": (2, "--samples 1: must be at least 2"),
    "uncertainty in -o out --interval 1": (2, "--interval 1: must be below 1"),
    "evaluate in --target in --metrics psrn": (2, "--metrics psrn", "did you mean 'psnr'?"),
    "evaluate in --target in --fail-under psrn=1": (2, "psrn=1", "did you mean 'psnr'?"),
    "evaluate in --target in --data-range 0": (2, "--data-range 0: must be above 0"),
    "evaluate in --target in --wording x": (2, "--wording x", "--preference"),
    "train finetun --data in -o x.safetensors": (2, "finetun", "did you mean 'finetune'?"),
    "train prior --data in -o x.safetensors -s network.name=une": (2, "network.name", "'unet'"),
    "train prior --data in -o x.safetensors --register rigit": (2, "--register rigit", "'rigid'"),
    "calibrate in --csv no/a.csv": (2, "--csv no/a.csv", "folder"),
    "weights path priro": (5, "priro", "did you mean 'prior'?"),
    "weights import x.ckpt --as rscb -o x.safetensors": (2, "--as rscb", "'rscd'"),
    "help restor": (2, "no such command", "'restore'"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    (folder / "in").mkdir()
    (folder / "in/a.tif").write_bytes(b"no image: never opened")
    return folder


@pytest.mark.parametrize("line", LINES)
def test_one_line_before_any_file(place, line):
    code, *parts = LINES[line]
    done = run(*line.split(), cwd=place)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert re.fullmatch(r"restorectl: [^\n]+\n", done.stderr), done.stderr
    assert all(part in done.stderr for part in parts), done.stderr
    assert "ends after" not in done.stderr
    assert sorted(path.name for path in place.iterdir() if path.name[0] != ".") == ["in"]


def test_numbers_too_large_for_any_computer(place):
    for words in (["--seed", "9" * 5000], ["--steps", "9" * 5000], ["--strength", "9" * 500]):
        done = run("restore", *INPUT, *words, cwd=place)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1


def test_some_paths_exist(tmp_path):
    fill(tmp_path / "in", 1)
    done = run("restore", "in", "no", "-o", "out", "-n", cwd=tmp_path)
    assert done.returncode == 3
    assert "no: no such file" in done.stderr


# ---- --config ------------------------------------------------------------------------------------
def configured(place, content, *words):
    (place / "c.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return run("restore", "in", *words, "--config", "c.yaml", cwd=place)


def test_a_file_of_defaults(tmp_path):
    fill(tmp_path / "in", 3)
    content = {
        "restore": {
            "output": "there",
            "exclude": ["00*", "01*"],
            "manifest": "run.json",
            "strength": 0.5,
            "channels": [0],
            "quiet": True,
        },
        "weights pull": {"all": True},
    }
    done = configured(tmp_path, content)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in (tmp_path / "there").glob("[!.]*")] == ["02.tif"]
    told = json.loads((tmp_path / "run.json").read_text())["parameters"]
    assert (told["strength"], told["channels"]) == (0.5, [0])
    again = configured(tmp_path, content, "--strength", "0.8", "-o", "here")  # what is typed wins
    assert again.returncode == 0
    assert json.loads((tmp_path / "run.json").read_text())["parameters"]["strength"] == 0.8
    assert (tmp_path / "here/02.tif").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"restore": {"stength": 1}}, "'stength' is not an option; did you mean 'strength'?"),
        ({"restor": {}}, "'restor' is not a command; did you mean 'restore'?"),
        ({"restore": {"quiet": "yes please"}}, "must be true or false"),
        ({"restore": {"strength": True}}, "must be a value"),
        ({"restore": {"strength": {"a": 1}}}, "must be a value"),
        ({"restore": {"strength": 99}}, "--strength 99: must be from 0 to 10"),
        ({"restore": {"sampler": "dpm"}}, "did you mean 'dpmpp'?"),
        ({"restore": 3}, "not a mapping"),
        ([1], "not a mapping"),
        ("a: [", "not valid YAML"),
        ("[" * 100_000, "not valid YAML"),
    ],
)
def test_a_file_of_defaults_is_strict(place, content, said):
    done = configured(place, content, "-o", "out")
    (place / "c.yaml").unlink()
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_file_of_defaults(place):
    done = run("restore", *INPUT, "--config=no.yaml", cwd=place)
    assert (done.returncode, done.stderr) == (
        2,
        "restorectl: --config no.yaml: cannot be read (no such file)\n",
    )
