"""Weights that a command asked for, checked to be of the kind that it needs."""

from restorectl.core.jobs import WeightsOptions
from restorectl.errors import WeightsError
from restorectl.io import weights as weights_io
from restorectl.io.weights import Weights


def load(name: str, task: str, options: WeightsOptions | None = None) -> Weights:
    """Weights for a task, by name or file. Raises WeightsError for those of another."""
    weights = weights_io.load(name, options)
    if weights.card.task != task:
        raise WeightsError(f"weights '{name}' are for {weights.card.task}: a {task} is needed here")
    return weights
