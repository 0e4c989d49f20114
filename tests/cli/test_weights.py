"""`restorectl weights` as a process, and weights of every origin in `restore`."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from restorectl.io import locate, registry, weights
from tests.hub_server import COMMIT, REPO, serving

IMAGE = sorted((Path(__file__).parent.parent / "data" / "noisy").glob("*.png"))
PRIOR = registry.PACKAGE / "pretrained" / "prior.safetensors"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("hub") / "home") as hub:
        yield hub


@pytest.fixture(scope="module")
def exported(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "prior"
    done = hub.run("weights", "export", "prior", "--hub", folder)
    assert done.returncode == 0, done.stderr
    names = ["prior.safetensors", "README.md", "weights.yaml"]
    assert done.stdout.split() == [str(folder / name) for name in names]
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)
    return folder


def test_list_is_a_table_or_json(hub):
    lines = hub.run("weights", "list").stdout.splitlines()
    assert lines[0].split() == ["name", "task", "size", "licence", "where"]
    assert lines[1].split() == ["prior", "prior", "18.1", "MB", "MIT", "embedded"]
    rows = [json.loads(line) for line in hub.run("weights", "list", "--json").stdout.splitlines()]
    assert [row["name"] for row in rows] == list(registry.entries())
    assert rows[0]["sha256"] == locate.file_sha256(PRIOR)


def test_path_is_for_scripts(hub):
    done = hub.run("weights", "path", "prior")
    assert done.stdout == f"{PRIOR}\n"
    assert done.stderr == ""


def test_verify_and_pull_of_what_is_embedded_need_nothing(hub):
    hub.requests.clear()
    for command in (["verify"], ["pull", "prior", "--offline"]):
        done = hub.run("weights", *command)
        assert done.returncode == 0, done.stderr
        assert f"prior  intact  {PRIOR}" in done.stdout
    assert hub.requests == []


def test_a_mismatch_is_5_and_the_others_are_still_looked_at(hub, tmp_path):
    block = yaml.safe_load(registry.packaged().read_text("utf-8"))["prior"]
    wrong = block | {"sha256": "f" * 64}
    gone = block | {"source": {"file": "gone.safetensors"}}
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"wrong": wrong, "gone": gone}), "utf-8")
    done = hub.run("weights", "verify", "--registry", own, "--json")
    assert done.returncode == 5
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["status"] for row in found] == ["intact", "mismatch", "missing"]
    assert "f" * 64 in done.stderr
    assert block["sha256"] in done.stderr
    assert done.stderr.count("\n") == 2
    done = hub.run("weights", "pull", "--all", "--registry", own)
    assert done.returncode == 5
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["intact", "failed", "failed"]


def test_usage_errors(hub, tmp_path):
    assert hub.run("weights", "pull").returncode == 2
    assert hub.run("weights", "pull", "prior", "--all").returncode == 2
    assert hub.run("weights", "verify", "prio").returncode == 5
    (tmp_path / "file").touch()
    done = hub.run("weights", "export", "prior", "--hub", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = hub.run("weights", "export", "prior", "--hub", tmp_path / "file")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert hub.run("weights", "export", PRIOR, "--hub", tmp_path / "new").returncode == 5


def test_the_model_card_is_one_for_the_hub(exported):
    text = (exported / "README.md").read_text("utf-8")
    hub = pytest.importorskip("huggingface_hub")
    front = hub.ModelCard(text).data.to_dict()
    assert front["license"] == "mit"
    assert front["library_name"] == "restorectl"
    assert front["pipeline_tag"] == "image-to-image"
    entry = registry.entries()["prior"]
    for item in entry.training["data"]:
        assert f"- {item['name']} ({item['licence']}): {item['attribution']}\n" in text
    for name, value in entry.scores.items():
        assert f"| {name} | {value} |" in text
    assert entry.sha256 in text
    assert "{" not in text


def test_the_registry_block_of_an_export_works_where_it_lies(exported):
    block = registry.read(exported / "weights.yaml")["prior"]
    assert block.source.file == str(exported / "prior.safetensors")
    assert block.sha256 == locate.file_sha256(exported / "prior.safetensors")
    assert block.training == registry.entries()["prior"].training


def test_an_uploaded_export_is_the_same_model_by_address_and_by_registry(hub, exported, tmp_path):
    hub.files |= {p.name: p.read_bytes() for p in exported.iterdir()}
    address = f"hf://{REPO}@{COMMIT}/prior.safetensors"
    block = yaml.safe_load((exported / "weights.yaml").read_text("utf-8"))["prior"]
    source = {"hub": REPO, "revision": COMMIT, "file": "prior.safetensors"}
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"lab": block | {"source": source}}), "utf-8")
    image, results = IMAGE[0], []
    for name, more in ((address, []), ("lab", ["--registry", own, "--offline"]), ("prior", [])):
        out = tmp_path / f"{len(results)}"
        done = hub.run("restore", image, "-o", out, "-w", name, *more)
        assert done.returncode == 0, done.stderr
        results.append((out / image.name).read_bytes())
    assert results[0] == results[1] == results[2]
    got = Path(hub.run("weights", "path", address).stdout.strip())
    assert weights.read(got)[0] == weights.read(PRIOR)[0]


def test_restore_and_train_take_the_options(hub, tmp_path):
    image = IMAGE[0]
    missing = f"hf://{REPO}@{COMMIT}/other.safetensors"
    done = hub.run("restore", image, "-o", tmp_path / "out", "-w", missing, "--offline")
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    assert not (tmp_path / "out" / image.name).exists()
    shutil.copy(image, tmp_path / "image.png")
    arguments = ["finetune", "--data", tmp_path, "-o", tmp_path / "x.safetensors"]
    done = hub.run("train", *arguments, "--init", missing, "--offline")
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)
    assert "offline" in done.stderr
    own = tmp_path / "list.yaml"
    own.write_text("- no mapping\n", "utf-8")
    done = hub.run("restore", image, "-o", tmp_path / "out", "--registry", own)
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)


def test_the_hub_library_is_not_imported_without_need():
    import subprocess
    import sys

    code = (
        "import sys; from restorectl.io import weights; weights.load('prior');"
        "print([m for m in ('huggingface_hub', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
