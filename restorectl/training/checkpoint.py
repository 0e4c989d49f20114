"""Checkpoints of a training run, and the weights file made from one."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from restorectl.engine.card import KEY
from restorectl.engine.denoiser import Denoiser
from restorectl.errors import UsageError, WeightsError
from restorectl.files.atomic import replacing
from restorectl.files.strict import parse_json
from restorectl.training import recipe as recipes
from restorectl.training.loop import TrainingState
from restorectl.training.recipe import Recipe

RESUME_KEY = "restorectl-resume"
# Keys that may change when a run is resumed.
CHANGEABLE = (
    "checkpoint_minutes",
    "data.cache_mb",
    "init",
    "licence",
    "optimiser.compile",
    "optimiser.final_lr",
    "optimiser.lr",
    "optimiser.minutes",
    "optimiser.precision",
    "optimiser.steps",
    "validation.crops",
    "validation.every",
)


def resume_path(output: Path) -> Path:
    """Path of the checkpoint, next to the weights file."""
    return output.with_suffix(".resume.safetensors")


def write(
    output: Path,
    recipe: Recipe,
    state: TrainingState,
    data: Mapping[str, Any],
    initial: Mapping[str, Any],
) -> None:
    """Write the checkpoint, then the averaged weights (float16) as a weights file: the last or,
    by `validation.keep`, those of the best validation.

    data: what to record of the images, with their fingerprint. initial: what to record of the
    initial weights.
    """
    plain = recipes.plain(recipe)
    best = state.best
    record = {"step": state.step, "recipe": plain, "data": data["fingerprint"]}
    if best is not None:
        record["best"] = [best.step, best.error]
    header = {RESUME_KEY: json.dumps(record, sort_keys=True)}
    with replacing(resume_path(output)) as part:
        part.write_bytes(save(state.tensors(), header))
    average = state.average
    assert isinstance(average, Denoiser)
    training = {
        "recipe": plain,
        "steps": state.step,
        "crops": state.step * recipe.optimiser.batch,
        "data": dict(data),
        "init": dict(initial),
    }
    released = average.state_dict()
    if best is not None:
        training["best"] = {"step": best.step, "error": best.error}
        released = best.tensors
    card = replace(average.card, training=training)
    tensors = {
        name.removeprefix("net."): value.half().cpu().contiguous()
        for name, value in released.items()
        if name.startswith("net.")
    }
    with replacing(output) as part:
        part.write_bytes(save(tensors, {KEY: card.to_json()}))


def restore(state: TrainingState, path: Path, recipe: Recipe, data: Mapping[str, Any]) -> None:
    """Load a checkpoint. Raises UsageError if the recipe or the images differ from it."""
    try:
        with safe_open(path, framework="pt") as file:
            record = parse_json((file.metadata() or {}).get(RESUME_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a readable checkpoint ({error})") from error
    if not isinstance(record, dict) or not {"step", "recipe", "data"} <= record.keys():
        raise WeightsError(f"{path}: not a checkpoint of restorectl train")
    # parsed, so that keys newer than the checkpoint have their defaults
    earlier = recipes.parse(record["recipe"], f"checkpoint {path}")
    before, now = _flat(recipes.plain(earlier)), _flat(recipes.plain(recipe))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and key not in CHANGEABLE:
            raise UsageError(
                f"`resume`: '{key}' is {now.get(key)!r}, the checkpoint {path} has"
                f" {before.get(key)!r}: start a new run, or use the same value"
            )
    if record["data"] != data["fingerprint"]:
        raise UsageError(
            f"`resume`: the images are not those of the checkpoint {path}: start a new run,"
            " with its weights as `init`"
        )
    best = record.get("best")
    state.load(tensors, record["step"], tuple(best) if best else None)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix.rstrip("."): values}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.")
    return found
