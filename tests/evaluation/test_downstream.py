"""Downstream checks: objects that are there are counted, and a classifier is asked, if trusted."""

import sys

import numpy as np
import pytest
import torch

from restorectl.errors import UsageError, WeightsError
from restorectl.evaluation.downstream import confusion, segment
from tests.pages import comparison, write

PLACES = ((12, 12), (12, 40), (40, 14), (45, 50), (25, 27))
NAMES = ("a.tif", "b.tif")


def discs(places, radius=6, size=64, height=100):
    y, x = np.mgrid[:size, :size]
    image = np.full((size, size), 10.0)
    for row, col in places:
        image[(y - row) ** 2 + (x - col) ** 2 <= radius**2] += height
    return image


def disc_folders(root):
    """target: five discs; input: two have merged; m0: as the target; m1: one is gone."""
    merged = np.maximum(discs(PLACES), discs(((25, 20), (18, 20))))
    for name in NAMES:
        for folder, image in {
            "target": discs(PLACES),
            "input": merged,
            "m0": 3 * discs(PLACES) + 5,
            "m1": discs(PLACES[1:]),
        }.items():
            write(root / folder / name, image.astype(np.float32))


def test_objects_are_counted_and_matched(tmp_path):
    pytest.importorskip("skimage")
    disc_folders(tmp_path)
    found = segment(comparison(tmp_path, NAMES, ("kept", "lost")))
    kept, lost = found["methods"]["kept"], found["methods"]["lost"]
    assert kept["target"]["objects"] == kept["prediction"]["objects"] == 10
    assert kept["prediction"]["f1"] == kept["prediction"]["iou"] == 1
    assert (lost["prediction"]["objects"], lost["prediction"]["matched"]) == (8, 8)
    assert (lost["prediction"]["precision"], lost["prediction"]["recall"]) == (1, 0.8)
    assert lost["prediction"]["f1"] == pytest.approx(16 / 18)
    assert kept["input"]["objects"] < 10
    disc = (discs(PLACES[:1]) > 10).sum()
    assert kept["target"]["median_area"] == pytest.approx(disc, rel=0.1)
    assert [f["name"] for f in found["files"] if f["method"] == "kept"] == list(NAMES)
    assert found["failures"] == []


def test_stacks_are_counted_through_depth_and_bad_files_are_named(tmp_path):
    pytest.importorskip("skimage")
    flat = np.full((3, 64, 64), 10.0)
    deep = flat.copy()
    deep[1], deep[2] = discs(PLACES), discs(PLACES[:2])
    for folder in ("target", "m0"):
        write(
            tmp_path / folder / "z.tif",
            deep.astype(np.float32),
            photometric="minisblack",
            metadata={"axes": "ZYX"},
        )
        write(tmp_path / folder / "flat.tif", flat[0].astype(np.float32))
    names = ("z.tif", "flat.tif")
    found = segment(comparison(tmp_path, names, ("one",), inputs=None))
    assert [f["prediction"]["objects"] for f in found["files"]] == [5, 0]
    assert [f["input"] for f in found["files"]] == [None, None]
    assert found["files"][1]["prediction"]["f1"] is None
    (tmp_path / "input").mkdir()
    (tmp_path / "input/z.tif").write_text("no image")
    found = segment(comparison(tmp_path, names, ("one",)))
    assert len(found["failures"]) == 1
    assert [f["name"] for f in found["files"]] == ["flat.tif"]


def test_without_scikit_image_the_error_says_how_to_get_it(tmp_path, monkeypatch):
    disc_folders(tmp_path)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UsageError, match=r"restorectl\[evaluate\]"):
        segment(comparison(tmp_path, NAMES))


class Brightness(torch.nn.Module):
    """Three classes: dark, bright, and undecided where the image is noisy."""

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        rough = (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3))
        return torch.stack([1 - mean, mean, 20 * rough], dim=1)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "brightness.pt2"
    free = torch.export.Dim.AUTO
    sizes = ({2: free, 3: free},)
    made = torch.export.export(Brightness(), (torch.zeros(1, 1, 8, 10),), dynamic_shapes=sizes)
    torch.export.save(made, path)
    return str(path)


def bright_folders(root):
    """Two dark and two bright images; the input noisy, m0 clean, m1 all bright."""
    rng = np.random.default_rng(0)
    levels = {"d1.tif": 200, "sub/d2.tif": 250, "b1.tif": 700, "b2.tif": 800}
    for name, level in levels.items():
        clean = np.full((32, 40), level, np.uint16)
        write(root / "target" / name, clean)
        noisy = clean + rng.integers(-150, 150, clean.shape)
        write(root / "input" / name, (noisy if name != "b2.tif" else clean).astype(np.uint16))
        write(root / "m0" / name, clean)
        write(root / "m1" / name, np.full_like(clean, 900))
    (root / "labels.csv").write_text("name,label\nd1,dark\nsub/d2.tif,dark\nb1,bright\nb2,bright\n")
    return tuple(levels)


