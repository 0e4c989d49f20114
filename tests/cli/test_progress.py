"""What the bars tell: calls by number, time by pixels, each file and all of them."""

import io

from rich.console import Console
from rich.progress import Progress

from restorectl.batch.outcome import Outcome
from restorectl.cli.progress import Terminal


def terminal():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    return Terminal(console, quiet=True, json_lines=False, bars=Progress(console=console))


def tasks(report):
    return [(t.description, t.completed, t.total, t.fields["done"]) for t in report.bars.tasks]


def test_a_bar_counts_calls_and_is_as_long_as_their_pixels():
    report = terminal()
    report.begin(2)
    report.planned(1000)
    one, other = report.file("one.tif", 600), report.file("other.tif", 400)
    assert tasks(report)[1:] == [
        ("one.tif", 0, None, "measuring noise"),
        ("other.tif", 0, None, "measuring noise"),
    ]
    one.advance(0, 0)  # a call to measure
    one.start(3, "tile calls", 600)
    one.advance(1, 100)
    one.advance(1, 200)
    other.start(None, "tile calls", 400)  # decided during the run
    other.advance(1, 700)  # more than was planned
    assert tasks(report) == [
        ("files", 700, 1000, "0/2 files"),  # 100 + 200 of the one, all 400 of the other
        ("one.tif", 300, 600, "2/3 tile calls"),
        ("other.tif", 700, None, "1 tile calls"),
    ]
    one.close()
    report.done(Outcome("one.tif", "", "failed"))
    assert tasks(report)[0] == ("files", 1000, 1000, "1/2 files")


def test_files_without_planned_pixels_count_as_files():
    report = terminal()
    report.begin(4)
    report.done(Outcome("a", "", "done"))
    assert tasks(report) == [("files", 1, 4, "1/4 files")]


def test_no_bars_off_a_terminal():
    report = terminal()
    report.bars = None
    report.begin(1)
    report.planned(10)
    bar = report.file("a", 10)
    bar.start(1, "tile calls", 10)
    bar.advance(1, 10)
    bar.close()
    report.done(Outcome("a", "", "done"))
