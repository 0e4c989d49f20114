"""The blind preference study: what the page holds and hides, and what the answers add up to."""

import base64
import json
import shutil
from itertools import combinations

import numpy as np
import pytest

from restorectl.errors import NoInputError, UsageError
from restorectl.evaluation.study import StudyPlan, results, study
from tests.pages import images, write

NAMES = ("a/one.tif", "two.tif", "three.tif")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    images(folder, NAMES)
    shutil.copytree(folder / "m1", folder / "m2")
    return folder


def page(root, tmp_path, seed=0, methods=("m0", "m1", "m2"), name="s.html", axes=None):
    path = tmp_path / name
    study(str(path), [str(root / m) for m in methods], str(root / "input"), seed, axes)
    text = path.read_text("utf-8")
    data = text.split('id="data">')[1].split("</script>")[0]
    return text, json.loads(data)


def key_of(data):
    return json.loads(base64.b64decode(data["key"]))


def test_every_pair_of_methods_is_asked_about_every_image(root, tmp_path):
    _, data = page(root, tmp_path)
    key = key_of(data)
    asked = sorted((entry["file"], *sorted((entry["A"], entry["B"]))) for entry in key)
    stems = [name.removesuffix(".tif") for name in NAMES]
    assert asked == sorted((s, *p) for s in stems for p in combinations(("m0", "m1", "m2"), 2))
    assert len(data["tasks"]) == len(key) == 9
    for task, entry in zip(data["tasks"], key, strict=True):
        assert {task["input"], task["A"], task["B"]} <= data["pictures"].keys()
        # m2 is a copy of m1, so their pictures are one
        assert (task["A"] == task["B"]) == ({entry["A"], entry["B"]} == {"m1", "m2"})


def test_the_page_does_not_say_which_method_made_what(root, tmp_path):
    text, data = page(root, tmp_path)
    plain = text.replace(data["key"], "")
    for word in ("m0", "m1", "m2", "three", str(root)):
        assert f'"{word}' not in plain
        assert f">{word}" not in plain
    assert str(root) not in text


def test_order_and_sides_follow_from_the_seed(root, tmp_path):
    first, one = page(root, tmp_path, 1)
    again, _ = page(root, tmp_path, 1, name="t.html")
    _, turned = page(root, tmp_path, 1, ("m2", "m1", "m0"), name="u.html")
    _, other = page(root, tmp_path, 2, name="v.html")
    assert first == again
    assert key_of(turned) == key_of(one)
    assert key_of(other) != key_of(one)
    many = [entry for s in range(12) for entry in key_of(page(root, tmp_path, s)[1])]
    assert 0.3 < np.mean([entry["A"] < entry["B"] for entry in many]) < 0.7


