"""weights.yaml: schema, merging, addresses; hostile files end in one line each."""

import json
import re
import struct
from dataclasses import MISSING, fields

import pytest
import torch
import yaml
from safetensors.torch import save_file

from restorectl.engine.card import Card
from restorectl.engine.denoiser import build
from restorectl.errors import WeightsError
from restorectl.files.provenance import file_sha256
from restorectl.jobs import WeightsOptions
from restorectl.weights import file as weights_file
from restorectl.weights import hub, registry
from restorectl.weights.hub import HubFile, check_inside
from restorectl.weights.registry import RegistryEntry, find

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"channels": [8], "blocks": 1, "embedding": 8, "patch": 1}
BLOCK = {
    "task": "prior",
    "channels": 1,
    "domain": "test",
    "source": {"hub": "lab/models", "revision": COMMIT, "file": "a/b.safetensors"},
    "sha256": "0" * 64,
    "bytes": 5,
    "network": "unet",
    "objective": "prior",
    "licence": "MIT",
}
BEYOND = ["../x.safetensors", "a/../../x.safetensors", "/x.safetensors", "a\\..\\x.safetensors"]
BEYOND += ["a/./x.safetensors", "a//x.safetensors", "C:x.safetensors", "x\n.safetensors", ""]


def message(call, *arguments):
    """The one line of the WeightsError that the call raises."""
    with pytest.raises(WeightsError) as caught:
        call(*arguments)
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(folder, text, name="own.yaml"):
    path = folder / name
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text), "utf-8")
    return path


def model(path, **changes):
    """A small file with a card, as training writes it."""
    card = Card(name="mine", task="prior", network="unet", config=CONFIG, **changes)
    tensors = build(card).net.state_dict()
    save_file(tensors, path, {"restorectl": card.to_json()})
    return path


def test_every_packaged_block_is_complete_and_says_what_its_file_says():
    known = registry.models()
    assert "prior" in known
    raw = yaml.safe_load(registry.PACKAGED.read_text("utf-8"))
    optional = {
        f.name for f in fields(RegistryEntry) if MISSING not in (f.default, f.default_factory)
    }
    optional |= {f.name for f in fields(RegistryEntry) if f.default_factory is not MISSING}
    for name, model in known.items():
        entry = model.entry
        assert optional - raw[name].keys() <= {"measured_with"}, name
        found = weights_file.load(name)  # the file exists, and its hash and card are right
        assert found.path.stat().st_size == entry.bytes
        assert found.card.licence == entry.licence
        assert found.card.name == name
        assert model.embedded, "a hub entry needs a repository that exists"
        assert entry.training.data
        assert entry.citation


def test_every_packaged_file_has_a_block():
    files = {p.name for p in (registry.PACKAGE / "pretrained").glob("*.safetensors")}
    assert files == {
        model.entry.source["embedded"]
        for model in registry.read_registry(registry.PACKAGED).values()
    }


def test_sources_with_an_attribution_duty_are_in_the_notice():
    notice = " ".join((registry.PACKAGED.parent / "NOTICE").read_text("utf-8").split())
    for model in registry.models().values():
        for item in model.entry.training.data:
            if item.licence.startswith("CC-BY"):
                author = re.split(r"[,.] ?", item.attribution)[0].split(" et al")[0]
                assert author in notice, item


def test_own_registries_go_over_the_package(tmp_path, monkeypatch):
    first = written(tmp_path, {"prior": BLOCK, "a": BLOCK}, "one.yaml")
    second = written(tmp_path, {"a": BLOCK | {"domain": "other"}}, "two.yaml")
    monkeypatch.setenv("RESTORECTL_WEIGHTS", str(first))
    assert registry.models()["prior"].place.repo == "lab/models"
    merged = registry.models(WeightsOptions(str(second)))
    assert (merged["prior"].entry.domain, merged["a"].entry.domain) == ("test", "other")
    monkeypatch.delenv("RESTORECTL_WEIGHTS")
    assert registry.models(WeightsOptions(str(second)))["prior"].embedded


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"sha256": 7}, "wrong type"),
        ({"bytes": True}, "wrong type"),
        ({"bytes": 0}, "at least 1"),
        ({"scores": {"psnr": "high"}}, "not a number"),
        ({"training": {"data": "images"}}, "list"),
        ({"training": {"data": [{"name": "x", "licence": "MIT"}]}}, "attribution"),
        ({"training": {"note": 3}}, "text"),
        ({"source": "prior.safetensors"}, "wrong type"),
        ({"source": {"hub": "lab/models", "file": "x.safetensors"}}, "revision"),
        ({"source": BLOCK["source"] | {"revision": "main"}}, "40 digits"),
        ({"source": BLOCK["source"] | {"revision": COMMIT.upper()}}, "40 digits"),
        ({"source": BLOCK["source"] | {"hub": "../etc"}}, "org/name"),
        ({"source": {"file": "model.pt"}}, "only .safetensors"),
        *(({"source": BLOCK["source"] | {"file": f}}, "") for f in BEYOND),
        *(({"source": {"embedded": f}}, "plain path") for f in BEYOND),
    ],
    ids=str,
)
def test_a_block_that_breaks_the_schema_is_one_line(tmp_path, change, word):
    path = written(tmp_path, {"mine": BLOCK | change})
    text = message(registry.read_registry, path)
    assert word in text
    assert str(path) in text
    assert "mine" in text


