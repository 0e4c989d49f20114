"""The contract of a batch run, with work that only copies: what is done, skipped, refused, left."""

import json
import os
import shutil
import struct
import threading
import time
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from restorectl.batch import inputs, run
from restorectl.batch.outcome import Silent
from restorectl.batch.plan import Origin, Planned
from restorectl.engine.runner import ACCOUNT
from restorectl.errors import BusyError, DiskFullError, NoInputError, OutputError, UsageError
from restorectl.files import lock, machine, provenance
from restorectl.files.atomic import part_path
from restorectl.images import image
from restorectl.images.image import read_provenance, require_writable, write_image
from restorectl.jobs import Files


@dataclass
class Copy:
    """Work that copies an image; `during` is called in the middle of it."""

    during: object = None
    memory: int = 1000
    at_once: int = 1
    origin: Origin | None = None
    opened: list = field(default_factory=list)
    written: list = field(default_factory=list)

    def plan(self, image, pair):
        self.opened.append(pair.name)
        for target in pair.targets:
            require_writable(target, image.header.for_target(target))
        return Planned(1, 1, image.header.nbytes, self.memory)

    def write(self, image, pair, parts, record, outcome, progress, share=None):
        for target, part in zip(pair.targets, parts, strict=True):
            planes = [image.read(plane) for plane in image.header.planes]
            write_image(part, image.header.for_target(target), planes, provenance=record)
            if self.during is not None:
                self.during(pair, part)
        self.written.append(pair.name)


@pytest.fixture
def folder(tmp_path):
    """Five images, alike but for their pixels."""
    rng = np.random.default_rng(3)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.tif", "b.tif", "deep/c.tif"):
        tifffile.imwrite(tmp_path / "in" / name, rng.integers(0, 999, (3, 20, 30), np.uint16),
                         imagej=True, metadata={"axes": "ZYX"})  # fmt: skip
    for name in ("d.png", "e.png"):
        pixels = rng.integers(0, 255, (40, 50), np.uint8)
        Pillow.fromarray(pixels).save(tmp_path / "in" / name)
    return tmp_path


def settings(folder, **changes):
    return replace(Files((str(folder / "in"),), str(folder / "out")), **changes)


def go(files, work=None, naming=inputs.same_name, strength=1.0, weights="0"):
    """(statuses by name, work, report); the run's errors pass through."""
    work, report = work or Copy(), Silent()

    work.origin = Origin(
        "copy", {"strength": strength, "axes": files.axes}, {"prior": ("w", weights)}
    )
    outcomes = run.run(files, work, inputs.resolve(files, naming), report)
    return {Path(o.source).name: o.status for o in outcomes}, work, report


def content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("[!.]*")) if p.is_file()}


ALL = ("a.tif", "b.tif", "c.tif", "d.png", "e.png")


def test_the_same_line_again_does_nothing(folder):
    first, _, _ = go(settings(folder))
    assert first == dict.fromkeys(ALL, "done")
    times = {p: p.stat().st_mtime_ns for p in (folder / "out").rglob("[!.]*")}
    again, work, _ = go(settings(folder))
    assert again == dict.fromkeys(ALL, "skipped")
    assert (work.opened, work.written) == ([], [])
    assert times == {p: p.stat().st_mtime_ns for p in (folder / "out").rglob("[!.]*")}


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ("input", {"b.tif"}),
        ("touch", set()),
        ("parameter", set(ALL)),
        ("weights", set(ALL)),
        ("removed", {"c.tif"}),
        ("cut tiff", {"a.tif"}),
        ("cut png", {"e.png"}),
        ("cut to its head", {"a.tif"}),
        ("a page lost", {"a.tif"}),
        ("bit in a png", {"d.png"}),
    ],
)
def test_exactly_what_changed_is_redone(folder, change, redone):
    go(settings(folder))
    before, out, more = content(folder / "out"), folder / "out", {}
    if change == "input":
        shutil.copy(folder / "in/a.tif", folder / "in/b.tif")
    elif change == "touch":
        os.utime(folder / "in/a.tif")
    elif change == "removed":
        (out / "deep/c.tif").unlink()
    elif change == "cut tiff":
        os.truncate(out / "a.tif", len(before["a.tif"]) - 300)
    elif change == "cut to its head":
        os.truncate(out / "a.tif", 64)
    elif change == "cut png":
        os.truncate(out / "e.png", len(before["e.png"]) - 5)
    elif change == "bit in a png":
        damaged = bytearray(before["d.png"])
        damaged[-40] ^= 1
        (out / "d.png").write_bytes(damaged)
    elif change == "a page lost":  # the chain of pages ends early, all that is there is whole
        damaged = before["a.tif"].replace(b"slices=3", b"slices=4")
        (out / "a.tif").write_bytes(damaged)
    else:
        more = {"parameter": {"strength": 0.9}, "weights": {"weights": "1"}}[change]
    statuses, work, _ = go(settings(folder), **more)
    assert {name for name, status in statuses.items() if status == "done"} == redone
    assert {Path(name).name for name in work.written} == redone
    if not more and change != "input":
        assert content(out) == before