def test_what_cannot_be_compared_is_named_and_the_rest_is_asked(root, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    (copy / "m0/two.tif").write_text("no image")
    (copy / "m1/three.tif").unlink()
    (copy / "m2/three.tif").unlink()
    write(copy / "m1/a/one.tif", np.zeros((4, 4), np.uint8))
    write(copy / "input/<b>.tif", np.zeros((4, 4), np.uint8))
    with pytest.raises(NoInputError, match="two folders"):
        page(copy, tmp_path, methods=("m0", "m1"))
    shutil.copy(root / "m1/a/one.tif", copy / "m1/a/one.tif")
    _, data = page(copy, tmp_path, methods=("m0", "m1"))
    assert [entry["file"] for entry in key_of(data)] == ["a/one"]
    assert len(data["notes"]) == 3
    assert not list(tmp_path.glob("*.part"))


def test_axes_that_are_not_recorded_are_asked_for_in_plain_words(root, tmp_path):
    copy = tmp_path / "copy"
    for folder in ("input", "m0", "m1"):  # a stack in depth or in time
        (copy / folder).mkdir(parents=True)
        shutil.copy(root / folder / "three.tif", copy / folder)
        write(copy / folder / "two.tif", np.zeros((5, 8, 8), np.uint8), metadata=None)
    _, data = page(copy, tmp_path, methods=("m0", "m1"))
    (note,) = data["notes"]
    assert "use axes ZYX" in note
    assert "`" not in note
    (copy / "input/three.tif").unlink()
    _, data = page(copy, tmp_path, methods=("m0", "m1"), axes="ZYX")
    assert [task["note"] for task in data["tasks"]] == ["plane z 3 of 5"]
    assert data["notes"] == []


def test_uncertainty_sets_stand_for_their_means(root, tmp_path):
    shutil.copytree(root / "m0", tmp_path / "sets")
    for name in NAMES:
        path = tmp_path / "sets" / name
        for part in ("std", "lower", "upper"):
            shutil.copy(path, path.with_name(f"{path.stem}_{part}.tif"))
        path.rename(path.with_name(f"{path.stem}_mean.tif"))
    study(
        str(tmp_path / "s.html"),
        [str(tmp_path / "sets"), str(root / "m1")],
        str(root / "input"),
        0,
    )
    text = (tmp_path / "s.html").read_text("utf-8")
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert len(data["tasks"]) == 3
    assert data["notes"] == []


def test_methods_of_very_different_scale_are_shown_in_their_own_range(root, tmp_path):
    from restorectl.evaluation.read import volume

    for name in NAMES:
        image = volume(root / "m1" / name)[0, 0, 0]
        write(tmp_path / "unit" / name, (image / image.max()).astype(np.float32))
    study(
        str(tmp_path / "s.html"), [str(tmp_path / "unit"), str(root / "m0")], str(root / "input"), 0
    )
    assert "each picture in its own range" in (tmp_path / "s.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("methods", "words"),
    [(("m0",), "at least two"), (("m0", "none"), "not a folder"), (("m0", "m0"), "twice")],
)
def test_invalid_arguments_are_refused(root, tmp_path, methods, words):
    with pytest.raises(UsageError, match=words):
        page(root, tmp_path, methods=methods)


KEY = [{"file": f"f{i}", "A": "ours", "B": "theirs"} for i in range(6)] + [
    {"file": f"f{i}", "A": "theirs", "B": "ours"} for i in range(6, 10)
]


def answers(path, rater, better, flags, study_id="s", key=KEY):
    content = {
        "tool": "restorectl",
        "version": "0",
        "kind": "preference-answers",
        "study": study_id,
        "rater": rater,
        "tasks": len(key),
        "key": base64.b64encode(json.dumps(key).encode()).decode(),
        "answers": {
            str(i): {"better": b, "hallucination": f}
            for i, (b, f) in enumerate(zip(better, flags, strict=True))
        },
    }
    path.write_text(json.dumps(content), "utf-8")
    return str(path)


def test_shares_rates_and_agreement_by_hand(tmp_path):
    """Ann prefers ours 8 times of 10, Bob 4 times of 6; they agree on 5 of 6, kappa 4/7."""
    none = ["neither"] * 10
    ann = answers(tmp_path / "ann.json", "Ann", "AAAAAB" + "BBBA", [*none[:8], "A", "both"])
    bob = answers(tmp_path / "bob.json", "Bob", "AAAABB", [*none[:5], "B"])
    found = results([bob, ann])
    assert found["raters"] == [{"name": "Bob", "answers": 6}, {"name": "Ann", "answers": 10}]
    ours, theirs = found["methods"]["ours"], found["methods"]["theirs"]
    assert (ours["preferred"], ours["comparisons"], ours["share"]) == (12, 16, 0.75)
    assert (theirs["preferred"], theirs["share"]) == (4, 0.25)
    # flagged: task 8 shows theirs as A, task 9 both; Bob's B of task 5 is theirs
    assert (ours["hallucinated"], theirs["hallucinated"]) == (1, 3)
    assert ours["hallucination_rate"] == 1 / 16
    assert ours["interval"][0] < 0.75 < ours["interval"][1]
    (pair,) = found["pairs"]
    assert (pair["methods"], pair["preferred"]) == (["ours", "theirs"], 12)
    better, flags = found["agreement"]["better"], found["agreement"]["hallucination"]
    assert better["percent"] == pytest.approx(5 / 6)
    # A is 5/6 of Ann's and 4/6 of Bob's: by chance 20/36 + 2/36
    assert better["kappa"] == pytest.approx((30 / 36 - 22 / 36) / (1 - 22 / 36))
    assert flags["percent"] == pytest.approx(5 / 6)
    assert flags["pairs"][0]["kappa"] == pytest.approx(0)
    assert found["failures"] == []
    json.dumps(found, allow_nan=False)


def test_one_rater_has_nobody_to_agree_with(tmp_path):
    found = results([answers(tmp_path / "a.json", "Ann", "AB", ["neither"] * 2)])
    assert found["agreement"]["better"] == {"pairs": [], "percent": None, "kappa": None}


def test_files_that_are_no_answers_are_named_and_the_rest_is_read(tmp_path):
    good = answers(tmp_path / "a.json", "Ann", "AB", ["neither"] * 2)
    bad = []
    for i, text in enumerate(
        ("", "[]", "{}", '{"kind": "preference-answers"}', "\x00", json.dumps({"kind": "other"}))
    ):
        (tmp_path / f"{i}.json").write_text(text)
        bad.append(str(tmp_path / f"{i}.json"))
    for i, change in enumerate(
        ({"key": "%%"}, {"key": "bm8="}, {"answers": {"99": {"better": "A", "hallucination": "A"}}})
    ):
        content = json.loads((tmp_path / "a.json").read_text()) | change
        (tmp_path / f"x{i}.json").write_text(json.dumps(content))
        bad.append(str(tmp_path / f"x{i}.json"))
    bad.append(str(tmp_path / "gone.json"))
    found = results([*bad, good])
    assert len(found["failures"]) == len(bad)
    assert all("\n" not in line for line in found["failures"])
    assert found["raters"] == [{"name": "Ann", "answers": 2}]
    with pytest.raises(NoInputError):
        results(bad)


def test_different_studies_and_a_rater_twice_are_refused(tmp_path):
    one = answers(tmp_path / "1.json", "Ann", "A", ["neither"])
    two = answers(tmp_path / "2.json", "Bob", "A", ["neither"], "other")
    three = answers(tmp_path / "3.json", "Ann", "B", ["neither"])
    with pytest.raises(UsageError, match="different studies"):
        results([one, two])
    with pytest.raises(UsageError, match="Ann"):
        results([one, three])


def test_a_rater_may_prefer_neither(tmp_path):
    better = ["A"] * 3 + ["none"] * 4 + ["B"] * 3  # ours wins 3, 4 undecided, ours wins 3 as B
    path = answers(tmp_path / "a.json", "anna", better, ["neither"] * 10)
    found = results([str(path)])
    ours, theirs = found["methods"]["ours"], found["methods"]["theirs"]
    assert (ours["comparisons"], ours["preferred"], ours["undecided"]) == (10, 6, 4)
    assert (ours["share"], theirs["share"]) == (1.0, 0.0)
    (pair,) = found["pairs"]
    assert (pair["preferred"], pair["undecided"], pair["share"]) == (6, 4, 1.0)
    nobody = answers(tmp_path / "b.json", "ben", ["none"] * 10, ["neither"] * 10)
    found = results([str(nobody)])
    assert found["methods"]["ours"]["share"] is found["pairs"][0]["interval"] is None


def test_the_words_of_the_page_can_be_chosen(root, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("hallucination: Which one invents <nuclei>?\n")
    folders = [str(root / m) for m in ("m0", "m1")]
    pages = {}
    for wording in ("general", "clinical", str(own)):
        path = tmp_path / "s.html"
        study(str(path), folders, str(root / "input"), 0, pattern="t*", wording=wording)
        pages[wording] = path.read_text("utf-8")
        assert pages[wording].count("A</span>") == 2
    assert "clinical" not in pages["general"]
    assert "clinically significant hallucination" in pages["clinical"]
    assert "invents &lt;nuclei&gt;?" in pages[str(own)]
    data = [json.loads(p.split('id="data">')[1].split("</script>")[0]) for p in pages.values()]
    assert len({each["study"] for each in data}) == 3  # answers to other questions are no others
    assert [len(each["tasks"]) for each in data] == [2, 2, 2]  # of the files named t*
    own.write_text("halucination: x\n")
    with pytest.raises(UsageError, match="did you mean 'hallucination'"):
        study(str(tmp_path / "s.html"), folders, str(root / "input"), 0, wording=str(own))
    with pytest.raises(UsageError, match="did you mean 'clinical'"):
        study(str(tmp_path / "s.html"), folders, str(root / "input"), 0, wording="clinicl")


def test_a_pivot_a_number_of_tasks_and_raters_of_each(root, tmp_path):
    folders = [str(root / m) for m in ("m0", "m1", "m2")]
    plan = StudyPlan(pivot="m0", tasks=4, raters=3, each=2)
    study(str(tmp_path / "s.html"), folders, str(root / "input"), 0, plan=plan)
    pages = []
    for rater in (1, 2, 3):
        text = (tmp_path / f"s_{rater}.html").read_text("utf-8")
        pages.append(json.loads(text.split('id="data">')[1].split("</script>")[0]))
    key = key_of(pages[0])
    assert len(key) == 4
    assert all("m0" in (entry["A"], entry["B"]) for entry in key)
    assert len({(data["study"], data["key"]) for data in pages}) == 1  # one study
    asked = sorted(number for data in pages for number in data["numbers"])
    assert asked == [0, 0, 1, 1, 2, 2, 3, 3]
    for data in pages:
        assert len(set(data["numbers"])) == len(data["tasks"]) == len(data["numbers"])
        assert {task[part] for task in data["tasks"] for part in ("input", "A", "B")} == set(
            data["pictures"]
        )


@pytest.mark.parametrize(
    ("plan", "words"),
    [({"pivot": "x"}, "`pivot` x"), ({"each": 2}, "`raters_per_task` 2"), ({"tasks": 0}, "tasks")],
)
def test_plans_that_cannot_be_are_refused(plan, words):
    with pytest.raises(UsageError, match=words):
        StudyPlan(**plan).check(["a", "b"])
