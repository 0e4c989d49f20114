"""Blind preference studies: the page that asks (RSCD, D.6), and the statistics of the answers.

The page shows an input and two restorations and asks two questions. Pictures have neutral names;
which method made which one is in a base64 text that is exported with the answers. The results are
shares with Wilson's interval, and the agreement between raters in percent and as Cohen's kappa.
"""

import base64
import binascii
import hashlib
import json
import os
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from scipy import stats

from restorectl import __version__
from restorectl.batch.inputs import match_names
from restorectl.errors import InputError, NoInputError, UsageError, blamed, did_you_mean
from restorectl.evaluation.comparison import check_target
from restorectl.evaluation.examples import interesting_crop
from restorectl.evaluation.pages import plain, write_page
from restorectl.evaluation.read import colours, images_below, load, shown_planes
from restorectl.files.strict import build, parse_json, read_text, read_yaml
from restorectl.images.pictures import data_uri, grey

KIND = "preference-answers"
SIDES = ("A", "B")
NONE = "none"  # the answer of a rater who prefers neither
FLAGS = ("neither", "A", "B", "both")
PANEL = 512  # px, the largest side of a picture
SHOWN = (0.5, 99.8)  # percentiles that become black and white
ALIKE = 3.0  # if the ranges of methods differ by more, each picture has its own black and white


@dataclass(frozen=True)
class Wording:
    """What the page says and asks."""

    title: str = "Which restoration is better?"
    introduction: str = (
        "Choose the restoration of better overall quality: clear, and faithful to the input."
    )
    better: str = "Which restoration has better overall quality?"
    hallucination: str = "Which one shows something that is not real?"
    explanation: str = (
        "Say whether a restoration shows a structure that the input does not support, or has lost"
        " one, so that a reader could conclude something wrong."
    )


WORDINGS = {
    "general": Wording(),
    "clinical": Wording(
        hallucination="Which has a clinically significant hallucination?",
        explanation="Say whether a restoration shows a clinically significant hallucination: a"
        " structure that the input does not support, or one that is gone, and that could change"
        " what a reader concludes.",
    ),
}


@dataclass(frozen=True)
class StudyTask:
    """PNG pictures of an input and of two restorations, and which methods made them."""

    file: str
    methods: tuple[str, str]  # of A and B
    input: bytes
    pictures: tuple[bytes, bytes]
    note: str  # shown to raters, such as the plane


@dataclass(frozen=True)
class StudyPlan:
    """Which comparisons a study asks for, and who answers them (RSCD, D.6)."""

    pivot: str | None = None  # method that all others are compared with; None = every two
    tasks: int | None = None  # comparisons, drawn at random; None = all
    raters: int = 1  # pages to write; each asks for its share
    each: int | None = None  # raters of each comparison; None = all

    def check(self, methods: Sequence[str]) -> None:
        """Raises UsageError for values that do not fit together."""
        each = self.raters if self.each is None else self.each
        rules = (
            (self.pivot is None or self.pivot in methods, f"`pivot` {self.pivot}",
             f"use one of {', '.join(methods)}"),
            (self.tasks is None or self.tasks >= 1, f"`tasks` {self.tasks}", "must be at least 1"),
            (self.raters >= 1, f"`raters` {self.raters}", "must be at least 1"),
            (1 <= each <= self.raters, f"`raters_per_task` {each}",
             f"use 1 to `raters`, {self.raters}"),
        )  # fmt: skip
        for good, what, wanted in rules:
            if not good:
                raise UsageError(f"{what}: {wanted}")

    def share(self, count: int, rater: int) -> list[int]:
        """The comparisons of rater 0, 1, ...: each goes to `each` raters, all get as many."""
        each = self.raters if self.each is None else self.each
        return [k for k in range(count) if (rater - k * each) % self.raters < each]


EVERYTHING = StudyPlan()


