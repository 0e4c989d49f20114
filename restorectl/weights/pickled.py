"""The tensors of a pickled PyTorch module, without running any code of the file.

`torch.save(model, FILE)` pickles the module itself, whose classes may be anything. Here no class or
function of the file is ever looked up: tensors are built from the file's bytes, everything else
becomes an inert `Part` that only keeps the values it is given.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
}


class Part:
    """Stands for any object of the file that is no tensor."""

    def __init__(self, *values: Any, **named: Any) -> None:
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass  # an entry of a mapping of another class


def tensors(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of the module in a file by torch.save, by their state dict names.

    Raises ValueError, KeyError or pickle.UnpicklingError for any other file.
    """
    with zipfile.ZipFile(path) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith("/data.pkl")]
        content = Reader(archive, name.removesuffix("data.pkl")).load()
    found = dict(_named(content, ""))
    if not found:
        raise ValueError("no tensors")
    return found


def _named(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a module and its submodules."""
    state = getattr(module, "state", None)
    if not isinstance(state, dict):
        raise ValueError(f"'{prefix}' is no module")
    for group in ("_parameters", "_buffers"):
        for name, value in state.get(group, {}).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
    for name, inner in state.get("_modules", {}).items():
        if inner is not None:
            yield from _named(inner, f"{prefix}{name}.")


class Reader(pickle.Unpickler):
    """Reads the pickle of an archive; `folder` holds the bytes of its tensors."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self.archive, self.folder = archive, folder
        self.loaded: dict[str, Tensor] = {}  # by key; tensors may share their bytes

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a class or function of the file."""
        return KNOWN.get((module, name), name if name in DTYPES else Part)

    def persistent_load(self, pid: Any) -> Tensor:
        """The stored numbers (N,) that a tensor is a view of."""
        kind, storage, key, _device, count = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"unknown entry '{kind}'")
        if key not in self.loaded:
            data = bytearray(self.archive.read(f"{self.folder}data/{key}"))
            self.loaded[key] = torch.frombuffer(data, dtype=DTYPES[storage], count=count)
        return self.loaded[key]


def _view(
    stored: Tensor, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_rest: Any
) -> Tensor:
    """torch.as_strided refuses what lies outside of the stored numbers."""
    return torch.as_strided(stored, tuple(shape), tuple(strides), offset).clone()


KNOWN = {
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_rest: tensor,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}
