"""`evaluate`: compare predictions of several methods with targets, or with good images.

`prepare` checks the job and finds its files before any work, `run` goes through the targets, and
`score` compares one target with the image of every method: plane by plane, then averaged.
"""

import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.batch.inputs import walk
from restorectl.batch.outcome import Outcome, Report
from restorectl.catalog import METRICS
from restorectl.errors import InputError, NoInputError, UsageError, WeightsError, blamed
from restorectl.evaluation.comparison import Comparison, FileScore, mean_of
from restorectl.evaluation.frechet import SetDistances, set_distances
from restorectl.evaluation.metrics.metric import (
    Compute,
    Features,
    MetricNetwork,
    SetMetric,
    UncertaintyMetric,
    UncertaintySet,
    Undefined,
)
from restorectl.evaluation.metrics.uncertainty import sparsification
from restorectl.evaluation.read import (
    Case,
    LoadedImage,
    MatchedFiles,
    Spread,
    fit_of,
    load,
    match,
    nanometres,
    range_of,
    registered,
    respread,
    running_means,
    spread_of,
    uncertainty_maps,
    uncertainty_set,
)
from restorectl.images.registration import ALIGNMENTS
from restorectl.jobs import EvaluateJob

DEFAULT = ("mae", "nrmse", "psnr", "ssim", "pearson")
UNPAIRED = "frechet-prior"  # the default metric of `reference`
THREADS = 8  # at most; each holds one target and one prediction


@dataclass(frozen=True)
class PreparedEvaluation:
    """A job whose files were found and whose networks are loaded."""

    job: EvaluateJob
    matches: MatchedFiles
    reference: tuple[Path, ...]
    better: Mapping[str, str]  # metric of any kind -> higher, lower or ""
    paired: Mapping[str, Compute]  # metric -> function of one plane
    uncertainty: Mapping[str, UncertaintyMetric]
    spread: Mapping[int, Spread]  # channel -> mean and standard deviation of `scale_to`
    sets: Sequence[tuple[SetMetric, Features]]


def prepare(job: EvaluateJob) -> PreparedEvaluation:
    """Check a job, find its files and load its networks.

    Raises UsageError, NoInputError, WeightsError.
    """
    if job.data_range is not None and not job.data_range > 0:
        raise UsageError(f"`data_range` {job.data_range:g}: must be above 0")
    if not 0 < job.interval < 1:
        raise UsageError(f"`interval` {job.interval:g}: must lie between 0 and 1")
    if job.by_z and job.project != "none":
        raise UsageError("`by` z and `project` exclude each other: a projection has no depths")
    if job.register is not None and (job.target is None or job.register not in ALIGNMENTS):
        raise UsageError(f"`register` {job.register}: use {' or '.join(ALIGNMENTS)}, with `target`")
    if job.scale_to is not None and job.scale != "none":
        raise UsageError("`scale_to` and `scale` exclude each other")
    if not job.predictions:
        raise NoInputError("no predictions were given: name folders or files")
    matches = match(job.predictions, job.target, job.pattern, job.average)
    metrics = _chosen(job, matches)
    paired, uncertainty, sets = (
        {name: metric for name, metric in metrics.items() if METRICS[name].kind == kind}
        for kind in ("paired", "uncertainty", "set")
    )
    loaded: dict[MetricNetwork | None, Any] = {}
    for name, metric in metrics.items():
        network = None if name in uncertainty else metric.network
        if network is not None and network not in loaded:
            loaded[network] = _load_network(name, network, job)
    return PreparedEvaluation(
        job,
        matches,
        _reference(job),
        {name: metrics[name].better for name in (*paired, *uncertainty, *sets)},
        {name: metric.compute or loaded[metric.network] for name, metric in paired.items()},
        uncertainty,
        {} if job.scale_to is None else spread_of(Path(job.scale_to), job.pattern, job.axes),
        [(metric, loaded[metric.network]) for metric in sets.values()],
    )


