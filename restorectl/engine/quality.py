"""A classifier that tells patches of chosen quality from random ones (paper 000, section 3.2).

Random patches hold good ones too, so a patch as likely to be chosen as not, score 0.5, is good.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restorectl.core.crops import Crops
from restorectl.core.recipe import Data, Optimiser, Select
from restorectl.engine.augment import clean
from restorectl.engine.fit import State, World, fit, generator
from restorectl.engine.nets.calibrator import Calibrator

Scorer = Callable[[Crops], list[float]]  # patches -> a score in [0, 1] each
CPU = torch.device("cpu")
TURNED = Data(gamma=(0.5, 0.5), gain=(1.0, 1.0), offset=(0.0, 0.0), flips=True)
AS_IS = Data(gamma=(0.5, 0.5), gain=(1.0, 1.0), offset=(0.0, 0.0), flips=False)


def scorer(
    good: Callable[[int], Crops], every: Callable[[int], Crops], options: Select, seed: int
) -> Scorer:
    """Train on `good` against `every`, each a function of the step giving options.batch // 2
    patches, and return the scoring function. On the CPU in float32."""
    half = options.batch // 2
    labels = (torch.arange(2 * half) < half).float()
    torch.manual_seed(seed)
    channels = good(1).pixels.shape[1]
    net = Calibrator(channels, channels=(24, 48, 64), hidden=32, output="step", steps=1)

    def loss(model: nn.Module, step: int, index: int, drawn: torch.Generator) -> Tensor:
        x = torch.cat([clean(load(step), TURNED, drawn) for load in (good, every)])
        return F.binary_cross_entropy_with_logits(model(x), labels, reduction="none")

    work = Optimiser(
        steps=options.steps,
        batch=2 * half,
        micro_batch=2 * half,
        lr=options.lr,
        warmup=min(20, options.steps // 2),
        ema=0.98,
    )
    state = State(net, work)
    for _ in fit(state, loss, work, seed, torch.float32, World()):
        pass

    def scores(patches: Crops) -> list[float]:
        with torch.inference_mode():
            logits: Tensor = state.average(clean(patches, AS_IS, generator(CPU, "unused")))
            return [float(score) for score in logits.sigmoid()]

    return scores
