"""How options of the command line are declared, and the options that several commands share.

`option` declares one option: its default, help, names and panel, and how its text is converted to a
value of the job. `command` converts a function to a command; each parameter is an option or a group
of options. A group is a frozen dataclass, usually the part of the job that it fills.
"""

import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer

from restorectl.catalog import CALIBRATORS, Row
from restorectl.cli import layout
from restorectl.cli.progress import reporting, show_tracebacks
from restorectl.errors import UsageError, did_you_mean
from restorectl.jobs import Compute, Files, NoiseOptions, WeightsOptions

if TYPE_CHECKING:
    from restorectl.cli.progress import Terminal

FILES, COMPUTE, OUTPUT, MODELS = "Files", "Computation", "Reporting", "Models"
NOISE, UNATTENDED = "Camera noise", "Unattended runs"
MODEL = "MODEL"  # how a model is named
AXIS_LETTERS = "TCZYXS"
SCHEDULES = ("rscd", "cosine", "cosine200", "linear")
VARIANCES = ("analytic", "ancestral")
METAVAR = 22  # letters of choices that are shown beside an option; more are shown as NAME
Names = Mapping[str, str] | Mapping[str, Row]  # each with its help


# ---- declaring -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Option:
    """How the user gives one parameter of a command, and its help."""

    default: Any  # ... = required
    help: str
    names: tuple[str, ...]  # if none is long, --parameter-name is added
    panel: str | None
    choices: Mapping[str, str]  # each with its help, or ""; empty = any value of the type
    parse: Callable[[str, str], Any] | None  # (option, text) -> value; raises UsageError
    often: bool  # shown by -h
    complete: Callable[[], Iterable[str]] | None  # values that shells offer
    shown: Mapping[str, Any]  # metavar; min, max: limits of a number; above: one it must exceed
    is_argument: bool = False

    def typed(self, name: str, kind: Any) -> inspect.Parameter:
        """The parameter as typer needs it: a flag, text or several texts.

        kind: the type of its values. All are converted by `value`, so that errors have our words.
        """
        flag = kind is bool
        several = get_origin(kind) is tuple and self.parse is None
        default = self.default if flag else inspect.Parameter.empty if self.required else None
        declared = typer.Argument if self.is_argument else typer.Option
        names = () if self.is_argument else self._names(name)
        more: Any = {} if flag else {"autocompletion": self._completed}
        info = declared(*names, help=self.help, metavar=self.shown.get("metavar"), **more)
        text: Any = list[str] if several else str
        return inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[bool if flag else text if self.required else text | None, info],
        )

    def value(self, name: str, kind: Any, given: Any) -> Any:
        """Convert the value from typer to that of the job. Raises UsageError."""
        if given is None or given == []:
            given = self.default
        if isinstance(given, list | tuple):
            return tuple(Path(each) if Path in get_args(kind) else each for each in given)
        if not isinstance(given, str):
            return given
        where = self.shown.get("metavar", name) if self.is_argument else self._names(name)[-1]
        kinds = {kind, *get_args(kind)}
        if self.parse is not None:
            value = self.parse(where, given)
            for each in value if self.choices else ():
                one_of(where, each, self.choices)
            return value
        if self.choices:
            return one_of(where, given, self.choices)
        if kinds & {int, float}:
            return number(where, given, float if float in kinds else int, self.shown)
        return Path(given) if Path in kinds else given

    def from_yaml(self, value: Any, where: str) -> Any:
        """The value of a key of --config as typer gives it. Raises UsageError."""
        several = isinstance(value, list)
        if isinstance(self.default, bool) != isinstance(value, bool) or (
            isinstance(value, dict) or value is None
        ):
            wanted = "true or false" if isinstance(self.default, bool) else "a value"
            raise UsageError(f"{where}: must be {wanted}, not {value!r}")
        if isinstance(value, bool):
            return value
        if several and not isinstance(self.default, tuple):
            return ",".join(map(str, value))
        texts = [str(each) for each in value] if several else [str(value)]
        return texts if isinstance(self.default, tuple) else texts[0]

    @property
    def required(self) -> bool:
        return self.default is ...

    def long(self, name: str) -> str:
        """The option's long name."""
        return next(each for each in self._names(name) if each.startswith("--")).split("/")[0]

    def described(self, name: str, short: bool = False) -> str:
        """The option's lines in the help; short: choices only by name."""
        metavar, text = self.shown.get("metavar", ""), self.help
        if self.choices and not metavar:
            metavar = "|".join(self.choices)
            metavar = metavar if len(metavar) <= METAVAR else "NAME"
        elif not metavar and not isinstance(self.default, bool):
            metavar = "N" if {"min", "max", "above"} & self.shown.keys() else "TEXT"
        names = metavar if self.is_argument else f"{', '.join(self._names(name))} {metavar}"
        if self.required and not self.is_argument:
            text += " Required."
        elif isinstance(self.default, str | float | int) and not isinstance(self.default, bool):
            default = f"{self.default:g}" if isinstance(self.default, float) else self.default
            text += "" if "Default:" in text else f" Default: {default}."
        named = {} if short else {name: each for name, each in self.choices.items() if each}
        if metavar == "NAME" and not named:
            text += f" One of: {', '.join(self.choices)}."
        return layout.entry(names.strip(), text + (layout.choices(named) if named else ""))

    def _completed(self, incomplete: str) -> list[tuple[str, str]]:
        """What a shell offers: of names separated by commas, the last is completed."""
        known = self.choices or dict.fromkeys(self.complete() if self.complete else (), "")
        done, comma, last = (
            incomplete.rpartition(",") if self.parse is names else ("", "", incomplete)
        )
        return [
            (done + comma + each, text) for each, text in known.items() if each.startswith(last)
        ]

    def _names(self, name: str) -> tuple[str, ...]:
        if any(each.startswith("--") for each in self.names):
            return self.names
        return (*self.names, "--" + name.replace("_", "-"))


