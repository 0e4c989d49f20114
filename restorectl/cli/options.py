"""Options that several commands share, declared once; choices and help come from the catalog."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from restorectl.catalog import CALIBRATORS, SAMPLERS, Row
from restorectl.cli.quantities import shard, size
from restorectl.core.jobs import Compute, Files
from restorectl.errors import UsageError

Noise = StrEnum("Noise", ["auto", "gaussian", "poisson-gaussian", "none"])
Precision = StrEnum("Precision", ["auto", "bf16", "fp32"])
Sampler = StrEnum("Sampler", list(SAMPLERS))  # type: ignore[misc]
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
