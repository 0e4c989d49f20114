"""`calibrate`, and `restore --step-map`, as processes: what is typed, what appears, which code."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from restorectl.cli.app import app
from restorectl.cli.progress import worded
from restorectl.errors import RestorectlError
from restorectl.images.image import open_image
from tests.command import run

pytestmark = pytest.mark.slow

DATA = Path(__file__).parent.parent / "data"
NUCLEI = DATA / "noisy/nuclei.tif"
COLUMNS = [
    *("file", "channel", "t", "c", "z", "top", "left", "height", "width"),
    *("sigma", "steps", "relative", "std"),
]
TINY = (
    "network.config={filters: 4, channels: [8, 8], hidden: 8}",
    "data.crop=32",
    "data.binning=[1, 2]",
    "optimiser.steps=4",
    "optimiser.batch=4",
    "optimiser.micro_batch=2",
    "optimiser.precision=fp32",
    "validation.crop=32",
    "validation.crops=4",
)


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def analytic(tmp_path_factory):
    """The command on all noisy images, with a table, a CSV file and a figure."""
    out = tmp_path_factory.mktemp("calibrate")
    done = run("calibrate", DATA / "noisy", "--csv", out / "w.csv", "--plot", out / "steps.png")
    assert done.returncode == 0, done.stderr
    return out, done


def test_the_table_has_a_line_for_each_channel(analytic):
    _, done = analytic
    head, *lines = done.stdout.splitlines()
    assert head.split()[:5] == ["file", "channel", "windows", "sigma", "steps"]
    cells = {tuple(line.split()[:2]): line.split() for line in lines}
    assert len(lines) == len(cells) == 7
    assert (str(DATA / "noisy/cells.ome.tif"), "membranes") in cells
    nuclei = cells[str(NUCLEI), "0"]
    sigma, steps = float(nuclei[3]), float(nuclei[4])
    assert 0.05 < sigma < 0.5
    assert 20 < steps < 300
    widefield = next(line for line in lines if "widefield" in line)
    assert "correlated" in widefield
    assert "\x1b" not in done.stdout + done.stderr
    assert "6 done" in done.stderr
    assert "T' = " in done.stderr


def test_csv_has_a_row_for_each_window(analytic):
    out, _ = analytic
    rows = rows_of(out / "w.csv")
    assert list(rows[0]) == COLUMNS
    assert len(rows) == 15
    for row in rows:
        assert float(row["sigma"]) > 0
        assert 0 < float(row["steps"]) <= 1000
        assert 0.5 < float(row["relative"]) < 2
        assert int(row["height"]) >= 1
    stack = [row for row in rows if row["file"].endswith("stack.tif")]
    assert [row["z"] for row in stack] == [str(z) for z in range(len(stack))]
    assert [p.name for p in out.iterdir() if p.name.endswith(".part")] == []


def test_the_figure_is_a_png_and_the_same_again(analytic, tmp_path):
    out, _ = analytic
    with Image.open(out / "steps.png") as figure:
        assert figure.format == "PNG"
        assert figure.size == (960, 600)
        pixels = np.asarray(figure.convert("RGB")).reshape(-1, 3).astype(int)
    blue = (np.abs(pixels - (0x3B, 0x6E, 0xA5)).max(1) < 4).mean()
    assert 0.02 < blue < 0.5  # the bars
    assert run("calibrate", DATA / "noisy", "-q", "--plot", tmp_path / "b.png").stdout == ""
    assert (tmp_path / "b.png").read_bytes() == (out / "steps.png").read_bytes()


def test_json_is_one_line_a_file():
    done = run(
        "calibrate", DATA / "noisy/cells.ome.tif", NUCLEI, "--json", "--method", "nonparametric"
    )
    assert done.returncode == 0, done.stderr
    cells, nuclei = (json.loads(line) for line in done.stdout.splitlines())
    assert cells["status"] == "done"
    assert [c["channel"] for c in cells["details"]["channels"]] == ["nuclei", "membranes"]
    details = nuclei["details"]
    assert (details["method"], details["schedule"]) == ("nonparametric", "rscd")
    (channel,) = details["channels"]
    assert channel["windows"] == 1
    assert channel["steps_min"] == channel["steps"] == channel["steps_max"]
    assert channel["relative"] == pytest.approx(1, abs=0.3)
    assert details["noise"]["0"]["noise"]["kind"] == "poisson-gaussian"


def test_the_noise_of_the_camera_channels_and_windows_can_be_chosen():
    listed = f"{DATA / 'noisy/cells.ome.tif'}\n{DATA / 'noisy/stack.tif'}\n"
    camera = ("--gain", 2, "--offset", 100, "--read-noise", 3)
    done = run(
        *("calibrate", "--files-from", "-", "--channels", "0", "--windows", 2, "--json", *camera),
        input=listed,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line)["details"] for line in done.stdout.splitlines()]
    assert [[c["windows"] for c in line["channels"]] for line in lines] == [[1], [2]]
    for line in lines:
        noise = line["noise"]["0"]["noise"]
        assert (noise["gain"], noise["offset"], noise["read_noise"]) == (2, 100, 3)


def test_fit_trains_a_calibrator_and_measures_with_it(tmp_path):
    output = tmp_path / "mine.safetensors"
    settings = [word for each in TINY for word in ("-s", each)]
    fit = ("--fit", DATA / "clean", "-o", output, *settings)
    done = run("calibrate", NUCLEI, *fit, "--json")
    assert done.returncode == 0, done.stderr
    assert "saved" in done.stderr
    line = json.loads(done.stdout)
    assert line["details"]["method"] == "network"
    assert line["calls"] == 1
    again = run("calibrate", NUCLEI, "-w", output, "--json")
    assert json.loads(again.stdout)["details"] == line["details"]
    code, text = refused(["calibrate", *map(str, fit)])
    assert (code, "exists" in text) == (2, True)


def test_bad_files_never_stop_the_others(tmp_path):
    shutil.copy(NUCLEI, tmp_path / "good.tif")
    (tmp_path / "text.tif").write_text("not an image")
    tifffile.imwrite(tmp_path / "constant.tif", np.full((64, 64), 7, np.uint16))
    table = tmp_path / "w.csv"
    done = run("calibrate", tmp_path, tmp_path / "gone.tif", "--csv", table)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert done.stderr.count(" failed ") == 2  # a constant image has nothing to measure
    assert len(done.stdout.splitlines()) == 2
    assert {row["file"] for row in rows_of(table)} == {str(tmp_path / "good.tif")}


def refused(arguments):
    """(exit code, what is said) of a command that fails early: in this process, for speed."""
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    if isinstance(result.exception, RestorectlError):
        return result.exception.exit_code, worded(str(result.exception))
    assert isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{tmp}"], 4, "no images"),
        (["{image}", "--method", "magic"], 2, "nonparametric"),
        (["{image}", "--schedule", "magic"], 2, "cosine200"),
        (["{image}", "--windows", "0"], 2, "--windows"),
        (["{image}", "--channels", ","], 2, "--channels"),
        (["{image}", "--device", "cuda:77"], 2, "--device"),
        (["{image}", "--plot", "{tmp}/a.pdf"], 2, ".png"),
        (["{data}", "--plot", "{data}/a.png"], 2, "inside the input folder"),
        (["{image}", "--csv", "{image}"], 2, "image"),
        (["{image}", "--csv", "{tmp}/no/a.csv"], 2, "does not exist"),
        (["{image}", "-w", "nope"], 5, "nope"),
        (["{image}", "-w", "prior"], 5, "calibrator weights are needed"),
        (["{image}", "-w", "prior", "--method", "analytic"], 2, "no weights"),
        (["{image}", "--fit", "{data}"], 2, "go together"),
        (["{image}", "-o", "{tmp}/c.safetensors"], 2, "go together"),
        (["{image}", "-s", "seed=1"], 2, "--fit"),
        (["--fit", "{data}", "-o", "{tmp}/c.txt"], 2, "safetensors"),
        (["{tmp}", "--fit", "{data}", "-o", "{tmp}/c.safetensors"], 4, "no images"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_a_code(tmp_path, arguments, code, words):
    places = {"tmp": tmp_path, "data": DATA / "noisy", "image": NUCLEI}
    found, text = refused(["calibrate", *(a.format(**places) for a in arguments)])
    assert found == code
    assert words in text
    assert not list(tmp_path.iterdir())


def test_a_refusal_is_one_line_of_the_process():
    done = run("calibrate", NUCLEI, "--fit", DATA)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("restorectl: --fit")


def test_without_the_plotting_library_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    code, text = refused(["calibrate", str(NUCLEI), "--plot", str(tmp_path / "a.png")])
    assert code == 2
    assert 'pip install "restorectl[plot]"' in text


def test_restore_writes_step_maps_beside_its_images(tmp_path):
    source = tmp_path / "in"
    (source / "deep").mkdir(parents=True)
    shutil.copy(NUCLEI, source / "deep/nuclei.tif")
    shutil.copy(DATA / "noisy/filaments.png", source / "filaments.png")
    arguments = ("restore", source, "-o", tmp_path / "out", "--step-map", tmp_path / "maps")
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    maps = sorted(str(p.relative_to(tmp_path / "maps")) for p in tmp_path.glob("maps/**/*.tif"))
    assert maps == ["deep/nuclei_steps.tif", "filaments_steps.tif"]
    with open_image(tmp_path / "maps" / maps[0]) as image, open_image(NUCLEI) as noisy:
        height, width = noisy.header.canonical_shape[3:]
        assert image.header.shape[-2:] == (-(-height // 64), -(-width // 64))
        steps = image.read(image.header.planes[0])
    assert ((steps > 20) & (steps < 300)).all()
    (tmp_path / "maps" / maps[1]).unlink()
    assert "1 done, 1 skipped" in run(*arguments).stderr
    assert (tmp_path / "maps" / maps[1]).exists()
    (tmp_path / "maps" / maps[1]).write_bytes(b"not ours at all")
    refused = run(*arguments)
    assert refused.returncode == 3
    assert "not written by restorectl" in refused.stderr