def option(
    default: Any,
    help: str,
    *names: str,
    panel: str | None = None,
    choices: Iterable[str] | Names = (),
    parse: Callable[[str, str], Any] | None = None,
    often: bool = False,
    complete: Callable[[], Iterable[str]] | None = None,
    **shown: Any,
) -> Any:
    """Declare an option, as the default of a command's parameter or of a group's field."""
    rows: Any = choices if isinstance(choices, Mapping) else dict.fromkeys(choices, "")
    helps = {name: row.help if isinstance(row, Row) else row for name, row in rows.items()}
    return Option(default, help, names, panel, helps, parse, often, complete, shown)


def argument(
    default: Any, help: str, metavar: str, complete: Callable[[], Iterable[str]] | None = None
) -> Any:
    """Declare a positional argument in the same way."""
    shown = {"metavar": metavar}
    return Option(default, help, (), None, {}, None, True, complete, shown, is_argument=True)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Convert a function for typer: one option per parameter and per field of a group."""
    declared: dict[str, tuple[Any, Any]] = {}  # an Option and the type of its values
    groups = {}
    for name, each in inspect.signature(function).parameters.items():
        if isinstance(each.default, Option):
            declared[name] = each.default, each.annotation
        else:
            groups[name] = each.annotation
            declared |= {f.name: (f.default, f.type) for f in fields(each.annotation)}
    # of all commands; the functions do not see them
    every = {"config": (CONFIG, str | None), "debug": (DEBUG, bool)}

    def run(*, debug: bool, config: str | None, **given: Any) -> None:
        if debug:
            show_tracebacks()
        values = {n: declared[n][0].value(n, declared[n][1], each) for n, each in given.items()}
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in fields(group)})
        function(**values)

    parameters = [each.typed(name, kind) for name, (each, kind) in (declared | every).items()]
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    own = {name: each for name, (each, _) in declared.items()}
    vars(run).update(options=own, shown=own | {name: each for name, (each, _) in every.items()})
    return run


# ---- parsing text --------------------------------------------------------------------------------
def one_of(option: str, text: str, known: Iterable[str]) -> str:
    """Parse one of the known names. Raises UsageError."""
    if text not in known:
        near = did_you_mean(text, known)
        raise UsageError(f"{option} {text}: use one of {', '.join(known)}{near}")
    return text


def number(option: str, text: str, kind: type[float], limits: Mapping[str, float]) -> float:
    """Parse a whole number (`kind` int) or a finite one within limits. Raises UsageError."""
    try:
        value = kind(text)
        finite = math.isfinite(value)
    except (ValueError, OverflowError) as error:
        what = "a whole number" if kind is int else "a number"
        raise UsageError(f"{option} {text[:40]}: not {what}") from error
    low, high, above = (limits.get(name) for name in ("min", "max", "above"))
    if not finite:
        raise UsageError(f"{option} {text}: must be finite")
    if above is not None and value <= above:
        raise UsageError(f"{option} {text}: must be above {above:g}")
    if (low is not None and value < low) or (high is not None and value > high):
        limit = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
        raise UsageError(f"{option} {text}: must be {limit}")
    return value


def automatic(option: str, text: str) -> int | None:
    """Parse `auto` to None, or a positive whole number. Raises UsageError."""
    return None if text == "auto" else count(option, text, "auto")


def count(option: str, text: str, word: str) -> int:
    """Parse a positive whole number; `word`: what else the option takes. Raises UsageError."""
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise UsageError(f"{option} {text}: use {word} or a whole number of at least 1")
    return int(text)


def names(_option: str, text: str) -> tuple[str, ...]:
    """Parse names separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def channel_list(option: str, text: str) -> tuple[int | str, ...]:
    """Parse numbers or names of channels separated by commas. Raises UsageError."""
    found = tuple(int(each) if each.isdecimal() else each for each in names(option, text))
    if not found:
        raise UsageError(f"{option} {text}: use numbers or names and commas, e.g. 0,2 or DAPI")
    return found


