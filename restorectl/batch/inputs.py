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
from restorectl.images.image import (
    base_name,
    format_of,
    is_folder_name,
    is_image_folder,
    is_image_name,
    read_provenance,
    result_ending,
    takes_several,
)
from restorectl.jobs import Files

PREVIEW = "_preview.png"
# Files of which nobody means a folder
NO_FOLDERS = {
    *(".czi", ".dcm", ".h5", ".hdf5", ".ims", ".lif", ".mrc", ".nd2", ".oib", ".oif", ".oir"),
    *(".stk", ".svs", ".vsi", ".npy", ".npz", ".zip"),
    *(".bmp", ".gif", ".jp2", ".webp", ".csv", ".html", ".json", ".pdf", ".yaml"),
}
KINDS = 5  # suffixes of files that are not read, in one message
TOGETHER = "all"
Naming = Callable[[PurePath], tuple[PurePath, ...]]


@dataclass(frozen=True)
class Pair:
    """One image and the paths of its results."""

    source: Path
    targets: tuple[Path, ...]  # the restored image first
    name: str  # path below OUT, used for shards, reports and manifests
    series: str | None = None  # which image of the source; TOGETHER = all, into one file
    guide: Path | None = None  # another method's result for the same image

    @property
    def target(self) -> Path:
        return self.targets[0]

    def each(self) -> "list[Pair]":
        """The pair of each image: of itself, or of all those of a file that are kept together."""
        if self.series != TOGETHER:
            return [self]
        titles = format_of(self.source).titles(self.source)
        return [replace(self, series=str(k)) for k in range(len(titles))]


@dataclass(frozen=True)
class Inputs:
    """What a run works on, in a fixed order."""

    pairs: Sequence[Pair]
    refused: Sequence[Outcome]  # inputs that cannot be used: they failed, but the run goes on
    note: str = ""  # names the kinds of files in folders that are not read


@dataclass(frozen=True)
class Source:
    """One image to work on."""

    path: Path
    relative: PurePath  # to the named folder; for one of several images, also with its number
    series: str | None  # which image of the file
    file: PurePath | None = None  # for one of several images, `relative` without the number


@dataclass(frozen=True)
class Found:
    """The images in named files and folders."""

    images: Sequence[Source]
    refused: Sequence[Outcome]
    note: str

    def renamed(self, name: str) -> "Found":
        """The same with another name of the folder that all images are in."""
        images = [
            replace(each, relative=PurePath(name, *each.relative.parts[1:])) for each in self.images
        ]
        return replace(self, images=images)


def same_name(relative: PurePath) -> tuple[PurePath, ...]:
    """One output named like the input.

    JPEG becomes PNG, because it would lose detail; what is only read becomes TIFF.
    """
    if not is_image_name(relative):
        return (relative.with_name(f"{relative.name}.tif"),)
    ending = result_ending(relative)
    return (relative.with_name(base_name(relative) + ending) if ending else relative,)


def as_tiff(relative: PurePath) -> tuple[PurePath, ...]:
    """One output named like the input; PNG and JPEG, which cannot hold floats, become TIFF."""
    (named,) = same_name(relative)
    return (named.with_suffix(".tif") if named.suffix.lower() == ".png" else named,)


def preview_name(relative: PurePath) -> PurePath:
    """Of the picture for people that lies beside an image's result."""
    return relative.with_name(base_name(relative) + PREVIEW)


