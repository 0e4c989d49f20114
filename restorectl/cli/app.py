"""The command line: its commands, and the one place where errors become messages."""

import io
import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

import restorectl
from restorectl.cli.commands import Lazy
from restorectl.errors import RestorectlError

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
ENDING = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
app = typer.Typer(
    cls=Lazy,
    name="restorectl",
    help="Restore microscopy images with diffusion models. Input files are never modified.",
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
    """SIGINT, SIGTERM or SIGHUP; raised so that temporary files are removed and the manifest is
    written."""

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
        bool,
        typer.Option("-V", "--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Options that stand before the command."""


def _on_signal(number: int, _frame: FrameType | None) -> None:
    for each in ENDING:  # a second signal ends the process at once
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, signal.SIG_DFL)
    raise Interrupted(number)


class _Outlet(io.FileIO):
    """Standard output or error. If it can no longer be written to, the work still goes on."""

    failure: OSError | None = None

    def write(self, data: "io.ReadableBuffer") -> int:  # type: ignore[name-defined, override]
        if self.failure is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


def _streams() -> list[_Outlet]:
    """Make the standard streams safe: closed ones lead nowhere, names need not be UTF-8.

    Returns those of stdout and stderr.
    """
    for number in range(3):  # an image must not get the number of a closed stream
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = open(0)  # noqa: SIM115
    outlets = []
    for number, name in ((1, "stdout"), (2, "stderr")):
        outlet = _Outlet(number, "w", closefd=False)
        encoding = getattr(getattr(sys, name), "encoding", None) or "utf-8"
        text = io.TextIOWrapper(
            io.BufferedWriter(outlet),
            encoding,
            "backslashreplace",
            line_buffering=outlet.isatty() or number == 2,
        )
        setattr(sys, name, text)
        outlets.append(outlet)
    return outlets


def main() -> None:
    """Entry point: our errors become one line and an exit code, bugs keep their traceback."""
    from restorectl.cli.progress import tell_end

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for number in ENDING:
        hang_up = number not in (signal.SIGINT, signal.SIGTERM)
        if not (hang_up and signal.getsignal(number) is signal.SIG_IGN):  # as nohup sets it
            signal.signal(number, _on_signal)
    out, _ = _streams()
    code = 0
    try:
        app(prog_name="restorectl")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except RestorectlError as error:
        tell_end(str(error), error.exit_code)
        code = error.exit_code
    except Interrupted as stop:
        tell_end("interrupted", stop.exit_code)
        code = stop.exit_code
    sys.stdout.flush()
    if out.failure is not None and not isinstance(out.failure, BrokenPipeError) and code == 0:
        from restorectl.files.atomic import output_error

        lost = output_error(out.failure, "standard output")
        tell_end(str(lost), lost.exit_code)
        code = lost.exit_code
    sys.exit(code)
