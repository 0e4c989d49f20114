"""Texts of the command line as values: shards and sizes."""

import os

from restorectl.errors import UsageError


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
