"""`restorectl weights` as a process, and weights of every origin in `restore`."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import pytest
import yaml
from safetensors.torch import save_file

from restorectl.cli.app import main
from restorectl.engine.card import KEY
from restorectl.files.provenance import file_sha256
from restorectl.jobs import WeightsOptions
from restorectl.weights import file, registry
from restorectl.weights.export import export
from tests.hub_server import COMMIT, REPO, serving

pytestmark = pytest.mark.slow

IMAGES = sorted((Path(__file__).parent.parent / "data" / "noisy").glob("*.png"))
PRIOR = registry.PACKAGE / "pretrained" / "prior.safetensors"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("hub") / "home") as hub:
        yield hub


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "prior"
    written = export("prior", folder, WeightsOptions())
    names = ["prior.safetensors", "README.md", "weights.yaml"]
    assert written == [folder / name for name in names]
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)
    return folder


@pytest.fixture
def run(monkeypatch, capfd):
    """The command in this process; returns its exit code, stdout and stderr."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.delenv("RESTORECTL_WEIGHTS", raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["restorectl", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code or 0, *capfd.readouterr()

    return run


def test_list_is_a_table_or_json(run):
    lines = run("weights", "list")[1].splitlines()
    assert lines[0].split() == ["name", "task", "size", "licence", "where"]
    assert lines[1].split() == ["prior", "prior", "18.1", "MB", "MIT", "embedded"]
    rows = [json.loads(line) for line in run("weights", "list", "--json")[1].splitlines()]
    assert [row["name"] for row in rows] == list(registry.models())
    assert rows[0]["sha256"] == file_sha256(PRIOR)


def test_path_is_for_scripts(run):
    assert run("weights", "path", "prior") == (0, f"{PRIOR}\n", "")


def test_verify_and_pull_of_what_is_embedded_need_nothing(run):
    for command in (["verify"], ["pull", "prior", "--offline"]):
        code, out, err = run("weights", *command)
        assert (code, err) == (0, "")
        assert f"prior  intact  {PRIOR}\n" in out


def test_a_mismatch_is_5_and_the_others_are_still_looked_at(run, tmp_path):
    block = yaml.safe_load(registry.PACKAGED.read_text("utf-8"))["prior"]
    wrong = block | {"sha256": "f" * 64}
    gone = block | {"source": {"file": "gone.safetensors"}}
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"wrong": wrong, "gone": gone}, sort_keys=False), "utf-8")
    code, out, err = run("weights", "verify", "prior", "wrong", "gone", "--registry", own, "--json")
    assert code == 5
    statuses = [json.loads(line)["status"] for line in out.splitlines()]
    assert statuses == ["intact", "mismatch", "missing"]
    assert "f" * 64 in err
    assert block["sha256"] in err
    assert err.count("\n") == 2
    code, out, _ = run("weights", "pull", "--all", "--registry", own)
    assert code == 5
    assert [line.split()[1] for line in out.splitlines()[-2:]] == ["failed", "failed"]


def test_export_prints_what_it_wrote(run, tmp_path):
    code, out, err = run("weights", "export", "prior", "--hub", tmp_path / "new")
    assert (code, err) == (0, "")
    assert set(out.split()) == {str(p) for p in (tmp_path / "new").iterdir()}


def test_usage_errors(run, tmp_path):
    (tmp_path / "file").touch()
    cases = {
        ("pull",): 2,
        ("pull", "prior", "--all"): 2,
        ("verify", "prio"): 5,
        ("export", "prior", "--hub", tmp_path): 2,
        ("export", "prior", "--hub", tmp_path / "file"): 3,
        ("export", tmp_path / "file", "--hub", tmp_path / "new"): 5,
    }
    for arguments, expected in cases.items():
        code, out, err = run("weights", *arguments)
        assert (code, out, err.count("\n")) == (expected, "", 1), arguments


