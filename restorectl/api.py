"""restorectl from Python: the commands `restore`, `denoise`, `uncertainty`, `superres3d` on arrays.

Each function gives the pixels of the command of its name, to the bit: it takes the same way, from
an array in place of a file. `estimate_noise` gives the noise models of `calibrate`.

array: anything with a shape, a numpy dtype and slicing, such as numpy, dask and zarr arrays and
memory maps, of integers or floats. It is read lazily, a region of a plane at a time and some
regions more than once, and never modified.

axes: a letter for each axis, in order: T time, C channel, Z, Y, X, S colour sample; the last are
YX, or YX with S beside them, as in "YX", "TCZYX", "YXS".

channels: those to process, counted from 0; None = all, the others are copied.

out: where results are written instead of into a new numpy array: an array of the result's shape
and dtype that can be assigned to, plane by plane, such as a zarr array or a memory map.

options: those of the command that are not about files, with underscores: `steps=4`,
`device="cuda"`, `noise="gaussian"`, `read_noise=3.0`; `restorectl COMMAND --help` lists them.

What the command prints as a warning of a file is a Python warning. Errors are subclasses of
`restorectl.errors.RestorectlError`, with one line of text: UsageError (an option), InputError (the
array), WeightsError (the model), EngineError (memory). An unknown option is a TypeError.
"""

import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from inspect import signature
from operator import gt, le, lt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from restorectl.batch.outcome import Outcome, Silent
from restorectl.catalog import methods
from restorectl.errors import UsageError
from restorectl.images.arrays import ArrayImage, ArrayLike, place
from restorectl.images.header import Header, sizes
from restorectl.jobs import (
    CalibrateJob,
    Compute,
    DenoiseJob,
    Files,
    NoiseOptions,
    OwnTraining,
    RestoreJob,
    SuperresJob,
    UncertaintyJob,
    WeightsOptions,
)
from restorectl.restoration.planes import Planes

PARTS = {
    "compute": Compute,
    "noise": NoiseOptions,
    "weights_from": WeightsOptions,
    "training": OwnTraining,
}
# fields that are no options
OF_FILES = ("files", "step_map", "preview", "guide", "keep_samples", "fit_on", "csv", "plot")


class Uncertainty(NamedTuple):
    """Maps of the shape of the input: see `uncertainty`."""

    mean: Any
    std: Any
    entropy: Any
    lower: Any
    upper: Any


def restore(
    array: ArrayLike,
    axes: str,
    *,
    channels: Sequence[int] | None = None,
    out: Any = None,
    **options: Any,
) -> Any:
    """Remove noise: the best estimate of the clean image, as `restorectl restore` gives it.

    array, axes, channels, out, options: see `restorectl.api`. Returns an array of the input's
    shape and dtype (`dtype="float32"`: unrounded), in the input's units; or `out`.

    The noise is estimated from the image, whitened, and removed by a diffusion model that starts at
    this noise level (step-calibrated diffusion, RSCD; DDIM: Song et al. 2021).

    Raises UsageError, InputError, WeightsError, EngineError; TypeError for an unknown option.
    """
    from restorectl.restoration.restore import work

    job = _job("restore", RestoreJob, axes, channels, options)
    return _restored(work(job), ArrayImage(array, axes), [out])[0]


def denoise(
    array: ArrayLike,
    axes: str,
    *,
    channels: Sequence[int] | None = None,
    out: Any = None,
    guide: ArrayLike | str | None = None,
    **options: Any,
) -> Any:
    """Remove noise with a choice of published methods, as `restorectl denoise` does.

    array, axes, channels, out, options: see `restorectl.api`; `method="mixing"`, `mix="linear"` and
    others as in `restorectl denoise --help`. guide: another method's result for the same image, an
    array of the same shape, or a method that makes it first, such as "n2v"; for noise2noise the
    second exposure. Returns an array of the input's shape and dtype, in its units; or `out`.

    Methods: conditional DDPM (DDPM microscopy, Osuna-Vargas et al.), forward-backward, mixing,
    repaint (Baikal), the posterior of the default model, classical ones, and those that train a
    network on the array itself, with `train_steps=1000`, `minutes`, `cache` and `mask`.

    Raises UsageError, InputError, WeightsError, EngineError; TypeError for an unknown option.
    """
    from restorectl.cli.denoise import settings
    from restorectl.restoration.denoise import work

    given = _checked("denoise", options)
    own = {name: given.pop(name) for name in signature(settings).parameters if name in given}
    known = methods("denoise")
    if isinstance(guide, str) and guide not in known:
        raise UsageError(f"`guide` {guide}: is not an array, nor one of {', '.join(known)}")
    hint = None if guide is None or isinstance(guide, str) else ArrayImage(guide, axes, "guide")
    more = {"settings": settings(**own), "guide": guide if hint is None else "guide"}
    job = _job("denoise", DenoiseJob, axes, channels, given, **more)
    return _restored(work(job), ArrayImage(array, axes), [out], hint)[0]