@pytest.mark.parametrize(
    "text",
    [
        *("", "- a\n- b\n", "prior\n", "a: [1\n", "mine: 3\n", "1: {}\n", "a/b: {}\n"),
        *("a: {}\na: {}\n", "mine: &a [*a]\n", "? [1]\n: 2\n", "? {a: 1}\n: 2\n"),
        *("a: !!python/object:os.system {}\n", "[" * 2000, "a: 2001-99-99\n", "a: \x00"),
        *("a: {<<: 3}\n", "? !!set {a}\n: 1\n", '"a\\nb": {}\n', 'a: {"b\\nc": 1}\n'),
    ],
    ids=lambda text: repr(text[:30]),
)
def test_a_file_that_is_no_registry_is_one_line(tmp_path, text):
    message(registry.read_registry, written(tmp_path, text))


def test_a_registry_that_cannot_be_read_is_one_line(tmp_path):
    message(registry.read_registry, tmp_path / "absent.yaml")
    message(registry.read_registry, tmp_path)
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    message(registry.read_registry, tmp_path / "x.yaml")


def test_a_missing_key_is_named(tmp_path):
    for key in BLOCK:
        path = written(tmp_path, {"mine": {k: v for k, v in BLOCK.items() if k != key}})
        assert key in message(registry.read_registry, path)


def test_a_file_beside_the_registry_is_found_from_anywhere(tmp_path):
    file = model(tmp_path / "mine.safetensors")
    good = {
        "source": {"file": "mine.safetensors"},
        "sha256": file_sha256(file),
        "bytes": file.stat().st_size,
    }
    options = WeightsOptions(str(written(tmp_path, {"mine": BLOCK | good})))
    found = weights_file.load("mine", options=options)
    assert (found.path, found.card.name) == (file, "mine")
    written(tmp_path, {"mine": BLOCK | good | {"objective": "conditional"}})
    assert "objective" in message(weights_file.load, "mine", None, options)
    written(tmp_path, {"mine": BLOCK | good | {"sha256": "f" * 64}})
    text = message(weights_file.load, "mine", None, options)
    assert "f" * 64 in text
    assert good["sha256"] in text
    file.unlink()
    assert "does not exist" in message(weights_file.load, "mine", None, options)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("hf://org/name/a.safetensors", ("org/name", "main", "a.safetensors")),
        ("hf://models/org/name/a.safetensors", ("org/name", "main", "a.safetensors")),
        ("hf://org/name@v1.0/x/a.safetensors", ("org/name", "v1.0", "x/a.safetensors")),
        ("hf://org/name@refs/pr/3/a.safetensors", ("org/name", "refs/pr/3", "a.safetensors")),
        ("hf://org/name@a%2Fb/a.safetensors", ("org/name", "a/b", "a.safetensors")),
        ("hf://org/name/a@1.safetensors", ("org/name", "main", "a@1.safetensors")),
        (f"hf://org/name@{COMMIT}/a.safetensors", ("org/name", COMMIT, "a.safetensors")),
    ],
)
def test_addresses_are_read_as_the_hub_reads_them(text, place):
    assert hub.parse_address(text) == HubFile(*place)
    utils = pytest.importorskip("huggingface_hub.utils")
    if hasattr(utils, "parse_hf_uri"):
        theirs = utils.parse_hf_uri(text)
        assert (theirs.id, theirs.revision or "main", theirs.path_in_repo) == place


