"""The command line: its commands, and the one place where errors become messages."""

import io
import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

import restorectl
from restorectl.cli import (
    calibrate,
    denoise,
    docs,
    evaluate,
    restore,
    superres3d,
    train,
    uncertainty,
    weights,
)
from restorectl.cli.progress import tell_end
from restorectl.errors import RestorectlError

EPILOG = (
    "Exit codes: 0 all done · 1 unexpected error · 2 invalid options · 3 some files failed, the"
    " others are done · 4 no input found · 5 a model is missing or wrong · 6 quality gate not met ·"
    " 73 disk full · 75 another run uses the output folder · 130/143 interrupted."
)

app = typer.Typer(
    name="restorectl",
    help="Restore microscopy images with diffusion models. Input files are never modified.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# Read when the libraries are loaded. Threads of one team that wait for others must not spin: that
# takes cores from other processes. Tiles are run in parallel instead, so matrices need no team.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
    "OPENBLAS_NUM_THREADS": "1",
}


class Interrupted(BaseException):
    """SIGINT or SIGTERM; raised so that temporary files are removed and the manifest is written."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"restorectl {restorectl.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options that stand before the command."""


app.command("restore", epilog=EPILOG)(restore.restore)
app.command("denoise", epilog=EPILOG)(denoise.denoise)
app.command("superres3d", epilog=EPILOG)(superres3d.superres3d)
app.command("uncertainty", epilog=EPILOG)(uncertainty.uncertainty)
app.command("train", epilog=EPILOG)(train.train)
app.command("calibrate", epilog=EPILOG)(calibrate.calibrate)
app.command("evaluate", epilog=EPILOG)(evaluate.evaluate)
app.command("docs", epilog=EPILOG)(docs.docs)
app.add_typer(weights.app, name="weights", epilog=EPILOG)


def _on_signal(number: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):  # a second signal ends the process at once
        signal.signal(each, signal.SIG_DFL)
    raise Interrupted(number)


def main() -> None:
    """Entry point: our errors become one line and an exit code, bugs keep their traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)
    if not sys.stdout.isatty() and not os.environ.get("FORCE_COLOR"):
        # with GITHUB_ACTIONS set, typer would write escape codes into files
        os.environ.setdefault("_TYPER_FORCE_DISABLE_TERMINAL", "1")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):  # file names may not be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except RestorectlError as error:
        tell_end(str(error), error.exit_code)
        sys.exit(error.exit_code)
    except Interrupted as stop:
        tell_end("interrupted", stop.exit_code)
        sys.exit(stop.exit_code)
    except BrokenPipeError:  # the reader of stdout has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