def side_folder(option: str, place: str, given: Sequence[str]) -> Path:
    """A folder of results beside OUT. Raises UsageError if it is a file or lies in an input folder.

    option: the field of the job that names it. given: the inputs.
    """
    path = Path(place)
    if path.exists() and not path.is_dir():
        raise UsageError(f"`{option}` {place}: is a file, but a folder is needed")
    for folder in map(Path, given):
        if folder.is_dir() and folder.resolve() in (path.resolve(), *path.resolve().parents):
            raise UsageError(f"`{option}` {place}: lies inside the input folder {folder}")
    return path.absolute()


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
    given = [path if path.name else path.absolute() for path in given]
    is_one = len(given) == 1 and (not os.path.isdir(given[0]) or is_image_folder(given[0]))
    single = is_one and _is_image_target(output)
    group = len(given) == 1 and is_folder_name(given[0]) and not is_one and is_folder_name(output)
    if folder_only and single:
        raise UsageError(f"`output` {output}: looks like a file, but this command writes a folder")
    for path in given:
        if os.path.isdir(path):
            _refuse_nesting(output, path)
    if not single and not group:
        _check_folder(output)
    if files.to is not None and (folder_only or single):
        raise UsageError(
            f"`to` {files.to}: has no effect here: the results are TIFF, or named by `output`"
        )
    found = find(given, files.pattern, files.series, files.exclude)
    if group:  # such as plate.zarr -> restored.zarr
        output, found = output.parent, found.renamed(output.name)
    if single:
        pairs = _into_one(output, found.images, naming)
    else:
        pairs = [_pair(each, output, naming, files.to) for each in found.images]
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
    ending = result_ending(output) or (".tif" if suffix in NO_FOLDERS else "")
    if ending and not output.is_dir() and (result_ending(output) or not is_image_name(output)):
        other = output.with_suffix(ending)
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


def find(
    given: list[Path],
    pattern: str | None,
    series: str | None = None,
    exclude: Sequence[str] = (),
) -> Found:
    """Find images in files and folders; series "all": each of several images in a file.

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
        if os.path.isdir(path) and not is_image_folder(path):
            closed: list[OSError] = []
            own = path.name if is_folder_name(path) else ""  # a plate keeps its name
            below = walk(path, pattern, closed.append, foreign, exclude)
            images += ((path / rel, PurePath(own, rel)) for rel in below)
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
    sources = [each for path, relative in images for each in _in_file(path, relative, series)]
    return Found(sources, refused, note if count else "")


def _in_file(path: Path, relative: PurePath, series: str | None) -> list[Source]:
    """The images to work on in a file; series: a number, a name or "all"."""
    if series != "all":
        return [Source(path, relative, series)]
    try:
        titles = format_of(path).titles(path)
    except Exception:  # the image is opened again in its turn, where this is reported
        titles = ("",)
    if len(titles) == 1:
        return [Source(path, relative, None)]
    base = base_name(relative)
    ending = relative.name[len(base) :]
    names = [
        "_".join(filter(None, (base, str(k), re.sub(r"[^\w.-]+", "-", title).strip("-.")[:60])))
        for k, title in enumerate(titles)
    ]
    return [
        Source(path, relative.with_name(name + ending), str(k), relative)
        for k, name in enumerate(names)
    ]


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

    Hidden and unfinished files are left out, and previews that lie beside their images. A folder
    that is one image is yielded as such, in a plate under the plate's pattern. Each linked
    folder is followed once, so loops of links end. `closed` is called for each folder that cannot
    be read; `foreign` counts the suffixes of files that are not images. `exclude`: patterns
    of names or relative paths of files and subfolders to leave out.
    """

    def out(base: str, name: str) -> bool:
        relative = os.path.relpath(os.path.join(base, name), folder)
        return any(fnmatch(name, each) or fnmatch(relative, each) for each in exclude)

    if is_image_folder(folder):
        yield Path()
        return
    seen: set[tuple[int, int]] = set()
    found: list[Path] = []
    for base, folders, names in os.walk(folder, onerror=closed, followlinks=True):
        here = os.stat(base)
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(n for n in folders if not n.startswith(".") and not out(base, n))
        parts = (folder.name, *Path(base).relative_to(folder).parts)
        inside = [name for name in parts if is_folder_name(name)]
        images = [name for name in folders if is_image_folder(Path(base, name))]
        for name in images:
            folders.remove(name)
            if not pattern or fnmatch(inside[0] if inside else name, pattern):
                found.append(Path(base, name).relative_to(folder))
        for name in () if inside else names:  # what is in a plate belongs to its images
            if name.startswith(".") or name.endswith((".part", ".tmp", "~")) or out(base, name):
                continue
            if name.endswith(PREVIEW) and _is_preview(Path(base, name), (*names, *images)):
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
    return any(base_name(other) == shown for other in others) and read_provenance(path) is not None