def axis_letters(option: str, text: str) -> str:
    """Parse the letters of dimensions. Raises UsageError."""
    letters = text.upper()
    wrong = [each for each in letters if each not in AXIS_LETTERS]
    if wrong:
        raise UsageError(f"{option} {text}: '{wrong[0]}' is none of {', '.join(AXIS_LETTERS)}")
    if len(set(letters)) < len(letters) or not {"Y", "X"} <= set(letters):
        raise UsageError(f"{option} {text}: name Y, X and each other letter once, e.g. ZYX")
    return letters


def share(option: str, text: str) -> float:
    """Parse a number between 0 and 1. Raises UsageError."""
    value = number(option, text, float, {"above": 0})
    if value >= 1:
        raise UsageError(f"{option} {text}: must be below 1, e.g. 0.9")
    return value


def auto_or_number(option: str, text: str) -> float | None:
    """Parse `auto` to None, or a number from 0 to 1. Raises UsageError."""
    return None if text == "auto" else number(option, text, float, {"min": 0, "max": 1})


def corner(option: str, text: str) -> tuple[int, int]:
    """Parse a row and a column. Raises UsageError."""
    row, comma, column = text.partition(",")
    if not (comma and row.strip().isdecimal() and column.strip().isdecimal()):
        raise UsageError(f"{option} {text}: use a row and a column, e.g. 512,256")
    return int(row), int(column)


def size(option: str, text: str) -> int:
    """Parse 5G, 300M or a number to bytes; K, M, G, T are powers of 1024. Raises UsageError."""
    number, power = text.upper().removesuffix("B").removesuffix("I"), 0
    if number[-1:] in ("K", "M", "G", "T"):
        number, power = number[:-1], "KMGT".index(number[-1]) + 1
    try:
        value = float(number)
    except ValueError as error:
        raise UsageError(
            f"{option} {text}: use a number of bytes, or a size such as 500M or 5G"
        ) from error
    if not 0 <= value < float("inf"):
        raise UsageError(f"{option} {text}: must be at least 0")
    return int(value * 1024**power)


