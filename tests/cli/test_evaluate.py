"""`evaluate` as a process: what is typed, what appears where, which exit code."""

import csv
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from restorectl.catalog import METRICS
from restorectl.cli.app import app
from restorectl.errors import GateError, UsageError
from tests import command

pytestmark = pytest.mark.slow

DATA = Path(__file__).parent.parent / "data"
run = partial(command.run, "evaluate")


def invoke(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """clean/, and predictions sharp/ and [dim] of the same names."""
    made = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(0)
    for n in range(3):
        clean = rng.integers(50, 200, (40, 44)).astype(np.uint8)
        for method, sigma in (("clean", 0), ("sharp", 3), ("[dim]", 9)):
            (made / method).mkdir(exist_ok=True)
            noisy = clean + sigma * rng.normal(size=clean.shape)
            tifffile.imwrite(made / method / f"{n}.tif", np.rint(noisy).astype(np.uint8))
    return made


def test_tables_json_csv_and_gates(folder, tmp_path):
    given = ["sharp", "[dim]", "--target", "clean"]
    done = run(*given, "--csv", tmp_path / "out.csv", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "data range: 255" in done.stdout
    assert "median (scale none)" in done.stdout
    table = done.stdout[done.stdout.index("psnr") :].splitlines()
    assert table[2].split()[0] == "sharp"
    assert table[2].split()[-1] == "best"
    assert table[3].split()[0] == "[dim]"
    assert "[6/6] done [dim]: 2.tif" in done.stderr
    document = json.loads(run("--json", *given, cwd=folder).stdout)  # swallows no other word
    assert document["methods"] == ["sharp", "[dim]"]
    assert len(document["files"]) == 6
    medians = [document["summary"]["psnr"][m]["median"] for m in document["methods"]]
    assert medians[0] > medians[1]
    assert document["median_tests"]["psnr"][0]["p"] < 1
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row, score in zip(rows, document["files"], strict=True):
        assert float(row["psnr"]) == score["values"]["psnr"]  # full precision in both
        assert (row["method"], row["name"]) == (score["method"], score["name"])


def test_gates_are_the_exit_code(folder):
    given = ["sharp", "[dim]", "--target", "clean", "-q", "--json"]
    easy = ["--fail-under", "psnr=20", "--fail-over", "mae=50"]
    assert run(*given, *easy, cwd=folder).returncode == 0
    done = run(*given, "--fail-over", "mae=5", cwd=folder)
    assert done.returncode == GateError.exit_code
    assert done.stderr.startswith("restorectl: --fail-over mae=5: [dim] has 7.")
    assert len(json.loads(done.stdout)["unmet"]) == 1


def test_missing_files_exit_3_and_the_rest_is_done(folder, tmp_path):
    shutil.copytree(folder / "sharp", tmp_path / "some")
    (tmp_path / "some/0.tif").unlink()
    (tmp_path / "some/1.tif").write_bytes(b"II*\0")
    done = run(tmp_path / "some", "--target", folder / "clean", "-q")
    assert done.returncode == 3
    assert "some: 0.tif: no prediction for this target" in done.stderr
    assert "1.tif" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert done.stdout == ""  # -q: only errors


def test_nothing_there_exits_4(folder, tmp_path):
    for arguments in ((tmp_path, "--target", folder / "clean"), (tmp_path / "no",)):
        done = run(*arguments)
        assert done.returncode == 4, done.stderr
        assert done.stderr.count("\n") == 1


def test_inception_is_absent_exits_5(folder):
    done = run("sharp", "--reference", "clean", "--metrics", "fid", cwd=folder)
    assert done.returncode == 5
    assert "--inception" in done.stderr
    assert "Traceback" not in done.stderr


def test_infinite_scores_are_text_in_json(folder):
    done = run("clean", "--target", "clean", "--json", "-q", cwd=folder)
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["summary"]["psnr"]["clean"]["median"] == "inf"
    assert document["files"][0]["values"]["mae"] == 0


def test_usage_errors(folder, tmp_path):
    given = [folder / "sharp", "--target", folder / "clean"]
    for wrong in (
        ["--json", "--csv", "-"],
        ["--classifier", "x.pt2"],
        ["--preference", tmp_path / "x.html"],
        ["--csv", tmp_path / "x.tif"],
        ["--csv", tmp_path / "absent/x.csv"],
        ["--fail-under", "psnr"],
        ["--metrics", "beauty"],
    ):
        assert isinstance(invoke(*given, *wrong).exception, UsageError), wrong


def test_help_names_every_metric():
    lines = [line.split()[:1] for line in invoke("--help").output.splitlines()]
    assert all([name] in lines for name in METRICS)


def test_equal_runs_write_equal_bytes(folder):
    given = ["sharp", "[dim]", "--target", "clean", "-q", "--json"]
    assert run(*given, cwd=folder).stdout == run(*given, cwd=folder).stdout != ""


def test_what_other_options_write_and_print(folder, tmp_path):
    """The report, the study and the objects, from one command."""
    page, study = tmp_path / "report.html", tmp_path / "study.html"
    given = ["sharp", "[dim]", "--target", "clean", "--input", "[dim]", "--metrics", "psnr"]
    done = run(*given, "--report", page, "--preference", study, "--segment", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "objects, matched to the target's" in done.stdout
    assert page.read_text("utf-8").lower().startswith("<!doctype html>")
    assert study.read_text("utf-8").lower().startswith("<!doctype html>")
    document = json.loads(run(*given, "--segment", "--json", cwd=folder).stdout)
    assert document["segment"]["methods"].keys() == {"sharp", "[dim]"}


CHOICE = {
    "comparisons": 5,
    "preferred": 3,
    "undecided": 1,
    "share": 0.75,
    "interval": [0.3, 0.95],
}
RESULTS = {
    "study": "s1",
    "tasks": 4,
    "raters": [{"name": "a", "answers": 4}, {"name": "b", "answers": 4}],
    "methods": {
        "one": CHOICE
        | {"hallucinated": 1, "hallucination_rate": 0.25, "hallucination_interval": [0.05, 0.7]}
    },
    "pairs": [CHOICE | {"methods": ["one", "two"]}],
    "agreement": {
        "better": {
            "pairs": [{"raters": ["a", "b"], "tasks": 4, "percent": 0.5, "kappa": None}],
            "percent": 0.5,
            "kappa": None,
        }
    },
    "failures": ["x.json: no exported answers of a preference study"],
}


def test_what_is_written_names_options_as_they_are_typed(tmp_path):
    tifffile.imwrite(tmp_path / "flat.tif", np.full((20, 20), 900, np.uint16))
    page = tmp_path / "out.html"
    given = (tmp_path / "flat.tif", "--target", tmp_path / "flat.tif")
    done = invoke(*given, "--json", "--report", page)
    assert done.exit_code == 3
    for told in (done.stderr, done.stdout, page.read_text("utf-8")):
        assert "use --data-range N" in told
        assert "`data_range`" not in told


def test_results_of_a_study(monkeypatch):
    from restorectl.evaluation import study as preference_study

    monkeypatch.setattr(
        preference_study, "results", lambda files: RESULTS | {"study": " ".join(files)}
    )
    found = invoke("--preference-results", "a.json", "b.json")
    assert found.exit_code == 3  # one file was no answers
    assert "a.json b.json · 2 raters" in found.output
    for text in ("75.0%", "30.0% to 95.0%", "one over two", "a and b", "25.0%"):
        assert text in found.output
    found = invoke("--preference-results", "--json", "a.json", "b.json")
    assert found.exit_code == 3
    assert json.loads(found.stdout)["methods"] == RESULTS["methods"]


def test_a_classifier_s_confusion(folder, monkeypatch, tmp_path):
    from restorectl.evaluation import downstream

    asked = {}

    def confusion(program, comparison, labels, trusted, classes):
        asked.update(program=program, labels=labels, trusted=trusted, classes=classes)
        table = {"confusion": [[2, 1], [0, 3]], "correct": 5, "wrong": 1, "undecided": 0}
        each = {"files": 6, "before": table, "after": table, "target": table}
        each["changes"] = [[4, 1, 0], [0, 1, 0], [0, 0, 0]]
        found = {"classes": ["benign", "tumour"], "labels": ["benign", "tumour"], "failures": []}
        return found | {"methods": {"sharp": each}, "files": []}

    monkeypatch.setattr(downstream, "confusion", confusion)
    given = [folder / "sharp", "--target", folder / "clean", "--classifier", "c.pt2", "--trust"]
    labels = tmp_path / "l.csv"
    given += ["--input", folder / "clean", "--labels", labels]
    missing = invoke(*given)  # said before any file is scored
    assert "cannot be read" in str(missing.exception)
    assert not asked
    labels.write_text("a.tif,benign\n")
    found = invoke(*given, "--classes", "benign, tumour")
    assert found.exit_code == 0
    assert asked["classes"] == ["benign", "tumour"]
    assert asked["trusted"]
    assert "sharp · classes of 6 files" in found.output
    assert "sharp · from before to after" in found.output


def test_some_predictions_are_there(folder):
    """Exit code 3, and the others are scored; 4 if there are none."""
    done = run("sharp", "nowhere", "--target", "clean", "--json", cwd=folder)
    assert done.returncode == 3
    assert "nowhere: 0.tif: no prediction for this target" in done.stderr
    assert json.loads(done.stdout)["summary"]["psnr"].keys() == {"sharp"}
    assert run("nowhere", "nor", "--target", "clean", cwd=folder).returncode == 4


def test_an_output_that_cannot_be_written_keeps_no_other(folder, tmp_path):
    (tmp_path / "a.csv").mkdir()
    done = run("sharp", "--target", "clean", "--csv", tmp_path / "a.csv", "--report",
               tmp_path / "b.html", "--fail-under", "psnr=99", cwd=folder)  # fmt: skip
    assert done.returncode == 3
    first, gate = done.stderr.splitlines()[-2:]
    assert "--fail-under psnr=99" in first + gate
    assert "a.csv" in first + gate
    assert (tmp_path / "b.html").stat().st_size > 0