@pytest.mark.parametrize("revision", [provenance.REVISION - 1, None])
def test_what_an_earlier_revision_made_is_made_again_unless_it_is_kept(
    folder, monkeypatch, revision
):
    with monkeypatch.context() as before:
        before.setattr(provenance, "REVISION", revision)
        go(settings(folder, pattern="[abd].*"))
    old = content(folder / "out")
    fresh = dict.fromkeys(("c.tif", "e.png"), "done")
    kept, _, report = go(settings(folder, keep_old=True))
    assert kept == dict.fromkeys(ALL, "skipped") | fresh
    assert report.notes == ["3 outputs of an earlier version kept"]
    assert {name: bytes_ for name, bytes_ in content(folder / "out").items() if name in old} == old
    shutil.copy(folder / "in/a.tif", folder / "in/b.tif")
    statuses, _, report = go(settings(folder, keep_old=True))  # b.tif is of another input now
    assert {name for name, status in statuses.items() if status == "done"} == {"b.tif"}
    assert report.notes == ["2 outputs of an earlier version kept"]
    again, _, report = go(settings(folder))
    assert {name for name, status in again.items() if status == "done"} == {"a.tif", "d.png"}
    (told,) = report.notes
    assert told.startswith("2 outputs of an earlier version made again")
    assert read_provenance(folder / "out/a.tif")["revision"] == provenance.REVISION
    statuses, _, report = go(settings(folder))
    assert (statuses, report.notes) == (dict.fromkeys(ALL, "skipped"), [])


