"""Files from strangers: names that are commands of a terminal, values without measure."""

import csv
import json
import os
import re
import time

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import save_file

from restorectl.engine.card import KEY
from restorectl.errors import printable, spreadsheet_cell
from restorectl.files.strict import LARGEST
from restorectl.jobs import WeightsOptions
from restorectl.weights.file import read
from restorectl.weights.registry import locate
from tests.chaos.folders import fill, image
from tests.command import run
from tests.terminal import in_a_terminal

EVIL = "\x1b[5mred\x1b]0;owned\x07\u202e.tif"  # blinks, sets the title, rings, writes backwards
SEQUENCES = re.compile(r"\x1b\](?:0|owned)|\x1b\[5m|\x07|\u202e")


def test_printable():
    assert printable(EVIL) == r"\x1b[5mred\x1b]0;owned\x07\u202e.tif"
    assert printable("µ 中 caf\udce9\n") == "µ 中 caf\\udce9\\n"


@pytest.fixture
def place(tmp_path):
    for name in ("in", EVIL):
        fill(tmp_path / name, 2)
        (tmp_path / name / "00.tif").rename(tmp_path / name / EVIL)
    named = {"axes": "CYX", "Labels": [EVIL, "two"]}
    stack = np.stack([image(0), image(1)])
    tifffile.imwrite(tmp_path / "in/stack.tif", stack, imagej=True, metadata=named)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        ["restore", EVIL, "no" + EVIL, "-o", "out"],
        ["calibrate", "in"],
        ["evaluate", EVIL, "in", "--target", "in", "--pattern", "*[!k].tif", "--by", "z"],
        ["uncertainty", EVIL, "-o", EVIL + ".yaml", "--calibrate", EVIL, "--samples", "2",
         "--steps", "1"],
        ["train", EVIL, "--data", EVIL, "-o", "x.safetensors"],
        ["weights", "verify", EVIL],
        ["evaluate", "--preference-results", EVIL + "/01.tif"],
        ["docs", EVIL],
        [EVIL],
    ],
    ids=lambda line: " ".join(line[:1]).replace(EVIL, "name"),
)  # fmt: skip
def test_names_never_command_a_terminal(place, line):
    _, told = in_a_terminal(*line, cwd=place)
    assert not SEQUENCES.search(told), repr(told)
    assert "Traceback" not in told
    off = run(*line, cwd=place)
    assert "\x1b" not in off.stdout + off.stderr


def test_answers_of_a_study_are_printable(tmp_path):
    import base64

    from restorectl.evaluation.study import KIND

    key = [{"file": "a", "A": EVIL, "B": "two"}]
    answers = {
        "kind": KIND,
        "study": EVIL,
        "rater": EVIL,
        "key": base64.b64encode(json.dumps(key).encode()).decode(),
        "answers": {"0": {"better": "A", "hallucination": "B"}},
    }
    (tmp_path / "a.json").write_text(json.dumps(answers))
    (tmp_path / "b.json").write_text(json.dumps(answers | {"rater": "=1+1"}))
    code, told = in_a_terminal("evaluate", "--preference-results", "a.json", "b.json", cwd=tmp_path)
    assert code == 0, told
    assert not SEQUENCES.search(told)
    assert "owned" in told


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_cells_are_no_formulas(start):
    assert spreadsheet_cell(f"{start}1+1") == f"'{start}1+1"
    assert spreadsheet_cell(f"a{start}") == f"a{start}"


@pytest.mark.slow
def test_tables_for_spreadsheets(tmp_path):
    names = ["=cmd|'x'!A0.tif", "+1.tif", "@x.tif", os.fsdecode(b"caf\xe9.tif")]
    for folder in ("-m", "true"):
        fill(tmp_path / folder, len(names))
        for k, name in enumerate(names):
            (tmp_path / folder / f"{k:02}.tif").rename(tmp_path / folder / name)
    run("evaluate", "--csv", "e.csv", "--target", "true", "--", "-m", cwd=tmp_path, check=0)
    run("calibrate", "true", "--csv", "c.csv", cwd=tmp_path, check=0)
    for name in ("e.csv", "c.csv"):
        rows = list(csv.reader((tmp_path / name).read_text("utf-8").splitlines()))
        assert len(rows) == 5
        for row in rows[1:]:
            assert not [cell for cell in row if re.match(r"[=+@]|-\D", cell)]
        assert any("caf\\udce9.tif" in cell for row in rows for cell in row)


