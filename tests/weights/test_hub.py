"""The hub's file protocol against a real server on the loopback interface."""

import hashlib
import inspect
import os
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import yaml

from tests.hub_server import COMMIT, REPO, serving

pytestmark = pytest.mark.slow

CONTENT = bytes(range(256)) * 1200  # 300 kB; a transfer does not look inside
FILE = "sub/model.safetensors"
PINNED = f"hf://{REPO}@{COMMIT}/{FILE}"


@pytest.fixture
def hub(tmp_path):
    with serving(tmp_path / "home") as hub:
        hub.files[FILE] = CONTENT
        yield hub


def registry(path, sha256, **more):
    """A user's registry with one hub entry, `mine`."""
    block = {
        "task": "prior",
        "channels": 1,
        "domain": "test",
        "source": {"hub": REPO, "revision": COMMIT, "file": FILE},
        "sha256": sha256,
        "bytes": len(CONTENT),
        "network": "unet",
        "objective": "prior",
        "licence": "MIT",
    }
    path.write_text(yaml.safe_dump({"mine": block | more}), "utf-8")
    return path


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def one_line(done, *words):
    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith("restorectl: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def pulled(done):
    """The path that a pull of one model printed."""
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def test_first_pull_then_the_cache_then_offline(hub):
    first = hub.run("weights", "pull", PINNED)
    assert " pulled " in first.stdout
    assert Path(pulled(first)).read_bytes() == CONTENT
    assert str(hub.home / "hub") in first.stdout
    assert any(r.startswith("HEAD /lab/models/resolve/") for r in hub.requests)
    assert any(r.startswith("GET /cdn/") for r in hub.requests)
    assert first.stderr == ""
    hub.requests.clear()
    second = hub.run("weights", "pull", PINNED)
    assert " intact " in second.stdout
    assert pulled(hub.run("weights", "pull", "--offline", PINNED)) == pulled(second)
    assert pulled(hub.run("weights", "path", PINNED)) == pulled(second)
    assert hub.requests == []


def test_offline_without_a_copy_says_what_to_do(hub):
    for arguments, environment in ((["--offline"], {}), ([], {"HF_HUB_OFFLINE": "1"})):
        done = hub.run("weights", "pull", PINNED, *arguments, **environment)
        one_line(done, "offline", "restorectl weights pull")
    assert hub.requests == []


def test_a_branch_is_asked_for_online_and_remembered_offline(hub):
    branch = f"hf://{REPO}/{FILE}"
    path = pulled(hub.run("weights", "pull", branch))
    assert COMMIT in path
    hub.requests.clear()
    assert pulled(hub.run("weights", "pull", branch, HF_HUB_OFFLINE="1")) == path
    assert hub.requests == []


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(hub):
    hub.files[FILE] = content = CONTENT * 80  # 24 MB: what was received is kept in parts of 10 MB
    hub.cut = [15_000_000]
    done = hub.run("weights", "pull", PINNED)
    if done.returncode:  # huggingface_hub before 1.0 leaves it to the next pull
        done = hub.run("weights", "pull", PINNED)
    assert Path(pulled(done)).read_bytes() == content
    assert f"GET /cdn/{FILE} bytes=10485760-" in hub.requests


def test_a_server_that_goes_half_way_leaves_no_model_and_the_next_pull_mends_it(hub):
    hub.cut, hub.gone = [100_000], True
    one_line(hub.run("weights", "pull", PINNED), PINNED, "try again")
    one_line(hub.run("weights", "path", PINNED), "not here")
    hub.gone = False
    assert Path(pulled(hub.run("weights", "pull", PINNED))).read_bytes() == CONTENT


def test_a_refusal_is_one_line_that_says_which_and_the_others_still_come(hub):
    cases = {
        "repo": ((404, "RepoNotFound"), "no such repository"),
        "commit": ((404, "RevisionNotFound"), "no revision"),
        "absent": ((404, "EntryNotFound"), "no file"),
        "token": ((401, ""), "HF_TOKEN"),
        "gated": ((401, "GatedRepo"), "ask for access"),
        "member": ((403, "GatedRepo"), "ask for access"),
        "banned": ((403, ""), "refuses access (403)"),
    }
    hub.refuse = {f"{name}.safetensors": answer for name, (answer, _) in cases.items()}
    addresses = [PINNED.replace("model.", f"{name}.") for name in cases]
    done = hub.run("weights", "pull", *addresses, PINNED)
    assert done.returncode == 5
    lines = done.stderr.splitlines()
    assert len(lines) == len(cases), done.stderr
    for line, address, (_, word) in zip(lines, addresses, cases.values(), strict=True):
        assert line.startswith(f"restorectl: {address}: ")
        assert word in line
    assert done.stdout.splitlines()[-1].split()[1] == "pulled"


def test_a_wrong_hash_says_both_deletes_nothing_and_can_be_mended(hub, tmp_path):
    own = registry(tmp_path / "own.yaml", sha256(CONTENT))
    hub.files[FILE] = CONTENT[::-1]
    done = hub.run("weights", "pull", "mine", "--registry", own)
    one_line(done, sha256(CONTENT), sha256(CONTENT[::-1]), "nothing was deleted")
    there = hub.run("weights", "path", "mine", "--registry", own).stdout.strip()
    assert Path(there).read_bytes() == CONTENT[::-1]
    one_line(hub.run("weights", "verify", "mine", "--registry", own), sha256(CONTENT))
    hub.files[FILE] = CONTENT
    os.unlink(os.path.realpath(there))  # as the message says
    assert Path(pulled(hub.run("weights", "pull", "mine", "--registry", own))).read_bytes()
    assert hub.run("weights", "verify", "--registry", own).returncode == 0


def test_a_registry_entry_is_remote_then_cached(hub, tmp_path):
    own = registry(tmp_path / "own.yaml", sha256(CONTENT))
    listed = hub.run("weights", "list", RESTORECTL_WEIGHTS=str(own))
    assert listed.stdout.splitlines()[-1].split()[-1] == "remote"
    done = hub.run("weights", "verify", RESTORECTL_WEIGHTS=str(own))
    assert done.returncode == 0
    assert "mine  remote" in done.stdout
    assert hub.requests == []
    done = hub.run("weights", "pull", "--all", RESTORECTL_WEIGHTS=str(own))
    assert done.stdout.splitlines()[-1].split()[1] == "pulled"
    listed = hub.run("weights", "list", "--registry", own)
    assert listed.stdout.splitlines()[-1].split()[-1] == "cached"


def test_a_read_only_cache_is_used_without_network_or_lock(hub):
    path = pulled(hub.run("weights", "pull", PINNED))
    folders = [hub.home, *(p for p in hub.home.rglob("*") if p.is_dir() and not p.is_symlink())]
    before = sorted(hub.home.rglob("*"))
    hub.requests.clear()
    try:
        for folder in folders:
            folder.chmod(0o555)
        assert pulled(hub.run("weights", "pull", PINNED)) == path
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert hub.requests == []
    assert sorted(hub.home.rglob("*")) == before


def test_a_cache_that_cannot_be_written_is_one_line(hub):
    hub.home.write_text("a file where the folder should be")
    one_line(hub.run("weights", "pull", PINNED), "cache cannot be written")


def test_two_processes_pull_at_once(hub):
    hub.delay = 0.5
    both = [hub.start("weights", "pull", PINNED) for _ in range(2)]
    outs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    path = outs[0][0].split()[-1]
    assert Path(path).read_bytes() == CONTENT
    assert hub.requests.count(f"GET /cdn/{FILE}") == 1


def test_a_pull_on_a_terminal_shows_a_bar(hub):
    pty = pytest.importorskip("pty")
    if "tqdm_class" not in inspect.signature(huggingface_hub.hf_hub_download).parameters:
        pytest.skip("this huggingface_hub cannot report its progress")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "restorectl", "weights", "pull", PINNED],
        stdout=subprocess.DEVNULL,
        stderr=follower,
        env=hub.environment(TERM="xterm", COLUMNS="100"),
    )
    os.close(follower)
    seen, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    os.close(leader)
    assert process.wait(60) == 0
    assert b"300.0" in seen or b"307.2" in seen, seen