def test_an_old_output_made_with_other_options_is_not_kept(folder, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(provenance, "REVISION", 0)
        go(settings(folder))
    statuses, _, report = go(settings(folder, keep_old=True), strength=0.9)
    assert (statuses, report.notes) == (dict.fromkeys(ALL, "done"), [])


def test_a_foreign_file_is_left_alone(folder):
    out = folder / "out"
    out.mkdir()
    shutil.copy(folder / "in/b.tif", out / "a.tif")  # an image, but nobody's record
    (out / "b.tif").write_text("notes")
    (out / "d.png").symlink_to(folder / "nowhere")
    (out / "e.png").mkdir()
    before = content(out)
    statuses, _, report = go(settings(folder))
    assert statuses == dict.fromkeys(ALL, "failed") | {"c.tif": "done"}
    assert {k: v for k, v in content(out).items() if k != "c.tif"} == before
    assert sum("`overwrite`" in o.message for o in report.outcomes) == 3
    statuses, _, _ = go(settings(folder, overwrite=True))
    assert statuses == dict.fromkeys(ALL, "done") | {"c.tif": "skipped", "e.png": "failed"}


def test_a_foreign_file_that_appears_during_the_run_is_left_alone(folder):
    def intrude(pair, _):
        (folder / "out/b.tif").write_text("notes")

    statuses, _, _ = go(settings(folder), Copy(intrude))
    assert statuses["b.tif"] == "failed"
    assert (folder / "out/b.tif").read_text() == "notes"


def test_old_and_young_incomplete_inputs(folder):
    for name in ("a.tif", "b.tif"):
        os.truncate(folder / "in" / name, 1500)
    os.utime(folder / "in/b.tif", (10**9, 10**9))
    statuses, _, _ = go(settings(folder))
    assert (statuses["a.tif"], statuses["b.tif"]) == ("deferred", "failed")
    statuses, _, _ = go(settings(folder, defer_for=0.0))
    assert (statuses["a.tif"], statuses["b.tif"]) == ("failed", "failed")
    assert statuses["c.tif"] == "skipped"


def test_young_inputs_wait(folder):
    os.utime(folder / "in/a.tif", (10**9, 10**9))
    statuses, work, report = go(settings(folder, min_age=60.0))
    assert statuses == dict.fromkeys(ALL, "deferred") | {"a.tif": "done"}
    assert work.opened == ["a.tif"]
    assert "too young for `min_age`" in report.outcomes[1].message


@pytest.mark.parametrize("how", ["replaced", "grown", "removed"])
def test_an_input_that_changes_while_it_is_read(folder, how):
    def change(pair, part):
        if pair.name != "b.tif":
            return
        if how == "replaced":
            shutil.copy(folder / "in/a.tif", folder / "in/new")
            (folder / "in/new").replace(pair.source)
        elif how == "grown":
            with open(pair.source, "ab") as file:
                file.write(b"more")
        else:
            pair.source.unlink()

    statuses, _, _ = go(settings(folder), Copy(change))
    status = "failed" if how == "removed" else "deferred"
    assert statuses == dict.fromkeys(ALL, "done") | {"b.tif": status}
    assert not (folder / "out/b.tif").exists()
    assert not list((folder / "out").rglob(".*.part"))


def test_an_old_output_stays_when_its_input_changes_while_it_is_read(folder):
    go(settings(folder))
    before = content(folder / "out")

    def change(pair, part):
        os.utime(pair.source, (10**9, 10**9))

    statuses, _, _ = go(settings(folder), Copy(change), strength=2.0)
    assert set(statuses.values()) == {"failed"}  # changed, and not lately by its clock
    assert content(folder / "out") == before


def test_what_does_not_fit_the_memory_is_refused_from_its_header(folder, monkeypatch):
    monkeypatch.setattr(machine, "available_memory", lambda: 10**6)
    statuses, work, report = go(settings(folder), Copy(memory=10**13))
    assert set(statuses.values()) == {"failed"}
    assert work.written == []
    assert "takes about 10.0 TB of memory, but 1.0 MB are available: use" in (
        report.outcomes[0].message
    )


def test_a_full_disk_is_met_before_the_work(folder, monkeypatch):
    files = settings(folder, manifest=str(folder / "run.json"))
    monkeypatch.setattr(machine, "free_space", lambda path: 3 * 3600 + 2 * 2000 - 1)
    work = Copy()
    with pytest.raises(DiskFullError, match="5 outputs take"):
        go(files, work)
    assert work.written == []
    told = json.loads(Path(files.manifest).read_text())
    assert told["counts"]["pending"] == 5
    assert told["stopped"].startswith("DiskFullError: ")
    monkeypatch.setattr(machine, "free_space", lambda path: 3 * 3600 + 2 * 2000)
    with pytest.raises(DiskFullError, match="plus `min_free` 1 B"):
        go(replace(files, min_free=1))
    assert set(go(files)[0].values()) == {"done"}


def test_a_disk_that_fills_up_stops_the_run(folder):
    def fill(pair, part):
        if pair.name == "b.tif":
            raise OSError(28, "No space left on device")

    files = settings(folder, manifest=str(folder / "run.json"))
    with pytest.raises(DiskFullError):
        go(files, Copy(fill))
    assert sorted(content(folder / "out")) == ["a.tif"]
    told = json.loads(Path(files.manifest).read_text())
    assert [f["status"] for f in told["files"]] == ["done", "failed"] + ["pending"] * 3
    assert set(go(files)[0].values()) == {"done", "skipped"}


@pytest.mark.parametrize("error", [ZeroDivisionError, RecursionError, struct.error, MemoryError])
@pytest.mark.parametrize("where", ["plan", "write", "hash", "look"])
def test_a_bug_in_one_file_does_not_stop_the_others(folder, monkeypatch, error, where):
    """Whatever is raised, wherever: one line for its file, and a traceback for who reports it."""

    def fail(path, *_):
        if Path(path).name.startswith(("b.", ".b.")):
            raise error("1\n2")

    work = Copy(lambda pair, part: where == "write" and fail(pair.source))
    if where == "plan":
        plan = work.plan
        work.plan = lambda image, pair: fail(pair.source) or plan(image, pair)
    elif where == "hash":
        hash_outputs = run._hash_outputs
        monkeypatch.setattr(
            run, "_hash_outputs", lambda item: fail(item.pair.source) or hash_outputs(item)
        )
    elif where == "look":
        monkeypatch.setattr(run.plan, "look", lambda path: fail(path) or image.look(path))
    files = settings(folder, manifest=str(folder / "run.json"))
    statuses, _, _ = go(files, work)
    assert statuses == dict.fromkeys(ALL, "done") | {"b.tif": "failed"}
    told = next(f for f in json.loads(Path(files.manifest).read_text())["files"] if f["message"])
    assert told["message"].startswith(f"{folder / 'in/b.tif'}: ")
    assert "\n" not in told["message"]
    if error is MemoryError:
        assert "memory" in told["message"]
    else:
        assert "a bug, please report it" in told["message"]
        assert told["traceback"].startswith("Traceback")
        assert told["traceback"].count(f"{error.__name__}: 1") == 1


def test_two_inputs_of_one_output_fail_and_the_others_are_done(folder):
    for name in ("d.jpg", "d.jpeg"):
        Pillow.new("L", (40, 50)).save(folder / "in" / name)
    outcomes = [go(settings(folder, dry_run=True))[2].outcomes, go(settings(folder))[2].outcomes]
    for found in outcomes:
        failed = {Path(o.source).name: o.message for o in found if o.status == "failed"}
        assert failed.keys() == {"d.png", "d.jpg", "d.jpeg"}
        for name, message in failed.items():
            assert message.startswith(f"{folder / 'in' / name}: ")
            assert "would be written to d.png too" in message
    assert {o.status for o in outcomes[1]} == {"done", "failed"}
    assert len(content(folder / "out")) == 4
    in_shards = [go(settings(folder, shard=(index, 3), overwrite=True))[0] for index in (1, 2, 3)]
    assert sum(len(statuses) for statuses in in_shards) == 7


def test_an_input_that_is_named_twice_is_done_once(folder):
    (folder / "link").symlink_to(folder / "in")
    again = (str(folder / "in"), str(folder / "in/a.tif"), str(folder / "link"))
    statuses, work, _ = go(settings(folder, inputs=again))
    assert statuses == dict.fromkeys(ALL, "done")
    assert len(work.written) == 5


def test_files_that_are_no_images_are_named(folder):
    for name in ("a.xyz", "deep/b.XYZ", "c.txt", "README", ".hidden", "d.part"):
        (folder / "in" / name).write_text("notes")
    for dry_run in (True, False):
        _, _, report = go(settings(folder, dry_run=dry_run))
        assert report.notes == ["4 files of kinds that are not read: .xyz, no suffix, .txt"]
    assert go(settings(folder, pattern="*.tif"))[2].notes == []
    shutil.rmtree(folder / "in")
    (folder / "in").mkdir()
    (folder / "in/a.xyz").write_text("notes")
    with pytest.raises(NoInputError, match=r"no images in: .*; 1 file of kinds .*: \.xyz"):
        go(settings(folder))


def test_the_plan_says_what_the_run_says(folder):
    """Dtypes and shapes that cannot be written; folders that are files; no images."""
    source = folder / "in"
    shutil.copy(source / "a.tif", source / "a.xyz")
    shutil.copy(source / "a.tif", source / "b.png")  # a stack
    tifffile.imwrite(source / "f.png", np.zeros((9, 9), np.float32))
    (source / "n.tif").write_text("no image")
    (source / "young.png").write_bytes(b"\x89PNG")
    (source / "other").mkdir()
    shutil.copy(source / "a.tif", source / "other")
    (folder / "out").mkdir()
    (folder / "out/other").write_text("no folder")
    files = settings(folder, pattern="*")
    planned, found = ({o.source: o for o in go(f)[2].outcomes}
                      for f in (replace(files, dry_run=True), files))  # fmt: skip
    assert planned.keys() == found.keys()
    for source, outcome in found.items():
        if outcome.status == "done":
            assert planned[source].status == "planned"
        else:
            assert planned[source].status == outcome.status
            assert planned[source].message == outcome.message
    told = {Path(o.source).name: o.message for o in found.values() if o.status != "done"}
    assert "PNG holds one grey or RGB plane" in told["b.png"]
    assert "PNG cannot hold float32" in told["f.png"]
    assert "is a file, but a folder is needed" in told["a.tif"]
    assert "`defer_for` 0" in told["young.png"]
    assert len(told) == 5


def test_a_closed_folder_fails_its_own_files(folder, monkeypatch):
    (folder / "out/deep").mkdir(parents=True)
    is_open = os.access
    monkeypatch.setattr(os, "access", lambda p, m: "deep" not in str(p) and is_open(p, m))
    statuses, _, report = go(settings(folder))
    assert statuses == dict.fromkeys(ALL, "done") | {"c.tif": "failed"}
    (failed,) = (outcome for outcome in report.outcomes if outcome.status == "failed")
    assert "deep: cannot be written to" in failed.message
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="out: cannot be written to"):
        go(settings(folder, overwrite=True), strength=2.0)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interruption_leaves_a_manifest_and_nothing_half_way(folder, stop):
    def interrupt(pair, part):
        if pair.name == "b.tif":
            part_path(folder / "out/lost.tif").touch()  # made, but not guarded yet
            raise stop

    files = settings(folder, manifest=str(folder / "run.json"))
    report = Silent()
    work = Copy(interrupt, origin=Origin("copy", {}, {}))
    with pytest.raises(stop):
        run.run(files, work, inputs.resolve(files, inputs.same_name), report)
    (said,) = report.notes
    assert said.startswith("1 of 5 files are done and stay, 4 are not: run the same command again")
    told = json.loads(Path(files.manifest).read_text())
    assert [f["status"] for f in told["files"]] == ["done"] + ["pending"] * 4
    assert told["stopped"].startswith(stop.__name__)
    done = told["files"][0]
    out = folder / "out"
    assert sorted(p.name for p in out.iterdir()) == [lock.NAME, "a.tif"]
    assert done["outputs"] == {str(out / "a.tif"): sha256((out / "a.tif").read_bytes()).hexdigest()}


