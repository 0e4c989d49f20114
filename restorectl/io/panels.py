"""Images as PNG pictures in memory: grey and colour in a range, differences in red and blue."""

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from restorectl.io.png_chunks import encode

Range = tuple[float, float]
RED, BLUE = (178, 24, 43), (33, 102, 172)  # ends of the diverging scale; white in the middle
HEAT = (
    (0, 0, 4),
    (87, 16, 110),
    (188, 55, 84),
    (249, 142, 9),
    (252, 255, 164),
)  # even in luminance


def grey(image: NDArray[np.floating[Any]], shown: Range) -> bytes:
    """PNG of (Y, X), or of colours (Y, X, 3): `shown` goes from black to white, 8 bit."""
    low, high = shown
    scaled = (image - low) / (high - low) if high > low else np.zeros(image.shape)
    return _png(np.rint(255 * np.clip(scaled, 0, 1)))


def difference(image: NDArray[np.floating[Any]], limit: float) -> bytes:
    """PNG of differences (Y, X): -limit blue, 0 white, +limit red; beyond them the end colours."""
    share = np.clip(image / limit, -1, 1)[..., None] if limit > 0 else np.zeros((*image.shape, 1))
    end = np.where(share > 0, np.array(RED), np.array(BLUE))
    return _png(np.rint(255 + np.abs(share) * (end - 255)))


def heat(image: NDArray[np.floating[Any]], top: float) -> bytes:
    """PNG of magnitudes (Y, X): 0 black, `top` bright yellow."""
    share = np.clip(image / top, 0, 1) if top > 0 else np.zeros(image.shape)
    stops = np.linspace(0, 1, len(HEAT))
    colours = np.array(HEAT, np.float64)
    return _png(np.rint(np.stack([np.interp(share, stops, c) for c in colours.T], axis=-1)))


def data_uri(png: bytes) -> str:
    """A PNG as the address of an image inside a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _png(values: NDArray[np.floating[Any]]) -> bytes:
    return b"".join(encode(np.ascontiguousarray(values.astype(np.uint8)), ()))
