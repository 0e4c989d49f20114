"""`weights import`: convert published checkpoints to weights files for all commands.

Checkpoints are read as data: code in them never runs. PUBLISHED holds each model's card and the
names of its tensors in the checkpoint; the names and shapes of the result are checked against the
network before it is written.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from restorectl.engine.card import KEY, Card
from restorectl.engine.denoiser import fits
from restorectl.engine.schedule import schedule
from restorectl.errors import UsageError, WeightsError, first_line
from restorectl.files.atomic import replacing
from restorectl.files.provenance import file_sha256
from restorectl.weights import pickled

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params_ema", "params")
_STATED = "as its publisher states"

Tensors = Mapping[str, Any]


@dataclass(frozen=True)
class PublishedModel:
    """A published model, and how to convert its checkpoint to a weights file."""

    card: Card
    rename: Callable[[Tensors], dict[str, Any]]  # keep and rename the network's tensors
    source: str  # where the model is published
    config: Callable[[Tensors], Mapping[str, Any]] | None = None  # network size, from tensor shapes


@dataclass(frozen=True)
class ImportedWeights:
    """Summary of an imported weights file."""

    path: str
    kind: str
    network: str
    tensors: int
    parameters: int
    ignored: int  # tensors of the checkpoint that are not needed
    sha256: str


def import_checkpoint(
    files: Sequence[Path], checkpoint_kind: str, output: Path, overwrite: bool = False
) -> ImportedWeights:
    """Write a weights file from the files of a published model.

    checkpoint_kind: a key of PUBLISHED.

    float16 and float32 tensors keep their type, others become float32. Raises UsageError for an
    unknown kind or a wrong output name, WeightsError for files that do not match the kind.
    """
    if checkpoint_kind not in PUBLISHED:
        raise UsageError(f"`checkpoint_kind` {checkpoint_kind}: choose {', '.join(PUBLISHED)}")
    if output.suffix != ".safetensors":
        raise UsageError(f"{output}: the output must be named *.safetensors")
    if output.exists() and not overwrite:
        raise UsageError(f"{output}: exists: choose another `output`, or use `overwrite`")
    if not output.parent.is_dir():
        raise UsageError(f"{output.parent}: no such folder")
    found: dict[str, Tensor] = {}
    for path in files:
        found |= _read_checkpoint(path)
    try:
        card, tensors = convert(checkpoint_kind, found)
    except WeightsError as error:
        raise WeightsError(
            f"{', '.join(map(str, files))}: not a checkpoint of kind '{checkpoint_kind}': {error}"
        ) from error
    training = {
        "imported": checkpoint_kind,
        "source": PUBLISHED[checkpoint_kind].source,
        "files": {path.name: file_sha256(path) for path in files},
    }
    kept = (torch.float16, torch.float32)
    plain = {
        name: (value if value.dtype in kept else value.float()).contiguous()
        for name, value in tensors.items()
    }
    with replacing(output) as part:
        save_file(plain, part, {KEY: replace(card, name=output.stem, training=training).to_json()})
    return ImportedWeights(
        path=str(output),
        kind=checkpoint_kind,
        network=card.network,
        tensors=len(tensors),
        parameters=sum(int(t.numel()) for t in tensors.values()),
        ignored=len(found) - len(tensors),
        sha256=file_sha256(output),
    )


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch checkpoint (.pt, .pth, .ckpt) or safetensors file, by name.

    Also finds a state dict inside a training checkpoint, and the tensors of a pickled module.
    Raises WeightsError for a file that is unreadable or has no tensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except (SafetensorError, OSError, EOFError) as error:
        raise WeightsError(f"{path}: cannot be read ({first_line(error)})") from error
    except Exception as error:  # an UnpicklingError, or any error from damaged bytes
        try:
            content = pickled.tensors(path)
        except Exception:  # whatever a damaged or foreign file leads to
            raise WeightsError(
                f"{path}: not a checkpoint of plain tensors, or damaged"
                f" ({type(error).__name__}): save only its state dict,"
                " torch.save(model.state_dict(), FILE)"
            ) from error
    while isinstance(content, Mapping):
        inner = [content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)]
        if not inner:
            break
        content = inner[0]
    items = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(name): value for name, value in items if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: contains no tensors by name")
    return tensors


def convert(kind: str, found: Tensors) -> tuple[Card, dict[str, Any]]:
    """The card and the renamed tensors of a published state dict. Raises WeightsError."""
    known = PUBLISHED[kind]
    tensors = known.rename(found)
    card = known.card
    if known.config is not None:
        config = known.config(tensors)
        card = replace(card, config=config, channels=config["c_in"])
    fits(card, tensors)
    return card, tensors


def _bare(found: Tensors) -> dict[str, Any]:
    """The state dict unchanged, or without the prefix of DataParallel."""
    if all(name.startswith("module.") for name in found):
        return {name.removeprefix("module."): value for name, value in found.items()}
    return dict(found)


def _averaged(found: Tensors) -> dict[str, Any]:
    """The EMA weights of a latent-diffusion checkpoint, whose names lack the dots.

    The names come from the raw weights, `model.diffusion_model.*`, which have them.
    """
    tensors = {}
    for name in found:
        if name.startswith("model.diffusion_model."):
            inner = name.removeprefix("model.")
            average = "model_ema." + inner.replace(".", "")
            if average not in found:
                raise WeightsError(f"no averaged weights: '{name}' exists, but not '{average}'")
            tensors[inner.removeprefix("diffusion_model.")] = found[average]
    if not tensors:
        raise WeightsError("no tensor 'model.diffusion_model.*' was found")
    return tensors


def _inception(found: Tensors) -> dict[str, Any]:
    """The tensors without classifiers and batch normalisation counters."""
    return {
        name: value
        for name, value in found.items()
        if not name.startswith(("fc.", "AuxLogits.")) and not name.endswith("num_batches_tracked")
    }


def _alexnet(found: Tensors) -> dict[str, Any]:
    """The convolutions from one file and the linear heads from the other."""
    return {name: found[name] for name in found if name.startswith(("features.", "lin"))}


def _resnet(found: Tensors) -> dict[str, Any]:
    """The tensors without batch counters. The file counts steps from 0, its card from 1."""
    tensors = {k: v for k, v in _bare(found).items() if not k.endswith("num_batches_tracked")}
    if "head.2.bias" not in tensors:
        raise WeightsError("no tensor 'head.2.bias' was found")
    return tensors | {"head.2.bias": tensors["head.2.bias"].float() + 1}


def _rscd_config(tensors: Tensors) -> dict[str, Any]:
    """The network's size; its base width is the training image size and so varies."""
    try:
        init_dim, c_in = tensors["init_conv.weight"].shape[:2]
        dim = tensors["time_mlp.1.weight"].shape[1]
        wide = tensors["downs.0.0.net.1.weight"].shape[0]
        widths: list[int] = []
        while (name := f"downs.{len(widths)}.0.net.4.weight") in tensors:
            widths.append(tensors[name].shape[0])
        return {
            "c_in": c_in,
            "dim": dim,
            "init_dim": init_dim,
            "dim_mults": [width // dim for width in widths],
            "convnext_mult": wide // widths[0],
        }
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise WeightsError(f"its tensors do not fit this U-Net ({error})") from error


PUBLISHED = {
    "rscd": PublishedModel(  # a state dict of the public training code
        Card(
            name="rscd",
            task="prior",
            network="convnext",
            parametrisation="eps",
            time="index",
            schedule="rscd",
            channels=2,
            sigma_max=round(float(schedule("rscd").sigma(200)), 6),  # trained up to T' = 200
            window=256,
            value_range="uint16-centred",
            licence=_STATED,
        ),
        _bare,
        "https://github.com/MLNeurosurg/restorative_step-calibrated_diffusion",
        _rscd_config,
    ),
    "rscd-calibrator": PublishedModel(  # classifier4kcosine500.pt, a pickled module
        Card(
            name="rscd-calibrator",
            task="calibrator",
            network="resnet50",
            config={"c_in": 2, "output": "step"},
            schedule="rscd",
            objective="calibrator",
            channels=2,
            sigma_max=round(float(schedule("rscd").sigma(501)), 6),  # indices 0..500
            value_range="uint16-centred",
            licence=_STATED,
        ),
        _resnet,
        "https://github.com/MLNeurosurg/restorative_step-calibrated_diffusion",
    ),
    "msdsr": PublishedModel(  # the averaged weights of the Lightning checkpoint
        Card(
            name="msdsr",
            task="slices",
            network="adm",
            parametrisation="eps",
            time="index",
            schedule="cosine",
            objective="slices",
            channels=2,
            sigma_max=round(float(schedule("cosine").sigma(999)), 6),
            window=48,
            value_range="uint16-unit",
            recipe="srh-3",
            licence=_STATED,
        ),
        _averaged,
        "https://github.com/MLNeurosurg/msdsr",
    ),
    "inception-fid": PublishedModel(  # pt_inception-2015-12-05-6726825d.pth
        Card(
            name="inception-fid",
            task="features",
            network="inception",
            objective="",
            channels=3,
            value_range="unit",
            licence=_STATED,
        ),
        _inception,
        "https://github.com/mseitzer/pytorch-fid",
    ),
    "alexnet-lpips": PublishedModel(  # alexnet-owt-7be5be79.pth and lpips' v0.1/alex.pth
        Card(
            name="alexnet-lpips",
            task="distance",
            network="alexnet",
            objective="",
            channels=3,
            value_range="centred",
            licence=_STATED,
        ),
        _alexnet,
        "https://github.com/richzhang/PerceptualSimilarity",
    ),
}