def test_several_files_at_a_time_end_as_one_by_one(folder):
    both = threading.Barrier(2)

    def meet(pair, part):
        if pair.name in ("a.tif", "b.tif"):
            both.wait(60)  # broken, and so an error, unless the other is there at the same time

    (folder / "in/d.png").write_bytes(b"no image at all")
    statuses, _, report = go(settings(folder), Copy(meet, at_once=2))
    assert statuses == dict.fromkeys(ALL, "done") | {"d.png": "failed"}
    together = content(folder / "out")
    shutil.rmtree(folder / "out")
    _, _, alone = go(settings(folder))
    assert content(folder / "out") == together
    assert [o.source for o in report.outcomes] == [o.source for o in alone.outcomes]


@pytest.mark.parametrize(("limit", "most"), [(25 * 10**5, 2), (19 * 10**5, 1), (None, 3)])
def test_memory_limits_how_many_files_are_worked_on(folder, monkeypatch, limit, most):
    monkeypatch.setattr(machine, "process_memory", lambda: 0)
    inside, seen, lock = [], [], threading.Lock()

    def count(pair, part):
        with lock:
            inside.append(pair.name)
            seen.append(len(inside))
        time.sleep(0.05)
        inside.remove(pair.name)

    statuses, _, _ = go(settings(folder, max_memory=limit), Copy(count, memory=10**6, at_once=3))
    assert statuses == dict.fromkeys(ALL, "done")
    assert max(seen) <= most