def _chosen(job: EvaluateJob, matches: MatchedFiles) -> dict[str, Any]:
    """The metrics that the job names, or the defaults for its files. Raises UsageError."""
    paths = (path for case in matches.cases for _, path in case.predictions)
    has_sets = any(uncertainty_maps(path) for path in paths)
    wanted = list(job.metrics)
    if not wanted and job.target is not None:
        wanted += DEFAULT
        moved = job.register is not None or job.scale_to is not None
        if not job.average and job.project == "none" and has_sets and not moved:
            wanted += [name for name, row in METRICS.items() if row.kind == "uncertainty"]
    if not job.metrics and job.reference is not None:
        wanted.append(UNPAIRED)
    names = dict.fromkeys((*wanted, *job.gated))
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise UsageError(f"metric '{unknown[0]}': unknown, known are: {', '.join(METRICS)}")
    if not names and not job.checks:
        raise UsageError("nothing to compare with: give `target` DIR or `reference` HQ_DIR")
    metrics = {name: METRICS[name].load() for name in names}
    _refuse_altered(metrics, job)
    for name, metric in metrics.items():
        kind = METRICS[name].kind
        if kind == "set":
            if job.reference is None:
                raise UsageError(f"metric '{name}': needs `reference` HQ_DIR")
        elif job.target is None and not (kind == "paired" and metric.alone):
            raise UsageError(f"metric '{name}': needs `target` DIR")
        if kind == "uncertainty" and (job.average or not has_sets):
            raise UsageError(f"metric '{name}': needs a folder that restorectl uncertainty wrote")
    return metrics


def _refuse_altered(metrics: Mapping[str, Any], job: EvaluateJob) -> None:
    """Raises UsageError for metrics that have no meaning for predictions changed before scoring."""
    moved = job.scale_to is not None or job.register is not None
    for name, metric in metrics.items():
        kind = METRICS[name].kind
        if kind == "paired" and metric.unscaled and (moved or job.scale != "none"):
            raise UsageError(
                f"metric '{name}': cannot be combined with `scale`, `scale_to` or `register`"
            )
        if kind == "uncertainty" and moved:
            raise UsageError(f"metric '{name}': cannot be combined with `scale_to` or `register`")


def _load_network(metric: str, network: MetricNetwork, job: EvaluateJob) -> Any:
    """The network's function. Raises WeightsError, which says how to get the weights."""
    from restorectl.weights import (
        file,
    )  # imports torch, which takes seconds and most metrics do not need

    name = job.networks.get(network.weights, network.weights)
    try:
        weights = file.load(name, network.task, job.weights_from)
    except WeightsError as error:
        if not network.option:
            raise
        raise WeightsError(
            f"{metric} cannot be computed: {error}; make a file of the published weights with"
            f" restorectl weights import `checkpoint_kind` {network.weights} and name it with"
            f" {network.option}"
        ) from error
    return network.make(weights.card, weights.tensors, job.device)


def _reference(job: EvaluateJob) -> tuple[Path, ...]:
    if job.reference is None:
        return ()
    folder = Path(job.reference)
    found = tuple(folder / name for name in walk(folder, job.pattern)) if folder.is_dir() else ()
    if not found:
        raise NoInputError(f"`reference` {folder}: is not a folder with images")
    return found


