"""`evaluate`: predictions of several methods against targets, and against good images."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from restorectl.batch.outcome import Outcome, Report
from restorectl.evaluation.metrics.metric import Calibration, Metric
from restorectl.evaluation.plan import Plan
from restorectl.evaluation.read import Case, Comparison, FileScore
from restorectl.evaluation.score import (
    Failure,
    Found,
    Lens,
    Ruler,
    Scored,
    distances,
    mean_of,
    score,
)

THREADS = 8  # at most; each holds one target and one prediction


def run(ready: Plan, report: Report) -> Comparison:
    """Score everything; one bad file never stops the others."""
    job, matches = ready.job, ready.matches
    extra = matches.extra if job.target is not None else ()
    cases = matches.cases if ready.ruler.computes or ready.ruler.calibrations else ()
    lost = [(name, "no prediction for this target") for name in matches.missing]
    lost += [(name, "no target for this prediction") for name in extra]
    report.begin(sum(len(case.predictions) for case in cases) + len(lost))
    for name, message in lost:
        report.done(Outcome(name, "", "failed", message=f"{name}: {message}"))
    scored = _Scores()
    for case, found in _ordered(partial(_safely, ruler=ready.ruler), cases):
        scored.take(case, found)
        _tell(found, report)
    unpaired = Found()
    if ready.sets:
        lens = Lens(job.axes, job.data_range, job.by_z)
        unpaired = distances(matches.files, ready.reference, ready.sets, lens)
    for line in unpaired.failures:
        report.done(Outcome(line, "", "failed", message=line))
    methods = matches.methods
    if job.average:
        methods = tuple(mean_of(n + 1) for n in range(len(methods)))
    metrics: dict[str, Metric | Calibration] = {**ready.paired, **ready.ruler.calibrations}
    better = {name: kind.better for name, kind in metrics.items()}
    return Comparison(
        methods=methods,
        metrics=tuple(metrics),
        better=better | {kind.name: kind.better for kind, _ in ready.sets},
        scores=tuple(s for method in methods for s in scored.files if s.method == method),
        data_range=scored.ranges,
        scale=job.scale,
        inputs=None if job.inputs is None else Path(job.inputs),
        missing=matches.missing,
        extra=extra,
        warnings=(*scored.warnings(), *unpaired.warnings),
        failures=(*scored.failures, *unpaired.failures),
        sets=unpaired.sets,
        set_depths=unpaired.depths,
        axes=job.axes,
        project=job.project,
    )


@dataclass
class _Scores:
    """What the files gave so far."""

    files: list[FileScore] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    ranges: dict[str, float] = field(default_factory=dict)
    dtypes: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def take(self, case: Case, found: Scored) -> None:
        self.files += found.scores
        self.failures += [f"{each.method}: {each.message}" for each in found.failures]
        for key in sorted(found.dtypes):
            self.dtypes[key] = self.dtypes.get(key, 0) + 1
        if found.data_range is not None:
            self.ranges[case.name] = found.data_range

    def warnings(self) -> list[str]:
        """Integers of two kinds are rarely on one scale; floats are ordinary results."""
        return [
            f"{method}: {count} predictions are {have}, their targets {want}: compared as they are"
            for (method, have, want), count in self.dtypes.items()
            if have != want and "int" in have and "int" in want
        ]


def _safely(case: Case, ruler: Ruler) -> Scored:
    """Scores of a case; one that does not fit the memory has failed."""
    try:
        return score(case, ruler)
    except MemoryError:
        message = f"{case.name}: does not fit the memory of this machine"
        return Scored((), tuple(Failure(m, path, message) for m, path in case.predictions))


def _ordered(
    work: Callable[[Case], Scored], cases: Sequence[Case]
) -> Iterator[tuple[Case, Scored]]:
    """Results in the order of the cases; no more than a few are under way at once."""
    linux = hasattr(os, "sched_getaffinity")
    threads = min(THREADS, len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1)
    waiting: deque[tuple[Case, Future[Scored]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for case in cases:
            waiting.append((case, pool.submit(work, case)))
            if len(waiting) > threads:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _tell(scored: Scored, report: Report) -> None:
    """A line for each prediction."""
    failed = {(each.method, each.path) for each in scored.failures}
    for each in scored.failures:
        text = f"{each.method}: {each.message}"
        report.done(Outcome(str(each.path), "", "failed", message=text))
    for item in scored.scores:
        if (item.method, item.prediction) not in failed:
            text = ", ".join(f"{name} {value:.4g}" for name, value in item.values.items())
            report.done(Outcome(f"{item.method}: {item.name}", "", "done", message=text))