def test_what_needs_more_than_the_memory_allowed_fails(folder, monkeypatch):
    monkeypatch.setattr(machine, "process_memory", lambda: 400)
    statuses, _, report = go(settings(folder, max_memory=1300))
    assert set(statuses.values()) == {"failed"}
    assert "takes about 1.0 kB of memory, but 900 B are available" in report.outcomes[0].message


def test_an_interruption_ends_all_files_that_are_worked_on(folder):
    entered = threading.Event()

    def interrupt(pair, part):
        if pair.name == "a.tif":
            entered.wait(60)
            raise KeyboardInterrupt
        entered.set()
        account = ACCOUNT.get()
        for _ in range(6000):
            account.add(1, 1, 1)  # a network call
            time.sleep(0.01)

    files = settings(folder, manifest=str(folder / "run.json"))
    with pytest.raises(KeyboardInterrupt):
        go(files, Copy(interrupt, at_once=2))
    told = json.loads(Path(files.manifest).read_text())
    assert {f["status"] for f in told["files"]} == {"pending"}
    assert [p.name for p in (folder / "out").rglob("*") if p.is_file()] == [lock.NAME]


def test_a_run_stops_after_so_many_failures(folder):
    for name in ("a.tif", "b.tif", "d.png"):
        (folder / "in" / name).write_text("no image at all")
    statuses, _, report = go(settings(folder, max_failures=2))
    assert statuses == {
        **dict.fromkeys(("a.tif", "b.tif", "d.png"), "failed"),  # the plan knew of the third
        **dict.fromkeys(("c.tif", "e.png"), "pending"),
    }
    assert report.notes == ["stopped after 2 failures: 3 files are left"]
    statuses, _, _ = go(settings(folder))
    assert list(statuses.values()).count("done") == 2


