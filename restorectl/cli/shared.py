"""The options of every command that makes images of images, declared once and taken as one."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from restorectl.cli import options as opt

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
        rich_help_panel=opt.OUTPUT,
    ),
]
LogFormatChoice = Annotated[
    LogFormat,
    typer.Option(
        help="Of the messages on stderr; json: one line each.", rich_help_panel=opt.OUTPUT
    ),
]


@dataclass(frozen=True)
class Shared:
    """The options of every command that makes images of images; see `expanded`."""

    axes: opt.Axes = None
    channels: opt.Channels = None
    pattern: opt.Pattern = None
    files_from: opt.FilesFrom = None
    shard: opt.Shard = None
    overwrite: opt.Overwrite = False
    min_age: MinAge = 0.0
    defer_for: DeferFor = 3600.0
    min_free: MinFree = "0"
    max_failures: MaxFailures = None
    fail_fast: FailFast = False
    dry_run: opt.DryRun = False
    probe: Probe = False
    json_lines: opt.Json = False
    quiet: opt.Quiet = False
    log_format: LogFormatChoice = LogFormat.text
    manifest: opt.Manifest = None

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
