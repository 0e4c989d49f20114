"""The HTML report: complete, escaped, the same again, and right about what it shows."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from restorectl.errors import InputError, OutputError
from restorectl.evaluation import examples
from restorectl.evaluation import report as evaluate_report
from restorectl.evaluation.charts import Chart, Group, Series, draw_boxes, draw_lines, number
from restorectl.evaluation.comparison import FileScore
from restorectl.evaluation.pages import TEMPLATES, write_page
from restorectl.evaluation.read import predicted, volume
from restorectl.evaluation.study import WORDINGS
from restorectl.images.pictures import BLUE, RED, difference, grey, heat
from tests.pages import METHODS, NAMES, comparison, images, write

DRAW = TEMPLATES.get_template("charts.html").module
VOID = {"meta", "link", "img", "input", "br"}


class Reader(HTMLParser):
    """Collects texts and pictures, and checks that every element is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.pictures, self.tags = [], [], [], []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        assert not any(name.startswith("on") for name in found), found
        self.tags.append((tag, found))
        if tag == "img":
            self.pictures.append(found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text("utf-8"))
    assert reader.open == []
    return reader


def decoded(picture):
    kind, data = picture["src"].split(",", 1)
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    images(folder)
    return folder


def test_the_page_is_whole_escaped_and_asks_for_nothing(root, tmp_path):
    made = comparison(root, missing=("x: </script><i>gone",), warnings=("& <u>careful</u>",))
    evaluate_report.write(str(tmp_path / "r.html"), made)
    page = (tmp_path / "r.html").read_text("utf-8")
    reader = read(tmp_path / "r.html")
    shown = "".join(reader.texts)
    for name in (*NAMES, *METHODS, "x: </script><i>gone", "& <u>careful</u>"):
        assert name in shown
    assert "u" not in {tag for tag, _ in reader.tags}
    assert sum(tag == "script" for tag, _ in reader.tags) == 2
    for tag, found in reader.tags:
        for key in ("src", "href"):
            assert found.get(key, "data:").startswith("data:"), tag
    assert "default-src 'none'" in page
    assert not re.search(r"url\(|@import|https?://", page)
    assert str(root) not in page
    assert all(picture["alt"] for picture in reader.pictures[:-1])  # the last is the dialog's
    for heading in ("Summary", "Distributions", "Examples", "All files", "Provenance"):
        assert heading in shown


@pytest.mark.parametrize(("names", "told"), [(NAMES, None), (NAMES[:1], "1 image scored")])
def test_scored_images_are_counted(tmp_path, names, told):
    images(tmp_path, names)
    made = comparison(tmp_path, names, METHODS if told is None else METHODS[:1])
    evaluate_report.write(str(tmp_path / "r.html"), made)
    told = told or f"{len(names) * len(METHODS)} images scored"
    assert f"<summary>{told}</summary>" in (tmp_path / "r.html").read_text("utf-8")


def test_equal_inputs_give_equal_bytes_wherever_they_lie(root, tmp_path):
    images(tmp_path / "again")
    evaluate_report.write(str(tmp_path / "1.html"), comparison(root))
    evaluate_report.write(str(tmp_path / "2.html"), comparison(tmp_path / "again"))
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.html", "2.html", "again"]


def test_worst_median_and_best_are_shown_with_differences_from_the_target(root):
    report = evaluate_report.report(comparison(root))
    means = {
        name: np.mean([s.values["rmse"] for s in comparison(root).scores if s.name == name])
        for name in NAMES
    }
    ordered = sorted(NAMES, key=means.__getitem__)
    titles = [example.title for example in report.examples]
    assert titles[0] == f"Worst: {ordered[-1]}"
    assert titles[-1] == f"Best: {ordered[0]}"
    for example in report.examples:
        pictures, differences = example.strips[:2]
        assert [p.title for p in pictures.pictures] == ["Input", *METHODS, "Target"]
        assert [p.title for p in differences.pictures] == [
            f"{name} − target" for name in ("Input", *METHODS)
        ]
        assert all(p.size == (72, 80) for p in pictures.pictures)
        assert [chart.title.split()[0] for chart in example.charts] == ["Intensity", "Power"]
        profile = example.charts[0].series
        target = volume(root / "target" / example.title.split(": ", 1)[1])[0, 0, 0]
        row, first, last = pictures.pictures[0].line
        np.testing.assert_array_equal(profile[-1].y, target[row, first : last + 1])
        np.testing.assert_array_equal(profile[-1].x, np.arange(first, last + 1))


