"""Options that several commands share, declared once; choices and help come from the catalog.

Texts of the command line as values: shards and sizes.

The options of every command that makes images of images, declared once and taken as one.

The options of every command that runs a model, declared once and taken as one.
"""

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from restorectl.catalog import CALIBRATORS, Row, methods
from restorectl.errors import UsageError
from restorectl.jobs import Compute, Files, NoiseOptions, WeightsOptions


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


Noise = StrEnum("Noise", ["auto", "gaussian", "poisson-gaussian", "none"])
Precision = StrEnum("Precision", ["auto", "bf16", "fp32"])
Sampler = StrEnum("Sampler", list(methods("restore")))  # type: ignore[misc]
Calibrator = StrEnum("Calibrator", list(CALIBRATORS))  # type: ignore[misc]
Level = StrEnum("Level", ["image", "map"])
Schedule = StrEnum("Schedule", ["rscd", "cosine", "cosine200", "linear"])
Preset = StrEnum("Preset", ["restorectl", "paper", "official"])


WHOLE = 1 << 20  # px: no plane is larger
FILES, COMPUTE, OUTPUT, MODELS = "Files", "Computation", "Reporting", "Models"
NOISE = "Noise of the camera"

Inputs = Annotated[
    list[str] | None,
    typer.Argument(metavar="INPUTS...", help="Images, or folders that are searched recursively."),
]
Output = Annotated[
    str,
    typer.Option(
        "-o",
        "--output",
        metavar="OUT",
        help="Folder (made if needed; inputs keep their relative paths and names) or,"
        " for one input, an image file.",
    ),
]
Pattern = Annotated[
    str | None,
    typer.Option(
        help="Take only names like this from folders, e.g. '*.tif'.", rich_help_panel=FILES
    ),
]
FilesFrom = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|-",
        help="Read further inputs from a file or standard input, one a line (or NUL-separated).",
        rich_help_panel=FILES,
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Work on the I-th of N parts of the files. Default: the task of a SLURM array, else"
        " all.",
        rich_help_panel=FILES,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Also replace files we did not write.", rich_help_panel=FILES),
]
Axes = Annotated[
    str | None,
    typer.Option(
        help="What the file's dimensions are, e.g. ZYX, where the file does not say."
        " Letters: T C Z Y X, S = colour samples.",
        rich_help_panel=FILES,
    ),
]
Channels = Annotated[
    str | None,
    typer.Option(
        metavar="0,2",
        help="Restore only these channels, counted from 0; others are copied unchanged.",
        rich_help_panel=FILES,
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        "-w",
        "--weights",
        metavar="NAME|FILE|hf://...",
        help="Model: its name, a file, or hf://org/name[@revision]/file.safetensors.",
    ),
]
Registry = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.yaml",
        help="Further models by name, over those of the package. Also: RESTORECTL_WEIGHTS=FILE.",
        rich_help_panel=MODELS,
    ),
]
Offline = Annotated[
    bool,
    typer.Option(
        "--offline", help="Never use the network: models must be here.", rich_help_panel=MODELS
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda[:N]|mps", help="Where to compute.", rich_help_panel=COMPUTE
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        help="auto: bf16 where the device multiplies it fast, else fp32.", rich_help_panel=COMPUTE
    ),
]
Tile = Annotated[
    str,
    typer.Option(
        metavar="auto|N|whole",
        help="Side in px of the area held at once. Only memory and speed depend on it.",
        rich_help_panel=COMPUTE,
    ),
]
Batch = Annotated[
    str,
    typer.Option(
        metavar="auto|N",
        help="Most windows held at once. Only memory and speed depend on it.",
        rich_help_panel=COMPUTE,
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of stochastic samplers.", rich_help_panel=COMPUTE)]
DryRun = Annotated[
    bool,
    typer.Option(
        "-n", "--dry-run", help="Say what would be done, write nothing.", rich_help_panel=OUTPUT
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON line a file on stdout.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[
    bool,
    typer.Option("-q", "--quiet", help="Print nothing but errors.", rich_help_panel=OUTPUT),
]
Manifest = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.json",
        help="Write what was done to each file, and how, as JSON.",
        rich_help_panel=OUTPUT,
    ),
]

NoiseChoice = Annotated[
    Noise,
    typer.Option(
        help="auto estimates the noise from the image; none removes nothing.",
        rich_help_panel=NOISE,
    ),
]
Gain = Annotated[
    float | None, typer.Option(help="Grey levels for each photo-electron.", rich_help_panel=NOISE)
]
Offset = Annotated[
    float | None, typer.Option(help="Grey level without light.", rich_help_panel=NOISE)
]
ReadNoise = Annotated[
    float | None,
    typer.Option(help="Standard deviation without light, grey levels.", rich_help_panel=NOISE),
]


def automatic(option: str, value: str) -> int | None:
    """`auto` as None, else a positive number. Raises UsageError."""
    if value == "auto":
        return None
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"{option} {value}: use auto or a whole number of at least 1")
    return int(value)


def choices(table: Mapping[str, Row]) -> str:
    """The help lines of a catalog table, in one."""
    return " · ".join(f"{name}: {row.help}" for name, row in table.items())


def channel_numbers(text: str | None) -> tuple[int, ...] | None:
    """--channels as numbers; None = all. Raises UsageError."""
    try:
        return None if text is None else tuple(int(c) for c in text.split(","))
    except ValueError as error:
        raise UsageError(f"--channels {text}: use numbers such as 0,2") from error


def files(given: Mapping[str, Any]) -> Files:
    """The Files of a job from a command's options by name, or within a `Shared` called shared."""
    given = {**given, **vars(given["shared"])} if "shared" in given else given
    inputs = tuple(given["inputs"] or ())
    limits = [given.get("max_failures"), 1 if given.get("fail_fast") else None]
    if given.get("probe") and not given["dry_run"]:
        raise UsageError("--probe: goes with --dry-run")
    return Files(
        inputs=inputs,
        output=given["output"],
        pattern=given["pattern"],
        files_from=given["files_from"],
        shard=shard(given["shard"], inputs, given["files_from"]),
        overwrite=given["overwrite"],
        axes=given["axes"],
        channels=channel_numbers(given["channels"]),
        dry_run=given["dry_run"],
        manifest=given["manifest"],
        min_age=given.get("min_age", 0.0),
        defer_for=given.get("defer_for", 3600.0),
        min_free=size("--min-free", given.get("min_free", "0")),
        max_failures=min((n for n in limits if n is not None), default=None),
        probe=given.get("probe", False),
    )


def compute(device: str, precision: Precision, tile: str, batch: str, seed: int) -> Compute:
    """The Compute of a job from the options of that name."""
    side = WHOLE if tile == "whole" else automatic("--tile", tile)
    return Compute(device, precision.value, side, automatic("--batch", batch), seed)


LogFormat = StrEnum("LogFormat", ["text", "json"])

UNATTENDED = "Unattended runs"

MinAge = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0.0,
        help="Leave inputs that were changed more lately than this for a later run.",
        rich_help_panel=UNATTENDED,
    ),
]
DeferFor = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0.0,
        help="An incomplete input is left for a later run while it is younger than this; then it"
        " has failed.",
        rich_help_panel=UNATTENDED,
    ),
]
MinFree = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        help="Keep so much of the outputs' disk free, e.g. 5G; else stop with exit code 73.",
        rich_help_panel=UNATTENDED,
    ),
]
MaxFailures = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="Stop when N files have failed.", rich_help_panel=UNATTENDED
    ),
]
FailFast = Annotated[
    bool,
    typer.Option("--fail-fast", help="The same with N = 1.", rich_help_panel=UNATTENDED),
]
Probe = Annotated[
    bool,
    typer.Option(
        "--probe",
        help="With --dry-run: time one window, and say how long the run takes.",
        rich_help_panel=OUTPUT,
    ),
]
LogFormatChoice = Annotated[
    LogFormat,
    typer.Option(help="Of the messages on stderr; json: one line each.", rich_help_panel=OUTPUT),
]


