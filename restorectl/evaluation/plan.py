"""What `evaluate` was asked for: metrics chosen, files found, networks loaded, before any work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from restorectl.batch.inputs import walk
from restorectl.catalog import METRICS
from restorectl.errors import NoInputError, UsageError, WeightsError
from restorectl.evaluation.metrics.metric import Calibration, Distribution, Metric, Network
from restorectl.evaluation.read import Matches, companions, match
from restorectl.evaluation.score import Ruler
from restorectl.jobs import EvaluateJob

DEFAULT = ("mae", "nrmse", "psnr", "ssim", "pearson")
UNPAIRED = "frechet-prior"  # what --reference computes where no metric is named
Kind = Metric | Calibration | Distribution


@dataclass(frozen=True)
class Plan:
    """A job whose files were found and whose networks are loaded."""

    job: EvaluateJob
    matches: Matches
    reference: tuple[Path, ...]
    paired: Mapping[str, Metric]
    ruler: Ruler
    sets: Sequence[tuple[Distribution, Any]]  # each with its Features


def plan(job: EvaluateJob) -> Plan:
    """Everything that can be refused before work. Raises UsageError, NoInputError, WeightsError."""
    if job.data_range is not None and not job.data_range > 0:
        raise UsageError(f"--data-range {job.data_range:g}: must be above 0")
    if not 0 < job.interval < 1:
        raise UsageError(f"--interval {job.interval:g}: must lie between 0 and 1")
    if job.by_z and job.project != "none":
        raise UsageError("--by z and --project exclude each other: a projection has no depths")
    if not job.predictions:
        raise NoInputError("no predictions were given: name folders or files")
    matches = match(job.predictions, job.target, job.pattern, job.average)
    kinds = _chosen(job, matches)
    paired = {name: kind for name, kind in kinds.items() if isinstance(kind, Metric)}
    loaded: dict[Network | None, Any] = {}
    for name, kind in kinds.items():
        network = None if isinstance(kind, Calibration) else kind.network
        if network is not None and network not in loaded:
            loaded[network] = _load(name, network, job)
    ruler = Ruler(
        {name: metric.compute or loaded[metric.network] for name, metric in paired.items()},
        {name: kind for name, kind in kinds.items() if isinstance(kind, Calibration)},
        job.data_range,
        job.scale,
        job.project,
        job.by_z,
        job.average,
        job.interval,
        job.axes,
    )
    sets = [(k, loaded[k.network]) for k in kinds.values() if isinstance(k, Distribution)]
    return Plan(job, matches, _reference(job), paired, ruler, sets)


def _chosen(job: EvaluateJob, matches: Matches) -> dict[str, Kind]:
    """The metrics, named or default, that fit what was given. Raises UsageError."""
    names = dict.fromkeys((*(job.metrics or _default(job, matches)), *job.gated))
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise UsageError(f"metric '{unknown[0]}': unknown, known are: {', '.join(METRICS)}")
    if not names:
        raise UsageError("nothing to compare with: give --target DIR or --reference HQ_DIR")
    kinds: dict[str, Kind] = {name: METRICS[name].load() for name in names}
    for name, kind in kinds.items():
        if isinstance(kind, Distribution):
            if job.reference is None:
                raise UsageError(f"metric '{name}': needs --reference HQ_DIR")
        elif job.target is None and not getattr(kind, "alone", False):
            raise UsageError(f"metric '{name}': needs --target DIR")
        if isinstance(kind, Calibration) and (job.average or not _has_sets(matches)):
            raise UsageError(f"metric '{name}': needs a folder that `uncertainty` wrote")
    return kinds


def _default(job: EvaluateJob, matches: Matches) -> list[str]:
    names = list(DEFAULT) if job.target is not None else []
    if names and not job.average and job.project == "none" and _has_sets(matches):
        names += [name for name, row in METRICS.items() if row.kind == "uncertainty"]
    return names + ([UNPAIRED] if job.reference is not None else [])


def _has_sets(matches: Matches) -> bool:
    return any(companions(path) for case in matches.cases for _, path in case.predictions)


def _load(metric: str, network: Network, job: EvaluateJob) -> Any:
    """The network's function. Raises WeightsError, which says how to get the weights."""
    from restorectl.weights import file  # torch takes seconds that most metrics do not need

    name = job.networks.get(network.weights, network.weights)
    try:
        weights = file.load_for(name, network.task, job.weights_from)
    except WeightsError as error:
        if not network.option:
            raise
        raise WeightsError(
            f"{metric} cannot be computed: {error}; make a file of the published weights with"
            f" `restorectl weights import --as {network.weights}` and name it with {network.option}"
        ) from error
    return network.make(weights.card, weights.tensors, job.device)


def _reference(job: EvaluateJob) -> tuple[Path, ...]:
    if job.reference is None:
        return ()
    folder = Path(job.reference)
    found = tuple(folder / name for name in walk(folder, job.pattern)) if folder.is_dir() else ()
    if not found:
        raise NoInputError(f"--reference {folder}: is no folder with images")
    return found
