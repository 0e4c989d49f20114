"""Resolves inputs to ordered (source, targets) pairs, and refuses invalid combinations."""

import codecs
import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path, PurePath

from restorectl.errors import InputError, NoInputError, OutputError, UsageError
from restorectl.files.atomic import output_error
from restorectl.images.image import is_image_name
from restorectl.jobs import Files

# Suffixes that results cannot have -> those that they get
RESULTS = {".jpg": ".png", ".jpeg": ".png", ".lsm": ".tif", ".qptiff": ".tif", ".tf2": ".tif"}
Naming = Callable[[PurePath], tuple[PurePath, ...]]


@dataclass(frozen=True)
class Pair:
    """One image and the paths of its results."""

    source: Path
    targets: tuple[Path, ...]  # the restored image first
    name: str  # path below OUT, used for shards, reports and manifests
    guide: Path | None = None  # another method's result for the same image

    @property
    def target(self) -> Path:
        return self.targets[0]


@dataclass(frozen=True)
class Missing:
    """A named input that is missing: it counts as failed, but the run goes on."""

    source: Path
    error: InputError


def same_name(relative: PurePath) -> tuple[PurePath, ...]:
    """One output named like the input.

    JPEG becomes PNG, because it would lose detail; what is only read becomes TIFF.
    """
    if not is_image_name(relative):
        return (relative.with_name(f"{relative.name}.tif"),)
    suffix = RESULTS.get(relative.suffix.lower())
    return (relative.with_suffix(suffix) if suffix is not None else relative,)


def as_tiff(relative: PurePath) -> tuple[PurePath, ...]:
    """One output named like the input; PNG and JPEG, which cannot hold floats, become TIFF."""
    (named,) = same_name(relative)
    return (named.with_suffix(".tif") if named.suffix.lower() == ".png" else named,)


def resolve(
    files: Files, naming: Naming = same_name, *, folder_only: bool = False
) -> tuple[list[Pair], list[Missing]]:
    """The pairs of this shard in a fixed order, and the missing inputs.

    naming: the input's relative path -> paths of its results; relative ones are below OUT.
    folder_only: OUT cannot be a file.

    Raises UsageError for collisions and for outputs inside input folders, NoInputError if nothing
    matches.
    """
    output = Path(files.output)
    given = named(files)
    single = len(given) == 1 and not os.path.isdir(given[0]) and _is_file_target(output)
    if folder_only and single:
        raise UsageError(f"`output` {output}: looks like a file, but this command writes a folder")
    if not single:
        _check_folder(output)
    for path in given:
        if os.path.isdir(path):
            _refuse_nesting(output, path)
    images, missing = find(given, files.pattern)
    pairs = [_pair(path, relative, output, naming) for path, relative in images]
    if single:
        pairs = [replace(p, targets=(output, *p.targets[1:]), name=output.name) for p in pairs]
    _refuse_collisions(pairs)
    index, count = files.shard
    if not 1 <= index <= count:
        raise UsageError(f"`shard` {index}/{count}: I must be between 1 and N")
    return [pair for pair in pairs if in_shard(pair.name, index, count)], missing


def named(files: Files) -> list[Path]:
    """The paths in `inputs` and `files_from`. Raises NoInputError if there are none."""
    found = [Path(text) for text in (*files.inputs, *_listed(files.files_from))]
    if not found:
        raise NoInputError("no inputs were given: name files or folders, or use `files_from`")
    return found


def find(
    given: list[Path], pattern: str | None
) -> tuple[list[tuple[Path, PurePath]], list[Missing]]:
    """Find images in files and folders, each with its path relative to the named folder.

    Raises NoInputError if nothing matches.
    """
    images: list[tuple[Path, PurePath]] = []
    missing: list[Missing] = []
    for path in given:
        if os.path.isdir(path):
            closed: list[OSError] = []
            images += ((path / rel, rel) for rel in walk(path, pattern, closed.append))
            missing += (Missing(Path(e.filename), _closed(e)) for e in closed)
        elif not os.path.lexists(path):
            missing.append(Missing(path, InputError(f"{path}: no such file")))
        else:
            images.append((path, PurePath(path.name)))
    if not images and not missing:
        what = f" named like '{pattern}'" if pattern else ""
        raise NoInputError(f"no images{what} in: {', '.join(map(str, given))}")
    return images, missing