def shard(text: str | None, inputs: tuple[str, ...], files_from: str | None) -> tuple[int, int]:
    """Parse --shard I/N to (I, N); None = the number of the SLURM array task. Raises UsageError.

    If each task of an array gets a single image, there is nothing to divide.
    """
    environment = os.environ
    if text is None:
        one = len(inputs) == 1 and files_from is None and not os.path.isdir(inputs[0])
        if one or not environment.get("SLURM_ARRAY_TASK_COUNT"):
            return 1, 1
        names = ("ID", "MIN", "STEP", "COUNT")
        values = [environment.get(f"SLURM_ARRAY_TASK_{name}", "1") for name in names]
        if not all(value.isdecimal() for value in values):
            raise UsageError(
                "SLURM_ARRAY_TASK_ID, _MIN, _STEP or _COUNT is not a number: use --shard I/N"
            )
        task, first, step, count = map(int, values)
        index, rest = divmod(task - first, max(step, 1))
        if rest or not 0 <= index < count:
            raise UsageError(
                f"SLURM_ARRAY_TASK_ID {task}: does not fit an array of {count} tasks:"
                " use --array 1-N, or --shard I/N"
            )
        return index + 1, count
    try:
        one_of, count = (int(part) for part in text.split("/"))
    except ValueError as error:
        raise UsageError(f"--shard {text}: use I/N, e.g. 1/4") from error
    return one_of, count


# ---- options of several commands -----------------------------------------------------------------
def model_names() -> list[str]:
    """Names of models, for shells."""
    from restorectl.weights.registry import models

    return list(models())


INPUTS = argument((), "Images, or folders (searched with their subfolders).", "INPUTS...")
RESULTS = option(
    ...,
    "Output folder, created if needed; files keep their names and relative paths. A single input"
    " can also have an image file as output.",
    *("-o", "--output"),
    metavar="OUT",
    often=True,
)
WEIGHTS_HELP = (
    "The model: a name that `restorectl weights list` shows, a file, or"
    " hf://org/name[@revision]/file.safetensors."
)
OWN_WEIGHTS = option(
    None,
    f"{WEIGHTS_HELP} Default: conditional if that is chosen, otherwise prior.",
    "-w",
    metavar=MODEL,
    complete=model_names,
    often=True,
)
STRENGTH = option(
    1.0,
    "Factor on the noise level: below 1 removes less, above 1 more; at most 10.",
    min=0.0,
    max=10.0,
    often=True,
)
PATTERN = option(
    None,
    "In folders, use only files with names like this, e.g. '*.tif'.",
    panel=FILES,
    metavar="PATTERN",
    often=True,
)
EXCLUDE = option(
    (),
    "In folders, leave out files and subfolders with names or relative paths like this, e.g."
    " '*_raw.tif'. Can be repeated.",
    panel=FILES,
    metavar="PATTERN",
)
FILES_FROM = option(
    None,
    "Read more inputs from a file or from standard input (-), one path per line or separated by"
    " NUL.",
    panel=FILES,
    metavar="FILE|-",
)
AXES = option(
    None,
    "The dimensions of the images in order, e.g. ZYX, if the files do not record them. Letters:"
    " T time, C channel, Z, Y, X, S colour sample.",
    panel=FILES,
    parse=axis_letters,
    metavar="LETTERS",
)
SERIES = option(
    None,
    "Which of several images in a file: its number, counted from 0, or its name; all: each of them,"
    " with a result of its own.",
    metavar="all|N|NAME",
    panel=FILES,
)
CHANNELS = option(
    None,
    "Process only these channels, by number, counted from 0, or by name; the others are copied"
    " unchanged.",
    panel=FILES,
    parse=channel_list,
    metavar="0,2|NAMES",
)
DEVICE = option(
    "auto",
    "Processor; auto: a CUDA GPU if there is one, then Apple's (mps), else the CPU.",
    panel=COMPUTE,
    metavar="auto|cpu|cuda[:N]|mps",
)
THREADS = option(
    "auto",
    "Tiles, and small images, processed at a time on a CPU. auto: the cores this process may use."
    " Affects speed and memory, not the result.",
    panel=COMPUTE,
    parse=automatic,
    metavar="auto|N",
)
SEED = option(0, "Seed of the random numbers.", panel=COMPUTE, metavar="N")
INVALID = option(
    "auto",
    "Pixels that are no measurements: left out of all fits and copied unchanged. auto: constant"
    " areas with a sharp edge (borders, masks, scale bars), saturated areas, NaN; VALUE: pixels"
    " of this value, and NaN.",
    panel=NOISE,
    metavar="auto|none|VALUE",
)
HOT_PIXELS = option(
    "auto",
    "auto repairs hot and dead pixels, rows and columns; keep treats them as measured.",
    panel=NOISE,
    choices=("auto", "keep"),
)
JSON = option(False, "Print one line of JSON per file on standard output.", "--json", panel=OUTPUT)
PREVIEW = option(
    False,
    "Also write STEM_preview.png beside each result: before, after, their difference, and the"
    " noise level.",
    panel=OUTPUT,
)
CONFIG = option(
    None,
    "Defaults for options, in sections by command: `restore: {min-free: 5G, quiet: true}`. Options"
    " on the command line win.",
    panel=OUTPUT,
    metavar="FILE.yaml",
)
DEBUG = option(False, "Print the traceback of every file that fails.", panel=OUTPUT)
QUIET = option(False, "Print only errors.", "-q", panel=OUTPUT, often=True)