@pytest.mark.parametrize(
    "text",
    ["hf://", "hf://org", "hf://org/name", "hf://org/name@main", "hf://org/name/", "hf:///a/b/c"]
    + ["hf://org/name@/a.safetensors", "hf://org/name/a.bin", "hf://datasets/o/n/a.safetensors"]
    + ["hf://org/../a.safetensors", "hf://../../a.safetensors", "hf://o/n@../a.safetensors"]
    + ["hf://o/n@a%2F..%2F../a.safetensors", "hf://o/n@main:a.safetensors"]
    + [f"hf://org/name/{file}" for file in BEYOND],
    ids=repr,
)
def test_addresses_that_mean_nothing_are_refused(text):
    message(hub.parse_address, text)


def test_the_other_spelling_gets_a_hint():
    wanted = "hf://org/name@v1/a/b.safetensors"
    for text in ("org/name@v1:a/b.safetensors", "hf://org/name@v1:a/b.safetensors"):
        assert f"write {wanted}" in message(find, text)
    assert "hf://" in message(find, "https://example.org/a.safetensors")


def test_unknown_names_list_the_known():
    assert "known names are: prior" in message(weights_file.load, "prio")


def header(text, size=None):
    data = text.encode()
    return struct.pack("<Q", len(data) if size is None else size) + data


CARD = json.dumps({"name": "x", "task": "prior", "network": "unet"})
HOSTILE = {
    "empty": b"",
    "short": b"\x01\x02",
    "huge header": header("{}", 2**62),
    "long header": header("{}", 10**6),
    "bad JSON": header("{nonsense"),
    "no mapping": header("[]"),
    "not UTF-8": struct.pack("<Q", 4) + b"\xff\xfe\xff\xfe",
    "offsets beyond the end": header('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'),
    "shape that is not the data": header(
        '{"a":{"dtype":"F32","shape":[1000000000,9],"data_offsets":[0,4]}}'
    )
    + b"\0" * 4,
    "shape that overflows": header(
        '{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'
    ),
    "negative shape": header('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}') + b"\0" * 4,
    "no card": header("{}"),
    "card that is no JSON": header(json.dumps({"__metadata__": {"restorectl": "{"}})),
    "card that is a list": header(json.dumps({"__metadata__": {"restorectl": "[]"}})),
    "card too deep": header(json.dumps({"__metadata__": {"restorectl": "[" * 100_000}})),
    "card of another network": header(
        json.dumps({"__metadata__": {"restorectl": CARD.replace("unet", "os.system")}})
    ),
    **{
        f"card with {entry}": header(
            json.dumps({"__metadata__": {"restorectl": CARD[:-1] + f", {entry}}}"}})
        )
        for entry in (
            *('"sigma_max": NaN', '"sigma_max": 1e999', '"sigma_max": {}', '"config": "x"'),
            *('"channels": true', '"channels": ' + "9" * 5000, '"task": null', '"a\\nb": 1'),
        )
    },
    "no tensors": header(json.dumps({"__metadata__": {"restorectl": CARD}})),
    "pickle": b"\x80\x04cposix\nsystem\n(S'touch pwned'\ntR.",
}


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: name[:40])
def test_a_hostile_file_is_one_line(tmp_path, name):
    path = tmp_path / "x.safetensors"
    path.write_bytes(HOSTILE[name])

    def use():
        found = weights_file.load(str(path))
        build(found.card, dict(found.tensors))

    message(use)


@pytest.mark.parametrize("kind", ["shape", "nan", "missing", "surplus"])
def test_tensors_that_do_not_fit_are_one_line(tmp_path, kind):
    path = model(tmp_path / "x.safetensors")
    card, tensors = weights_file.read(path)
    name = next(n for n, value in tensors.items() if value.ndim == 4)
    if kind == "shape":
        tensors[name] = torch.zeros(1, 2, 3)
    elif kind == "nan":
        tensors[name] = torch.full_like(tensors[name], torch.nan)
    elif kind == "missing":
        del tensors[name]
    else:
        tensors["extra"] = torch.zeros(1)
    save_file(tensors, path, {"restorectl": card.to_json()})
    found = weights_file.load(str(path))
    message(build, found.card, dict(found.tensors))


def test_check_inside_takes_plain_paths():
    for file in ("a.safetensors", "a/b c/é.safetensors", "..a/b..safetensors"):
        check_inside(file, "here")