def run(prepared: PreparedEvaluation, report: Report) -> Comparison:
    """Score all predictions; a bad file does not stop the others."""
    job, matches = prepared.job, prepared.matches
    extra = matches.extra if job.target is not None else ()
    each_file = prepared.paired or prepared.uncertainty or job.checks
    cases = matches.cases if each_file else ()
    lost = [(name, "no prediction for this target") for name in matches.missing]
    lost += [(name, "no target for this prediction") for name in extra]
    report.begin(sum(len(case.predictions) for case in cases) + len(lost))
    for name, message in lost:
        report.done(Outcome(name, "", "failed", message=f"{name}: {message}"))
    scored: list[tuple[Case, CaseScores]] = []
    failed: list[Outcome] = []  # their messages may be reworded by the report
    for case, found in _in_order(cases, prepared):
        scored.append((case, found))
        for outcome in _outcomes(found):
            report.done(outcome)
            failed += [outcome] if outcome.status == "failed" else []
    distances = SetDistances({}, {})
    if prepared.sets:
        distances = set_distances(matches.files, prepared.reference, prepared.sets, job)
    for line in distances.failures:
        failed.append(Outcome(line, "", "failed", message=line))
        report.done(failed[-1])
    methods = matches.methods
    if job.average:
        methods = tuple(mean_of(n + 1) for n in range(len(methods)))
    scores = [score for _, found in scored for score in found.scores]
    dtypes = Counter(each for _, found in scored for each in sorted(found.dtypes))
    mixed = [  # integers of different dtypes rarely share one scale; float predictions are usual
        f"{method}: {count} predictions are {have}, their targets {want}: compared as they are"
        for (method, have, want), count in dtypes.items()
        if have != want and "int" in have and "int" in want
    ]
    changed = [
        f"`{name}` {value}: the scores are of predictions changed so; reports show the files"
        for name, value in (("register", job.register), ("scale_to", job.scale_to))
        if value is not None
    ]
    exact = sum(score.values.get("psnr") == np.inf for score in scores)
    infinite = [
        f"psnr is infinite for {exact} predictions, of which planes equal the target: psnr-volume"
        " takes all planes of a file together, psnr-made those that differ"
    ]
    return Comparison(
        methods=methods,
        metrics=(*prepared.paired, *prepared.uncertainty),
        better=prepared.better,
        scores=tuple(score for method in methods for score in scores if score.method == method),
        data_range={c.name: s.data_range for c, s in scored if s.data_range is not None},
        scale=job.scale,
        inputs=None if job.inputs is None else Path(job.inputs),
        missing=matches.missing,
        extra=extra,
        warnings=(*changed, *mixed, *(infinite if exact else ()), *distances.warnings),
        failures=tuple(outcome.message for outcome in failed),
        sets=distances.values,
        set_depths=distances.depths,
        axes=job.axes,
        project=job.project,
    )


@dataclass(frozen=True)
class ScoreFailure:
    """Why a prediction has no score, or lacks some metrics."""

    method: str
    path: Path
    message: str


@dataclass(frozen=True)
class CaseScores:
    """The scores of all methods for one target."""

    scores: tuple[FileScore, ...]
    failures: tuple[ScoreFailure, ...]
    data_range: float | None = None
    dtypes: frozenset[tuple[str, str, str]] = frozenset()  # method, its dtype, the target's