def match_names(wanted: Iterable[PurePath], there: Iterable[PurePath]) -> dict[PurePath, PurePath]:
    """Which file of another folder shows the same image: wanted name -> its name there.

    Names are relative paths. The same image has the same name or, where only one on each side
    does, the same name with another suffix; what has no partner is not in the result.
    """
    wanted, names = list(wanted), set(there)
    wanted_stems = Counter(_stem(name) for name in wanted)
    by_stem: dict[PurePath, list[PurePath]] = {}
    for name in names:
        by_stem.setdefault(_stem(name), []).append(name)
    found = {}
    for name in wanted:
        alike = by_stem.get(_stem(name), [])
        if name in names:
            found[name] = name
        elif len(alike) == 1 and wanted_stems[_stem(name)] == 1:
            found[name] = alike[0]
    return found


def _stem(name: PurePath) -> PurePath:
    return name.with_name(base_name(name))


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


def _is_image_target(output: Path) -> bool:
    return is_image_name(output) and (not output.is_dir() or is_folder_name(output))


def _check_folder(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(f"`output` {output}: is a file, but these inputs need a folder")
    if is_image_name(output) and (not output.exists() or is_image_folder(output)):
        raise UsageError(f"`output` {output}: looks like an image, but these inputs need a folder")


def _pair(source: Source, output: Path, naming: Naming, to: str | None) -> Pair:
    first, *rest = naming(source.relative)
    if source.file is not None:  # OME-Zarr and OME-TIFF hold several images together
        every = (*_converted(naming(source.file)[:1], to), *naming(source.file)[1:])
        if all(map(takes_several, every)):
            paths = tuple(output / each for each in every)
            return Pair(source.path, paths, str(same_name(source.file)[0]), TOGETHER)
        together = every[0]
        first = together / str(source.series) if is_folder_name(together) else first
    targets = (*_converted((first,), to), *rest)
    name = str(same_name(source.relative)[0])
    return Pair(source.path, tuple(output / each for each in targets), name, source.series)


def _into_one(output: Path, images: Sequence[Source], naming: Naming) -> list[Pair]:
    """The pairs with one output; an OME-Zarr holds several images. Raises UsageError.

    More results of an image are named like the output, and lie beside it.
    """
    if len(images) > 1 and takes_several(output) and len(naming(images[0].relative)) == 1:
        return [Pair(images[0].path, (output,), output.name, TOGETHER)]
    if len(images) > 1 and not is_folder_name(output):
        raise UsageError(
            f"`output` {output}: is one file, but the input has {len(images)} images: name a"
            " folder, or a file .ome.tif"
        )
    pairs = []
    for each in images:
        one = len(images) == 1
        relative, target = (PurePath(output.name), output) if one else (each.relative, None)
        target = target or output / str(each.series)
        pair = _pair(replace(each, relative=relative, file=None), output.parent, naming, None)
        name = str(target.relative_to(output.parent))
        pairs.append(replace(pair, targets=(target, *pair.targets[1:]), name=name))
    return pairs


def _converted(names: tuple[PurePath, ...], to: str | None) -> tuple[PurePath, ...]:
    """The names with the ending of another format; a plate that becomes TIFFs is a plain folder."""
    if to is None:
        return names
    found = []
    for name in names:
        if to == "ome-tiff":
            folders = [part.removesuffix(".zarr").removesuffix(".ome") for part in name.parts[:-1]]
            found.append(PurePath(*folders, f"{base_name(name)}.ome.tif"))
        else:
            inside = any(is_folder_name(part) for part in name.parts)
            found.append(name if inside else name.with_name(f"{base_name(name)}.ome.zarr"))
    return tuple(found)


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
