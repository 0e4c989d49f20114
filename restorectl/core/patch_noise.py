"""Noise level of white noise from the eigenvalues of patches (Chen, Zhu and Heng, ICCV 2015).

Clean patches lie near a subspace, so the smallest eigenvalues of the patch covariance are the
noise's alone and scatter around its variance: the largest set of them whose mean equals its median
tells the level. It needs no weights; it is the non-parametric calibrator of paper 000's ablation.
"""

import numpy as np

PATCH = 8  # px
STEP = 3  # px between patches


def level(image: np.ndarray) -> float:
    """Standard deviation of the noise in image (Y, X) or (C, Y, X), in the image's units.

    Sides are at least PATCH px. Noise shared by neighbouring pixels is underestimated.
    """
    planes = image[None] if image.ndim == 2 else image
    views = np.lib.stride_tricks.sliding_window_view(planes, (PATCH, PATCH), (1, 2))
    patches = views[:, ::STEP, ::STEP].transpose(1, 2, 0, 3, 4)
    data = patches.reshape(-1, len(planes) * PATCH**2).astype(np.float64)
    data -= data.mean(0)
    values = np.linalg.eigvalsh(data.T @ data / len(data))  # ascending
    for count in range(len(values), 0, -1):
        mean = values[:count].mean()
        if (values[:count] > mean).sum() >= (values[:count] < mean).sum():
            return float(np.sqrt(max(mean, 0.0)))
    return float(np.sqrt(max(values[0], 0.0)))
