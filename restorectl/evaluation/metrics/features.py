"""Metrics that need networks: LPIPS, and the features whose distributions FID compares."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorectl.engine.card import Card
from restorectl.engine.denoiser import Denoiser, build
from restorectl.engine.runner import pick_device
from restorectl.evaluation.metrics.metric import (
    Array,
    Compute,
    Features,
    MetricNetwork,
    PairedMetric,
    SetMetric,
    Undefined,
)
from restorectl.evaluation.metrics.paired import require_range

Tensors = Mapping[str, Tensor]
BATCH = 16
SMALLEST = 31  # px, the smallest plane for LPIPS
LEVEL = 0.1  # noise level given to the prior; no noise is added to the image
TILE = 256  # px, the largest tile that passes the prior


def perceptual(card: Card, tensors: Tensors, device: str) -> Compute:
    """LPIPS of grey planes, as three equal channels.

    0 to the data range becomes [-1, 1], clipped; if the target exceeds the data range, its smallest
    value takes the place of 0.
    """
    where = pick_device(device)
    net = build(card, dict(tensors)).net.to(where).eval()

    def compute(prediction: Array, target: Array, data_range: float) -> float:
        """planes (Y, X) in grey levels -> distance, 0 for equal planes."""
        require_range(data_range)
        if min(target.shape) < SMALLEST:
            raise Undefined(f"planes under {SMALLEST} px are too small for LPIPS")
        dark = float(target.min()) if target.max() > data_range else 0.0
        both = torch.from_numpy(np.stack([prediction, target])[:, None].astype(np.float32))
        x = ((both - dark) / data_range * 2 - 1).clamp(-1, 1).expand(-1, 3, -1, -1).to(where)
        with torch.inference_mode():
            return float(net(x[:1], x[1:])[0])

    return compute


def inception(card: Card, tensors: Tensors, device: str) -> Features:
    """The 2048 pooled features of Inception-v3 of grey or colour; grey becomes three channels."""
    where = pick_device(device)
    net = build(card, dict(tensors)).net.to(where).eval()
    return partial(_batched, lambda x: net(x.expand(-1, 3, -1, -1)), where)


def prior(card: Card, tensors: Tensors, device: str) -> Features:
    """Spatial means of the prior's activations at its coarsest level, for the noise level 0.1.

    Larger planes are cut into tiles of 256 px side by side, whose means are averaged; a rest at the
    right and the bottom is not used.
    """
    where = pick_device(device)
    denoiser = build(card, dict(tensors)).prepared(where, torch.float32)
    return partial(_batched, partial(_coarsest, denoiser), where)


def _coarsest(denoiser: Denoiser, x: Tensor) -> Tensor:
    """x (B, 1, H, W) in [0, 1] -> (B, D)."""
    if min(x.shape[-2:]) < denoiser.stride:
        raise Undefined(f"planes under {denoiser.stride} px are too small for the prior's features")
    rows, cols = (min(TILE, n // denoiser.stride * denoiser.stride) for n in x.shape[-2:])
    columns = F.unfold(x, (rows, cols), stride=(rows, cols))  # (B, rows * cols, N)
    tiles = columns.transpose(1, 2).reshape(-1, 1, rows, cols) * 2 - 1  # in [-1, 1]
    means = torch.cat([_middle(denoiser, part) for part in tiles.split(BATCH)])
    return means.reshape(len(x), -1, means.shape[1]).mean(1)


class _Reached(Exception):
    """Ends a forward pass once the wanted activations (B, D, h, w) are known."""


def _middle(denoiser: Denoiser, x: Tensor) -> Tensor:
    """x (B, 1, H, W) in [-1, 1] -> spatial means (B, D) after the last middle block."""

    def stop(_block: nn.Module, _inputs: object, out: Tensor) -> None:
        raise _Reached(out)

    *_, last = denoiser.net.get_submodule("middle").children()
    hook = last.register_forward_hook(stop)
    try:
        denoiser(x, torch.full((len(x),), LEVEL, device=x.device))
    except _Reached as reached:
        activations: Tensor = reached.args[0]
    finally:
        hook.remove()
    return activations.float().mean((2, 3))


def _batched(run: Callable[[Tensor], Tensor], where: torch.device, planes: Array) -> Array:
    """planes (P, Y, X) or, in colour, (P, 3, Y, X), float64 in [0, 1] -> (P, D) float64."""
    parts: list[Any] = []
    images = planes if planes.ndim == 4 else planes[:, None]
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            x = torch.from_numpy(images[start : start + BATCH].astype(np.float32))
            parts.append(run(x.to(where)).double().cpu().numpy())
    return np.concatenate(parts)


LPIPS = PairedMetric(
    "lpips",
    "lower",
    None,
    network=MetricNetwork("alexnet-lpips", "`alexnet`", "distance", perceptual),
)
FID = SetMetric("fid", MetricNetwork("inception-fid", "`inception`", "features", inception))
SLICE_FID = SetMetric(
    "slice-fid", MetricNetwork("inception-fid", "`inception`", "features", inception), slices=True
)
SLICE_FID_COLOUR = replace(SLICE_FID, name="slice-fid-colour", colour=True)
FRECHET_PRIOR = SetMetric("frechet-prior", MetricNetwork("prior", "", "prior", prior))