def weights_option(default: str) -> Any:
    """-w of a command that has one default model."""
    return option(default, WEIGHTS_HELP, "-w", metavar=MODEL, complete=model_names, often=True)


@dataclass(frozen=True)
class Machine(Compute):
    """Where and how to compute."""

    device: str = DEVICE
    precision: str = option(
        "auto",
        "Number format in the network; auto: bf16 if the processor is fast with it, else fp32.",
        panel=COMPUTE,
        choices=("auto", "bf16", "fp32"),
    )
    threads: int | None = THREADS
    batch: int | None = option(
        "auto",
        "Largest number of tiles in one call on a GPU; auto: as many as its free memory holds. On a"
        " CPU it is always one.",
        panel=COMPUTE,
        parse=automatic,
        metavar="auto|N",
    )
    compile: bool = option(
        False,
        "Compile the network first: takes up to minutes, and is faster for many images on a GPU.",
        panel=COMPUTE,
    )
    seed: int = SEED


@dataclass(frozen=True)
class Models(WeightsOptions):
    """Where models come from."""

    registry: str | None = option(
        None,
        "Your own models by name, in addition to the packaged ones; equal names replace them. Can"
        " also be set as RESTORECTL_WEIGHTS=FILE.",
        panel=MODELS,
        metavar="FILE.yaml",
    )
    offline: bool = option(
        False, "Never use the network; models must be on this machine already.", panel=MODELS
    )