def study(
    path: str,
    folders: Sequence[str],
    inputs: str,
    seed: int,
    axes: str | None = None,
    pattern: str | None = None,
    wording: str = "general",
    plan: StudyPlan = EVERYTHING,
) -> None:
    """Write a self-contained page that compares every two folders on every image that both have.

    With several raters NAME.html becomes NAME_1.html, NAME_2.html ..., one for each.

    Files belong together by relative path without suffix; STEM_mean of an uncertainty set stands
    for STEM; a stack is shown by its middle plane. `seed` decides the order of the tasks and of A
    and B; equal arguments and images give equal bytes. `axes` are those of all images, if the files
    do not record them, `pattern` a glob of file names, `wording` a name in WORDINGS or a YAML file.
    The page's first screen lists the files that cannot be shown.

    Raises UsageError for fewer than two folders, NoInputError if no image is in the inputs and in
    two folders, OutputError, DiskFullError.
    """
    check_target("`preference`", path)
    words = WORDINGS[wording] if wording in WORDINGS else _own_words(wording)
    if len(folders) < 2:
        raise UsageError("`preference` compares restorations: name at least two folders")
    for folder in (*folders, inputs):
        if not Path(folder).is_dir():
            raise UsageError(f"{folder}: is not a folder of images")
    methods = _labels(folders)
    plan.check(methods)
    sources = images_below(Path(inputs), pattern)
    made = {m: images_below(Path(f), pattern) for m, f in zip(methods, folders, strict=True)}
    own_names = {method: match_names(sources, files) for method, files in made.items()}
    tasks: list[tuple[str, StudyTask]] = []
    notes: list[str] = []
    for name in sorted(sources, key=lambda name: name.with_suffix("").as_posix()):
        stem = name.with_suffix("").as_posix()
        have = {m: made[m][own_names[m][name]] for m in methods if name in own_names[m]}
        if len(have) < 2:
            notes.append(f"{stem}: fewer than two restorations, left out")
            continue
        try:
            asked = _tasks(stem, sources[name], have, seed, axes)
            tasks += [task for task in asked if plan.pivot in (None, *task[1].methods)]
        except Exception as error:
            notes.append(f"left out: {blamed(sources[name], error)}")
    if not tasks:
        first = f"; first: {notes[0]}" if notes else ""
        raise NoInputError(f"no image of {inputs} can be compared in two folders{first}")
    tasks.sort(key=lambda item: item[0])
    data = _questions([task for _, task in tasks[: plan.tasks]], notes, words)
    for rater in range(plan.raters):
        numbers, page = plan.share(len(data["tasks"]), rater), Path(path)
        shown = [data["tasks"][number] for number in numbers]
        used = {each[part] for each in shown for part in ("input", *SIDES)}
        if plan.raters > 1:
            page = page.with_stem(f"{page.stem}_{rater + 1}")
        pictures = {name: png for name, png in data["pictures"].items() if name in used}
        own = {"page": rater, "numbers": numbers, "tasks": shown, "pictures": pictures}
        write_page(str(page), "study.html", data=data | own, words=words)


def _own_words(path: str) -> Wording:
    """The wording in a YAML file. Raises UsageError."""
    if not os.path.exists(path):
        near = did_you_mean(path, WORDINGS)
        raise UsageError(
            f"`wording` {path}: no such file, and known are {', '.join(WORDINGS)}{near}"
        )
    where = f"`wording` {path}"
    return build(Wording, read_yaml(path, where, UsageError), where)


def _labels(folders: Sequence[str]) -> list[str]:
    """Folder names, or the paths as given if two names are equal."""
    names = [Path(folder).resolve().name for folder in folders]
    labels = names if len(set(names)) == len(names) else list(folders)
    if len(set(labels)) != len(labels):
        raise UsageError(f"`preference`: a folder is named twice: {', '.join(labels)}")
    return labels


def _tasks(
    stem: str, source: Path, have: Mapping[str, Path], seed: int, axes: str | None
) -> Iterator[tuple[str, StudyTask]]:
    """The tasks of one image, each with a sort key made of the seed. Raises InputError."""
    pictures, note = _pictures(source, have, axes)
    for pair in combinations(have, 2):
        digest = hashlib.sha256(json.dumps([seed, stem, sorted(pair)]).encode()).hexdigest()
        one, two = sorted(pair) if int(digest[:2], 16) % 2 else sorted(pair, reverse=True)
        sides = (pictures[one], pictures[two])
        yield digest[2:], StudyTask(stem, (one, two), pictures[""], sides, note)