def test_the_plan_is_complete_before_the_work_and_opens_each_header_once(folder):
    work, planned = Copy(), []
    work.during = lambda pair, part: planned.append(len(work.opened))
    go(settings(folder), work)
    assert planned == [5] * 5
    assert len(work.opened) == 5


def test_a_dry_run_touches_nothing(folder):
    go(settings(folder, pattern="a.tif"))
    before = sorted(folder.rglob("*"))
    statuses, _, report = go(
        settings(folder, dry_run=True, probe=True, manifest=str(folder / "no.json"))
    )
    assert statuses == dict.fromkeys(ALL, "planned") | {"a.tif": "skipped"}
    assert sorted(folder.rglob("*")) == before
    details = next(o for o in report.outcomes if o.source.endswith("b.tif")).details
    assert {k: details[k] for k in ("shape", "axes", "dtype", "windows", "bytes")} == {
        "shape": [3, 20, 30], "axes": "ZYX", "dtype": "uint16", "windows": 1, "bytes": 3600,
    }  # fmt: skip
    assert details["seconds"] >= 0


def test_a_manifest_has_the_hashes_of_what_was_skipped(folder):
    files = settings(folder, manifest=str(folder / "run.json"))
    told = []
    for _ in range(2):
        go(files)
        told.append([f["outputs"] for f in json.loads(Path(files.manifest).read_text())["files"]])
    assert told[0] == told[1]
    assert all(len(outputs) == 1 for outputs in told[0])


