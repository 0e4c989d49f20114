"""The methods of `denoise` (rows of catalog.DENOISERS): which weights, which numbers."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from restorectl.engine import conditional as ddpm
from restorectl.engine import mixing as baikal
from restorectl.engine import posterior as draws
from restorectl.engine.samplers import Sampler


@dataclass(frozen=True)
class Program:
    """A method: its settings by preset, and the sampler that they make."""

    task: str  # what its weights are for; the name of the embedded ones
    presets: Mapping[str, Any]  # restorectl, paper -> a frozen dataclass
    make: Callable[[Any, int], Sampler]  # (settings, samples)


_PAPER = baikal.Settings(start=100, steps=None, eta=1.0, known=False, clamp=True)

posterior = Program("prior", {"restorectl": draws.Settings()}, draws.sampler)
conditional = Program(
    "conditional",
    {
        "restorectl": ddpm.Settings(),
        "paper": ddpm.Settings(steps=200, clamp=True, highest=math.inf),
    },
    ddpm.sampler,
)
forward_backward = Program(
    "prior",
    {"restorectl": baikal.Settings(ahead=1.1, steps=5), "paper": _PAPER},
    baikal.sampler,
)
mix = Program(
    "prior",
    {
        "restorectl": baikal.Settings(ahead=1.5, steps=8, mix="linear", first=0.7, last=0.5),
        # The published code's defaults: weights from 1 to 0.1, stop at step 50.
        "paper": replace(_PAPER, mix="linear", first=1.0, last=0.1, stop=50),
    },
    baikal.sampler,
)
repaint = Program(
    "prior",
    {
        "restorectl": baikal.Settings(
            ahead=1.1, steps=4, mix="constant", first=0.3, stop=1, interval=2, repeats=2
        ),
        # As published for structured noise: 560 calls.
        "paper": replace(
            _PAPER,
            start=120,
            mix="linear",
            first=0.05,
            last=0.01,
            stop=10,
            interval=5,
            repeats=5,
            repeat_below=False,
        ),
    },
    baikal.sampler,
)