def uncertainty(
    array: ArrayLike,
    axes: str,
    *,
    channels: Sequence[int] | None = None,
    **options: Any,
) -> Uncertainty:
    """Restore many times: the mean, the spread, and error bars, as `restorectl uncertainty` does.

    array, axes, channels, options: see `restorectl.api`; `samples=15`, `interval=0.9` and others as
    in `restorectl uncertainty --help`. Returns five numpy arrays of the input's shape: `mean` in
    its dtype, the maps float32 (or float64, where that cannot hold the values); `std`, `lower`,
    `upper` in the input's units, `entropy` in nats; NaN where pixels are copied.

    Many samples of the posterior (DDPM microscopy, Osuna-Vargas et al., eq. 15 and 16); `lower` and
    `upper` are calibrated so that the true value lies between them with the probability `interval`.

    Raises UsageError, InputError, WeightsError, EngineError; TypeError for an unknown option.
    """
    from restorectl.restoration.uncertainty import PRODUCTS, work

    report = Silent()
    made = work(_job("uncertainty", UncertaintyJob, axes, channels, options), report)
    _warn(note.removeprefix("warning: ") for note in report.notes)
    return Uncertainty(*_restored(made, ArrayImage(array, axes), [None] * len(PRODUCTS)))


def superres3d(
    array: ArrayLike,
    axes: str,
    *,
    spacing: tuple[float, float, float] | None = None,
    factor: int | None = None,
    channels: Sequence[int] | None = None,
    out: Any = None,
    **options: Any,
) -> Any:
    """Make a stack isotropic: fill in planes between the recorded ones, as `restorectl superres3d`.

    array, axes (with Z), channels, out, options: see `restorectl.api`. spacing: micrometres between
    planes, rows and columns. factor: planes of the result per recorded plane, 1 to 8; None = what
    makes the spacing isotropic. Returns an array like the input, but with (N - 1) * factor + 1
    planes for N, the recorded ones unchanged; or `out`. A result that is too large for memory is
    held in the folder of temporary files (TMPDIR) while it is made.

    XZ and YZ slices are filled in by a diffusion model that was trained on 2D images (MSDSR).

    Raises UsageError, InputError (also if neither spacing nor factor is given), WeightsError,
    EngineError; TypeError for an unknown option.
    """
    from restorectl.volumes.superres3d import work

    given = {**options, "spacing": spacing, "factor": factor}
    job = _job("superres3d", SuperresJob, axes, channels, given)
    volumes, image = work(job), ArrayImage(array, axes)
    header, outcome = volumes.header(image), Outcome("array", "", "planned")
    target = _target(header, header.dtype, out)
    folder = Path(tempfile.gettempdir())
    planes = volumes.planes(image, folder, outcome)
    for plane, values in zip(header.planes, planes, strict=True):
        target[place(header, plane)] = values
    _warn(outcome.warnings)
    return target