def _in_order(
    cases: Sequence[Case], prepared: PreparedEvaluation
) -> Iterator[tuple[Case, CaseScores]]:
    """The scores of each case, in order; a few cases are computed at once."""
    linux = hasattr(os, "sched_getaffinity")
    threads = min(THREADS, len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1)
    waiting: deque[tuple[Case, Future[CaseScores]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for case in cases:
            waiting.append((case, pool.submit(_safely, case, prepared)))
            if len(waiting) > threads:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _safely(case: Case, prepared: PreparedEvaluation) -> CaseScores:
    """The scores of a case; all its predictions fail if there is anything wrong with its target."""
    try:
        return score(case, prepared)
    except Exception as error:
        message = str(blamed(case.name, error))
        return CaseScores((), tuple(ScoreFailure(m, p, message) for m, p in case.predictions))


def _outcomes(found: CaseScores) -> Iterator[Outcome]:
    """One outcome for each prediction."""
    failed = {(each.method, each.path) for each in found.failures}
    for each in found.failures:
        text = f"{each.method}: {each.message}"
        yield Outcome(str(each.path), "", "failed", message=text)
    for item in found.scores:
        if (item.method, item.prediction) not in failed:
            text = ", ".join(f"{name} {value:.4g}" for name, value in item.values.items())
            yield Outcome(f"{item.method}: {item.name}", "", "done", message=text)


def score(case: Case, prepared: PreparedEvaluation) -> CaseScores:
    """Score all methods of one case; a prediction that cannot be scored becomes a ScoreFailure."""
    job = prepared.job
    target = None if case.target is None else load(case.target, job.axes, job.project)
    largest = job.data_range or (None if target is None else range_of(target))
    scores: list[FileScore] = []
    failures: list[ScoreFailure] = []
    dtypes: set[tuple[str, str, str]] = set()
    for method, path, found in _predictions(case, job):
        try:
            if isinstance(found, Exception):
                raise found
            goal = target or found
            found.header.require_same_shape(path, goal.header, goal.path)
            if job.register is not None:
                found, goal = registered(found, goal, job.register)
            if prepared.spread:
                found = respread(found, prepared.spread)
            values, depths, reasons = _measure(found, goal, largest or range_of(goal), prepared)
            curves = _judge_uncertainty(path, goal, prepared, values, reasons)
        except Exception as error:
            failures.append(ScoreFailure(method, path, str(blamed(path, error))))
            continue
        scores.append(FileScore(method, case.name, values, path, goal.path, depths, curves))
        if reasons:
            failures.append(ScoreFailure(method, path, f"{path}: {'; '.join(reasons)}"))
        dtypes.add((method, str(found.header.dtype), str(goal.header.dtype)))
    return CaseScores(tuple(scores), tuple(failures), largest, frozenset(dtypes))


def _labelled(case: Case, job: EvaluateJob) -> list[tuple[str, Path]]:
    """Each prediction with its method; with `average`, with the mean of all samples up to it."""
    return [
        (mean_of(count) if job.average else method, path)
        for count, (method, path) in enumerate(case.predictions, 1)
    ]


def _predictions(
    case: Case, job: EvaluateJob
) -> Iterator[tuple[str, Path, LoadedImage | Exception]]:
    """(method, path, image or why it cannot be read); with `average`, the mean so far."""
    means = running_means((path for _, path in case.predictions), job.axes, job.project)
    for method, path in _labelled(case, job):
        try:
            yield method, path, next(means) if job.average else load(path, job.axes, job.project)
        except Exception as error:
            yield method, path, error
            if job.average:
                return  # later means would lack this sample


def _measure(
    found: LoadedImage, target: LoadedImage, data_range: float, prepared: PreparedEvaluation
) -> tuple[dict[str, float], tuple[dict[str, float], ...], list[str]]:
    """Mean scores over the planes, those of each z for `by` z, and why a metric has no score."""
    shape = found.pixels.shape
    reasons: list[str] = []
    try:
        scale = prepared.job.scale
        fits = [fit_of(found.pixels, target.pixels, c, scale) for c in range(shape[1])]
    except Undefined as error:
        return {}, (), [str(error)]
    planes = list(np.ndindex(*shape[:3]))  # (t, c, z)
    combine = {name: METRICS[name].load().combine for name in prepared.paired}
    scores: dict[str, list[float]] = {}
    for metric, compute in prepared.paired.items():
        try:
            scores[metric] = []
            size = nanometres(found, target) if METRICS[metric].load().sized else 1.0
            at = planes[0]
            for at in planes:
                gain, offset = fits[at[1]]
                x = found.pixels[at].astype(np.float64) * gain + offset
                y = target.pixels[at].astype(np.float64)
                scores[metric].append(size * compute(x, y, data_range))
        except Undefined as error:
            del scores[metric]
            where = f"plane t{at[0]} c{at[1]} z{at[2]}: " if len(planes) > 1 else ""
            reasons.append(f"{metric}: {where}{error}")
    depths = []
    for z in range(shape[2] if prepared.job.by_z else 0):
        chosen = [index for index, at in enumerate(planes) if at[2] == z]
        depths.append({m: combine[m]([each[i] for i in chosen]) for m, each in scores.items()})
    return {m: combine[m](each) for m, each in scores.items()}, tuple(depths), reasons


def _judge_uncertainty(
    path: Path,
    target: LoadedImage,
    prepared: PreparedEvaluation,
    values: dict[str, float],
    reasons: list[str],
) -> dict[str, tuple[float, ...]]:
    """Score the uncertainty set of `path`, if it has one: adds to `values` and `reasons`.

    Returns the sparsification curves.
    """
    job = prepared.job
    if not prepared.uncertainty or job.average:
        return {}
    try:
        maps = uncertainty_set(path, job.axes)
        if maps is None:
            return {}
        if job.project != "none":
            raise Undefined("uncertainty cannot be scored after `project`")
        maps["target"] = target.pixels.astype(np.float64)
        known = ~np.isnan(maps["std"])  # copied pixels have no error bars
        if not known.any():
            raise Undefined("no pixel has error bars")
        judged = UncertaintySet(interval=job.interval, **{k: m[known] for k, m in maps.items()})
        found, best = sparsification(judged)
    except (InputError, Undefined) as error:
        reasons.append(str(error))
        return {}
    for name, metric in prepared.uncertainty.items():
        try:
            values[name] = metric.compute(judged)
        except Undefined as error:
            reasons.append(f"{name}: {error}")
    return {"sparsification": tuple(found.tolist()), "oracle": tuple(best.tolist())}
