"""Resolves inputs to ordered (source, targets) pairs, and refuses invalid combinations."""

import codecs
import hashlib
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from heapq import heappop, heappush
from pathlib import Path, PurePath

from restorectl.batch.outcome import Outcome, Report
from restorectl.errors import NoInputError, OutputError, UsageError
from restorectl.files.atomic import output_error
from restorectl.files.machine import readable
from restorectl.images.image import is_image_name, read_provenance
from restorectl.jobs import Files

# Suffixes that results cannot have -> those that they get
RESULTS = {".jpg": ".png", ".jpeg": ".png", ".lsm": ".tif", ".qptiff": ".tif", ".tf2": ".tif"}
PREVIEW = "_preview.png"
# Files of which nobody means a folder
NO_FOLDERS = {
    *(".czi", ".dcm", ".h5", ".hdf5", ".ims", ".lif", ".mrc", ".nd2", ".oib", ".oif", ".oir"),
    *(".stk", ".svs", ".vsi", ".npy", ".npz", ".zip"),
    *(".bmp", ".gif", ".jp2", ".webp", ".csv", ".html", ".json", ".pdf", ".yaml"),
}
KINDS = 5  # suffixes of files that are not read, in one message
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
class Inputs:
    """What a run works on, in a fixed order."""

    pairs: Sequence[Pair]
    refused: Sequence[Outcome]  # inputs that cannot be used: they failed, but the run goes on
    note: str = ""  # names the kinds of files in folders that are not read


@dataclass(frozen=True)
class Found:
    """The images in named files and folders."""

    images: Sequence[tuple[Path, PurePath]]  # each with its path relative to the named folder
    refused: Sequence[Outcome]
    note: str


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


def stem(path: PurePath) -> str:
    """The file name without its suffix, or without .ome.tif."""
    return path.stem.removesuffix(".ome")


def preview_name(relative: PurePath) -> PurePath:
    """Of the picture for people that lies beside an image's result."""
    return relative.with_name(stem(relative) + PREVIEW)


def resolve(files: Files, naming: Naming = same_name, *, folder_only: bool = False) -> Inputs:
    """The pairs of this shard, and the inputs that cannot be used.

    naming: the input's relative path -> paths of its results; relative ones are below OUT.
    folder_only: OUT cannot be a file.

    Raises UsageError for outputs inside input folders or in place of an input, NoInputError if
    nothing matches.
    """
    output = Path(files.output)
    _check_names(files)
    given = named(files)
    single = len(given) == 1 and not os.path.isdir(given[0]) and _is_file_target(output)
    if folder_only and single:
        raise UsageError(f"`output` {output}: looks like a file, but this command writes a folder")
    if not single:
        _check_folder(output)
    for path in given:
        if os.path.isdir(path):
            _refuse_nesting(output, path)
    found = find(given, files.pattern, files.exclude)
    if single:  # more results of the image are named like this one, and lie beside it
        place, name = output.parent, PurePath(output.name)
        named_so = [_pair(path, name, place, naming) for path, _ in found.images]
        pairs = [replace(p, targets=(output, *p.targets[1:]), name=output.name) for p in named_so]
    else:
        pairs = [_pair(path, relative, output, naming) for path, relative in found.images]
    once = {(_real(pair.source), pair.targets): pair for pair in reversed(pairs)}  # named twice
    pairs = list(reversed(once.values()))
    clashes = _clashes(pairs)
    index, count = files.shard
    shares = _shares(pairs, frozenset(given) if files.files_from is not None else (), count)
    mine = [pair for pair in pairs if shares[pair] == index]
    refused = [Outcome.failed(pair.source, clashes[pair]) for pair in mine if pair in clashes]
    notes = [found.note, *_about_shards(shares, index, count, files.dry_run)]
    return Inputs(
        [pair for pair in mine if pair not in clashes],
        [*found.refused, *refused],
        "\n".join(note for note in notes if note),
    )


