"""What an option of the command line is, and the options that several commands share.

`option` declares one: its default, its help, its names, its panel, and how what was typed becomes
the value of a job. `command` makes a command of a function whose parameters are options or groups
of options; a group is a frozen dataclass, most of them the very part of the job that they fill.
"""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Annotated, Any, get_args, get_origin

import typer

from restorectl.catalog import CALIBRATORS, Row
from restorectl.cli.progress import Terminal, reporting
from restorectl.errors import UsageError
from restorectl.jobs import Compute, Files, NoiseOptions, WeightsOptions

FILES, COMPUTE, OUTPUT, MODELS = "Files", "Computation", "Reporting", "Models"
NOISE, UNATTENDED = "Noise of the camera", "Unattended runs"
MODEL = "NAME|FILE|hf://..."  # how a model is named
SCHEDULES = ("rscd", "cosine", "cosine200", "linear")
VARIANCES = ("analytic", "ancestral")


# ---- declaring -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Option:
    """How one parameter of a command is typed and explained."""

    default: Any  # ... = must be given
    help: str
    names: tuple[str, ...]  # without a long one: --parameter-name besides
    panel: str | None
    choices: tuple[str, ...]  # empty = any value of the parameter's type
    parse: Callable[[str, str], Any] | None  # (option, text) -> value; raises UsageError
    shown: Mapping[str, Any]  # metavar, min, max
    is_argument: bool = False

    def typed(self, name: str, kind: Any) -> inspect.Parameter:
        """The parameter, whose values are of type `kind`, as typer takes it from the user."""
        if self.parse is not None:
            kind = str
        elif get_origin(kind) is tuple:
            kind = list[get_args(kind)[0]]  # type: ignore[misc]
        elif self.choices:
            kind = _enumeration(name, self.choices)
        empty = self.default is None or self.default == ()
        default = (
            None if empty else inspect.Parameter.empty if self.default is ... else self.default
        )
        declared = typer.Argument if self.is_argument else typer.Option
        names = () if self.is_argument else self._names(name)
        info = declared(*names, help=self.help, rich_help_panel=self.panel, **self.shown)
        return inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind | None if empty else kind, info],
        )

    def value(self, name: str, given: Any) -> Any:
        """What typer hands over, as the job takes it. Raises UsageError."""
        if given is None:
            return self.default
        if self.choices:
            return given.value
        if self.parse is not None:
            return self.parse(self._names(name)[-1], given)
        return tuple(given) if isinstance(given, list) else given

    def _names(self, name: str) -> tuple[str, ...]:
        if any(each.startswith("--") for each in self.names):
            return self.names
        return (*self.names, "--" + name.replace("_", "-"))


def _enumeration(name: str, choices: Iterable[str]) -> type[StrEnum]:
    return StrEnum(name, list(choices))  # type: ignore[misc, return-value, unused-ignore]


def option(
    default: Any,
    help: str,
    *names: str,
    panel: str | None = None,
    choices: Iterable[str] = (),
    parse: Callable[[str, str], Any] | None = None,
    **shown: Any,
) -> Any:
    """An option, to stand as the default of a parameter of a command or of a group's field."""
    return Option(default, help, names, panel, tuple(choices), parse, shown)


def argument(default: Any, help: str, metavar: str) -> Any:
    """The same for what is typed without an option's name."""
    return Option(default, help, (), None, (), None, {"metavar": metavar}, is_argument=True)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """`function` as typer takes it: an option for each parameter, and each field of its groups."""
    declared: dict[str, tuple[Any, Any]] = {}  # an Option and the type of its values
    groups = {}
    for name, each in inspect.signature(function).parameters.items():
        if isinstance(each.default, Option):
            declared[name] = each.default, each.annotation
        else:
            groups[name] = each.annotation
            declared |= {f.name: (f.default, f.type) for f in fields(each.annotation)}

    def run(**given: Any) -> None:
        values = {name: declared[name][0].value(name, each) for name, each in given.items()}
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in fields(group)})
        function(**values)

    parameters = [each.typed(name, kind) for name, (each, kind) in declared.items()]
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def explained(table: Mapping[str, Row]) -> str:
    """The help lines of a catalog table, in one."""
    return " · ".join(f"{name}: {row.help}" for name, row in table.items())


# ---- what is typed as text -----------------------------------------------------------------------
def automatic(option: str, text: str) -> int | None:
    """`auto` as None, else a positive number. Raises UsageError."""
    return None if text == "auto" else count(option, text, "auto")


