import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from restorectl.files.provenance import REVISION, dumps, file_sha256, matches, record


def made(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "command": "restore",
        "parameters": {"steps": 3, "spacing": (1.0, None)},
        "weights": "prior",
        "weights_sha256": "ab" * 32,
        "input_sha256": "cd" * 32,
    }
    return record(**(given | changes))


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"pixels" * 100_000)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"pixels" * 100_000).hexdigest()


def test_equal_records_are_equal_bytes() -> None:
    assert dumps(made(parameters={"a": 1, "b": 2})) == dumps(made(parameters={"b": 2, "a": 1}))
    assert dumps(made()).isascii()


def test_a_record_matches_what_would_be_made_again() -> None:
    assert matches(made(), made())
    assert matches(made() | {"version": "0.0.0", "revision": 0}, made())
    assert not matches(None, made())
    assert not matches({}, made())
    for change in (
        {"command": "denoise"},
        {"parameters": {"steps": 4}},
        {"weights_sha256": "00"},
        {"input_sha256": "00"},
    ):
        assert not matches(made(), made(**change))


def test_only_what_json_can_hold() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        made(parameters={"noise": float("nan")})


def test_every_entry_that_changes_output_raised_the_revision() -> None:
    """Merged or moved entries keep their marks: a revision is never lowered."""
    text = (Path(__file__).parents[2] / "CHANGELOG.md").read_text("utf-8")
    marked = [
        entry
        for entry in re.split(r"\n(?=- |\n|#)", text)
        if entry.startswith("- ") and entry.split()[-2:] == ["**(changes", "output)**."]
    ]
    assert len(marked) == REVISION, "set REVISION to the number of entries that change output"
    assert made()["revision"] == REVISION