def in_shard(name: str, index: int, count: int) -> bool:
    """Whether shard `index` of 1..count takes this file: by name, so new files move no others."""
    digest = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count == index - 1


def _closed(error: OSError) -> InputError:
    return InputError(f"{error.filename}: the folder cannot be read ({error.strerror})")


def walk(
    folder: Path, pattern: str | None, closed: Callable[[OSError], object] | None = None
) -> Iterator[Path]:
    """Yield image paths relative to folder, sorted, without hidden and unfinished files.

    Each linked folder is followed once, so loops of links end. `closed` is called for each folder
    that cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    found: list[Path] = []
    for base, folders, names in os.walk(folder, onerror=closed, followlinks=True):
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


def match_names(wanted: Iterable[PurePath], there: Iterable[PurePath]) -> dict[PurePath, PurePath]:
    """Which file of another folder shows the same image: wanted name -> its name there.

    Names are relative paths. The same image has the same name or, where only one on each side
    does, the same name with another suffix; what has no partner is not in the result.
    """
    wanted, names = list(wanted), set(there)
    wanted_stems = Counter(name.with_suffix("") for name in wanted)
    by_stem: dict[PurePath, list[PurePath]] = {}
    for name in names:
        by_stem.setdefault(name.with_suffix(""), []).append(name)
    found = {}
    for name in wanted:
        alike = by_stem.get(name.with_suffix(""), [])
        if name in names:
            found[name] = name
        elif len(alike) == 1 and wanted_stems[name.with_suffix("")] == 1:
            found[name] = alike[0]
    return found


def _listed(source: str | None) -> list[str]:
    if source is None:
        return []
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"`files_from` {source}: cannot be read ({error})") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # PowerShell's > and Notepad
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"`files_from` {source}: is damaged UTF-16: save it as UTF-8"
            ) from error
    else:
        text = os.fsdecode(data.removeprefix(codecs.BOM_UTF8))  # file names may be non-UTF-8
    lines = text.split("\0") if "\0" in text else re.split(r"\r\n|\n|\r", text)
    return [line for line in lines if line.strip()]


def _is_file_target(output: Path) -> bool:
    return is_image_name(output) and not output.is_dir()


def _check_folder(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(f"`output` {output}: is a file, but these inputs need a folder")
    if not output.exists() and is_image_name(output):
        raise UsageError(f"`output` {output}: looks like an image, but these inputs need a folder")


def _pair(source: Path, relative: PurePath, output: Path, naming: Naming) -> Pair:
    names = naming(relative)
    return Pair(source, tuple(output / name for name in names), str(same_name(relative)[0]))


def _refuse_nesting(output: Path, folder: Path) -> None:
    inside, outside = _real(output), _real(folder)
    if inside == outside or outside in inside.parents:
        raise UsageError(
            f"`output` {output}: lies inside the input folder {folder}: choose another"
        )


def _real(path: Path) -> Path:
    """The path without links; unlike Path.resolve it allows circular links."""
    return Path(os.path.realpath(path))


def _refuse_collisions(pairs: list[Pair]) -> None:
    targets: dict[Path, Path] = {}
    sources = {_real(pair.source) for pair in pairs}
    for source, path in ((pair.source, path) for pair in pairs for path in pair.targets):
        target = _real(path)
        if target in sources:
            raise UsageError(f"{path}: would overwrite an input: choose another `output`")
        if target in targets:
            raise UsageError(f"{targets[target]} and {source} would both be written to {path}")
        targets[target] = source


def make_folder(folder: Path) -> None:
    """Create a folder and its parents. Raises OutputError or DiskFullError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{folder}: is a file, but a folder is needed: move the file") from error
    except OSError as error:
        raise output_error(error, folder) from error