def _check_names(files: Files) -> None:
    """Raises UsageError for names that can be refused before any file is looked at."""
    output, (index, count) = Path(files.output), files.shard
    if not 1 <= index <= count:
        raise UsageError(f"`shard` {index}/{count}: I must be between 1 and N")
    suffix = output.suffix.lower()
    if suffix in NO_FOLDERS | RESULTS.keys() and not output.is_dir():
        other = output.with_suffix(RESULTS.get(suffix, ".tif"))
        raise UsageError(
            f"`output` {output}: {suffix} files cannot be written: name a folder, or a single"
            f" image such as {other}"
        )
    if files.manifest is not None and not Path(files.manifest).absolute().parent.is_dir():
        raise UsageError(
            f"`manifest` {files.manifest}: its folder does not exist: make it first, or choose"
            " another name"
        )


def _shares(pairs: Sequence[Pair], listed: Collection[Path], count: int) -> dict[Pair, int]:
    """The shard, 1..count, of each pair; the same in every shard.

    Named files of a list (`files_from`) are spread by size: the largest first, each to the shard
    with the fewest bytes so far. All others are spread by name, so that new files move no others.
    """
    if count == 1:
        return dict.fromkeys(pairs, 1)
    sizes = {pair: _size(pair.source) for pair in pairs if pair.source in listed}
    shares = {pair: shard_of(pair.name, count) for pair in pairs if pair not in sizes}
    loads = [(0, 0, shard) for shard in range(1, count + 1)]  # bytes, files
    for pair in sorted(sizes, key=lambda pair: (-sizes[pair], pair.name)):
        taken, files, shard = heappop(loads)
        shares[pair] = shard
        heappush(loads, (taken + sizes[pair], files + 1, shard))
    return shares


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # it will fail, whichever shard takes it


def _about_shards(shares: Mapping[Pair, int], index: int, count: int, every: bool) -> Iterator[str]:
    """What to say of shards: that this one is empty; with `every` how large each is."""
    if count == 1:
        return
    if every:
        for shard in range(1, count + 1):
            mine = [pair for pair, each in shares.items() if each == shard]
            files = "1 file" if len(mine) == 1 else f"{len(mine)} files"
            taken = readable(sum(_size(pair.source) for pair in mine))
            yield f"shard {shard}/{count}: {files}, {taken}{' (this one)' * (shard == index)}"
    if index not in shares.values():
        yield f"shard {index}/{count} is empty: none of the {len(shares)} files is in it"


def named(files: Files) -> list[Path]:
    """The paths in `inputs` and `files_from`. Raises NoInputError if there are none."""
    found = [Path(text) for text in (*files.inputs, *_listed(files.files_from))]
    if not found:
        raise NoInputError("no inputs were given: name files or folders, or use `files_from`")
    return found


def find(given: list[Path], pattern: str | None, exclude: Sequence[str] = ()) -> Found:
    """Find images in files and folders.

    Raises NoInputError if nothing matches, or if none of the paths exists.
    """
    missing = [path for path in given if not os.path.lexists(path)]
    if len(missing) == len(given):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise NoInputError(f"{missing[0]}: no such file or folder{more}")
    images: list[tuple[Path, PurePath]] = []
    refused: list[Outcome] = []
    foreign: Counter[str] = Counter()
    for path in given:
        if os.path.isdir(path):
            closed: list[OSError] = []
            images += (
                (path / rel, rel) for rel in walk(path, pattern, closed.append, foreign, exclude)
            )
            reason = "the folder cannot be read"
            refused += (
                Outcome.failed(e.filename, f"{e.filename}: {reason} ({e.strerror})") for e in closed
            )
        elif not os.path.lexists(path):
            refused.append(Outcome.failed(path, f"{path}: no such file"))
        else:
            images.append((path, PurePath(path.name)))
    count = foreign.total()
    ordered = sorted(foreign, key=lambda suffix: (-foreign[suffix], suffix))
    kinds = ", ".join(suffix or "no suffix" for suffix in ordered[:KINDS])
    kinds += ", ..." if len(foreign) > KINDS else ""
    note = f"{count} {'file' if count == 1 else 'files'} of kinds that are not read: {kinds}"
    if not images and not refused:
        what = f" named like '{pattern}'" if pattern else ""
        what += f", without those like {', '.join(map(repr, exclude))}," if exclude else ""
        also = f"; {note}" if count else ""
        raise NoInputError(f"no images{what} in: {', '.join(map(str, given))}{also}")
    return Found(images, refused, note if count else "")


