"""`restorectl docs` shows every page in 80 columns, and loses no text."""

import re

import pytest
from typer.testing import CliRunner

from restorectl.cli import pages
from restorectl.cli.app import app
from tests.command import run
from tests.documents import DOCS

TOPICS = sorted(path.stem for path in DOCS.glob("*.md"))


def shown(*words):
    done = CliRunner().invoke(app, ["docs", *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_without_a_topic_all_are_listed():
    lines = shown().splitlines()
    assert [line.split()[0] for line in lines] == TOPICS
    assert lines[TOPICS.index("error-bars")].split(maxsplit=1)[1] == "Error bars"


@pytest.mark.parametrize("topic", TOPICS)
def test_a_page_fits_80_columns_and_loses_no_word(topic):
    text = shown(topic)
    assert "\x1b" not in text
    long = [line for line in text.splitlines() if len(line) > pages.WIDTH]
    assert all(line.startswith("    ") for line in long)  # commands are never broken
    source = re.sub(
        r"<!--.*?-->|<br>|^```\w*|^ *(-|\d+\.) |\]\([^)]*\)",
        " ",
        (DOCS / f"{topic}.md").read_text("utf-8"),
        flags=re.M,
    )
    words = re.findall(r"[\w.]*\w", source)
    told = re.sub(r"\s", "", text)
    assert [word for word in words if word not in told] == []


def test_an_unknown_topic_names_the_nearest():
    done = run("docs", "wieghts")
    assert (done.returncode, done.stdout) == (2, "")
    assert "wieghts" in done.stderr
    assert "did you mean 'weights'?" in done.stderr


def test_a_wide_terminal_shows_wide_tables(monkeypatch):
    page = pages.Page("| a | b | c | d |\n|---|---|---|---|\n| 1 | " + "x" * 90 + " | 3 | 4 |\n")
    for width, joined in ((120, False), (80, True)):
        console = pages.Console(width=width)
        with console.capture() as told:
            console.print(page, width=80, crop=False)
        assert ("d: 4" in told.get()) == joined
        assert "…" not in told.get()