@dataclass(frozen=True)
class Shared:
    """The options of every command that makes images of images; see `expanded`."""

    axes: Axes = None
    channels: Channels = None
    pattern: Pattern = None
    files_from: FilesFrom = None
    shard: Shard = None
    overwrite: Overwrite = False
    min_age: MinAge = 0.0
    defer_for: DeferFor = 3600.0
    min_free: MinFree = "0"
    max_failures: MaxFailures = None
    fail_fast: FailFast = False
    dry_run: DryRun = False
    probe: Probe = False
    json_lines: Json = False
    quiet: Quiet = False
    log_format: LogFormatChoice = LogFormat.text
    manifest: Manifest = None

    def view(self) -> dict[str, bool]:
        """The arguments of `report.reporting`."""
        return {
            "quiet": self.quiet,
            "json_lines": self.json_lines,
            "json_log": self.log_format == LogFormat.json,
            "plan": self.dry_run,
        }


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with an option for each field of its parameters that are dataclasses."""
    signature = inspect.signature(command)
    groups = {
        name: each.annotation
        for name, each in signature.parameters.items()
        if isinstance(each.annotation, type) and is_dataclass(each.annotation)
    }
    shown: list[inspect.Parameter] = []
    for name, each in signature.parameters.items():
        if name in groups:
            shown += (
                each.replace(name=f.name, annotation=f.type, default=f.default)
                for f in fields(groups[name])
            )
        else:
            shown.append(each)

    def run(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{f.name: given.pop(f.name) for f in fields(kind)})
        command(**given)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {each.name: each.annotation for each in shown}
    run.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    return run


SHARED = Shared()

Variance = StrEnum("Variance", ["analytic", "ancestral"])

Strength = Annotated[
    float, typer.Option(min=0.0, max=10.0, help="Factor on the noise level that is removed.")
]
OwnWeights = Annotated[
    str | None,
    typer.Option(
        "-w",
        "--weights",
        metavar="NAME|FILE|hf://...",
        help="Model: its name, a file, or hf://org/name[@revision]/file.safetensors. Default: the"
        " embedded one, `conditional` for what is called so, else `prior`.",
    ),
]
CalibratorChoice = Annotated[
    Calibrator,
    typer.Option(help="What decides the level to start from. " + choices(CALIBRATORS)),
]
ANALYTIC = Calibrator("analytic")
CalibratorWeights = Annotated[
    str, typer.Option(metavar="NAME|FILE|hf://...", help="Weights of the network calibrator.")
]


@dataclass(frozen=True)
class Machine:
    """Where and how to compute, and where models come from; see `shared.expanded`."""

    device: Device = "auto"
    precision: PrecisionOption = Precision.auto
    tile: Tile = "auto"
    batch: Batch = "auto"
    seed: Seed = 0
    registry: Registry = None
    offline: Offline = False

    def compute(self) -> Compute:
        return compute(self.device, self.precision, self.tile, self.batch, self.seed)

    def weights_from(self) -> WeightsOptions:
        return WeightsOptions(self.registry, self.offline)


@dataclass(frozen=True)
class Camera:
    """The noise of the image, and what measures its level; see `shared.expanded`."""

    calibrator: CalibratorChoice = ANALYTIC
    calibrator_weights: CalibratorWeights = "calibrator"
    noise: NoiseChoice = Noise.auto
    gain: Gain = None
    offset: Offset = None
    read_noise: ReadNoise = None

    def noise_options(self) -> NoiseOptions:
        return NoiseOptions(self.noise.value, self.gain, self.offset, self.read_noise)


MACHINE, CAMERA = Machine(), Camera()
