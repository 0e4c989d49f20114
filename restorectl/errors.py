"""All exceptions of the package; each class has the exit code of the command line.

    RestorectlError            1   base class, never raised
    ├── UsageError             2   invalid options or values
    ├── InputError             3   one image is unreadable, ambiguous or cannot be restored
    │   └── IncompleteError    3   an image is still being written or was cut off
    ├── EngineError            3   one image cannot be restored (non-finite output, out of memory)
    ├── BugError               3   one image met a bug of this program
    ├── NoInputError           4   no input files found
    ├── WeightsError           5   weights unknown, damaged, not cached or of another kind
    ├── GateError              6   a gate of `evaluate`, or of `calibrate --compare`, was not met
    ├── OutputError            3   one output cannot be written
    │   └── DiskFullError      73  the disk is full; the run stops
    ├── ClusterError           69  the scheduler or the workers of a cluster are gone
    └── BusyError              75  another run holds this output folder

A message is one line: what is wrong, which value or file, and what to do. Job fields are in
backticks, as in "use `axes` ZYX"; the command line replaces them by option names. Any other
exception is a bug: `blamed` makes it one line if it belongs to one file, else it ends the program
with its traceback.
"""

import difflib
import logging
import traceback
from collections.abc import Iterable
from os import PathLike

LOG = logging.getLogger("restorectl")  # tracebacks of single files, for `debug`


class RestorectlError(Exception):
    """Base of all errors that are shown to the user as one line."""

    exit_code = 1


class UsageError(RestorectlError):
    exit_code = 2


class InputError(RestorectlError):
    exit_code = 3


class IncompleteError(InputError):
    pass


class EngineError(RestorectlError):
    exit_code = 3


class BugError(RestorectlError):
    exit_code = 3

    def __init__(self, message: str, error: BaseException) -> None:
        super().__init__(message)
        self.traceback = "".join(traceback.format_exception(error))


class NoInputError(RestorectlError):
    exit_code = 4


class WeightsError(RestorectlError):
    exit_code = 5


class GateError(RestorectlError):
    exit_code = 6


class OutputError(RestorectlError):
    exit_code = 3


class DiskFullError(OutputError):
    exit_code = 73


class ClusterError(RestorectlError):
    exit_code = 69


class BusyError(RestorectlError):
    exit_code = 75


def blamed(path: str | PathLike[str], error: Exception) -> RestorectlError:
    """What ended the turn of one file, as an error of one line; the other files go on."""
    LOG.debug("%s", path, exc_info=error)
    if isinstance(error, RestorectlError):
        return error
    if isinstance(error, MemoryError):
        return InputError(f"{path}: does not fit in this machine's memory")
    if isinstance(error, OSError):
        return InputError(f"{path}: cannot be processed: {first_line(error)}")
    return BugError(
        f"{path}: met a bug, please report it ({type(error).__name__}: {first_line(error)}); the"
        " traceback is shown by `debug`, and in `manifest` and `log_format` json",
        error,
    )


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The most similar of the known names, as the end of a message; empty if there are none."""
    near = difflib.get_close_matches(given, list(known), 1, 0)
    return f"; did you mean '{near[0]}'?" if near else ""


def printable(text: str) -> str:
    """Text with its control characters escaped, for terminals: names may contain them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def spreadsheet_cell(text: object) -> str:
    """Text for a cell of a CSV file: printable, and never a formula of a spreadsheet."""
    shown = printable(str(text))
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def one_line(error: BaseException) -> str:
    """A library's error message without line breaks; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of a library's error message, which may be long."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