@dataclass(frozen=True)
class Camera(NoiseOptions):
    """The noise of the camera."""

    kind: str = option(
        "auto",
        "Noise model.",
        "--noise",
        panel=NOISE,
        choices={
            "auto": "estimated from the image",
            "gaussian": "the same everywhere",
            "poisson-gaussian": "of photons and electronics",
            "none": "the image has no noise and stays as it is",
        },
    )
    gain: float | None = option(None, "Grey levels per photo-electron.", panel=NOISE, above=0)
    offset: float | None = option(None, "Grey level in the dark.", panel=NOISE, metavar="N")
    read_noise: float | None = option(
        None, "Standard deviation of the noise in the dark, in grey levels.", panel=NOISE, min=0
    )
    destripe: str = option(
        "auto",
        "auto removes offsets that whole rows or columns share, and periodic electrical patterns.",
        panel=NOISE,
        choices=("auto", "off"),
    )
    invalid: str = INVALID
    hot_pixels: str = HOT_PIXELS
    camera: str | None = option(
        None,
        "Your camera, measured pixel by pixel: the file that `restorectl calibrate --camera"
        " DARK_DIR -o camera.yaml` makes; see `restorectl docs cameras`.",
        panel=NOISE,
        metavar="FILE.yaml",
    )
    offset_map: str | None = option(
        None,
        "Without such a file: grey level of each pixel in the dark.",
        panel=NOISE,
        metavar="FILE.tif",
    )
    gain_map: str | None = option(
        None, "Grey levels per photo-electron of each pixel.", panel=NOISE, metavar="FILE.tif"
    )
    variance_map: str | None = option(
        None,
        "Variance of each pixel in the dark, in squares of grey levels.",
        panel=NOISE,
        metavar="FILE.tif",
    )
    camera_corner: tuple[int, int] = option(
        "0,0",
        "Row and column of the camera, counted from 0, at which images begin that show a region of"
        " it.",
        panel=NOISE,
        parse=corner,
        metavar="ROW,COLUMN",
    )
    excess_noise: float | None = option(
        None,
        "Factor on the variance of light: 2 for an EMCCD camera with EM gain. Default: of the"
        " camera file, or 1.",
        panel=NOISE,
    )

    def __post_init__(self) -> None:
        """Raises UsageError for numbers of a noise model that is not used."""
        unused = {"none": ("gain", "offset", "read_noise"), "gaussian": ("gain",)}
        for name in unused.get(self.kind, ()):
            if getattr(self, name) is not None:
                raise UsageError(
                    f"`{name}` {getattr(self, name):g} has no effect with `kind` {self.kind}: leave"
                    " one of them out"
                )


START_STEP = option(
    None,
    "Start from this diffusion step, the same for every image, in place of a measured noise level."
    " The sampler rscd then takes T steps.",
    metavar="T",
    min=1,
)


def context(default: str) -> Any:
    """--context of a command with this default."""
    return option(
        default,
        "Planes next to a plane in depth (z) and time (t) that are averaged with it where they show"
        " the same.",
        choices={
            "auto": "where that is predicted to help",
            "none": "every plane alone",
            "z": "always those in depth",
            "t": "always those in time",
            "zt": "always both",
        },
        often=True,
    )


REACH = option(2, "How many neighbours on each side --context looks at.", min=1, metavar="N")
ORIENTATIONS = option(
    1,
    "8: the mean over four rotations of the image, each also mirrored; about 0.1 dB better, for"
    " eight times the network calls.",
    metavar="1|8",
)
DTYPE = option(
    "same",
    "Data type of the results.",
    choices={
        "same": "the input's; integers are dithered where noise is below one grey level, so that"
        " mean intensities stay",
        "float32": "not rounded; PNG and JPEG become TIFF",
    },
)
CALIBRATOR = option(
    "analytic", "How the noise level to start from is measured.", choices=CALIBRATORS
)
CALIBRATOR_WEIGHTS = option(
    None,
    "Model of --calibrator network. Default: calibrator.",
    metavar=MODEL,
    complete=model_names,
)


