"""The plain way to count objects: smooth, Otsu's threshold, connected regions (scikit-image)."""

from typing import Any

import numpy as np

from restorectl.core.objects import Labels, without_small
from restorectl.errors import UsageError

SMOOTHING = 1.0  # px, in the plane: without it every noisy pixel would be an object
LEAST = 16  # px, the smallest object that counts


def require() -> None:
    """Raises UsageError where scikit-image is not installed; to be called before long work."""
    _library()


def objects(image: np.ndarray) -> Labels:
    """Labels of the bright objects of (Y, X) or, touching through depth too, (Z, Y, X).

    Otsu's threshold is the image's own, so gain and offset do not matter; objects that touch by
    a corner are one; smaller than LEAST pixels is noise. A constant image has none.
    """
    filters, measure = _library()
    sigma = (0.0,) * (image.ndim - 2) + (SMOOTHING, SMOOTHING)
    smooth = filters.gaussian(image.astype(np.float64), sigma=sigma, preserve_range=True)
    if smooth.min() == smooth.max():
        return np.zeros(image.shape, np.int64)
    found = measure.label(smooth > filters.threshold_otsu(smooth), connectivity=image.ndim)
    return without_small(found, LEAST)


def _library() -> tuple[Any, Any]:
    try:
        from skimage import filters, measure
    except ImportError as error:
        raise UsageError(
            '--segment needs scikit-image: python -m pip install "restorectl[evaluate]"'
        ) from error
    return filters, measure