def count(option: str, text: str, word: str) -> int:
    """A positive number, where `word` could stand instead. Raises UsageError."""
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{option} {text}: use {word} or a whole number of at least 1")
    return int(text)


def names(_option: str, text: str) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers between commas. Raises UsageError."""
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text}: use numbers such as 0,2") from error


def size(option: str, text: str) -> int:
    """`5G`, `300M` or a number as bytes; K, M, G and T are powers of 1024. Raises UsageError."""
    number, power = text.upper().removesuffix("B").removesuffix("I"), 0
    if number[-1:] in ("K", "M", "G", "T"):
        number, power = number[:-1], "KMGT".index(number[-1]) + 1
    try:
        value = float(number)
    except ValueError as error:
        raise UsageError(f"{option} {text}: use bytes, or a size such as 500M or 5G") from error
    if not 0 <= value < float("inf"):
        raise UsageError(f"{option} {text}: must be at least 0")
    return int(value * 1024**power)


def shard(text: str | None, inputs: tuple[str, ...], files_from: str | None) -> tuple[int, int]:
    """--shard as (I, N); None = the task of a SLURM array. Raises UsageError.

    An array that hands each task one image of its own shares nothing.
    """
    environment = os.environ
    if text is None:
        one = len(inputs) == 1 and files_from is None and not os.path.isdir(inputs[0])
        if one or not environment.get("SLURM_ARRAY_TASK_COUNT"):
            return 1, 1
        names = ("ID", "MIN", "STEP", "COUNT")
        values = [environment.get(f"SLURM_ARRAY_TASK_{name}", "1") for name in names]
        if not all(value.isdecimal() for value in values):
            raise UsageError("SLURM_ARRAY_TASK_ID: is no number here: use --shard I/N")
        task, first, step, count = map(int, values)
        index, rest = divmod(task - first, max(step, 1))
        if rest or not 0 <= index < count:
            raise UsageError(
                f"SLURM_ARRAY_TASK_ID {task}: does not count the {count} tasks of its array:"
                " use --array 1-N, or --shard I/N"
            )
        return index + 1, count
    try:
        one_of, count = (int(part) for part in text.split("/"))
    except ValueError as error:
        raise UsageError(f"--shard {text}: use I/N, e.g. 1/4") from error
    return one_of, count


# ---- options of several commands -----------------------------------------------------------------
INPUTS = argument((), "Images, or folders that are searched recursively.", "INPUTS...")
RESULTS = option(
    ...,
    "Folder (made if needed; inputs keep their relative paths and names) or, for one input, an"
    " image file.",
    *("-o", "--output"),
    metavar="OUT",
)
WEIGHTS_HELP = "Model: its name, a file, or hf://org/name[@revision]/file.safetensors."
OWN_WEIGHTS = option(
    None,
    f"{WEIGHTS_HELP} Default: the embedded one, `conditional` for what is called so, else `prior`.",
    "-w",
    metavar=MODEL,
)
STRENGTH = option(1.0, "Factor on the noise level that is removed.", min=0.0, max=10.0)
PATTERN = option(None, "Take only names like this from folders, e.g. '*.tif'.", panel=FILES)
FILES_FROM = option(
    None,
    "Read further inputs from a file or standard input, one a line (or NUL-separated).",
    panel=FILES,
    metavar="FILE|-",
)
AXES = option(
    None,
    "What the file's dimensions are, e.g. ZYX, where the file does not say."
    " Letters: T C Z Y X, S = colour samples.",
    panel=FILES,
)
CHANNELS = option(
    None,
    "Restore only these channels, counted from 0; others are copied unchanged.",
    panel=FILES,
    parse=numbers,
    metavar="0,2",
)
DEVICE = option("auto", "Where to compute.", panel=COMPUTE, metavar="auto|cpu|cuda[:N]|mps")
SEED = option(0, "Seed of stochastic samplers.", panel=COMPUTE)
JSON = option(False, "One JSON line a file on stdout.", "--json", panel=OUTPUT)
QUIET = option(False, "Print nothing but errors.", "-q", panel=OUTPUT)


def weights_option(default: str) -> Any:
    """-w of a command whose model has a name of its own."""
    return option(default, WEIGHTS_HELP, "-w", metavar=MODEL)


@dataclass(frozen=True)
class Machine(Compute):
    """Where and how to compute."""

    device: str = DEVICE
    precision: str = option(
        "auto",
        "auto: bf16 where the device multiplies it fast, else fp32.",
        panel=COMPUTE,
        choices=("auto", "bf16", "fp32"),
    )
    batch: int | None = option(
        "auto",
        "Most tiles in one network call. Only memory and speed depend on it.",
        panel=COMPUTE,
        parse=automatic,
        metavar="auto|N",
    )
    seed: int = SEED


@dataclass(frozen=True)
class Models(WeightsOptions):
    """Where models come from."""

    registry: str | None = option(
        None,
        "Further models by name, over those of the package. Also: RESTORECTL_WEIGHTS=FILE.",
        panel=MODELS,
        metavar="FILE.yaml",
    )
    offline: bool = option(False, "Never use the network: models must be here.", panel=MODELS)


@dataclass(frozen=True)
class Camera(NoiseOptions):
    """The noise of the image."""

    kind: str = option(
        "auto",
        "auto estimates the noise from the image; none removes nothing.",
        "--noise",
        panel=NOISE,
        choices=("auto", "gaussian", "poisson-gaussian", "none"),
    )
    gain: float | None = option(None, "Grey levels for each photo-electron.", panel=NOISE)
    offset: float | None = option(None, "Grey level without light.", panel=NOISE)
    read_noise: float | None = option(
        None, "Standard deviation without light, grey levels.", panel=NOISE
    )


CALIBRATOR = option(
    "analytic",
    "What decides the level to start from. " + explained(CALIBRATORS),
    choices=CALIBRATORS,
)
CALIBRATOR_WEIGHTS = option("calibrator", "Weights of the network calibrator.", metavar=MODEL)


@dataclass(frozen=True)
class Shared:
    """The options of every command that makes images of images."""

    axes: str | None = AXES
    channels: tuple[int, ...] | None = CHANNELS
    pattern: str | None = PATTERN
    files_from: str | None = FILES_FROM
    shard: str | None = option(
        None,
        "Work on the I-th of N parts of the files. Default: the task of a SLURM array, else all.",
        panel=FILES,
        metavar="I/N",
    )
    overwrite: bool = option(False, "Also replace files we did not write.", panel=FILES)
    min_age: float = option(
        0.0,
        "Leave inputs that were changed more lately than this for a later run.",
        panel=UNATTENDED,
        metavar="SECONDS",
        min=0.0,
    )
    defer_for: float = option(
        3600.0,
        "An incomplete input is left for a later run while it is younger than this; then it has"
        " failed.",
        panel=UNATTENDED,
        metavar="SECONDS",
        min=0.0,
    )
    min_free: int = option(
        "0",
        "Keep so much of the outputs' disk free, e.g. 5G; else stop with exit code 73.",
        panel=UNATTENDED,
        parse=size,
        metavar="SIZE",
    )
    max_failures: int | None = option(
        None, "Stop when N files have failed.", panel=UNATTENDED, metavar="N", min=1
    )
    fail_fast: bool = option(False, "The same with N = 1.", panel=UNATTENDED)
    dry_run: bool = option(False, "Say what would be done, write nothing.", "-n", panel=OUTPUT)
    probe: bool = option(
        False, "With --dry-run: time one window, and say how long the run takes.", panel=OUTPUT
    )
    json_lines: bool = JSON
    quiet: bool = QUIET
    log_format: str = option(
        "text",
        "Of the messages on stderr; json: one line each.",
        panel=OUTPUT,
        choices=("text", "json"),
    )
    manifest: str | None = option(
        None,
        "Write what was done to each file, and how, as JSON.",
        panel=OUTPUT,
        metavar="FILE.json",
    )

    def files(self, inputs: tuple[str, ...], output: str) -> Files:
        """Which files, and where to. Raises UsageError."""
        if self.probe and not self.dry_run:
            raise UsageError("--probe: goes with --dry-run")
        return Files(
            inputs=inputs,
            output=output,
            pattern=self.pattern,
            files_from=self.files_from,
            shard=shard(self.shard, inputs, self.files_from),
            overwrite=self.overwrite,
            axes=self.axes,
            channels=self.channels,
            dry_run=self.dry_run,
            manifest=self.manifest,
            min_age=self.min_age,
            defer_for=self.defer_for,
            min_free=self.min_free,
            max_failures=1 if self.fail_fast else self.max_failures,
            probe=self.probe,
        )

    def reporting(self) -> AbstractContextManager[Terminal]:
        """What shows the run, and the exit code at its end."""
        return reporting(
            quiet=self.quiet,
            json_lines=self.json_lines,
            json_log=self.log_format == "json",
            plan=self.dry_run,
        )