def test_summary_has_the_medians_and_marks_the_best(root):
    report = evaluate_report.report(comparison(root))
    rows = {name: cells for name, _, cells in report.summary.rows}
    values = [comparison(root).column(method, "rmse") for method in METHODS]
    assert [cell.value for cell in rows["rmse ↓"]] == [float(np.median(v)) for v in values]
    assert [cell.best for cell in rows["rmse ↓"]] == [True, False]
    assert [cell.best for cell in rows["psnr in dB ↑"]] == [True, False]
    assert [cell.value for cell in rows["files"]] == [4, 4]


def test_a_large_stack_is_cropped_and_says_so(tmp_path):
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 50, (5, 600, 530), dtype=np.uint16)
    stack[:, 300:, 20:] *= 20
    for folder, worse in (("target", 0), ("m0", np.arange(5)[:, None, None] * 10)):
        write(
            tmp_path / folder / "s.tif", (stack + worse).astype(np.uint16), metadata={"axes": "ZYX"}
        )
    made = comparison(tmp_path, ("s.tif",), ("one",), inputs=None)
    (example,) = evaluate_report.report(made).examples
    assert example.title == "The only file: s.tif"
    assert "Plane z 3 of 5" in example.caption
    assert "crop of 512 × 512 px at row 88, column 18 of 600 × 530 px" in example.caption
    assert {p.size for strip in example.strips for p in strip.pictures} == {(512, 512)}
    projected = evaluate_report.report(comparison(tmp_path, ("s.tif",), ("one",), project="max"))
    assert "Plane" not in projected.examples[0].caption


