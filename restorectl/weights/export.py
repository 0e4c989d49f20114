"""`weights export`: write a folder that can be uploaded to a hub."""

import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from restorectl import __version__
from restorectl.engine.card import Card
from restorectl.engine.schedule import schedule
from restorectl.errors import OutputError, UsageError
from restorectl.files.atomic import output_error, replacing
from restorectl.files.provenance import file_sha256
from restorectl.jobs import WeightsOptions
from restorectl.weights.file import Weights, load
from restorectl.weights.hub import TransferProgress
from restorectl.weights.registry import RegistryEntry, TrainingNotes, find

LICENCES = {  # SPDX name -> the hub's
    name: name.lower() for name in ("MIT", "Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0")
}
BLOCK = """\
# The registry block of this model. It works from here, with --registry; once uploaded, replace
# `source` by the three keys hub: ORG/NAME, revision: the commit of 40 digits, file: {weights}
"""
NAMED = " The sources of the training images are named above, as their licences require."
BODY = """
# {name}

{domain}. Task: {task}. A model for restorectl.

```
restorectl restore images/ -o restored/ --weights {file}
```

| | |
|---|---|
{facts}

## Measured
{scores}
## Training data
{data}
## Licence

{licence}.{sources}

## Citation

{citation}
"""


def export(
    name: str, folder: Path, options: WeightsOptions, progress: TransferProgress | None = None
) -> list[Path]:
    """Write weights, README.md (the model card) and weights.yaml (the registry block) to a folder.

    name: of the registry, or a weights file, whose card has what a registry block needs. Raises
    WeightsError for weights that cannot be read, UsageError if `folder` is not empty, OutputError
    if it cannot be written.
    """
    entry = find(name, options).entry
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"`hub` {folder}: is not empty: choose a new folder")
    except OSError as error:
        raise output_error(error, folder) from error
    weights = load(name, options=options, progress=progress)
    if entry is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", weights.card.name).strip("-._") or "model"
        entry = entry_of(weights)
    target = folder / f"{name}.safetensors"
    with replacing(target) as part:
        shutil.copyfile(weights.path, part)
    if file_sha256(target) != weights.sha256:
        raise OutputError(f"{target}: differs from what was written: check the disk")
    training = {key: value for key, value in asdict(entry.training).items() if value}
    block = asdict(entry) | {"source": {"file": target.name}, "training": training}
    written = {
        "README.md": _model_card(name, entry, weights.card, target.name),
        "weights.yaml": BLOCK.format(weights=target.name) + _yaml({name: block}),
    }
    for file, text in written.items():
        with replacing(folder / file) as part:
            part.write_text(text, "utf-8")
    return [target, *(folder / file for file in written)]


def entry_of(weights: Weights) -> RegistryEntry:
    """The registry block of weights that have none, from their card.

    The card knows neither the images' attribution nor scores: the files have room for both.
    """
    card = weights.card
    last = round(float(schedule(card.schedule).step(card.sigma_max))) if card.schedule else None
    return RegistryEntry(
        task=card.task,
        channels=card.channels,
        domain="images of its training",
        source={"file": weights.path.name},
        sha256=weights.sha256,
        bytes=weights.path.stat().st_size,
        network=card.network,
        objective=card.objective,
        licence=card.licence,
        schedule=card.schedule or None,
        step_cap=last,
        value_range=card.value_range,
        channel_recipe=card.recipe,
        window=card.window,
        training=TrainingNotes(note=_trained(card)),
    )


def _trained(card: Card) -> str:
    """What the card records of the training, in a sentence."""
    known = card.training
    if "imported" in known:
        return f"Imported from {known.get('source', known['imported'])}."
    data = known.get("data", {})
    counts = [f"{data[kind]} {kind}" for kind in ("images", "pairs") if kind in data]
    parts = [*counts, *([f"{known['steps']} steps"] if "steps" in known else [])]
    return f"Trained on own images: {', '.join(parts)}." if parts else ""


def _model_card(name: str, entry: RegistryEntry, card: Card, file: str) -> str:
    """The model card: the hub's front matter, then the text."""
    licence = LICENCES.get(entry.licence)
    front: dict[str, Any] = {"license": licence or "other"}
    if licence is None:
        front["license_name"] = entry.licence
    front |= {
        "library_name": "restorectl",
        "pipeline_tag": "image-to-image",
        "tags": ["restorectl", "microscopy", "denoising", "diffusion", "safetensors"],
    }
    if any("psnr" in name for name in entry.scores):
        front["metrics"] = ["psnr"]
    facts = {
        "network": entry.network,
        "objective": entry.objective,
        "schedule": entry.schedule or "none, any noise level",
        "step cap": entry.step_cap or "none",
        "largest noise level": f"{card.sigma_max:g}, in units of [-1, 1]",
        "channels": f"{entry.channels} ({entry.channel_recipe})",
        "value range": entry.value_range,
        "window": f"{entry.window} px" if entry.window else "any",
        "bytes": entry.bytes,
        "sha256": f"`{entry.sha256}`",
        "exported with": f"restorectl {__version__}",
    }
    body = BODY.format(
        name=name,
        domain=entry.domain[:1].upper() + entry.domain[1:],
        task=entry.task,
        file=file,
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
        scores=_scores(entry),
        data=_data(entry),
        licence=entry.licence,
        sources=NAMED if entry.training.data else "",
        citation=entry.citation or "None yet.",
    )
    return f"---\n{_yaml(front)}---\n{body}"


def _scores(entry: RegistryEntry) -> str:
    if not entry.scores:
        return "\nNothing yet.\n"
    lines = ["| score | value |", "|---|---|"]
    lines += [f"| {name} | {value:g} |" for name, value in entry.scores.items()]
    text = "\n" + "\n".join(lines) + "\n"
    return text + (f"\nMeasured with {entry.measured_with}.\n" if entry.measured_with else "")


def _data(entry: RegistryEntry) -> str:
    lines = [f"- {each.name} ({each.licence}): {each.attribution}" for each in entry.training.data]
    parts = [entry.training.note, "\n".join(lines)]
    return "".join(f"\n{part}\n" for part in parts if part) or "\nNot noted.\n"


def _yaml(value: dict[str, Any]) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=98))