def _pictures(
    source: Path, have: Mapping[str, Path], axes: str | None
) -> tuple[dict[str, bytes], str]:
    """PNG pictures of the same crop by method ("" is the input), and a note on what they show.

    Raises InputError.
    """
    read = {name: load(path, axes) for name, path in {"": source, **have}.items()}
    for made in read.values():
        made.header.require_same_shape(made.path, read[""].header, source)
    every = shown_planes(read[""].pixels.shape, colours(source, axes))
    plane = every[len(every) // 2]
    seen = {name: plane.of(i.pixels).astype(np.float64) for name, i in read.items()}  # (Y, X, K)
    rows, cols = interesting_crop(np.mean([seen[m].mean(axis=-1) for m in have], axis=0), PANEL)
    cut = {name: image[rows, cols] for name, image in seen.items()}
    ranges = {m: np.percentile(cut[m], SHOWN) for m in have}
    widths = [float(high - low) for low, high in ranges.values()]
    together = max(widths) <= ALIKE * min(widths)
    pooled = np.percentile(np.stack([cut[m] for m in have]), SHOWN)
    drawn = {}
    for name, image in cut.items():
        low, high = pooled if together else ranges.get(name, np.percentile(image, SHOWN))
        shown = image if image.shape[-1] == 3 else image[..., 0]
        drawn[name] = grey(shown, (float(low), float(high)))
    parts = [plane.label and f"plane {plane.label}"]
    if cut[""].shape != seen[""].shape:
        parts.append(f"crop of {cut[''].shape[0]} × {cut[''].shape[1]} px")
    if not together:
        parts.append("each picture in its own range")
    return drawn, ", ".join(part for part in parts if part)


def _questions(tasks: Sequence[StudyTask], notes: Sequence[str], words: Wording) -> dict[str, Any]:
    """What the page's script asks and shows; equal tasks give equal data."""
    key = [{"file": task.file, **dict(zip(SIDES, task.methods, strict=True))} for task in tasks]
    shown = [
        {
            "input": _name_of(task.input),
            "A": _name_of(task.pictures[0]),
            "B": _name_of(task.pictures[1]),
            "note": task.note,
        }
        for task in tasks
    ]
    pictures = {
        _name_of(png): data_uri(png) for task in tasks for png in (task.input, *task.pictures)
    }
    hidden = base64.b64encode(json.dumps(key, sort_keys=True).encode()).decode("ascii")
    asked = json.dumps([hidden, shown, asdict(words)], sort_keys=True)
    study = hashlib.sha256(asked.encode()).hexdigest()[:16]
    return {
        "tool": "restorectl",
        "version": __version__,
        "kind": KIND,
        "study": study,
        "key": hidden,
        "tasks": shown,
        "pictures": pictures,
        "notes": [plain(note) for note in notes],
    }


@dataclass(frozen=True)
class RaterAnswers:
    """The answers in one exported file."""

    file: str
    study: str
    rater: str
    tasks: tuple[dict[str, str], ...]  # file, A, B
    given: Mapping[int, tuple[str, str]]  # task -> better, hallucination


def results(files: Sequence[str]) -> dict[str, Any]:
    """Statistics of the exported answers of one study.

    Returns `study`, `raters` (name, answers), `tasks`; `methods`: for each the share that it won of
    the comparisons that ended in a preference (None if none did), how many ended without one
    (`undecided`), and the share of all in which it was said to hallucinate, with 95 % Wilson
    intervals; `pairs`: how often the first of two methods won; `agreement` between raters on
    `better` and `hallucination`, as a share in 0..1 and as Cohen's kappa; `failures`: a line for
    each file without answers.

    Raises NoInputError if no file can be read, UsageError for files of different studies and for a
    rater in two files.
    """
    read: list[RaterAnswers] = []
    failures = []
    for file in files:
        try:
            read.append(_read(file))
        except Exception as error:
            failures.append(str(blamed(file, error)))
    if not read:
        raise NoInputError("; ".join(failures) or "no files of answers were given")
    _check_together(read)
    given = [
        (answers.tasks[task], better, flagged)
        for answers in read
        for task, (better, flagged) in sorted(answers.given.items())
    ]
    agreement = {
        question: agreement_between(
            {a.rater: {str(task): pick[i] for task, pick in a.given.items()} for a in read}
        )
        for i, question in enumerate(("better", "hallucination"))
    }
    return {
        "study": read[0].study,
        "tasks": len(read[0].tasks),
        "raters": [{"name": a.rater, "answers": len(a.given)} for a in read],
        "methods": _methods(given),
        "pairs": _pairs(given),
        "agreement": agreement,
        "failures": failures,
    }


Given = list[tuple[dict[str, str], str, str]]  # task, better side, hallucinated


def _methods(given: Given) -> dict[str, dict[str, Any]]:
    found = {}
    for method in sorted({task[side] for task, _, _ in given for side in SIDES}):
        mine = [
            (side == better, flagged in (side, "both"), better == NONE)
            for task, better, flagged in given
            for side in SIDES
            if task[side] == method
        ]
        preferred, flagged, undecided = (sum(pick[kind] for pick in mine) for kind in range(3))
        found[method] = {
            "comparisons": len(mine),
            **_preferred(preferred, len(mine), undecided),
            "hallucinated": flagged,
            "hallucination_rate": flagged / len(mine),
            "hallucination_interval": list(wilson(flagged, len(mine))),
        }
    return found


def _pairs(given: Given) -> list[dict[str, Any]]:
    """For every two methods, in alphabetical order, how often the first was preferred."""
    wins: dict[tuple[str, str], list[str]] = {}
    for task, better, _ in given:
        one, two = sorted((task["A"], task["B"]))
        wins.setdefault((one, two), []).append("" if better == NONE else task[better])
    return [
        {
            "methods": list(pair),
            "comparisons": len(won),
            **_preferred(won.count(pair[0]), len(won), won.count("")),
        }
        for pair, won in sorted(wins.items())
    ]


def _preferred(wins: int, comparisons: int, undecided: int) -> dict[str, Any]:
    """The share of wins among the comparisons that ended in a preference."""
    decided = comparisons - undecided
    return {
        "preferred": wins,
        "undecided": undecided,
        "share": wins / decided if decided else None,
        "interval": list(wilson(wins, decided)) if decided else None,
    }


def _check_together(read: list[RaterAnswers]) -> None:
    for one, two in combinations(read, 2):
        if (one.study, one.tasks) != (two.study, two.tasks):
            raise UsageError(f"{one.file} and {two.file} are answers to different studies")
        if one.rater == two.rater:
            raise UsageError(f"{one.file} and {two.file} are both of rater '{one.rater}': give one")


def _read(file: str) -> RaterAnswers:
    try:
        raw = parse_json(read_text(file, file, InputError))
        if not isinstance(raw, dict) or raw.get("kind") != KIND:
            raise ValueError(f"its kind is not {KIND}")
        tasks = tuple(read_key(raw["key"]))
        given = {int(task): (a["better"], a["hallucination"]) for task, a in raw["answers"].items()}
        for task, (better, flagged) in given.items():
            if not 0 <= task < len(tasks) or better not in (*SIDES, NONE) or flagged not in FLAGS:
                raise ValueError(f"its answer to task {task} is damaged")
        return RaterAnswers(PurePath(file).name, str(raw["study"]), str(raw["rater"]), tasks, given)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: not the exported answers of a preference study ({error})"
        ) from error


