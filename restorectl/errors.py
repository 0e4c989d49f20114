"""One exception tree; each class carries the exit code that the command line returns.

    RestorectlError            1   never raised itself
    ├── UsageError             2   options that cannot be meant
    ├── InputError             3   one image is unreadable, ambiguous, or has no restorable pixels
    │   └── IncompleteError    3   an image that is still being written or was cut off
    ├── EngineError            3   one image cannot be restored (non-finite output, out of memory)
    ├── NoInputError           4   nothing matched
    ├── WeightsError           5   unknown, damaged, not cached, or not fit for this command
    ├── GateError              6   a quality gate of `evaluate` was not met
    ├── OutputError            3   one output cannot be written
    │   └── DiskFullError      73  no output can be written any more
    └── BusyError              75  another run holds this output folder

A message is one line: what, which value or file, and what to do. A field of a job stands in it in
backticks, as in "use `axes` ZYX": whoever shows the message may put the name of an option there, as
the command line does. Anything else that is raised is a bug and keeps its traceback.
"""


class RestorectlError(Exception):
    """Base of every error that is shown to the user as one line."""

    exit_code = 1


class UsageError(RestorectlError):
    exit_code = 2


class InputError(RestorectlError):
    exit_code = 3


class IncompleteError(InputError):
    pass


class EngineError(RestorectlError):
    exit_code = 3


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


class BusyError(RestorectlError):
    exit_code = 75


def first_line(error: BaseException) -> str:
    """What a library's error says in its first line; some messages are a page."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