def estimate_noise(
    array: ArrayLike,
    axes: str,
    *,
    channels: Sequence[int] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Estimate the noise of each channel from the image alone, as `restorectl calibrate` does.

    array, axes, channels: see `restorectl.api`. options: `device`, `gain`, `offset`, `read_noise`
    and the others of `restorectl calibrate --help` under "Camera noise".

    Returns a row for each channel, and for each group of planes if their noise differs: `channel`
    (number), `planes` (in words), and the fields of `restorectl.intensity.noise.NoiseModel`:
    `kind`, `gain` (grey levels per photo-electron), `offset`, `read_noise` (grey levels),
    `correlation` of neighbouring pixels, `belief` (0 to 1), `level` (what a denoiser of white noise
    is told, as a factor on the standard deviation; above 1 for correlated noise) and more. The
    variance of a pixel at a signal s is gain * (s - offset) + read_noise^2.

    Raises UsageError, InputError, WeightsError; TypeError for an unknown option.
    """
    from restorectl.restoration.calibrate import noise_models

    job = _job("calibrate", CalibrateJob, axes, channels, options)
    rows, told = noise_models(ArrayImage(array, axes), job)
    _warn(told)
    return rows


# ---- the way of the commands ---------------------------------------------------------------------
LIMITS = (("min", lt, "at least"), ("max", gt, "at most"), ("above", le, "above"))


def _checked(command: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Option values by job field; text is parsed as on the command line.

    Raises TypeError for an unknown option, UsageError for a wrong value.
    """
    declared = getattr(import_module(f"restorectl.cli.{command}"), command).options
    given = {}
    for name, value in options.items():
        field = "kind" if name == "noise" else name
        if field not in declared:
            raise TypeError(f"{command}() got an unexpected keyword argument '{name}'")
        option = declared[field]
        if option.parse is not None and isinstance(value, str):
            value = option.parse(f"`{name}`", value)
        if option.choices and value not in (None, *option.choices):
            raise UsageError(f"`{name}` {value}: use one of {', '.join(option.choices)}")
        for end, wrong, words in LIMITS:
            if value is not None and end in option.shown and wrong(value, option.shown[end]):
                raise UsageError(f"`{name}` {value}: must be {words} {option.shown[end]}")
        given[field] = value
    return given


def _job(
    command: str,
    kind: type,
    axes: str,
    channels: Sequence[int] | None,
    options: Mapping[str, Any],
    **fixed: Any,
) -> Any:
    """The job of a command. Raises TypeError for an unknown option, else as `_checked`."""
    names = {field.name for field in fields(kind)}
    parts = {name: part for name, part in PARTS.items() if name in names}
    of_parts = {field.name for part in parts.values() for field in fields(part)}
    known = (of_parts | names) - {*OF_FILES, *parts, *fixed}
    given = _checked(command, options)
    for name in given:
        if name not in known:
            raise TypeError(f"{command}() got an unexpected keyword argument '{name}'")
    made = {
        name: part(**{f.name: given.pop(f.name) for f in fields(part) if f.name in given})
        for name, part in parts.items()
    }
    files = Files((), "", axes=axes, channels=None if channels is None else tuple(channels))
    return kind(files=files, **made, **given, **fixed)


def _restored(
    work: Planes, image: ArrayImage, outs: Sequence[Any], guide: ArrayImage | None = None
) -> list[Any]:
    """The products of an image, each in its target; None = a new numpy array."""
    header, outcome = image.header, Outcome("array", "", "planned")
    kinds = work.restorer.dtypes(header)
    targets = [_target(header, dtype, out) for dtype, out in zip(kinds, outs, strict=True)]
    if work.first is not None:  # it makes the guide
        (made,) = _restored(work.first, image, [None])
        guide = ArrayImage(made, image.header.axes, "guide")
    if guide is not None:
        guide.header.require_same_shape(guide.path, header, image.path)
    fitted = work.fit(image, outcome, guide)
    for plane, rows, products in work.restored(fitted, outcome, guide):
        for target, values in zip(targets, products, strict=True):
            target[place(header, plane, rows)] = values
    _warn(outcome.warnings, 4)
    return targets


def _target(header: Header, dtype: np.dtype[Any], out: Any) -> Any:
    """Where a result goes. Raises UsageError for an array that does not fit."""
    if out is None:
        return np.empty(header.shape, dtype)
    if tuple(out.shape) != header.shape or np.dtype(out.dtype) != dtype:
        raise UsageError(
            f"out: is {out.dtype} {sizes(tuple(out.shape))}, but the result is {dtype}"
            f" {sizes(header.shape)}: make an array like that"
        )
    return out


def _warn(texts: Iterable[str], depth: int = 3) -> None:
    """Python warnings at the line of the caller `depth` functions above."""
    for text in texts:
        warnings.warn(text, stacklevel=depth)