def _name_of(png: bytes) -> str:
    """A picture's name on the page, which does not reveal its method."""
    return hashlib.sha256(png).hexdigest()[:16]


def read_key(hidden: str) -> list[dict[str, str]]:
    """File and methods A, B of each task. Raises ValueError for any other text."""
    try:
        key = parse_json(base64.b64decode(hidden, validate=True))
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(key, list) or not all(map(_is_entry, key)):
        raise ValueError("its key is not a list of tasks")
    return key


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"file", *SIDES}:
        return False
    return all(isinstance(value, str) for value in entry.values())


def percent(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Share of tasks with equal labels, 0..1. Raises ValueError for no or unpaired labels."""
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} and {len(second)} labels: raters must share tasks")
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """(p_o - p_e) / (1 - p_e) in -1..1: agreement beyond that of chance (Cohen 1960, eq. 1).

    None (0/0) if both raters gave the same single label throughout. Raises ValueError for no or
    unpaired labels.
    """
    observed = percent(first, second)
    counts, others = Counter(first), Counter(second)
    matches = sum(
        counts[label] * others[label] for label in counts
    )  # integers, so that the test for 1 is exact
    if matches == len(first) ** 2:
        return None
    expected = matches / len(first) ** 2
    return (observed - expected) / (1 - expected)


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927). Raises ValueError without trials."""
    if trials == 0:
        raise ValueError(f"{hits} of {trials}")
    interval = stats.binomtest(hits, trials).proportion_ci(0.95, "wilson")
    return float(interval.low), float(interval.high)


def agreement_between(ratings: Mapping[str, Mapping[str, Hashable]]) -> dict[str, Any]:
    """Agreement of every two raters on the tasks that both answered.

    `ratings`: rater -> task -> label. Returns `pairs` (raters, tasks, percent, kappa) and, over the
    pairs, the mean percent weighted by tasks and Light's kappa, the mean of the defined kappas.
    Both are None if no two raters share a task.
    """
    pairs: list[dict[str, Any]] = []
    for one, two in combinations(sorted(ratings), 2):
        shared = sorted(ratings[one].keys() & ratings[two].keys())
        if shared:
            labels = [[ratings[rater][task] for task in shared] for rater in (one, two)]
            pairs.append(
                {
                    "raters": [one, two],
                    "tasks": len(shared),
                    "percent": percent(*labels),
                    "kappa": cohen_kappa(*labels),
                }
            )
    tasks = sum(pair["tasks"] for pair in pairs)
    kappas = [pair["kappa"] for pair in pairs if pair["kappa"] is not None]
    return {
        "pairs": pairs,
        "percent": sum(p["percent"] * p["tasks"] for p in pairs) / tasks if tasks else None,
        "kappa": sum(kappas) / len(kappas) if kappas else None,
    }
