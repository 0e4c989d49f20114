"""Plain values into dataclasses: what is taken, and the one line that says what is not."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from restorectl.errors import UsageError, WeightsError
from restorectl.files.strict import LARGEST, build, parse_json, read_text, read_yaml


@dataclass(frozen=True)
class Inner:
    choice: Literal["a", "b", "c"] = "a"
    pair: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Outer:
    name: str
    count: int | None = None
    sizes: tuple[int, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    free: Mapping[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    several: tuple[Inner, ...] = ()


def test_what_fits_is_taken():
    raw = {
        "name": "x",
        "count": None,
        "sizes": 3,
        "scores": {0.5: "1e-4"},  # YAML reads such a key as a number, such a number as text
        "free": {"a": [1, None]},
        "inner": {"choice": "b", "pair": [1, 2]},
        "several": [{}, {"choice": "c"}],
    }
    inner = Inner("b", (1.0, 2.0))
    expected = Outer("x", None, (3,), {"0.5": 1e-4}, {"a": [1, None]}, inner, (Inner(), Inner("c")))
    assert build(Outer, raw, "here") == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nome": "y"}, "unknown key 'nome'; did you mean 'name'?"),
        ({"inner": {"pear": 1}}, "unknown key 'inner.pear'; did you mean 'inner.pair'?"),
        ({"a\nb": 1}, r"unknown key 'a\nb'"),
        ({"name": None}, "wrong type: 'name' must be text, not None"),
        ({"count": True}, "wrong type: 'count' must be a int, not True"),
        ({"count": "1"}, "wrong type: 'count' must be a int, not '1'"),
        ({"sizes": [1, 2.0]}, "wrong type: 'sizes' must be a int, not 2.0"),
        ({"scores": [1]}, "wrong type: 'scores' must be a mapping, not [1]"),
        ({"scores": {"psnr": "high"}}, "not a number: 'scores.psnr' must be a float, not 'high'"),
        *(
            ({"scores": {"psnr": value}}, "not a number: 'scores.psnr'")
            for value in (True, None, float("nan"), float("inf"), 10**400)
        ),
        ({"inner": 3}, "wrong type: 'inner' must be a mapping, not 3"),
        ({"inner": {"choice": "d"}}, "'inner.choice' must be a, b or c, not 'd'"),
        ({"inner": {"choice": ["a"]}}, "'inner.choice' must be a, b or c, not ['a']"),
        ({"inner": {"pair": [1]}}, "'inner.pair' must be a list of 2, not [1]"),
        ({"inner": {"pair": 1}}, "'inner.pair' must be a list of 2, not 1"),
        ({"several": {"choice": "a"}}, "'several' must be a list, not {'choice': 'a'}"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named_in_one_line(change, message):
    with pytest.raises(WeightsError) as caught:
        build(Outer, {"name": "x", **change}, "file.yaml", WeightsError)
    assert str(caught.value).startswith("file.yaml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_missing_key_and_something_else_than_keys():
    with pytest.raises(UsageError, match=r"^here: the key 'name' is missing$"):
        build(Outer, {}, "here")
    with pytest.raises(UsageError, match=r"^here: wrong type: must be a mapping, not \[\]$"):
        build(Outer, [], "here")


def test_json_that_is_too_deep_is_no_value():
    with pytest.raises(ValueError, match="too deep"):
        parse_json('{"a":' * 200_000)
    assert parse_json('{"a": [1]}') == {"a": [1]}


def test_texts_come_from_small_regular_files(tmp_path):
    (tmp_path / "a").write_text("µ", "utf-8")
    assert read_text(tmp_path / "a", "x", UsageError) == "µ"
    os.truncate(tmp_path / "a", LARGEST + 1)
    for name, words in (("a", "larger than 10 MB"), ("b", "no such file"), (".", "directory")):
        with pytest.raises(WeightsError, match=f"x: .*{words}"):
            read_text(tmp_path / name, "x", WeightsError)


def test_a_value_without_end_is_named_shortly(tmp_path):
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 40)]
    (tmp_path / "a.yaml").write_text("\n".join(lines) + "\nname: *a39\n")
    with pytest.raises(UsageError) as caught:
        build(Outer, {"name": read_yaml(tmp_path / "a.yaml", "x", UsageError)["name"]}, "x")
    assert len(str(caught.value)) < 200
