"""Arrays that may be larger than memory: in an unnamed temporary file beside the output."""

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from restorectl.io.atomic import output_error

HELD = 1 << 30  # bytes; larger arrays go to the disk


def zeros(
    shape: tuple[int, ...], folder: Path, held: int = HELD
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 zeros. A file has no name and goes with the process; its room is reserved at once.

    Raises DiskFullError or OutputError where there is no room.
    """
    size = math.prod(shape) * 4
    if size <= held:
        return np.zeros(shape, np.float32)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk would be met as a bus error
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        raise output_error(error, folder) from error