def test_confusion_before_and_after(tmp_path, program):
    names = bright_folders(tmp_path)
    made = comparison(tmp_path, names, ("clean", "all bright"))
    labels = str(tmp_path / "labels.csv")
    found = confusion(program, made, labels, True, classes=("dark", "bright", "noisy"))
    assert found["classes"] == ["dark", "bright", "noisy"]
    assert found["labels"] == ["bright", "dark"]
    clean, bright = found["methods"]["clean"], found["methods"]["all bright"]
    assert clean["files"] == 4
    assert clean["before"]["confusion"] == [[0, 1, 1], [0, 0, 2]]
    assert clean["after"]["confusion"] == clean["target"]["confusion"] == [[0, 2, 0], [2, 0, 0]]
    assert (clean["before"]["correct"], clean["before"]["undecided"]) == (1, 3)
    assert (clean["after"]["correct"], bright["after"]["wrong"]) == (4, 2)
    # from correct, wrong, undecided before to the same after
    assert clean["changes"] == [[1, 0, 0], [0, 0, 0], [3, 0, 0]]
    assert bright["changes"] == [[1, 0, 0], [0, 0, 0], [1, 2, 0]]
    assert found["files"][0]["label"] == "dark"
    assert found["failures"] == []


def test_classes_are_the_sorted_labels_and_others(tmp_path, program):
    names = bright_folders(tmp_path)
    made = comparison(tmp_path, names, ("clean", "x"))
    found = confusion(program, made, str(tmp_path / "labels.csv"), True)
    assert found["classes"] == ["bright", "dark", "other 1"]
    assert found["methods"]["clean"]["after"]["wrong"] == 4  # the program's order is another


def test_files_without_label_input_or_sense_are_named(tmp_path, program):
    names = bright_folders(tmp_path)
    (tmp_path / "input/b1.tif").unlink()
    (tmp_path / "input/b2.tif").write_text("no image")
    (tmp_path / "labels.csv").write_text("d1.tif,dark\nb1,bright\nb2,bright\n")
    found = confusion(
        program, comparison(tmp_path, names, ("m",)), str(tmp_path / "labels.csv"), True
    )
    assert [f["name"] for f in found["files"]] == ["d1.tif"]
    assert len(found["failures"]) == 3
    rgb = np.zeros((8, 9, 3), np.uint8)
    for folder in ("input", "m0", "target"):
        write(tmp_path / folder / "d1.tif", rgb, photometric="rgb")
    made = comparison(tmp_path, ("d1.tif",), ("m",))
    found = confusion(program, made, str(tmp_path / "labels.csv"), True)
    assert found["methods"]["m"]["files"] == 0
    assert "refuses an image of 1x3x8x9" in found["failures"][0]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"trusted": False}, "`trust`"),
        ({"inputs": None}, "`input`"),
        ({"text": "a,b,c\nd1,"}, "not name,label"),
        ({"text": "name,label\n"}, "has no line"),
        ({"text": "d1,dark\nd1,bright\n"}, "two labels"),
        ({"text": None}, "cannot be read"),
        ({"classes": ("dark",)}, "'bright' is not one"),
    ],
)
def test_invalid_arguments_are_refused(tmp_path, program, more, words):
    names = bright_folders(tmp_path)
    if "text" in more:
        (tmp_path / "labels.csv").unlink()
        if more["text"] is not None:
            (tmp_path / "labels.csv").write_text(more["text"])
    change = {"inputs": more["inputs"]} if "inputs" in more else {}
    made = comparison(tmp_path, names, ("m",), **change)
    labels = str(tmp_path / "labels.csv")
    with pytest.raises(UsageError, match=words):
        confusion(program, made, labels, more.get("trusted", True), more.get("classes", ()))


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_program_is_one_line(tmp_path, content):
    names = bright_folders(tmp_path)
    (tmp_path / "bad.pt2").write_bytes(content)
    made = comparison(tmp_path, names, ("m",))
    with pytest.raises(WeightsError, match=r"bad\.pt2: cannot be loaded") as caught:
        confusion(str(tmp_path / "bad.pt2"), made, str(tmp_path / "labels.csv"), True)
    assert "\n" not in str(caught.value)