@dataclass(frozen=True)
class Shared:
    """The options of all commands that turn images into images."""

    axes: str | None = AXES
    series: str | None = SERIES
    to: str | None = option(
        None,
        "Format of the results in an output folder. Default: that of the input, or TIFF where it is"
        " only read.",
        panel=FILES,
        choices=("ome-zarr", "ome-tiff"),
    )
    pyramid: bool = option(
        False,
        "Write TIFF as BigTIFF in tiles with smaller copies of each plane, for viewers of large"
        " images.",
        panel=FILES,
    )
    channels: tuple[int, ...] | None = CHANNELS
    pattern: str | None = PATTERN
    exclude: tuple[str, ...] = EXCLUDE
    files_from: str | None = FILES_FROM
    shard: str | None = option(
        None,
        "Process only part I of N of the files: those of a list (--files-from) are spread by size,"
        " those in folders by name. Default: the part of this SLURM array task, or all.",
        panel=FILES,
        metavar="I/N",
    )
    dask: str | None = option(
        None,
        "Let the workers of a dask cluster do it, on many machines: the address of its scheduler,"
        " or local:N for N processes here. Several images: one each; one image: its regions. See"
        " `restorectl docs clusters`.",
        panel=COMPUTE,
        metavar="ADDRESS|local:N",
    )
    overwrite: bool = option(
        False,
        "Also replace existing files that restorectl did not write.",
        panel=FILES,
        often=True,
    )
    keep_old: bool = option(
        False,
        "Keep outputs of an earlier version of restorectl. By default they are made again if pixels"
        " have changed since.",
        panel=FILES,
    )
    min_age: float = option(
        0.0,
        "Leave inputs that changed less than this long ago for a later run.",
        panel=UNATTENDED,
        metavar="SECONDS",
        min=0.0,
    )
    defer_for: float = option(
        3600.0,
        "Leave incomplete inputs that changed less than this long ago for a later run; older ones"
        " count as failed.",
        panel=UNATTENDED,
        metavar="SECONDS",
        min=0.0,
    )
    min_free: int = option(
        "0",
        "Disk space to keep free in the output folder, e.g. 5G; the run stops with exit code 73"
        " rather than use it.",
        panel=UNATTENDED,
        parse=size,
        metavar="SIZE",
    )
    max_memory: int | None = option(
        "auto",
        "Memory that the run may take, e.g. 4G: fewer images at a time, and none that needs more."
        " auto: what the machine and the limits of its containers or jobs leave free.",
        panel=COMPUTE,
        parse=lambda name, text: None if text == "auto" else size(name, text),
        metavar="auto|SIZE",
    )
    max_failures: int | None = option(
        None, "Stop after N files have failed.", panel=UNATTENDED, metavar="N", min=1
    )
    fail_fast: bool = option(False, "Stop after the first file that fails.", panel=UNATTENDED)
    dry_run: bool = option(
        False,
        "Show what would be done, without writing anything.",
        "-n",
        panel=OUTPUT,
        often=True,
    )
    probe: bool = option(
        False, "With --dry-run: time an excerpt, and estimate how long the run takes.", panel=OUTPUT
    )
    json_lines: bool = JSON
    quiet: bool = QUIET
    log_format: str = option(
        "text",
        "Format of the messages on standard error; json: one JSON object per line.",
        panel=OUTPUT,
        choices=("text", "json"),
    )
    manifest: str | None = option(
        None,
        "Write a JSON record of what was done to each file, and how.",
        panel=OUTPUT,
        metavar="FILE.json",
        often=True,
    )

    def files(self, inputs: tuple[str, ...], output: str) -> Files:
        """The job's input and output files. Raises UsageError."""
        if self.probe and not self.dry_run:
            raise UsageError("--probe: works only together with --dry-run")
        return Files(
            inputs=inputs,
            output=output,
            pattern=self.pattern,
            exclude=self.exclude,
            files_from=self.files_from,
            shard=shard(self.shard, inputs, self.files_from),
            dask=self.dask,
            overwrite=self.overwrite,
            keep_old=self.keep_old,
            axes=self.axes,
            series=self.series,
            to=self.to,
            pyramid=self.pyramid,
            channels=self.channels,
            dry_run=self.dry_run,
            manifest=self.manifest,
            min_age=self.min_age,
            defer_for=self.defer_for,
            min_free=self.min_free,
            max_memory=self.max_memory,
            max_failures=1 if self.fail_fast else self.max_failures,
            probe=self.probe,
        )

    def reporting(self) -> AbstractContextManager["Terminal"]:
        """Shows the run on the terminal or as JSON, and holds its exit code."""
        return reporting(
            quiet=self.quiet,
            json_lines=self.json_lines,
            json_log=self.log_format == "json",
            plan=self.dry_run,
        )