# ---- files of plain values -----------------------------------------------------------------------
def registry(path):
    return ["weights", "list", "--registry", path]


def recipe(path):
    return ["train", path, "--data", "in", "-o", "x.safetensors"]


def calibration(path):
    return ["uncertainty", "in", "-o", "out", "--calibration", path]


def answers(path):
    return ["evaluate", "--preference-results", path]


def wording(path):
    return ["evaluate", "in", "in", "--input", "in", "--preference", "x.html", "--wording", path]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    fill(folder / "in", 1)
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "large").touch()
    os.truncate(folder / "large", LARGEST + 1)
    (folder / "deep").write_text("[" * 200_000)
    (folder / "deep.json").write_text('{"a":' * 200_000)
    (folder / "bytes").write_bytes(b"\xff\xfe\xff")
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 30)]
    (folder / "laughs").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("words", [registry, recipe, calibration, answers, wording])
@pytest.mark.parametrize(
    "name", ["pipe", "zero", "large", "deep", "deep.json", "bytes", "laughs", "in"]
)
def test_plain_values_come_from_small_regular_files(plain, words, name):
    start = time.monotonic()
    done = run(*words(name), cwd=plain)
    assert time.monotonic() - start < 60  # it ends
    assert done.returncode in (2, 3, 4, 5)
    assert re.fullmatch(r"restorectl: [^\n]{,400}\n", done.stderr), done.stderr[:2000]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("channels", -1),
        ("channels", 10**9),
        ("window", 10**9),
        ("sigma_max", -1.0),
        ("config.blocks", 10**9),
        ("config.blocks", 10**6),
        ("config.patch", 0),
        ("config.patch", -2),
        ("config.embedding", 10**12),
        ("config.c_in", -1),
        ("config.channels", [64] * 100_000),
        ("config.channels", [10**6, 10**6]),
        ("config.channels", []),
        ("config.channels", [0, 0]),
        ("config.channels", {"a": 1}),
        ("config.blocks", "two"),
        ("config.blocks", 2.5),
        ("network", "unt"),
    ],
)
def test_cards_without_measure(tmp_path, key, value):
    """Refused at once; tests of the command time the whole program instead."""
    from restorectl.engine.denoiser import build
    from restorectl.errors import WeightsError

    card, tensors = read(locate("prior", WeightsOptions()))
    raw = json.loads(card.to_json())
    *outer, last = key.split(".")
    (raw[outer[0]] if outer else raw)[last] = value
    file = tmp_path / "x.safetensors"
    save_file(tensors, file, {KEY: json.dumps(raw)})
    start = time.process_time()
    with pytest.raises(WeightsError) as caught:
        build(*read(file))
    assert time.process_time() - start < 1
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)


def test_a_card_without_measure_ends_the_command(tmp_path):
    fill(tmp_path / "in", 1)
    card, tensors = read(locate("prior", WeightsOptions()))
    raw = json.loads(card.to_json())
    raw["config"]["blocks"] = 10**9
    save_file(tensors, tmp_path / "x.safetensors", {KEY: json.dumps(raw)})
    done = run("restore", "in", "-o", "out", "-w", "x.safetensors", cwd=tmp_path)
    assert done.returncode == 5
    assert re.fullmatch(r"restorectl: .*blocks 1000000000.*\n", done.stderr)


def test_a_checkpoint_with_code_is_not_recommended_to_be_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("touch owned",)

    torch.save({"state_dict": Evil()}, tmp_path / "x.ckpt")
    done = run("weights", "import", "x.ckpt", "--as", "rscd", "-o", "x.safetensors", cwd=tmp_path)
    assert done.returncode == 5
    assert "weights_only" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "owned").exists()