def announce(found: Inputs | Found, usable: int, report: Report) -> None:
    """Begin the report of a run: how many files, which are not read, which were refused."""
    report.begin(usable + len(found.refused))
    for line in found.note.splitlines():
        report.note(line)
    for outcome in found.refused:
        report.done(outcome)


def shard_of(name: str, count: int) -> int:
    """The shard, 1..count, that takes a file: by name, so new files move no others."""
    digest = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count + 1


def walk(
    folder: Path,
    pattern: str | None,
    closed: Callable[[OSError], object] | None = None,
    foreign: Counter[str] | None = None,
    exclude: Sequence[str] = (),
) -> Iterator[Path]:
    """Yield image paths relative to folder, sorted.

    Hidden and unfinished files are left out, and previews that lie beside their images. Each linked
    folder is followed once, so loops of links end. `closed` is called for each folder that cannot
    be read; `foreign` counts the suffixes of files that are not images. `exclude`: patterns
    of names or relative paths of files and subfolders to leave out.
    """

    def out(base: str, name: str) -> bool:
        relative = os.path.relpath(os.path.join(base, name), folder)
        return any(fnmatch(name, each) or fnmatch(relative, each) for each in exclude)

    seen: set[tuple[int, int]] = set()
    found: list[Path] = []
    for base, folders, names in os.walk(folder, onerror=closed, followlinks=True):
        here = os.stat(base)
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(n for n in folders if not n.startswith(".") and not out(base, n))
        for name in names:
            if name.startswith(".") or name.endswith((".part", ".tmp", "~")) or out(base, name):
                continue
            if name.endswith(PREVIEW) and _is_preview(Path(base, name), names):
                continue
            if fnmatch(name, pattern) if pattern else is_image_name(name):
                found.append(Path(base, name).relative_to(folder))
            elif foreign is not None and not pattern:
                foreign[PurePath(name).suffix.lower()] += 1
    yield from sorted(found)


def _is_preview(path: Path, beside: Iterable[str]) -> bool:
    """Whether restorectl drew this picture of an image that lies beside it."""
    shown = path.name.removesuffix(PREVIEW)
    others = (PurePath(name) for name in beside if name != path.name and is_image_name(name))
    return any(stem(other) == shown for other in others) and read_provenance(path) is not None


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


def _clashes(pairs: Sequence[Pair]) -> dict[Pair, str]:
    """The pairs of which another one has the same output, each with the reason.

    Raises UsageError for an output in place of an input.
    """
    wanted: dict[Path, list[Pair]] = defaultdict(list)
    sources = {_real(pair.source) for pair in pairs}
    for pair in pairs:
        for target in map(_real, pair.targets):
            if target in sources:
                raise UsageError(f"{target}: would overwrite an input: choose another `output`")
            wanted[target].append(pair)
    return {
        pair: f"{pair.source}: {other.source} would be written to {target.name} too: rename one, or"
        " restore them into two folders"
        for target, rivals in wanted.items()
        for pair, other in zip(rivals, rivals[1:] + rivals[:1], strict=True)
        if pair != other
    }


def make_folder(folder: Path) -> None:
    """Create a folder and its parents. Raises OutputError or DiskFullError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise OutputError(f"{folder}: is a file, but a folder is needed: move the file") from error
    except OSError as error:
        raise output_error(error, folder) from error
