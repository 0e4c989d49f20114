"""`weights export`: a folder that can be uploaded to a hub as it is."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from restorectl import __version__
from restorectl.engine.card import Card
from restorectl.errors import OutputError, UsageError, WeightsError
from restorectl.files.atomic import output_error, replacing
from restorectl.jobs import WeightsOptions
from restorectl.weights import file as weights_io
from restorectl.weights import registry
from restorectl.weights.hub import Progress
from restorectl.weights.registry import Entry

LICENCES = {  # SPDX name -> the hub's
    name: name.lower() for name in ("MIT", "Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", "CC0-1.0")
}
BLOCK = """\
# The registry block of this model. It works from here, with --registry; once uploaded, replace
# `source` by the three keys hub: ORG/NAME, revision: the commit of 40 digits, file: {weights}
"""
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

{licence}. The sources of the training images are named above, as their licences ask for.

## Citation

{citation}
"""


def export(
    name: str, folder: Path, options: WeightsOptions, progress: Progress | None = None
) -> list[Path]:
    """Weights, README.md (the model card) and weights.yaml (the registry block), in a new folder.

    Raises WeightsError for a name that is not in the registry, UsageError where `folder` holds
    something already, OutputError where it cannot be written.
    """
    model = registry.find(name, options)
    if model.entry is None:
        raise WeightsError(
            f"weights '{name}': not in the registry, which holds licence and sources"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"--hub {folder}: is not empty: choose a new folder")
    except OSError as error:
        raise output_error(error, folder) from error
    weights = weights_io.load(name, options, progress)
    file = f"{model.entry.name}.safetensors"
    text = {
        "README.md": card_text(model.entry, weights.card, file),
        "weights.yaml": _block(model.entry, file),
    }
    written = [_write(folder / file, lambda part: shutil.copyfile(weights.path, part))]
    if registry.file_sha256(folder / file) != weights.sha256:
        raise OutputError(f"{folder / file}: is not what was written: check the disk")
    written += [_write(folder / name, _text(content)) for name, content in text.items()]
    return written


def _write(target: Path, write: Callable[[Path], object]) -> Path:
    with replacing(target) as part:
        write(part)
    return target


def _text(content: str) -> Callable[[Path], object]:
    return lambda part: part.write_text(content, "utf-8")


def _block(entry: Entry, file: str) -> str:
    block = {k: v for k, v in asdict(entry).items() if k != "name"} | {"source": {"file": file}}
    return BLOCK.format(weights=file) + _yaml({entry.name: block})


def card_text(entry: Entry, card: Card, file: str) -> str:
    """The model card: the hub's front matter, then what a reader wants to know."""
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
        name=entry.name,
        domain=entry.domain[:1].upper() + entry.domain[1:],
        task=entry.task,
        file=file,
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
        scores=_scores(entry),
        data=_data(entry),
        licence=entry.licence,
        citation=entry.citation or "None yet.",
    )
    return f"---\n{_yaml(front)}---\n{body}"


def _scores(entry: Entry) -> str:
    if not entry.scores:
        return "\nNothing yet.\n"
    lines = ["| score | value |", "|---|---|"]
    lines += [f"| {name} | {value:g} |" for name, value in entry.scores.items()]
    text = "\n" + "\n".join(lines) + "\n"
    return text + (f"\nMeasured with {entry.measured_with}.\n" if entry.measured_with else "")


def _data(entry: Entry) -> str:
    lines = [
        f"- {item['name']} ({item['licence']}): {item['attribution']}"
        for item in entry.training.get("data", [])
    ]
    parts = [entry.training.get("note", ""), "\n".join(lines)]
    return "".join(f"\n{part}\n" for part in parts if part) or "\nNot noted.\n"


def _yaml(value: dict[str, Any]) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=98))