def test_own_weights_need_no_registry_block(run, tmp_path):
    card, tensors = file.read(PRIOR)
    notes = {"data": {"images": 12}, "steps": 30}
    card = replace(card, name="my own", licence="CC0-1.0", training=notes)
    own = tmp_path / "my own.safetensors"
    save_file(tensors, own, {KEY: card.to_json()})
    code, _, err = run("weights", "export", own, "--hub", tmp_path / "new")
    assert (code, err) == (0, "")
    text = (tmp_path / "new/README.md").read_text("utf-8")
    assert "Trained on own images: 12 images, 30 steps." in text
    assert "CC0-1.0.\n" in text
    block = tmp_path / "new/weights.yaml"
    model = registry.read_registry(block)["my-own"]
    assert model.entry.sha256 == file_sha256(own)
    assert run("weights", "verify", "my-own", "--registry", block)[0] == 0


def test_the_model_card_is_one_for_the_hub(exported):
    text = (exported / "README.md").read_text("utf-8")
    hub = pytest.importorskip("huggingface_hub")
    front = hub.ModelCard(text).data.to_dict()
    assert front["license"] == "mit"
    assert front["library_name"] == "restorectl"
    assert front["pipeline_tag"] == "image-to-image"
    entry = registry.models()["prior"].entry
    for item in entry.training.data:
        assert f"- {item.name} ({item.licence}): {item.attribution}\n" in text
    for name, value in entry.scores.items():
        assert f"| {name} | {value} |" in text
    assert entry.sha256 in text
    assert "{" not in text


def test_the_registry_block_of_an_export_works_where_it_lies(exported):
    model = registry.read_registry(exported / "weights.yaml")["prior"]
    assert model.place == exported / "prior.safetensors"
    assert model.entry.sha256 == file_sha256(exported / "prior.safetensors")
    assert model.entry.training == registry.models()["prior"].entry.training


def test_an_uploaded_export_is_the_same_model_by_address_and_by_registry(
    hub, exported, run, tmp_path
):
    hub.files |= {p.name: p.read_bytes() for p in exported.iterdir()}
    address = f"hf://{REPO}@{COMMIT}/prior.safetensors"
    block = yaml.safe_load((exported / "weights.yaml").read_text("utf-8"))["prior"]
    source = {"hub": REPO, "revision": COMMIT, "file": "prior.safetensors"}
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"lab": block | {"source": source}}), "utf-8")
    image = tmp_path / "image.png"
    iio.imwrite(image, iio.imread(IMAGES[0])[:64, :64])
    done = hub.run("restore", image, "-o", tmp_path / "a", "-w", address)
    assert done.returncode == 0, done.stderr
    assert run("restore", image, "-o", tmp_path / "b")[0] == 0
    results = [iio.imread(tmp_path / out / image.name) for out in "ab"]
    assert (results[0] == results[1]).all()
    got = hub.run("weights", "pull", "lab", "--registry", own, "--offline").stdout.split()
    assert got[1] == "intact"
    assert file.read(Path(got[2]))[0] == file.read(PRIOR)[0]


def test_restore_and_train_take_the_options(run, tmp_path):
    missing = f"hf://{REPO}@{COMMIT}/other.safetensors"
    image = shutil.copy(IMAGES[0], tmp_path / "image.png")
    own = tmp_path / "list.yaml"
    own.write_text("- no mapping\n", "utf-8")
    out = tmp_path / "out"
    training = ["train", "finetune", "--data", tmp_path, "-o", tmp_path / "x.safetensors"]
    for arguments, word in (
        (["restore", image, "-o", out, "-w", missing, "--offline"], "offline"),
        (["restore", image, "-o", out, "--registry", own], "not a mapping"),
        ([*training, "--init", missing, "--offline"], "offline"),
        ([*training, "--init", "prior", "--registry", own], "not a mapping"),
    ):
        code, _, err = run(*arguments)
        assert code == 5
        assert err.count("\n") == 1
        assert word in err
    assert not list(out.glob("*.png"))


@pytest.mark.parametrize(
    ("work", "libraries"),
    [
        ("from restorectl.weights import file; file.load('prior')", ("huggingface_hub", "httpx")),
        ("import restorectl.weights.registry as r; r.listed(None)", ("torch", "numpy")),
    ],
)
def test_libraries_are_not_imported_without_need(work, libraries):
    code = f"import sys; {work}; print([m for m in {libraries} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
