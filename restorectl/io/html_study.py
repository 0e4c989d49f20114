"""A blind preference study as one HTML page: input, two restorations, two questions (000, D.6).

The page holds every picture under a name that says nothing, and which method made which one only
as base64 text that travels with the exported answers.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from restorectl import __version__
from restorectl.io.html_page import page, template
from restorectl.io.panels import data_uri

KIND = "preference-answers"
SIDES = ("A", "B")
FLAGS = ("neither", "A", "B", "both")


@dataclass(frozen=True)
class Task:
    """One question: PNG pictures of the input and of two restorations, and what they are."""

    file: str
    methods: tuple[str, str]  # of A and B
    input: bytes
    pictures: tuple[bytes, bytes]
    note: str  # what a rater is told about the picture, such as its plane


def render(tasks: Sequence[Task], notes: Sequence[str]) -> str:
    """The document; equal tasks give equal text."""
    key = [{"file": task.file, **dict(zip(SIDES, task.methods, strict=True))} for task in tasks]
    pictures: dict[str, str] = {}

    def named(png: bytes) -> str:
        name = hashlib.sha256(png).hexdigest()[:16]
        pictures[name] = data_uri(png)
        return name

    shown = [
        {
            "input": named(task.input),
            "A": named(task.pictures[0]),
            "B": named(task.pictures[1]),
            "note": task.note,
        }
        for task in tasks
    ]
    hidden = base64.b64encode(json.dumps(key, sort_keys=True).encode()).decode("ascii")
    study = hashlib.sha256(json.dumps([hidden, shown], sort_keys=True).encode()).hexdigest()[:16]
    data = {
        "tool": "restorectl",
        "version": __version__,
        "kind": KIND,
        "study": study,
        "key": hidden,
        "tasks": shown,
        "pictures": pictures,
        "notes": list(notes),
    }
    body = template("study.html")
    return page("Blind preference study", body, styles=("study.css",), script="study.js", data=data)


def read_key(hidden: str) -> list[dict[str, str]]:
    """What the pictures of each task were: file, A, B. Raises ValueError for anything else."""
    try:
        key = json.loads(base64.b64decode(hidden, validate=True))
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, list) or not all(map(_is_entry, key)):
        raise ValueError("no list of tasks")
    return key


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"file", *SIDES}:
        return False
    return all(isinstance(value, str) for value in entry.values())