def test_colours_stay_colours_and_constant_images_can_be_drawn(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    flat = np.full((40, 50), 7, np.uint8)
    for folder in ("target", "m0", "input"):
        write(tmp_path / folder / "rgb.tif", rgb, photometric="rgb")
        write(tmp_path / folder / "flat.tif", flat)
    for scale in ("none", "affine"):
        made = comparison(tmp_path, ("flat.tif", "rgb.tif"), ("one",), scale=scale)
        evaluate_report.write(str(tmp_path / "r.html"), made)
        shapes = {decoded(p).shape for p in read(tmp_path / "r.html").pictures[:-1]}
        assert shapes == {(40, 50), (40, 50, 3)}


def test_a_fitted_comparison_shows_fitted_images(tmp_path):
    images(tmp_path, ("x.tif",))
    target = volume(tmp_path / "target/x.tif")
    write(tmp_path / "m0/x.tif", (3 * target[0, 0, 0] + 50).astype(np.float32))
    made = comparison(tmp_path, ("x.tif",), ("one",), scale="affine")
    (example,) = evaluate_report.report(made).examples
    one, truth = example.charts[0].series[1:]
    np.testing.assert_allclose(one.y, truth.y, atol=1e-3)
    assert evaluate_report.report(made).summary.rows[0][0] == "rmse (affine) ↓"


def test_an_input_that_does_not_fit_is_left_out_and_named(root, tmp_path):
    write(tmp_path / "plain.tif", np.zeros((3, 3), np.uint8))
    (tmp_path / "a").mkdir()
    (tmp_path / "a/first.tif").write_text("no image")
    report = evaluate_report.report(comparison(root, inputs=tmp_path))
    notes = dict(report.notes)["Warnings"]
    assert len(notes) == 3
    assert all("input" in note for note in notes)
    assert all(
        "Input" not in p.title for e in report.examples for s in e.strips for p in s.pictures
    )


def test_uncertainty_sets_are_compared_with_the_error(tmp_path):
    rng = np.random.default_rng(0)
    target = np.full((64, 64), 1000.0)
    std = np.linspace(5, 50, 64)[None] * np.ones((64, 1))
    mean = target + std * rng.standard_normal((64, 64))
    write(tmp_path / "target/u.tif", target.astype(np.float32))
    for part, image in {
        "mean": mean,
        "std": std,
        "lower": mean - 1.645 * std,
        "upper": mean + 1.645 * std,
    }.items():
        write(tmp_path / f"m0/u_{part}.tif", image.astype(np.float32))
    made = comparison(tmp_path, (), ("one",), inputs=None)
    curves = {"sparsification": (1.0, 0.7), "oracle": (1.0, 0.5)}
    paths = (tmp_path / "m0/u_mean.tif", tmp_path / "target/u.tif")
    score = FileScore("one", "u.tif", {"rmse": 30.0}, *paths, curves=curves)
    report = evaluate_report.report(replace(made, scores=(score,)))
    ((_, _, cells),) = report.spread.rows
    files, coverage, asked, predicted, error, ratio = (cell.value for cell in cells)
    assert (files, asked) == (1, None)
    assert coverage == pytest.approx(0.9, abs=0.02)
    assert ratio == pytest.approx(error / predicted) == pytest.approx(1, abs=0.05)
    series = report.uncertainty[0].series[0]
    assert np.corrcoef(series.x, series.y)[0, 1] > 0.95
    titles = [p.title for p in report.examples[0].strips[2].pictures]
    assert titles == ["one: predicted deviation", "one: absolute error"]
    assert [chart.title[:9] for chart in report.uncertainty] == ["Error in ", "Sparsific"]


def test_an_uncertainty_set_of_unequal_shapes_is_left_out_and_named(tmp_path):
    images(tmp_path, ("u.tif",))
    image = volume(tmp_path / "target/u.tif")[0, 0, 0].astype(np.float32)
    for part, shown in {
        "mean": image + 3,
        "std": image[:9],
        "lower": image,
        "upper": image,
    }.items():
        write(tmp_path / f"m0/u_{part}.tif", shown)
    made = comparison(tmp_path, (), ("one",), inputs=None)
    paths = (tmp_path / "m0/u_mean.tif", tmp_path / "target/u.tif")
    score = FileScore("one", "u.tif", {"rmse": 3.0}, *paths)
    report = evaluate_report.report(replace(made, scores=(score,)))
    (line,) = dict(report.notes)["Warnings"]
    assert line.startswith("one: u.tif: its uncertainty is not shown: ")
    assert "u_std.tif: has shape" in line
    assert len(report.examples[0].strips) == 2
    assert (report.spread, report.uncertainty) == (None, ())


def test_means_of_samples_are_shown_as_means(tmp_path):
    images(tmp_path, ("x.tif",))
    made = comparison(tmp_path, ("x.tif",), ("mean of 1", "mean of 2"))
    found = predicted(made.scores[1], made).pixels
    samples = [volume(tmp_path / f"m{i}/x.tif") for i in range(2)]
    np.testing.assert_array_equal(found, sum(samples) / 2)
    report = evaluate_report.report(made)
    assert [chart.x_label for chart in report.curves] == ["samples N"] * 2
    assert report.curves[0].series[0].x.tolist() == [1, 2]


def test_depths_and_distances_of_sets_become_charts_and_a_table(root):
    made = comparison(root)
    deep = tuple(replace(s, depths=({"rmse": 1.0}, {"rmse": 3.0})) for s in made.scores)
    sets = {METHODS[0]: {"fid": 12.0}, METHODS[1]: {"fid": 15.0}}
    more = {"scores": deep, "sets": sets, "set_depths": {METHODS[0]: {"fid": (12.0, 14.0)}}}
    report = evaluate_report.report(comparison(root, **more))
    assert [chart.title.split(",")[0] for chart in report.curves] == [
        "rmse by depth",
        "fid by depth",
    ]
    assert report.curves[0].series[0].y.tolist() == [1, 3]
    (row,) = report.sets.rows
    assert [cell.best for cell in row[2]] == [True, False]


def test_without_targets_there_is_nothing_to_compare_but_the_sets(root, tmp_path):
    alone = tuple(replace(s, target=s.prediction, values={}) for s in comparison(root).scores)
    made = comparison(root, scores=alone, metrics=(), better={}, sets={METHODS[0]: {"fid": 2.0}})
    assert examples.choose(made) == ("", [])
    evaluate_report.write(str(tmp_path / "r.html"), made)
    shown = "".join(read(tmp_path / "r.html").texts)
    assert "Scores of whole sets" in shown
    assert "Examples" not in shown


def test_a_file_that_is_gone_is_an_error_and_leaves_no_report(root, tmp_path):
    made = comparison(root)
    gone = replace(made.scores[0], target=tmp_path / "gone.tif")
    with pytest.raises(InputError, match=r"gone\.tif"):
        evaluate_report.write(str(tmp_path / "r.html"), comparison(root, scores=(gone,)))
    with pytest.raises(OutputError):
        evaluate_report.write(str(tmp_path / "no/r.html"), made)
    assert list(tmp_path.iterdir()) == []


def test_colours_of_differences_and_greys():
    found = np.asarray(Image.open(io.BytesIO(difference(np.array([[-2.0, -1, 0, 0.5, 9]]), 1))))
    assert found[0, [0, 1, 2, 4]].tolist() == [list(BLUE), list(BLUE), [255] * 3, list(RED)]
    assert found[0, 3].tolist() == [round(255 + 0.5 * (c - 255)) for c in RED]
    shown = np.asarray(Image.open(io.BytesIO(grey(np.array([[0.0, 10, 20, 30]]), (10, 20)))))
    assert shown.tolist() == [[0, 0, 255, 255]]
    for draw in (lambda x: difference(x, 0.0), lambda x: heat(x, 0.0), lambda x: grey(x, (1, 1))):
        assert np.asarray(Image.open(io.BytesIO(draw(np.ones((2, 3)))))).shape[:2] == (2, 3)


def test_names_of_methods_and_files_are_shown_and_not_run(root, tmp_path):
    evil = '<script>alert(1)</script> & "it\'s"'
    made = comparison(root, methods=(evil, METHODS[1]), missing=(f"{evil}: gone",))
    sets = {evil: {"fid": 2.0}}
    scores = tuple(replace(s, name=s.name.replace("plain", evil)) for s in made.scores)
    made = replace(made, scores=scores, sets=sets, inputs=None)
    evaluate_report.write(str(tmp_path / "r.html"), made)
    reader = read(tmp_path / "r.html")
    assert sum(tag == "script" for tag, _ in reader.tags) == 2
    assert f"Evaluation of {evil} and {METHODS[1]}" in reader.texts
    for shown in (evil, f"{evil}: gone", f"{evil}.tif"):
        assert any(shown in text for text in reader.texts)
    assert any(evil in picture["alt"] for picture in reader.pictures)


def test_data_cannot_end_their_element_and_undecodable_names_are_written(tmp_path):
    data = {"name": "</script><!-- & ' \"", "<": 1}
    write_page(str(tmp_path / "s.html"), "study.html", data=data, words=WORDINGS["general"])
    page = (tmp_path / "s.html").read_text("utf-8")
    held = page.split('id="data">')[1].split("</script>")[0]
    assert json.loads(held) == data
    assert not set("<>&") & set(held)
    drawn = DRAW.lines(Chart("bad \udcff", "x", "y", ()))
    assert drawn.encode("utf-8", "replace") == b'<p class="none">bad ?: nothing to draw.</p>\n'


def test_notes_name_fields_in_plain_words(root):
    report = evaluate_report.report(comparison(root, warnings=("x.tif: use `axes` ZYX",)))
    page = TEMPLATES.get_template("report.html").render(report=report, data=None)
    assert "x.tif: use axes ZYX" in page


def test_numbers():
    shown = [number(v) for v in (3.14159, 24.0, -0.5, 1e-5, 2.5e7, float("inf"), float("nan"), 0)]
    assert shown == ["3.142", "24", "−0.5000", "1.00e−5", "2.50e7", "∞", "–", "0"]


def test_charts_leave_out_what_cannot_be_drawn():
    x = np.arange(4.0)
    series = Series("<s>", "m0", x, np.array([1, np.nan, np.inf, 4]))
    drawn = DRAW.lines(Chart("t", "x", "y", (series,)))
    assert drawn.count(",") >= 2
    assert "nan" not in drawn.lower()
    assert "inf" not in drawn.lower()
    assert "&lt;s&gt;" in drawn
    empty = Series("e", "m1", x, np.full(4, -1.0))
    assert "nothing to draw" in DRAW.lines(Chart("t", "x", "y", (empty,), log=True))
    values = np.array([1.0, np.inf, 2.0])
    found = DRAW.boxes("l", "c", [Group("g", "m0", values, ("a", "b", "c"))])
    assert "1 values that are not finite" in found
    assert "no finite value" in DRAW.boxes("l", "c", [Group("g", "m0", values[1:2], ("b",))])
    same = DRAW.boxes("l", "c", [Group("g", "m0", np.full(3, 2.0), ("a", "b", "c"))])
    assert "nan" not in same.lower()


def test_ticks_of_a_logarithmic_axis_are_short():
    x = np.arange(4.0)
    chart = Chart("t", "x", "y", (Series("s", "m0", x, 0.0003 + x * 1e-5),), log=True)
    ticks = draw_lines(chart).y_ticks
    assert len(ticks) >= 2
    assert all(len(tick.label) <= 8 for tick in ticks)


def test_long_names_keep_their_beginning():
    names = ["restored with the sampler of 10 steps", "x" * 60, "short"]
    groups = [Group(name, "m0", np.arange(3.0), ("a", "b", "c")) for name in names]
    labels = [row.label for row in draw_boxes(groups).rows]
    assert labels == [
        ["restored with the", "sampler of 10 steps"],
        ["x" * 20, "x" * 19 + "…"],
        ["short"],
    ]