def test_a_second_run_is_refused_and_leaves_the_manifest_alone(folder):
    (folder / "out").mkdir()
    (folder / "run.json").write_text("of the first run")
    files = settings(folder, manifest=str(folder / "run.json"))
    with lock.holding(folder / "out", (1, 1), "the first"):
        with pytest.raises(BusyError, match="'the first'"):
            go(files)
        assert (folder / "run.json").read_text() == "of the first run"
        one = Files((str(folder / "in/a.tif"),), str(folder / "out/one.tif"))
        assert go(one)[0] == {"a.tif": "done"}  # a single file is only ever replaced


def test_several_targets_are_one_piece_of_work(folder):
    def naming(relative):
        return (relative, relative.with_name(f"{relative.stem}_copy{relative.suffix}"))

    go(settings(folder), naming=naming)
    (folder / "out/a_copy.tif").unlink()
    statuses, _, report = go(settings(folder), naming=naming)
    assert statuses == dict.fromkeys(ALL, "skipped") | {"a.tif": "done"}
    assert len(report.outcomes[0].outputs) == 2
    for path in (folder / "out").rglob("[!.]*.*"):
        assert read_provenance(path) is not None


def test_manifests_that_cannot_be_meant(folder):
    with pytest.raises(UsageError, match="does not exist"):
        go(settings(folder, manifest=str(folder / "no/run.json")))
    with pytest.raises(UsageError, match="is an image of this run"):
        go(settings(folder, manifest=str(folder / "in/a.tif")))


def test_folders_that_cannot_be_read_are_told(folder):
    if os.geteuid() == 0:
        pytest.skip("root reads every folder")
    (folder / "in/deep").chmod(0)
    statuses, _, report = go(settings(folder))
    (folder / "in/deep").chmod(0o755)
    assert statuses["deep"] == "failed"
    assert "cannot be read" in report.outcomes[0].message


def test_shards_share_the_files_among_them(folder):
    seen = []
    for index in (1, 2, 3):
        statuses, _, _ = go(settings(folder, shard=(index, 3)))
        seen += statuses
        assert set(statuses.values()) <= {"done"}
    assert sorted(seen) == sorted(ALL)
    assert set(go(settings(folder))[0].values()) == {"skipped"}


def test_names_in_a_list_need_not_be_utf8(folder):
    name = os.fsdecode(b"caf\xe9.tif")
    shutil.copy(folder / "in/a.tif", folder / name)
    (folder / "list").write_bytes(os.fsencode(str(folder / name)) + b"\n")
    files = Files((), str(folder / "out"), files_from=str(folder / "list"))
    assert go(files)[0] == {name: "done"}


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\0"])
def test_lists_written_on_other_systems(folder, codec, end):
    listed = end.join([str(folder / "in/a.tif"), "", str(folder / "in/b.tif"), ""])
    data = listed.encode(codec)
    (folder / "list").write_bytes(b"\xfe\xff" + data if codec == "utf-16-be" else data)
    found = inputs.named(Files((), str(folder / "out"), files_from=str(folder / "list")))
    assert found == [folder / "in/a.tif", folder / "in/b.tif"]


def test_a_list_of_damaged_utf_16(folder):
    (folder / "list").write_bytes("a.tif".encode("utf-16")[:-1])
    with pytest.raises(
        UsageError, match=r"`files_from` .*list: is damaged UTF-16: save it as UTF-8"
    ):
        inputs.named(Files((), str(folder / "out"), files_from=str(folder / "list")))


@pytest.mark.parametrize(
    ("name", "same", "tiff"),
    [
        ("a/b.tif", "a/b.tif", "a/b.tif"),
        ("a/b.ome.tiff", "a/b.ome.tiff", "a/b.ome.tiff"),
        ("b.JPG", "b.png", "b.tif"),
        ("b.png", "b.png", "b.tif"),
        ("b.lsm", "b.tif", "b.tif"),
        ("b.tf2", "b.tif", "b.tif"),
        ("b", "b.tif", "b.tif"),
        ("scan.2024-01", "scan.2024-01.tif", "scan.2024-01.tif"),
    ],
)
def test_names_of_results(name, same, tiff):
    assert inputs.same_name(Path(name)) == (Path(same),)
    assert inputs.as_tiff(Path(name)) == (Path(tiff),)
