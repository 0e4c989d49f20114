"""Inputs to ordered (source, target) pairs; everything that cannot be meant is refused here."""

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePath

from restorectl.core.jobs import Files
from restorectl.errors import InputError, NoInputError, OutputError, UsageError
from restorectl.io.image import is_image_name

JPEG = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Pair:
    """One image and where its result goes."""

    source: Path
    target: Path
    name: str  # relative path below OUT; what shards, reports and manifests call it


@dataclass(frozen=True)
class Missing:
    """An input that was named but is not there: a failed file, not a reason to stop."""

    source: Path
    error: InputError


def resolve(files: Files) -> tuple[list[Pair], list[Missing]]:
    """The pairs of this shard in a fixed order.

    Raises UsageError for collisions and for outputs inside inputs, NoInputError when nothing
    matches.
    """
    output = Path(files.output)
    given = named(files)
    single = len(given) == 1 and not given[0].is_dir() and _is_file_target(output)
    if not single:
        _check_folder(output)
    for path in given:
        if path.is_dir():
            _refuse_nesting(output, path)
    images, missing = find(given, files.pattern)
    if single:
        pairs = [Pair(path, output, output.name) for path, _ in images]
    else:
        pairs = [_pair(path, relative, output) for path, relative in images]
    _refuse_collisions(pairs)
    index, count = files.shard
    if not 1 <= index <= count:
        raise UsageError(f"--shard {index}/{count}: I must be between 1 and N")
    return [pair for pair in pairs if in_shard(pair.name, index, count)], missing


def named(files: Files) -> list[Path]:
    """What the user named, here and in --files-from. Raises NoInputError where that is nothing."""
    found = [Path(text) for text in (*files.inputs, *_listed(files.files_from))]
    if not found:
        raise NoInputError("no inputs were given: name files or folders, or use --files-from")
    return found


def find(
    given: list[Path], pattern: str | None
) -> tuple[list[tuple[Path, PurePath]], list[Missing]]:
    """The images of files and folders, each with its path relative to what was named.

    Raises NoInputError when nothing matches.
    """
    images: list[tuple[Path, PurePath]] = []
    missing: list[Missing] = []
    for path in given:
        if path.is_dir():
            images += ((path / rel, rel) for rel in walk(path, pattern))
        elif not os.path.lexists(path):
            missing.append(Missing(path, InputError(f"{path}: no such file")))
        else:
            images.append((path, PurePath(path.name)))
    if not images and not missing:
        what = f" named like '{pattern}'" if pattern else ""
        raise NoInputError(f"no images{what} in: {', '.join(map(str, given))}")
    return images, missing


def in_shard(name: str, index: int, count: int) -> bool:
    """Whether shard `index` of 1..count takes this file: by name, so new files move no other."""
    digest = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count == index - 1


def walk(folder: Path, pattern: str | None) -> Iterator[Path]:
    """Image paths below folder, relative to it, sorted; hidden and unfinished files are left out.

    Linked folders are followed once each, so a loop of links ends.
    """
    seen: set[tuple[int, int]] = set()
    found: list[Path] = []
    for base, folders, names in os.walk(folder, followlinks=True):
        here = os.stat(base)
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            wanted = fnmatch(name, pattern) if pattern else is_image_name(Path(name))
            if wanted and not name.startswith(".") and not name.endswith((".part", ".tmp", "~")):
                found.append(Path(base, name).relative_to(folder))
    yield from sorted(found)


def _listed(source: str | None) -> list[str]:
    if source is None:
        return []
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--files-from {source}: cannot be read ({error})") from error
    separator = "\0" if "\0" in text else "\n"
    return [line for line in text.split(separator) if line.strip()]


def _is_file_target(output: Path) -> bool:
    return is_image_name(output) and not output.is_dir()


def _check_folder(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(f"-o {output}: is a file, but these inputs need a folder")
    if not output.exists() and is_image_name(output):
        raise UsageError(f"-o {output}: looks like an image, but these inputs need a folder")


def _pair(source: Path, relative: PurePath, output: Path) -> Pair:
    if relative.suffix.lower() in JPEG:  # JPEG would lose what was restored
        relative = relative.with_suffix(".png")
    return Pair(source, output / relative, str(relative))


def _refuse_nesting(output: Path, folder: Path) -> None:
    inside, outside = output.resolve(), folder.resolve()
    if inside == outside or outside in inside.parents:
        raise UsageError(f"-o {output}: lies inside the input folder {folder}: choose another")


def _refuse_collisions(pairs: list[Pair]) -> None:
    targets: dict[Path, Path] = {}
    sources = {pair.source.resolve() for pair in pairs}
    for pair in pairs:
        target = pair.target.resolve()
        if target in sources:
            raise UsageError(f"{pair.target}: would overwrite an input: choose another -o")
        if target in targets:
            raise UsageError(
                f"{targets[target]} and {pair.source} would both be written to {pair.target}"
            )
        targets[target] = pair.source


def make_folder(folder: Path) -> None:
    """Create folder and its parents. Raises OutputError when that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created ({error.strerror})") from error
